"""Ragged selections: what a mask chooses of every frame, in as many observations as there are."""

from collections.abc import Hashable
from functools import partial
from math import isnan, prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels import ragged as ragged_kernels
from lazyvol.plan.ragged import is_counted_by_line, padded
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold, generate, ragged
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import STACK, require_mask, require_stack

#: the dim along which observations follow each other
OBS = "obs"


@operation(complex=True, dims={"points": (("k", "point"), ("k", "point", "axis"))})
def select(points: xr.DataArray, mask: xr.DataArray, *, frame: str | None = None) -> xr.Dataset:
    """Ragged Dataset of what a mask chooses of every frame; no frame is lost.

    Boolean indexing of ``(frame, point, ...)`` by a mask flattens frames away; this keeps them as
    contiguous ragged rows [1]_. A mask in memory is counted at once. Computes the counts of a lazy
    mask, in one pass over the mask alone; everything else is lazy, with exact chunk sizes, and
    reads only the frames it is asked for.

    Parameters
    ----------
    points
        (frame, point, ...), (k, z, y, x), or any other array with frames.
    mask
        Boolean, over any dims of ``points``: with ``frame`` for a choice of each frame, without
        it for one that all share.
    frame
        Dim of the frames: by default k, or the first dim of ``points`` where it has none.

    Returns
    -------
    xarray.Dataset
        ``values`` (obs, ...) in the unit of ``points``, frame by frame, in each the order of the
        mask's dims; dims of ``points`` that are not the mask's stay. ``row_size`` (frame): the
        observations of each frame, 0 included. ``index`` (obs): which element of the mask's other
        dims each observation is, counted in C order as CF's ``compress`` says;
        ``numpy.unravel_index(index, index.attrs["shape"])`` gives its place.

    Raises
    ------
    LabelError
        If the mask is not boolean, its dims do not fit, or it has none beside the frames.

    References
    ----------
    .. [1] CF Conventions 1.11, section 9.3.3, "Contiguous ragged array representation".

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> found = lv.masks.select(points, points % 3 > 0)
    >>> found["values"].values, found.row_size.values, found["index"].values
    (array([1., 2., 4., 5.]), array([1, 1, 2]), array([1, 0, 0, 1], dtype=int32))
    """
    frame = _frame_of(points, mask, frame)
    selected = tuple(str(d) for d in mask.dims if d != frame)
    lines = _lines(points, mask, frame, selected)
    values = ragged(ragged_kernels.gather, points, mask, lines, frame=frame, title="select")
    where = _positions(mask, selected, local=isinstance(values.data, np.ndarray))
    index = ragged(ragged_kernels.gather, where, mask, lines, frame=frame, title="select-index")
    sizes = lines.sum([d for d in selected if d in lines.dims])
    coords: dict[Hashable, Any] = {
        n: c.variable for n, c in points.coords.items() if c.ndim < 2 and OBS not in c.dims
    }
    index.attrs = {"compress": " ".join(selected), "shape": [mask.sizes[d] for d in selected]}
    told = {"sample_dimension": OBS, "long_name": f"observations in each {frame}"}
    found = {
        "values": (values.dims, values.data, values.attrs),
        "row_size": (frame, np.asarray(sizes.data, np.int64), told),
        "index": (OBS, index.data, index.attrs),
    }
    return xr.Dataset(found, coords, {} if points.name is None else {"title": str(points.name)})


def _frame_of(points: xr.DataArray, mask: xr.DataArray, frame: str | None) -> str:
    """The dim of the frames, once the mask is found to fit."""
    require_same_grid(require_stack(points), require_mask("select: mask", mask))
    extra = [d for d in mask.dims if d not in points.dims]
    if extra:
        raise LabelError(f"a mask lies along dims of the points {points.dims}, got also {extra}")
    found = frame or (STACK if STACK in points.dims else str(points.dims[0]))
    if found not in points.dims:
        raise LabelError(f"frames lie along a dim of the points {points.dims}, got frame={found!r}")
    if not [d for d in mask.dims if d != found]:
        raise LabelError(
            f"a mask chooses among the elements of a frame, got dims {mask.dims} with frames along "
            f"{found!r}; choose whole frames by points.isel({found}=mask), or name another frame="
        )
    if OBS in points.dims:
        raise LabelError(f"{OBS!r} will be the dim of the observations; rename it in the points")
    return found


def _lines(
    points: xr.DataArray, mask: xr.DataArray, frame: str, selected: tuple[str, ...]
) -> xr.DataArray:
    """Observations of every frame, and where frames are large of every index along their first
    dim: (frame, ...), in memory."""
    kept = [n for d, n in points.sizes.items() if d not in (frame, *selected)]
    split = is_counted_by_line([mask.sizes[d] for d in selected], kept, points.dtype.itemsize)
    counts = _counts(mask, selected[1:] if split else selected)
    if frame not in counts.dims:
        counts = counts.expand_dims({frame: points.sizes[frame]})
    return counts


