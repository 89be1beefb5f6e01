"""Sentences, captions and figures of a report."""

from math import inf, prod

import numpy as np
import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.plots.canvas import position_text, scale_bar_length
from lazyvol.screening.result import Run, ScreenResult, length_text
from lazyvol.screening.volumes import nyquist, resolution, shortest_side
from lazyvol.stack import spacing, spatial_dims
from lazyvol.summary import TIMES, unit_symbol

#: particles in a half-set below which the Fourier shell correlation is rough
FEW_IN_HALF = 50
#: particles below which the average is too poor to judge particles by
FEW = 30
#: hypotheses in words
REASONS = {
    "empty": "by noise alone",
    "rotated": "by the rotated average",
    "shifted": "by the shifted average",
    "extra_density": "by the average with something beside it",
    "unlike": "by no pose of the average",
    "second_class": "by a second class of particles",
}
#: knowledge of the wedges of particles in words
WEDGES = {
    "none": "all frequencies", "given": "the given frequencies",
    "found": "the frequencies found in their power", "unclear": "unclear frequencies",
}  # fmt: skip
#: names of curves and volumes
CURVES = {
    "all": "all particles", "kept": "without the flagged",
    "all_masked": "all particles, under the mask",
    "kept_masked": "without the flagged, under the mask",
}  # fmt: skip
VOLUMES = {
    "average": "Average of all particles", "kept_average": "Average without the flagged",
    "variance": "Variance of all particles",
}  # fmt: skip


def headlines(result: ScreenResult) -> list[tuple[str, str]]:
    """Return the name and value of each figure at the top of the page."""
    flagged, threshold = len(result.flagged), result.flagging.threshold
    figures = [
        ("particles", f"{result.particles:,}"),
        (f"flagged ({flagged / max(1, result.particles):.1%})", f"{flagged:,}"),
        (
            "llr from which particles are flagged",
            "none" if np.isnan(threshold) else f"{threshold:.4g}",
        ),
        ("half-set FSC = 0.143, all particles", length_text(result, "all")),
    ]
    if flagged and "kept" in result.fsc:
        figures.append(("half-set FSC = 0.143, without the flagged", length_text(result, "kept")))
    return figures


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
    counts = result.hypotheses().items()
    return ", ".join(f"{n:,} {REASONS.get(name, f'by {name}')}" for name, n in counts)


def _resolution_sentence(result: ScreenResult) -> str:
    """Return the resolution by the half-set FSC as a sentence."""
    length = resolution(result.fsc["all"])
    if length == inf:
        return (
            "The half-set FSC is below 0.143 at every length: the half-set averages do not agree."
        )
    if not length:
        finest, unit = nyquist(result.volumes["average"]), unit_symbol(result.source.unit)
        return f"The half-set FSC stays above 0.143 up to the Nyquist limit of {finest:.3g} {unit}."
    kept = (
        f", without the flagged particles at {length_text(result, 'kept')}"
        if result.flagged and "kept" in result.fsc
        else ""
    )
    return f"The half-set FSC falls below 0.143 at {length_text(result, 'all')}{kept}."


def caveats(result: ScreenResult) -> list[str]:
    """Return warnings about results that are unreliable or missing."""
    warnings = []
    if result.particles < FEW:
        warnings.append(
            f"With {result.particles} particles the average is poor: few particles are flagged, "
            f"and others may be misaligned too. Read the scores as a ranking."
        )
    smaller = min(result.half_sets.sizes)
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
    unclear = result.wedges().get("unclear", 0)
    if unclear:
        warnings.append(
            f"The measured frequencies of {unclear:,} particles are unclear: their power differs "
            f"from that of the others, or from the wedge that was given, and no wedge explains it. "
            f"No second class was searched for, since it would be that of the wedges. Give the "
            f"tilt range and the orientations (--wedge -60 60 --orientations LIST)."
        )
    if "kept_average" not in result.volumes:
        warnings.append(
            "A half-set has no particle that is not flagged: there is no average without the "
            "flagged particles."
        )
    return warnings


def volume_note(result: ScreenResult) -> str:
    """Return the explanation of the images of the volumes."""
    length = resolution(result.fsc["all"])
    filtered = ""
    if 0 < length < inf:
        filtered = (
            f"Averages are low-passed to {length_text(result, 'all')}, where the half-set FSC "
            f"falls below 0.143; the files hold them unfiltered. "
        )
    return (
        f"Central slices. {filtered}Both averages have the same grey levels, from the 1st to the "
        f"99th percentile of the slices; high variance marks regions that differ between particles."
    )


