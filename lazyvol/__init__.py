"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lazyvol import accessor, errors
from lazyvol.errors import LazyvolError

if TYPE_CHECKING:
    from lazyvol import plots, screening
    from lazyvol.cli.resume import resume
    from lazyvol.client import connect
    from lazyvol.explorer import explore
    from lazyvol.io import explain, open, save, verify
    from lazyvol.napari_layers import to_napari
    from lazyvol.ops import (
        clustering,
        density,
        derivatives,
        filters,
        fourier,
        intensity,
        masks,
        measure,
        projections,
        registration,
        scores,
        stats,
        synthetic,
        transform,
        unmixing,
    )
    from lazyvol.plan.budget import limited
    from lazyvol.stack import as_stack

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
    "fourier",
    "intensity",
    "limited",
    "masks",
    "measure",
    "open",
    "plots",
    "projections",
    "registration",
    "resume",
    "save",
    "scores",
    "screening",
    "stats",
    "synthetic",
    "to_napari",
    "transform",
    "unmixing",
    "verify",
]


accessor.register()

#: modules of the public functions
_MODULES = {
    "as_stack": "stack", "connect": "client", "explain": "io", "explore": "explorer",
    "limited": "plan.budget", "open": "io", "resume": "cli.resume", "save": "io",
    "to_napari": "napari_layers", "verify": "io",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name at its first use; importing all would take 2 s in every worker."""
    if name in _MODULES:
        value: Any = getattr(import_module(f"lazyvol.{_MODULES[name]}"), name)
    elif name in __all__ or name == "io":
        outer = name in ("io", "plots", "screening")
        value = import_module(f"lazyvol.{name}" if outer else f"lazyvol.ops.{name}")
    else:
        raise AttributeError(f"module 'lazyvol' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
