"""Linear mixtures of components along one dim, and their inverse: colours, spectra, detectors.

A matrix has a row per component and a column per channel: ``mix`` is ``image @ matrix`` along
the dim of the components, ``unmix`` its inverse. Matrices are small: a lazy one is computed when
the operation is called. NaN in one component makes all channels of its voxel NaN.
"""

import warnings
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import channel_matrix
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import dims_of, float_of

__all__ = ["mix", "unmix"]

Matrix = xr.DataArray | np.ndarray[Any, np.dtype[Any]]
#: dims of plain arrays, of which the last one is mixed
MIXED = (("channel",), ("x", "channel"), ("y", "x", "channel"), ("z", "y", "x", "channel"))
#: relative error of a result above which a warning is given: one digit is left
UNSAFE = 0.1


@operation(dims={"image": MIXED}, siblings=("matrix",))
def mix(image: xr.DataArray, matrix: Matrix, *, dim: str | None = None) -> xr.DataArray:
    """Channels as weighted sums of components: ``image @ matrix`` along one dim.

    Parameters
    ----------
    image
        Real numbers, with the components along ``dim``, e.g. (z, y, x, component).
    matrix
        (component, channel). The second dim of a labelled matrix names the channels and gives
        their coordinates; with a plain one they keep the dim of the components.
    dim
        Dim of the components: by default the first dim of a labelled matrix if the image has it,
        else the image's last.

    Returns
    -------
    xarray.DataArray
        Channels in the place of ``dim``, in the image's unit; floats keep their dtype, integers
        give float64.

    Raises
    ------
    LabelError
        If the matrix does not hold finite real numbers in a row for every component, ``dim`` is
        not a dim of the image, or the dim of the channels is one already.
    OptionError
        If ``dim`` has a wrong type.

    References
    ----------
    ``numpy.matmul``.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.array([[1.0, 0.0], [0.0, 2.0]]), dims=("x", "component"))
    >>> lv.unmixing.mix(image, np.array([[0.9, 0.1], [0.3, 0.7]]), dim="component").values
    array([[0.9, 0.1],
           [0.6, 1.4]])
    """
    values = _finite_matrix("mix", matrix)
    mixed_dim = _mixed_dim("mix", image, matrix, dim, 0)
    if image.sizes[mixed_dim] != len(values):
        raise LabelError(
            f"mix: matrix must have a row per component, got {len(values)} rows for "
            f"{image.sizes[mixed_dim]} along {mixed_dim!r}; pass dim=, or transpose the matrix"
        )
    return _multiply("mix", image, values, mixed_dim, matrix, 1)


@operation(dims={"mixed": MIXED})
def unmix(
    mixed: xr.DataArray, matrix: Matrix, *, dim: str | None = None, rcond: float | None = None
) -> xr.DataArray:
    """Components that give the channels when they are mixed: the inverse of ``mix``.

    Uses the inverse of a square matrix, else the pseudo-inverse: with more channels than
    components that is the least-squares solution, with fewer the one of least norm.

    Parameters
    ----------
    mixed
        Real numbers, with the channels along ``dim``, e.g. (z, y, x, channel).
    matrix
        (component, channel), as for ``mix``.
    dim
        Dim of the channels: by default the second dim of a labelled matrix if the array has it,
        else the array's last.
    rcond
        Singular values below this fraction of the largest, 0 to 1, count as 0: noise along them is
        left out, and so is the signal. By default all count for a regular square matrix.

    Returns
    -------
    xarray.DataArray
        Components in the place of ``dim``, in the array's unit; floats keep their dtype, integers
        give float64. The attribute ``condition_number`` of the matrix bounds the growth of errors;
        ``rank`` is that of the matrix.

    Raises
    ------
    LabelError
        If the matrix does not hold finite real numbers in a column for every channel, ``dim`` is
        not a dim of the array, the dim of the components is one already, or ``rcond`` is not from
        0 to 1.
    OptionError
        If an option has a wrong type.

    Warns
    -----
    UserWarning
        If the matrix is singular, or if rounding to the array's dtype leaves less than one digit of
        the result.

    References
    ----------
    Penrose, R. (1955), A generalized inverse for matrices, Proc. Camb. Phil. Soc. 51, 406-413.
    ``numpy.linalg.pinv``.

    Examples
    --------
    An image that was multiplied by a noise matrix:

    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> image = xr.DataArray(np.arange(6.0).reshape(2, 3), dims=("x", "channel"))
    >>> noise = np.array([[1.0, 0.2, 0.0], [0.1, 1.0, 0.3], [0.0, 0.4, 1.0]])
    >>> unmixed = lv.unmixing.unmix(lv.unmixing.mix(image, noise), noise)
    >>> unmixed.values.round(6) + 0.0, round(unmixed.attrs["condition_number"], 2)
    (array([[0., 1., 2.],
           [3., 4., 5.]]), 2.23)
    """
    values = _finite_matrix("unmix", matrix)
    mixed_dim = _mixed_dim("unmix", mixed, matrix, dim, 1)
    if mixed.sizes[mixed_dim] != values.shape[1]:
        raise LabelError(
            f"unmix: matrix must have a column per channel, got {values.shape[1]} columns for "
            f"{mixed.sizes[mixed_dim]} along {mixed_dim!r}; pass dim=, or transpose the matrix"
        )
    if rcond is not None and not 0 <= rcond < 1:
        raise LabelError(
            f"unmix: rcond must be a fraction of the largest singular value, 0 to 1, got {rcond=}; "
            f"leave it out for an exact inverse"
        )
    inverse, condition, rank = channel_matrix.inverse(values, rcond)
    _warn_if_ill_conditioned(condition, rank, values.shape, mixed.dtype, rcond)
    unmixed = _multiply("unmix", mixed, inverse, mixed_dim, matrix, 0)
    return unmixed.assign_attrs(condition_number=condition, rank=rank)


