"""Stretching, equalizing and display: voxels that count, those that stay, and reads."""

import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr
from skimage.exposure import equalize_hist

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.intensity.equalize import gaussian_stretch
from tests.cases import UNIT, VOXEL
from tests.paths import DATA
from tests.sources import READS, elements_read
from tests.strategies import (
    MORE,
    SHAPE,
    arrays_with_nan,
    chunked,
    chunkings,
    labelled,
    masks,
    stored,
    values,
)

INTENSITY = lv.intensity
PER = st.sampled_from(["stack", "particle"])


def valid_of(array: np.ndarray, mask: xr.DataArray, exclude: Any = ()) -> np.ndarray:
    return np.broadcast_to(mask.values, array.shape) & ~np.isnan(array) & ~np.isin(array, exclude)


def by_part(function: Any, array: np.ndarray, valid: np.ndarray, per: str) -> np.ndarray:
    """Apply a function of values and flags to all or to each particle; other values stay."""
    wide = array.astype(np.float64)
    if per == "stack":
        return np.where(valid, function(wide, valid), wide) if valid.any() else wide
    parts = [by_part(function, a, v, "stack") for a, v in zip(wide, valid, strict=True)]
    return np.stack(parts)


def stretched(a: np.ndarray, valid: np.ndarray) -> np.ndarray:
    counted = a[valid]
    width = counted.std()
    return ndtr((a - counted.mean()) / (width if width > 0 else 1))


def equalised(a: np.ndarray, valid: np.ndarray) -> np.ndarray:
    return equalize_hist(np.where(valid, a, a[valid][0]), 32, valid)


@given(arrays_with_nan(), masks(), chunkings(), PER)
@MORE
def test_a_stretch_uses_valid_voxels(array, mask, grid, per):
    result = INTENSITY.gaussian_stretch(chunked(array, grid), per=per, mask=mask)
    expected = by_part(stretched, array, valid_of(array, mask), per)
    np.testing.assert_allclose(result.compute(scheduler="sync"), expected, rtol=1e-6, atol=1e-6)


@given(arrays_with_nan(), masks(), chunkings(), PER)
@MORE
def test_equalising_uses_valid_voxels(array, mask, grid, per):
    result = INTENSITY.equalise(chunked(array, grid), bins=32, per=per, mask=mask)
    expected = by_part(equalised, array, valid_of(array, mask), per)
    np.testing.assert_allclose(result.compute(scheduler="sync"), expected, rtol=1e-6, atol=1e-6)


@given(arrays_with_nan(), masks(), chunkings(), PER)
@MORE
def test_levels_are_between_percentiles_of_valid_voxels(array, mask, grid, per):
    result = INTENSITY.display(chunked(array, grid), percentiles=(10, 80), per=per, mask=mask)
    valid = valid_of(array, mask)

    def shown(a: np.ndarray, v: np.ndarray) -> np.ndarray:
        low, high = np.quantile(a[v], (0.1, 0.8)).astype(np.float32).astype(float)
        width = high - low if high > low else 1.0
        return np.rint(np.nan_to_num(np.clip((a - low) / width, 0, 1)) * 255)

    parts = [(array, valid)] if per == "stack" else zip(array, valid, strict=True)
    flat = [shown(a.astype("f8"), v) if v.any() else np.zeros(a.shape) for a, v in parts]
    expected = flat[0] if per == "stack" else np.stack(flat)
    counts = valid.any() if per == "stack" else valid.any((1, 2, 3))
    result = result.compute(scheduler="sync").values
    alone = valid.sum() if per == "stack" else valid.sum((1, 2, 3))
    several = np.broadcast_to(np.reshape(counts & (alone > 1), (-1, 1, 1, 1)), result.shape)
    assert (result[several] == expected[several]).all()


