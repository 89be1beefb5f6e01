"""The command ``screen``."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import xarray as xr
from cyclopts import Parameter

from lazyvol.cli.options import (
    CONTINUING,
    Continuing,
    Dims,
    Running,
    Writing,
    open_first,
    running,
    say,
)
from lazyvol.errors import LabelError, OptionError
from lazyvol.io import open as open_stack
from lazyvol.io import particles as list_particles
from lazyvol.io.particle_lists import ANGLES
from lazyvol.screening import ScreenResult, plans, screen
from lazyvol.screening.report.words import caveats, findings, peak_text
from lazyvol.stack import STACK

Words = Annotated[list[str] | None, Parameter(negative="", consume_multiple=True)]


@dataclass(frozen=True)
class ScreenOptions:
    """Options of a screening as typed: files by name, no rotations as 0 degrees."""

    particles: str | None = None
    fdr: float = 0.05
    angles: float = 30.0
    wedge: tuple[str, ...] = ("auto",)
    orientations: str | None = None
    second_class: bool = True
    mask: str | None = None
    templates: str | None = None

    def opened(self) -> dict[str, Any]:
        """Return options of ``scores.screen``; files are read here once, for plans and results."""
        files = {"mask": self.mask, "templates": self.templates}
        volumes = {n: None if f is None else open_stack(f).compute() for n, f in files.items()}
        return {
            "fdr": self.fdr, "angles": self.angles or None, "wedge": opened_wedge(self.wedge),
            "orientations": None if self.orientations is None else angles_of(self.orientations),
            "second_class": self.second_class, **volumes,
        }  # fmt: skip

    def tokens(self) -> list[str]:
        """Return the options as on the command line, without defaults except for the rate."""
        tokens = ["--fdr", f"{self.fdr:g}"]
        if self.angles != ScreenOptions.angles:
            tokens += ["--angles", f"{self.angles:g}"]
        if self.wedge != ScreenOptions.wedge:
            tokens += ["--wedge", *self.wedge]
        tokens += [] if self.second_class else ["--no-second-class"]
        for name in ("particles", "orientations", "mask", "templates"):
            tokens += [f"--{name}", getattr(self, name)] if getattr(self, name) else []
        return tokens


def opened_wedge(words: Sequence[str]) -> Any:
    """Return the words of ``--wedge`` as a tilt range, ``"auto"``, None or an opened file."""
    if tuple(words) in (("auto",), ("none",)):
        return "auto" if words[0] == "auto" else None
    try:
        tilts = tuple(map(float, words))
    except ValueError:
        tilts = None
    if tilts is None and len(words) == 1:
        return open_stack(words[0])
    if tilts is None or len(tilts) != 2:
        raise OptionError(
            f"screen: wedge must be two tilts in degrees, auto, none or one file, got "
            f"{' '.join(words)!r}; write e.g. --wedge -60 60"
        )
    return tilts


def angles_of(path: str) -> xr.DataArray:
    """Return rot, tilt and psi of a particle list, (k, angle)."""
    listed = list_particles(path)
    missing = [name for name in ANGLES if name not in listed.coords]
    if missing:
        raise LabelError(
            f"screen: orientations must list rot, tilt and psi, got no {', '.join(missing)} in "
            f"{path}; name a list with the Euler angles of the particles"
        )
    values = np.stack([listed[name].values for name in ANGLES], axis=1)
    return xr.DataArray(values, {"angle": list(ANGLES)}, (STACK, "angle"))


def screen_stack(
    path: str,
    *,
    out: Path,
    particles: str | None = None,
    fdr: float = 0.05,
    angles: float = 30.0,
    wedge: Words = None,
    orientations: str | None = None,
    second_class: bool = True,
    mask: str | None = None,
    templates: str | None = None,
    dims: Dims = None,
    options: Continuing = CONTINUING,
) -> None:
    """Flag misaligned or foreign particles of a stack, and write scores and a report.

    Every particle is compared with the average of the other particles and with alternative
    hypotheses: that average rotated, a second class of particles, templates, or noise alone.
    Particles that an alternative explains better are flagged at a false discovery rate. The
    stack is read twice, in blocks, and the flagged particles once more. Writes report.html,
    scores.csv, the particle lists kept and flagged (.star, or the format of the input's list),
    fsc.csv, volumes as .mrc: average, variance and mask, and the average and half-set averages
    without the flagged particles, and run.json, which describes the run.

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
        Measured frequencies: auto (found in the power of the particles, the default), the tilt
        range of the tomograms in degrees, from and to, tilt axis y and beam along z (-60 60), a
        file of masks or weights, or none (all).
    orientations
        Particle list with the rotations (rot, tilt, psi) of the particles since they were measured;
        by default those of the list of the particles.
    second_class
        Search for a second class of particles.
    mask
        File with a mask of the object, from 0 to 1; estimated from the data by default.
    templates
        File with volumes that misassigned particles may show.

    Examples
    --------
    lazyvol screen subtomograms.mrc --out screened --particles run.star --wedge -60 60
    """
    listed = path if particles is None and path.lower().endswith(".star") else particles
    screen_options = ScreenOptions(
        listed, fdr, angles, tuple(wedge or ("auto",)), orientations, second_class, mask, templates
    )
    with running(options):
        stack = open_first(path, dims)
        result = screen_and_write(stack, out, path, screen_options, options, resume=options.resume)
    print_result(result, out)


def screen_and_write(
    stack: xr.DataArray,
    out: Path,
    name: str,
    screen_options: ScreenOptions,
    options: Writing,
    *,
    resume: bool = False,
) -> ScreenResult:
    """Print the plans of a screening, then run it and write its results."""
    command = ["lazyvol", "screen", name, "--out", str(out), *screen_options.tokens()]
    command += ["--memory", options.memory] if options.memory else []
    opened = screen_options.opened()
    print_plans(stack, options, opened)
    return screen(
        stack, out, particles=screen_options.particles, **opened, memory=options.memory,
        workers=options.workers, resume=resume, overwrite=options.overwrite, progress=options.shown,
        name=Path(name).name, command=shlex.join(command),
    )  # fmt: skip


def print_result(result: ScreenResult, out: Path) -> None:
    """Print the findings, the time and memory, and the address of the report."""
    for sentence in (*findings(result), *caveats(result)):
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
