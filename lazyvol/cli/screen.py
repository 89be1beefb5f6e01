"""The command ``screen``."""

import shlex
from pathlib import Path

import xarray as xr

from lazyvol import screening
from lazyvol.cli.options import WRITING, Running, Writing, running, say
from lazyvol.io import open as open_stack
from lazyvol.report import ScreenResult
from lazyvol.report.words import findings, peak_text
from lazyvol.screening import screen


def screen_stack(path: str, *, out: Path, fdr: float = 0.05, options: Writing = WRITING) -> None:
    """Average particles, score each against the others, flag the bad ones, write a report.

    The stack is read twice and never held. The folder gets average.zarr, variance.zarr,
    scores.csv and report.html.

    Parameters
    ----------
    path
        Particles (k, z, y, x): a file, a folder or a pattern.
    out
        Folder for the results.
    fdr
        Share of good particles that is acceptable among the flagged.
    """
    with running(options):
        result = screened(open_stack(path), out, path, fdr, options)
    report(result, out)


def screened(
    stack: xr.DataArray, out: Path, name: str, fdr: float, options: Writing
) -> ScreenResult:
    """The screening of a stack, its plan printed first."""
    command = ["lazyvol", "screen", name, "--out", str(out), "--fdr", f"{fdr:g}"]
    command += ["--memory", options.memory] if options.memory else []
    say_plans(stack, options)
    return screen(
        stack, out, fdr=fdr, memory=options.memory, workers=options.workers,
        overwrite=options.overwrite, progress=options.shown, name=Path(name).name,
        command=shlex.join(command),
    )  # fmt: skip


def report(result: ScreenResult, out: Path) -> None:
    """Print what a screening found, and where."""
    for sentence in findings(result):
        say(sentence)
    say(f"took        {result.run.seconds['total']:.1f} s, {peak_text(result.run)}")
    say(f"report      {(out / 'report.html').resolve().as_uri()}")


def say_plans(stack: xr.DataArray, options: Running) -> None:
    """Print the plans of a screening under their names."""
    plans = screening.plans(stack, memory=options.memory, workers=options.workers)
    for name, plan in plans.items():
        say(f"{name}\n{plan}\n")
