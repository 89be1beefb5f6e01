"""The rows of the table of operations, and functions that several rows use."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

import lazyvol as lv

Array = np.ndarray[Any, np.dtype[Any]]

#: voxel size of the stacks that the table is run on, along z, y, x
VOXEL = (3.0, 2.0, 1.5)
UNIT = "angstrom"
STACKED = ("k", "z", "y", "x")
VOLUME = ("z", "y", "x")
FLOATS = ("float16", "float32", "float64")
DTYPES = (*FLOATS, "int16", "uint8")


@dataclass(frozen=True)
class Case:
    """One operation with its options, its oracle, and the labels and type of its result.

    A row is named ``topic.operation``; ``topic.operation/variant`` is another row of the operation.
    ``dims`` are those of the result. ``power`` is the power of the stack's unit that the result has
    (2 for a variance), or the unit itself, or None for no unit. ``dtype`` is ``"float"`` (a float's
    own, float64 for integers), ``"same"`` or a type by name. ``ulps`` is the distance allowed to
    the oracle in units of the result's precision, relative to its largest value. ``generated`` is
    True for a result that depends only on the shape and positions of a stack. Along the dims
    ``moved`` the result has positions of its own. ``also`` holds valid values of the arguments that
    the operation requires besides its stack, for the tests of options and commands.
    """

    op: Callable[[xr.DataArray], xr.DataArray | xr.Dataset]
    oracle: Callable[[Array], Array | Mapping[str, Array]]
    dims: tuple[str, ...] = STACKED
    power: int | str | Mapping[str, int] | None = 1
    dtype: str | Mapping[str, str] = "float"
    ulps: float = 4.0
    dtypes: tuple[str, ...] = DTYPES
    generated: bool = False
    moved: tuple[str, ...] = ()
    also: Mapping[str, Any] = field(default_factory=dict)


def mask_of(shape: tuple[int, ...]) -> Array:
    """Return a fixed mask over one volume."""
    return np.random.default_rng(5).random(shape[-3:]) > 0.4


def masked(stack: xr.DataArray) -> xr.DataArray:
    """Return the mask of ``mask_of`` with labels, in memory."""
    shape = tuple(stack.sizes[d] for d in VOLUME)
    return lv.as_stack(mask_of(shape), voxel_size=VOXEL, unit=UNIT)


def omitted(a: Array) -> Array:
    """Return values with NaN outside the mask, for numpy's nan-functions."""
    return np.where(mask_of(a.shape), a.astype(np.float64), np.nan)


def wide(a: Array) -> Array:
    return a.astype(np.float64)


def each(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Apply an oracle for one particle to every particle of a stack."""
    return lambda a: np.stack([function(v) for v in wide(a)])
