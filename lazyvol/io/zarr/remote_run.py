"""Write a store to a URL or into a store of zarr; it cannot be opened before it is complete.

Object stores replace whole objects and cannot rename them. So the root metadata, without which
nothing can be opened, is written last; until then it has another name. An object with the plan of
the run is created first, only if it does not exist: of two writers one is refused. The plan holds a
lease that the run renews; a run whose lease ended, or whose process on this machine is dead, may be
resumed or replaced. Every write asks first whether the plan is still that of its run.

A store that is replaced stays as it is until the new one is complete in the folder ``lazyvol-tmp``
below it. Then its root metadata is removed, the new objects are copied to their places (in buckets
by the server), and the new root metadata is written: in between nothing is there, never a mixture.
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from threading import Event, Thread
from typing import Any, BinaryIO

from lazyvol.errors import LazyvolError, StoreError, TargetExistsError
from lazyvol.io.places import ZarrPlace
from lazyvol.io.safe_folder import ABSENT_FILE
from lazyvol.io.state_files import StateObjects
from lazyvol.io.zarr.local_run import METADATA_FILES, ROOT_KEY, LocalRun, Tail
from lazyvol.io.zarr.run_plan import (
    RunIdentity,
    RunPlan,
    encode_metadata,
    finished_plan,
    occupied_error,
    parse_plan,
    refuse_leftover,
)

#: object that identifies the run which writes a store
PLAN_KEY = "lazyvol-run.json"
#: root metadata until the store is complete
PENDING_ROOT = "lazyvol-root.json"
#: folder of a store that replaces another, until it is complete
WORK = "lazyvol-tmp"
#: seconds after which a run that renews nothing counts as dead
LEASE = 120.0

#: objects whose ends are requested at once
REQUESTS = 32
#: runs at work in this process, with the events that stop the renewal of their leases
_AT_WORK: dict[str, Event] = {}


@dataclass(frozen=True)
class RemoteRun(RunIdentity):
    """A run that writes a store to a URL or into a store of zarr."""

    place: ZarrPlace
    work: ZarrPlace = field(init=False)

    def __post_init__(self) -> None:
        pending = f"{WORK}/{PENDING_ROOT}"
        stored = self.place.versions([pending, *(METADATA_FILES if self.overwrite else ())])
        replaces = any(version != ABSENT_FILE for version in stored)
        object.__setattr__(self, "work", self.place.below(WORK) if replaces else self.place)

    @property
    def path(self) -> str:
        """Return the URL of the store."""
        return self.place.path("")

    @property
    def states(self) -> StateObjects:
        """Return the objects of the states of unfinished reductions."""
        return StateObjects(self.work, self.put)

    @property
    def temporary(self) -> str:
        """Return the path of the plan, which an interrupted run leaves, for messages."""
        return self.place.path(PLAN_KEY)

    def finished(self) -> str | None:
        """Return the token in the complete store; None if it has none."""
        root = self.place.json(ROOT_KEY)
        return None if root is None else finished_plan(root.content)

    def is_finished(self) -> bool:
        """Return True if a complete store with the plan of this run is there."""
        return self.finished() == self.token

    def former(self) -> RunPlan | None:
        """Return the plan of a run that wrote this store and did not end; None if there is none."""
        return parse_plan(self._stored_plan())

    def clear(self) -> None:
        """Remove what a dead run left of a finished store; nothing if it is at work."""
        left = self._stored_plan()
        if left and not is_alive(left):
            if self.work is not self.place:
                self.work.clear()
            self.place.delete([PENDING_ROOT, PLAN_KEY])

    def start(self, plan: RunPlan) -> None:
        """Create the plan; raise before anything is written if something must not be replaced.

        Raises
        ------
        TargetExistsError
            Something is stored there, or another run is writing there.
        StoreError
            The store refuses to write.
        """
        left = self._stored_plan()
        if is_alive(left):
            raise self._live_error()
        self._check_replaceable(left)
        former = parse_plan(left)
        resumes = self.resume and former is not None and former.token == plan.token
        if former is not None and not resumes:
            refuse_leftover(
                self.temporary, self.path, former, plan,
                resume=self.resume, overwrite=self.overwrite,
            )  # fmt: skip
        if not resumes:
            self._clear(left)
        _AT_WORK[self.name] = Event()
        try:
            (self.place.put if resumes else self.place.create)(PLAN_KEY, self._document(plan))
            if self._stored_plan().get("run") != self.name:
                raise self._live_error()
        except BaseException:
            self.release()
            raise
        self._renew(plan)

    def _clear(self, left: Mapping[str, Any]) -> None:
        """Remove what a run left, and a store that may be replaced at once."""
        if self.work is not self.place:
            self.work.clear()
            self.place.delete([PLAN_KEY])
        elif left or self.overwrite:
            self.discard()

    def _document(self, plan: RunPlan) -> bytes:
        until = f"{time.time() + LEASE:.0f}"
        return plan.encode(run=self.name, until=until, process=this_process())

    def _stored_plan(self) -> Mapping[str, Any]:
        file = self.place.json(PLAN_KEY)
        return {} if file is None else file.content

    def _live_error(self) -> TargetExistsError:
        return TargetExistsError(
            f"{self.path}: one run at a time may write a store, another run is writing this one "
            f"now; wait until it ends, or stop it (its lease ends after {LEASE:.0f} s)"
        )

    def _renew(self, plan: RunPlan) -> None:
        """Renew the lease until the run ends; stop if another run took over."""
        stop = _AT_WORK[self.name]

        def renew() -> None:
            while not stop.wait(LEASE / 4):
                with suppress(LazyvolError):  # the next renewal may find the store again
                    if self._stored_plan().get("run") != self.name:
                        return
                    self.place.put(PLAN_KEY, self._document(plan))

        Thread(target=renew, name="lazyvol-lease", daemon=True).start()

    def _check_replaceable(self, plan: Mapping[str, Any]) -> None:
        versions = self.place.versions(METADATA_FILES)
        is_store = any(version != ABSENT_FILE for version in versions)
        if is_store and not self.overwrite:
            raise occupied_error(self.path)
        if not is_store and not plan and self.work is self.place and self.place.is_occupied():
            raise TargetExistsError(
                f"{self.path}: objects other than a zarr store are stored here; choose another "
                "name, or remove them"
            )

    def _require_own(self) -> None:
        """Raise StoreError if the plan is no longer that of this run."""
        if self._stored_plan().get("run") != self.name:
            raise StoreError(
                f"{self.path}: this run was published, discarded or taken over by another; "
                "nothing more is written; run it again"
            )

    def write_metadata(self, key: str, content: Mapping[str, Any]) -> None:
        """Write the metadata of the node in folder ``key``; those of the root stay pending."""
        self.work.put(f"{key}{ROOT_KEY}" if key else PENDING_ROOT, encode_metadata(content))

    @property
    def written(self) -> ZarrPlace:
        """Return the place of the incomplete store."""
        return self.work

    def document(self, key: str) -> bytes:
        """Return the bytes of the metadata of a node; none if it has none."""
        return self.work.whole(f"{key}{ROOT_KEY}" if key else PENDING_ROOT) or b""

    def put(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        """Write an object as a whole.

        Raises
        ------
        StoreError
            The store refuses, or the run was published, discarded or taken over.
        """
        buffer = BytesIO()
        write(buffer)
        self._require_own()
        self.work.put(key, buffer.getbuffer())

    def tails(self, keys: Sequence[str], length: int) -> list[Tail | None]:
        """Return the ends of objects, some requested at once; None for absent ones."""

        def tail(key: str) -> Tail | None:
            stored = self.work.open(key, ("tail", length))
            return None if stored is None else (stored.edge(length, False).tobytes(), None)

        with ThreadPoolExecutor(REQUESTS) as threads:
            return list(threads.map(tail, keys))

    def publish(self) -> None:
        """Write the root metadata, which makes the store complete, and remove the plan."""
        self._require_own()
        root = self.work.whole(PENDING_ROOT)
        if root is None:
            raise StoreError(f"{self.path}: the root metadata were removed; run it again")
        self.states.clear()
        moved = self._replace() if self.work is not self.place else []
        self.place.put(ROOT_KEY, root)
        self._stop_renewing()
        self.work.delete(moved)
        self.work.delete([PENDING_ROOT])
        self.place.delete([PLAN_KEY])

    def _replace(self) -> list[str]:
        """Copy the objects of the complete store to the places of the former ones."""
        new = [key for key in self.work.keys() if key != PENDING_ROOT]  # noqa: SIM118
        kept = {*new, PLAN_KEY, *(f"{WORK}/{key}" for key in (*new, PENDING_ROOT))}
        self.place.delete(METADATA_FILES)
        self.place.delete([k for k in self.place.keys() if k not in kept])  # noqa: SIM118
        with ThreadPoolExecutor(REQUESTS) as threads:
            list(threads.map(partial(self.work.copy_to, self.place), new))
        return new

    def discard(self) -> None:
        """Remove all objects of the incomplete store, the root metadata first."""
        self._stop_renewing()
        self.work.delete([ROOT_KEY])
        self.work.clear()
        self.place.delete([PLAN_KEY])

    def release(self) -> None:
        """End the lease; what was written stays for a run that resumes."""
        self._stop_renewing()
        with suppress(LazyvolError):
            plan = parse_plan(stored := self._stored_plan())
            if plan is not None and stored.get("run") == self.name:
                self.place.put(PLAN_KEY, plan.encode(run=self.name, until="0"))

    def _stop_renewing(self) -> None:
        stop = _AT_WORK.pop(self.name, None)
        if stop is not None:
            stop.set()


Run = LocalRun | RemoteRun


def is_alive(plan: Mapping[str, Any]) -> bool:
    """Return True if the run of a stored plan may still be at work."""
    try:
        until = float(plan.get("until", 0))
    except (TypeError, ValueError):
        return False
    process = str(plan.get("process", ""))
    ended = process == this_process() and plan.get("run") not in _AT_WORK
    return until > time.time() and not ended and not _is_dead(process)


def this_process() -> str:
    """Return host, number and start of this process: a later one may get its number."""
    return f"{socket.gethostname()} {os.getpid()} {_start_of(os.getpid())}"


def _is_dead(process: str) -> bool:
    """Return True if a process is known to have ended: it was on this machine and is gone."""
    host, _, rest = process.partition(" ")
    number, _, start = rest.partition(" ")
    known = host == socket.gethostname() and number.isdecimal() and start != ""
    return known and _start_of(int(number)) != start


def _start_of(process: int) -> str:
    """Return the start of a running process in ticks; "" if it is gone or not on Linux."""
    with suppress(OSError), open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return file.read().rpartition(")")[2].split()[19]
    return ""
