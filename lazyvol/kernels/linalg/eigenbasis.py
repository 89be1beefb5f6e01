"""Principal directions out of small symmetric matrices, and maps of blocks by small tables.

A spectrum is one array, so that one task makes it: a row of weights per sample (dual form) or per
feature, a column per component by decreasing eigenvalue, then a row of the eigenvalues of the
centred sums of squares and a row of their total. Directions without variance are zeros.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dsyr

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of a spectrum after the weights
FACTS = 2
#: values that are taken together: their float64 copy is 4 MiB
SLAB = 2**19


def of_samples(square: Array, *, count: int) -> Array:
    """Spectrum from the squared distances of all samples (Torgerson 1952): weights of samples.

    Distances know no common offset, so that nothing cancels when the mean is large. The largest
    weight of every component is positive.
    """
    gram = np.array(square, np.float64)
    across = gram.mean(1)
    gram -= across[:, None]
    gram -= across - across.mean()
    gram *= -0.5
    found = _spectrum(gram, count)
    found[:-FACTS] -= found[:-FACTS].mean(0)  # centred to the last digit: no offset passes
    return found


def of_features(
    gram: Array, sums: Array, mask: Array | None = None, *, n: int, count: int
) -> Array:
    """Spectrum from sums of products of ``n`` samples about any shift: weights of features.

    Of the products those right of the diagonal are enough.
    """
    flat = sums.ravel()
    cross = np.array(gram.reshape(flat.size, flat.size))
    dsyr(-1.0 / n, flat, a=cross.T, lower=1, overwrite_a=1)
    if mask is None:
        return _spectrum(cross, count)
    inside = np.flatnonzero(np.broadcast_to(mask, sums.shape))
    found = np.zeros((flat.size + FACTS, count))
    some = min(count, inside.size)
    if some:
        part = _spectrum(cross[np.ix_(inside, inside)], some)
        found[inside, :some], found[-FACTS:, :some] = part[:-FACTS], part[-FACTS:]
    return found


def _spectrum(matrix: Array, count: int) -> Array:
    """Spectrum of a symmetric matrix given right of its diagonal, which is destroyed."""
    n, total = len(matrix), np.trace(matrix)
    if not np.isfinite(matrix).all():
        return np.full((n + FACTS, count), np.nan)
    values, vectors = _largest(matrix, count)
    none = values <= n * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    found = np.empty((n + FACTS, count))
    np.multiply(vectors, np.where(none, 0.0, upright(vectors)), out=found[:-FACTS])
    found[-FACTS], found[-1] = np.where(none, 0.0, values), total
    return found


def _largest(matrix: Array, count: int) -> tuple[Array, Array]:
    """The largest eigenvalues, in decreasing order, and their vectors; in the matrix' memory."""
    n = len(matrix)
    if count * 4 < n:  # a few of 2000: 0.5 s against 1.4 s
        ends = (n - count, n - 1)
        values, vectors = scipy.linalg.eigh(
            matrix.T, lower=True, overwrite_a=True, subset_by_index=ends, driver="evr"
        )
    else:
        values, vectors = scipy.linalg.eigh(matrix.T, lower=True, overwrite_a=True, driver="evd")
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def weights(spectrum: Array) -> Array:
    """Directions of unit length, a column per component."""
    return np.asarray(spectrum[:-FACTS])


def ones(spectrum: Array) -> Array:
    """One for every component: it is not scaled."""
    return np.ones(spectrum.shape[1])


def volumes(spectrum: Array, *, shape: tuple[int, ...]) -> Array:
    """Directions of unit length, a volume per component."""
    return np.asarray(spectrum[:-FACTS].T.reshape(-1, *shape))


def scores(spectrum: Array) -> Array:
    """Coordinates of the samples, out of their own spectrum."""
    return np.asarray(spectrum[:-FACTS] * np.sqrt(spectrum[-FACTS]))


def unit_weights(spectrum: Array) -> Array:
    """Weights of the samples in each direction of unit length, and in their mean, the last."""
    samples, norms = spectrum[:-FACTS], np.sqrt(spectrum[-FACTS])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(norms == 0, 0.0, samples / norms)
    return np.concatenate([found, np.full((len(samples), 1), 1 / len(samples))], 1)


def variance(spectrum: Array, *, n: int) -> Array:
    """Sample variance of ``n`` samples along every component."""
    return np.asarray(spectrum[-FACTS] / (n - 1))


def ratio(spectrum: Array) -> Array:
    """Share of every component in the variance of all."""
    part, total = spectrum[-FACTS:]
    with np.errstate(invalid="ignore"):
        return np.where(total == 0, 0.0, part / total)


