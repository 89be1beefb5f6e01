"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from importlib import import_module
from types import ModuleType

from lazyvol.client import connect
from lazyvol.io import open, save
from lazyvol.ops import (
    clustering,
    density,
    derivatives,
    filters,
    intensity,
    masks,
    projections,
    registration,
    scores,
    stats,
    synthetic,
    unmixing,
)
from lazyvol.plan.budget import limited
from lazyvol.plan.explain import explain
from lazyvol.stack import as_stack

__all__ = [
    "as_stack",
    "clustering",
    "connect",
    "density",
    "derivatives",
    "explain",
    "filters",
    "intensity",
    "limited",
    "masks",
    "open",
    "plots",
    "projections",
    "registration",
    "save",
    "scores",
    "stats",
    "synthetic",
    "unmixing",
]


def __getattr__(name: str) -> ModuleType:
    """``lazyvol.plots`` on first use: matplotlib takes 0.4 s, which tasks and commands save."""
    if name == "plots":
        return import_module("lazyvol.plots")
    raise AttributeError(f"module 'lazyvol' has no attribute {name!r}")
