"""The command ``screen``."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import xarray as xr

from lazyvol.cli.options import WRITING, Dims, Running, Writing, open_first, running, say
from lazyvol.io import open as open_stack
from lazyvol.screening import run
from lazyvol.screening.report import ScreenResult
from lazyvol.screening.report.words import findings, peak_text
from lazyvol.screening.run import screen


@dataclass(frozen=True)
class Question:
    """What is asked of a screening; paths are names of files, as typed."""

    fdr: float = 0.05
    angles: float = 30.0
    wedge: tuple[float, float] | None = None
    mask: str | None = None
    templates: str | None = None

    def options(self) -> dict[str, Any]:
        """Options of ``scores.screen``, files read: every plan looks at them."""
        files = {"mask": self.mask, "templates": self.templates}
        opened = {n: None if f is None else open_stack(f).compute() for n, f in files.items()}
        return {"fdr": self.fdr, "angles": self.angles or None, "wedge": self.wedge, **opened}

    def words(self) -> list[str]:
        """The question as on the command line, defaults left out but for the rate."""
        found = ["--fdr", f"{self.fdr:g}"]
        if self.angles != Question.angles:
            found += ["--angles", f"{self.angles:g}"]
        if self.wedge:
            found += ["--wedge", *(f"{a:g}" for a in self.wedge)]
        for name in ("mask", "templates"):
            found += [f"--{name}", getattr(self, name)] if getattr(self, name) else []
        return found


def screen_stack(
    path: str,
    *,
    out: Path,
    fdr: float = 0.05,
    angles: float = 30.0,
    wedge: tuple[float, float] | None = None,
    mask: str | None = None,
    templates: str | None = None,
    dims: Dims = None,
    options: Writing = WRITING,
) -> None:
    """Average particles, find those that are wrong, write a report.

    A particle is wrong where something else explains it better than what the others have in
    common: their average turned, a second kind of particle, templates, or nothing but noise. The
    stack is read twice and never held. The folder gets average.zarr, variance.zarr, scores.csv
    and report.html.

    Parameters
    ----------
    path
        Particles (k, z, y, x): a file, a folder or a pattern.
    out
        Folder for the results.
    fdr
        Share of good particles that is acceptable among the flagged.
    angles
        Degrees between the rotations tried; 0 for none.
    wedge
        Range of tilts about y, from and to in degrees, that the tomograms were made of.
    mask
        File that says where the object is, from 0 to 1; found from the data by default.
    templates
        File of volumes that a wrong particle may hold.
    """
    question = Question(fdr, angles, wedge, mask, templates)
    with running(options):
        result = screened(open_first(path, dims), out, path, question, options)
    report(result, out)


def screened(
    stack: xr.DataArray, out: Path, name: str, question: Question, options: Writing
) -> ScreenResult:
    """The screening of a stack, its plan printed first."""
    command = ["lazyvol", "screen", name, "--out", str(out), *question.words()]
    command += ["--memory", options.memory] if options.memory else []
    asked = question.options()
    say_plans(stack, options, asked)
    return screen(
        stack, out, **asked, memory=options.memory, workers=options.workers,
        overwrite=options.overwrite, progress=options.shown, name=Path(name).name,
        command=shlex.join(command),
    )  # fmt: skip


def report(result: ScreenResult, out: Path) -> None:
    """Print what a screening found, and where."""
    for sentence in findings(result):
        say(sentence)
    say(f"took        {result.run.seconds['total']:.1f} s, {peak_text(result.run)}")
    say(f"report      {(out / 'report.html').resolve().as_uri()}")


def say_plans(
    stack: xr.DataArray, options: Running, asked: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Print the plans of a screening under their names."""
    plans = run.plans(stack, memory=options.memory, workers=options.workers, **asked)
    for name, plan in plans.items():
        say(f"{name}\n{plan}\n")
