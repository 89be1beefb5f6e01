"""Planes of the explorer: right voxels, few reads; averages that refine; flags and exports."""

import io
import pickle
import threading
from dataclasses import dataclass
from itertools import product
from math import prod

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol.explorer import averages, planes, recent
from lazyvol.explorer.averages import refine
from lazyvol.explorer.background import Latest
from lazyvol.explorer.particles import Particles
from lazyvol.explorer.planes import Planes, shown_on_screen
from lazyvol.explorer.recent import Recent, RememberedSource
from lazyvol.explorer.views import FILTERS, VALUES, Views, on_the_grid
from lazyvol.io.zarr.source import ZarrSource
from lazyvol.plan.budget import limited
from lazyvol.plan.graph.lazy_array import recipe_of, source_array
from lazyvol.plan.recipes.base import leaves
from lazyvol.plan.regions import size, touched

SHAPE = (5, 7, 11, 13)
A = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def stack(chunks=(2, 3, 5, 4)) -> xr.DataArray:
    return lv.as_stack(da.from_array(A, chunks=chunks), voxel_size=2.0, unit="angstrom")


class Counted:
    """An array that counts the elements which are read from it."""

    def __init__(self, values) -> None:
        self.values, self.read = values, 0
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, key):
        part = self.values[key]
        self.read += part.size
        return part


@dataclass
class Ramp:
    """A source of rising numbers, whose chunks are read in ``parts`` or as a whole."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    failures: int = 0
    parts: bool = False
    dtype: np.dtype = np.dtype(np.float32)
    token: str = "ramp"

    def read(self, region, out=None):
        if self.failures:
            self.failures -= 1
            raise OSError("unplugged")
        return np.arange(prod(self.shape), dtype=self.dtype).reshape(self.shape)[region].copy()

    def stored_bytes(self, region):
        return 4 * size(region) if self.parts else 4 * touched(region, self.chunks)

    def peak_bytes(self, region):
        return 4 * size(region)


@pytest.mark.parametrize("limit", [1 << 20, 2000, 1])
@pytest.mark.parametrize("normal", ["z", "y", "x"])
def test_a_plane_holds_the_voxels_of_the_array(monkeypatch, limit, normal):
    """Whole volumes, slabs of several slices, and slabs of one slice."""
    monkeypatch.setattr(planes, "SLAB_BYTES", limit)
    reader, axis = Planes(stack()), "zyx".index(normal)
    for k in (0, 4):
        for i in (0, 2, 3, SHAPE[axis + 1] - 1):
            index = {"k": k, "z": 1, "y": 2, "x": 3, normal: i}
            plane = reader.plane(normal, index)
            assert np.array_equal(plane.values, A[k].take(i, axis))
            assert plane.dims == tuple(d for d in "zyx" if d != normal)


@pytest.mark.parametrize(("reduction", "numpys"), [("mean", np.mean), ("max", np.max)])
def test_thick_planes_combine_the_slices_around_the_point(reduction, numpys):
    reader = Planes(stack())
    for centre, first, last in ((0, 0, 3), (3, 2, 5), (6, 4, 7)):
        plane = reader.plane("z", {"k": 1, "z": centre}, 3, reduction)
        assert np.allclose(plane.values, numpys(A[1, first:last], axis=0), atol=1e-6)


def test_stepping_reads_each_voxel_once(monkeypatch):
    """All slices of a volume, in slabs: as many bytes as the volume has."""
    monkeypatch.setattr(planes, "SLAB_BYTES", 4 * 2 * 11 * 13)
    source = Counted(A)
    lazy = da.from_array(source, chunks=(1, 2, 11, 13), asarray=False)
    reader = Planes(lv.as_stack(lazy))
    source.read = 0
    for z in range(7):
        reader.plane("z", {"k": 2, "z": z})
    assert source.read == A[2].size
    reader.plane("z", {"k": 2, "z": 0})
    assert source.read == A[2].size


def test_the_memory_of_slabs_is_bounded():
    source = Counted(A)
    lazy = da.from_array(source, chunks=(1, 7, 11, 13), asarray=False)
    reader = Planes(lv.as_stack(lazy), Recent(3 * A[0].nbytes))
    source.read = 0
    for k in (0, 1, 2, 3, 4, 4, 2, 0):
        reader.plane("z", {"k": k, "z": k})
        assert reader.recent.nbytes <= 3 * A[0].nbytes
    assert source.read == 6 * A[0].size


def test_half_of_a_memory_limit_is_remembered_and_views_fit_the_rest():
    with limited("512MiB", workers=1):
        views = Views(lv.as_stack(source_array(Ramp((512,) * 3, (256,) * 3), ((256, 256),) * 3)))
    assert views.recent.memory == 256 << 20
    whole_chunks = lv.filters.gaussian(views.array, 2.0)
    assert lv.explain(whole_chunks, workers=1).peak_bytes > 256 << 20
    assert lv.explain(views.planes("Gaussian", 2.0).array, workers=1).peak_bytes <= 256 << 20


@pytest.fixture
def decoded(monkeypatch):
    """The indices of the chunks that a store of the test decodes, in their order."""
    reads, plain = [], ZarrSource.read

    def read(self, region, out=None):
        spans = zip(region, self.chunks, strict=True)
        reads.extend(product(*(range(s.start // c, -(-s.stop // c)) for s, c in spans)))
        return plain(self, region, out)

    monkeypatch.setattr(ZarrSource, "read", read)
    return reads


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A volume of 3 x 3 x 3 chunks, shown in slabs of two slices."""
    volume = np.random.default_rng(4).normal(size=(24, 24, 24)).astype(np.float32)
    zarr.create_array(tmp_path / "a.zarr", data=volume, chunks=(8, 8, 8))
    monkeypatch.setattr(planes, "SLAB_BYTES", 2 * volume[0].nbytes)
    monkeypatch.setattr(recent, "SMALLEST", 1)
    return lv.as_stack(lv.open(tmp_path / "a.zarr").data)


