"""What a screening found, with all that its report tells."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xarray as xr

from lazyvol.plan.explain import Plan
from lazyvol.stack import STACK
from lazyvol.summary import Source


@dataclass(frozen=True)
class Run:
    """How a result was made: plans, seconds and peak memory, command line, versions.

    ``peak_bytes`` is of this process; on a cluster (``on_cluster``) the work was done elsewhere.
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
    """How particles were flagged, and how little their plain correlation says.

    ``threshold`` is the llr at or above which a particle is flagged, NaN where none is. ``median``
    and ``deviation`` (robust) are of ncc over all particles, ``noise`` is the deviation of the ncc
    of a volume of white noise.
    """

    threshold: float
    fdr: float
    median: float
    deviation: float
    noise: float


@dataclass(frozen=True)
class ScreenResult:
    """Average and variance, score of every particle, half-set FSC, and pictures' data.

    ``scores`` is over k: what ``scores.screen`` gives, hypotheses as words and angles as columns
    of their own. ``examples`` holds, over k,
    the means along z (``along_z``) and along y (``along_y``) of the particles shown;
    ``best`` and ``worst`` are their positions along k, best and worst first.
    """

    source: Source
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
        """Positions along k of the flagged particles, the least likely to be right first."""
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
    """Positions along k from the worst to the best particle, those without a score first.

    Examples
    --------
    >>> import xarray as xr
    >>> columns = {"llr": ("k", [-3.0, 5.0, -3.0]), "ncc": ("k", [0.2, 0.1, 0.1])}
    >>> ranking(xr.Dataset(columns))
    (1, 2, 0)
    """
    ratio, ncc = (scores[name].values.astype(np.float64) for name in ("llr", "ncc"))
    worse = np.where(np.isfinite(ratio), ratio, np.inf)
    return tuple(int(i) for i in np.lexsort((ncc, -worse)))


def resolution(curve: xr.DataArray, cutoff: float = 0.143) -> float:
    """Length at which a Fourier shell correlation first falls below ``cutoff``.

    Interpolated between shells; 0 if it never falls that low, infinity if it starts below.

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
