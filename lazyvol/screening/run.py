"""The main job: average a stack, score every particle against the others, find the bad ones."""

import os
import platform
import sys
import time
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
from lazyvol.plan.budget import limited
from lazyvol.plan.explain import Plan, budget_for, explain
from lazyvol.screening.report import Flagging, Run, ScreenResult, write_report
from lazyvol.screening.report.result import ranking
from lazyvol.stack import SPATIAL, STACK
from lazyvol.summary import Source

#: particles shown of each kind, best and worst
SHOWN = 8

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
    """Computes the screening of a stack of particles in two reads and writes it to a folder.

    The first read gives the average, the variance and the two half-set averages; the second all
    that ``scores.screen`` needs to say which particles are explained better by something else than
    by what the others have in common, and plain scores beside.

    Parameters
    ----------
    stack
        (k, z, y, x). Half-sets are those of a coordinate ``half`` along k, else even and odd.
    out
        Folder for ``average.zarr``, ``variance.zarr``, ``scores.csv`` and ``report.html``, made
        where it is missing. Each gets its name only when it is complete, the report last.
    fdr
        Share of good ones that is acceptable among the flagged, between 0 and 1.
    templates, angles, mask, wedge
        As in ``scores.screen``.
    memory
        Bytes, or text like ``"2GiB"``, that the run may take beside the interpreter.
    workers
        Tasks that run at once; this machine's threads by default.
    overwrite
        Whether results of an earlier run in ``out`` may be replaced.
    progress
        Whether progress is shown on stderr.
    name, command
        Name of the stack and the command line, told in the report.

    Returns
    -------
    ScreenResult
        Everything the report tells.

    Raises
    ------
    LabelError
        If the stack is not (k, z, y, x) with two or more particles, some hold NaN voxels, or
        ``fdr`` is out of range.
    TargetExistsError
        If ``out`` holds results and ``overwrite`` is not set.
    BudgetError
        If no cut fits ``memory``; nothing has been read then.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv, tempfile
    >>> from lazyvol.screening.run import screen
    >>> rng = np.random.default_rng(0)
    >>> particles = rng.normal(size=(8, 8, 8)) + rng.normal(scale=0.5, size=(60, 8, 8, 8))
    >>> particles[7] = rng.normal(size=(8, 8, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     screen(lv.as_stack(particles), folder).flagged
    (7,)
    """
    stack = _volumes_of(stack)
    clock, started = _Clock(), datetime.now().astimezone()
    budget = budget_for(memory, workers)
    options: dict[str, Any] = {
        "fdr": fdr, "templates": templates, "angles": angles, "mask": mask, "wedge": wedge
    }  # fmt: skip
    with limited(budget.memory, budget.workers), tasks_at_once(workers):
        planned = plans(stack, **options)
        folder = results_folder(Path(out), overwrite)
        with clock.of(AVERAGES), progress_bar("averages", shown=progress):
            averages = _without_nan(stack, scores.halves(stack).compute())
        with clock.of(SCORES), progress_bar("scores", shown=progress):
            table = table_of(scores.screen(stack, average=averages["average"], **options))
        best, worst = _extremes(table)
        with clock.of(EXAMPLES):
            shown = _examples(stack, (*best, *worst))
        curve = scores.fsc(averages["first"], averages["second"])
    result = ScreenResult(
        source=Source.of(stack, name), average=averages["average"],
        variance=averages["variance"], scores=table, fsc=curve,
        flagging=flagging(table, fdr, prod(averages["average"].shape)),
        half_sizes=_half_sizes(stack), halves_by="half" if "half" in stack.coords else "parity",
        examples=shown, best=best, worst=worst,
        run=Run(
            planned, clock.seconds(), peak_bytes(), budget.memory,
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

    ``options`` are those of ``scores.screen``.
    """
    stack = _volumes_of(stack)
    volume = stack.isel({STACK: 0}, drop=True)
    blank = volume.copy(data=np.zeros(volume.shape, volume.dtype))
    budget = budget_for(memory, workers)
    with limited(budget.memory, budget.workers):
        steps = {
            AVERAGES: scores.halves(stack),
            SCORES: scores.screen(stack, average=blank, **options),
        }
        return {n: explain(s) for n, s in steps.items()}


def _volumes_of(stack: xr.DataArray) -> xr.DataArray:
    """A stack as (k, z, y, x); images are refused, for a report shows volumes."""
    found = as_particles(stack)
    if "z" not in found.dims:
        raise LabelError(
            f"stack must be of volumes for a screening with a report, got dims {stack.dims}; "
            f"screen images with scores.screen"
        )
    return found


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = ("lazyvol", "numpy", "scipy", "numba", "dask", "xarray", "zarr")
    found = {"python": platform.python_version()}
    return found | {p: _version(p) for p in packages}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed, run from a checkout)"


def peak_bytes() -> int:
    """Largest resident memory that this process has had."""
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Clock:
    """Wall time of named stages, and in all."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._stages: dict[str, float] = {}

    def of(self, name: str) -> "_Stage":
        return _Stage(name, self._stages)

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": time.monotonic() - self._start}


class _Stage:
    def __init__(self, name: str, stages: dict[str, float]) -> None:
        self._name, self._stages = name, stages

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._stages[self._name] = time.monotonic() - self._start


def results_folder(out: Path, overwrite: bool) -> Path:
    """The folder for results, made where missing; refused where it holds results."""
    present = [n for n in FILES if (out / n).exists()]
    if present and not overwrite:
        raise TargetExistsError(
            f"{out} already holds {', '.join(present)}; choose another folder or overwrite"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"folder {out} could not be made: {error.strerror}") from error
    return out


def table_of(found: xr.Dataset) -> xr.Dataset:
    """What was found as columns that a text file can hold."""
    codes = found["best_hypothesis"].attrs
    words = np.array(str(codes["flag_meanings"]).split())
    made = found.compute()
    angles = {
        f"angle_{name}": (STACK, made["angles"].sel(angle=name).values)
        for name in made["angles"].coords["angle"].values
    }
    hypothesis = {"hypothesis": (STACK, words[made["best_hypothesis"].values])}
    table = made.drop_vars(["angles", "best_hypothesis", "angle"]).assign(hypothesis | angles)
    first = ("llr", "p_value", "flagged", "probability", *hypothesis, *angles)
    return table[[*first, *(n for n in table if n not in first)]].drop_attrs(deep=True)


def flagging(table: xr.Dataset, fdr: float, voxels: int) -> Flagging:
    """Where the flagged begin, and the bulk of the plain correlations."""
    ratio, values = table["llr"].values, table["ncc"].values.astype(np.float64)
    marked = ratio[table["flagged"].values & np.isfinite(ratio)]
    good = values[np.isfinite(values)]
    middle = float(np.median(good)) if good.size else np.nan
    spread = float(1.4826 * np.median(np.abs(good - middle))) if good.size else np.nan
    threshold = float(marked.min()) if marked.size else np.nan
    return Flagging(threshold, fdr, middle, spread, 1 / voxels**0.5)


def _extremes(table: xr.Dataset) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions of the best and of the worst particles, extreme first."""
    order = ranking(table)
    n = min(SHOWN, len(order) // 2)
    return order[::-1][:n], order[:n]


def _examples(stack: xr.DataArray, positions: tuple[int, ...]) -> xr.Dataset:
    """Means along z and along y of some particles."""
    few = stack.isel({STACK: list(positions)})
    plain = few.drop_vars([n for n, c in few.coords.items() if c.dims == (STACK,)])
    return xr.Dataset(
        {"along_z": stats.mean(plain, "z"), "along_y": stats.mean(plain, "y")}
    ).compute()


def _without_nan(stack: xr.DataArray, averages: xr.Dataset) -> xr.Dataset:
    """The averages; refused where NaN voxels of some particles would spoil every score."""
    lost = int(np.isnan(averages["average"].values).sum())
    if not lost:
        return averages
    counts = stats.count(stack, SPATIAL).compute().values
    bad = np.flatnonzero(counts < prod(averages["average"].shape))
    named = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
    raise LabelError(
        f"{len(bad)} of {stack.sizes[STACK]} particles hold NaN voxels, at k = {named}: {lost} "
        f"voxels of the average are NaN; leave them out (isel, drop_isel) or fill them (fillna)"
    )


def _half_sizes(stack: xr.DataArray) -> tuple[int, int]:
    n = stack.sizes[STACK]
    if "half" not in stack.coords:
        return (n + 1) // 2, n // 2
    first, second = np.unique(stack.coords["half"].values, return_counts=True)[1]
    return int(first), int(second)


def _write(folder: Path, result: ScreenResult, overwrite: bool) -> None:
    """Volumes, scores, and last the report."""
    save(result.average, folder / "average.zarr", overwrite=overwrite)
    save(result.variance, folder / "variance.zarr", overwrite=overwrite)
    write_text(folder / "scores.csv", csv_text(result.scores), overwrite=overwrite)
    write_report(folder / "report.html", result, overwrite=overwrite)
