"""Screen a stack: averages, scores of every particle, flagged particles, and a report of them."""

import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.client import current_client, progress_bar, tasks_at_once
from lazyvol.errors import LabelError, StoreError, TargetExistsError
from lazyvol.io.save_result import save
from lazyvol.io.text_files import csv_text, write_text
from lazyvol.ops import scores, stats
from lazyvol.ops.registration._poses import Wedge
from lazyvol.ops.scores._screen import as_particles
from lazyvol.plan.budget import budget_for, limited
from lazyvol.plan.explain import Plan, explain
from lazyvol.screening.report import Flagging, Run, ScreenResult, write_report
from lazyvol.screening.report.result import ranking
from lazyvol.stack import SPATIAL, STACK
from lazyvol.summary import StackSummary

#: best and worst particles shown in the report, of each
EXAMPLES_SHOWN = 8

AVERAGES, SCORES, EXAMPLES = "1 averages", "2 scores", "3 examples"
FILES = ("average.zarr", "variance.zarr", "scores.csv", "report.html")


def screen(
    stack: xr.DataArray,
    out: str | os.PathLike[str],
    *,
    fdr: float = 0.05,
    templates: xr.DataArray | None = None,
    angles: float | None = 30.0,
    mask: xr.DataArray | None = None,
    wedge: Wedge | None = None,
    memory: int | float | str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
    name: str | None = None,
    command: str = "",
) -> ScreenResult:
    """Computes the scores and flags of all particles, and writes them and a report to a folder.

    Reads the stack twice: for the average, the variance and the half-set averages, then for
    ``scores.screen``, which compares every particle with the average of the others and with
    alternative hypotheses.

    Parameters
    ----------
    stack
        Particles, (k, z, y, x), two or more. A coordinate ``half`` along k assigns them to
        half-sets; without it these are even and odd particles.
    out
        Folder for ``average.zarr``, ``variance.zarr``, ``scores.csv`` and ``report.html``, created
        if it is missing. Each file gets its name when it is complete, the report last.
    fdr
        False discovery rate, between 0 and 1: the expected fraction of consistent particles among
        the flagged.
    templates
        Volumes that misassigned particles may show, (z, y, x) or with one more dim.
    angles
        Spacing of the grid of rotations in degrees, from 5 to 180; None for no rotations.
    mask
        Mask of the object, (z, y, x), from 0 to 1; estimated from the data by default.
    wedge
        Tilt range (from, to) in degrees about y, or a mask of measured frequencies, (z, y, x).
    memory
        Memory limit besides the interpreter, in bytes or as text such as ``"2GiB"``.
    workers
        Tasks that run at a time; by default one per core.
    overwrite
        Replace the results of an earlier run in ``out``.
    progress
        Show progress on standard error.
    name, command
        Name of the stack and the command line, for the report.

    Returns
    -------
    ScreenResult
        Volumes, scores and figures of the report.

    Raises
    ------
    LabelError
        If the stack is not (k, z, y, x) with two or more particles, particles hold NaN voxels, or
        an option is out of range.
    TargetExistsError
        If ``out`` holds results and ``overwrite`` is False.
    BudgetError
        If no partition fits ``memory``; nothing has been read then.
    StoreError
        If a file or the folder cannot be written.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv, tempfile
    >>> from lazyvol.screening import screen
    >>> rng = np.random.default_rng(0)
    >>> particles = rng.normal(size=(8, 8, 8)) + rng.normal(scale=0.5, size=(60, 8, 8, 8))
    >>> particles[7] = rng.normal(size=(8, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     screen(lv.as_stack(particles), folder).flagged
    (7,)
    """
    stack = _require_volumes(stack)
    times, started = _StageTimes(), datetime.now().astimezone()
    budget = budget_for(memory, workers)
    options: dict[str, Any] = {
        "fdr": fdr, "templates": templates, "angles": angles, "mask": mask, "wedge": wedge
    }  # fmt: skip
    with limited(budget.memory, budget.workers), tasks_at_once(workers):
        planned = plans(stack, **options)
        folder = results_folder(Path(out), overwrite)
        with times.stage(AVERAGES), progress_bar("averages", shown=progress):
            averages = _require_finite(stack, scores.halves(stack).compute())
        with times.stage(SCORES), progress_bar("scores", shown=progress):
            table = table_of(scores.screen(stack, average=averages["average"], **options))
        best, worst = _best_and_worst(table)
        with times.stage(EXAMPLES):
            examples = _projections(stack, (*best, *worst))
        curve = scores.fsc(averages["first"], averages["second"])
    result = ScreenResult(
        source=StackSummary.of(stack, name), average=averages["average"],
        variance=averages["variance"], scores=table, fsc=curve,
        flagging=flagging(table, fdr, prod(averages["average"].shape)),
        half_sizes=_half_sizes(stack), halves_by="half" if "half" in stack.coords else "parity",
        examples=examples, best=best, worst=worst,
        run=Run(
            planned, times.seconds(), peak_bytes(), budget.memory,
            started.strftime("%Y-%m-%d %H:%M %Z"), command,
            on_cluster=current_client() is not None, versions=versions(),
        ),
    )  # fmt: skip
    _write(folder, result, overwrite)
    return result


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
        return {name: explain(step) for name, step in steps.items()}


