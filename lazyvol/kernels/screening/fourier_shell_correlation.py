"""Fourier shell correlation."""

from collections.abc import Sequence
from math import floor
from typing import Any

import numpy as np
import scipy.fft

from lazyvol.kernels.magnitude import exponent

Array = np.ndarray[Any, np.dtype[Any]]


def shell_width(shape: Sequence[int], spacing: Sequence[float]) -> float:
    """Return the width of a shell: the coarsest frequency step, so that no shell is empty."""
    return max(1 / (n * abs(d)) for n, d in zip(shape, spacing, strict=True))


def shell_count(shape: Sequence[int], spacing: Sequence[float]) -> int:
    """Return the number of shells from zero up to the lowest Nyquist frequency."""
    nyquist = min(1 / (2 * abs(d)) for d in spacing)
    return floor(nyquist / shell_width(shape, spacing) + 1e-9) + 1


def correlation(a: Array, b: Array, *, spacing: Sequence[float]) -> Array:
    """Return the correlation of two volumes in shells of spatial frequency.

    Per shell, the sum of ``A conj(B)`` over the root of the product of both powers (Harauz and
    van Heel, Optik 73, 1986); a frequency belongs to the nearest shell. A shell without power has
    correlation 0.
    """
    first, second = (scipy.fft.rfftn(_rescaled(v), workers=1) for v in (a, b))
    shells = np.rint(_radius(a.shape, spacing) / shell_width(a.shape, spacing)).astype(np.int64)
    count = shell_count(a.shape, spacing)
    inside = shells < count
    multiplicity = _multiplicity(a.shape, first.shape)

    def shell_sum(values: Array) -> Array:
        weights = (values * multiplicity)[inside]
        sums: Array = np.bincount(shells[inside], weights=weights, minlength=count)
        return sums

    cross = shell_sum((first * second.conj()).real)
    power = np.sqrt(shell_sum(np.abs(first) ** 2) * shell_sum(np.abs(second) ** 2))
    ratio: Array = np.divide(cross, power, out=np.zeros(count), where=power != 0)
    return ratio


def _rescaled(values: Array) -> Array:
    """Return float64 values times the power of two that brings the largest to about 1.

    The product of two powers holds fourth powers of the values, which overflow beyond 1e77.
    """
    wide = np.asarray(values, np.float64)
    return np.asarray(np.ldexp(wide, -exponent(wide)))


def _radius(shape: Sequence[int], spacing: Sequence[float]) -> Array:
    """Return the spatial frequency of each coefficient of the half spectrum."""
    axes = [np.fft.fftfreq(n, abs(d)) for n, d in zip(shape[:-1], spacing[:-1], strict=True)]
    axes.append(np.fft.rfftfreq(shape[-1], abs(spacing[-1])))
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    squares: Array = sum((g**2 for g in grids[1:]), grids[0] ** 2)
    radius: Array = np.sqrt(squares)
    return radius


def _multiplicity(shape: Sequence[int], half_shape: Sequence[int]) -> Array:
    """Return the number of full-spectrum coefficients per half-spectrum coefficient: 1 or 2."""
    multiplicity = np.full(half_shape, 2.0)
    multiplicity[..., 0] = 1.0
    if shape[-1] % 2 == 0:
        multiplicity[..., -1] = 1.0
    return multiplicity
