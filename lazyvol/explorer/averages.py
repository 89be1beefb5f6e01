"""The average and the variance along k, refined while blocks of particles are read.

Sums are those of ``stats``, so that the last average is ``stats.mean`` of the particles to the bit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from lazyvol.explorer.planes import SLAB_BYTES, Compute
from lazyvol.kernels.reductions import moments
from lazyvol.stack import STACK


@dataclass(frozen=True)
class Average:
    """Mean and variance of the particles read so far, of ``total`` in all."""

    mean: xr.DataArray
    variance: xr.DataArray
    count: int
    total: int


def refine(
    stack: xr.DataArray, left_out: Sequence[int] = (), compute: Compute = xr.DataArray.compute
) -> Iterator[Average]:
    """Yield the average and the variance (divided by the count) after every block of particles.

    Parameters
    ----------
    stack
        Particles (k, ...), lazy or in memory; one block of at most 64 MiB is read at a time.
    left_out
        Indices along k of particles that do not count.
    compute
        Computes a block.
    """
    kept = np.setdiff1d(np.arange(stack.sizes[STACK]), np.asarray(left_out, int))
    volume = stack.isel({STACK: 0}, drop=True)
    length = max(1, SLAB_BYTES // max(1, volume.nbytes))
    state = moments.start(volume.shape, parts=("sum", "square"), dtype=stack.dtype)
    want = dict.fromkeys(("mean", "var"), np.dtype(np.float32))
    for start in range(0, len(kept), length):
        indices = kept[start : start + length]
        block = compute(stack.isel({STACK: _as_slice(indices)}).transpose(STACK, ...))
        moments.update(state, (0,), block.values)
        count = start + len(indices)
        statistics = moments.finish(state, want=want, n=count)
        like = block.isel({STACK: 0}, drop=True)
        mean, variance = (like.copy(data=statistics[name]) for name in want)
        yield Average(mean, variance, count, len(kept))


def _as_slice(indices: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return consecutive indices as a slice, which lazy arrays read without a gather."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1:
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
