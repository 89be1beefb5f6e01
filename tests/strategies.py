"""Stacks to test on: prime anisotropic shapes, any chunking of few blocks, dtypes, masks, NaN."""

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
from tests.sources import Counting

#: (k, z, y, x): prime, and no two alike
SHAPE = (7, 5, 11, 13)
MOST_BLOCKS = 64

#: few examples for what every row of the table repeats, more for what is tested once; the same
#: ones in every run. Failures are not shrunk: that takes minutes, and says little more here
PHASES = (Phase.explicit, Phase.generate)
FEW = settings(deadline=None, derandomize=True, max_examples=4, phases=PHASES)
MORE = settings(deadline=None, derandomize=True, max_examples=30, phases=PHASES)

Grid = tuple[tuple[int, ...], ...]


def values(dtype: str, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Fixed numbers that suit a dtype."""
    rng = np.random.default_rng(17)
    if np.dtype(dtype).kind == "f":
        return (3 * rng.standard_normal(shape) + 1).astype(dtype)
    return rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def cuts(n: int, most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Up to ``most`` chunks of any lengths along an axis of ``n``."""
    inner = st.sets(st.integers(1, n - 1), max_size=most - 1) if n > 1 else st.just(set())
    return inner.map(lambda found: tuple(np.diff([0, *sorted(found), n]).tolist()))


def chunkings(shape: tuple[int, ...] = SHAPE) -> st.SearchStrategy[Grid]:
    """Any chunks of an array, of at most 64 blocks."""
    grids = st.tuples(*(cuts(n, 4) for n in shape))
    return grids.filter(lambda grid: prod(map(len, grid)) <= MOST_BLOCKS)


DTYPE = st.sampled_from(DTYPES)


@st.composite
def masks(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> xr.DataArray:
    """A mask over a volume or over the whole stack, with anything from no to all voxels."""
    own = draw(st.sampled_from([shape, shape[1:], shape[2:]]))
    share = draw(st.sampled_from([0.0, 0.02, 0.5, 1.0]))
    flags = np.random.default_rng(draw(st.integers(0, 99))).random(own) < share
    return lv.as_stack(flags, voxel_size=VOXEL[-min(3, len(own)) :], unit=UNIT)


@st.composite
def holed(draw: st.DrawFn, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """float32 with NaN in some voxels, perhaps in all of a particle."""
    found = values("float32", shape)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    found[rng.random(shape) < draw(st.sampled_from([0.0, 0.1, 0.9]))] = np.nan
    if draw(st.booleans()):
        found[draw(st.integers(0, shape[0] - 1))] = np.nan
    return found


def labelled(array: Any) -> xr.DataArray:
    """A stack with everything that has to survive: facts, units, handedness, a name."""
    stack = lv.as_stack(array, voxel_size=VOXEL, unit=UNIT, name="density")
    facts = {"score": ("k", np.linspace(0, 1, len(array))), "session": ((), "a7")}
    return stack.assign_coords(facts).assign_attrs(units="e", handedness="unknown", contrast="dark")


def chunked(array: np.ndarray, grid: Any) -> xr.DataArray:
    """Someone's own dask graph."""
    return labelled(da.from_array(array, chunks=grid))


def stored(array: np.ndarray, chunks: tuple[int, ...]) -> xr.DataArray:
    """An opened store with these stored chunks."""
    source = Counting(array, chunks, f"stored-{array.dtype}-{array.shape}-{chunks}")
    grid = tuple(regions.uniform_chunks(n, c) for n, c in zip(array.shape, chunks, strict=True))
    return labelled(source_array(source, grid))


BACKINGS: dict[str, Callable[[np.ndarray], xr.DataArray]] = {
    "numpy": labelled,
    "whole volumes": lambda a: chunked(a, (2, -1, -1, -1)),
    "3-D chunks": lambda a: chunked(a, (3, 2, 4, 7)),
    "irregular": lambda a: chunked(a, ((1, 4, 2), (3, 2), (5, 1, 5), (2, 11))),
    "stored": lambda a: stored(a, (2, 5, 6, 13)),
}
