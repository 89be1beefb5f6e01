"""Files and objects of the states of tasks: named arrays and a checksum, beside shards of a run.

Files are written without waiting for the disk, because they may be lost: a state that is cut or
damaged counts as absent, and its task starts again.
"""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from google_crc32c import extend

from lazyvol.errors import LazyvolError
from lazyvol.io.atomic import store_errors, temporary_name
from lazyvol.io.places import ZarrPlace
from lazyvol.plan.recipes.base import Array

#: bytes that are read at once to check a file
PIECE = 1 << 20
CHECKSUM_BYTES = 4
#: folder of the objects of states
OBJECTS = "lazyvol-states"


@dataclass(frozen=True)
class StateFolder:
    """A folder of states by name, and the folder of its incomplete files. Small and picklable."""

    folder: str
    partial: str

    def names(self) -> set[str]:
        """Return the names of all states."""
        try:
            return set(os.listdir(self.folder))
        except FileNotFoundError:
            return set()

    def read(self, name: str) -> dict[str, Array] | None:
        """Return a state; None if none can be read, and after its removal if it is damaged."""
        try:
            with open(f"{self.folder}/{name}", "rb") as file:
                return _decode(file, os.fstat(file.fileno()).st_size, partial(self.remove, name))
        except OSError:
            return None

    def write(self, name: str, state: Mapping[str, Array]) -> None:
        """Write a state atomically, in place of an earlier one.

        Raises
        ------
        StoreError
            The operating system refuses, or the run was published, discarded or taken over.
        """
        temporary = temporary_name(self.partial)
        with store_errors(self.folder):
            try:
                with open(temporary, "xb") as file:
                    _encode(state, file)
                os.replace(temporary, f"{self.folder}/{name}")
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def remove(self, name: str) -> None:
        """Remove a state, if it is there."""
        with suppress(OSError):
            os.unlink(f"{self.folder}/{name}")


@dataclass(frozen=True)
class StateObjects:
    """The objects of states of a run that writes to an object store. Small and picklable.

    ``put`` writes an object of the run as a whole, and refuses when the run has ended.
    """

    place: ZarrPlace
    put: Callable[[str, Callable[[BinaryIO], object]], None]

    def names(self) -> set[str]:
        """Return the names of all states."""
        return set(self.place.below(OBJECTS).keys())

    def read(self, name: str) -> dict[str, Array] | None:
        """Return a state; None if it is absent, and after its removal if it is damaged."""
        data = self.place.whole(f"{OBJECTS}/{name}")
        if data is None:
            return None
        return _decode(BytesIO(data), len(data), partial(self.remove, name))

    def write(self, name: str, state: Mapping[str, Array]) -> None:
        """Write a state as a whole, in place of an earlier one.

        Raises
        ------
        StoreError
            The store refuses, or the run was published, discarded or taken over.
        """
        self.put(f"{OBJECTS}/{name}", partial(_encode, state))

    def remove(self, name: str) -> None:
        """Remove a state, if it is there."""
        with suppress(LazyvolError):
            self.place.delete([f"{OBJECTS}/{name}"])

    def clear(self) -> None:
        """Remove all states."""
        self.place.below(OBJECTS).clear()


class _Summed:
    """A file that is written together with the checksum of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.checksum = file, 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.checksum = extend(self.checksum, data)


def _encode(state: Mapping[str, Array], file: BinaryIO) -> None:
    summed = _Summed(file)
    summed.write(json.dumps(list(state)).encode() + b"\n")
    for values in state.values():
        np.lib.format.write_array(summed, values, allow_pickle=False)
    file.write(summed.checksum.to_bytes(CHECKSUM_BYTES))


def _decode(file: BinaryIO, size: int, remove: Callable[[], None]) -> dict[str, Array] | None:
    """Return the arrays of a file of ``size`` bytes; remove it and return None if it is damaged."""
    size, checksum = size - CHECKSUM_BYTES, 0
    for start in range(0, size, PIECE):
        checksum = extend(checksum, file.read(min(PIECE, size - start)))
    if size <= 0 or file.read() != checksum.to_bytes(CHECKSUM_BYTES):
        remove()
        return None
    file.seek(0)
    names = json.loads(file.readline())
    read: Any = np.lib.format.read_array
    return {name: read(file, allow_pickle=False) for name in names}
