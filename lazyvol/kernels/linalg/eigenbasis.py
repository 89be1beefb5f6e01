"""Principal directions of small symmetric matrices, and products of blocks with small matrices.

An eigenbasis is one array, so that one task computes it: a row of weights per sample (dual form)
or per feature, one column per component by decreasing eigenvalue; then a row with the eigenvalues
of the centred sums of squares, and a row with their total over all components. Components without
variance are 0.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dsyr

Array = np.ndarray[Any, np.dtype[Any]]

#: rows of an eigenbasis after the weights: eigenvalues, total
EXTRA_ROWS = 2
#: values converted to float64 at a time: a copy of 4 MiB
SLAB_VALUES = 2**19
#: relative difference within which two entries count as equally large
TIE = 1e-9
#: whitening is done in float32 from this number of features on, if no two scales differ by more
#: than this ratio: at 1e4 the covariance is within 2e-5 of the identity and values within 2e-3 of
#: a deviation, which is the effect of the rounding of float32 data itself
FLOAT32_MIN_FEATURES, FLOAT32_MAX_RATIO = 256, 1e4


def from_distances(square: Array, *, count: int) -> Array:
    """Return the eigenbasis (sample, component) of squared distances (Torgerson 1952).

    Distances do not depend on a common offset, so a large mean causes no cancellation. The
    largest weight of every component is positive.
    """
    gram = np.array(square, np.float64)
    row_means = gram.mean(1)
    gram -= row_means[:, None]
    gram -= row_means - row_means.mean()
    gram *= -0.5
    basis = _eigenbasis(gram, count)
    basis[:-EXTRA_ROWS] -= basis[:-EXTRA_ROWS].mean(0)  # exactly centred: offsets cancel
    return basis


def from_products(
    gram: Array, sums: Array, mask: Array | None = None, *, n: int, count: int
) -> Array:
    """Return the eigenbasis (feature, component) of sums of products of ``n`` shifted samples.

    Only the upper triangle of ``gram`` is used. Features outside ``mask`` have weight 0.
    """
    flat = sums.ravel()
    cross = np.array(gram.reshape(flat.size, flat.size))
    dsyr(-1.0 / n, flat, a=cross.T, lower=1, overwrite_a=1)
    if mask is None:
        return _eigenbasis(cross, count)
    inside = np.flatnonzero(np.broadcast_to(mask, sums.shape))
    basis = np.zeros((flat.size + EXTRA_ROWS, count))
    rank = min(count, inside.size)
    if rank:
        part = _eigenbasis(cross[np.ix_(inside, inside)], rank)
        basis[inside, :rank], basis[-EXTRA_ROWS:, :rank] = part[:-EXTRA_ROWS], part[-EXTRA_ROWS:]
    return basis


def _eigenbasis(matrix: Array, count: int) -> Array:
    """Return the eigenbasis of a symmetric matrix, read from its upper triangle and overwritten."""
    n, total = len(matrix), np.trace(matrix)
    if not np.isfinite(matrix).all():
        return np.full((n + EXTRA_ROWS, count), np.nan)
    values, vectors = _largest_eigenpairs(matrix, count)
    negligible = values <= n * np.finfo(np.float64).eps * max(float(values[0]), 0.0)
    basis = np.empty((n + EXTRA_ROWS, count))
    signs = np.where(negligible, 0.0, peak_signs(vectors))
    np.multiply(vectors, signs, out=basis[:-EXTRA_ROWS])
    basis[-EXTRA_ROWS], basis[-1] = np.where(negligible, 0.0, values), total
    return basis


def _largest_eigenpairs(matrix: Array, count: int) -> tuple[Array, Array]:
    """Return the largest eigenvalues, decreasing, and their vectors; ``matrix`` is overwritten."""
    n = len(matrix)
    if count * 4 < n:  # a few of 2000: 0.5 s, all of them 1.4 s
        ends = (n - count, n - 1)
        values, vectors = scipy.linalg.eigh(
            matrix.T, lower=True, overwrite_a=True, subset_by_index=ends, driver="evr"
        )
    else:
        values, vectors = scipy.linalg.eigh(matrix.T, lower=True, overwrite_a=True, driver="evd")
    return values[::-1][:count], vectors[:, ::-1][:, :count]


def peak_signs(table: Array) -> Array:
    """Return the sign of each column's largest entry; of equally large ones the first counts."""
    signs = np.empty(table.shape[1])
    for start in range(0, len(signs), 64):
        columns = table[:, start : start + 64]
        sizes = np.abs(columns)
        first = (sizes >= (1 - TIE) * sizes.max(0)).argmax(0)
        peaks = np.take_along_axis(columns, first[None], 0)[0]
        signs[start : start + 64] = np.where(peaks < 0, -1.0, 1.0)
    return signs


# parts of an eigenbasis ------------------------------------------------------------------------


def eigenvectors(basis: Array) -> Array:
    """Return the directions of unit length, one column per component."""
    return np.asarray(basis[:-EXTRA_ROWS])


def eigenvolumes(basis: Array, *, shape: tuple[int, ...]) -> Array:
    """Return the directions of unit length, one volume per component."""
    return np.asarray(basis[:-EXTRA_ROWS].T.reshape(-1, *shape))


