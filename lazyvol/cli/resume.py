"""Continue interrupted commands: the command ``resume`` and the function ``lazyvol.resume``."""

import os
import shlex
from contextlib import chdir
from os import PathLike
from pathlib import Path

from cyclopts import CycloptsError

from lazyvol.cli.options import say
from lazyvol.errors import OptionError, SourceNotFoundError
from lazyvol.io.places import is_place, path_text
from lazyvol.io.zarr.create import run_of
from lazyvol.io.zarr.remote_run import Run
from lazyvol.io.zarr.run_plan import RunPlan


def resume_command(path: str) -> None:
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
    if not resume(path):
        say(f"{path} is complete; there is nothing to resume")


def resume(path: str | PathLike[str]) -> bool:
    """Continues an interrupted command from what it left: finished shards, kept states.

    The command line, its folder and the versions are in the plan beside the unfinished result, with
    the parameters of every step. The command runs again in this process and prints what it prints
    in a shell. A complete result is left as it is. A result that a Python program was writing is
    continued by the same ``lazyvol.save`` with ``resume=True``.

    Parameters
    ----------
    path
        Folder or URL of a store (``.zarr``), or folder of a screening, that the command was
        writing.

    Returns
    -------
    bool
        True if the command ran, False if the result was complete.

    Raises
    ------
    OptionError
        A Python program was writing the result, or the command is none of this version.
    SourceNotFoundError
        No interrupted run was writing ``path``, or the folder or an input of the command is gone.
    TargetExistsError
        Another run is writing ``path``, or an input, a parameter or a version differs from those of
        the interrupted run; the message names it.
    LazyvolError
        Errors of the command itself; what it wrote stays, and it can be resumed again.

    Examples
    --------
    >>> import numpy as np, tempfile, lazyvol as lv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     lv.save(lv.as_stack(np.ones((2, 3, 4, 5))), f"{folder}/ones.zarr")
    ...     lv.resume(f"{folder}/ones.zarr")
    False
    """
    path = path_text(path, "resume: path")
    left = interrupted(path)
    if left is None:
        return False
    command, folder = left.facts.get("command"), left.facts.get("folder", "")
    if command is None:
        raise OptionError(
            f"resume: path must be that of an interrupted command, got {path}, which a "
            f"Python program was writing ({_steps(left)}); run that program again, with resume=True"
        )
    if not os.path.isdir(folder):
        raise SourceNotFoundError(
            f"resume: the command was started in {folder}, which is gone; run it again "
            f"elsewhere, with resume=True: {command}"
        )
    say(f"resuming    {command}")
    with chdir(folder):
        _run(command)
    return True


def _run(command: str) -> None:
    """Run a command line in this folder, as one that resumes."""
    from lazyvol.cli import make_app, run_words  # which imports this module when it runs

    words = shlex.split(command)[1:]
    try:
        run_words(make_app(), words if "--resume" in words else [*words, "--resume"])
    except CycloptsError as error:
        raise OptionError(
            f"resume: command must be one of this version of lazyvol, got {command} ({error}); "
            "resume with the version that was interrupted"
        ) from error
    except SourceNotFoundError as error:
        raise SourceNotFoundError(
            f"resume: the inputs of {command} must be where they were, got {error}; put them back"
        ) from error


def interrupted(path: str | PathLike[str]) -> RunPlan | None:
    """Return the plan of the interrupted run that was writing ``path``; None if it is complete.

    Raises
    ------
    SourceNotFoundError
        No run was writing there, and nothing complete is there.
    """
    from lazyvol.screening.results_run import ResultsRun  # commands import what they run

    runs: list[Run] = [run_of(path, "")]
    if not is_place(path):
        runs.append(ResultsRun(str(Path(path).resolve()), token=""))
    for run in runs:
        left, finished = run.former(), run.finished()
        if left is not None and left.token != finished:
            return left
        if finished is not None:
            run.clear()
            return None
    raise SourceNotFoundError(
        f"resume: no interrupted run was writing {path}, and it is no complete result; "
        "check the path, or run the command that writes it"
    )


def _steps(plan: RunPlan) -> str:
    """Return the steps of a plan as text: the name of each, and the files that it reads."""
    names = (step.get("input", step.get("recipe", "")) for step in plan.steps)
    return ", ".join(name for name in names if name != "versions")[:400]
