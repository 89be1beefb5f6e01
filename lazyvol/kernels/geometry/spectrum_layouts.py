"""Layouts of Fourier transforms: zero frequency first or in the middle, whole or half."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def zero_first(mask: Array, *, width: int, centred: bool) -> Array:
    """Return masks (..., z, y, x) of whole transforms of volumes of ``width``, frequency 0 first.

    A mask of the length ``width // 2 + 1`` holds one of each pair of frequencies f, -f, whose
    values are equal.
    """
    axes = (-3, -2, -1)
    if mask.shape[-1] == width:
        return np.fft.ifftshift(mask, axes) if centred else mask
    if centred:
        mask = np.fft.ifftshift(mask, axes[:2])
    mirrored = np.roll(np.flip(mask, axes), (1, 1), axes[:2])  # frequency 0 stays in place
    last = 1 if width % 2 == 0 else 0
    return np.concatenate([mask, mirrored[..., last : mask.shape[-1] - 1]], axis=-1)
