"""The plan of a run as stored beside its shards: what it computes, for a program and for a reader.

The plan decides whether an interrupted run is resumed. It holds no memory limit and no number of
workers, which change nothing in the result.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lazyvol.errors import TargetExistsError
from lazyvol.io.zarr.labels import RECORD_KEY

#: steps that a plan stores: one of thousands of steps is resumed by its token alone
MAX_STEPS = 200


@dataclass(frozen=True)
class RunPlan:
    """The identity of a result, and its steps: the parameters of each by name, as text."""

    token: str
    steps: tuple[Mapping[str, str], ...] = ()

    def encode(self, **facts: str) -> bytes:
        """Return the JSON document of the plan."""
        steps = [dict(step) for step in self.steps[:MAX_STEPS]]
        return json.dumps({"token": self.token, **facts, "steps": steps}, indent=2).encode()

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


def parse_plan(document: Mapping[str, Any]) -> RunPlan | None:
    """Return the plan in a document; None if it holds none."""
    token, steps = document.get("token"), document.get("steps")
    if not isinstance(token, str) or not isinstance(steps, list):
        return None
    return RunPlan(token, tuple(step for step in steps if isinstance(step, dict)))


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
