"""Filter kernels: seams between strips and tiles, axes, choice of the method."""

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from lazyvol.kernels.filters import (
    correlate,
    dense_correlation,
    rank,
    separable,
    separable_sweep,
    sliding_window,
    weighted_sums,
)
from tests.rows.filters import KERNEL, close
from tests.strategies import FEW, values


def by_shifts(block, weights):
    """Correlate along each axis that has weights, by adding shifted blocks."""
    block = block.astype(np.float64)
    for axis, w in enumerate(weights):
        if w is not None:
            n = block.shape[axis] - len(w) + 1
            block = sum(w[t] * np.take(block, range(t, t + n), axis) for t in range(len(w)))
    return block


BLOCKS = [(3, 13, 17, 19), (29, 31, 37), (700, 23), (9, 11, 13, 2), (3, 600, 7), (1500,)]


@pytest.mark.parametrize("shape", BLOCKS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", ">f8"])
@given(data=st.data())
@settings(FEW, max_examples=8)
def test_separable_correlation_equals_a_sum_of_shifted_blocks(shape, dtype, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    block = rng.normal(0, 50, shape).astype(dtype)
    lengths = [data.draw(st.sampled_from([0, 1, 3, 8, 13])) for _ in shape]
    weights = [
        rng.normal(size=min(n, m)) if n else None for n, m in zip(lengths, shape, strict=True)
    ]
    if data.draw(st.booleans()):
        block = np.asfortranarray(block)
    result = separable.separable(block, weights)
    assert result.dtype == (np.dtype(dtype) if block.dtype.kind == "f" else np.float64)
    close(result, by_shifts(block, weights), 20 if result.dtype.itemsize == 8 else 3e9)


#: fewer rows than four, more than are read at once, more values than a buffer row; taps too long
#: for a sweep (axis by axis), interleaved channels
SWEPT = [
    ((21, 23, 150), (5, 7, 9)),
    ((20, 19, 29), (2, 8, 16)),
    ((90, 4, 6), (67, 3, 2)),
    ((3, 22, 300), (1, 17, 45)),
    ((2, 40, 140), (None, 17, 17)),
    ((19, 21, 33, 3), (4, 5, 12, None)),
    ((1, 1, 200), (1, 1, 3)),
]


@pytest.mark.parametrize(("shape", "taps"), SWEPT)
def test_a_sweep_equals_a_sum_of_shifted_blocks(shape, taps):
    rng = np.random.default_rng(11)
    block = rng.normal(3, 50, shape)
    weights = [rng.normal(size=n) if n else None for n in taps]
    expected = by_shifts(block, weights)
    axes = {a: w for a, w in enumerate(weights) if w is not None}
    for source in (block, np.asfortranarray(block), block.astype(np.float32)):
        out = np.full(expected.shape, np.nan, source.dtype)
        result = separable.separable(source, weights, out=out)
        assert (result is out) == separable.is_swept(shape, axes)
        close(result, expected, 30 if out.itemsize == 8 else 3e9)
    other = np.empty(expected.shape, np.float32)
    assert separable.separable(block, weights, out=other).dtype == np.float64
    part = tuple(slice(n // 3, n) for n in shape)
    same_part = result[tuple(slice(n // 3, None) for n in shape)]
    if same_part.size:
        again = separable.separable(block.astype(np.float32)[part], weights)
        np.testing.assert_array_equal(again, same_part)


def test_a_sweep_keeps_nan_and_infinities_in_their_windows():
    block = values("float64", (40, 41, 150))
    weights = [separable.gaussian_weights(s) for s in (1.0, 0.5, 2.0)]
    plain = separable.separable(block, weights)
    block[20, 20, 140], block[0, 39, 3] = np.nan, np.inf
    result = separable.separable(block, weights)
    affected = np.zeros(plain.shape, bool)
    affected[12:21, 16:21, 124:] = affected[:1, 35:, :4] = True
    assert not np.isfinite(result[affected]).any()
    np.testing.assert_array_equal(result[~affected], plain[~affected])


def test_a_sweep_takes_weights_that_fit_its_buffers():
    one, wide, deep = np.ones(1), np.ones(41), np.ones(separable_sweep.MAX_PLANE_TAPS + 1)
    assert separable_sweep.fits([one, one, wide], 1)
    assert not separable_sweep.fits([one, one, np.ones(42)], 1)
    assert not separable_sweep.fits([one, one, wide], 2)
    assert not separable_sweep.fits([deep, one, one], 1)
    assert not separable_sweep.fits([one, one, one.astype(np.float32)], 1)


def test_taps_are_split_into_parts_that_are_compiled():
    for n in range(1, 200):
        parts = weighted_sums.split_taps(n)
        assert sum(parts) == n
        assert set(parts) <= {1, 3, 5, 7, 9}
        assert max(parts) - min(parts) <= 2
    assert [weighted_sums.split_taps(n) for n in (1, 2, 9, 17)] == [[1], [1, 1], [9], [7, 5, 5]]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_float32_weights_sum_in_float32(axis):
    block = values("float32", (40, 41, 43))
    weights = separable.gaussian_weights(1.5)
    exact = separable.along(block.astype(np.float64), weights, axis)
    single = separable.along(block, weights.astype(np.float32), axis)
    assert single.dtype == np.float32
    error = np.abs(single - exact).max() / np.abs(exact).max()
    assert 1e-8 < error < 4e-7
    double = separable.along(block, weights, axis, dtype=np.dtype(np.float64))
    np.testing.assert_allclose(double, exact, rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gaussian_weights_are_scipys_where_nothing_is_cut_off(order):
    """At 8 deviations; at 3.5 those of derivatives differ by up to 3 %."""
    impulse = np.zeros(41)
    impulse[20] = 1
    for truncate, tolerance in ((8.0, 3e-12), (3.5, 1e-15 if order == 0 else 0.03)):
        expected = ndi.gaussian_filter1d(impulse, 2.3, order=order, truncate=truncate)[::-1]
        weights = separable.gaussian_weights(2.3, truncate, order)
        expected = expected[20 - len(weights) // 2 :][: len(weights)]
        np.testing.assert_allclose(
            weights, expected, rtol=0, atol=tolerance * np.abs(expected).max()
        )


@pytest.mark.parametrize("truncate", [0.1, 1.0, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.5, 10.0, 200.0])
def test_weights_of_derivatives_have_exact_moments(sigma, truncate):
    for order in (0, 1, 2):
        weights = separable.gaussian_weights(sigma, truncate, order, 1)
        x = np.arange(len(weights)) - len(weights) // 2
        moments = [fsum(weights * x**k) * sigma ** (order - k) for k in range(2 + (order > 0))]
        np.testing.assert_allclose(
            moments,
            [1, 0, 0][: len(moments)] if order == 0 else [0, order == 1, 2.0 * (order == 2)],
            atol=1e-14,
        )


def test_strips_and_tiles_have_no_seams(monkeypatch):
    block = values("float64", (23, 37, 29))
    weights = [separable.gaussian_weights(1.0)] * 3
    along = separable.along(block, weights[0], 0)
    means = sliding_window.mean(block, sizes=(5, 6, 7), dtype=block.dtype)
    medians = rank.select_rank(block, sizes=(3, 2, 4), rank=9)
    products = correlate.by_products(block, KERNEL, block.dtype)
    transforms = correlate.by_transforms(block, KERNEL, block.dtype)
    monkeypatch.setattr(sliding_window, "TILE", 64)
    monkeypatch.setattr(sliding_window, "NARROW", 8)
    monkeypatch.setattr(correlate, "STRIP", 64)
    monkeypatch.setattr(correlate, "TILE", 12)
    np.testing.assert_array_equal(separable.along(block[:, 3:], weights[0], 0), along[:, 3:])
    again = sliding_window.mean(block, sizes=(5, 6, 7), dtype=block.dtype)
    np.testing.assert_array_equal(again, means)
    np.testing.assert_array_equal(correlate.by_products(block, KERNEL, block.dtype), products)
    close(correlate.by_transforms(block, KERNEL, block.dtype), transforms)
    transposed = rank.select_rank(block.transpose(2, 0, 1), sizes=(4, 3, 2), rank=9)
    np.testing.assert_array_equal(transposed.transpose(1, 2, 0), medians)
    long = values("float32", (2, 1, 1300))
    expected = np.sort(np.lib.stride_tricks.sliding_window_view(long, 5, axis=2))[..., 1]
    np.testing.assert_array_equal(rank.select_rank(long, sizes=(1, 1, 5), rank=1), expected)


@pytest.mark.parametrize("shape", [(2, 30, 31, 33), (60, 70), (3, 5, 250), (40, 3, 41)])
def test_products_and_transforms_agree(shape):
    rng = np.random.default_rng(8)
    block = rng.normal(5, 3, shape)
    weights = rng.normal(size=tuple(min(n, m) for n, m in zip((9, 6, 11, 7), shape, strict=False)))
    products = correlate.by_products(block, weights, block.dtype)
    close(correlate.by_transforms(block, weights, block.dtype), products)
    single = block.astype(np.float32)
    direct = correlate.by_products(single, weights, single.dtype)
    transformed = correlate.by_transforms(single, weights, single.dtype)
    assert np.abs(direct - transformed).max() <= 2.4e-7 * np.abs(products).max()


def by_products(block, weights):
    """Correlate by adding shifted blocks; weights of 0 are skipped."""
    kept = [n - w + 1 for n, w in zip(block.shape, weights.shape, strict=True)]
    total = np.zeros(kept)
    for at in zip(*np.nonzero(weights), strict=True):
        total += weights[at] * block[tuple(slice(a, a + n) for a, n in zip(at, kept, strict=True))]
    return total


#: shapes of blocks and weights: rows along every axis, fewer than four of them and more than are
#: read at once, taps too long for a buffer row, any number of taps, interleaved channels
PRODUCTS = [
    ((9, 40, 31), (3, 5, 4)), ((40, 5, 31), (3, 1, 4)), ((9, 40, 31), (3, 9, 1)),
    ((2, 9, 40, 31), (1, 3, 9, 2)), ((4, 9, 12, 11), (3, 3, 3, 2)), ((50, 160), (11, 17)),
    ((40, 50, 3), (5, 6, 1)), ((20, 200), (5, 50)), ((5, 600), (2, 3)),
    ((3, 14, 3, 2), (1, 8, 2, 1)), ((20, 3, 40), (16, 1, 17)), ((4, 5, 6, 7), (2, 1, 1, 3)),
    ((7, 7), (7, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "lengths"), PRODUCTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_four_rows_at_a_time_equal_a_sum_of_shifted_blocks(shape, lengths, dtype, monkeypatch):
    monkeypatch.setattr(dense_correlation, "MIN_RUN", 1)
    rng = np.random.default_rng(12)
    block, weights = rng.normal(0, 50, shape).astype(dtype), rng.normal(size=lengths)
    weights[rng.random(lengths) < 0.1] = 0
    assert dense_correlation.schedule(weights[None]) is not None
    expected = by_products(block, weights)
    out = np.full(expected.shape, np.nan)
    result = correlate.by_products(np.asfortranarray(block), weights, out.dtype, out)
    assert np.shares_memory(result, out)
    close(result, expected)
    single = correlate.by_products(block, weights, np.dtype(np.float32))
    assert single.dtype == np.float32
    close(single, expected, 3e9)


def test_four_rows_at_a_time_skip_weights_of_0():
    block, weights = values("float64", (30, 31, 150)), np.ones((5, 6, 7))
    weights[:, 2, 3] = weights[4] = 0
    weights[0, 0, 0] = 2
    assert dense_correlation.schedule(weights) is not None
    plain = correlate.by_products(block, weights, block.dtype)
    block[20, 20, 120] = np.inf
    result = correlate.by_products(block, weights, block.dtype)
    affected = np.zeros(plain.shape, bool)
    for at in zip(*np.nonzero(weights), strict=True):
        affected[20 - at[0], 20 - at[1], 120 - at[2]] = True
    assert not np.isfinite(result[affected]).any()
    np.testing.assert_array_equal(result[~affected], plain[~affected])


def test_four_rows_at_a_time_need_adjacent_weights():
    assert dense_correlation.schedule(np.ones((5, 5, 5))) is not None
    assert dense_correlation.schedule(np.ones((3, 3, 3))) is None
    assert dense_correlation.schedule(np.ones((1, 1, 9))) is None
    assert dense_correlation.schedule(np.zeros((5, 5, 5))) is None
    cross = np.zeros((7, 7, 7))
    cross[3, 3], cross[3, :, 3], cross[:, 3, 3] = 1, 1, 1
    assert dense_correlation.schedule(cross) is None


def test_transforms_pay_for_large_kernels_on_large_blocks():
    pays = correlate.transforms_pay
    small, large = np.ones((5, 5, 5)), np.ones((15, 15, 15))
    assert not pays((128, 128, 128), small)
    assert pays((142, 142, 142), large)
    assert pays((4, 142, 142, 142), large[None])
    assert not pays((15, 15, 16), large)  # two voxels cost less than a transform
    sparse = np.zeros((15, 15, 15))
    sparse[::7, ::7, ::7] = 1
    assert not pays((142, 142, 142), sparse)


def test_outer_products_of_rows_are_recognised():
    rng = np.random.default_rng(9)
    rows = [rng.normal(size=n) for n in (4, 1, 5, 3)]
    weights = np.einsum("a,b,c,d->abcd", *rows)
    factors = correlate.factors(weights)
    np.testing.assert_allclose(np.einsum("a,b,c,d->abcd", *factors), weights, rtol=1e-14)
    weights[1, 0, 2, 1] *= 1 + 1e-13
    assert correlate.factors(weights) is None
    assert correlate.factors(np.zeros((3, 3))) is None
    assert correlate.factors(np.eye(3)) is None
    np.testing.assert_array_equal(correlate.factors(np.full((1, 1), 7.0))[0], [7.0])


def test_windows_of_more_values_than_a_byte_can_count():
    rng = np.random.default_rng(6)
    array = np.where(rng.random((5, 11, 13)) < 0.02, 255, rng.integers(0, 9, (5, 11, 13)))
    array = array.astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(array, (5, 9, 7)).reshape(1, 3, 7, -1)
    result = rank.select_rank(array, sizes=(5, 9, 7), rank=157)
    np.testing.assert_array_equal(result, np.sort(windows, axis=-1)[..., 157])


def test_transforms_do_not_spread_nan():
    rng = np.random.default_rng(10)
    block, weights = rng.normal(size=(45, 44, 43)), rng.normal(size=(15, 15, 15))
    assert correlate.transforms_pay(block.shape, weights)
    plain = correlate.correlate(block, weights=weights, dtype=block.dtype)
    block[20, 3, 40] = np.nan
    result = correlate.correlate(block, weights=weights, dtype=block.dtype)
    affected = np.zeros(plain.shape, bool)
    affected[6:21, :4, 26:] = True
    assert np.isnan(result[affected]).all()
    close(result[~affected], plain[~affected])
