"""Linear mixtures of components along one dim, and back: colours, spectra, detectors.

A matrix has a row per component and a column per channel: ``mix`` is ``image @ matrix`` along
the dim of the components, ``unmix`` its inverse. Matrices are small: a lazy one is read when the
operation is called. NaN in one component makes all channels of its voxel NaN.
"""

import warnings
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import channel_matrix
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import dims_of, float_of

__all__ = ["mix", "unmix"]

Matrix = xr.DataArray | np.ndarray[Any, np.dtype[Any]]
#: dims of plain arrays, whose last axis is mixed
MIXED = (("channel",), ("x", "channel"), ("y", "x", "channel"), ("z", "y", "x", "channel"))
#: relative error of a result beyond which a warning says so: one digit is left
UNSAFE = 0.1


@operation(dims={"image": MIXED}, siblings=("matrix",))
def mix(image: xr.DataArray, matrix: Matrix, *, dim: str | None = None) -> xr.DataArray:
    """Channels as weighted sums of components: ``image @ matrix`` along one dim.

    Parameters
    ----------
    image
        Array with the components along ``dim``, e.g. (z, y, x, component).
    matrix
        A row per component, a column per channel. The second dim of a labelled one names the
        channels and gives their coordinate; of a plain array they take the components' dim.
    dim
        Dim of the components: by default the first of a labelled matrix where the image has it,
        else the image's last.

    Returns
    -------
    xarray.DataArray
        The channels in the place of ``dim``, in the image's unit; float.

    Raises
    ------
    LabelError
        If the matrix is not a table of finite numbers with a row for every component.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.array([[1.0, 0.0], [0.0, 2.0]]), dims=("x", "component"))
    >>> lv.unmixing.mix(image, np.array([[0.9, 0.1], [0.3, 0.7]]), dim="component").values
    array([[0.9, 0.1],
           [0.6, 1.4]])
    """
    table = _table(matrix)
    own = _dim(image, matrix, dim, 0)
    if image.sizes[own] != len(table):
        raise LabelError(
            f"a matrix has a row per component, got {len(table)} rows for "
            f"{image.sizes[own]} along {own!r}"
        )
    return _applied(image, table, own, matrix, 1, "mix")


@operation(dims={"mixed": MIXED})
def unmix(
    mixed: xr.DataArray, matrix: Matrix, *, dim: str | None = None, rcond: float | None = None
) -> xr.DataArray:
    """Components behind channels: what ``mix`` made, undone.

    By the inverse of a square matrix, else by its pseudo-inverse: with more channels than
    components the least-squares solution, with fewer the one of least norm.

    Parameters
    ----------
    mixed
        Array with the channels along ``dim``, e.g. (z, y, x, channel).
    matrix
        As for ``mix``: a row per component, a column per channel.
    dim
        Dim of the channels: by default the second of a labelled matrix where the array has it,
        else the array's last.
    rcond
        Singular values below this share of the largest count as 0, which keeps the noise along
        them out and loses what they carried. By default none of a regular square matrix.

    Returns
    -------
    xarray.DataArray
        The components in the place of ``dim``, in the same unit; float. ``condition_number`` and
        ``rank`` of the matrix are in its attributes: noise grows up to so many times.

    Raises
    ------
    LabelError
        If the matrix is not a table of finite numbers with a column for every channel, or
        ``rcond`` is not from 0 to 1.

    Warns
    -----
    UserWarning
        If the matrix is singular, or if rounding alone, of the array's type, leaves less than one
        digit of the result.

    References
    ----------
    Penrose, R. (1955), A generalized inverse for matrices, Proc. Camb. Phil. Soc. 51, 406-413.

    Examples
    --------
    An image that was multiplied by a noise matrix:

    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("x", "channel"))
    >>> noise = np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]])
    >>> found = lv.unmixing.unmix(lv.unmixing.mix(image, noise), noise)
    >>> found.values.round(6) + 0.0, round(found.attrs["condition_number"], 2)
    (array([[0., 1., 2.],
           [3., 4., 5.]]), 2.23)
    """
    table = _table(matrix)
    own = _dim(mixed, matrix, dim, 1)
    if mixed.sizes[own] != table.shape[1]:
        raise LabelError(
            f"a matrix has a column per channel, got {table.shape[1]} columns for "
            f"{mixed.sizes[own]} along {own!r}"
        )
    if rcond is not None and not 0 <= rcond < 1:
        raise LabelError(f"rcond is a share of the largest singular value, 0 to 1, got {rcond=}")
    inverse, condition, rank = channel_matrix.inverse(table, rcond)
    _warn(condition, rank, table.shape, mixed.dtype, rcond)
    found = _applied(mixed, inverse, own, matrix, 0, "unmix")
    return found.assign_attrs(condition_number=condition, rank=rank)


def _table(matrix: Matrix) -> np.ndarray[Any, np.dtype[Any]]:
    """The numbers of a matrix, in float64."""
    values = np.asarray(matrix)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise LabelError(
            f"a matrix is a table of real numbers, (component, channel), got "
            f"shape={values.shape}, dtype={values.dtype}"
        )
    if not np.isfinite(values).all():
        raise LabelError(
            f"a matrix is finite, got {int((~np.isfinite(values)).sum())} other numbers"
        )
    return values.astype(np.float64)


def _dim(stack: xr.DataArray, matrix: Matrix, dim: str | None, side: int) -> str:
    """Dim of the stack that runs along one side of the matrix."""
    if not stack.ndim:
        raise LabelError(f"a mixture has a dim of components or channels, got {stack.dims=}")
    named = str(matrix.dims[side]) if isinstance(matrix, xr.DataArray) else None
    return dims_of(stack, dim or (named if named in stack.dims else str(stack.dims[-1])))[0]


def _applied(
    stack: xr.DataArray, table: Any, own: str, matrix: Matrix, side: int, title: str
) -> xr.DataArray:
    """``stack @ table`` along ``own``; the result runs along the ``side`` of ``matrix``."""
    labelled = isinstance(matrix, xr.DataArray)
    new = str(matrix.dims[side]) if labelled else own  # type: ignore[union-attr]
    if new != own and new in stack.dims:
        raise LabelError(
            f"the result has the dim {new!r} of the matrix, which the stack has too: "
            f"{stack.dims}; rename one of them"
        )
    dims = tuple(str(d) for d in stack.dims)
    kernel = partial(
        channel_matrix.applied, table=table, axis=dims.index(own), dtype=float_of(stack.dtype)
    )
    found = blockwise(
        kernel, stack, core=(own,), out=tuple(new if d == own else d for d in dims),
        sizes={new: table.shape[1]}, dtype=float_of(stack.dtype),
        scratch=1.0 + stack.dtype.itemsize, title=title,
    )  # fmt: skip
    coords = {c: v for c, v in matrix.coords.items() if v.dims == (new,)} if labelled else {}  # type: ignore[union-attr]
    return found.assign_coords(coords)


def _warn(
    condition: float, rank: int, shape: tuple[int, ...], dtype: np.dtype[Any], rcond: float | None
) -> None:
    kept = condition if rcond is None else min(condition, 1 / rcond if rcond else np.inf)
    least = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.5 ** (8 * dtype.itemsize)
    if kept * least > UNSAFE or (rcond is None and rank < min(shape)):
        warnings.warn(
            f"the matrix is ill-conditioned: {condition=:.3g}, {rank=} of {min(shape)}; errors "
            f"grow so many times, which leaves less than a digit of {dtype}; add channels, "
            f"or leave small singular values out by rcond=",
            UserWarning,
            stacklevel=4,
        )