def explained_variance(basis: Array, *, n: int) -> Array:
    """Return the sample variance of ``n`` samples along every component."""
    return np.asarray(basis[-EXTRA_ROWS] / (n - 1))


def explained_ratio(basis: Array) -> Array:
    """Return the share of every component in the total variance."""
    values, total = basis[-EXTRA_ROWS:]
    with np.errstate(invalid="ignore"):
        return np.where(total == 0, 0.0, values / total)


def sample_scores(basis: Array) -> Array:
    """Return the coordinates of the samples in their own eigenbasis (dual form)."""
    return np.asarray(basis[:-EXTRA_ROWS] * np.sqrt(basis[-EXTRA_ROWS]))


def direction_weights(basis: Array) -> Array:
    """Return the weights of the samples in each direction of unit length and, last, in the mean."""
    samples, norms = basis[:-EXTRA_ROWS], np.sqrt(basis[-EXTRA_ROWS])
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = np.where(norms == 0, 0.0, samples / norms)
    return np.concatenate([weights, np.full((len(samples), 1), 1 / len(samples))], 1)


# whitening -------------------------------------------------------------------------------------


def whitening_scales(basis: Array, *, n: int, epsilon: float) -> Array:
    """Return ``1 / sqrt(variance + epsilon)`` of each component, 0 where there is no variance."""
    values = basis[-EXTRA_ROWS]
    with np.errstate(divide="ignore"):
        scales = 1.0 / np.sqrt(values / (n - 1) + epsilon)
    return np.where(values == 0, 0.0, scales)


def sample_whitening(basis: Array, *, n: int, epsilon: float) -> Array:
    """Return the matrix (sample, sample) that whitens the samples (ZCA, dual form)."""
    vectors = basis[:-EXTRA_ROWS]
    return np.asarray((vectors * whitening_scales(basis, n=n, epsilon=epsilon)) @ vectors.T)


def whitened_scores(basis: Array, *, n: int, epsilon: float) -> Array:
    """Return the coordinates of the samples, scaled to variance 1 (PCA, dual form)."""
    return np.asarray(sample_scores(basis) * whitening_scales(basis, n=n, epsilon=epsilon))


def flattened(components: Array) -> Array:
    """Return components (component, ...) as rows of features."""
    return components.reshape(len(components), -1)


def feature_whitening(components: Array, scale: Array, *, back: bool) -> Array:
    """Return the matrix that whitens rows of features: (feature, component), or with ``back``,
    which returns to the axes of the features, (feature, feature)."""
    rows: Any = flattened(components)
    scaled = rows.T * np.ravel(scale)
    return np.asarray(scaled @ rows) if back else scaled


# products with blocks --------------------------------------------------------------------------


def project(
    block: Array, mean: Array, scale: Array, *matrices: Array, axes: Sequence[int], replace: bool,
    dtype: np.dtype[Any],
) -> Array:  # fmt: skip
    """Multiply every centred sample of a block by each of ``matrices`` in turn.

    ``axes`` are those of the features. The result takes their place with ``replace``, else it is
    the last axis. ``scale``, one number per component, decides between float64 and float32,
    which is twice as fast.
    """
    sample_axes = [a for a in range(block.ndim) if a not in axes]
    order = [*sample_axes, *axes]
    transposed = block.transpose(order)
    lead, features = transposed.shape[: len(sample_axes)], transposed.shape[len(sample_axes) :]
    samples = transposed.reshape(prod(lead), prod(features))
    result = np.empty((len(samples), matrices[-1].shape[-1]), dtype)
    wide, centre = _precision(dtype, prod(features), scale), mean.reshape(1, -1)
    tables = [m.astype(wide, copy=False) for m in matrices]
    step = max(1, SLAB_VALUES // max(1, samples.shape[1]))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(samples), step):
            slab: Any = (samples[start : start + step] - centre).astype(wide, copy=False)
            for table in tables:
                slab = slab @ table
            result[start : start + step] = slab
    if not replace:
        return result.reshape(*lead, -1)
    return result.reshape(*lead, *features).transpose(np.argsort(order))


def _precision(dtype: np.dtype[Any], features: int, scale: Array) -> type[np.floating[Any]]:
    """Return the float type of the products of ``project``."""
    positive = scale[scale > 0]
    ratio = float(positive.max() / positive.min()) if positive.size else 1.0
    single = dtype == np.float32 and features >= FLOAT32_MIN_FEATURES
    return np.float32 if single and ratio <= FLOAT32_MAX_RATIO else np.float64


def mix_samples(block: Array, matrix: Array, *, axis: int, dtype: np.dtype[Any]) -> Array:
    """Return weighted sums of the centred samples along ``axis``, one for each row of a matrix."""
    values = np.moveaxis(block, axis, 0)
    samples = values.reshape(len(values), -1)
    result = np.empty((len(matrix), samples.shape[1]), dtype)
    step = max(1, SLAB_VALUES // max(1, len(samples)))
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, samples.shape[1], step):
            slab = samples[:, start : start + step].astype(np.float64)
            result[:, start : start + step] = matrix @ (slab - slab.mean(0))
    return np.moveaxis(result.reshape(len(matrix), *values.shape[1:]), 0, axis)
