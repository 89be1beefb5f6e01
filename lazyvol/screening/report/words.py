"""Sentences, captions and figures of a report."""

from collections.abc import Sequence
from math import inf, prod

import numpy as np
import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.plots.canvas import position_text, scale_bar_length
from lazyvol.screening.report.result import Run, ScreenResult, resolution
from lazyvol.stack import STACK, spacing, spatial_dims
from lazyvol.summary import TIMES, unit_symbol

#: particles in a half-set below which the Fourier shell correlation is rough
FEW_IN_HALF = 50
#: particles below which the average is too poor to judge particles by
FEW = 30
#: columns of the page's table; scores.csv has all
TABLE_COLUMNS = ("llr", "p_value", "probability", "hypothesis", "angle_rot", "angle_tilt",
          "angle_psi", "ncc")  # fmt: skip
#: hypotheses in words
REASONS = {
    "empty": "by noise alone",
    "rotated": "by the rotated average",
    "second_class": "by a second class of particles",
}


def headlines(result: ScreenResult) -> list[tuple[str, str]]:
    """Return the name and value of each figure at the top of the page."""
    flagged, threshold = len(result.flagged), result.flagging.threshold
    return [
        ("particles", f"{result.particles:,}"),
        (f"flagged ({flagged / max(1, result.particles):.1%})", f"{flagged:,}"),
        ("llr threshold of flags", "none" if np.isnan(threshold) else f"{threshold:.4g}"),
        ("half-set FSC at 0.143", resolution_text(result)),
    ]


def resolution_text(result: ScreenResult, cutoff: float = 0.143) -> str:
    """Return the length at which the half-set FSC falls below ``cutoff``."""
    length, unit = resolution(result.fsc, cutoff), unit_symbol(result.source.unit)
    if length == inf:
        return "none"
    return f"{length:.3g} {unit}" if length else f"< {nyquist(result.average):.3g} {unit}"


def nyquist(volume: xr.DataArray) -> float:
    """Return the Nyquist limit as a length: twice the coarsest voxel size."""
    return 2 * max(abs(spacing(volume, d)) for d in spatial_dims(volume))


def findings(result: ScreenResult) -> list[str]:
    """Return the main findings as sentences."""
    total, flagged = result.particles, len(result.flagged)
    if no_common_signal(result):
        first = (
            f"The {total:,} particles share no signal above the noise: no particle can be judged."
        )
    elif not flagged:
        first = (
            f"None of {total:,} particles is flagged: no alternative hypothesis explains a "
            f"particle significantly better than the average of the other particles."
        )
    else:
        first = (
            f"{flagged:,} of {total:,} particles ({flagged / total:.1%}) are flagged: an "
            f"alternative hypothesis explains them better than the average of the other particles "
            f"({reasons(result)})."
        )
    return [first, _resolution_sentence(result)]


def no_common_signal(result: ScreenResult) -> bool:
    """Return True if no average rose above its noise."""
    llr, p = result.scores["llr"].values, result.scores["p_value"].values
    scored = np.isfinite(llr)
    return bool(scored.any() and (llr[scored] == 0).all() and (p[scored] == 1).all())


