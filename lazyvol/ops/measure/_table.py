"""Tables of objects: one fold for all their properties, as contiguous ragged rows."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import BudgetError, LabelError
from lazyvol.kernels import ragged as rows
from lazyvol.kernels.arrays import kernel_float
from lazyvol.kernels.objects import numbers, properties, tally
from lazyvol.ops.measure._properties import (
    INT64,
    OF_LABELS,
    attributes_of,
    outputs_of,
    parts_of,
    require_units,
)
from lazyvol.plan.budget import Budget
from lazyvol.plan.ragged import ragged
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import STACK, first_position, spacing, spatial_dims, with_units

Array = np.ndarray[Any, np.dtype[Any]]

#: labels per volume that memory is planned for, and the most without a budget
EXPECTED_LABELS, MOST_LABELS = 2**18, 2**26
#: bytes per label while labels are collected: a hash table half full, and its copy as it grows
LABEL_BYTES = 64


@dataclass(frozen=True)
class Objects:
    """The labels of every volume in increasing order, one volume after the other.

    ``ends`` are the places where the volumes begin and where the last one ends; ``voxels`` the
    largest number of voxels that all labels of one volume have.
    """

    labels: Array
    ends: Array
    voxels: int

    @property
    def sizes(self) -> Array:
        """Number of labels of every volume."""
        return np.diff(self.ends)

    @property
    def most(self) -> int:
        """Largest number of labels of a volume, 1 or more."""
        return max(1, int(self.sizes.max(initial=0)))


def volume_dims(
    op: str, stack: xr.DataArray, labels: xr.DataArray
) -> tuple[tuple[str, ...], str | None]:
    """Return the dims of a volume, and that of the volumes; raise LabelError if labels do not fit.

    Labels belong to the volumes of the stack, or to one volume that all of them share.
    """
    if labels.dtype.kind not in "biu" or labels.dtype == np.uint64:
        raise LabelError(
            f"{op}: labels must be whole numbers of at most 63 bits, got dtype={labels.dtype}; "
            f"make them with masks.label, or convert them with .astype('int64')"
        )
    dims = spatial_dims(stack)
    others = [str(d) for d in stack.dims if d not in dims]
    if not dims or len(others) > 1:
        raise LabelError(
            f"{op}: stack must have some of the dims z, y, x and at most one more, got "
            f"{stack.dims}; select or rename the others"
        )
    if spatial_dims(labels) != dims or not set(labels.dims) <= set(stack.dims):
        raise LabelError(
            f"{op}: labels must have the dims {dims}, and perhaps {others}, got {labels.dims}; "
            f"label these volumes"
        )
    return dims, others[0] if others else None


def find(labels: xr.DataArray, dims: tuple[str, ...], count: int) -> Objects:
    """Compute the positive labels of ``count`` volumes, which may share theirs."""
    limit = Budget.current().per_task
    most = MOST_LABELS if limit is None else max(1, limit // (4 * LABEL_BYTES))
    size = prod(labels.sizes[d] for d in dims)
    spec = Fold(
        start=numbers.start,
        update=partial(numbers.update, most=most),
        combine=numbers.combine,
        finish=numbers.finish,
        outputs={"labels": Output(np.dtype(object))},
        state_bytes=LABEL_BYTES * min(size, most, EXPECTED_LABELS),
        scratch=8.0,
    )
    try:
        sorted_labels = fold(spec, labels, dims=dims, title="labels")["labels"].compute()
    except MemoryError as error:
        raise BudgetError(
            f"table: memory must hold the labels of a volume, got {error}; raise memory, or pass "
            f"the labels to measure as index"
        ) from error
    pairs = list(np.broadcast_to(sorted_labels.values, count))
    ends = np.concatenate([[0], np.cumsum([len(keys) for keys, _ in pairs])]).astype(np.int64)
    keys = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in pairs)])
    return Objects(keys, ends, max((int(n.sum()) for _, n in pairs), default=0))


def given(index: Sequence[int], count: int, size: int) -> Objects:
    """Return the labels of ``index`` as those of each of ``count`` volumes of ``size`` voxels."""
    labels = np.asarray(index, np.int64)
    if not labels.size or labels[0] < 1 or (np.diff(labels) < 1).any():
        raise LabelError(
            f"table: index must hold labels of 1 or more in increasing order, got {tuple(index)!r}"
        )
    return Objects(np.tile(labels, count), np.arange(count + 1) * labels.size, size)


def table(
    stack: xr.DataArray,
    labels: xr.DataArray,
    names: tuple[str, ...],
    index: Sequence[int] | None,
    edges: Array,
    skipna: bool,
) -> xr.Dataset:
    """Return the table of checked properties; ``edges`` are those of the histogram."""
    dims, frame = volume_dims("table", stack, labels)
    require_units(names, stack, dims)
    order = (*(() if frame is None else (frame,)), *dims)
    stack = stack.transpose(*order)
    labels = labels.transpose(*(d for d in order if d in labels.dims))
    count = 1 if frame is None else stack.sizes[frame]
    size = prod(stack.sizes[d] for d in dims)
    objects = find(labels, dims, count) if index is None else given(index, count, size)
    columns = _measured(stack, labels, names, objects, edges, skipna, dims, frame)
    return _rows(columns, stack, objects, frame or STACK, names, dims, edges)


def _measured(
    stack: xr.DataArray,
    labels: xr.DataArray,
    names: tuple[str, ...],
    objects: Objects,
    edges: Array,
    skipna: bool,
    dims: tuple[str, ...],
    frame: str | None,
) -> dict[str, xr.DataArray]:
    """Return the properties of all labels, (volume, label, ...), from one fold."""
    parts = parts_of(names)
    measured = bool(set(parts) - OF_LABELS) or labels.dims != stack.dims
    lengths = tuple(stack.sizes[d] for d in dims)
    plan = tally.Tally(
        parts, objects.labels, objects.ends, objects.most,
        (*(1,) * (3 - len(dims)), *lengths),  # type: ignore[arg-type]
        kernel_float(stack.dtype), edges, objects.voxels if "values" in parts else 0,
    )  # fmt: skip
    grid = properties.Positions(
        tuple(first_position(stack, d) for d in dims),
        tuple(spacing(stack, d) for d in dims),
        lengths,
    )
    outputs = outputs_of(names, stack.dtype, objects.most, len(dims), len(edges) - 1)
    output_bytes = sum(o.dtype.itemsize * prod(o.sizes) for o in outputs.values())
    wide = {n: o.dtype for n, o in outputs.items()}
    spec = Fold(
        start=partial(tally.start, tally=plan),
        update=partial(tally.update, tally=plan, measured=measured),
        combine=tally.combine,
        finish=partial(properties.finish, want=wide, grid=grid, skipna=skipna),
        outputs=outputs,
        state_bytes=plan.state_bytes,
        finish_bytes=3 * output_bytes + 300 * objects.most + 8 * plan.room,
        scratch=16.0,  # values in float64, labels in int64
    )
    indices = [xr.DataArray(np.arange(n), dims=str(d)) for d, n in stack.sizes.items()]
    operands = (*((stack,) if measured else ()), labels, *indices)
    return fold(spec, *operands, dims=dims, title="table")


def _rows(
    columns: dict[str, xr.DataArray],
    stack: xr.DataArray,
    objects: Objects,
    frame: str,
    names: tuple[str, ...],
    dims: tuple[str, ...],
    edges: Array,
) -> xr.Dataset:
    """Return columns as contiguous ragged rows along ``obs``."""
    sizes = xr.DataArray(objects.sizes, dims=frame)
    flags = np.arange(objects.most) < objects.sizes[:, None]
    is_object = xr.DataArray(flags, dims=(frame, "label"))
    variables: dict[Hashable, Any] = {}
    for name in names:
        column = columns[name]
        column = column if frame in column.dims else column.expand_dims(frame)
        data = ragged(rows.gather, column, is_object, sizes, frame=frame, title=name)
        variables[name] = (data.dims, data.data, attributes_of(name, stack, dims))
    attrs = {"sample_dimension": "obs", "long_name": f"objects in each {frame}"}
    variables["row_size"] = (frame, objects.sizes, with_units(stack, 0) | attrs)
    coords: dict[Hashable, Any] = {
        n: c.variable for n, c in stack.coords.items() if set(c.dims) <= {frame}
    }
    coords["label"] = ("obs", objects.labels)
    coords["frame"] = ("obs", np.repeat(np.arange(len(objects.sizes)), objects.sizes).astype(INT64))
    used = {d for v in variables.values() for d in v[0]}
    named = {"axis": dims, "axis_other": dims, "edge": ("start", "stop")}
    coords |= {d: (d, list(labels)) for d, labels in named.items() if d in used}
    if "bin" in used:
        unit = {n: v for n, v in stack.attrs.items() if n == "units"}
        coords["bin"] = ("bin", (edges[1:] + edges[:-1]) / 2, unit)
    return xr.Dataset(variables, coords)
