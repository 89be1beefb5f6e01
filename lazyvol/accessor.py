"""The accessor ``stack.lv``: every operation as a method of the DataArray that it is applied to."""

import sys
from collections.abc import Callable
from functools import partial, update_wrapper
from importlib import import_module
from importlib.abc import MetaPathFinder
from inspect import signature
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

#: topics whose operations take a stack first
TOPICS = (
    "clustering", "density", "derivatives", "filters", "fourier", "intensity", "masks", "measure",
    "plots", "projections", "registration", "scores", "screening", "stats", "synthetic",
    "transform", "unmixing",
)  # fmt: skip
#: functions of ``lazyvol`` itself that take a stack first
FUNCTIONS = ("explain", "explore", "save", "to_napari")


class Accessor:
    """Operations of lazyvol on one array: ``stack.lv.filters.gaussian(2.0)``, ``stack.lv.save(p)``.

    Each forwards to the function of that name with the array as its first argument.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(24.0).reshape(2, 3, 4))
    >>> stack.lv.stats.mean("z").equals(lv.stats.mean(stack, "z"))
    True
    """

    def __init__(self, array: "xr.DataArray") -> None:
        self._array = array

    def __getattr__(self, name: str) -> Any:
        if name in FUNCTIONS:
            return _bound(getattr(import_module("lazyvol"), name), self._array)
        if name in TOPICS:
            return _Topic(getattr(import_module("lazyvol"), name), self._array)
        raise AttributeError(
            f"'lv' has no topic or function {name!r}; it has {', '.join(dir(self))}"
        )

    def __dir__(self) -> list[str]:
        return sorted((*FUNCTIONS, *TOPICS))


class _Topic:
    """The operations of one topic that take a stack first."""

    def __init__(self, topic: ModuleType, array: "xr.DataArray") -> None:
        self._topic, self._array = topic, array

    def __getattr__(self, name: str) -> Any:
        if name in dir(self):
            return _bound(getattr(self._topic, name), self._array)
        raise AttributeError(
            f"{self._topic.__name__.rpartition('.')[2]!r} has no operation {name!r} of a stack; it "
            f"has {', '.join(dir(self))}"
        )

    def __dir__(self) -> list[str]:
        return [n for n in self._topic.__all__ if _takes_a_stack(getattr(self._topic, n))]


def _takes_a_stack(function: Any) -> bool:
    """Return True for a function whose first parameter is a DataArray."""
    import xarray as xr

    if not callable(function) or isinstance(function, type):
        return False
    first = next(iter(signature(function).parameters.values()), None)
    return first is not None and first.annotation is xr.DataArray


def _bound(function: Callable[..., Any], array: "xr.DataArray") -> Callable[..., Any]:
    """Return a function with its first argument given, under its own name and docstring."""
    bound = partial(function, array)
    update_wrapper(bound, function)
    return bound


def register() -> None:
    """Add the accessor ``lv`` to every DataArray, as soon as xarray is imported.

    Its import takes 0.5 s, which the help and the errors of the command line do without.
    """
    if "xarray" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterXarray())


def _register() -> None:
    import xarray as xr

    xr.register_dataarray_accessor("lv")(Accessor)  # type: ignore[no-untyped-call]


class _AfterXarray(MetaPathFinder):
    """Finds xarray by the other finders, and adds the accessor once its module has been run."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
        if name != "xarray":
            return None
        others = (f for f in sys.meta_path if f is not self)
        spec = next(filter(None, (f.find_spec(name, path, target) for f in others)), None)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            loader.exec_module = partial(self._run, loader.exec_module)
        return spec

    def _run(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        run(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()
