"""The properties of objects: the parts of a state that each needs, its dims, dtype and unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.plan.reductions.fold import Output
from lazyvol.stack import float_of, require_one_unit, unit_of, with_units

INT64, FLOAT64 = np.dtype(np.int64), np.dtype(np.float64)


@dataclass(frozen=True)
class Property:
    """A property of objects: the parts of the kernel's state that it needs, and its new dims.

    ``dtype`` is ``"float"`` (that of the values), ``"same"`` or a type. ``power`` is that of the
    values' unit; ``length`` that of the unit of positions, -1 for the volume of an object.
    """

    parts: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    dtype: str | np.dtype[Any] = FLOAT64
    power: int = 0
    length: int = 0


PROPERTIES: Mapping[str, Property] = {
    "count": Property(dtype=INT64),
    "volume": Property(length=-1),
    "sum": Property(("sum",), dtype="float", power=1),
    "mean": Property(("sum",), dtype="float", power=1),
    "var": Property(("sum", "square"), dtype="float", power=2),
    "std": Property(("sum", "square"), dtype="float", power=1),
    "min": Property(("extremes",), dtype="same", power=1),
    "max": Property(("extremes",), dtype="same", power=1),
    "median": Property(("values",), dtype="float", power=1),
    "minimum_position": Property(("extremes",), ("axis",), length=1),
    "maximum_position": Property(("extremes",), ("axis",), length=1),
    "center_of_mass": Property(("sum", "weighted"), ("axis",), length=1),
    "centroid": Property(("first",), ("axis",), length=1),
    "bbox": Property(("box",), ("edge", "axis"), dtype=INT64),
    "histogram": Property(("bins",), ("bin",), dtype=INT64),
    "inertia_tensor": Property(("first", "second"), ("axis", "axis_other"), length=2),
    "inertia_tensor_eigvals": Property(("first", "second"), ("eigen",), length=2),
    "principal_axes": Property(("first", "second"), ("eigen", "axis")),
}
#: parts that do not depend on values
OF_LABELS = {"first", "second", "box"}


def parts_of(names: Sequence[str]) -> tuple[str, ...]:
    """Return the parts that properties need, each once."""
    return tuple(dict.fromkeys(part for n in names for part in PROPERTIES[n].parts))


def outputs_of(
    names: Sequence[str], dtype: np.dtype[Any], most: int, axes: int, bins: int
) -> dict[str, Output]:
    """Return the outputs of a fold: the properties of ``most`` labels of volumes with ``axes``."""
    lengths = {"axis": axes, "axis_other": axes, "eigen": axes, "edge": 2, "bin": bins}
    result = {}
    for name in names:
        dims, declared = PROPERTIES[name].dims, PROPERTIES[name].dtype
        kinds = {"float": float_of(dtype), "same": dtype}
        kind = kinds[declared] if isinstance(declared, str) else declared
        result[name] = Output(kind, ("label", *dims), (most, *(lengths[d] for d in dims)))
    return result


def attributes_of(name: str, stack: xr.DataArray, dims: Sequence[str]) -> dict[str, Any]:
    """Return the attributes of a property: those of the stack, with its own unit."""
    known = PROPERTIES[name]
    attrs = with_units(stack, known.power)
    units = dict.fromkeys(unit_of(stack, d) for d in dims)
    if known.length and len(units) == 1:
        power = len(dims) if known.length < 0 else known.length
        attrs["units"] = next(iter(units)) + (f"^{power}" if power > 1 else "")
    return attrs


def require_units(names: Sequence[str], stack: xr.DataArray, dims: Sequence[str]) -> None:
    """Raise LabelError for a volume or a shape where positions differ in unit."""
    mixed = [n for n in names if PROPERTIES[n].length not in (0, 1)]
    if mixed:
        require_one_unit(stack, dims, "table: stack")