@pytest.mark.parametrize("dtype", ["float32", "int16", "float16"])
def test_missing_data_stay_as_they_are(dtype):
    array = values("float32").astype(dtype)
    array[:, 1, :4] = -9999
    stack = labelled(array)
    for op in (INTENSITY.gaussian_stretch, INTENSITY.equalise):
        result = op(stack, exclude=-9999).values.astype("f8")
        absent = array == -9999
        assert (result[absent] == array[absent]).all()
        assert ((result[~absent] >= 0) & (result[~absent] <= 1)).all()
        assert result[~absent].std() > 0.2


@pytest.mark.parametrize("per", ["stack", "particle"])
@pytest.mark.parametrize("lazy", [False, True])
def test_nan_does_not_count_and_stays(per, lazy):
    array = values("float32")
    absent = np.random.default_rng(8).random(SHAPE) < 0.3
    array[absent] = np.nan
    stack = chunked(array, (3, 2, 4, 7)) if lazy else labelled(array)
    for op, function in (
        (lambda s: INTENSITY.gaussian_stretch(s, per=per), stretched),
        (lambda s: INTENSITY.equalise(s, bins=32, per=per), equalised),
    ):
        expected = by_part(function, array, ~absent, per)
        np.testing.assert_allclose(op(stack), expected, rtol=1e-6, atol=1e-6)


def test_a_normal_stack_is_spread_evenly():
    stack = lv.synthetic.noise((3, 32, 32, 32), seed=4, scale=7.0) + 100
    result = INTENSITY.gaussian_stretch(stack)
    counts = lv.stats.histogram(result, bins=10, range=(0, 1)).counts.values
    assert np.abs(counts / result.size - 0.1).max() < 0.01


def test_a_stretch_far_from_zero_keeps_its_digits():
    array = np.random.default_rng(0).normal(1e6, 1, (1, 20, 20, 20)).astype(np.float32)
    result = INTENSITY.gaussian_stretch(lv.as_stack(array), per="stack")
    wide = array.astype("f8")
    np.testing.assert_allclose(result, ndtr((wide - wide.mean()) / wide.std()), atol=1e-7)


