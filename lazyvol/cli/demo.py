"""The demo: thousands of noisy cylinders on disk, a tenth of them tilted, screened."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.cli import screen
from lazyvol.cli.options import WRITING, Resuming, Writing, running, say
from lazyvol.cli.results import write_result
from lazyvol.io import open as open_stack
from lazyvol.ops import synthetic
from lazyvol.plan.budget import show_bytes
from lazyvol.screening.report import ScreenResult
from lazyvol.screening.run import results_folder


@dataclass(frozen=True)
class Problem:
    """A demo of one size: particles, length of their box, share of signal, memory for the run."""

    particles: int
    box: int
    alpha: float
    memory: str


SIZES = {"small": Problem(120, 24, 0.5, "512MiB"), "full": Problem(2000, 64, 0.2, "1280MiB")}


@dataclass(frozen=True)
class Agreement:
    """How flags agree with the truth."""

    precision: float
    recall: float
    auc: float


def demo(
    *,
    out: Path = Path("lazyvol-demo"),
    size: Literal["small", "full"] = "full",
    options: Writing = WRITING,
) -> None:
    """Make a stack of noisy cylinders larger than the memory allowed, and find the tilted ones.

    2000 particles of 64 x 64 x 64 voxels (2 GB) are written to disk, one in ten tilted by 60 to
    90 degrees, and screened in 1.25 GiB. Nothing is deleted afterwards.

    Parameters
    ----------
    out
        Folder for the particles and the results.
    size
        ``full``, or ``small`` for a quick look.
    """
    start, problem = time.monotonic(), SIZES[size]
    options = replace(options, memory=options.memory or problem.memory)
    particles = results_folder(out, options.overwrite) / "particles.zarr"
    with running(options):
        say(f"making      {problem.particles:,} particles of {problem.box}^3 in {particles}")
        write_result(made(problem), particles, Resuming(**vars(options)))
        stack = open_stack(particles)
        say(f"\nscreening   {show_bytes(stack.nbytes)} in {options.memory}")
        result = screen.screened(stack, out, str(particles), screen.Question(), options)
    screen.report(result, out)
    say_truth(result, stack)
    say(f"in all      {time.monotonic() - start:.1f} s; everything is in {out}")


def made(problem: Problem) -> xr.DataArray:
    """The particles: cylinders with noise, 10 % of them tilted, at 4 angstrom a voxel."""
    return synthetic.particles(
        (problem.box,) * 3, problem.particles, alpha=problem.alpha, tilted=0.1,
        radius=0.5 * problem.box, length=2.2 * problem.box, voxel_size=4.0, unit="angstrom",
        seed=1,
    )  # fmt: skip


def say_truth(result: ScreenResult, stack: xr.DataArray) -> None:
    """Print how the flags agree with what was made."""
    truth = np.asarray(stack.coords["tilted"].values, bool)
    found = agreement(result, truth)
    say(f"truth       {int(truth.sum()):,} of {truth.size:,} are tilted: precision "
        f"{found.precision:.3f}, recall {found.recall:.3f}, AUC {found.auc:.4f}")  # fmt: skip


def agreement(result: ScreenResult, truth: np.ndarray) -> Agreement:
    """Precision and recall of the flags, and the area under the curve of the score."""
    flagged = result.scores["flagged"].values
    hits = int((flagged & truth).sum())
    score = -result.scores["llr"].values
    return Agreement(
        hits / max(1, int(flagged.sum())),
        hits / max(1, int(truth.sum())),
        area_under_curve(score[~truth], score[truth]),
    )


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """Probability that a good particle scores higher than a bad one, ties counting half.

    Examples
    --------
    >>> area_under_curve(np.array([0.9, 0.8]), np.array([0.1, 0.8]))
    0.875
    """
    ordered = np.sort(good)
    below, upto = (np.searchsorted(ordered, bad, side=s) for s in ("left", "right"))
    wins = len(good) - (below + upto) / 2
    return float(wins.mean() / len(good)) if good.size and bad.size else float("nan")
