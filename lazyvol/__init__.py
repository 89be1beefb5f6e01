"""lazyvol: labelled, lazy analysis of stacks of volumes that do not fit in memory."""

from lazyvol.ops import stats
from lazyvol.stack import as_stack

__all__ = ["as_stack", "stats"]
