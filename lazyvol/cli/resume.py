"""The command ``resume``."""

import shlex
from contextlib import chdir
from pathlib import Path

from lazyvol.cli.options import say
from lazyvol.errors import OptionError, SourceNotFoundError
from lazyvol.io.zarr.create import run_of
from lazyvol.io.zarr.run_plan import RunPlan


def resume(path: str) -> None:
    """Continue an interrupted command from what it left: finished shards, kept states.

    The command line, its folder and the versions are in the plan beside the unfinished result
    (plan.json), with the parameters of every step. A path that is complete is left as it is.

    Parameters
    ----------
    path
        Store (.zarr), or folder of a screening, that the command was writing.

    Examples
    --------
    lazyvol resume variance.zarr
    """
    from lazyvol.cli import make_app, run_words  # which imports this module when it runs

    left = interrupted(path)
    if left is None:
        say(f"{path} is complete; there is nothing to resume")
        return
    command, folder = left.facts.get("command"), left.facts.get("folder", "")
    if command is None:
        raise OptionError(
            f"resume: path must be that of an interrupted command, got {path}, which a Python "
            f"program was writing ({_steps(left)}); run that program again, with resume=True"
        )
    if not Path(folder).is_dir():
        raise SourceNotFoundError(
            f"resume: the command was started in {folder}, which is gone; run it again "
            f"elsewhere, with resume=True: {command}"
        )
    say(f"resuming    {command}")
    words = shlex.split(command)[1:]
    with chdir(folder):
        run_words(make_app(), words if "--resume" in words else [*words, "--resume"])


def interrupted(path: str) -> RunPlan | None:
    """Return the plan of the interrupted run that was writing ``path``; None if it is complete.

    Raises
    ------
    SourceNotFoundError
        No run was writing there, and nothing complete is there.
    """
    from lazyvol.screening.results_run import ResultsRun  # commands import what they run

    for run in (run_of(path, ""), ResultsRun(str(Path(path).resolve()), token="")):
        left, finished = run.former(), run.finished()
        if left is not None and left.token != finished:
            return left
        if finished is not None:
            run.clear()
            return None
    raise SourceNotFoundError(
        f"resume: no interrupted run was writing {path}, and it is no complete result; check the "
        "path, or run the command that writes it"
    )


def _steps(plan: RunPlan) -> str:
    """Return the steps of a plan as text: the name of each, and the files that it reads."""
    names = (step.get("input", step.get("recipe", "")) for step in plan.steps)
    return ", ".join(name for name in names if name != "versions")[:400]