#: share of the largest entry within which another one is as large
TIE = 1e-9


def upright(table: Array) -> Array:
    """Sign of each column's largest entry, of the first of several that are as large."""
    found = np.empty(table.shape[1])
    for at in range(0, len(found), 64):
        part = table[:, at : at + 64]
        sizes = np.abs(part)
        first = (sizes >= (1 - TIE) * sizes.max(0)).argmax(0)
        peaks = np.take_along_axis(part, first[None], 0)[0]
        found[at : at + 64] = np.where(peaks < 0, -1.0, 1.0)
    return found


def scales(spectrum: Array, *, n: int, epsilon: float) -> Array:
    """One over the deviation along each component, ``1 / sqrt(variance + epsilon)``; 0 along
    those without variance."""
    values = spectrum[-FACTS]
    with np.errstate(divide="ignore"):
        found = 1.0 / np.sqrt(values / (n - 1) + epsilon)
    return np.where(values == 0, 0.0, found)


def white_samples(spectrum: Array, *, n: int, epsilon: float) -> Array:
    """Weights of the samples in every whitened sample: (sample, sample)."""
    own = spectrum[:-FACTS]
    return np.asarray((own * scales(spectrum, n=n, epsilon=epsilon)) @ own.T)


def white_scores(spectrum: Array, *, n: int, epsilon: float) -> Array:
    """Coordinates of the samples with variance 1."""
    return np.asarray(scores(spectrum) * scales(spectrum, n=n, epsilon=epsilon))


def flat(components: Array) -> Array:
    """Components as rows of features."""
    return components.reshape(len(components), -1)


def matrix(components: Array, scale: Array, *, back: bool) -> Array:
    """What features are multiplied by: a scaled column per component; or, ``back`` in their own
    axes, a column per feature."""
    rows: Any = flat(components)
    scaled = rows.T * np.ravel(scale)
    return np.asarray(scaled @ rows) if back else scaled


#: features from which float32 is worth it, and ratio of the scales up to which it is good enough:
#: at 1e4 the covariance is within 2e-5 of the identity and values within 2e-3 of a deviation,
#: what the rounding of float32 data itself does to them
LARGE, EVEN = 256, 1e4


def mapped(
    block: Array, mean: Array, scale: Array, *matrices: Array, axes: Sequence[int], replace: bool,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """``(x - mean) @ matrix``, for one matrix after the other, of every sample of a block.

    ``axes`` are those of the features. What comes out takes their place with ``replace``, else it
    is the last axis. In float64, or in float32 (twice as fast) where ``scale``, that of each
    component, says that nothing is lost by it.
    """
    kept = [a for a in range(block.ndim) if a not in axes]
    order = [*kept, *axes]
    turned = block.transpose(order)
    lead, features = turned.shape[: len(kept)], turned.shape[len(kept) :]
    samples = turned.reshape(prod(lead), prod(features))
    found = np.empty((len(samples), matrices[-1].shape[-1]), dtype)
    single = dtype == np.float32 and prod(features) >= LARGE and _ratio(scale) <= EVEN
    wide, centre = np.float32 if single else np.float64, mean.reshape(1, -1)
    tables = [m.astype(wide, copy=False) for m in matrices]
    step = max(1, SLAB // max(1, samples.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for at in range(0, len(samples), step):
            part: Any = (samples[at : at + step] - centre).astype(wide, copy=False)
            for table in tables:
                part = part @ table
            found[at : at + step] = part
    if not replace:
        return found.reshape(*lead, -1)
    return found.reshape(*lead, *features).transpose(np.argsort(order))


def _ratio(scale: Array) -> float:
    """Largest over smallest scale, of the directions that have one."""
    some = scale[scale > 0]
    return float(some.max() / some.min()) if some.size else 1.0


def mixed(block: Array, matrix: Array, *, axis: int, dtype: np.dtype[Any]) -> Array:
    """Weighted sums of the centred samples along ``axis``, one for each row of ``matrix``."""
    values = np.moveaxis(block, axis, 0)
    flat = values.reshape(len(values), -1)
    found = np.empty((len(matrix), flat.shape[1]), dtype)
    step = max(1, SLAB // max(1, len(flat)))
    with np.errstate(invalid="ignore", over="ignore"):
        for at in range(0, flat.shape[1], step):
            part = flat[:, at : at + step].astype(np.float64)
            found[:, at : at + step] = matrix @ (part - part.mean(0))
    return np.moveaxis(found.reshape(len(matrix), *values.shape[1:]), 0, axis)
