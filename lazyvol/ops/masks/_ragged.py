"""Ragged selections: the elements of every frame that a mask selects, as contiguous rows."""

from collections.abc import Hashable
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels import ragged as kernels
from lazyvol.ops import stats
from lazyvol.plan.ragged import is_counted_by_line, padded, ragged
from lazyvol.plan.verbs import generate
from lazyvol.same_grid import require_mask_dims
from lazyvol.stack import STACK, require_mask

#: the dim of observations, the selected elements
OBS = "obs"


@operation(complex=True, dims={"points": (("k", "point"), ("k", "point", "axis"))})
def select(points: xr.DataArray, mask: xr.DataArray, *, frame: str | None = None) -> xr.Dataset:
    """Ragged Dataset of the elements of every frame that a mask selects; empty frames stay.

    Boolean indexing of ``(frame, point, ...)`` by a mask loses the frames; this stores them as a
    contiguous ragged array. Computes the number of elements of each frame, for a lazy mask in one
    read of the mask alone. Everything else is lazy with exact chunk sizes, and reads only the
    frames of the requested elements.

    Parameters
    ----------
    points
        (frame, point, ...), (k, z, y, x), or any other array with frames.
    mask
        Boolean, over dims of ``points``: with ``frame`` for a selection of each frame, without
        it for one that all frames share.
    frame
        Dim of the frames: by default k, or the first dim of ``points`` if it has no k.

    Returns
    -------
    xarray.Dataset
        ``values`` (obs, ...) in the unit of ``points``: the selected elements, frame by frame, in
        each in the order of the mask's dims; dims of ``points`` that the mask lacks stay.
        ``row_size`` (frame): the number of elements of each frame. ``index`` (obs): the index of
        each element in C order over the mask's other dims, as CF's ``compress``;
        ``numpy.unravel_index(index, index.attrs["shape"])`` gives one index per dim.

    Raises
    ------
    LabelError
        If the mask is not boolean, has other dims or positions than ``points``, or has no
        dim but that of the frames.
    OptionError
        If ``frame`` has a wrong type.

    References
    ----------
    CF Conventions 1.11, section 9.3.3, "Contiguous ragged array representation".

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> selected = lv.masks.select(points, points % 3 > 0)
    >>> selected["values"].values, selected.row_size.values, selected["index"].values
    (array([1., 2., 4., 5.]), array([1, 1, 2]), array([1, 0, 0, 1], dtype=int32))
    """
    frame = _frame_dim(points, mask, frame)
    selected = tuple(str(d) for d in mask.dims if d != frame)
    lines = _line_counts(points, mask, frame, selected)
    values = ragged(kernels.gather, points, mask, lines, frame=frame, title="select")
    indices = _flat_indices(mask, selected, in_memory=isinstance(values.data, np.ndarray))
    index = ragged(kernels.gather, indices, mask, lines, frame=frame, title="select-index")
    sizes = lines.sum([d for d in selected if d in lines.dims])
    size_attrs = {"sample_dimension": OBS, "long_name": f"observations in each {frame}"}
    index_attrs = {"compress": " ".join(selected), "shape": [mask.sizes[d] for d in selected]}
    variables = {
        "values": (values.dims, values.data, values.attrs),
        "row_size": (frame, np.asarray(sizes.data, np.int64), size_attrs),
        "index": (OBS, index.data, index_attrs),
    }
    coords: dict[Hashable, Any] = {
        n: c.variable for n, c in points.coords.items() if c.ndim < 2 and n not in (*variables, OBS)
    }
    return xr.Dataset(variables, coords, {} if points.name is None else {"title": str(points.name)})


def _frame_dim(points: xr.DataArray, mask: xr.DataArray, frame: str | None) -> str:
    """Return the dim of the frames; raise LabelError if mask, points or dim do not fit."""
    require_mask_dims("select", points, require_mask("select: mask", mask))
    dim = frame or (STACK if STACK in points.dims else next(map(str, points.dims), ""))
    if dim not in points.dims:
        raise LabelError(
            f"select: frame must name a dim of points, got frame={dim!r}; points have {points.dims}"
        )
    if not [d for d in mask.dims if d != dim]:
        raise LabelError(
            f"select: mask must have a dim besides that of the frames {dim!r}, got {mask.dims}; "
            f"select whole frames by points.isel({dim}=mask), or name another frame="
        )
    if OBS in points.dims:
        raise LabelError(
            f"select: points must not have the dim {OBS!r}, which that of the result will be, got "
            f"{points.dims}; rename it"
        )
    return dim


def _line_counts(
    points: xr.DataArray, mask: xr.DataArray, frame: str, selected: tuple[str, ...]
) -> xr.DataArray:
    """Return the observations of every frame, in memory; of large frames by their first dim too."""
    kept = [n for d, n in points.sizes.items() if d not in (frame, *selected)]
    split = is_counted_by_line([mask.sizes[d] for d in selected], kept, points.dtype.itemsize)
    flags = mask.reset_coords(drop=True)
    counts = stats.sum(flags, selected[1:] if split else selected).astype(np.int64).compute()
    return counts if frame in counts.dims else counts.expand_dims({frame: points.sizes[frame]})


