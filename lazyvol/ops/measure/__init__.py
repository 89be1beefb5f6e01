"""Measures of objects: the statistics, positions and shapes of every label of every volume.

Objects are the voxels of one positive label, e.g. of ``masks.label``; 0 and below is background.
All properties come from one read of the stack. A NaN among the values of an object makes its
statistics NaN unless ``skipna`` is set. Floats keep their type, integers give float64; integers of
64 bits are rounded to 53.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.objects import numbers
from lazyvol.kernels.reductions.histogram import bin_edges
from lazyvol.ops._checks import bin_count
from lazyvol.ops.measure import _table
from lazyvol.ops.measure._properties import PROPERTIES
from lazyvol.ops.stats._histogram import bin_limits
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import require_mask, with_units

__all__ = ["select", "table"]


@operation
def table(
    stack: xr.DataArray,
    labels: xr.DataArray,
    *,
    what: Sequence[str] = ("count", "volume", "mean", "std", "min", "max", "centroid", "bbox"),
    index: Sequence[int] | None = None,
    bins: int = 256,
    range: tuple[float, float] | None = None,
    skipna: bool = False,
) -> xr.Dataset:
    """Table of objects: properties of every label of every volume, from one read of the stack.

    The rows of a volume follow each other, in the order of its labels, as a contiguous ragged
    array [1]_. Computes the labels of each volume in one read of ``labels`` alone, unless ``index``
    names them. Everything else is lazy. Save the table as ``.zarr``, ``.csv`` or ``.star``.

    Parameters
    ----------
    stack
        Volume or stack of real numbers: some of z, y, x, and at most one more dim.
    labels
        Whole numbers over z, y, x of the stack, for each volume or shared by all; objects are
        the voxels of one positive label.
    what
        Names of properties.

        * of the object: ``count`` (voxels), ``volume``, ``centroid``, ``bbox`` (first index and
          last + 1), ``inertia_tensor`` and ``inertia_tensor_eigvals`` (of positions, per voxel),
          ``principal_axes`` (unit vectors, that of the longest extent first);
        * of its values: ``sum``, ``mean``, ``var``, ``std``, ``min``, ``max``, ``median``,
          ``center_of_mass``, ``minimum_position``, ``maximum_position`` (of equal values the
          first), ``histogram``.

        The median takes memory for all values of a volume's objects.
    index
        Labels to measure in every volume, in increasing order; by default all that occur. A label
        that does not occur has 0 voxels, and NaN or, of integers, 0.
    bins, range
        Number of bins of the histogram, and its first and last edge in the stack's unit, which
        ``histogram`` requires.
    skipna
        Leave NaN out of properties of values.

    Returns
    -------
    xarray.Dataset
        A variable (obs, ...) for each property, with the coordinates ``label`` and ``frame`` (the
        number of the volume from 0) along ``obs``; vectors have a last dim ``axis``. Positions
        are those of the coordinates, in their unit. ``row_size`` (k) is the number of objects of
        each volume.

    Raises
    ------
    LabelError
        If labels are no whole numbers or do not fit the stack, a property is unknown, ``index`` is
        not increasing, or ``histogram`` has no range.
    BudgetError
        If the memory cannot hold the state of one volume: its labels, or the values of a median.

    References
    ----------
    .. [1] CF Conventions 1.11, section 9.3.3, "Contiguous ragged array representation".

    ``scipy.ndimage.mean``, ``variance``, ``center_of_mass``, ``minimum_position``, ... and
    ``skimage.measure.regionprops_table``, whose area is ``volume``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> volume = lv.as_stack(np.arange(6.0).reshape(1, 1, 6), voxel_size=2.0)
    >>> labels = lv.masks.label(volume != 3)
    >>> objects = lv.measure.table(volume, labels, what=("count", "mean", "centroid"))
    >>> objects.label.values, objects["mean"].values, objects.row_size.values
    (array([1, 2]), array([1. , 4.5]), array([2]))
    >>> objects["centroid"].sel(axis="x").values
    array([2., 9.])
    """
    names = tuple(dict.fromkeys(what))
    unknown = [n for n in names if n not in PROPERTIES]
    if unknown or not names:
        raise LabelError(
            f"table: what must name some of {tuple(PROPERTIES)}, got {tuple(what)}; leave out "
            f"{unknown or 'nothing'}"
        )
    number = bin_count("table", bins)
    limits = None if range is None else bin_limits("table", range, number)
    edges = np.zeros(2)
    if "histogram" in names:
        if limits is None:
            raise LabelError(
                "table: range must be given for a histogram, got None; pass its first and last "
                "edge, e.g. range=(0, 1)"
            )
        edges = bin_edges(*limits, number)
    return _table.table(stack, labels, names, index, edges, skipna)


@operation(counts=None)
def select(labels: xr.DataArray, condition: xr.DataArray) -> xr.DataArray:
    """Labels of the objects whose row of a condition is True; all others become 0.

    Parameters
    ----------
    labels
        Whole numbers over some of z, y, x, and at most one more dim.
    condition
        Boolean (obs), with the coordinates ``label`` and ``frame``: a comparison of a column of
        ``table``, of all its rows or some of them.

    Returns
    -------
    xarray.DataArray
        In the dtype of the labels; objects without a row become 0.

    Raises
    ------
    LabelError
        If labels are no whole numbers or have other dims, or the condition is not boolean, has
        other dims, or lacks a coordinate.

    References
    ----------
    ``skimage.morphology.remove_small_objects``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> labels = lv.masks.label(lv.as_stack(np.array([[[1, 0, 1, 1, 0, 1]]]) > 0))
    >>> objects = lv.measure.table(labels, labels, what=("count",))
    >>> lv.measure.select(labels, objects["count"] > 1).values
    array([[[0, 0, 2, 2, 0, 0]]], dtype=int32)
    """
    dims, frame = _table.volume_dims("select", labels, labels)
    lacking = [n for n in ("label", "frame") if n not in condition.coords]
    if condition.dims != ("obs",) or lacking:
        raise LabelError(
            f"select: condition must have the dim 'obs' and the coordinates 'label' and 'frame', "
            f"got {condition.dims} with {tuple(condition.coords)}; compare a column of "
            f"measure.table"
        )
    columns = [condition.coords[n].reset_coords(drop=True) for n in ("label", "frame")]
    keep = require_mask("select: condition", condition).reset_coords(drop=True)
    count = 1 if frame is None else labels.sizes[frame]
    volumes = xr.DataArray(np.arange(count), dims=frame) if frame else xr.DataArray(np.int64(0))
    order = (*((frame,) if frame else ()), *dims)
    selected = blockwise(
        numbers.selected, labels.transpose(*order), volumes, tables=(keep, *columns),
        dtype=labels.dtype, scratch=8.0, title="select",
    )  # fmt: skip
    selected.attrs = with_units(labels, 0)
    return selected.transpose(*labels.dims)
