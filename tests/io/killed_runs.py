"""Runs that are killed: a process that forks a child for each, without the time of imports.

``killed`` runs a save in a child that kills itself at a failpoint, or is killed after a time.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import dask
import numpy as np

import lazyvol as lv
from lazyvol.io.zarr.local_run import LocalRun
from lazyvol.plan import checkpoints
from lazyvol.plan.reductions import graph
from lazyvol.plan.reductions.fold import BoundFold
from lazyvol.screening import output
from tests.paths import ROOT

SHAPE = (32, 8, 8, 8)

#: what is saved, by name
RESULTS = {
    "var": lambda stack: lv.stats.var(stack, "k"),
    "std of rows": lambda stack: lv.stats.std(stack, "x"),
    "means of volumes": lambda stack: lv.stats.mean(stack, ("z", "y", "x")),
    "describe": lambda stack: lv.stats.describe(stack, "k"),
    "ncc": lambda stack: lv.scores.ncc(stack),
    "profile": lambda stack: lv.scores.profile(stack, stack.isel(k=0, drop=True)),
    "halves": lambda stack: lv.scores.halves(stack),
    "filtered": lambda stack: lv.filters.gaussian(stack, 1.0) - lv.stats.mean(stack, "k"),
    "screen": lambda stack: lv.scores.screen(stack, angles=90.0, wedge=None),
}
#: steps after the last tile at which a child may die: function, and number of the call
LAST_STEPS = {
    "before the removal of states": (LocalRun, "discard", 1),
    "before the second text": (output, "write_text", 2),
}


@contextmanager
def small_tasks(at_update=lambda: None, workers=2):
    """Context in which folds have many tasks of several tiles, and keep every state.

    ``at_update`` is called before each tile is added to a state.
    """
    update = BoundFold._update

    def updated(self, *args):
        at_update()
        update(self, *args)

    values = {
        (graph, "TILE"): 1 << 12, (graph, "TASK"): 1 << 14, (checkpoints, "INTERVAL"): 0.0,
        (checkpoints, "SHARE"): float("inf"), (BoundFold, "_update"): updated,
    }  # fmt: skip
    before = {(owner, name): getattr(owner, name) for owner, name in values}
    try:
        for (owner, name), value in values.items():
            setattr(owner, name, value)
        with dask.config.set(num_workers=workers):
            yield
    finally:
        for (owner, name), value in before.items():
            setattr(owner, name, value)


class Counter:
    """Counts calls, also in a file, and kills this process before call number ``last``."""

    def __init__(self, last: int | None = None, path: str | None = None) -> None:
        self.calls, self.last = 0, last
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND
        self.file = None if path is None else os.open(path, flags)

    def __call__(self) -> None:
        self.calls += 1
        if self.file is not None:
            os.write(self.file, b".")
        if self.last is not None and self.calls >= self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def dying(function, last):
    """Return a function that kills this process at call number ``last``."""
    count = Counter(last)

    def counted(*args, **options):
        count()
        return function(*args, **options)

    return counted


def save(name: str, folder: str, **options: bool) -> None:
    if name == "screening":
        lv.screening.screen(lv.open(f"{folder}/in.npy"), f"{folder}/out", angles=90.0, **options)
        return
    lv.save(RESULTS[name](lv.open(f"{folder}/in.npy")), f"{folder}/out.zarr", **options)


def write_input(folder: Path) -> None:
    values = np.random.default_rng(4).normal(size=SHAPE).astype("f4")
    np.save(folder / "in.npy", values)


class ForkServer:
    """A process that imported everything; its children run saves until they are killed."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.io.killed_runs"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    def killed(
        self, name: str, folder: Path, last: int, option: str = "", seconds: float = 0.0
    ) -> bool:
        """Save a result in a child that dies before its tile number ``last``, or after ``seconds``
        if they are not 0. Return False if it ends before."""
        self._process.stdin.write(f"{name}\t{folder}\t{last}\t{option}\t{seconds}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline() == "killed\n"

    def close(self) -> None:
        self._process.communicate()


def serve() -> None:
    for line in sys.stdin:
        name, folder, last, option, seconds = line.rstrip("\n").split("\t")
        child = os.fork()
        if not child:
            if option in LAST_STEPS:
                owner, function, calls = LAST_STEPS[option]
                setattr(owner, function, dying(getattr(owner, function), calls))
                option = ""
            with small_tasks(Counter(int(last), f"{folder}/tiles")):
                save(name, folder, **({option: True} if option else {}))
            os._exit(0)
        if float(seconds):
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        os.write(1, b"killed\n" if killed else b"ended\n")


if __name__ == "__main__":
    serve()
