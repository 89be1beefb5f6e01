"""Screen a stack: averages, scores of every particle, flagged particles, and a report of them."""

import os
import warnings
from collections.abc import Mapping
from datetime import datetime
from math import prod
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.client import progress_bar
from lazyvol.errors import LabelError
from lazyvol.io.particle_lists import OPTICS
from lazyvol.io.places import path_text
from lazyvol.io.tables import with_names
from lazyvol.ops import scores, stats
from lazyvol.ops._references import half_sets
from lazyvol.ops.registration._poses import Rotations, Wedge
from lazyvol.ops.scores._screen import as_particles
from lazyvol.plan.budget import Budget, budget_for, limited
from lazyvol.plan.execution import computing_client, resilient_scheduler, single_blas_thread
from lazyvol.plan.explain import Plan, explain_arrays
from lazyvol.screening.lists import with_facts
from lazyvol.screening.output import results_folder, write_results
from lazyvol.screening.record import StageTimes, peak_bytes, versions
from lazyvol.screening.result import Flagging, HalfSets, Run, ScreenResult
from lazyvol.screening.results_run import ResultsRun, plan_of, started
from lazyvol.screening.thumbnails import thumbnails
from lazyvol.screening.volumes import (
    half_averages,
    kept_averages,
    object_mask,
    resolution,
    shell_correlations,
    weighted_averages,
    with_masked,
)
from lazyvol.stack import SPATIAL, STACK
from lazyvol.summary import StackSummary

#: columns of the table before the others
FIRST_COLUMNS = ("llr", "p_value", "flagged", "probability", "best_hypothesis", "angles", "shifts")

AVERAGES, SCORES, FLAGGED = "1 averages", "2 scores", "3 flagged and shown"
#: arguments that ``scores.screen`` and other functions called here check
CHECKED_BELOW = (
    "stack", "particles", "fdr", "templates", "angles", "second_class", "mask", "wedge",
    "orientations", "memory", "workers",
)  # fmt: skip


@operation(unchecked=("out", *CHECKED_BELOW))
def screen(
    stack: xr.DataArray,
    out: str | os.PathLike[str] | None = None,
    *,
    particles: str | os.PathLike[str] | None = None,
    fdr: float = 0.05,
    templates: xr.DataArray | None = None,
    angles: float | None = 30.0,
    second_class: bool = True,
    mask: xr.DataArray | None = None,
    wedge: Wedge | Literal["auto"] | None = "auto",
    orientations: Rotations | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    name: str | None = None,
    command: str = "",
) -> ScreenResult:
    """Computes scores and flags of all particles, averages with and without the flagged, a report.

    Reads the stack twice: for the average, the variance and the half-set averages, then for
    ``scores.screen``, which compares every particle with the average of the others and with
    alternative hypotheses. The flagged particles and those shown in the report are read once more.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x), two or more. A coordinate ``half`` along k assigns them to
        half-sets; without it these are even and odd particles.
    out
        Folder for the results, created if it is missing: ``report.html``, ``scores.csv`` with all
        particles, the particle lists ``kept`` and ``flagged`` (``.star``, or the format of
        ``particles``), ``fsc.csv``, volumes as ``.mrc``, and the record of the run, ``run.json``.
        Each file gets its name when it is complete, the report last. None writes nothing;
        ``ScreenResult.save`` does so later.
    particles
        List of the particles of the stack in its order: STAR, motive list (.em), Dynamo table
        (.tbl) or CSV. Its columns become facts of the particles, such as half-sets and tomograms,
        and its own rows and columns are written to ``kept`` and ``flagged``, with the results.
    fdr
        False discovery rate, between 0 and 1: the expected fraction of consistent particles among
        the flagged.
    templates
        Volumes that misassigned particles may show, (z, y, x) or with one more dim.
    angles
        Spacing of the grid of rotations in degrees, from 5 to 180; None for no rotations.
    second_class
        Search for a second class of particles.
    mask
        Mask of the object, (z, y, x), from 0 to 1; estimated from the data by default.
    wedge, orientations
        Measured frequencies of the particles, as for ``scores.screen``: a tilt range (from, to) in
        degrees with the rotations since, masks or weights, ``"auto"`` or None. If they are given
        and differ between particles, averages are weighted: each frequency is the mean of the
        particles that measured it. ``"auto"`` serves the scores alone.
    memory
        Memory limit besides the interpreter, in bytes or as text such as ``"2GiB"``.
    workers
        Tasks that run at a time; by default one per core.
    resume
        Continue an interrupted run in ``out`` from the states that both reads kept there. It must
        have had the same stack, options and versions.
    overwrite
        Replace the results of an earlier run in ``out``.
    progress
        Show progress on standard error.
    name, command
        Name of the stack and the command line, for the report.

    Returns
    -------
    ScreenResult
        Scores, volumes, Fourier shell correlations and the record of the run, in memory.

    Raises
    ------
    LabelError
        If the stack is not (k, z, y, x) with two or more particles, particles hold NaN voxels, or
        an option is out of range.
    TargetExistsError
        If ``out`` holds results or an interrupted run, and neither ``overwrite`` nor ``resume`` is
        set; if ``resume`` finds another run, or the complete results of this one.
    BudgetError
        If no partition fits ``memory``; nothing has been read then.
    StoreError
        If a file or the folder cannot be written.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> rng = np.random.default_rng(0)
    >>> particles = rng.normal(size=(8, 8, 8)) + rng.normal(scale=0.5, size=(60, 8, 8, 8))
    >>> particles[7] = rng.normal(size=(8, 8, 8))
    >>> result = lv.screening.screen(lv.as_stack(particles))
    >>> result.flagged, len(result.kept)
    ((7,), 59)
    """
    stack = _require_volumes(stack)
    stack = stack if particles is None else with_facts(stack, particles)
    budget = budget_for(memory, workers)
    options: dict[str, Any] = {
        "fdr": fdr, "templates": templates, "angles": angles, "second_class": second_class,
        "mask": mask, "wedge": wedge, "orientations": orientations,
    }  # fmt: skip
    facts: dict[str, Any] = {
        "particles": particles, "progress": progress, "name": name, "command": command
    }  # fmt: skip
    if out is None:
        return _screened(stack, options, budget, **facts)
    out = path_text(out, "screen: out")
    plan = plan_of(stack, options, particles, budget)
    run = ResultsRun(os.path.abspath(out), token=plan.token, overwrite=overwrite, resume=resume)
    left = run.left_to_resume()
    if left is not None and left.token == plan.token:
        budget = budget.as_before(left.limits)
    with limited(budget.memory, budget.workers):
        plans(stack, **options)  # raises BudgetError before anything is written
    replaces = overwrite or left is not None  # what an interrupted run has written
    folder = results_folder(out, replaces, particles)
    with started(run, plan):
        result = _screened(stack, options, budget, **facts)
        return write_results(folder, result, overwrite=replaces, plan=plan)


