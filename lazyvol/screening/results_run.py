"""The run of a screening: what it computes, the states that it keeps, and the record it leaves."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, TargetExistsError
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.local_run import SUFFIX, LocalRun, json_of
from lazyvol.io.zarr.run_plan import RunPlan, naming_remedy, run_facts
from lazyvol.plan.budget import Budget
from lazyvol.plan.checkpointed_graphs import keeping_states
from lazyvol.plan.write import plan_identity

#: file in the folder of results that describes the run; nothing but the report is written later
RECORD, REPORT = "run.json", "report.html"


@dataclass(frozen=True)
class ResultsRun(LocalRun):
    """A run that writes files into a folder, one by one."""

    @property
    def folder(self) -> str:
        """Return the folder of all runs that write these results."""
        return f"{self.path}/{SUFFIX}"

    def finished(self) -> str | None:
        """Return the token in the record of complete results; None if there is none."""
        is_complete = os.path.isfile(f"{self.path}/{REPORT}") and self.former() is None
        token = json_of(self.path, RECORD).get("token") if is_complete else None
        return token if isinstance(token, str) else None

    def left_to_resume(self) -> RunPlan | None:
        """Return the plan of an interrupted run, None if there is none.

        Raises
        ------
        TargetExistsError
            The run is to be resumed, and its results are complete.
        """
        if self.resume and self.is_finished():
            raise TargetExistsError(
                f"screen: {self.path} holds the complete results of this screening; read them, or "
                "pass overwrite=True without resume to repeat it"
            )
        return self.former()

    def _check_replaceable(self) -> None:
        """Accept a folder: its files are checked one by one."""


def plan_of(
    stack: xr.DataArray, options: Mapping[str, Any], particles: Any, budget: Budget
) -> RunPlan:
    """Return the plan of a screening: its options, the labels of its particles, its input."""
    step = {name: _text(value) for name, value in options.items()}
    labels = {str(n): (c.dims, c.values) for n, c in sorted(stack.coords.items(), key=str)}
    step |= {"particles": "none" if particles is None else os.fspath(particles)}
    step |= {"labels": _token(labels)}
    token, steps = plan_identity([stack.data], crc32c, step)
    screening = {"recipe": "screen", **step}
    return RunPlan(token, (*steps, screening), run_facts(budget.workers, budget.memory))


def _token(value: Any) -> str:
    return plan_identity([], crc32c, value)[0]


def _text(value: Any) -> str:
    """Return an option as text, an array by its shape and content."""
    if isinstance(value, xr.DataArray):
        return f"{dict(value.sizes)} {plan_identity([value.data], crc32c)[0]}"
    if isinstance(value, np.ndarray):
        return f"{value.shape} {_token(value)}"
    return " ".join(str(value).split())


@contextmanager
def started(run: ResultsRun, plan: RunPlan) -> Iterator[None]:
    """Context in which a screening keeps states, until its results are complete.

    Raises
    ------
    TargetExistsError
        Another run is writing there, or an interrupted one must not be resumed or replaced.
    StoreError
        The operating system refuses.
    """
    run.start(plan)
    try:
        with naming_remedy(run.path), keeping_states(run.states):
            yield
    except LabelError:  # of the input or an option: there is nothing to continue
        run.discard()
        raise
    except BaseException:
        run.release()
        raise
    run.discard()
