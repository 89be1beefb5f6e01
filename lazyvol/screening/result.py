"""The result of a screening: scores of every particle, volumes, Fourier shell correlations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from os import PathLike

import numpy as np
import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.plan.explain import Plan
from lazyvol.screening.thumbnails import Thumbnails, ranking
from lazyvol.screening.volumes import nyquist, resolution
from lazyvol.stack import STACK
from lazyvol.summary import StackSummary, unit_symbol


@dataclass(frozen=True)
class Run:
    """The record of a run: plans, seconds, peak memory, command line, versions, written files.

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
class HalfSets:
    """Numbers of all and of kept particles in both half-sets, and their origin.

    ``by_coordinate`` is True if the coordinate ``half`` assigns the particles; otherwise even and
    odd particles are the half-sets.
    """

    sizes: tuple[int, int]
    kept: tuple[int, int]
    by_coordinate: bool


@dataclass(frozen=True, repr=False)
class ScreenResult:
    """Scores and flags of every particle, volumes with and without the flagged particles, FSC.

    ``scores`` over k holds the results of ``scores.screen``, computed, with names in place
    of the codes of hypotheses and wedges.
    ``volumes`` holds ``average``, ``variance``, ``mask`` and, without the flagged particles,
    ``kept_average``, ``kept_half1`` and ``kept_half2``, unless a half-set has no kept particle.
    ``fsc`` over frequency holds the half-set Fourier shell correlations ``all``, ``all_masked``,
    ``kept`` and ``kept_masked``; those under the mask are corrected for it. ``second_class``
    is True if a second class was searched for. ``particle_list`` is
    the input's list of particles, ``files`` are the paths of the written files.
    """

    source: StackSummary
    scores: xr.Dataset
    volumes: xr.Dataset
    fsc: xr.Dataset
    flagging: Flagging
    second_class: bool
    half_sets: HalfSets
    thumbnails: Thumbnails
    run: Run
    particle_list: str | None = None
    files: tuple[str, ...] = ()

    @property
    def flagged(self) -> tuple[int, ...]:
        """Positions along k of the flagged particles, the least consistent first."""
        return tuple(i for i in ranking(self.scores) if self.scores["flagged"].values[i])

    @property
    def kept(self) -> tuple[int, ...]:
        """Positions along k of the particles that are not flagged, ascending."""
        return tuple(int(i) for i in np.flatnonzero(~self.scores["flagged"].values))

    @property
    def particles(self) -> int:
        """Number of particles."""
        return int(self.scores.sizes[STACK])

    @property
    def average(self) -> xr.DataArray:
        """Average of the kept particles; of all if a half-set has no kept particle."""
        return self.volumes.get("kept_average", self.volumes["average"])

    def save(self, out: str | PathLike[str], *, overwrite: bool = False) -> "ScreenResult":
        """Write the files of a screening to a folder, as ``screen(stack, out)`` does.

        Parameters
        ----------
        out
            Folder, created if it is missing.
        overwrite
            Replace results in the folder.

        Returns
        -------
        ScreenResult
            The same result with the names of its files.

        Raises
        ------
        TargetExistsError
            If the folder holds results and ``overwrite`` is False.
        StoreError
            If a file or the folder cannot be written.
        """
        from lazyvol.screening.output import results_folder, write_results  # writes this class

        return write_results(
            results_folder(out, overwrite, self.particle_list), self, overwrite=overwrite
        )

    def facts(self) -> dict[str, str]:
        """Return the main figures as text, by name."""
        flagged = len(self.flagged)
        facts = self.source.facts()
        lengths = {str(n): length_text(self, str(n)) for n in self.fsc}
        return {
            "particles": f"{facts['shape']}, {facts['voxel size']}",
            "flagged": f"{flagged:,} of {self.particles:,} at FDR {self.flagging.fdr:g}"
            + "".join(f", {n:,} {name}" for name, n in self.hypotheses().items()),
            "resolution": f"{_before_and_after(lengths)} by the half-set FSC at 0.143",
            "wedge": ", ".join(f"{n:,} {name}" for name, n in self.wedges().items())
            + ("" if self.second_class else "; no second class was searched for"),
            "scores": ", ".join(map(str, self.scores)),
            "volumes": ", ".join(map(str, self.volumes)),
            "run": f"{self.run.seconds['total']:.1f} s, peak memory "
            f"{show_bytes(self.run.peak_bytes)}",
            "files": ", ".join(self.files),
        }

    def hypotheses(self) -> dict[str, int]:
        """Return the number of flagged particles that each hypothesis explains best."""
        found = self.scores["best_hypothesis"].values[list(self.flagged)]
        names, counts = np.unique(found, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {str(names[n]): int(counts[n]) for n in order}

    def wedges(self) -> dict[str, int]:
        """Return the number of particles by the knowledge of their wedge."""
        names, counts = np.unique(self.scores["wedge"].values, return_counts=True)
        return {str(name): int(n) for name, n in zip(names, counts, strict=True)}

    def __repr__(self) -> str:
        lines = [f"{name:<12}{value}" for name, value in self.facts().items() if value]
        return "\n".join([f"ScreenResult of {self.source.name}", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{escape(n)}</th>"
            f"<td style='text-align:left'>{escape(v)}</td></tr>"
            for n, v in self.facts().items()
            if v
        )
        return f"<b>ScreenResult of {escape(self.source.name)}</b><table>{rows}</table>"


def _before_and_after(lengths: Mapping[str, str]) -> str:
    """Return the resolutions of all and of the kept particles, with those under the mask."""
    texts = [f"{lengths[n]} ({lengths[f'{n}_masked']} masked)" for n in ("all", "kept")
             if n in lengths]  # fmt: skip
    return ", without the flagged ".join(texts)


def length_text(result: ScreenResult, name: str, cutoff: float = 0.143) -> str:
    """Return the length at which a Fourier shell correlation falls below ``cutoff``, as text."""
    length, unit = resolution(result.fsc[name], cutoff), unit_symbol(result.source.unit)
    if np.isinf(length):
        return "no length"
    finest = nyquist(result.volumes["average"])
    return f"{length:.3g} {unit}" if length else f"< {finest:.3g} {unit}"
