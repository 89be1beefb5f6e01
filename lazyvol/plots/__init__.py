"""Plots of volumes, scores, curves and trees, as matplotlib axes.

Every function draws on ``ax``, or on a new figure, which pyplot does not manage. Jupyter shows a
new figure as the value of a cell; ``plots.slices(volume).figure.savefig("slices.png")`` saves it.
Lazy arrays are computed; only the parts that are shown are read.
"""

from lazyvol.plots.curves import alpha_sweep, correlation, fsc, histogram, scores
from lazyvol.plots.mosaics import montage, slices
from lazyvol.plots.planes import density, orthogonal, projection
from lazyvol.plots.trees import dendrogram

__all__ = [
    "alpha_sweep",
    "correlation",
    "dendrogram",
    "density",
    "fsc",
    "histogram",
    "montage",
    "orthogonal",
    "projection",
    "scores",
    "slices",
]
