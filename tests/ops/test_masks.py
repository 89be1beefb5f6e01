"""Masks beyond the rows: ragged selections, statistics, morphology and labels in any blocks."""

import json
import math
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from skimage.io import imread

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.intensity import otsu
from lazyvol.kernels.reductions import moments
from lazyvol.plan import connected_blocks, regions
from lazyvol.plan import ragged as plan_ragged
from lazyvol.plan.graph.lazy_array import source_array
from tests.paths import DATA, ROOT
from tests.sources import READS, CountingSource, elements_read
from tests.strategies import MORE, SHAPE, chunkings, masks, values

needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no shared/data beside the checkout")
POINTS = (13, 17, 5)
A = values("float32")


def refuse(*args, **kwargs):
    raise AssertionError("building computed something")


def points(array: np.ndarray, chunks=None) -> xr.DataArray:
    data = array if chunks is None else da.from_array(array, chunks=chunks)
    return xr.DataArray(data, dims=("frame", "point", "feature")[: array.ndim], name="signal")


def sample(dtype: str = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Return points and a mask that leaves frame 4 empty."""
    mask = np.random.default_rng(0).random(POINTS[:2]) < 0.3
    mask[4] = False
    return values(dtype, POINTS), mask


def opened(token: str, array: np.ndarray, chunks: tuple[int, ...], dims) -> xr.DataArray:
    READS.pop(token, None)
    grid = tuple(regions.uniform_chunks(n, c) for n, c in zip(array.shape, chunks, strict=True))
    return xr.DataArray(source_array(CountingSource(array, chunks, token), grid), dims=dims)


# ragged ----------------------------------------------------------------------------------------


def test_empty_frames_stay_and_observations_have_their_index():
    array, mask = sample()
    result = lv.masks.select(points(array), points(mask))
    np.testing.assert_array_equal(result["values"], array[mask])
    np.testing.assert_array_equal(result["row_size"], mask.sum(1))
    np.testing.assert_array_equal(result["index"], np.nonzero(mask)[1])
    assert result["row_size"][4] == 0
    assert result.row_size.attrs["sample_dimension"] == "obs"
    assert result["index"].attrs == {"compress": "point", "shape": [17]}
    assert result["values"].dims == ("obs", "feature")
    assert result.attrs["title"] == "signal"


@given(
    grid=chunkings(POINTS), mask_grid=chunkings(POINTS[:2]),
    kind=st.sampled_from(["own", "shared"]), lazy=st.booleans(),
    at=st.tuples(st.integers(0, 70), st.integers(0, 70)),
)  # fmt: skip
@MORE
def test_any_chunking_selects_the_same(grid, mask_grid, kind, lazy, at):
    array, mask = sample()
    flags = points(mask, mask_grid if lazy else None)
    flags = flags if kind == "own" else flags.isel(frame=2, drop=True)
    result = lv.masks.select(points(array, grid), flags)
    expected = lv.masks.select(points(array), flags.compute())
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_identical(result.compute(), expected)
        stretch = {"obs": slice(min(at), max(at)), "feature": slice(1, 4)}
        part = result["values"].isel(stretch)
        xr.testing.assert_identical(part.compute(), expected["values"].isel(stretch))


@given(mask=masks(), grid=chunkings(), data=st.data())
@MORE
def test_large_frames_are_selected_line_by_line(mask, grid, data):
    """Frames larger than a tile are counted and read in parts, without changing the result."""
    small = data.draw(st.sampled_from([1, 700, 4000]))
    stack = lv.as_stack(da.from_array(A, chunks=grid))
    mask = mask.drop_vars(list(mask.coords))
    flags = np.broadcast_to(mask.values, A.shape) if "z" in mask.dims else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_ragged, "TILE", small)
        result = lv.masks.select(stack, mask)
        got = result["values"].compute(scheduler="sync")
    if flags is None:  # over y and x: z stays
        expected = A[:, :, mask.values].transpose(0, 2, 1).reshape(-1, A.shape[1])
        np.testing.assert_array_equal(got, expected)
    else:
        np.testing.assert_array_equal(got, A[flags])
        place = np.unravel_index(result["index"].compute(), result["index"].attrs["shape"])
        np.testing.assert_array_equal(np.stack(place), np.stack(np.nonzero(flags)[1:]))


def test_a_mask_in_memory_builds_without_computing():
    array, mask = sample()
    with dask.config.set(scheduler=refuse):
        result = lv.masks.select(points(array, 4), points(mask))
        lv.masks.pad(result)
        lv.masks.frame(result, 3)
    assert result.sizes["obs"] == mask.sum()


def test_a_lazy_mask_is_read_once_to_count_and_the_points_never():
    array, mask = sample()
    stack = opened("ragged-points", array, (4, 17, 5), ("frame", "point", "feature"))
    flags = opened("ragged-mask", mask, (4, 17), ("frame", "point"))
    result = lv.masks.select(stack, flags)
    assert elements_read("ragged-mask") == mask.size
    assert elements_read("ragged-points") == 0
    assert all(isinstance(result[name].data, da.Array) for name in ("values", "index"))
    assert not any(math.isnan(n) for axis in result["values"].chunks for n in axis)
    np.testing.assert_array_equal(result["values"], array[mask])


def frames_read(token: str) -> set[int]:
    return {f for region in READS[token] for f in range(region[0].start, region[0].stop)}


def test_a_stretch_of_observations_reads_the_frames_behind_it():
    array, mask = sample()
    stack = opened("ragged-slice", array, (1, 17, 5), ("frame", "point", "feature"))
    result = lv.masks.select(stack, points(mask))
    ends = np.cumsum(mask.sum(1))
    result["values"].isel(obs=slice(int(ends[6]), int(ends[8]))).compute()
    assert frames_read("ragged-slice") == {7, 8}
    READS["ragged-slice"].clear()
    np.testing.assert_array_equal(lv.masks.frame(result, 5), array[5][mask[5]])
    assert frames_read("ragged-slice") == {5}
    READS["ragged-slice"].clear()
    lv.masks.pad(result)[2:4].compute()
    assert frames_read("ragged-slice") == {2, 3}


def test_frames_without_observations_are_not_read():
    array, mask = sample()
    mask[6:9] = False
    stack = opened("ragged-empty", array, (1, 17, 5), ("frame", "point", "feature"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan_ragged, "TILE", 17 * 5 * 4)
        lv.masks.select(stack, points(mask))["values"].compute()
    assert frames_read("ragged-empty") == set(range(13)) - {4, 6, 7, 8}


@pytest.mark.parametrize("chunks", [None, 3])
def test_rows_are_padded_and_any_part_of_them_is_right(chunks):
    array, mask = sample()
    rows = np.full((13, mask.sum(1).max(), 5), np.nan, np.float32)
    for row, values_, flags in zip(rows, array, mask, strict=True):
        row[: flags.sum()] = values_[flags]
    result = lv.masks.pad(lv.masks.select(points(array, chunks), points(mask)))
    np.testing.assert_array_equal(result, rows)
    part = result[3:9, 4:, 1:3]
    np.testing.assert_array_equal(part, rows[3:9, 4:, 1:3])
    assert result.dtype == np.float32


def test_blocks_are_few_fat_and_cut_between_frames(monkeypatch):
    array, mask = sample()
    monkeypatch.setattr(plan_ragged, "BLOCK", 400)
    stack = opened("ragged-cut", array, (2, 17, 5), ("frame", "point", "feature"))
    result = lv.masks.select(stack, points(mask))["values"]
    ends = set(np.cumsum(mask.sum(1)).tolist())
    cuts = np.cumsum(result.chunks[0])
    assert set(cuts.tolist()) <= ends
    assert len(cuts) > 2
    tasks = len(result.data.dask)
    assert tasks <= 1.1 * result.data.npartitions + 2
    result.compute()
    assert elements_read("ragged-cut") <= array.size


def test_a_sparse_mask_does_not_make_a_task_that_reads_everything(monkeypatch):
    monkeypatch.setattr(plan_ragged, "READ", 10 * 17 * 5 * 4)
    monkeypatch.setattr(plan_ragged, "FOREIGN_TASK", 5 * 17 * 5 * 4)
    array = np.zeros((40, 17, 5), np.float32)
    mask = np.zeros((40, 17), bool)
    mask[::7, 3] = True
    stack = opened("ragged-sparse", array, (1, 17, 5), ("frame", "point", "feature"))
    assert len(lv.masks.select(stack, points(mask))["values"].chunks[0]) >= 3
    foreign = points(array).copy(data=da.zeros(array.shape, chunks=(1, -1, -1), dtype="f4"))
    selected = lv.masks.select(foreign, points(mask))["values"]
    assert len(selected.chunks[0]) >= 6


@pytest.mark.parametrize("dtype", ["float16", "uint8", "complex64", "complex128", "bool"])
@pytest.mark.parametrize("chunks", [None, 3])
def test_values_of_any_type_pass_unchanged(dtype, chunks):
    array = (values("float32", POINTS) > 1).astype(dtype)
    mask = sample()[1]
    turned = np.asfortranarray(array)
    result = lv.masks.select(points(turned, chunks), points(mask))["values"]
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, array[mask])


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize("chunks", [None, 3])
def test_masks_of_nothing_and_of_everything(share, chunks):
    array, _ = sample()
    result = lv.masks.select(points(array, chunks), points(np.full(POINTS[:2], bool(share))))
    assert result.sizes["obs"] == share * 13 * 17
    np.testing.assert_array_equal(result["row_size"], share * 17)
    assert lv.masks.pad(result).compute().shape == (13, share * 17, 5)
    assert lv.masks.frame(result, 0).compute().shape == (share * 17, 5)


def test_a_volume_has_slices_as_frames_and_a_dim_can_be_named():
    volume = lv.as_stack(A[0], voxel_size=2.0)
    mask = volume > 1
    result = lv.masks.select(volume, mask)
    np.testing.assert_array_equal(result["row_size"], mask.values.sum((1, 2)))
    assert result["row_size"].dims == ("z",)
    result = lv.masks.select(volume, mask, frame="x")
    np.testing.assert_array_equal(
        result["values"], A[0].transpose(2, 0, 1)[mask.values.transpose(2, 0, 1)]
    )
    assert result["index"].attrs["compress"] == "z y"


def test_a_mask_with_other_flags_when_read_again_is_refused():
    array, mask = sample()
    calls = []

    def changing(block):
        calls.append(1)
        return block if len(calls) == 1 else ~block

    flags = points(mask).copy(
        data=da.from_array(mask, chunks=-1).map_blocks(changing, meta=mask[:0])
    )
    result = lv.masks.select(points(array, -1), flags)
    with pytest.raises(LabelError, match="save the mask first"):
        result["values"].compute()


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (xr.DataArray(np.ones(POINTS[:2]), dims=("frame", "point")), {}, "mask must be boolean"),
        (xr.DataArray(np.ones((13, 3), bool), dims=("frame", "row")), {}, "got also"),
        (xr.DataArray(np.ones(13, bool), dims="frame"), {}, r"points.isel\(frame=mask\)"),
        (xr.DataArray(np.ones((13, 16), bool), dims=("frame", "point")), {}, "lengths 17 and 16"),
        (xr.DataArray(np.ones(17, bool), dims="point"), {"frame": "k"}, "frame='k'"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, options, message):
    with pytest.raises(LabelError, match=message):
        lv.masks.select(points(sample()[0]), mask, **options)


def test_datasets_that_are_not_ragged_are_refused():
    array, mask = sample()
    result = lv.masks.select(points(array), points(mask))
    with pytest.raises((LabelError, OptionError), match="must be a Dataset"):
        lv.masks.frame(result["values"], 0)
    with pytest.raises(LabelError, match="13 frames along 'frame', got k=13"):
        lv.masks.frame(result, 13)
    with pytest.raises(LabelError, match="select anew"):
        lv.masks.pad(result.isel(frame=slice(0, 5)))
    with pytest.raises(LabelError, match="with the first dim 'obs'"):
        lv.masks.pad(result.transpose("feature", "obs", "frame"))
    with pytest.raises(LabelError, match="pad: dim must be a new name"):
        lv.masks.pad(result, dim="feature")
    with pytest.raises(LabelError, match="must not have the dim 'obs'"):
        lv.masks.select(points(array).rename(feature="obs"), points(mask))


@pytest.mark.parametrize(("dtype", "fill"), [("uint8", np.nan), ("uint8", 256), ("int16", 0.5)])
def test_a_fill_that_the_dtype_cannot_represent_is_refused(dtype, fill):
    array, mask = sample(dtype)
    result = lv.masks.select(points(array), points(mask))
    with pytest.raises(LabelError, match="can represent"):
        lv.masks.pad(result, fill)


@pytest.mark.parametrize("chunks", [None, 3])
def test_a_ragged_data_set_is_saved_and_opened(chunks, tmp_path):
    array = da.from_array(A, chunks=chunks) if chunks else A
    stack = lv.as_stack(array, voxel_size=2.0, unit="angstrom", name="density")
    stack = stack.assign_attrs(units="e").assign_coords(score=("k", np.arange(7.0)))
    result = lv.masks.select(stack, stack > 2)
    lv.save(result, tmp_path / "ragged.zarr", memory="300MiB")
    again = lv.open(tmp_path / "ragged.zarr")
    assert all(isinstance(a.data, da.Array) for a in again.values())
    xr.testing.assert_identical(again.compute(), result.compute())
    assert float(again.z[1]) == 2.0
    xr.testing.assert_identical(
        lv.masks.frame(again, -1).compute(), lv.masks.frame(result, 6).compute()
    )
    xr.testing.assert_identical(lv.masks.pad(again, 0).compute(), lv.masks.pad(result, 0).compute())


MEMORY = """
import json, sys
import numpy as np, xarray as xr
import lazyvol as lv
from tests.plan.memory_of_rows import status

folder = sys.argv[1]
def work(frames):
    points = lv.open(f"{folder}/points.npy", chunks=8).drop_vars(["z", "y", "x"])
    points = points.rename(z="frame", y="point", x="feature")
    points = points.isel(frame=slice(0, frames))
    mask = np.random.default_rng(1).random(points.shape[:2]) < 0.6
    result = lv.masks.select(points, xr.DataArray(mask, dims=("frame", "point")))
    plan = lv.explain(result, memory="320MiB", workers=2)
    with lv.limited("320MiB", workers=2):
        lv.save(result, f"{folder}/ragged-{frames}.zarr", memory="320MiB")
    return plan.peak_bytes
work(4)
before = status("VmRSS")
planned = work(400)
print(json.dumps([status("VmHWM") - before, planned]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's status files")
def test_a_selection_larger_than_its_budget_stays_in_it(tmp_path):
    shape = (400, 1500, 128)
    stored = np.lib.format.open_memmap(tmp_path / "points.npy", "w+", np.float32, shape)
    for frame in stored:
        frame[...] = 1.0
    stored.flush()
    del stored
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=False,
        cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    used, planned = json.loads(done.stdout.splitlines()[-1])
    assert used <= planned <= 320 * 2**20


# statistics under a mask -------------------------------------------------------------------------


def exact(array: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Return sums over the middle axis with a single rounding."""
    before, _, after = array.shape
    return np.array(
        [
            [math.fsum(array[a, flags[a, :, c], c].astype(float)) for c in range(after)]
            for a in range(before)
        ]
    )


LIMITS = {d: (np.iinfo(d).min, np.iinfo(d).max) for d in ("uint8", "int16", "int32", "uint64")}


def drawn(dtype: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Return floats of 24 orders of magnitude, or integers over their whole range."""
    if dtype in LIMITS:
        return rng.integers(*LIMITS[dtype], shape, dtype, endpoint=True)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-12, 12, shape)).astype(dtype)


@given(
    after=st.integers(1, 40), rows=st.integers(1, 900), before=st.integers(1, 3),
    shared=st.sampled_from([(1, 1), (0, 1), (1, 0), (0, 0), None]),
    share=st.sampled_from([0.0, 0.02, 0.25, 0.5, 0.98, 1.0]),
    dtype=st.sampled_from(["float64", "float32", "uint8", "int16", "int32", "uint64"]),
)  # fmt: skip
@MORE
def test_sums_along_short_axes_are_exact_under_any_mask(after, rows, before, shared, share, dtype):
    rng = np.random.default_rng(after * rows)
    array = drawn(dtype, (before, rows, after), rng)
    shape = (before, rows, after) if shared is None else (
        before if shared[0] else 1, rows, after if shared[1] else 1
    )  # fmt: skip
    mask = None if share == 1.0 else rng.random(shape) < share
    if mask is not None and share == 0.5:  # long runs, as in masks of objects
        mask = np.sort(mask, axis=1)
    if share == 0.25:  # equal in every word of eight flags
        mask = np.broadcast_to(np.arange(rows)[:, None] % 4 == 0, shape).copy()
    full = np.ones(array.shape, bool) if mask is None else np.broadcast_to(mask, array.shape)
    parts = ("sum", "square", "low", "high", "count")
    state = moments.start((before, after), parts=parts, dtype=array.dtype)
    moments.update(state, (1,), array, mask)
    np.testing.assert_array_equal(state["sum"] + state["sum_rest"], exact(array, full))
    squares = exact(array.astype(np.float64) ** 2, full)
    rounded = 0 if dtype in moments.NARROW else 1e-14  # of the oracle's squares
    np.testing.assert_allclose(state["square"] + state["square_rest"], squares, rtol=rounded)
    np.testing.assert_array_equal(state["count"], full.sum(1))
    lowest, highest = (-np.inf, np.inf) if dtype[0] == "f" else LIMITS[dtype]
    np.testing.assert_array_equal(state["low"], array.min(1, initial=highest, where=full))
    np.testing.assert_array_equal(state["high"], array.max(1, initial=lowest, where=full))


@pytest.mark.parametrize("part", ["low", "high"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_affect_only_their_column_under_the_mask(part, bad):
    array = values("float32", (2, 700, 3))
    array[0, 650, 1] = array[1, 3, 2] = bad
    mask = np.ones((1, 700, 1), bool)
    mask[0, 3] = False
    state = moments.start((2, 3), parts=("sum", part, "count"), dtype=array.dtype)
    moments.update(state, (1,), array, mask)
    inside = array[:, mask[0, :, 0]]
    np.testing.assert_array_equal(state[part], (np.min if part == "low" else np.max)(inside, 1))
    total = moments.finish(state, want={"sum": np.dtype(np.float64)}, n=0)["sum"]
    np.testing.assert_allclose(total, inside.astype(np.float64).sum(1))


def test_nan_counts_inside_a_mask_and_not_outside():
    array = values("float32", (40, 50, 3))
    mask = np.zeros((40, 50), bool)
    mask[5:20, 7:33] = True
    array[0, 0] = np.nan
    image = xr.DataArray(array, dims=("y", "x", "channel"))
    flags = xr.DataArray(mask, dims=("y", "x"))
    np.testing.assert_allclose(lv.masks.mean(image, flags), array[mask].mean(0), rtol=1e-5)
    array[6, 8, 1] = np.nan
    assert np.isnan(lv.masks.var(image, flags)).values.tolist() == [False, True, False]
    assert np.isnan(lv.masks.mean(image, ~flags | True)).all()


def test_the_mean_of_an_empty_mask_is_nan():
    image = xr.DataArray(values("uint8", (4, 5, 3)), dims=("y", "x", "channel"))
    nothing = xr.zeros_like(image.isel(channel=0), bool)
    assert np.isnan(lv.masks.mean(image, nothing)).all()
    assert (lv.masks.sum(image, nothing) == 0).all()


@needs_data
def test_mean_colour_of_a_real_ear_of_maize():
    image = imread(DATA / "images_2d" / "maize_ear_rgb.png")
    mask = imread(DATA / "images_2d" / "maize_ear_mask.png") > 0
    result = lv.masks.mean(
        xr.DataArray(image, dims=("y", "x", "channel")), xr.DataArray(mask, dims=("y", "x"))
    )
    np.testing.assert_allclose(result, image[mask].mean(0), rtol=1e-15)


@pytest.mark.parametrize("op", [lv.masks.mean, lv.masks.sum, lv.masks.var, lv.masks.apply])
def test_a_mask_with_other_dims_is_refused(op):
    image = xr.DataArray(np.ones((4, 5)), dims=("y", "x"))
    with pytest.raises(LabelError, match="got also"):
        op(image, xr.DataArray(np.ones((4, 3), bool), dims=("y", "t")))


# apply and threshold -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "fill", "result"),
    [("uint8", 7, "uint8"), ("uint8", -1, "float64"), ("int16", np.nan, "float64"),
     ("float16", 0.1, "float16"), ("uint8", "mean", "float64"), ("float32", np.nan, "float32"),
     ("bool", 1, "bool"), ("bool", 2, "float64")],
)  # fmt: skip
def test_a_dtype_is_kept_if_it_can_represent_the_fill(dtype, fill, result):
    stack = lv.as_stack(values("float32").astype(dtype))
    assert lv.masks.apply(stack, stack > 0, fill).dtype == result


def test_nan_with_a_weight_of_0_is_replaced():
    volume = lv.as_stack(np.array([[[np.nan, np.nan, 4.0, 4.0]]]))
    weight = lv.as_stack(np.array([[[0.0, 1.0, 0.25, 1.0]]]))
    np.testing.assert_array_equal(lv.masks.apply(volume, weight, 8.0), [[[8, np.nan, 7, 4]]])
    with pytest.raises((LabelError, OptionError), match="'mean', got 'median'"):
        lv.masks.apply(volume, weight, "median")
    with pytest.raises(LabelError, match="boolean or float weights"):
        lv.masks.apply(volume, weight.astype(int))


def test_otsu_reads_as_often_as_explain_says():
    for dtype, passes in (("uint8", 2), ("int16", 2), ("float32", 3), ("int32", 3)):
        array = A.astype(dtype)
        stack = opened(f"otsu-{dtype}", array, (1, 5, 11, 13), ("k", "z", "y", "x"))
        result = lv.masks.threshold(stack)
        assert lv.explain(result).passes == passes
        result.compute()
        assert elements_read(f"otsu-{dtype}") == passes * array.size


@needs_data
@pytest.mark.parametrize("name", ["kodim03.png", "setaria_small_plant_rgb.png"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float64"])
def test_otsu_of_real_images_is_that_of_skimage(name, dtype):
    image = imread(DATA / "images_2d" / name)[..., 0].astype(dtype)
    image = image * 200 if dtype == "uint16" else image
    lazy = xr.DataArray(da.from_array(image, chunks=100), dims=("y", "x"))
    np.testing.assert_array_equal(lv.masks.threshold(lazy), image > threshold_otsu(image))


@pytest.mark.parametrize("per", ["stack", "particle"])
def test_otsu_of_odd_volumes(per):
    def result(array):
        return lv.masks.threshold(lv.as_stack(np.asarray(array, float)), per=per).values

    assert not result(np.full((2, 3, 4), 7.5)).any()
    assert not result(np.full((2, 3, 4), np.nan)).any()
    arrays_with_nan = np.where(A[0] > 3, np.nan, A[0])
    expected = arrays_with_nan > threshold_otsu(
        arrays_with_nan[np.isfinite(arrays_with_nan)].astype(float)
    )
    np.testing.assert_array_equal(result(arrays_with_nan), expected)
    assert not lv.masks.threshold(lv.as_stack(A.astype(int)), np.nan).any()


def test_a_threshold_is_computed_once_for_all_chunks(monkeypatch):
    found, calls = otsu.otsu, []

    def counted(counts, edges):
        calls.append(len(counts))
        return found(counts, edges)

    monkeypatch.setattr(otsu, "otsu", counted)
    stack = lv.as_stack(da.from_array(np.arange(48.0).reshape(12, 2, 2), chunks=1))
    assert lv.masks.threshold(stack, bins=1000).sum().compute() == 24
    assert calls == [1000]


def test_invalid_thresholds_are_refused():
    stack = lv.as_stack(A)
    for options in ({"method": "li"}, {"per": "k"}, {"bins": 0}):
        with pytest.raises((LabelError, OptionError)):
            lv.masks.threshold(stack, **options)
    for not_real in (stack > 0, stack.astype(complex)):
        with pytest.raises(LabelError, match="real numbers"):
            lv.masks.threshold(not_real)
    with pytest.raises(LabelError, match="z, y, x"):
        lv.masks.threshold(xr.DataArray(np.ones(4), dims="k"), per="particle")


# morphology and labels ---------------------------------------------------------------------------

SCIPY = {
    "dilate": ndi.binary_dilation, "erode": ndi.binary_erosion, "open": ndi.binary_opening,
    "close": ndi.binary_closing,
}  # fmt: skip


@given(
    name=st.sampled_from(list(SCIPY)), grid=chunkings(), border=st.booleans(),
    iterations=st.integers(1, 3), share=st.sampled_from([0.05, 0.5, 0.95]),
    option=st.sampled_from([1, 2, 3, "ball", "wide ball", "box", "long box"]),
)  # fmt: skip
@MORE
def test_morphology_in_any_blocks_is_that_of_whole_volumes(
    name, grid, border, iterations, share, option
):
    """Halos extend beyond chunks and the array; voxels are not cubes."""
    array = np.random.default_rng(3).random(SHAPE) < share
    stack = lv.as_stack(da.from_array(array, chunks=grid), voxel_size=(3.0, 2.0, 1.5))
    options, element = elements()[option]
    result = getattr(lv.masks, name)(stack, iterations=iterations, border=border, **options)
    expected = [
        SCIPY[name](
            v, element, iterations=iterations, border_value=int(border), brute_force=True
        )  # without brute force it corrupts the heap if an element is longer than the array
        for v in array
    ]
    assert result.dtype == bool
    np.testing.assert_array_equal(result.compute(scheduler="sync"), np.stack(expected))


def elements() -> dict[object, tuple[dict, np.ndarray]]:
    """Return the options of elements, and the elements for scipy."""
    result: dict[object, tuple[dict, np.ndarray]] = {
        n: ({"connectivity": n}, ndi.generate_binary_structure(3, n)) for n in (1, 2, 3)
    }
    for name, radius, reach in (("ball", 3.0, (1, 1, 2)), ("wide ball", 6.1, (2, 3, 4))):
        grids = np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij")
        far = np.sqrt((3 * grids[0]) ** 2 + (2 * grids[1]) ** 2 + (1.5 * grids[2]) ** 2)
        result[name] = ({"radius": radius}, far <= radius)
    result["box"] = ({"size": {"y": 3, "x": 5}}, np.ones((1, 3, 5), bool))
    result["long box"] = ({"size": {"z": 7, "y": 5, "x": 9}}, np.ones((7, 5, 9), bool))
    return result


def test_an_element_is_a_task_per_block_and_reads_no_other_particle():
    stack = opened("eroded", A > 1, (1, 5, 6, 13), ("k", "z", "y", "x"))
    result = lv.masks.erode(stack, size=3)
    assert len(result.data.dask) <= 1.1 * result.data.npartitions + 1
    result[3].compute()
    assert {r[0].start for r in READS["eroded"]} == {3}


def test_images_and_other_orders_of_dims():
    flags = A[0, 0] > 1
    image = xr.DataArray(flags, dims=("y", "x"))
    np.testing.assert_array_equal(lv.masks.dilate(image), ndi.binary_dilation(flags))
    np.testing.assert_array_equal(lv.masks.label(image), ndi.label(flags)[0])
    turned = lv.as_stack(da.from_array(A > 1, chunks=4)).transpose("x", "k", "z", "y")
    result = lv.masks.open(turned, size={"x": 3, "z": 1}).transpose("k", "z", "y", "x")
    expected = np.stack([ndi.binary_opening(v, np.ones((1, 1, 3))) for v in A > 1])
    np.testing.assert_array_equal(result, expected)


@given(
    shape=st.lists(st.integers(1, 13), min_size=1, max_size=3), volumes=st.integers(1, 2),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.7, 1.0]), connectivity=st.integers(1, 3),
    block=st.integers(5, 400), data=st.data(),
)  # fmt: skip
@MORE
def test_labels_of_blocks_are_those_of_the_whole_volume(
    shape, volumes, share, connectivity, block, data
):
    array = np.random.default_rng(block).random((volumes, *shape)) < share
    chunks = tuple(data.draw(st.integers(1, n)) for n in array.shape)
    dims = ("k", *("z", "y", "x")[-len(shape) :])
    order = data.draw(st.permutations(dims))
    mask = xr.DataArray(da.from_array(array, chunks=chunks), dims=dims).transpose(*order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connected_blocks, "BLOCK", block)
        result = lv.masks.label(mask, connectivity=connectivity).transpose(*dims)
        got = result.compute(scheduler="sync")
        corner = tuple(slice(n // 3, n // 3 + max(1, n // 2)) for n in got.shape)
        np.testing.assert_array_equal(result.data[corner].compute(), got.values[corner])
    touching = ndi.generate_binary_structure(len(shape), connectivity)
    np.testing.assert_array_equal(got, np.stack([ndi.label(v, touching)[0] for v in array]))


def test_a_line_through_all_blocks_is_one_component():
    """The line passes through every block, and returns next to itself."""
    array = np.zeros((1, 40, 40, 40), bool)
    array[0, ::4] = True
    array[0, 1:4, 0, 0] = array[0, 5:8, -1, -1] = array[0, 9:12, 0, 0] = True
    array[0, 13:, 0, 0] = array[0, 13:, -1, -1] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connected_blocks, "BLOCK", 4000)
        result = lv.masks.label(lv.as_stack(da.from_array(array, chunks=(1, 16, 16, 16))))
        assert result.data.npartitions > 8
        assert lv.explain(result).rows[1].title == "label-inspect"
        np.testing.assert_array_equal(result[0], ndi.label(array[0])[0])


def test_touching_volumes_are_not_joined():
    array = np.ones((3, 2, 2, 2), bool)
    result = lv.masks.label(lv.as_stack(array))
    assert (result == 1).all()


def test_blocks_are_joined_on_a_cluster(client):
    array = np.random.default_rng(4).random((2, 9, 10, 11)) < 0.4
    mask = lv.as_stack(da.from_array(array, chunks=5))
    with pytest.MonkeyPatch.context() as patch, client.as_current():
        patch.setattr(connected_blocks, "BLOCK", 1000)
        result = lv.masks.label(mask).compute()
    np.testing.assert_array_equal(result, np.stack([ndi.label(v)[0] for v in array]))


def test_labels_within_a_budget():
    """A volume larger than a task's budget is labelled in blocks, within the budget."""
    noise = lv.synthetic.noise((180, 190, 200), seed=2)
    mask = noise > 0.6
    with lv.limited("160MiB", workers=1):
        result = lv.masks.label(mask)
    assert result.data.npartitions > 1
    plan = lv.explain(lv.masks.label(mask), memory="160MiB", workers=1)
    assert plan.peak_bytes <= 160 * 2**20
    with dask.config.set(scheduler="sync"):
        np.testing.assert_array_equal(result, ndi.label(mask.values)[0])


@needs_data
def test_real_masks_are_shaped_and_labelled_as_by_scipy():
    cochlea = lv.open(DATA / "masks" / "bat-cochlea_sub25.tif", chunks={"z": 10, "y": 17, "x": 11})
    mask = lv.masks.threshold(cochlea, 0)
    flags = mask.values
    assert flags.any()
    np.testing.assert_array_equal(lv.masks.erode(mask), ndi.binary_erosion(flags))
    np.testing.assert_array_equal(
        lv.masks.close(mask, iterations=3), ndi.binary_closing(flags, iterations=3)
    )
    nuclei = lv.open(DATA / "masks" / "3d_monolayer_labels.tiff").squeeze(drop=True)
    nuclei = nuclei.rename(dict(zip(nuclei.dims, ("z", "y", "x"), strict=True)))
    inside = lv.masks.threshold(nuclei, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connected_blocks, "BLOCK", 2**20)
        result = lv.masks.label(lv.masks.erode(inside, size={"y": 3, "x": 3}), connectivity=3)
        assert result.data.npartitions > 1
        worn = ndi.binary_erosion(inside.values, np.ones((1, 3, 3)))
        np.testing.assert_array_equal(result, ndi.label(worn, np.ones((3, 3, 3)))[0])


@pytest.mark.parametrize(
    "options",
    [{"radius": -1.0}, {"radius": np.nan}, {"radius": 1.0, "size": 3}, {"size": 0},
     {"size": {"k": 3}}, {"size": 3.5}, {"connectivity": 0}, {"connectivity": 4},
     {"iterations": -1}, {"iterations": 1.5}],
)  # fmt: skip
def test_invalid_elements_are_refused(options):
    with pytest.raises((LabelError, OptionError)):
        lv.masks.dilate(lv.as_stack(A > 0), **options)


def test_morphology_refuses_other_dtypes_and_dims():
    for op in (lv.masks.dilate, lv.masks.label):
        with pytest.raises(LabelError, match="boolean"):
            op(lv.as_stack(A))
        with pytest.raises(LabelError, match="z, y, x"):
            op(xr.DataArray(np.ones(4, bool), dims="k"))


# shapes ------------------------------------------------------------------------------------------


def test_a_sharp_shape_is_boolean_and_a_soft_one_has_weights():
    stack = lv.as_stack(A, voxel_size=2.0, unit="angstrom")
    sharp = lv.masks.sphere(stack, radius=5.0)
    soft = lv.masks.sphere(stack, radius=5.0, soft=4.0)
    assert (sharp.dtype, soft.dtype) == (np.dtype(bool), np.dtype(np.float32))
    np.testing.assert_array_equal(sharp, soft == 1)
    assert sharp.dims == ("z", "y", "x")
    xr.testing.assert_identical(sharp.x, stack.x)
    result = lv.masks.mean(stack, sharp)
    np.testing.assert_allclose(result, A[:, sharp.values].mean(1), rtol=1e-5)


def test_a_soft_mask_is_applied_to_no_particles():
    none = lv.as_stack(np.ones((0, 4, 5, 6), "f4"))
    result = lv.masks.apply(none, lv.as_stack(np.full((4, 5, 6), 0.5)))
    assert result.shape == none.shape
    assert result.dtype == np.float32