def _require_volumes(stack: xr.DataArray) -> xr.DataArray:
    """Return a stack as (k, z, y, x); raise LabelError for images, as a report shows volumes."""
    particles = as_particles(stack)
    if "z" not in particles.dims:
        raise LabelError(
            f"screen: stack must be of volumes for a screening with a report, got dims "
            f"{stack.dims}; screen images with scores.screen"
        )
    return particles


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    packages = ("lazyvol", "numpy", "scipy", "numba", "dask", "xarray", "zarr")
    return {"python": platform.python_version()} | {p: _version(p) for p in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed, run from a checkout)"


def peak_bytes() -> int:
    """Return the peak resident memory of this process; 0 on Windows."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _StageTimes:
    """Wall time of named stages, and in total."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stages: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self._stages[name] = time.monotonic() - start

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": time.monotonic() - self._start}


def results_folder(out: Path, overwrite: bool) -> Path:
    """Return the folder for results, created if missing.

    Raise TargetExistsError if it holds results and ``overwrite`` is False.
    """
    present = [n for n in FILES if (out / n).exists()]
    if present and not overwrite:
        raise TargetExistsError(
            f"{out} already holds {', '.join(present)}; choose another folder or pass "
            f"overwrite=True"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"folder {out} cannot be created: {error.strerror}") from error
    return out


def table_of(results: xr.Dataset) -> xr.Dataset:
    """Compute the results of ``scores.screen`` as columns along k that a text file can hold."""
    names = np.array(str(results["best_hypothesis"].attrs["flag_meanings"]).split())
    computed = results.compute()
    angles = {
        f"angle_{name}": (STACK, computed["angles"].sel(angle=name).values)
        for name in computed["angles"].coords["angle"].values
    }
    hypothesis = {"hypothesis": (STACK, names[computed["best_hypothesis"].values])}
    table = computed.drop_vars(["angles", "best_hypothesis", "angle"]).assign(hypothesis | angles)
    first = ("llr", "p_value", "flagged", "probability", *hypothesis, *angles)
    return table[[*first, *(n for n in table if n not in first)]].drop_attrs(deep=True)


def flagging(table: xr.Dataset, fdr: float, voxels: int) -> Flagging:
    """Return the llr from which particles are flagged, and median and spread of ncc."""
    llr, ncc = table["llr"].values, table["ncc"].values.astype(np.float64)
    flagged = llr[table["flagged"].values & np.isfinite(llr)]
    finite = ncc[np.isfinite(ncc)]
    median = float(np.median(finite)) if finite.size else np.nan
    deviation = float(1.4826 * np.median(np.abs(finite - median))) if finite.size else np.nan
    threshold = float(flagged.min()) if flagged.size else np.nan
    return Flagging(threshold, fdr, median, deviation, 1 / voxels**0.5)


def _best_and_worst(table: xr.Dataset) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of the best and of the worst particles, extremes first."""
    order = ranking(table)
    n = min(EXAMPLES_SHOWN, len(order) // 2)
    return order[::-1][:n], order[:n]


def _projections(stack: xr.DataArray, positions: tuple[int, ...]) -> xr.Dataset:
    """Compute the means along z and along y of some particles."""
    selected = stack.isel({STACK: list(positions)})
    plain = selected.drop_vars([n for n, c in selected.coords.items() if c.dims == (STACK,)])
    return xr.Dataset(
        {"along_z": stats.mean(plain, "z"), "along_y": stats.mean(plain, "y")}
    ).compute()


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


def _half_sizes(stack: xr.DataArray) -> tuple[int, int]:
    """Return the number of particles in each half-set."""
    n = stack.sizes[STACK]
    if "half" not in stack.coords:
        return (n + 1) // 2, n // 2
    first, second = np.unique(stack.coords["half"].values, return_counts=True)[1]
    return int(first), int(second)


def _write(folder: Path, result: ScreenResult, overwrite: bool) -> None:
    """Write the volumes and scores, then the report."""
    save(result.average, folder / "average.zarr", overwrite=overwrite)
    save(result.variance, folder / "variance.zarr", overwrite=overwrite)
    write_text(folder / "scores.csv", csv_text(result.scores), overwrite=overwrite)
    write_report(folder / "report.html", result, overwrite=overwrite)