@pytest.mark.parametrize("view", [VALUES, *FILTERS, "result"])
def test_steps_decode_each_chunk_once(stored, decoded, view):
    """Stepping through a layer, and into the next: a layer of chunks at a time, each once."""
    lazy = {"result": lv.filters.gaussian(stored * 2, 1.0) - stored}
    views = Views(stored, on_the_grid(stored, lazy))
    for z in range(14):
        before = len(decoded)
        plane = views.planes(view, 1.0).plane("z", {"z": z, "y": 0, "x": 0})
        assert len(decoded) - before <= (18 if z == 0 else 9)
        read = len(decoded)
        assert np.array_equal(plane.values, views.shown(view, 1.0)[z].values)
        del decoded[read:]
    assert len(set(decoded)) == len(decoded)


def test_a_chunk_that_does_not_fit_is_read_as_it_is(stored, decoded):
    reader = Planes(stored, Recent(9 * 8**3 * 4 - 1))
    assert np.array_equal(reader.plane("z", {"z": 1, "y": 0, "x": 0}), stored[1].values)
    assert reader.recent.nbytes <= reader.recent.memory


def test_an_error_of_a_chunk_is_not_remembered():
    source = RememberedSource(Ramp((8,), (4,), failures=1), Recent())
    with pytest.raises(OSError, match="unplugged"):
        source.read((slice(0, 6),))
    assert np.array_equal(source.read((slice(2, 6),)), [2, 3, 4, 5])
    assert isinstance(pickle.loads(pickle.dumps(source)), Ramp)


def test_chunks_whose_parts_are_read_alone_are_not_remembered():
    plain = lv.as_stack(source_array(Ramp((64,) * 3, (1, 64, 64), parts=True), ((64,),) * 3))
    (leaf,) = leaves(recipe_of(Planes(plain).array.data))
    assert isinstance(leaf.source, Ramp)


def test_an_image_is_its_only_plane():
    image = lv.as_stack(A[0, 0])
    assert Planes(image).normals == ("z",)
    assert np.array_equal(Planes(image).plane("z", {"y": 1, "x": 1}).values, A[0, 0])


def test_large_planes_are_averaged_for_the_screen():
    plane = lv.as_stack(A[0])[0]
    assert np.array_equal(shown_on_screen(plane, 13).values, A[0, 0])
    small = shown_on_screen(plane, 7)
    assert small.shape == (6, 7)
    assert np.allclose(small.values[0, 0], A[0, 0, :2, :2].mean(), atol=1e-6)
    assert np.allclose(small.values[5, 6], A[0, 0, 10, 12], atol=1e-6)