def slice_caption(volume: xr.DataArray, dim: str) -> str:
    """Return the position of a central slice."""
    return position_text(volume, dim, volume.sizes[dim] // 2)


def flags_of_the_run(result: ScreenResult) -> str:
    """Return the decision of the run as an option beside scores."""
    return f"flags of the run (false discovery rate {result.flagging.fdr:g})"


def score_note(result: ScreenResult) -> str:
    """Return definitions of llr and ncc, and the ncc of noise."""
    flag = result.flagging
    near_zero = int((np.abs(result.scores["ncc"].values) < 3 * flag.noise).sum())
    return (
        f"llr is the log-likelihood ratio of the alternative hypotheses (the rotated or "
        f"shifted average, that with something beside it, a second class of particles, noise "
        f"alone, templates if given) to the average of the other "
        f"particles; p_value is the probability that a consistent particle with the measured noise "
        f"reaches it. ncc is the Pearson correlation with the average of the other particles: its "
        f"median is {flag.median:.4g} ± {flag.deviation:.2g} (robust standard deviation), that of "
        f"white noise 0 ± {flag.noise:.2g}, and {near_zero:,} of {result.particles:,} particles "
        f"are within three of the latter deviations of 0."
    )


def no_picture(result: ScreenResult) -> str:
    """Return the explanation of a missing picture: the choice of the particles shown."""
    shown = len(result.thumbnails.positions)
    return (
        f"No picture of this particle: the page holds those of {shown:,} of {result.particles:,}, "
        f"the least consistent ones, those nearest to the threshold, and others at even distances "
        f"in the order of llr."
    )


def viewer_note(result: ScreenResult) -> str:
    """Return the filter, grid and grey levels of the volumes in the viewer."""
    volume, unit = result.thumbnails.particles, unit_symbol(result.source.unit)
    full = result.volumes["average"]
    box = TIMES.join(f"{full.sizes[d] * abs(spacing(full, d)):.4g}" for d in spatial_dims(full))
    size = TIMES.join(f"{volume.sizes[d]}" for d in spatial_dims(volume))
    shown = len(result.thumbnails.positions)
    return (
        f"Volumes are low-passed to {result.thumbnails.shortest:.3g} {unit} and sampled on {size} "
        f"voxels; the box is {box} {unit} (z, y, x), positions are relative to its centre. Every "
        f"picture has its own grey levels. The page holds the pictures of {shown:,} of "
        f"{result.particles:,} particles."
    )


def half_notes(result: ScreenResult) -> list[str]:
    """Return notes on the assignment to half-sets and the meaning of their FSC."""
    first, second = result.half_sets.sizes
    independent = (
        "If the half-sets were refined independently, this is the gold-standard FSC."
        if result.half_sets.by_coordinate
        else "Both half-sets were aligned together: this FSC measures the consistency of the "
        "average and exceeds a gold-standard FSC."
    )
    by = "by the coordinate 'half'" if result.half_sets.by_coordinate else "even and odd particles"
    kept = ""
    if result.flagged:
        a, b = result.half_sets.kept
        kept = f", of which {a:,} and {b:,} are not flagged"
    return [f"Two half-sets of {first:,} and {second:,} particles ({by}){kept}. {independent}"]


def fsc_caption(result: ScreenResult) -> str:
    """Return the lengths at which the curves fall below 0.143 and 0.5."""
    lengths = (
        f"{CURVES[str(n)]} {length_text(result, str(n))} ({length_text(result, str(n), 0.5)})"
        for n in result.fsc
    )
    return (
        f"Lengths at which the curves fall below 0.143 (and 0.5): {'; '.join(lengths)}. Curves "
        f"under the mask are corrected for the correlation that the mask brings."
    )


def bar(volume: xr.DataArray) -> float:
    """Return one length of scale bar for all planes of a volume."""
    return scale_bar_length(shortest_side(volume))


def cost_note(result: ScreenResult) -> str:
    """Return the reads and the memory of the run as sentences."""
    run = result.run
    limit = "no limit" if run.memory is None else f"a limit of {show_bytes(run.memory)}"
    return (
        f"The stack is read twice, for the averages and for the scores; the flagged particles and "
        f"those with pictures are read once more. Planned under {limit}; {peak_text(run)}."
    )


def peak_text(run: Run) -> str:
    """Return the peak memory of the run."""
    process = "of the client, without workers" if run.on_cluster else "including the interpreter"
    return f"peak memory {show_bytes(run.peak_bytes)} {process}"


def method(result: ScreenResult) -> list[str]:
    """Return the definitions of volumes, scores and flags."""
    voxels, fdr = prod(result.average.shape), result.flagging.fdr
    second = (
        "no second class"
        if not result.second_class
        else (
            "a second class of particles found by principal components and expectation maximization"
        )
    )
    given = ", ".join(f"{WEDGES[name]} of {n:,}" for name, n in result.wedges().items())
    return [
        "Average and variance: of each voxel over k; the variance is the sum of squared "
        "deviations divided by n. Sums in double-double arithmetic do not depend on the chunks.",
        f"Plain scores: each particle x is compared over all {voxels:,} voxels with the average "
        f"of the other particles, (n·average - x)/(n - 1). ncc is Pearson's correlation, cosine "
        f"the cosine similarity, mse the mean squared difference and rmse its root.",
        f"Flags: Fourier coefficients of the particles, whitened by the noise spectrum, are "
        f"compared with the average of the other particles (Wiener-filtered, masked where it "
        f"exceeds its noise) and with alternative hypotheses: that average rotated or "
        f"shifted, with something beside it, noise alone, templates if given, and {second}. "
        f"The average is estimated again without particles that look "
        f"inconsistent. p-values are simulated for consistent particles; the Benjamini-Hochberg "
        f"rule flags so that at most {fdr:.0%} of the flagged particles are expected to be "
        f"consistent. Assumptions: most particles are consistent, and noise is normal.",
        f"Missing wedges: {given} particles count as measured. Sums over particles are weighted "
        f"by what was measured of each, and a particle is compared at its own frequencies. The "
        f"volumes shown here and in the files are plain means.",
        "Half-set FSC: the correlation of the Fourier transforms of the two half-set averages in "
        "shells of spatial frequency. Under the mask (mask.mrc) it is corrected by the same "
        "correlation of volumes whose phases are random beyond the frequency where it falls below "
        "0.8 (Chen et al., 2013).",
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
