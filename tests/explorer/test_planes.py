"""Planes of the explorer: right voxels, few reads; averages that refine; flags and exports."""

import io
import threading

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.explorer import averages, planes
from lazyvol.explorer.averages import refine
from lazyvol.explorer.background import Latest
from lazyvol.explorer.particles import Particles
from lazyvol.explorer.planes import Planes, shown_on_screen
from lazyvol.explorer.views import FILTERS, VALUES, Views, on_the_grid

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
    assert reader.bytes_read == A[2].nbytes
    reader.plane("z", {"k": 2, "z": 0})
    assert source.read == A[2].size


def test_the_memory_of_slabs_is_bounded():
    reader = Planes(stack(), memory=3 * A[0].nbytes)
    for k in range(5):
        reader.plane("z", {"k": k, "z": 0})
    assert len(reader._slabs) == 3
    reader.plane("z", {"k": 4, "z": 3})
    assert reader.bytes_read == 5 * A[0].nbytes


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
