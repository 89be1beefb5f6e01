"""The plan of a run as stored beside its shards: what it computes, for a program and for a reader.

The token and the steps decide whether an interrupted run is resumed. They hold no memory limit and
no number of workers, which change nothing in the result. These, the command and its folder are
facts of the run, by which it can be repeated.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from lazyvol.errors import TargetExistsError
from lazyvol.io.zarr.labels import RECORD_KEY

#: steps that a plan stores: one of thousands of steps is resumed by its token alone
MAX_STEPS = 200
#: words of the command line that is running
COMMAND: ContextVar[Sequence[str]] = ContextVar("lazyvol command", default=())
#: facts that a plan may have
FACTS = ("command", "folder", "workers", "memory")


def run_facts(workers: int, memory: int | None) -> dict[str, str]:
    """Return the facts of a run that begins now, without a command that holds a password."""
    facts = {"workers": f"{workers}"} | ({} if memory is None else {"memory": f"{memory}"})
    command = COMMAND.get()
    if command and not any(re.search("//[^/]*@", word) for word in command):
        facts |= {"command": shlex.join(["lazyvol", *command]), "folder": os.getcwd()}
    return facts


@contextmanager
def naming_remedy(path: str) -> Iterator[None]:
    """Context in which Ctrl-C says how the run that writes ``path`` is continued."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(
            f"what {path} has so far is kept: continue by resume=True, or by: lazyvol resume "
            f"{shlex.quote(path)}"
        )
        raise


@dataclass(frozen=True)
class RunPlan:
    """The identity of a result, and its steps: the parameters of each by name, as text.

    ``facts`` describe the run, see `run_facts`.
    """

    token: str
    steps: tuple[Mapping[str, str], ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)

    def encode(self, **lease: str) -> bytes:
        """Return the JSON document of the plan, with the facts of a lease."""
        steps = [dict(step) for step in self.steps[:MAX_STEPS]]
        content = {"token": self.token, **self.facts, **lease, "steps": steps}
        return json.dumps(content, indent=2).encode()

    @property
    def limits(self) -> tuple[int, int | None] | None:
        """Return the number of workers and the memory of the run; None if it has none."""
        workers, memory = self.facts.get("workers", ""), self.facts.get("memory", "")
        if not workers.isdecimal() or int(workers) < 1:
            return None
        return int(workers), int(memory) if memory.isdecimal() else None

    def difference(self, former: "RunPlan") -> str:
        """Return the first parameter that differs from a former plan, as text."""
        for step, other in zip(self.steps, former.steps, strict=False):
            for name in dict.fromkeys((*step, *other)):
                if step.get(name) != other.get(name):
                    where = "" if name == "recipe" else f" of {step.get('recipe')}"
                    before, now = other.get(name, "none"), step.get(name, "none")
                    return f"{name}{where} was {before:.80}, now it is {now:.80}"
        if len(self.steps) != len(former.steps):
            return f"it had {len(former.steps)} steps, now there are {len(self.steps)}"
        return f"its plan was {former.token}, now it is {self.token}"


@dataclass(frozen=True, kw_only=True)
class RunIdentity:
    """A run that writes a store. Small and picklable.

    ``token`` identifies the result; ``resume`` continues an interrupted run of the same. ``name``
    identifies the run.
    """

    token: str
    overwrite: bool = False
    resume: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)


def encode_metadata(content: Mapping[str, Any]) -> bytes:
    """Return the document of an array or a group."""
    return json.dumps(content, indent=2, allow_nan=False).encode()


def occupied_error(path: str) -> TargetExistsError:
    """Return the error for a store that must not be replaced."""
    return TargetExistsError(
        f"{path}: something is stored here; choose another name, or pass overwrite=True to replace "
        "it"
    )


def parse_plan(document: Mapping[str, Any]) -> RunPlan | None:
    """Return the plan in a document; None if it holds none."""
    token, steps = document.get("token"), document.get("steps")
    if not isinstance(token, str) or not isinstance(steps, list):
        return None
    facts = {name: document[name] for name in FACTS if isinstance(document.get(name), str)}
    return RunPlan(token, tuple(step for step in steps if isinstance(step, dict)), facts)


def finished_plan(root: Mapping[str, Any]) -> str | None:
    """Return the token in the root metadata of a complete store; None if they have none."""
    attributes = root.get("attributes")
    record = attributes.get(RECORD_KEY) if isinstance(attributes, dict) else None
    token = record.get("plan") if isinstance(record, dict) else None
    return token if isinstance(token, str) else None


def refuse_leftover(
    left: str, path: str, former: RunPlan, plan: RunPlan, *, resume: bool, overwrite: bool
) -> None:
    """Raise TargetExistsError unless what an interrupted run left may be removed."""
    if resume:
        raise TargetExistsError(
            f"{left}: resume=True needs the same operation, parameters, input and versions as the "
            f"interrupted run, but {plan.difference(former)}; repeat that, or pass overwrite=True "
            "without resume"
        )
    if not overwrite:
        raise TargetExistsError(
            f"{left}: a run that wrote {path} was interrupted; continue it by resume=True, or pass "
            "overwrite=True to start again"
        )
