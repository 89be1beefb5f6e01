"""Filters by a function of the user."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import OptionError
from lazyvol.kernels.filters import generic as kernels
from lazyvol.ops.filters import _windows
from lazyvol.ops.filters._footprints import Window
from lazyvol.stack import float_of

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array], float]

#: bytes per voxel of a block for its values in float64, and the result in float64
DOUBLES = 16.0
#: voxels of a window, which a function gets at once: 128 MiB, and three times that to gather them
MAX_COUNT = 2**24


def generic(stack: xr.DataArray, function: Function | str, window: Window) -> xr.DataArray:
    """Return a function of the values in every window."""
    if window.count > MAX_COUNT:
        raise OptionError(
            f"generic: size must be {MAX_COUNT} voxels or fewer in a window, got {window.count}; "
            f"choose smaller lengths"
        )
    window.boundary.require("generic", stack, window.reach)
    called = _imported(function) if isinstance(function, str) else function
    _require_number(called, window.count)
    footprint = window.footprint
    if footprint is None:
        footprint = np.ones([before + 1 + after for before, after in window.reach], bool)
    dtype = float_of(stack.dtype)
    kernel = partial(kernels.apply, function=called, footprint=footprint, dtype=dtype)
    return _windows.filter_blocks(
        "generic", kernel, stack, window.reach, window.boundary, dtype, DOUBLES
    )


def _imported(name: str) -> Function:
    """Return the function of a module, ``"module:function"``."""
    module, _, attribute = name.partition(":")
    try:
        function: Function = getattr(import_module(module), attribute)
    except Exception as error:
        raise OptionError(
            f"generic: function must be 'module:function' of a module that can be imported, got "
            f"{name[:60]!r}; e.g. 'numpy:ptp' ({type(error).__name__})"
        ) from error
    return function


def _require_number(function: Function, count: int) -> None:
    """Call the function once; raise OptionError unless it gives a number."""
    try:
        float(function(np.linspace(0.0, 1.0, count)))
    except Exception as error:
        raise OptionError(
            f"generic: function must return a number for an array of {count} values, got "
            f"{type(error).__name__} for numbers from 0 to 1; see that it reduces one axis"
        ) from error