@pytest.mark.parametrize("left_out", [[], [0], [1, 3]])
def test_averages_are_refined_to_the_mean_and_variance(monkeypatch, left_out):
    monkeypatch.setattr(averages, "SLAB_BYTES", 2 * A[0].nbytes)
    steps = list(refine(stack(), left_out))
    kept = [k for k in range(5) if k not in left_out]
    assert [s.count for s in steps] == [min(n, len(kept)) for n in range(2, len(kept) + 2, 2)]
    assert steps[-1].total == len(kept)
    for step in steps:
        particles = A[kept[: step.count]].astype(np.float64)
        assert np.allclose(step.mean.values, particles.mean(0), atol=1e-6)
        assert np.allclose(step.variance.values, particles.var(0), atol=1e-6)
    assert steps[0].mean.dims == ("z", "y", "x")
    particles = stack().isel(k=kept)
    assert np.array_equal(steps[-1].mean, lv.stats.mean(particles))
    assert np.array_equal(steps[-1].variance, lv.stats.var(particles))


def test_particles_are_flagged_and_exported(tmp_path):
    table = xr.Dataset(
        {"score": ("k", np.arange(5.0)), "flagged": ("k", [False, True, False, False, False])}
    )
    particles = Particles(stack().assign_coords(tomogram=("k", list("aabbb"))), table)
    particles.set_flags([3], True)
    particles.set_flags([1], False)
    assert particles.flagged == [3]
    frame = particles.frame()
    assert list(frame.columns) == ["particle", "flagged", "score", "tomogram"]
    exported = pd.read_csv(io.BytesIO(particles.export(".csv")))
    assert exported.score.tolist() == [0, 1, 2, 3, 4]
    assert exported.flagged.tolist() == [0, 0, 0, 1, 0]
    star = tmp_path / "exported.star"
    star.write_bytes(particles.export(".star"))
    assert lv.io.particles(star).flagged.values.tolist() == [0, 0, 0, 1, 0]


def test_the_table_shows_four_digits_and_exports_all():
    table = xr.Dataset({"p": ("k", [3.25e-25, 1 / 3, np.nan, 12345678.0, 0.0])})
    particles = Particles(stack(), table)
    shown = particles.frame().p.tolist()
    assert [f"{value:g}" for value in shown] == ["3.25e-25", "0.3333", "nan", "1.235e+07", "0"]
    exported = pd.read_csv(io.BytesIO(particles.export(".csv"))).p.tolist()
    assert np.array_equal(exported, table.p.values, equal_nan=True)


def test_a_table_of_another_length_is_refused():
    with pytest.raises(lv.errors.LabelError, match="one row per particle"):
        Particles(stack(), xr.Dataset({"score": ("k", np.arange(4.0))}))


def test_views_are_results_and_filters_on_sight():
    array = stack()
    gradient = lv.derivatives.gradient(array)
    views = Views(array, on_the_grid(array, {"gradient": gradient}))
    parts = ["gradient z", "gradient y", "gradient x"]
    assert views.names == [VALUES, *parts, *FILTERS]
    index = {"k": 1, "z": 3, "y": 2, "x": 4}
    smooth = views.planes("Gaussian", 1.0).plane("z", index)
    want = lv.filters.gaussian(array, 1.0).isel(k=1, z=3).values
    assert np.allclose(smooth.values, want, atol=1e-6)
    assert views.planes("Gaussian", 1.0) is views.planes("Gaussian", 1.0)
    assert views.planes("Gaussian", 2.0) is not views.planes("Gaussian", 1.0)


def test_ridges_are_bright_along_bright_tubes_and_dark_on_dark_ones():
    z, y = np.indices((15, 15)) - 7
    tube = np.broadcast_to(np.exp(-(z**2 + y**2) / 8.0)[..., None], (15, 15, 15))
    for sign in (1, -1):
        planes = Views(lv.as_stack(sign * tube)).planes("Hessian ridges", 1.0)
        plane = planes.plane("x", {"z": 7, "y": 7, "x": 7}).values
        assert (plane[7, 7] == plane.max()) == (sign == 1)
        assert (plane[7, 7] > 0.05) == (sign == 1)


def test_a_result_on_another_grid_is_refused():
    with pytest.raises(lv.errors.LabelError, match="same length along 'x'"):
        on_the_grid(stack(), {"part": stack().isel(x=slice(0, 4))})


def test_the_latest_request_replaces_those_that_wait():
    worker, started, proceed, ran = Latest(), threading.Event(), threading.Event(), []

    def first() -> None:
        started.set()
        proceed.wait(60)
        ran.append(0)

    worker.submit(first)
    assert started.wait(60)
    for n in (1, 2, 3):
        worker.submit(lambda n=n: ran.append(n))
    proceed.set()
    assert worker.wait()
    worker.close()
    assert ran == [0, 3]
