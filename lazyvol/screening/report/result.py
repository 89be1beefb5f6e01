"""The result of a screening: everything that its report shows."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from lazyvol.plan.explain import Plan
from lazyvol.stack import STACK
from lazyvol.summary import StackSummary


@dataclass(frozen=True)
class Run:
    """The record of a run: plans, seconds, peak memory, command line, versions.

    ``peak_bytes`` is that of this process, on a cluster (``on_cluster``) of the client.
    """

    plans: Mapping[str, Plan]
    seconds: Mapping[str, float]
    peak_bytes: int
    memory: int | None
    started: str
    command: str = ""
    on_cluster: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Flagging:
    """The threshold of the flagged particles, and the distribution of the plain correlation.

    ``threshold`` is the llr from which particles are flagged, NaN if none is. ``median`` and
    ``deviation`` (robust) are those of ncc over all particles, ``noise`` is the standard deviation
    of the ncc of white noise.
    """

    threshold: float
    fdr: float
    median: float
    deviation: float
    noise: float


@dataclass(frozen=True)
class ScreenResult:
    """Average and variance, scores of every particle, half-set FSC, and images of some particles.

    ``scores`` over k holds the results of ``scores.screen``, hypotheses by name and one column per
    angle. ``examples`` over k holds the means along z (``along_z``) and along y (``along_y``) of
    the particles shown; ``best`` and ``worst`` are their positions along k, extremes first.
    """

    source: StackSummary
    average: xr.DataArray
    variance: xr.DataArray
    scores: xr.Dataset
    flagging: Flagging
    fsc: xr.DataArray
    half_sizes: tuple[int, int]
    halves_by: str
    examples: xr.Dataset
    best: tuple[int, ...]
    worst: tuple[int, ...]
    run: Run

    @property
    def flagged(self) -> tuple[int, ...]:
        """Positions along k of the flagged particles, the least consistent first."""
        return tuple(i for i in ranking(self.scores) if self.scores["flagged"].values[i])

    @property
    def shown(self) -> tuple[int, ...]:
        """Positions along k of the particles in ``examples``, in their order."""
        return (*self.best, *self.worst)

    @property
    def particles(self) -> int:
        """Number of particles."""
        return int(self.scores.sizes[STACK])


def ranking(scores: xr.Dataset) -> tuple[int, ...]:
    """Return positions along k from the worst to the best particle, those without a score first.

    Examples
    --------
    >>> import xarray as xr
    >>> columns = {"llr": ("k", [-3.0, 5.0, -3.0]), "ncc": ("k", [0.2, 0.1, 0.1])}
    >>> ranking(xr.Dataset(columns))
    (1, 2, 0)
    """
    llr, ncc = (scores[name].values.astype(np.float64) for name in ("llr", "ncc"))
    badness = np.where(np.isfinite(llr), llr, np.inf)
    return tuple(int(i) for i in np.lexsort((ncc, -badness)))


def resolution(curve: xr.DataArray, cutoff: float = 0.143) -> float:
    """Return the length at which a Fourier shell correlation first falls below ``cutoff``.

    Interpolated linearly between shells; 0 if it stays above, infinity if it starts below.

    Examples
    --------
    >>> import xarray as xr
    >>> frequency = [0.0, 0.1, 0.2]
    >>> curve = xr.DataArray([1.0, 0.5, 0.1], {"frequency": frequency}, ["frequency"])
    >>> round(resolution(curve, 0.3), 3)
    6.667
    """
    frequency = np.asarray(curve.coords[curve.dims[0]].values, np.float64)
    values = np.asarray(curve.values, np.float64)
    shells = np.isfinite(values) & (frequency > 0)
    frequency, values = frequency[shells], values[shells]
    below = np.flatnonzero(values < cutoff)
    if not below.size:
        return 0.0
    n = int(below[0])
    if n == 0:
        return float("inf")
    share = (values[n - 1] - cutoff) / (values[n - 1] - values[n])
    return float(1 / (frequency[n - 1] + share * (frequency[n] - frequency[n - 1])))
