"""Checks that two stacks share a grid: lengths, positions, units and labels."""

from collections.abc import Hashable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.stack import REGULARITY, SPACING_ATTR, SPATIAL, STACK, Array


def require_same_grid(a: xr.DataArray, b: xr.DataArray) -> None:
    """Raise LabelError if the common dims of two stacks differ in length, unit or labels.

    Positions along z, y and x must agree within 1e-3 of a voxel if both are in the same unit. If
    one stack is in voxels, its positions must be 0, 1, 2, ... (as ``as_stack`` assigns them,
    anywhere in the other), or be those of the other stack divided by its voxel size. Labels along
    other dims must be equal where both stacks have them, and so must be names of particles:
    coordinates along k of whole numbers or texts, each of which occurs once.
    """
    for d in (str(d) for d in a.dims if d in b.dims):
        if a.sizes[d] != b.sizes[d]:
            raise LabelError(
                f"both stacks must have the same length along {d!r}, got lengths {a.sizes[d]} and "
                f"{b.sizes[d]}; crop or resample one of them"
            )
    require_same_labels(a, b)


def require_mask_dims(op: str, array: xr.DataArray, mask: xr.DataArray) -> None:
    """Raise LabelError unless ``mask`` has dims of ``array``, at equal positions."""
    require_same_grid(array, mask)
    extra = [d for d in mask.dims if d not in array.dims]
    if extra:
        raise LabelError(
            f"{op}: mask must have dims of the array {array.dims}, got also {extra}; select "
            f"or reduce these"
        )


def require_same_labels(a: xr.DataArray, b: xr.DataArray) -> None:
    """Raise LabelError if common dims of equal length differ in unit or labels.

    Labels are read from indexes: 0.2 us each, where the values of a coordinate take 9 us.
    """
    if a is b:
        return
    a_coords, b_coords = a.coords.variables, b.coords.variables
    a_indexes, b_indexes = a.xindexes, b.xindexes
    for name in a_coords.keys() & b_coords.keys():
        first, second = a_coords[name], b_coords[name]
        if first is second or len(first.dims) != 1 or first.dims != second.dims:
            continue
        dim = str(first.dims[0])
        if name == dim and name in a_indexes and name in b_indexes:
            labels = [np.asarray(i[name].to_pandas_index()) for i in (a_indexes, b_indexes)]
            _require_same_index(dim, labels, [first.attrs, second.attrs])
        elif (
            dim == STACK
            and first.shape == second.shape
            and _are_names(first)
            and _are_names(second)
        ):
            _require_equal(str(name), first.values, second.values, 0.0)


def _are_names(labels: xr.Variable) -> bool:
    """Return True if labels name particles: whole numbers or texts in memory, each once."""
    if labels.dtype.kind not in "iuOUST" or labels.chunks is not None:
        return False
    values = labels.values.tolist()
    return all(isinstance(v, Hashable) for v in values) and len(set(values)) == len(values)


def _require_same_index(
    dim: str, labels: Sequence[Array], attrs: Sequence[Mapping[str, Any]]
) -> None:
    """Raise LabelError if the indexes of a dim differ in unit, or in labels if equally long."""
    units = [str(a.get("units", "voxel")) for a in attrs]
    if units[0] != units[1] and dim in SPATIAL and "voxel" not in units:
        raise LabelError(
            f"positions along {dim!r} of both must have the same unit, got {units[0]} and "
            f"{units[1]}; convert one of them"
        )
    if len(labels[0]) != len(labels[1]):
        return
    identical = units[0] == units[1] and (labels[0] == labels[1]).all()
    if identical and SPACING_ATTR not in {*attrs[0], *attrs[1]}:
        return
    are_numbers = all(v.dtype.kind in "iuf" for v in labels)
    steps = [_step(v, a) for v, a in zip(labels, attrs, strict=True)]
    if dim in SPATIAL and are_numbers:
        _require_same_positions(dim, labels, steps, units)
    else:
        _require_equal(dim, labels[0], labels[1], REGULARITY * steps[0] if are_numbers else 0.0)


def _require_equal(name: str, a: Array, b: Array, tolerance: float) -> None:
    """Raise LabelError if labels differ, numbers by more than ``tolerance``; NaN equals NaN."""
    differ = np.asarray((a != b) & ((a == a) | (b == b)))
    if tolerance and differ.any():
        differ &= ~(np.abs(a.astype(np.float64) - b) <= tolerance)
    if differ.any():
        place = int(np.argmax(differ))
        first, second = (labels[place : place + 1].tolist()[0] for labels in (a, b))
        raise LabelError(
            f"labels {name!r} of both must be equal, got {first!r} and {second!r} at place "
            f"{place}; select those that both have, in one order"
        )


def _require_same_positions(
    dim: str, labels: Sequence[Array], steps: Sequence[float], units: Sequence[str]
) -> None:
    """Raise LabelError if positions differ by more than ``REGULARITY`` of a voxel."""
    a, b = (v.astype(np.float64) for v in labels)
    step = steps[0]
    if units[0] != units[1]:
        voxels, lengths, size = (a, b, steps[1]) if units[0] == "voxel" else (b, a, steps[0])
        if np.array_equal(voxels, np.arange(len(voxels))):
            return
        a, b, step = voxels, lengths / size, 1.0
    elif not abs(steps[0] - steps[1]) <= REGULARITY * step:
        raise LabelError(
            f"voxel sizes along {dim!r} of both must agree, got {steps[0]:g} and {steps[1]:g} "
            f"{units[0]}; resample one of them"
        )
    if not (np.abs(a - b) <= REGULARITY * step).all():
        spans = [f"{v[0]:g} to {v[-1]:g} {u}" for v, u in zip(labels, units, strict=True)]
        raise LabelError(
            f"positions along {dim!r} of both must agree within {REGULARITY:g} of a voxel, got "
            f"{spans[0]} and {spans[1]}; crop both alike, or give one the coordinates of the other "
            f"by .assign_coords"
        )


def _step(labels: Array, attrs: Mapping[str, Any]) -> float:
    """Return the mean distance between neighbours; 1 if it is not known."""
    if len(labels) < 2 or labels.dtype.kind not in "iuf":
        return abs(float(attrs.get(SPACING_ATTR, 1.0)))
    step = abs(float(labels[-1]) - float(labels[0])) / (len(labels) - 1)
    return step if isfinite(step) and step > 0 else 1.0
