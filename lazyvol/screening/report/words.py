"""Sentences and figures of a report."""

from collections.abc import Sequence
from math import inf, prod

import numpy as np
import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.plots.canvas import position_text, scale_bar_length
from lazyvol.screening.report.result import Run, ScreenResult, resolution
from lazyvol.stack import STACK, spacing, spatial_dims
from lazyvol.summary import TIMES, sign_of

#: half-sets smaller than this make a Fourier shell correlation a rough figure
TINY = 50
#: with fewer particles the average that all are held against is a poor one
FEW = 30
#: columns of the page's table; scores.csv has all
TABLED = ("llr", "p_value", "probability", "hypothesis", "angle_rot", "angle_tilt",
          "angle_psi", "ncc")  # fmt: skip
#: hypotheses in words
REASONS = {
    "empty": "by nothing but noise",
    "turned": "by the average turned",
    "other": "by a second kind of particle",
}


def headlines(result: ScreenResult) -> list[tuple[str, str]]:
    """Name and value of the figures at the top of the page."""
    flagged, threshold = len(result.flagged), result.flagging.threshold
    return [
        ("particles", f"{result.particles:,}"),
        (f"flagged ({flagged / max(1, result.particles):.1%})", f"{flagged:,}"),
        ("flagged from llr", "none" if np.isnan(threshold) else f"{threshold:.4g}"),
        ("half-set FSC at 0.143", resolution_text(result)),
    ]


def resolution_text(result: ScreenResult, cutoff: float = 0.143) -> str:
    """Length at which the half-set FSC falls below ``cutoff``."""
    length, unit = resolution(result.fsc, cutoff), sign_of(result.source.unit)
    if length == inf:
        return "none"
    return f"{length:.3g} {unit}" if length else f"< {nyquist(result.average):.3g} {unit}"


def nyquist(volume: xr.DataArray) -> float:
    """The shortest length that all axes can show: twice the coarsest voxel size."""
    return 2 * max(abs(spacing(volume, d)) for d in spatial_dims(volume))


def findings(result: ScreenResult) -> list[str]:
    """What was found, in words."""
    total, flagged = result.particles, len(result.flagged)
    if nothing_in_common(result):
        first = (
            f"The {total:,} particles have nothing in common that noise would not give as well: "
            f"none of them can be judged."
        )
    elif not flagged:
        first = (
            f"No particle of {total:,} stands out: none is explained so much better by anything "
            f"else than by what the others have in common."
        )
    else:
        first = (
            f"{flagged:,} of {total:,} particles ({flagged / total:.1%}) are explained better by "
            f"something else than by what the others have in common: {reasons(result)}."
        )
    return [first, _resolution_sentence(result)]


def nothing_in_common(result: ScreenResult) -> bool:
    """Whether no average could be told from noise."""
    ratio, p = result.scores["llr"].values, result.scores["p_value"].values
    seen = np.isfinite(ratio)
    return bool(seen.any() and (ratio[seen] == 0).all() and (p[seen] == 1).all())