def _screened(
    stack: xr.DataArray,
    options: Mapping[str, Any],
    budget: Budget,
    *,
    particles: str | os.PathLike[str] | None,
    progress: bool,
    name: str | None,
    command: str,
) -> ScreenResult:
    """Compute the result of a screening."""
    times, start = StageTimes(), datetime.now().astimezone()
    with limited(budget.memory, budget.workers), single_blas_thread():
        planned = plans(stack, **options)
        with times.stage(AVERAGES), progress_bar("averages", shown=progress):
            averages = _require_finite(
                stack, scores.halves(stack).compute(scheduler=resilient_scheduler())
            )
        with times.stage(SCORES), progress_bar("scores", shown=progress):
            table = scored(stack, averages["average"], options)
        with times.stage(FLAGGED), progress_bar("flagged and shown", shown=progress):
            flagged = table["flagged"].values
            kept = kept_averages(stack, averages, flagged)
            averages, kept = weighted_averages(averages, kept, stack, flagged, options)
            halves = half_averages(averages, kept)
            curves = shell_correlations(halves)
            length = resolution(curves["all"])
            under = _as_volume(options["mask"], averages, length)
            volumes = averages[["average", "variance"]].assign(mask=under)
            volumes = volumes if kept is None else volumes.assign(kept)
            templates = options["templates"]
            shown = thumbnails(stack, table, volumes, templates, length, budget.memory)
    return ScreenResult(
        source=StackSummary.of(stack, name), scores=table, volumes=volumes,
        fsc=with_masked(curves, halves, under),
        flagging=flagging(table, options["fdr"], prod(averages["average"].shape)),
        second_class=options["second_class"]
        and not (table["wedge"] == "unclear").any().item(),
        half_sets=_half_set_sizes(stack, table["flagged"].values), thumbnails=shown,
        run=Run(
            planned, times.seconds(), peak_bytes(), budget.memory,
            start.strftime("%Y-%m-%d %H:%M %Z"), command,
            on_cluster=computing_client() is not None, versions=versions(),
        ),
        particle_list=None if particles is None else os.fspath(particles),
    )  # fmt: skip


