"""Write a store to a URL or into a store of zarr; it cannot be opened before it is complete.

Object stores replace whole objects and cannot rename them. So the root metadata, without which
nothing can be opened, is written last; until then it has another name. An object with the plan of
the run is created first, only if it does not exist: of two writers one is refused.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO
from uuid import uuid4

from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.io.places import ZarrPlace

#: object that identifies the run which writes a store
PLAN_KEY = "lazyvol-run.json"
#: root metadata until the store is complete
PENDING_ROOT = "lazyvol-root.json"
ROOT_KEY = "zarr.json"
METADATA_KEYS = (ROOT_KEY, ".zgroup", ".zarray")


@dataclass(frozen=True)
class RemoteRun:
    """A run that writes a store to a URL or into a store of zarr. Small and picklable.

    ``token`` identifies the computation: ``resume`` continues an interrupted run only if it had
    this token. ``name`` identifies the run.
    """

    place: ZarrPlace
    overwrite: bool = False
    token: str = ""
    resume: bool = False
    name: str = field(default_factory=lambda: uuid4().hex)

    @property
    def path(self) -> str:
        """Return the URL of the store."""
        return self.place.path("")

    @property
    def temporary(self) -> str:
        """Return the path of the plan, which an interrupted run leaves, for messages."""
        return self.place.path(PLAN_KEY)

    def start(self) -> None:
        """Create the plan; raise before anything is written if something must not be replaced.

        Raises
        ------
        TargetExistsError
            Something is stored there, or another run is writing there.
        StoreError
            The store refuses to write.
        """
        plan = self._plan()
        self._check_replaceable(plan)
        if plan is not None and not (self.resume and plan.get("token") == self.token):
            self._refuse_other(plan)
            self.discard()
            plan = None
        elif plan is None and self.overwrite:
            self.discard()
        if plan is None:
            document = json.dumps({"token": self.token, "run": self.name}).encode()
            self.place.create(PLAN_KEY, document)
            created = self._plan()
            if created is None or created.get("run") != self.name:
                self._refuse_other(created or {}, always=True)

    def _plan(self) -> Mapping[str, Any] | None:
        file = self.place.json(PLAN_KEY)
        return None if file is None else file.content

    def _refuse_other(self, plan: Mapping[str, Any], always: bool = False) -> None:
        if self.resume:
            raise TargetExistsError(
                f"{self.temporary}: resume=True needs the same operation, parameters, input and "
                f"versions; the interrupted run has plan {plan.get('token')!r}, this one "
                f"{self.token!r}; pass overwrite=True without resume"
            )
        if always or not self.overwrite:
            raise TargetExistsError(
                f"{self.temporary}: another run is writing {self.path}, or was interrupted; if "
                "none is running, continue it by resume=True, or pass overwrite=True"
            )

    def _check_replaceable(self, plan: Mapping[str, Any] | None) -> None:
        versions = self.place.versions(METADATA_KEYS)
        is_store = any(version != "absent" for version in versions)
        if is_store and not self.overwrite:
            raise TargetExistsError(
                f"{self.path}: something is stored here; choose another name, or pass "
                "overwrite=True to replace it"
            )
        if not is_store and plan is None and self.place.is_occupied():
            raise TargetExistsError(
                f"{self.path}: objects other than a zarr store are stored here; choose another "
                "name, or remove them"
            )

    def write_metadata(self, key: str, content: Mapping[str, Any]) -> None:
        """Write the metadata of the node in folder ``key``; those of the root stay pending."""
        document = json.dumps(content, indent=2, allow_nan=False).encode()
        self.place.put(f"{key}{ROOT_KEY}" if key else PENDING_ROOT, document)

    def metadata(self, key: str) -> Mapping[str, Any] | None:
        """Return the metadata of a node that an interrupted run wrote; None if it did not."""
        file = self.place.json(f"{key}{ROOT_KEY}" if key else PENDING_ROOT)
        return None if file is None else file.content

    def put(self, key: str, write: Callable[[BinaryIO], None]) -> None:
        """Write an object as a whole."""
        buffer = BytesIO()
        write(buffer)
        self.place.put(key, buffer.getbuffer())

    def stored(self, keys: Sequence[str]) -> list[bool]:
        """Return for each key whether an object is stored; they are requested together."""
        return [version != "absent" for version in self.place.versions(keys)]

    def publish(self) -> None:
        """Write the root metadata, which makes the store complete, and remove the plan."""
        plan = self._plan()
        if plan is None or (plan.get("run") != self.name and not self.resume):
            raise TargetExistsError(
                f"{self.temporary}: another run is writing {self.path}, and its objects are mixed "
                "with those of this one; run one of them again with overwrite=True"
            )
        root = self.place.whole(PENDING_ROOT)
        if root is None:
            raise StoreError(f"{self.path}: the root metadata were removed; run it again")
        self.place.put(ROOT_KEY, root)
        self.place.delete([PENDING_ROOT, PLAN_KEY])

    def discard(self) -> None:
        """Remove all objects, the root metadata first."""
        self.place.delete([ROOT_KEY])
        self.place.clear()
