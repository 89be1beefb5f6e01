"""A store that is being written elsewhere than in a folder: complete before it can be opened.

Object stores replace an object as a whole and know no rename. So the document at the root, without
which nothing can be opened, is put last; until then it waits under another name. An object with
the plan of the run is created first, only if there is none: of two writers one is refused.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO
from uuid import uuid4

from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.io.places import Elsewhere

#: object that names the run which writes a store
PLAN = "lazyvol-run.json"
#: document of the root until the store is complete
PENDING = "lazyvol-root.json"
DOCUMENT = "zarr.json"
MARKS = (DOCUMENT, ".zgroup", ".zarray")


@dataclass(frozen=True)
class RemoteRun:
    """A run that writes a store at a URL or into a store of zarr. Small and picklable.

    ``token`` names what is computed: a stopped run is continued, where ``resume`` asks for it, only
    if it computed the same. ``name`` names this run.
    """

    elsewhere: Elsewhere
    overwrite: bool = False
    token: str = ""
    resume: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)

    @property
    def path(self) -> str:
        """URL of the store."""
        return self.elsewhere.path("")

    @property
    def folder(self) -> str:
        """What a stopped run leaves, in messages."""
        return self.elsewhere.path(PLAN)

    def start(self) -> None:
        """Create the plan; refuse what would be replaced unasked before anything is written.

        Raises
        ------
        TargetExistsError
            Something is stored there, or another run writes there.
        StoreError
            The store refuses to write.
        """
        self._check_replaceable()
        plan = self._plan()
        if plan is not None and not (self.resume and plan.get("token") == self.token):
            self._refuse_other(plan)
            self.discard()
            plan = None
        elif plan is None and self.overwrite:
            self.discard()
        if plan is None:
            document = json.dumps({"token": self.token, "run": self.name}).encode()
            self.elsewhere.create(PLAN, document)
            created = self._plan()
            if created is None or created.get("run") != self.name:
                self._refuse_other(created or {}, always=True)

    def _plan(self) -> Mapping[str, Any] | None:
        found = self.elsewhere.json(PLAN)
        return None if found is None else found.content

    def _refuse_other(self, plan: Mapping[str, Any], always: bool = False) -> None:
        if self.resume:
            raise TargetExistsError(
                f"{self.folder}: resume goes on with the same operation, parameters, input and "
                f"versions; the stopped run has plan {plan.get('token')!r}, this one "
                f"{self.token!r}; pass overwrite=True without resume"
            )
        if always or not self.overwrite:
            raise TargetExistsError(
                f"{self.folder}: another run is writing {self.path}, or one was stopped; if none "
                "is running, go on with it by resume=True, or pass overwrite=True"
            )

    def _check_replaceable(self) -> None:
        marks = self.elsewhere.ages(MARKS)
        is_store = any(mark != "absent" for mark in marks)
        if is_store and not self.overwrite:
            raise TargetExistsError(
                f"{self.path}: something is stored here; choose another name, or pass "
                "overwrite=True to replace it"
            )
        if not is_store and self._plan() is None and self.elsewhere.is_occupied():
            raise TargetExistsError(
                f"{self.path}: objects are stored here that are no zarr store; choose another "
                "name, or remove them"
            )

    def write(self, key: str, content: Mapping[str, Any]) -> None:
        """Write the document of the node in folder ``key``; that of the root waits."""
        document = json.dumps(content, indent=2, allow_nan=False).encode()
        self.elsewhere.put(f"{key}{DOCUMENT}" if key else PENDING, document)

    def document(self, key: str) -> Mapping[str, Any] | None:
        """Return the document of a node that a stopped run has written; None where it has not."""
        found = self.elsewhere.json(f"{key}{DOCUMENT}" if key else PENDING)
        return None if found is None else found.content

    def put(self, key: str, fill: Callable[[BinaryIO], None]) -> None:
        """Store the object that ``fill`` writes: all of it, or nothing."""
        buffer = BytesIO()
        fill(buffer)
        self.elsewhere.put(key, buffer.getbuffer())

    def has(self, key: str) -> bool:
        """Return True if an object is stored."""
        return self.elsewhere.ages([key]) != ["absent"]

    def publish(self) -> None:
        """Put the document of the root, which makes the store one, and remove the plan."""
        plan = self._plan()
        if plan is None or (plan.get("run") != self.name and not self.resume):
            raise TargetExistsError(
                f"{self.folder}: another run has taken {self.path}; what this one wrote is mixed "
                "with it, run one of them again with overwrite=True"
            )
        root = self.elsewhere.whole(PENDING)
        if root is None:
            raise StoreError(f"{self.path}: the document of the root is gone; run it again")
        self.elsewhere.put(DOCUMENT, root)
        self.elsewhere.delete([PENDING, PLAN])

    def discard(self) -> None:
        """Remove all that is stored, the document of the root first."""
        self.elsewhere.delete([DOCUMENT])
        self.elsewhere.clear()