def plans(
    stack: xr.DataArray, *, memory: int | float | str | None = None, workers: int | None = None,
    **options: Any,
) -> dict[str, Plan]:  # fmt: skip
    """Plans of the two reads of a screening, by name. Nothing of the stack is computed.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x), two or more.
    memory
        Memory limit besides the interpreter, in bytes or as text such as ``"2GiB"``.
    workers
        Tasks that run at a time; by default one per core.
    **options
        Options of ``scores.screen``.

    Returns
    -------
    dict
        ``"1 averages"`` and ``"2 scores"``, as ``lazyvol.explain`` returns them.

    Raises
    ------
    LabelError
        If the stack or an option does not fit a screening.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol.screening import plans
    >>> list(plans(lv.as_stack(np.zeros((9, 8, 8, 8)))))
    ['1 averages', '2 scores']
    """
    stack = _require_volumes(stack)
    volume = stack.isel({STACK: 0}, drop=True)
    blank = volume.copy(data=np.zeros(volume.shape, volume.dtype))
    budget = budget_for(memory, workers)
    with limited(budget.memory, budget.workers):
        steps = {
            AVERAGES: scores.halves(stack),
            SCORES: scores.screen(stack, average=blank, **options),
        }
        return {name: explain_arrays(step) for name, step in steps.items()}


def _require_volumes(stack: xr.DataArray) -> xr.DataArray:
    """Return a stack as (k, z, y, x); raise LabelError for images, as a report shows volumes."""
    particles = as_particles(stack)
    if "z" not in particles.dims:
        raise LabelError(
            f"screen: stack must be of volumes for a screening with a report, got dims "
            f"{stack.dims}; screen images with scores.screen"
        )
    return particles


def scored(stack: xr.DataArray, average: xr.DataArray, options: Mapping[str, Any]) -> xr.Dataset:
    """Compute the results of ``scores.screen`` along k, codes replaced by their names."""
    results = scores.screen(stack, average=average, **options)
    with warnings.catch_warnings():  # the result has unclear wedges in a column
        warnings.filterwarnings("ignore", "screen: the measured frequencies", RuntimeWarning)
        computed = results.compute(scheduler=resilient_scheduler())
    table = computed.assign({n: with_names(c) for n, c in computed.items()})
    optics = {n: v for n, v in computed["llr"].attrs.items() if n == OPTICS}
    columns = {n: table[n].drop_attrs(deep=False) for n in (*FIRST_COLUMNS, *table) if n in table}
    return xr.Dataset(columns, attrs=optics)


def flagging(table: xr.Dataset, fdr: float, voxels: int) -> Flagging:
    """Return the llr from which particles are flagged, and median and spread of ncc."""
    llr, ncc = table["llr"].values, table["ncc"].values.astype(np.float64)
    flagged = llr[table["flagged"].values & np.isfinite(llr)]
    finite = ncc[np.isfinite(ncc)]
    median = float(np.median(finite)) if finite.size else np.nan
    deviation = float(1.4826 * np.median(np.abs(finite - median))) if finite.size else np.nan
    threshold = float(flagged.min()) if flagged.size else np.nan
    return Flagging(threshold, fdr, median, deviation, 1 / voxels**0.5)


def _require_finite(stack: xr.DataArray, averages: xr.Dataset) -> xr.Dataset:
    """Return the averages; raise LabelError, with the particles, if they hold NaN voxels."""
    lost = int(np.isnan(averages["average"].values).sum())
    if not lost:
        return averages
    counts = stats.count(stack, SPATIAL).compute().values
    bad = np.flatnonzero(counts < prod(averages["average"].shape))
    listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
    raise LabelError(
        f"screen: stack must hold no NaN voxels, got {len(bad)} of {stack.sizes[STACK]} particles "
        f"with some, at k = {listed}, and {lost} NaN voxels in the average; leave these particles "
        f"out (drop_isel) or fill them (fillna)"
    )


def _as_volume(mask: xr.DataArray | None, averages: xr.Dataset, length: float) -> xr.DataArray:
    """Return the mask on the grid of the average, estimated from the average if it is None."""
    average = averages["average"]
    if mask is None:
        return object_mask(average, length)
    values = np.asarray(mask.transpose(*average.dims).values, np.float32)
    return average.copy(data=values).drop_attrs(deep=False)


def _half_set_sizes(stack: xr.DataArray, flagged: np.ndarray) -> HalfSets:
    """Return the numbers of all and of kept particles in the half-sets."""
    half = half_sets("screen", stack).values
    (a, b), (c, d) = (np.bincount(h, minlength=2) for h in (half, half[~flagged]))
    return HalfSets((int(a), int(b)), (int(c), int(d)), "half" in stack.coords)