def reasons(result: ScreenResult) -> str:
    """Return the number of flagged particles that each hypothesis explains best."""
    hypotheses = result.scores["hypothesis"].values[list(result.flagged)]
    names, counts = np.unique(hypotheses, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    parts = (f"{counts[n]:,} {REASONS.get(names[n], f'by {names[n]}')}" for n in order)
    return ", ".join(parts)


def _resolution_sentence(result: ScreenResult) -> str:
    """Return the resolution by the half-set FSC as a sentence."""
    length, unit = resolution(result.fsc), unit_symbol(result.source.unit)
    finest = nyquist(result.average)
    if length == inf:
        return (
            "The half-set FSC is below 0.143 at every length: the half-set averages do not agree."
        )
    if not length:
        return f"The half-set FSC stays above 0.143 up to the Nyquist limit of {finest:.3g} {unit}."
    return f"The half-set FSC falls below 0.143 at {length:.3g} {unit}."


def caveats(result: ScreenResult) -> list[str]:
    """Return warnings about results that few particles make unreliable."""
    warnings = []
    if result.particles < FEW:
        warnings.append(
            f"With {result.particles} particles the average is poor: few particles are flagged, "
            f"and others may be misaligned too. Read the scores as a ranking."
        )
    smaller = min(result.half_sizes)
    if smaller < FEW_IN_HALF:
        warnings.append(
            f"The smaller half-set has {smaller} particles: the Fourier shell correlation is a "
            f"rough estimate."
        )
    lost = int((~np.isfinite(result.scores["llr"].values)).sum())
    if lost:
        warnings.append(
            f"{lost:,} particles have no score, because they are constant; they are flagged."
        )
    return warnings


def volume_note(result: ScreenResult) -> str:
    """Return how to read the images of the volumes."""
    return (
        f"Average and variance of every voxel over all {result.particles:,} particles, including "
        f"the flagged ones. Grey levels and colours run from the 1st to the 99th percentile of the "
        f"slices shown; high variance marks regions that differ between particles."
    )


def slice_caption(volume: xr.DataArray, dim: str) -> str:
    """Return the position of a central slice."""
    return position_text(volume, dim, volume.sizes[dim] // 2)


def score_notes(result: ScreenResult) -> list[str]:
    """Return definitions of llr and ncc, and the ncc of noise."""
    flag = result.flagging
    near_zero = int((np.abs(result.scores["ncc"].values) < 3 * flag.noise).sum())
    return [
        "llr is the log-likelihood ratio of the alternative hypotheses (the rotated average, a "
        "second class of particles, noise alone, templates if given) to the average of the other "
        "particles. Its p-value is the probability that a consistent particle with the measured "
        "noise reaches it.",
        f"ncc is the Pearson correlation with the average of the other particles. Its median is "
        f"{flag.median:.4g} ± {flag.deviation:.2g} (robust standard deviation); white noise would "
        f"score 0 ± {flag.noise:.2g} (1/√n for n voxels), correlated noise more. "
        f"{near_zero:,} of {result.particles:,} particles are within three of these deviations "
        f"of 0.",
    ]


def histogram_caption(result: ScreenResult) -> str:
    """Return the caption of the histogram of llr."""
    line = "" if np.isnan(result.flagging.threshold) else " Dashed: the threshold of flags."
    return f"Log-likelihood ratios; above 0 the alternative hypotheses are more likely.{line}"


def half_notes(result: ScreenResult) -> list[str]:
    """Return notes on the assignment to half-sets and the meaning of their FSC."""
    first, second = result.half_sizes
    independent = (
        "If the half-sets were refined independently, this is the gold-standard FSC."
        if result.halves_by == "half"
        else "Both half-sets were aligned together: this FSC measures the consistency of the "
        "average and exceeds a gold-standard FSC."
    )
    by = "by the coordinate 'half'" if result.halves_by == "half" else "even and odd particles"
    return [f"Two half-sets of {first:,} and {second:,} particles ({by}). {independent}"]


def fsc_caption(result: ScreenResult) -> str:
    """Return where the curve crosses 0.143 and 0.5."""
    return f"The curve is {_crossing(result, 0.143)} and {_crossing(result, 0.5)}. No mask."


def _crossing(result: ScreenResult, cutoff: float) -> str:
    """Return where the half-set FSC falls below ``cutoff``."""
    length = resolution(result.fsc, cutoff)
    if length == inf:
        return f"below {cutoff:g} at all frequencies"
    if not length:
        return f"above {cutoff:g} up to the Nyquist limit"
    return f"below {cutoff:g} from {resolution_text(result, cutoff)}"


def example_note(result: ScreenResult) -> str:
    """Return how the particles are shown."""
    volume, unit = result.average, unit_symbol(result.source.unit)
    box = TIMES.join(
        f"{volume.sizes[d] * abs(spacing(volume, d)):.4g}" for d in spatial_dims(volume)
    )
    return (
        f"Mean of each particle along z (left, top view) and along y (right, side view). Every "
        f"image has its own contrast. The box is {box} {unit} (z, y, x)."
    )


def bar(volume: xr.DataArray) -> float:
    """Return one length of scale bar for all planes of a volume."""
    return scale_bar_length(
        min(volume.sizes[d] * abs(spacing(volume, d)) for d in spatial_dims(volume))
    )


def particle(result: ScreenResult, position: int) -> str:
    """Return the caption of one particle."""
    label = result.scores.coords[STACK].values[position] if STACK in result.scores.coords else None
    name = f"k = {position}" if label is None else f"k = {label}"
    score = float(result.scores["llr"].values[position])
    flagged = " · flagged" if bool(result.scores["flagged"].values[position]) else ""
    return f"{name} · llr {score:.4g}{flagged}"


def score_table(
    result: ScreenResult, positions: Sequence[int]
) -> tuple[tuple[object, ...], list[tuple[object, ...]]]:
    """Return the header and the rows of a table of particles."""
    shown = result.scores.isel({STACK: list(positions)})
    names = [n for n in shown.coords if n != STACK] + [n for n in TABLE_COLUMNS if n in shown]
    columns = [shown[n].values for n in names]
    labels = shown.coords[STACK].values if STACK in shown.coords else list(positions)
    rows: list[tuple[object, ...]] = [
        (label, *(cell(name, column[n]) for name, column in zip(names, columns, strict=True)))
        for n, label in enumerate(labels)
    ]
    return (STACK, *names), rows


def cell(name: object, value: object) -> str:
    """Return a table cell as text; p-values below 1e-6 are not resolved."""
    if name == "p_value" and isinstance(value, float) and value < 1e-6:
        return "< 1e-6"
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def cost_note(result: ScreenResult) -> str:
    """Return the reads and the memory of the run as sentences."""
    run = result.run
    limit = "no limit" if run.memory is None else f"a limit of {show_bytes(run.memory)}"
    return (
        f"The stack is read twice, for the averages and for the scores; the particles shown above "
        f"are read once more. Planned under {limit}; {peak_text(run)}."
    )


def peak_text(run: Run) -> str:
    """Return the peak memory of the run."""
    process = "of the client, without workers" if run.on_cluster else "including the interpreter"
    return f"peak memory {show_bytes(run.peak_bytes)} {process}"


def method(result: ScreenResult) -> list[str]:
    """Return the definitions of volumes, scores and flags."""
    voxels, fdr = prod(result.average.shape), result.flagging.fdr
    return [
        "Average and variance: of each voxel over k; the variance is the sum of squared "
        "deviations divided by n. Sums in double-double arithmetic do not depend on the chunks.",
        f"Plain scores: each particle x is compared over all {voxels:,} voxels with the average "
        f"of the other particles, (n·average - x)/(n - 1). ncc is Pearson's correlation, cosine "
        f"the cosine similarity, mse the mean squared difference and rmse its root.",
        f"Flags: Fourier coefficients of the particles, whitened by the noise spectrum, are "
        f"compared with the average of the other particles (Wiener-filtered, masked where it "
        f"exceeds its noise) and with alternative hypotheses: that average rotated, noise alone, "
        f"templates if given, and a second class of particles found by principal components and "
        f"expectation maximization. The average is estimated again without particles that look "
        f"inconsistent. p-values are simulated for consistent particles; the Benjamini-Hochberg "
        f"rule flags so that at most {fdr:.0%} of the flagged particles are expected to be "
        f"consistent. Assumptions: most particles are consistent, and noise is normal.",
        "Half-set FSC: the correlation of the Fourier transforms of the two half-set averages in "
        "shells of spatial frequency, without a mask.",
    ]


def run_facts(result: ScreenResult) -> dict[str, object]:
    """Return the start, wall time, memory and versions of the run."""
    run = result.run
    versions = ", ".join(f"{n} {v}" for n, v in run.versions.items())
    return {
        "started": run.started,
        "wall time": f"{run.seconds['total']:.1f} s",
        "memory": peak_text(run),
        "versions": versions,
    }
