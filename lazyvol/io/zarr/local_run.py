"""Write a store into a temporary folder, and give it its name when it is complete.

All runs that write ``name`` share the folder ``name.lazyvol-tmp``, readable by its owner alone.
It holds a lock, and a folder for each run, named by the run: two runs never write the same files.
That has the incomplete store, files that are being written, and states of unfinished reductions.
A run that takes over the files of a dead one renames its folder, so that tasks of the dead run
that are still at work on a cluster find no place to write to.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.io import run_lock
from lazyvol.io.atomic import (
    atomic_file,
    make_folders,
    replace_folder,
    store_errors,
    sync_folder,
    temporary_name,
)
from lazyvol.io.safe_folder import SafeFolder
from lazyvol.io.state_files import StateFolder
from lazyvol.io.zarr.run_plan import (
    RunIdentity,
    RunPlan,
    encode_metadata,
    finished_plan,
    occupied_error,
    parse_plan,
    refuse_leftover,
)

SUFFIX = ".lazyvol-tmp"
RUN_NAME = re.compile("[0-9a-f]{32}")
ROOT_KEY = "zarr.json"
#: file in the folder of a run that describes what it computes
PLAN_FILE = "plan.json"
#: the last bytes of a file, and its length if it is known
Tail = tuple[bytes, int | None]
METADATA_FILES = (ROOT_KEY, ".zgroup", ".zarray")


@dataclass(frozen=True)
class LocalRun(RunIdentity):
    """A run that writes a store to the local file system."""

    path: str

    @property
    def folder(self) -> str:
        """Return the folder of all runs that write this store."""
        return self.path + SUFFIX

    @property
    def temporary(self) -> str:
        """Return the folder of this run."""
        return f"{self.folder}/{self.name}"

    @property
    def store(self) -> str:
        """Return the incomplete store."""
        return f"{self.temporary}/store"

    @property
    def partial(self) -> str:
        """Return the folder of files that are not complete."""
        return f"{self.temporary}/partial"

    @property
    def states(self) -> StateFolder:
        """Return the folder of the states of unfinished reductions."""
        return StateFolder(f"{self.temporary}/states", self.partial)

    @property
    def replaced(self) -> str:
        """Return the place of the replaced store, where names cannot be exchanged."""
        return f"{self.temporary}/former"

    def finished(self) -> str | None:
        """Return the token in the complete store under the final name; None if it has none."""
        return finished_plan(json_of(self.path, ROOT_KEY))

    def is_finished(self) -> bool:
        """Return True if the store under the final name has the plan of this run."""
        return self.finished() == self.token

    def former(self) -> RunPlan | None:
        """Return the last plan of the runs that wrote this store and did not end; None if all did.

        A run of which another process takes care may be among them.
        """
        with store_errors(self.path):
            left = [f"{left}/{PLAN_FILE}" for left in self._leftovers()]
        times = {path: os.stat(path).st_mtime_ns for path in left if os.path.isfile(path)}
        last = max(times, key=times.__getitem__, default="")
        return parse_plan(json_of(os.path.dirname(last), PLAN_FILE))

    def clear(self) -> None:
        """Remove what dead runs left of a finished store; nothing if a run is at work."""
        if not os.path.isdir(self.folder):
            return
        with suppress(TargetExistsError), store_errors(self.folder):
            run_lock.acquire(self.folder, self.name, self.path)
            try:
                for left in self._leftovers():
                    shutil.rmtree(left)
            finally:
                self.release()

    def start(self, plan: RunPlan) -> None:
        """Lock the path and make the folders; nothing is written if it must not be replaced.

        Raises
        ------
        TargetExistsError
            Something is stored there, or another run is writing there.
        StoreError
            The operating system refuses.
        """
        with store_errors(self.path):
            run_lock.acquire(self.folder, self.name, self.path)
        try:
            with store_errors(self.temporary):
                self._recover()
                self._clear_leftovers(plan)
                for path in (self.temporary, self.store, self.partial, self.states.folder):
                    with suppress(FileExistsError):
                        os.mkdir(path)
                plan_file = f"{self.temporary}/{PLAN_FILE}"
                with atomic_file(plan_file, temporary_name(self.partial)) as file:
                    file.write(plan.encode())
        except BaseException:
            self.release()
            raise

    def _leftovers(self) -> list[str]:
        """Return the folders of other runs; all are dead, because this one has the lock."""
        try:
            names = sorted(os.listdir(self.folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{self.folder}/{n}" for n in names if RUN_NAME.fullmatch(n) and n != self.name]

    def _recover(self) -> None:
        """Put back a store that a killed run was replacing; refuse what must not be replaced."""
        for left in self._leftovers():
            if os.path.lexists(f"{left}/former") and not os.path.lexists(self.path):
                os.rename(f"{left}/former", self.path)
        if os.path.lexists(self.path):
            self._check_replaceable()

    def _clear_leftovers(self, plan: RunPlan) -> None:
        """Take over, remove or refuse what dead runs left."""
        finished = self.finished()
        for left in self._leftovers():
            former = parse_plan(json_of(left, PLAN_FILE))
            # without a plan it had hardly begun, with that of the store it had published
            if former is not None and former.token != finished:
                if self.resume and former.token == plan.token and not os.path.isdir(self.temporary):
                    os.rename(left, self.temporary)
                    shutil.rmtree(self.partial, ignore_errors=True)
                    continue
                refuse_leftover(
                    left, self.path, former, plan, resume=self.resume, overwrite=self.overwrite
                )
            shutil.rmtree(left)

    def _check_replaceable(self) -> None:
        if not self.overwrite:
            raise occupied_error(self.path)
        is_store = any(os.path.isfile(f"{self.path}/{name}") for name in METADATA_FILES)
        if os.path.islink(self.path) or not is_store:
            raise TargetExistsError(
                f"{self.path}: overwrite=True replaces zarr stores only, this is not one; "
                "remove it, or choose another name"
            )

    def write_metadata(self, key: str, content: Mapping[str, Any]) -> None:
        """Write ``zarr.json`` of the node in folder ``key``, "" or with a trailing slash."""
        self.put(f"{key}{ROOT_KEY}", lambda file: file.write(encode_metadata(content)))

    @property
    def written(self) -> SafeFolder:
        """Return the place of the incomplete store."""
        return SafeFolder(os.path.realpath(self.store))

    def document(self, key: str) -> bytes:
        """Return the bytes of the metadata of a node; none if it has none."""
        file = self.written.json(f"{key}{ROOT_KEY}")
        return b"" if file is None else file.raw

    def put(self, key: str, write: Callable[[BinaryIO], object]) -> None:
        """Write a file atomically.

        Raises
        ------
        StoreError
            The operating system refuses, or the run was published, discarded or taken over.
        """
        with store_errors(self.path):
            try:
                make_folders(self.store, key.rpartition("/")[0])
                with atomic_file(f"{self.store}/{key}", temporary_name(self.partial)) as file:
                    write(file)
            except FileNotFoundError as error:
                if os.path.isdir(self.store):
                    raise
                raise StoreError(
                    f"{self.path}: this run was published, discarded or taken over by another; "
                    f"{key} was not written; run it again"
                ) from error

    def tails(self, keys: Sequence[str], length: int) -> list[Tail | None]:
        """Return the ends of files, all bytes of shorter ones; None for absent ones."""
        with store_errors(self.path):
            return [_tail(f"{self.store}/{key}", length) for key in keys]

    def publish(self) -> None:
        """Give the store its name; then remove the store that it replaces.

        There is no moment at which nothing has the name, unless the file system cannot exchange
        two names: then the former store is in the folder of this run meanwhile, and the next run
        puts it back if this one was killed.
        """
        with store_errors(self.path):
            sync_folder(self.store)
            if os.path.lexists(self.path):
                self._check_replaceable()
            replace_folder(self.store, self.path, self.replaced)
        self.discard()

    def discard(self) -> None:
        """Remove the folder of this run, and release the lock."""
        with store_errors(self.temporary):
            if os.path.isdir(self.temporary):
                shutil.rmtree(self.temporary)
        self.release()

    def release(self) -> None:
        """Release the lock; what was written stays for a run that resumes."""
        run_lock.release(self.folder, self.name)


def json_of(folder: str, name: str) -> Mapping[str, Any]:
    """Return the content of a JSON file; nothing if it is absent or damaged."""
    try:
        with open(f"{folder}/{name}", "rb") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _tail(path: str, length: int) -> Tail | None:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - length))
            return file.read(length), size
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
