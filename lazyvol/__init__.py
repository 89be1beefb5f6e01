"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from lazyvol.ops import scores, stats
from lazyvol.plan.explain import explain
from lazyvol.stack import as_stack

__all__ = ["as_stack", "explain", "scores", "stats"]
