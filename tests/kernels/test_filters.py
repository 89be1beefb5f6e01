"""Kernels of the filters alone: seams between strips and tiles, axes, choices of a way."""

from math import fsum

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from lazyvol.kernels.filters import (
    correlate,
    fours,
    rank,
    rowwise,
    separable,
    sliding_window,
    sweeping,
)
from tests.rows.filters import KERNEL, close
from tests.strategies import FEW, values


def by_shifts(block, weights):
    """Correlation along each axis that has weights, one shifted block after the other."""
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
def test_axes_are_summed_alone_and_together(shape, dtype, data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    block = rng.normal(0, 50, shape).astype(dtype)
    lengths = [data.draw(st.sampled_from([0, 1, 3, 8, 13])) for _ in shape]
    weights = [
        rng.normal(size=min(n, m)) if n else None for n, m in zip(lengths, shape, strict=True)
    ]
    if data.draw(st.booleans()):
        block = np.asfortranarray(block)
    found = separable.separable(block, weights)
    assert found.dtype == (np.dtype(dtype) if block.dtype.kind == "f" else np.float64)
    close(found, by_shifts(block, weights), 20 if found.dtype.itemsize == 8 else 3e9)


#: fewer rows than four, more than are read at once, more values than a row of memory has; longer
#: taps than fit beside them (by another way), interleaved channels
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
def test_a_sweep_is_what_shifted_blocks_add_up_to(shape, taps):
    rng = np.random.default_rng(11)
    block = rng.normal(3, 50, shape)
    weights = [rng.normal(size=n) if n else None for n in taps]
    expected = by_shifts(block, weights)
    for source in (block, np.asfortranarray(block), block.astype(np.float32)):
        out = np.full(expected.shape, np.nan, source.dtype)
        found = separable.separable(source, weights, out=out)
        assert found is out
        close(found, expected, 30 if out.itemsize == 8 else 3e9)
    other = np.empty(expected.shape, np.float32)
    assert separable.separable(block, weights, out=other).dtype == np.float64
    part = tuple(slice(n // 3, n) for n in shape)
    wanted = found[tuple(slice(n // 3, None) for n in shape)]
    if wanted.size:
        again = separable.separable(block.astype(np.float32)[part], weights)
        np.testing.assert_array_equal(again, wanted)


def test_a_sweep_keeps_what_is_not_finite_in_its_box():
    block = values("float64", (40, 41, 150))
    weights = [separable.gaussian_weights(s) for s in (1.0, 0.5, 2.0)]
    plain = separable.separable(block, weights)
    block[20, 20, 140], block[0, 39, 3] = np.nan, np.inf
    found = separable.separable(block, weights)
    hit = np.zeros(plain.shape, bool)
    hit[12:21, 16:21, 124:] = hit[:1, 35:, :4] = True
    assert not np.isfinite(found[hit]).any()
    np.testing.assert_array_equal(found[~hit], plain[~hit])


def test_sweeps_have_weights_that_find_room():
    one, wide, deep = np.ones(1), np.ones(41), np.ones(sweeping.DEEPEST + 1)
    assert sweeping.fits([one, one, wide], 1)
    assert not sweeping.fits([one, one, np.ones(42)], 1)
    assert not sweeping.fits([one, one, wide], 2)
    assert not sweeping.fits([deep, one, one], 1)
    assert not sweeping.fits([one, one, one.astype(np.float32)], 1)


def test_taps_are_shared_out_in_the_parts_that_are_compiled():
    for n in range(1, 200):
        parts = fours.shares(n)
        assert sum(parts) == n
        assert set(parts) <= {1, 3, 5, 7, 9}
        assert max(parts) - min(parts) <= 2
    assert [fours.shares(n) for n in (1, 2, 9, 17)] == [[1], [1, 1], [9], [7, 5, 5]]


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
    """At 8 deviations; at 3.5 those of derivatives are off by up to 3 %."""
    impulse = np.zeros(41)
    impulse[20] = 1
    for truncate, off in ((8.0, 3e-12), (3.5, 1e-15 if order == 0 else 0.03)):
        expected = ndi.gaussian_filter1d(impulse, 2.3, order=order, truncate=truncate)[::-1]
        found = separable.gaussian_weights(2.3, truncate, order)
        expected = expected[20 - len(found) // 2 :][: len(found)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=off * np.abs(expected).max())


@pytest.mark.parametrize("truncate", [0.1, 1.0, 2.5, 4.0, 8.0])
@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 1.5, 10.0, 200.0])
def test_weights_of_derivatives_have_their_moments(sigma, truncate):
    for order in (0, 1, 2):
        weights = separable.gaussian_weights(sigma, truncate, order, 1)
        at = np.arange(len(weights)) - len(weights) // 2
        moments = [fsum(weights * at**k) * sigma ** (order - k) for k in range(2 + (order > 0))]
        np.testing.assert_allclose(
            moments,
            [1, 0, 0][: len(moments)] if order == 0 else [0, order == 1, 2.0 * (order == 2)],
            atol=1e-14,
        )


def test_strips_and_tiles_meet_without_a_seam(monkeypatch):
    block = values("float64", (23, 37, 29))
    weights = [separable.gaussian_weights(1.0)] * 3
    whole = separable.separable(block, weights)
    means = sliding_window.means(block, sizes=(5, 6, 7), dtype=block.dtype)
    medians = rank.ranked(block, sizes=(3, 2, 4), rank=9)
    products = correlate.by_products(block, KERNEL, block.dtype)
    transforms = correlate.by_transforms(block, KERNEL, block.dtype)
    monkeypatch.setattr(separable, "STRIP", 1)
    monkeypatch.setattr(sliding_window, "TILE", 64)
    monkeypatch.setattr(sliding_window, "NARROW", 8)
    monkeypatch.setattr(correlate, "STRIP", 64)
    monkeypatch.setattr(correlate, "TILE", 12)
    np.testing.assert_array_equal(separable.separable(block, weights), whole)
    again = sliding_window.means(block, sizes=(5, 6, 7), dtype=block.dtype)
    np.testing.assert_array_equal(again, means)
    np.testing.assert_array_equal(correlate.by_products(block, KERNEL, block.dtype), products)
    close(correlate.by_transforms(block, KERNEL, block.dtype), transforms)
    turned = rank.ranked(block.transpose(2, 0, 1), sizes=(4, 3, 2), rank=9)
    np.testing.assert_array_equal(turned.transpose(1, 2, 0), medians)
    long = values("float32", (2, 1, 1300))
    expected = np.sort(np.lib.stride_tricks.sliding_window_view(long, 5, axis=2))[..., 1]
    np.testing.assert_array_equal(rank.ranked(long, sizes=(1, 1, 5), rank=1), expected)


@pytest.mark.parametrize("shape", [(2, 30, 31, 33), (60, 70), (3, 5, 250), (40, 3, 41)])
def test_products_and_transforms_agree(shape):
    rng = np.random.default_rng(8)
    block = rng.normal(5, 3, shape)
    weights = rng.normal(size=tuple(min(n, m) for n, m in zip((9, 6, 11, 7), shape, strict=False)))
    products = correlate.by_products(block, weights, block.dtype)
    close(correlate.by_transforms(block, weights, block.dtype), products)
    single = block.astype(np.float32)
    found = [
        f(single, weights, single.dtype) for f in (correlate.by_products, correlate.by_transforms)
    ]
    assert np.abs(found[0] - found[1]).max() <= 2.4e-7 * np.abs(products).max()


def by_products(block, weights):
    """Correlation, one shifted block after the other; weights of 0 are left out."""
    kept = [n - w + 1 for n, w in zip(block.shape, weights.shape, strict=True)]
    found = np.zeros(kept)
    for at in zip(*np.nonzero(weights), strict=True):
        found += weights[at] * block[tuple(slice(a, a + n) for a, n in zip(at, kept, strict=True))]
    return found


#: blocks and weights: rows along every axis, fewer than four of them and more than are read at
#: once, taps that do not fit beside a row of memory, taps of all numbers, interleaved channels
PRODUCTS = [
    ((9, 40, 31), (3, 5, 4)), ((40, 5, 31), (3, 1, 4)), ((9, 40, 31), (3, 9, 1)),
    ((2, 9, 40, 31), (1, 3, 9, 2)), ((4, 9, 12, 11), (3, 3, 3, 2)), ((50, 160), (11, 17)),
    ((40, 50, 3), (5, 6, 1)), ((20, 200), (5, 50)), ((5, 600), (2, 3)),
    ((3, 14, 3, 2), (1, 8, 2, 1)), ((20, 3, 40), (16, 1, 17)), ((4, 5, 6, 7), (2, 1, 1, 3)),
    ((7, 7), (7, 7)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "lengths"), PRODUCTS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16"])
def test_rows_by_fours_are_sums_of_products(shape, lengths, dtype, monkeypatch):
    monkeypatch.setattr(rowwise, "DENSE", 1)
    rng = np.random.default_rng(12)
    block, weights = rng.normal(0, 50, shape).astype(dtype), rng.normal(size=lengths)
    weights[rng.random(lengths) < 0.1] = 0
    assert rowwise.planned(weights[None]) is not None
    expected = by_products(block, weights)
    out = np.full(expected.shape, np.nan)
    found = correlate.by_products(np.asfortranarray(block), weights, out.dtype, out)
    assert np.shares_memory(found, out)
    close(found, expected)
    single = correlate.by_products(block, weights, np.dtype(np.float32))
    assert single.dtype == np.float32
    close(single, expected, 3e9)


def test_rows_by_fours_leave_out_weights_of_0():
    block, weights = values("float64", (30, 31, 150)), np.ones((5, 6, 7))
    weights[:, 2, 3] = weights[4] = 0
    weights[0, 0, 0] = 2
    assert rowwise.planned(weights) is not None
    plain = correlate.by_products(block, weights, block.dtype)
    block[20, 20, 120] = np.inf
    found = correlate.by_products(block, weights, block.dtype)
    hit = np.zeros(plain.shape, bool)
    for at in zip(*np.nonzero(weights), strict=True):
        hit[20 - at[0], 20 - at[1], 120 - at[2]] = True
    assert not np.isfinite(found[hit]).any()
    np.testing.assert_array_equal(found[~hit], plain[~hit])


def test_rows_by_fours_are_for_weights_side_by_side():
    assert rowwise.planned(np.ones((5, 5, 5))) is not None
    assert rowwise.planned(np.ones((3, 3, 3))) is None
    assert rowwise.planned(np.ones((1, 1, 9))) is None
    assert rowwise.planned(np.zeros((5, 5, 5))) is None
    cross = np.zeros((7, 7, 7))
    cross[3, 3], cross[3, :, 3], cross[:, 3, 3] = 1, 1, 1
    assert rowwise.planned(cross) is None


def test_transforms_are_for_large_kernels_on_large_blocks():
    pays = correlate.transforms_pay
    small, large = np.ones((5, 5, 5)), np.ones((15, 15, 15))
    assert not pays((128, 128, 128), small)
    assert pays((142, 142, 142), large)
    assert pays((4, 142, 142, 142), large[None])
    assert not pays((15, 15, 16), large)  # two voxels are less than a transform
    sparse = np.zeros((15, 15, 15))
    sparse[::7, ::7, ::7] = 1
    assert not pays((142, 142, 142), sparse)


def test_products_of_rows_are_recognised():
    rng = np.random.default_rng(9)
    rows = [rng.normal(size=n) for n in (4, 1, 5, 3)]
    made = np.einsum("a,b,c,d->abcd", *rows)
    found = correlate.factors(made)
    np.testing.assert_allclose(np.einsum("a,b,c,d->abcd", *found), made, rtol=1e-14)
    made[1, 0, 2, 1] *= 1 + 1e-13
    assert correlate.factors(made) is None
    assert correlate.factors(np.zeros((3, 3))) is None
    assert correlate.factors(np.eye(3)) is None
    np.testing.assert_array_equal(correlate.factors(np.full((1, 1), 7.0))[0], [7.0])


def test_windows_of_more_values_than_a_byte_can_count():
    rng = np.random.default_rng(6)
    array = np.where(rng.random((5, 11, 13)) < 0.02, 255, rng.integers(0, 9, (5, 11, 13)))
    array = array.astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(array, (5, 9, 7)).reshape(1, 3, 7, -1)
    found = rank.ranked(array, sizes=(5, 9, 7), rank=157)
    np.testing.assert_array_equal(found, np.sort(windows, axis=-1)[..., 157])


def test_transforms_do_not_spread_what_is_not_finite():
    rng = np.random.default_rng(10)
    block, weights = rng.normal(size=(45, 44, 43)), rng.normal(size=(15, 15, 15))
    assert correlate.transforms_pay(block.shape, weights)
    plain = correlate.correlate(block, weights=weights, dtype=block.dtype)
    block[20, 3, 40] = np.nan
    found = correlate.correlate(block, weights=weights, dtype=block.dtype)
    hit = np.zeros(plain.shape, bool)
    hit[6:21, :4, 26:] = True
    assert np.isnan(found[hit]).all()
    close(found[~hit], plain[~hit])
