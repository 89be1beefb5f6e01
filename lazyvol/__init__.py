"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lazyvol import accessor, errors
from lazyvol.client import connect
from lazyvol.errors import LazyvolError
from lazyvol.io import open, save, verify
from lazyvol.plan.budget import limited
from lazyvol.plan.explain import explain
from lazyvol.stack import as_stack

if TYPE_CHECKING:
    from lazyvol import plots, screening
    from lazyvol.explorer import explore
    from lazyvol.ops import (
        clustering,
        density,
        derivatives,
        filters,
        intensity,
        masks,
        measure,
        projections,
        registration,
        scores,
        stats,
        synthetic,
        unmixing,
    )

__version__ = "0.1.0"

__all__ = [
    "LazyvolError",
    "__version__",
    "as_stack",
    "clustering",
    "connect",
    "density",
    "derivatives",
    "errors",
    "explain",
    "explore",
    "filters",
    "intensity",
    "limited",
    "masks",
    "measure",
    "open",
    "plots",
    "projections",
    "registration",
    "save",
    "scores",
    "screening",
    "stats",
    "synthetic",
    "unmixing",
    "verify",
]


accessor.register()


def __getattr__(name: str) -> Any:
    """Import a topic at its first use: all topics take 1 s, which workers and commands save."""
    if name not in __all__:
        raise AttributeError(f"module 'lazyvol' has no attribute {name!r}")
    if name == "explore":
        value: Any = import_module("lazyvol.explorer").explore
    else:
        outer = name in ("plots", "screening")
        value = import_module(f"lazyvol.{name}" if outer else f"lazyvol.ops.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
