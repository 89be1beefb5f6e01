"""The average and the variance along k, refined while blocks of particles are read.

Groups of particles are combined by the formula of Chan, Golub & LeVeque (1983), "Algorithms for
computing the sample variance", The American Statistician 37(3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from lazyvol.explorer.planes import SLAB_BYTES
from lazyvol.stack import STACK


@dataclass(frozen=True)
class Average:
    """Mean and variance of the particles read so far, of ``total`` in all."""

    mean: xr.DataArray
    variance: xr.DataArray
    count: int
    total: int


def refine(stack: xr.DataArray, left_out: Sequence[int] = ()) -> Iterator[Average]:
    """Yield the average and the variance (divided by the count) after every block of particles.

    Parameters
    ----------
    stack
        Particles (k, ...), lazy or in memory; one block of at most 64 MiB is read at a time.
    left_out
        Indices along k of particles that do not count.
    """
    kept = np.setdiff1d(np.arange(stack.sizes[STACK]), np.asarray(left_out, int))
    volume_bytes = max(1, stack.nbytes // max(1, stack.sizes[STACK]))
    length = max(1, SLAB_BYTES // volume_bytes)
    count, mean, squares = 0, None, None
    for start in range(0, len(kept), length):
        block = stack.isel({STACK: _as_slice(kept[start : start + length])}).compute()
        values = block.transpose(STACK, ...).values.astype(np.float64)
        n, block_mean = len(values), values.mean(axis=0)
        block_squares = ((values - block_mean) ** 2).sum(axis=0)
        if mean is None or squares is None:
            count, mean, squares = n, block_mean, block_squares
        else:
            shift = block_mean - mean
            squares = squares + block_squares + shift**2 * (count * n / (count + n))
            mean = mean + shift * (n / (count + n))
            count += n
        like = block.isel({STACK: 0}, drop=True)
        yield Average(
            like.copy(data=mean.astype(np.float32)),
            like.copy(data=(squares / count).astype(np.float32)),
            count,
            len(kept),
        )


def _as_slice(indices: npt.NDArray[np.int64]) -> slice | npt.NDArray[np.int64]:
    """Return consecutive indices as a slice, which lazy arrays read without a gather."""
    if len(indices) and indices[-1] - indices[0] == len(indices) - 1:
        return slice(int(indices[0]), int(indices[-1]) + 1)
    return indices