def _flat_indices(
    mask: xr.DataArray, selected: tuple[str, ...], *, in_memory: bool
) -> xr.DataArray:
    """Return the index in C order of each element along the selected dims."""
    shape = tuple(mask.sizes[d] for d in selected)
    dtype = np.dtype(np.int32 if prod(shape) < 2**31 else np.int64)
    like = xr.DataArray(np.broadcast_to(np.int8(0), shape), dims=selected)
    kernel = partial(kernels.flat_indices, shape=shape, dtype=dtype)
    if in_memory:
        return like.copy(data=kernel(tuple(slice(0, n) for n in shape)))
    return generate(kernel, like, dtype=dtype, title="positions")


@operation
def frame(ragged: xr.Dataset, k: int) -> xr.DataArray:
    """Observations of one frame of a ragged Dataset: (obs, ...); only that frame is read.

    Parameters
    ----------
    ragged
        Result of ``select``, also opened from a store.
    k
        Index of the frame from 0; negative ones count from the end.

    Returns
    -------
    xarray.DataArray
        The values in their unit, with their ``index`` and the frame's coordinates.

    Raises
    ------
    LabelError
        If the Dataset is not ragged, or ``k`` is out of range.
    OptionError
        If ``k`` is not a whole number.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> lv.masks.frame(lv.masks.select(points, points % 3 > 0), 2).values
    array([4., 5.])
    """
    values, row_size = _values_and_sizes("frame", ragged)
    dim, n = str(row_size.dims[0]), row_size.size
    if not -n <= k < n:
        raise LabelError(
            f"frame: k must be an index of the {n} frames along {dim!r}, got k={k}; count from 0"
        )
    place = k % n
    ends = np.concatenate([[0], np.cumsum(row_size.values, dtype=np.int64)])
    row = {OBS: slice(int(ends[place]), int(ends[place + 1]))}
    observations = values.isel(row).assign_coords(row_size.isel({dim: place}).coords)
    if "index" in ragged:
        observations = observations.assign_coords(index=ragged["index"].isel(row).variable)
    return observations


@operation(unbounded=("fill",))
def pad(ragged: xr.Dataset, fill: float = np.nan, *, dim: str = "point") -> xr.DataArray:
    """Rows of a ragged Dataset, padded to the longest: (frame, ``dim``, ...).

    Parameters
    ----------
    ragged
        Result of ``select``, also opened from a store.
    fill
        Value after the end of a row, one that the dtype of the values can represent.
    dim
        Name of the dim along the rows.

    Returns
    -------
    xarray.DataArray
        In the dtype and unit of the values, lazy if they are.

    Raises
    ------
    LabelError
        If the Dataset is not ragged, has the dim ``dim``, or its dtype cannot represent ``fill``.
    OptionError
        If an option has a wrong type.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> lv.masks.pad(lv.masks.select(points, points % 3 > 0)).values
    array([[ 1., nan],
           [ 2., nan],
           [ 4.,  5.]])
    """
    values, row_size = _values_and_sizes("pad", ragged)
    if dim in (*values.dims, *row_size.dims):
        raise LabelError(f"pad: dim must be a new name, got {dim=} of the Dataset; choose another")
    if not can_represent(fill, values.dtype):
        raise LabelError(
            f"pad: fill must be a value that {values.dtype} can represent, got {fill!r}; pass "
            f"another, or convert the values, e.g. with astype('float32')"
        )
    with np.errstate(over="ignore"):
        cast = np.asarray(fill).astype(values.dtype)[()]
    return padded(kernels.pad_rows, values, row_size, dim, fill=cast, title="pad")


def can_represent(value: float, dtype: np.dtype[Any]) -> bool:
    """Return True if a dtype can represent a value: floats rounded, other dtypes exactly."""
    if dtype.kind in "fc":
        return True
    if not np.isfinite(value):
        return False
    with np.errstate(all="ignore"):
        return bool(np.asarray(value).astype(dtype)[()] == value)


def _values_and_sizes(op: str, ragged: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the values of a ragged Dataset under their own name, and the sizes of its rows."""
    if not isinstance(ragged, xr.Dataset) or not {"values", "row_size"} <= set(ragged.data_vars):
        raise LabelError(
            f"{op}: ragged must be a Dataset with 'values' and 'row_size', got "
            f"{type(ragged).__name__}; make one with masks.select"
        )
    values, row_size = ragged["values"], ragged["row_size"]
    if values.dims[:1] != (OBS,) or row_size.ndim != 1:
        raise LabelError(
            f"{op}: ragged must have 'values' with the first dim {OBS!r} and 'row_size' along one "
            f"dim, got {values.dims} and {row_size.dims}; transpose them"
        )
    row_size = row_size.compute()
    if int(row_size.sum()) != values.sizes[OBS]:
        raise LabelError(
            f"{op}: ragged must have as many values as its row_size adds up to, "
            f"{int(row_size.sum())}, got {values.sizes[OBS]}; select anew after dropping frames or "
            f"observations"
        )
    return values.rename(ragged.attrs.get("title")), row_size