def _counts(mask: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    """Flags over ``dims``; of a lazy mask from one pass over it."""
    spec = Fold(
        start=ragged_kernels.start,
        update=ragged_kernels.update,
        combine=ragged_kernels.combine,
        finish=ragged_kernels.finish,
        outputs={"count": Output(np.dtype(np.int64))},
        state_bytes=8,
        scratch=1.0,
    )
    bare = mask.reset_coords(drop=True)
    return fold(spec, bare, dims=dims, title="count")["count"].compute()


def _positions(mask: xr.DataArray, selected: tuple[str, ...], *, local: bool) -> xr.DataArray:
    """Which element of the selected dims each one is."""
    shape = tuple(mask.sizes[d] for d in selected)
    dtype = np.dtype(np.int32 if prod(shape) < 2**31 else np.int64)
    like = xr.DataArray(np.broadcast_to(np.int8(0), shape), dims=selected)
    kernel = partial(ragged_kernels.positions, shape=shape, dtype=dtype)
    if local:
        return like.copy(data=kernel(tuple(slice(0, n) for n in shape)))
    return generate(kernel, like, dtype=dtype, title="positions")


@operation
def frame(ragged: xr.Dataset, k: int) -> xr.DataArray:
    """Values of one frame of a ragged Dataset: (obs, ...).

    Only what lies in that frame is read.

    Parameters
    ----------
    ragged
        What ``select`` gives, or the same opened from a store.
    k
        Number of the frame from 0, or from the end where it is negative.

    Returns
    -------
    xarray.DataArray
        Its observations, with their ``index`` and the facts of the frame as coordinates.

    Raises
    ------
    LabelError
        If the Dataset is not ragged, or there is no such frame.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> lv.masks.frame(lv.masks.select(points, points % 3 > 0), 2).values
    array([4., 5.])
    """
    values, row_size = _parts(ragged)
    dim, n = str(row_size.dims[0]), row_size.size
    if not -n <= k < n:
        raise LabelError(f"there are {n} frames along {dim!r}, got k={k}")
    at = k % n
    ends = np.concatenate([[0], np.cumsum(row_size.values, dtype=np.int64)])
    own = {OBS: slice(int(ends[at]), int(ends[at + 1]))}
    facts = row_size.isel({dim: at}).coords
    found = values.isel(own).assign_coords(facts)
    if "index" in ragged:
        found = found.assign_coords(index=ragged["index"].isel(own).variable)
    return found


@operation(unbounded=("fill",))
def pad(ragged: xr.Dataset, fill: float = np.nan, *, dim: str = "point") -> xr.DataArray:
    """Ragged rows as rows of one length: (frame, ``dim``, ...), as long as the longest.

    Parameters
    ----------
    ragged
        What ``select`` gives, or the same opened from a store.
    fill
        Value of the places beyond the end of a row, one that the values' type can hold.
    dim
        Name of the dim of places in a row.

    Returns
    -------
    xarray.DataArray
        In the type and unit of the values, lazy where they are.

    Raises
    ------
    LabelError
        If the Dataset is not ragged, or ``fill`` does not fit the type of its values.

    Examples
    --------
    >>> import numpy as np, xarray as xr, lazyvol as lv
    >>> points = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("frame", "point"))
    >>> lv.masks.pad(lv.masks.select(points, points % 3 > 0)).values
    array([[ 1., nan],
           [ 2., nan],
           [ 4.,  5.]])
    """
    values, row_size = _parts(ragged)
    if dim in (*values.dims, *row_size.dims):
        raise LabelError(f"places in a row need a dim of their own, got {dim=}; name another")
    kept = fitting(fill, values.dtype)
    return padded(ragged_kernels.spread, values, row_size, dim, fill=kept, title="pad")


def fitting(fill: float, dtype: np.dtype[Any]) -> Any:
    """A value in a dtype that can hold it."""
    with np.errstate(all="ignore"):
        kept = np.asarray(fill).astype(dtype)[()] if not _is_lost(fill, dtype) else None
    if kept is None or (kept != fill and not isnan(fill) and dtype.kind not in "fc"):
        raise LabelError(
            f"fill is a value that {dtype} can hold, got {fill!r}; give another, or convert the "
            f"values, e.g. with astype('float32')"
        )
    return kept


def _is_lost(fill: float, dtype: np.dtype[Any]) -> bool:
    """Whether a dtype without NaN and infinities is asked to hold one."""
    return dtype.kind not in "fc" and not bool(np.isfinite(fill))


def _parts(ragged: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Values of a ragged Dataset under their own name, and the sizes of its rows."""
    if not isinstance(ragged, xr.Dataset) or not {"values", "row_size"} <= set(ragged.data_vars):
        raise LabelError(
            f"a ragged Dataset with 'values' and 'row_size' is needed, got "
            f"{type(ragged).__name__}; make one with masks.select"
        )
    values, row_size = ragged["values"], ragged["row_size"]
    if values.dims[:1] != (OBS,) or row_size.ndim != 1:
        raise LabelError(
            f"'values' of a ragged Dataset lie along {OBS!r} first and 'row_size' along the frames,"
            f" got {values.dims} and {row_size.dims}"
        )
    row_size = row_size.compute()
    if int(row_size.sum()) != values.sizes[OBS]:
        raise LabelError(
            f"rows add up to the observations, got row_size of {int(row_size.sum())} for "
            f"{values.sizes[OBS]} values; select anew after dropping frames or observations"
        )
    return values.rename(ragged.attrs.get("title")), row_size
