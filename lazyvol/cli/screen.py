"""The command ``screen``."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import xarray as xr
from cyclopts import Parameter

from lazyvol.cli.options import WRITING, Dims, Running, Writing, open_first, running, say
from lazyvol.io import open as open_stack
from lazyvol.screening import ScreenResult, plans, screen
from lazyvol.screening.report.words import findings, peak_text

TiltRange = Annotated[tuple[float, float] | None, Parameter(negative="")]


@dataclass(frozen=True)
class ScreenOptions:
    """Options of a screening as typed: files by name, no rotations as 0 degrees."""

    particles: str | None = None
    fdr: float = 0.05
    angles: float = 30.0
    wedge: tuple[float, float] | None = None
    mask: str | None = None
    templates: str | None = None

    def opened(self) -> dict[str, Any]:
        """Return options of ``scores.screen``; files are read here once, for plans and results."""
        files = {"mask": self.mask, "templates": self.templates}
        volumes = {n: None if f is None else open_stack(f).compute() for n, f in files.items()}
        return {"fdr": self.fdr, "angles": self.angles or None, "wedge": self.wedge, **volumes}

    def tokens(self) -> list[str]:
        """Return the options as on the command line, without defaults except for the rate."""
        tokens = ["--fdr", f"{self.fdr:g}"]
        if self.angles != ScreenOptions.angles:
            tokens += ["--angles", f"{self.angles:g}"]
        if self.wedge:
            tokens += ["--wedge", *(f"{a:g}" for a in self.wedge)]
        for name in ("particles", "mask", "templates"):
            tokens += [f"--{name}", getattr(self, name)] if getattr(self, name) else []
        return tokens


def screen_stack(
    path: str,
    *,
    out: Path,
    particles: str | None = None,
    fdr: float = 0.05,
    angles: float = 30.0,
    wedge: TiltRange = None,
    mask: str | None = None,
    templates: str | None = None,
    dims: Dims = None,
    options: Writing = WRITING,
) -> None:
    """Flag misaligned or foreign particles of a stack, and write scores and a report.

    Every particle is compared with the average of the other particles and with alternative
    hypotheses: that average rotated, a second class of particles, templates, or noise alone.
    Particles that an alternative explains better are flagged at a false discovery rate. The
    stack is read twice, in blocks, and the flagged particles once more. Writes report.html,
    scores.csv, the particle lists kept and flagged (.star, or the format of the input's list),
    fsc.csv, and volumes as .mrc: average, variance and mask, and the average and half-set averages
    without the flagged particles.

    Parameters
    ----------
    path
        Particles (k, z, y, x): a file, a folder or a glob pattern.
    out
        Folder for the results.
    particles
        List of the particles in the order of the stack: .star, .em, .tbl or .csv; by default the
        input if this is a .star file. Its rows are written to kept and flagged, with our columns.
    fdr
        False discovery rate: expected fraction of consistent particles among the flagged.
    angles
        Spacing of the grid of rotations in degrees, 5 to 180; 0 for no rotations.
    wedge
        Tilt range of the tomograms in degrees, from and to, tilt axis y and beam along z.
    mask
        File with a mask of the object, from 0 to 1; estimated from the data by default.
    templates
        File with volumes that misassigned particles may show.
    """
    listed = path if particles is None and path.lower().endswith(".star") else particles
    screen_options = ScreenOptions(listed, fdr, angles, wedge, mask, templates)
    with running(options):
        result = screen_and_write(open_first(path, dims), out, path, screen_options, options)
    print_result(result, out)


def screen_and_write(
    stack: xr.DataArray, out: Path, name: str, screen_options: ScreenOptions, options: Writing
) -> ScreenResult:
    """Print the plans of a screening, then run it and write its results."""
    command = ["lazyvol", "screen", name, "--out", str(out), *screen_options.tokens()]
    command += ["--memory", options.memory] if options.memory else []
    opened = screen_options.opened()
    print_plans(stack, options, opened)
    return screen(
        stack, out, particles=screen_options.particles, **opened, memory=options.memory,
        workers=options.workers, overwrite=options.overwrite, progress=options.shown,
        name=Path(name).name, command=shlex.join(command),
    )  # fmt: skip


def print_result(result: ScreenResult, out: Path) -> None:
    """Print the findings, the time and memory, and the address of the report."""
    for sentence in findings(result):
        say(sentence)
    say(f"took        {result.run.seconds['total']:.1f} s, {peak_text(result.run)}")
    say(f"wrote       {', '.join(Path(f).name for f in result.files)}")
    say(f"report      {(out / 'report.html').resolve().as_uri()}  (open it in a browser)")


def print_plans(
    stack: xr.DataArray, options: Running, opened: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Print the plans of both reads of a screening."""
    plan_by_read = plans(stack, memory=options.memory, workers=options.workers, **opened)
    for name, plan in plan_by_read.items():
        say(f"{name}\n{plan}\n")
