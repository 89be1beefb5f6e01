"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from lazyvol import plots
from lazyvol.client import connect
from lazyvol.io import open, save
from lazyvol.ops import intensity, projections, scores, stats, synthetic
from lazyvol.plan.budget import limited
from lazyvol.plan.explain import explain
from lazyvol.stack import as_stack

__all__ = [
    "as_stack",
    "connect",
    "explain",
    "intensity",
    "limited",
    "open",
    "plots",
    "projections",
    "save",
    "scores",
    "stats",
    "synthetic",
]