def reasons(result: ScreenResult) -> str:
    """How many of the flagged each hypothesis explains best."""
    words = result.scores["hypothesis"].values[list(result.flagged)]
    names, counts = np.unique(words, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    told = (f"{counts[n]:,} {REASONS.get(names[n], names[n])}" for n in order)
    return ", ".join(told)


def _resolution_sentence(result: ScreenResult) -> str:
    length, unit = resolution(result.fsc), sign_of(result.source.unit)
    finest = nyquist(result.average)
    if length == inf:
        return "The averages of the two half-sets do not agree at any length: FSC < 0.143."
    if not length:
        return (
            f"The averages of the two half-sets agree (FSC > 0.143) down to the shortest length "
            f"that the voxels can show, {finest:.3g} {unit}."
        )
    return f"The averages of the two half-sets agree (FSC > 0.143) down to {length:.3g} {unit}."


def caveats(result: ScreenResult) -> list[str]:
    """What a reader should not conclude."""
    found = []
    if result.particles < FEW:
        found.append(
            f"With {result.particles} particles the average of the others is a poor one: little "
            f"is flagged, and what is not flagged need not be right. Read the scores as a ranking."
        )
    smaller = min(result.half_sizes)
    if smaller < TINY:
        found.append(
            f"The smaller half-set has {smaller} particles: the Fourier shell correlation is a "
            f"rough figure."
        )
    lost = int((~np.isfinite(result.scores["llr"].values)).sum())
    if lost:
        found.append(
            f"{lost:,} particles have no score, as all their voxels are the same; they are flagged."
        )
    return found


def volume_note(result: ScreenResult) -> str:
    """How to read the pictures of the volumes."""
    return (
        f"Average and variance of every voxel over all {result.particles:,} particles, flagged "
        f"ones included. Grey levels and colours run from the 1st to the 99th percentile of the "
        f"slices shown; a bright rim in the variance marks what differs between particles."
    )


def slice_caption(volume: xr.DataArray, dim: str) -> str:
    """Where a central slice lies."""
    return position_text(volume, dim, volume.sizes[dim] // 2)


def score_notes(result: ScreenResult) -> list[str]:
    """What the scores mean, and what noise would score."""
    flag = result.flagging
    values = result.scores["ncc"].values
    near = int((np.abs(values) < 3 * flag.noise).sum())
    return [
        "llr is the logarithm of how much likelier a particle's voxels are if it is one of the "
        "rivals (the average turned, a second kind of particle that the stack holds, nothing) than "
        "if it is what the others are. Its p-value is how often a right particle with the noise "
        "that was measured reaches it.",
        f"ncc, the plain correlation with the average of the others, is 1 for the same up to "
        f"brightness and contrast and 0 for the unrelated. The bulk lies at {flag.median:.4g} "
        f"± {flag.deviation:.2g}; a volume of white noise would score 0 ± {flag.noise:.2g} (1/√n "
        f"for the n voxels compared), and wider where noise is correlated between voxels. "
        f"{near:,} of {result.particles:,} particles score within three such deviations of 0.",
    ]


def histogram_caption(result: ScreenResult) -> str:
    """What the histogram shows."""
    line = "" if np.isnan(result.flagging.threshold) else " Dashed: the threshold."
    return f"How often each log-likelihood ratio occurs; the rivals are likelier above 0.{line}"


def half_notes(result: ScreenResult) -> list[str]:
    """What the half-sets are, and what their agreement is not."""
    first, second = result.half_sizes
    independent = (
        "If the halves were refined apart from each other, this is the gold-standard curve."
        if result.halves_by == "half"
        else "Both halves share whatever aligned the particles: this is the consistency of the "
        "average, and finer than a gold-standard resolution of halves refined apart."
    )
    by = "by the coordinate half" if result.halves_by == "half" else "even and odd particles"
    return [f"Two half-sets of {first:,} and {second:,} particles ({by}). {independent}"]


def fsc_caption(result: ScreenResult) -> str:
    """Where the curve crosses its thresholds."""
    return f"The curve is {_crossing(result, 0.143)} and {_crossing(result, 0.5)}. No mask."


def _crossing(result: ScreenResult, cutoff: float) -> str:
    length = resolution(result.fsc, cutoff)
    if length == inf:
        return f"below {cutoff:g} from the start"
    if not length:
        return f"above {cutoff:g} to the end"
    return f"below {cutoff:g} from {resolution_text(result, cutoff)}"


def example_note(result: ScreenResult) -> str:
    """How the particles are shown."""
    volume, unit = result.average, sign_of(result.source.unit)
    box = TIMES.join(
        f"{volume.sizes[d] * abs(spacing(volume, d)):.4g}" for d in spatial_dims(volume)
    )
    return (
        f"Each particle twice: its mean along z (seen from the top) and along y (seen from the "
        f"side). Every picture has its own contrast. The box measures {box} {unit} (z, y, x)."
    )


def bar(volume: xr.DataArray) -> float:
    """One length of scale bar that suits all planes of a volume."""
    return scale_bar_length(
        min(volume.sizes[d] * abs(spacing(volume, d)) for d in spatial_dims(volume))
    )


def particle(result: ScreenResult, position: int) -> str:
    """Caption of one particle."""
    label = result.scores.coords[STACK].values[position] if STACK in result.scores.coords else None
    name = f"k = {position}" if label is None else f"k = {label}"
    score = float(result.scores["llr"].values[position])
    flagged = " · flagged" if bool(result.scores["flagged"].values[position]) else ""
    return f"{name} · llr {score:.4g}{flagged}"


def score_table(
    result: ScreenResult, positions: Sequence[int]
) -> tuple[tuple[object, ...], list[tuple[object, ...]]]:
    """Header and rows of a table of particles."""
    shown = result.scores.isel({STACK: list(positions)})
    names = [n for n in shown.coords if n != STACK] + [n for n in TABLED if n in shown]
    columns = [shown[n].values for n in names]
    labels = shown.coords[STACK].values if STACK in shown.coords else list(positions)
    rows: list[tuple[object, ...]] = [
        (label, *(cell(name, column[n]) for name, column in zip(names, columns, strict=True)))
        for n, label in enumerate(labels)
    ]
    return (STACK, *names), rows


def cell(name: object, value: object) -> str:
    """A value of a table; p-values below one in a million say no more than that."""
    if name == "p_value" and isinstance(value, float) and value < 1e-6:
        return "< 1e-6"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def cost_note(result: ScreenResult) -> str:
    """What the run cost beside its plan."""
    run = result.run
    limit = "no limit" if run.memory is None else f"a limit of {show_bytes(run.memory)}"
    return (
        f"The stack is read twice, and nothing but averages and scores is held: once for the "
        f"averages, once for the scores; the particles shown above are read once more. Planned "
        f"under {limit}; {peak_text(run)}."
    )


def peak_text(run: Run) -> str:
    """Peak memory, and of what."""
    whose = "of the client, its workers not counted" if run.on_cluster else "with the interpreter"
    return f"peak memory {show_bytes(run.peak_bytes)} {whose}"


def method(result: ScreenResult) -> list[str]:
    """Definitions."""
    flag = result.flagging
    voxels = prod(result.average.shape)
    return [
        "Average and variance: of each voxel over k; the variance is the sum of squared "
        "deviations over n. Sums are carried in double-double, so they do not depend on how the "
        "work was cut.",
        f"Scores: each particle x is compared over all {voxels:,} voxels with the average of the "
        f"others, (n·average - x)/(n - 1), since a particle agrees with itself. ncc is Pearson's "
        f"correlation; cosine is the same without subtracting means; mse is the mean squared "
        f"difference, rmse its root.",
        f"Flags: spectra of the particles, whitened by the spectrum of their noise, are held "
        f"against the average of the others, filtered by its own signal (Wiener) and masked where "
        f"it rises from its noise, and against rivals: that average turned, noise alone, templates "
        f"where given, and a second kind of particle found by principal components and two-class "
        f"expectation and maximisation. The average is made anew without those that look wrong. "
        f"p-values come from simulated right particles; the Benjamini-Hochberg rule flags so that "
        f"at most {flag.fdr:.0%} of the flagged are expected to be right. That most particles are "
        f"right is assumed, and that noise is normal.",
        "Half-set FSC: the correlation of the Fourier transforms of the two half-set averages in "
        "shells of spatial frequency, without a mask.",
    ]


def run_facts(result: ScreenResult) -> dict[str, object]:
    """When, how long, with which versions."""
    run = result.run
    versions = ", ".join(f"{n} {v}" for n, v in run.versions.items())
    return {
        "started": run.started,
        "wall time": f"{run.seconds['total']:.1f} s",
        "memory": peak_text(run),
        "versions": versions,
    }
