"""Rows of the density topic, with numpy and scipy as oracles."""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from scipy import ndimage as ndi

import lazyvol as lv
from tests.cases import STACKED, VOLUME, VOXEL, Array, Case, wide

SIZES = {"z": 2, "y": 3, "x": 4}


def holed(stack: xr.DataArray) -> xr.DataArray:
    """Return the stack with zeros where it is not above 1."""
    return stack.where(stack > 1, 0)


def full(a: Array) -> Array:
    """Return 1 where a holed stack is not 0."""
    return np.asarray(a > 1, np.float64)


def lengths(size: Any, dims: Sequence[str] = STACKED) -> tuple[int, ...]:
    """Return a size for every dim."""
    every = size if isinstance(size, Mapping) else dict.fromkeys(VOLUME, size)
    return tuple(every.get(d, 1) for d in dims)


def block_means(a: Array, size: Any, reduce: Callable[..., Array] = np.nanmean) -> Array:
    """Return the mean, or another number, of every block; a last block may be smaller."""
    sizes = lengths(size)
    ends = [(0, -n % s) for n, s in zip(a.shape, sizes, strict=True)]
    padded = np.pad(wide(a), ends, constant_values=np.nan)
    cut = [m for n, s in zip(padded.shape, sizes, strict=True) for m in (n // s, s)]
    return reduce(padded.reshape(cut), axis=tuple(range(1, 2 * a.ndim, 2)))


def trimmed(a: Array, size: Any) -> Array:
    """Return the voxels in whole blocks."""
    return a[tuple(slice(0, n - n % s) for n, s in zip(a.shape, lengths(size), strict=True))]


def window_means(a: Array, size: Any, mode: str) -> Array:
    """Return means of windows by scipy, rounded to whole counts."""
    n = np.prod(lengths(size))
    border = {} if mode == "valid" else {"mode": mode}
    means = ndi.uniform_filter(wide(a), lengths(size), **border)
    if mode == "valid":
        left = [s // 2 for s in lengths(size)]
        right = [m - (s - 1 - s // 2) for m, s in zip(a.shape, lengths(size), strict=True)]
        means = means[tuple(slice(*e) for e in zip(left, right, strict=True))]
    return np.rint(means * n) / n


def where(stack: xr.DataArray) -> xr.DataArray:
    """Return 11 points of each particle: three columns of a slice, read as z, y and x."""
    columns = stack.isel(z=0, x=slice(0, 3), drop=True)
    positions = columns.drop_vars(["y", "x"]).rename(y="point", x="axis")
    return positions.assign_attrs(units="angstrom")


def weights(stack: xr.DataArray) -> xr.DataArray:
    """Return a weight for each point."""
    return stack.isel(z=0, x=3, drop=True).drop_vars("y").rename(y="point")


def edges(shape: Sequence[int]) -> list[Array]:
    return [(np.arange(n + 1) - 0.5) * h for n, h in zip(shape, VOXEL, strict=True)]


def counted(a: Array) -> Array:
    counts = [np.histogramdd(v, edges(a.shape[1:]))[0] for v in wide(a)[:, 0, :, :3]]
    return np.stack(counts).astype(np.int64)


def weighed(a: Array) -> Array:
    pairs = zip(wide(a)[:, 0, :, :3], wide(a)[:, 0, :, 3], strict=True)
    return np.stack([np.histogramdd(v, edges(a.shape[1:]), weights=w)[0] for v, w in pairs])


def clouds(a: Array) -> Array:
    """Add every point's weight to the cells around it, one corner at a time."""
    shape = a.shape[1:]
    padded = np.zeros((len(a), *(n + 2 for n in shape)))
    for grid, points, heavy in zip(padded, wide(a)[:, 0, :, :3], wide(a)[:, 0, :, 3], strict=True):
        for p, w in zip(points / VOXEL, heavy, strict=True):
            if not ((p > -1) & (p < shape)).all():
                continue
            low = np.floor(p).astype(int)
            for corner in product((0, 1), repeat=3):
                share = np.prod(1 - np.abs(p - low - corner))
                grid[tuple(low + corner + 1)] += w * share
    return padded[:, 1:-1, 1:-1, 1:-1]


DENSITY = {
    "density.blocks": Case(
        lambda s: lv.density.blocks(holed(s), {"y": s.sizes["y"], "z": s.sizes["z"]}),
        lambda a: full(a).mean((1, 2), keepdims=True), power=None, moved=("z", "y"),
    ),
    "density.blocks/trim": Case(
        lambda s: lv.density.blocks(holed(s), SIZES, partial="trim"),
        lambda a: block_means(trimmed(full(a), SIZES), SIZES), power=None, moved=VOLUME,
    ),
    "density.blocks/keep": Case(
        lambda s: lv.density.blocks(holed(s), 4, partial="keep"),
        lambda a: block_means(full(a), 4), power=None, moved=VOLUME,
    ),
    "density.block_mean": Case(
        lambda s: lv.density.block_mean(s, {"x": s.sizes["x"]}),
        lambda a: wide(a).mean(3, keepdims=True), moved=("x",),
    ),
    "density.block_mean/trim": Case(
        lambda s: lv.density.block_mean(s, 2, partial="trim"),
        lambda a: block_means(trimmed(a, 2), 2), moved=VOLUME,
    ),
    "density.block_mean/keep": Case(
        lambda s: lv.density.block_mean(s, {"z": 3, "y": 7}, partial="keep"),
        lambda a: block_means(a, {"z": 3, "y": 7}), moved=("z", "y"),
    ),
    "density.block_reduce": Case(
        lambda s: lv.density.block_reduce(s, SIZES, "max", partial="keep"),
        lambda a: block_means(a, SIZES, np.nanmax), moved=VOLUME, dtype="same", ulps=0,
        also={"size": 1, "reduce": "max"},
    ),
    "density.block_reduce/sum": Case(
        lambda s: lv.density.block_reduce(s, {"z": 3, "x": 2}, "sum", partial="keep"),
        lambda a: block_means(a, {"z": 3, "x": 2}, np.nansum), moved=("z", "x"),
    ),
    "density.block_reduce/median": Case(
        lambda s: lv.density.block_reduce(s, 3, "median", partial="keep"),
        lambda a: block_means(a, 3, np.nanmedian), moved=VOLUME,
    ),
    "density.local": Case(
        lambda s: lv.density.local(holed(s), SIZES),
        lambda a: window_means(full(a), SIZES, "valid"), power=None, moved=VOLUME,
    ),
    "density.local/reflect": Case(
        lambda s: lv.density.local(holed(s), 3, mode="reflect"),
        lambda a: window_means(full(a), 3, "reflect"), power=None,
    ),
    "density.local/wrap": Case(
        lambda s: lv.density.local(holed(s), {"z": 13, "x": 6}, mode="wrap"),
        lambda a: window_means(full(a), {"z": 13, "x": 6}, "wrap"), power=None,
    ),
    "density.points": Case(
        lambda s: lv.density.points(where(s), like=s), counted, power=None, dtype="int64", ulps=0,
    ),
    "density.points/weights": Case(
        lambda s: lv.density.points(where(s), weights(s), like=s), weighed,
    ),
    "density.points/linear": Case(
        lambda s: lv.density.points(where(s), weights(s), like=s, method="linear"), clouds,
    ),
}  # fmt: skip
