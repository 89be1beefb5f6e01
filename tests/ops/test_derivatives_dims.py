"""Derivatives along any dims in any order, and the tiles of volumes."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.kernels.derivatives import outputs
from tests.rows.derivatives import derived

MANY = {"k": 3, "z": 5, "y": 7, "x": 6, "c": 4}
SOME_DIMS = [d for n in (1, 2, 3) for d in combinations("kzyxc", n)]


def many_dims(order: str) -> xr.DataArray:
    """Return five dims in an order, some before, between and after those of derivatives."""
    a = np.random.default_rng(2).standard_normal(tuple(MANY.values()))
    a[1, 2, 3, 1, 2] = np.nan
    return xr.DataArray(a, dims=tuple(MANY)).transpose(*order)


@pytest.mark.parametrize("order", ["kzyxc", "czyxk", "xyckz"])
@pytest.mark.parametrize("dims", SOME_DIMS, ids="".join)
def test_any_dims_are_differentiated_along_and_no_others(dims, order):
    stack = many_dims(order)
    axes = [order.index(d) for d in dims]
    first = np.stack([np.gradient(stack.values, axis=a) for a in axes], -1)
    result = lv.derivatives.gradient(stack, dim=dims)
    np.testing.assert_allclose(result, first, rtol=0, atol=1e-14)
    second = np.stack(
        [
            np.stack([np.gradient(first[..., n], axis=a) for a in axes], -1)
            for n in range(len(axes))
        ],
        -2,
    )
    result = lv.derivatives.hessian(stack, dim=dims)
    np.testing.assert_allclose(result, second, rtol=0, atol=1e-14)
    result = lv.derivatives.laplacian(stack, dim=dims)
    np.testing.assert_allclose(result, np.trace(second, axis1=-2, axis2=-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", ["kzyxc", "xyckz"])
@pytest.mark.parametrize("dims", SOME_DIMS, ids="".join)
def test_any_dims_have_a_scale_and_no_others(dims, order):
    stack = many_dims(order).fillna(0.0)
    axes = [order.index(d) for d in dims]

    def smooth(values: np.ndarray, *orders: int) -> np.ndarray:
        each = dict(zip(axes, orders, strict=True))
        sigmas = [1.0 if a in axes else 0.0 for a in range(5)]
        return derived(values, sigmas, [each.get(a, 0) for a in range(5)])

    ones = np.eye(len(axes), dtype=int)
    first = np.stack([smooth(stack.values, *row) for row in ones], -1)
    result = lv.derivatives.gradient(stack, sigma=1.0, dim=dims)
    np.testing.assert_allclose(result, first, rtol=0, atol=1e-14)
    second = [[smooth(stack.values, *(a + b)) for b in ones] for a in ones]
    result = lv.derivatives.hessian(stack, sigma=1.0, dim=dims)
    np.testing.assert_allclose(result, np.stack([np.stack(r, -1) for r in second], -2), atol=1e-14)
    products = np.stack(
        [
            np.stack(
                [
                    smooth(first[..., i] * first[..., j], *(0,) * len(axes))
                    for j in range(len(axes))
                ],
                -1,
            )
            for i in range(len(axes))
        ],
        -2,
    )
    result = lv.derivatives.structure_tensor(stack, sigma=1.0, inner=1.0, dim=dims)
    np.testing.assert_allclose(result, products, rtol=0, atol=1e-14)


@pytest.mark.parametrize("halo", [(0, 0, 0), (16, 16, 16), (64, 64, 64)])
def test_tiles_cover_a_volume_once(halo):
    for shape in [(1, 1, 1), (3, 7, 1000), (2, 300, 300), (1, 5000, 9), (40, 1, 700), (5, 600, 70)]:
        seen = np.zeros(shape, int)
        for place in outputs.tiles(shape, halo, 48 * 5000):
            seen[place] += 1
            assert seen[place].size <= 10_000
        assert (seen == 1).all()
