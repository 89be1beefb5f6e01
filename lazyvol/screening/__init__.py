"""Screening of a stack of particles within a memory budget, with volumes, lists and a report."""

from lazyvol.screening.result import ScreenResult
from lazyvol.screening.run import plans, screen

__all__ = ["ScreenResult", "plans", "screen"]