def test_the_normal_distribution_is_right_to_rounding():
    z = np.concatenate([np.linspace(-12, 12, 99_991), [np.inf, -np.inf, np.nan]]).reshape(2, 1, -1)
    blocks = (z, np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    result = gaussian_stretch(*blocks, n=1.0, exclude=(), limits=(0.0, 1.0), dtype=np.dtype("f8"))
    np.testing.assert_allclose(result, ndtr(z), rtol=0, atol=3e-16)


@pytest.mark.parametrize("per", ["stack", "particle"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_results_for_constants(per, dtype):
    constant = lv.as_stack(np.full((2, 3, 4, 5), 7, dtype))
    assert (INTENSITY.gaussian_stretch(constant, -1, 3, per=per).values == 1).all()
    result = INTENSITY.equalise(constant, per=per, bins=3).values
    assert (result == result.flat[0]).all()
    assert (INTENSITY.display(constant, per=per).values == 0).all()


@pytest.mark.parametrize("per", ["stack", "particle"])
def test_infinities_become_the_limits(per):
    volume = lv.as_stack(np.array([[[-np.inf, 0.0, 1.0, 2.0, np.inf]]]))
    result = INTENSITY.equalise(volume, bins=3, per=per).values.ravel()
    np.testing.assert_allclose(result, [1 / 3, 1 / 3, 2 / 3, 1, 1])
    shown = INTENSITY.display(volume, limits=(0, 2)).values.ravel()
    assert shown.tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("per", ["stack", "particle"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_8_bit_values_are_levels(per, dtype):
    array = (values("uint8") // 5).astype(dtype)
    result = INTENSITY.equalise(labelled(array), per=per)
    expected = equalize_hist(array) if per == "stack" else np.stack([*map(equalize_hist, array)])
    np.testing.assert_allclose(result, expected, atol=1e-15)


def test_channels_have_separate_statistics():
    image = values("float32")[0].transpose(1, 2, 0)
    stack = lv.as_stack(image, dims=("y", "x", "channel"))
    result = INTENSITY.gaussian_stretch(stack)
    channels = image.transpose(2, 0, 1)
    expected = by_part(stretched, channels, ~np.isnan(channels), "particle")
    np.testing.assert_allclose(result.transpose("channel", "y", "x"), expected, atol=1e-6)


def test_reads_are_those_of_the_plan():
    array = values("float32")
    stack = stored(array, (1, 5, 11, 13))
    token = f"stored-{array.dtype}-{array.shape}-{(1, 5, 11, 13)}"
    for op, reads in (
        (lambda s: INTENSITY.gaussian_stretch(s, per="stack"), 2),
        (lambda s: INTENSITY.equalise(s, range=(-5, 5)), 2),
        (INTENSITY.equalise, 3),
        (lambda s: INTENSITY.equalise(s, per="particle"), 1),
        (lambda s: INTENSITY.display(s, limits=(0, 1)), 1),
    ):
        READS[token].clear()
        op(stack).compute(scheduler="sync")
        assert elements_read(token) == reads * array.size


def test_tasks_are_few():
    stack = stored(np.zeros((64, 8, 8, 8), np.float32), (1, 8, 8, 8))
    for op in (INTENSITY.equalise, INTENSITY.gaussian_stretch, INTENSITY.display):
        result = op(stack)
        assert lv.explain(result).tasks <= 1.1 * stack.data.npartitions


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")
@pytest.mark.parametrize("name", ["masks/bat-cochlea_sub25.tif", "fluorescence/mini-t1-head.tif"])
def test_real_volumes(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = lv.open(DATA / name)
    array = volume.values.astype(np.float64)
    inside = array != 0
    result = INTENSITY.equalise(volume, bins=100, exclude=0)
    expected = np.where(inside, equalize_hist(array, 100, inside), 0)
    np.testing.assert_allclose(result, expected, atol=1e-12)


STACK = labelled(values("float32"))
FLAGS = lv.as_stack(np.ones(SHAPE[1:], bool), voxel_size=VOXEL, unit=UNIT)
REFUSED: dict[str, tuple[Any, str]] = {
    "n": (lambda: INTENSITY.gaussian_stretch(STACK, n=0), "above 0, got n=0"),
    "ends": (lambda: INTENSITY.gaussian_stretch(STACK, 0, np.inf), "finite"),
    "per": (lambda: INTENSITY.equalise(STACK, per="slice"), "'stack', 'particle', got 'slice'"),
    "bins": (lambda: INTENSITY.equalise(STACK, bins=0), "1 or more, got 0"),
    "range": (lambda: INTENSITY.equalise(STACK, range=(3, 1)), "low <= high"),
    "range of particles": (
        lambda: INTENSITY.equalise(STACK, range=(3, 1), per="particle"), "low <= high"
    ),
    "exclude": (lambda: INTENSITY.equalise(STACK, exclude="a"), "exclude must be a number"),
    "mask": (lambda: INTENSITY.equalise(STACK, mask=FLAGS * 1.0), "mask must be boolean"),
    "mask of another size": (
        lambda: INTENSITY.display(STACK, mask=FLAGS.isel(x=slice(3))), "lengths 13 and 3"
    ),
    "percentiles": (lambda: INTENSITY.display(STACK, percentiles=(99, 1)), "two rising numbers"),
    "one percentile": (lambda: INTENSITY.display(STACK, percentiles=5), "2 finite numbers"),
    "limits": (lambda: INTENSITY.display(STACK, limits=(1, np.nan)), "2 finite numbers"),
    "complex": (lambda: INTENSITY.display(STACK * 1j), "real numbers"),
    "no labels": (lambda: INTENSITY.equalise(2.0), "as_stack"),
    "no particle": (
        lambda: INTENSITY.equalise(STACK.isel(z=0, y=0, x=0), per="particle"), "dims z, y, x"
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
def test_wrong_options_are_refused(reason):
    act, message = REFUSED[reason]
    with pytest.raises((LabelError, OptionError), match=message):
        act()
