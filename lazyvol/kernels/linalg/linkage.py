"""Hierarchical clustering out of distance matrices, by scipy, behind checks of its input."""

from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

Array = np.ndarray[Any, np.dtype[Any]]

#: difference between both halves of a matrix, or from 0 on its diagonal, that is rounding: units
#: in the last place of its type, of its largest value
ROUNDING = 64


def faults(matrix: Array) -> str | None:
    """What keeps a square matrix from being one of distances; None where nothing does."""
    wide = matrix.astype(np.float64)
    if not np.isfinite(wide).all():
        row, column = np.argwhere(~np.isfinite(wide))[0]
        return f"it has {wide[row, column]} at ({row}, {column})"
    if wide.size and wide.min() < 0:
        row, column = np.unravel_index(wide.argmin(), wide.shape)
        return f"it has {wide[row, column]:g} at ({row}, {column})"
    single = matrix.dtype if matrix.dtype.kind == "f" else np.float64
    close = ROUNDING * float(np.finfo(single).eps) * float(wide.max(initial=0.0))
    diagonal = np.abs(np.diagonal(wide))
    if diagonal.max(initial=0.0) > close:
        return f"its diagonal has {diagonal.max():g} at {diagonal.argmax()}"
    uneven = np.abs(wide - wide.T)
    if uneven.max(initial=0.0) > close:
        row, column = np.unravel_index(uneven.argmax(), uneven.shape)
        there, back = wide[row, column], wide[column, row]
        return f"it has {there:g} at ({row}, {column}) and {back:g} at ({column}, {row})"
    return None


def condensed(matrix: Array) -> Array:
    """The half above the diagonal, row after row."""
    return np.asarray(matrix[np.triu_indices(len(matrix), 1)])


def square(values: Array) -> Array:
    """The matrix with a zero diagonal behind a condensed one."""
    return np.asarray(squareform(values, checks=False))


def linkage(values: Array, *, method: str) -> Array:
    """Tree of a condensed matrix, as ``scipy.cluster.hierarchy`` has it."""
    return np.asarray(hierarchy.linkage(values.astype(np.float64), method))


def labels(tree: Array, *, amount: float, criterion: str) -> Array:
    """Cluster of every leaf from 0 on, in the order in which clusters first appear."""
    found = hierarchy.fcluster(tree, amount, criterion)
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[number], np.int64)