def _finite_matrix(op: str, matrix: Matrix) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a matrix in float64; raise LabelError unless it holds finite real numbers."""
    values = np.asarray(matrix)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "biuf":
        raise LabelError(
            f"{op}: matrix must hold real numbers, (component, channel), got shape={values.shape}, "
            f"dtype={values.dtype}; pass a matrix with a row per component"
        )
    if not np.isfinite(values).all():
        raise LabelError(
            f"{op}: matrix must be finite, got {int((~np.isfinite(values)).sum())} NaN or infinite "
            f"elements; replace them"
        )
    return values.astype(np.float64)


def _mixed_dim(op: str, stack: xr.DataArray, matrix: Matrix, dim: str | None, side: int) -> str:
    """Return the dim of the stack that runs along one side of the matrix."""
    if not stack.ndim:
        raise LabelError(
            f"{op}: {'mixed' if side else 'image'} must have a dim of components or channels, got "
            f"{stack.dims=}; label it with as_stack(array, dims=...)"
        )
    labelled = str(matrix.dims[side]) if isinstance(matrix, xr.DataArray) else None
    default = labelled if labelled in stack.dims else str(stack.dims[-1])
    return dims_of(stack, dim or default, subject=f"{op}: dim")[0]


def _multiply(
    op: str, stack: xr.DataArray, values: Any, mixed_dim: str, matrix: Matrix, side: int
) -> xr.DataArray:
    """Return ``stack @ values`` along a dim; the result runs along the ``side`` of ``matrix``."""
    labelled = matrix if isinstance(matrix, xr.DataArray) else None
    new = mixed_dim if labelled is None else str(labelled.dims[side])
    if new != mixed_dim and new in stack.dims:
        raise LabelError(
            f"{op}: matrix must not name its {('rows', 'columns')[side]} {new!r}, as a dim of the "
            f"stack {stack.dims}; rename one of them"
        )
    dims = tuple(str(d) for d in stack.dims)
    dtype = float_of(stack.dtype)
    kernel = partial(
        channel_matrix.multiply_axis, matrix=values, axis=dims.index(mixed_dim), dtype=dtype
    )
    result = blockwise(
        kernel, stack, core=(mixed_dim,), out=tuple(new if d == mixed_dim else d for d in dims),
        sizes={new: values.shape[1]}, dtype=dtype, scratch=1.0 + stack.dtype.itemsize, title=op,
    )  # fmt: skip
    coords = {} if labelled is None else labelled.coords
    return result.assign_coords({c: v for c, v in coords.items() if v.dims == (new,)})


def _warn_if_ill_conditioned(
    condition: float, rank: int, shape: tuple[int, ...], dtype: np.dtype[Any], rcond: float | None
) -> None:
    kept = condition if rcond is None else min(condition, 1 / rcond if rcond else np.inf)
    precision = float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.5 ** (8 * dtype.itemsize)
    if kept * precision > UNSAFE or (rcond is None and rank < min(shape)):
        warnings.warn(
            f"unmix: matrix is ill-conditioned, {condition=:.3g}, {rank=} of {min(shape)}: errors "
            f"grow by the condition number, which leaves less than a digit of {dtype}; add "
            f"channels, or leave small singular values out by rcond=",
            UserWarning,
            stacklevel=4,
        )
