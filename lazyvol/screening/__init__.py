"""Screening of a stack of particles within a memory budget, with volumes, a table and a report."""

from lazyvol.screening.run import plans, screen

__all__ = ["plans", "screen"]
