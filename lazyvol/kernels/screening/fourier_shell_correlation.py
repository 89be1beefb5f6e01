"""Fourier shell correlation."""

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np
import scipy.fft

Array = np.ndarray[Any, np.dtype[Any]]


def shell_width(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Width of a shell: the coarsest frequency step, so that no shell is empty by design."""
    return max(1 / (n * abs(d)) for n, d in zip(shape, spacing, strict=True))


def shell_count(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """Shells from zero up to the lowest Nyquist frequency."""
    nyquist = min(1 / (2 * abs(d)) for d in spacing)
    return floor(nyquist / shell_width(shape, spacing) + 1e-9) + 1


def correlation(a: Array, b: Array, *, spacing: Sequence[float]) -> Array:
    """Correlation of two volumes in shells of spatial frequency.

    Per shell, the sum of ``A conj(B)`` over the root of the two powers (Harauz and van Heel,
    Optik 73, 1986); a frequency belongs to the nearest shell. Zero where a shell has no power.
    """
    first, second = (scipy.fft.rfftn(_about_one(v), workers=1) for v in (a, b))
    shells = np.rint(_radius(a.shape, spacing) / shell_width(a.shape, spacing)).astype(np.int64)
    count = shell_count(a.shape, spacing)
    kept = shells < count
    twice = _multiplicity(a.shape, first.shape)

    def total(values: Array) -> Array:
        weighted = (values * twice)[kept]
        found: Array = np.bincount(shells[kept], weights=weighted, minlength=count)
        return found

    cross = total((first * second.conj()).real)
    power = np.sqrt(total(np.abs(first) ** 2) * total(np.abs(second) ** 2))
    found: Array = np.divide(cross, power, out=np.zeros(count), where=power > 0)
    return found


def _about_one(values: Array) -> Array:
    """Float64 times the power of two that brings the largest to about 1: powers are squares of
    squares, whose range would end at 1e77."""
    wide = np.asarray(values, np.float64)
    largest = np.abs(wide).max(initial=0.0)
    scaled: Array = np.ldexp(wide, -np.frexp(largest)[1]) if np.isfinite(largest) else wide
    return scaled


def _radius(shape: Sequence[int], spacing: Sequence[float]) -> Array:
    axes = [np.fft.fftfreq(n, abs(d)) for n, d in zip(shape[:-1], spacing[:-1], strict=True)]
    axes.append(np.fft.rfftfreq(shape[-1], abs(spacing[-1])))
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    total: Array = sum((g**2 for g in grids[1:]), grids[0] ** 2)
    radius: Array = np.sqrt(total)
    return radius


def _multiplicity(shape: Sequence[int], half: Sequence[int]) -> Array:
    """How many frequencies of the full spectrum each one of the half spectrum stands for."""
    weight = np.full(half, 2.0)
    weight[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        weight[..., -1] = 1.0
    return weight
