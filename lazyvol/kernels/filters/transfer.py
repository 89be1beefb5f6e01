"""Periodic filters by a product of Fourier transforms, at a cost that does not depend on width."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.magnitude import near_one

Array = np.ndarray[Any, np.dtype[Any]]
#: ``multiply(spectrum, sizes, n, axis, output)`` of scipy.ndimage
Multiply = Callable[..., Any]


def transferred(
    block: Array, *, axes: Sequence[int], multiply: Multiply, sizes: Sequence[float],
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Return every volume along ``axes`` with its half spectrum multiplied by a function.

    ``sizes`` are the parameters of the function along each axis, in voxels.
    """
    out = np.empty(block.shape, dtype)
    volumes, results = (np.moveaxis(a, axes, range(-len(axes), 0)) for a in (block, out))
    shape = volumes.shape[-len(axes) :]
    for index in np.ndindex(volumes.shape[: -len(axes)]):
        volume, factor = near_one(np.asarray(volumes[index], np.float64))
        spectrum = scipy.fft.rfftn(volume, workers=1)
        multiply(spectrum, sizes, n=shape[-1], axis=len(shape) - 1, output=spectrum)
        results[index] = scipy.fft.irfftn(spectrum, shape, workers=1, overwrite_x=True)
        if factor != 1.0:
            results[index] *= factor
    return out
