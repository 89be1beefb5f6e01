"""Test data: prime anisotropic shapes, any chunking into few blocks, dtypes, masks, NaN."""

from collections.abc import Callable
from math import prod
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from hypothesis import Phase, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.plan import regions
from lazyvol.plan.graph.lazy_array import source_array
from tests.cases import DTYPES, UNIT, VOXEL
from tests.sources import CountingSource

#: (k, z, y, x): different primes
SHAPE = (7, 5, 11, 13)
MOST_BLOCKS = 64

#: few examples for tests that run for every row of the table, more for other tests; fixed ones
#: in every run. Failures are not shrunk: that takes minutes and shows little more here
PHASES = (Phase.explicit, Phase.generate)
FEW = settings(deadline=None, derandomize=True, max_examples=4, phases=PHASES)
MORE = settings(deadline=None, derandomize=True, max_examples=30, phases=PHASES)

Grid = tuple[tuple[int, ...], ...]


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Return fixed random numbers over the range of a dtype."""
    rng = np.random.default_rng(17)
    if np.dtype(dtype).kind == "f":
        return (3 * rng.standard_normal(shape) + 1).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def chunk_lengths(n: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw up to ``most`` chunks of any lengths along an axis of ``n``."""
    inner = st.sets(st.integers(1, n - 1), max_size=most - 1) if n > 1 else st.just(set())
    return inner.map(lambda edges: tuple(np.diff([0, *sorted(edges), n]).tolist()))


def chunkings(shape: tuple[int, ...] = SHAPE) -> st.SearchStrategy[Grid]:
    """Draw any chunks of an array, of at most 64 blocks."""
    grids = st.tuples(*(chunk_lengths(n, 4) for n in shape))
    return grids.filter(lambda grid: prod(map(len, grid)) <= MOST_BLOCKS)


DTYPE = st.sampled_from(DTYPES)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> xr.DataArray:
    """Draw a mask of one image, of a volume or of the whole stack, with none to all voxels set."""
    mask_shape = draw(st.sampled_from([shape, shape[1:], shape[2:]]))
    fraction = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    flags = np.random.default_rng(draw(st.integers(0, 99))).random(mask_shape) < fraction
    return lv.as_stack(flags, voxel_size=VOXEL[-min(3, len(mask_shape)) :], unit=UNIT)


@st.composite
def arrays_with_nan(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Draw float32 values with NaN in some voxels, and perhaps in a whole particle."""
    array = values("float32", shape)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    array[rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))] = np.nan
    if draw(st.booleans()):
        array[draw(st.integers(0, shape[0] - 1))] = np.nan
    return array


def labelled(array: Any) -> xr.DataArray:
    """Return a stack with all labels that operations must keep: coordinates, attributes, a name."""
    stack = lv.as_stack(array, voxel_size=VOXEL, unit=UNIT, name="density")
    facts = {"score": ("k", np.linspace(0, 1, len(array))), "session": ((), "a7")}
    return stack.assign_coords(facts).assign_attrs(units="e", handedness="unknown", contrast="dark")


def chunked(array: np.ndarray, grid: Any) -> xr.DataArray:
    """Return a stack of a dask array that lazyvol did not build."""
    return labelled(da.from_array(array, chunks=grid))


def stored(array: np.ndarray, chunks: tuple[int, ...]) -> xr.DataArray:
    """Return an opened store with these stored chunks."""
    source = CountingSource(array, chunks, f"stored-{array.dtype}-{array.shape}-{chunks}")
    grid = tuple(regions.uniform_chunks(n, c) for n, c in zip(array.shape, chunks, strict=True))
    return labelled(source_array(source, grid))


BACKINGS: dict[str, Callable[[np.ndarray], xr.DataArray]] = {
    "numpy": labelled,
    "whole volumes": lambda a: chunked(a, (2, -1, -1, -1)),
    "3-D chunks": lambda a: chunked(a, (3, 2, 4, 7)),
    "irregular": lambda a: chunked(a, ((1, 4, 2), (3, 2), (5, 1, 5), (2, 11))),
    "stored": lambda a: stored(a, (2, 5, 6, 13)),
}
