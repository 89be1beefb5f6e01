"""The command ``demo``: simulate noisy cylinders on disk, a tenth of them tilted; screen them."""

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
from lazyvol.screening import ScreenResult
from lazyvol.screening.output import results_folder


@dataclass(frozen=True)
class Simulation:
    """Number of particles, box length in voxels, weight of the signal, memory of the screening."""

    particles: int
    box: int
    alpha: float
    memory: str


SIZES = {"small": Simulation(120, 24, 0.5, "512MiB"), "full": Simulation(2000, 64, 0.2, "1280MiB")}


@dataclass(frozen=True)
class Agreement:
    """Precision and recall of the flags, and area under the ROC curve of the llr."""

    precision: float
    recall: float
    auc: float


def demo(
    *,
    out: Path = Path("lazyvol-demo"),
    size: Literal["small", "full"] = "full",
    options: Writing = WRITING,
) -> None:
    """Simulate noisy cylinders larger than the memory limit, and screen them for tilted ones.

    Writes 2000 particles of 64 x 64 x 64 voxels (2 GB), one in ten tilted by 60 to 90 degrees, and
    screens them within 1.25 GiB. All files are kept.

    Parameters
    ----------
    out
        Folder for the particles and the results.
    size
        ``full``, or ``small``: 120 particles of 24 x 24 x 24 voxels.

    Examples
    --------
    lazyvol demo --size small --out demo
    """
    start, simulation = time.monotonic(), SIZES[size]
    options = replace(options, memory=options.memory or simulation.memory)
    particles = results_folder(out, options.overwrite) / "particles.zarr"
    with running(options):
        say(f"simulating  {simulation.particles:,} particles of {simulation.box}^3 in {particles}")
        write_result(simulated(simulation), str(particles), Resuming(**vars(options)))
        stack = open_stack(particles)
        say(f"\nscreening   {show_bytes(stack.nbytes)} in {options.memory}")
        screen_options = screen.ScreenOptions()
        result = screen.screen_and_write(stack, out, str(particles), screen_options, options)
    print_agreement(result, stack)
    say(f"total       {time.monotonic() - start:.1f} s; all files are in {out}")
    screen.print_result(result, out)


def simulated(simulation: Simulation) -> xr.DataArray:
    """Return noisy cylinders with voxels of 4 angstrom, 10 % of them tilted."""
    return synthetic.particles(
        (simulation.box,) * 3, simulation.particles, alpha=simulation.alpha, tilted=0.1,
        radius=0.5 * simulation.box, length=2.2 * simulation.box, voxel_size=4.0, unit="angstrom",
        seed=1,
    )  # fmt: skip


def print_agreement(result: ScreenResult, stack: xr.DataArray) -> None:
    """Print the agreement of the flags with the simulated tilts."""
    truth = np.asarray(stack.coords["tilted"].values, bool)
    scores = agreement(result, truth)
    say(f"truth       {int(truth.sum()):,} of {truth.size:,} are tilted: precision "
        f"{scores.precision:.3f}, recall {scores.recall:.3f}, AUC {scores.auc:.4f}")  # fmt: skip


def agreement(result: ScreenResult, truth: np.ndarray) -> Agreement:
    """Return the agreement of flags and llr with the truth, True for a tilted particle."""
    flagged = result.scores["flagged"].values
    hits = int((flagged & truth).sum())
    score = -result.scores["llr"].values
    return Agreement(
        hits / max(1, int(flagged.sum())),
        hits / max(1, int(truth.sum())),
        area_under_curve(score[~truth], score[truth]),
    )


def area_under_curve(good: np.ndarray, bad: np.ndarray) -> float:
    """Return the probability that a good particle scores higher than a bad one, ties counting half.

    Examples
    --------
    >>> area_under_curve(np.array([0.9, 0.8]), np.array([0.1, 0.8]))
    0.875
    """
    ordered = np.sort(good)
    below, up_to = (np.searchsorted(ordered, bad, side=s) for s in ("left", "right"))
    wins = len(good) - (below + up_to) / 2
    return float(wins.mean() / len(good)) if good.size and bad.size else float("nan")
