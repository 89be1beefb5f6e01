"""Densities: any size and border, positions, points on grids, errors."""

import warnings
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.measure import block_reduce

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.filters import window_fill
from lazyvol.kernels.reductions import block_mean
from lazyvol.plan.budget import limited
from lazyvol.plan.recipes.stencil import MODES
from tests.cases import UNIT, VOLUME, VOXEL
from tests.paths import DATA
from tests.rows.density import block_means, clouds, counted, edges, weights, where, window_means
from tests.strategies import MORE, SHAPE, chunked, chunkings, labelled, stored, values

DENSITY = lv.density


def speckled(dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return values half of which are 0."""
    values_with_zeros = np.asarray(values("uint8", shape) % 5, dtype)
    values_with_zeros[np.random.default_rng(2).random(shape) < 0.5] = 0
    return values_with_zeros


def computed(lazy: xr.DataArray) -> xr.DataArray:
    return lazy.compute(scheduler="sync")


# blocks ----------------------------------------------------------------------------------------

SIZES = st.fixed_dictionaries({}, optional={d: st.integers(1, 15) for d in ("k", *VOLUME)}).filter(
    bool
)


@given(chunkings(), SIZES)
@MORE
def test_blocks_of_any_size_in_any_chunks(grid, size):
    array = speckled()
    array[0, 0, 0, 0] = np.nan
    density = computed(DENSITY.blocks(chunked(array, grid), size, partial="keep"))
    np.testing.assert_allclose(density, block_means(array != 0, size), rtol=1e-6)


@given(chunkings(), SIZES)
@MORE
def test_means_of_any_size_in_any_chunks(grid, size):
    array = values("float64")
    means = computed(DENSITY.block_mean(chunked(array, grid), size, partial="keep"))
    np.testing.assert_allclose(means, block_means(array, size), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dtype", ["float16", "float32", ">f4", ">f8", "int8", "uint16", "bool"])
@pytest.mark.parametrize("layout", ["transposed", "backwards", "every other", "broadcast", "cut"])
def test_kernels_take_any_memory_layout(dtype, layout):
    a = speckled(dtype, (3, 8, 12, 20))
    a = {
        "transposed": a.T.copy().T,
        "backwards": a[:, ::-1],
        "every other": np.repeat(a, 2, 3)[..., ::2],
        "broadcast": np.broadcast_to(a[:1], a.shape),
        "cut": np.pad(a, 1)[1:-1, 1:-1, 1:-1, 1:-1],
    }[layout]  # fmt: skip
    float64, size = np.dtype(np.float64), (1, 2, 3, 4)
    share, mean = (
        f(a, sizes=size, dtype=float64) for f in (block_mean.block_fill, block_mean.block_mean)
    )
    cut = (3, 1, 4, 2, 4, 3, 5, 4)
    assert (share == (a != 0).reshape(cut).mean((1, 3, 5, 7))).all()
    np.testing.assert_allclose(mean, a.astype("f8").reshape(cut).mean((1, 3, 5, 7)), rtol=1e-14)
    density = window_fill.fill_valid(a, sizes=size, dtype=float64)
    assert (density == window_means(a != 0, dict(zip("kzyx", size, strict=True)), "valid")).all()


@pytest.mark.parametrize("size", [(1, 2, 3, 4), (2, 5, 7, 6)])
@pytest.mark.parametrize("kernel", [block_mean.block_fill, block_mean.block_mean])
def test_kernels_use_the_output_memory_they_are_given(kernel, size):
    a = speckled("float32", (3, 8, 12, 20))
    reduce_blocks = partial(kernel, a, sizes=size, dtype=np.dtype(np.float32))
    expected = reduce_blocks()
    out = np.full(expected.shape, -1, np.float32)
    assert reduce_blocks(out=out) is out
    np.testing.assert_array_equal(out, expected)
    other = np.full(expected.shape, -1, np.float64)  # another dtype: not used
    np.testing.assert_array_equal(reduce_blocks(out=other), expected)
    assert (other == -1).all()


def test_blocks_of_an_array_in_memory_are_not_copied(monkeypatch):
    stack, outputs = labelled(speckled(shape=(4, 6, 8, 10))), []
    kernel = block_mean.block_fill

    def recorded(block, **options):
        outputs.append(options["out"])
        return kernel(block, **options)

    monkeypatch.setattr(block_mean, "block_fill", recorded)
    density = DENSITY.blocks(stack, 2)
    assert outputs
    assert all(np.shares_memory(density.values, out) for out in outputs)


def test_a_mean_of_float32_is_summed_in_float64():
    volume = lv.as_stack(np.full((64, 64, 64), 0.1, np.float32))
    assert DENSITY.block_mean(volume, 64).item() == np.float32(0.1)


def test_block_centres_are_equally_spaced():
    stack = labelled(values("float32"))
    density = DENSITY.blocks(stack, {"z": 2, "x": 4}, partial="keep")
    assert density.z.values.tolist() == [1.5, 7.5, 13.5]
    assert density.x.values.tolist() == [2.25, 8.25, 14.25, 20.25]
    assert density.x.attrs["units"] == UNIT
    assert density.y.variable.identical(stack.y.variable)
    np.testing.assert_allclose(np.diff(DENSITY.blocks(stack, {"y": 1}).y), VOXEL[1])


def test_coordinates_of_particles_are_dropped_with_their_dim():
    stack = labelled(values("float32")).assign_coords(k=np.arange(7) * 10)
    density = DENSITY.block_mean(stack, {"k": 3}, partial="keep")
    assert "score" not in density.coords
    assert density.session.item() == "a7"
    assert density.k.values.tolist() == [10, 40, 70]
    assert "score" in DENSITY.block_mean(stack, {"k": 1}).coords
    one = stack.isel(k=slice(0, 1))
    assert "score" not in DENSITY.block_mean(one, {"k": 2}, partial="keep").coords
    named = stack.assign_coords(k=list("abcdefg"))
    assert "k" not in DENSITY.block_mean(named, {"k": 7}).coords


def test_a_block_larger_than_the_array():
    stack = labelled(values("float32"))
    assert DENSITY.block_mean(stack, 20, partial="keep").shape == (7, 1, 1, 1)
    assert DENSITY.block_mean(stack, 20, partial="trim").shape == (7, 0, 0, 0)


def test_nan_counts_as_full():
    volume = lv.as_stack(np.array([[[np.nan, 0.0, -0.0, 1.0]]]))
    assert DENSITY.blocks(volume, {"x": 4}).item() == 0.5
    assert DENSITY.local(volume, {"x": 2}).values.ravel().tolist() == [0.5, 0, 0.5]
    assert np.isnan(DENSITY.block_mean(volume, {"x": 2}).values).ravel().tolist() == [True, False]


# windows ---------------------------------------------------------------------------------------

WINDOWS = st.fixed_dictionaries({}, optional={d: st.integers(1, 17) for d in VOLUME}).filter(bool)


@given(chunkings(), WINDOWS, st.sampled_from(MODES))
@MORE
def test_windows_of_any_size_and_border_in_any_chunks(grid, size, mode):
    array = speckled("int16")
    density = computed(DENSITY.local(chunked(array, grid), size, mode=mode))
    assert (density == window_means(array != 0, size, mode)).all()


@given(chunkings(), WINDOWS)
@MORE
def test_valid_windows_of_any_size(grid, size):
    array = speckled("uint8")
    density = computed(DENSITY.local(chunked(array, grid), size))
    expected = window_means(array != 0, size, "valid")
    assert density.shape == expected.shape
    assert (density == expected).all()


def test_positions_of_valid_windows_are_their_centres():
    stack = labelled(values("float32"))
    density = DENSITY.local(stack, {"y": 4, "x": 3})
    assert density.y.values[[0, -1]].tolist() == [3.0, 17.0]
    assert density.x.values[[0, -1]].tolist() == [1.5, 16.5]
    assert density.x.attrs["units"] == UNIT
    assert density.score.identical(stack.score)


def test_a_window_along_the_stack():
    array = speckled()
    density = DENSITY.local(labelled(array), {"k": 3, "x": 2})
    assert (density == window_means(array != 0, {"k": 3, "x": 2}, "valid").astype("f4")).all()


def test_local_density_equals_a_convolution():
    image = speckled("bool", (40, 50))
    density = DENSITY.local(lv.as_stack(image), 9, mode="constant")
    expected = ndi.convolve(image.astype("f8"), np.ones((9, 9)) / 81, mode="constant")
    np.testing.assert_allclose(density, expected, atol=1e-14)


# points ----------------------------------------------------------------------------------------


def cloud(n: int, seed: int = 0) -> xr.DataArray:
    """Return points in and around a box of 13 to 19 Angstrom."""
    rng = np.random.default_rng(seed)
    positions = rng.uniform(-4, 24, (n, 3)).astype(np.float32)
    return xr.DataArray(positions, dims=("point", "axis"), attrs={"units": UNIT})


@given(chunkings(), st.booleans(), st.booleans())
@MORE
def test_points_in_any_chunks(grid, linear, heavy):
    array = values("float64")
    stack = chunked(array, grid)
    given_weights = (weights(stack),) if heavy else ()
    method = "linear" if linear else "nearest"
    sums = computed(DENSITY.points(where(stack), *given_weights, like=stack, method=method))
    if not heavy:
        array[:, 0, :, 3] = 1
    np.testing.assert_allclose(sums, clouds(array) if linear else bins(array), atol=1e-12)


def bins(a: np.ndarray) -> np.ndarray:
    grids = [
        np.histogramdd(v[:, :3], edges(a.shape[1:]), weights=v[:, 3])[0] for v in a[:, 0, :, :4]
    ]
    return np.stack(grids)


def test_many_points_are_merged_from_several_tasks():
    """Sums are bitwise equal for any chunks of the points."""
    points, like = cloud(1_000_000), lv.as_stack(np.zeros((9, 8, 7)), voxel_size=VOXEL, unit=UNIT)
    heavy = xr.DataArray(np.random.default_rng(1).lognormal(0, 5, 1_000_000), dims="point")
    for method in ("nearest", "linear"):
        whole = DENSITY.points(points, heavy, like=like, method=method)
        with limited(None, 4):
            lazy = DENSITY.points(
                points.chunk(point=99_991, axis=2), heavy.chunk(point=77_777), like=like,
                method=method,
            )  # fmt: skip
            assert lv.explain(lazy).tasks > 3
        assert (lazy.compute(scheduler="threads") == whole).all()
    grid = edges((9, 8, 7))
    expected = np.histogramdd(points.values.astype("f8"), grid, weights=heavy.values)[0]
    np.testing.assert_allclose(DENSITY.points(points, heavy, like=like), expected, rtol=1e-12)
    counts = DENSITY.points(points, like=like)
    assert (counts == np.histogramdd(points.values.astype("f8"), grid)[0]).all()


def test_points_outside_the_grid_are_left_out():
    rows = [[0, 0], [2.5, 0], [2.51, 0], [-0.5, 0], [-0.51, 0], [np.nan, 0], [0, np.inf]]
    points = xr.DataArray(rows, dims=("point", "axis"))
    assert DENSITY.points(points, like=(3, 1)).values.ravel().tolist() == [2, 0, 1]
    spread = DENSITY.points(points[:3], like=(3, 1), method="linear")
    np.testing.assert_allclose(spread.values.ravel(), [1, 0, 0.5 + 0.49])


def test_columns_are_matched_by_name():
    points, like = cloud(500), lv.as_stack(np.zeros((5, 6, 7)), voxel_size=VOXEL, unit=UNIT)
    expected = DENSITY.points(points, like=like)
    turned = points.isel(axis=[2, 0, 1]).assign_coords(axis=["x", "z", "y"])
    xr.testing.assert_identical(DENSITY.points(turned, like=like), expected)
    assert (DENSITY.points(points, like=like.transpose("x", "z", "y")).transpose(*VOLUME)
            == expected).all()  # fmt: skip
    flat = DENSITY.points(
        points.assign_coords(axis=["z", "y", "x"]), like=like.isel(z=0, drop=True)
    )
    wide = lv.as_stack(np.zeros((99, 6, 7)), voxel_size=VOXEL, unit=UNIT)
    wide = wide.assign_coords(z=("z", (np.arange(99) - 9) * 3.0, {"units": UNIT}))
    assert (flat == DENSITY.points(points, like=wide).sum("z")).all()


def test_a_grid_may_be_descending_and_start_anywhere():
    points, like = cloud(500), lv.as_stack(np.zeros((5, 6, 7)), voxel_size=VOXEL, unit=UNIT)
    back = like.isel(y=slice(None, None, -1))
    expected = DENSITY.points(points, like=like)
    assert (DENSITY.points(points, like=back).sel(y=like.y) == expected).all()
    part = like.isel(x=slice(2, 6))
    assert (DENSITY.points(points, like=part) == expected.isel(x=slice(2, 6))).all()


def test_infinite_weights_stay_infinite():
    points = xr.DataArray([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0]], dims=("point", "axis"))
    heavy = xr.DataArray([np.inf, 1.0, 2.0], dims="point")
    assert DENSITY.points(points, heavy, like=(1, 2)).values.tolist() == [[np.inf, 2]]


def test_weights_give_dtype_and_unit():
    points, heavy = (
        cloud(20),
        xr.DataArray(np.ones(20, np.float32), dims="point", attrs={"units": "e"}),
    )
    like = lv.as_stack(np.zeros((5, 6, 7)), voxel_size=VOXEL, unit=UNIT)
    sums = DENSITY.points(points, heavy, like=like)
    assert (sums.dtype, sums.attrs) == (np.float32, {"units": "e"})
    assert DENSITY.points(points, heavy.astype(int), like=like).dtype == np.float64
    bare = DENSITY.points(points, like=like)
    assert (bare.dtype, bare.attrs) == (np.int64, {})
    assert bare.x.variable.identical(like.x.variable)
    unnamed = lv.as_stack(points.values), lv.as_stack(heavy.values)
    np.testing.assert_array_equal(DENSITY.points(*unnamed, like=like), sums)


# plans -----------------------------------------------------------------------------------------


def lazy_stack() -> xr.DataArray:
    return stored(speckled(shape=(4, 24, 32, 40)), (1, 12, 16, 20))


@pytest.mark.parametrize(
    "op",
    [
        lambda s: DENSITY.blocks(s, 4),
        lambda s: DENSITY.block_mean(s, 2),
        lambda s: DENSITY.local(s, 5, mode="reflect"),
        lambda s: DENSITY.local(s, 5),
    ],
)
def test_one_task_makes_a_block(op):
    stack = lazy_stack()
    density = op(stack)
    assert lv.explain(density).tasks <= 1.1 * stack.data.npartitions
    np.testing.assert_array_equal(density.compute(), op(stack.compute()))


def test_a_part_reads_only_the_voxels_it_needs():
    density = DENSITY.blocks(lazy_stack(), 4)
    assert lv.explain(density[0, :3, :4, :5]).bytes_read == 4 * 12 * 16 * 20


# errors ----------------------------------------------------------------------------------------

STACK = labelled(values("float32"))
POINTS = cloud(5)
REFUSED: dict[str, tuple[Any, str]] = {
    "size of 0": (lambda: DENSITY.blocks(STACK, 0), "1 or more, got 0"),
    "half a voxel": (lambda: DENSITY.blocks(STACK, {"x": 1.5}), "whole number"),
    "no such dim": (lambda: DENSITY.blocks(STACK, {"t": 2}), "size must name some of the dims"),
    "no spatial dim": (
        lambda: DENSITY.blocks(STACK.isel(z=0, y=0, x=0), 2),
        "must be a mapping",
    ),
    "rest": (lambda: DENSITY.blocks(STACK, {"x": 4}), "'x': \\(13, 4\\).*partial='trim'"),
    "partial": (lambda: DENSITY.blocks(STACK, 4, partial="pad"), "partial must be one of"),
    "complex": (lambda: DENSITY.block_mean(STACK * 1j, 2), "real"),
    "no labels": (lambda: DENSITY.blocks(2.0, 2), "as_stack"),
    "mode": (lambda: DENSITY.local(STACK, 3, mode="clip"), "mode must be one of"),
    "four dims": (
        lambda: DENSITY.local(STACK, dict.fromkeys(STACK.dims, 2)), "along one to three dims",
    ),
    "method": (lambda: DENSITY.points(POINTS, like=STACK, method="cubic"), "'nearest', 'linear'"),
    "no points": (lambda: DENSITY.points(STACK, like=STACK), "dims 'point' and 'axis', got"),
    "two components": (lambda: DENSITY.points(POINTS[:, :2], like=STACK), "one column for each"),
    "wrong components": (
        lambda: DENSITY.points(POINTS.assign_coords(axis=["a", "y", "x"]), like=STACK),
        "got \\['a', 'y', 'x'\\]",
    ),
    "unit": (
        lambda: DENSITY.points(POINTS.assign_attrs(units="nm"), like=STACK),
        "unit of the grid's 'z', angstrom, got nm",
    ),
    "dim of the grid": (
        lambda: DENSITY.points(POINTS.expand_dims(z=2), like=STACK),
        "must not have dims of the grid, got \\['z'\\]",
    ),
    "weights": (
        lambda: DENSITY.points(POINTS, POINTS, like=STACK), "weights must have dims of the points"
    ),
    "too few weights": (
        lambda: DENSITY.points(POINTS, weights(STACK).isel(k=0), like=STACK), "lengths 5 and 11"
    ),
    "grid": (lambda: DENSITY.points(POINTS, like=STACK.isel(z=0, y=0, x=0)), "at least one"),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_invalid_arguments_are_refused(reason):
    call, message = REFUSED[reason]
    with pytest.raises((LabelError, OptionError), match=message):
        call()


@pytest.mark.parametrize("shape", [(0, 2, 3, 4), (3, 0, 3, 4)])
@pytest.mark.parametrize("lazy", [False, True])
def test_densities_of_empty_stacks(shape, lazy):
    stack = lv.as_stack(da.zeros(shape) if lazy else np.zeros(shape))
    assert DENSITY.blocks(stack, {"x": 2}).values.shape == (*shape[:3], 2)
    assert DENSITY.local(stack, {"x": 2}).values.shape == (*shape[:3], 3)
    assert DENSITY.local(stack, 2, mode="reflect").values.shape == shape
    assert DENSITY.local(stack, 5).size == 0
    none = xr.DataArray(np.zeros((0, 3)), dims=("point", "axis"))
    none = none.chunk() if lazy else none
    assert DENSITY.points(none, like=(2, 3, 4)).values.sum() == 0


# real data -------------------------------------------------------------------------------------


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not next to the checkout")
@pytest.mark.parametrize("size", [{"z": 5, "y": 7, "x": 11}, 4])
def test_a_real_membrane(size):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = lv.open(DATA / "masks" / "t74_vesicle3_bin6.Labels.mrc")
    array = volume.values[None]
    density = DENSITY.blocks(volume, size, partial="keep")
    np.testing.assert_allclose(density, block_means(array != 0, size)[0], rtol=1e-14)
    density = DENSITY.local(volume, size, mode="mirror")
    assert (density == window_means(array != 0, size, "mirror")[0]).all()


def test_counts_of_the_oracle_table_are_not_all_zero():
    assert counted(values("float32")).sum() > 10


@pytest.mark.parametrize("name", ["max", "min", "sum", "median"])
def test_reduced_blocks_are_those_of_scikit_image(name):
    values = np.random.default_rng(3).normal(size=(2, 6, 8, 9)).astype(np.float32)
    values[1, 2, 3, 4] = np.nan
    stack = lv.as_stack(da.from_array(values, (1, 4, 3, 9)))
    result = lv.density.block_reduce(stack, (2, 4, 3), name)
    expected = block_reduce(values.astype(np.float64), (1, 2, 4, 3), getattr(np, name))
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6)
    assert np.isnan(result).sum() == 1
    assert result.y.values.tolist() == [1.5, 5.5]


def test_reduced_flags_and_counts():
    flags = np.random.default_rng(4).random((4, 6)) > 0.6
    result = lv.density.block_reduce(lv.as_stack(flags), 2, "max")
    assert result.dtype == bool
    np.testing.assert_array_equal(result, block_reduce(flags, (2, 2), np.max))
    result = lv.density.block_reduce(lv.as_stack(flags.astype(np.uint8) + 200), 2, "sum")
    np.testing.assert_array_equal(result, block_reduce(flags + 200.0, (2, 2), np.sum))
    with pytest.raises(LabelError, match=r"^block_reduce: size must divide the lengths"):
        lv.density.block_reduce(lv.as_stack(flags), 4, "sum")
    with pytest.raises(OptionError, match="reduce must be one of 'max', 'min', 'sum', 'median'"):
        lv.density.block_reduce(lv.as_stack(flags), 2, "mean")
