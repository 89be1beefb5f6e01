"""Files of the states of tasks: named arrays and a checksum, in the folder of a run.

They are written without waiting for the disk, because they may be lost: a file that is cut or
damaged counts as absent, and its task starts again.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from google_crc32c import extend

from lazyvol.io.atomic import store_errors, temporary_name
from lazyvol.plan.recipes.base import Array

#: bytes that are read at once to check a file
PIECE = 1 << 20
CHECKSUM_BYTES = 4


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
        """Return a state; None if it is absent, and after its removal if it is damaged."""
        path = f"{self.folder}/{name}"
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size - CHECKSUM_BYTES
                checksum = 0
                for start in range(0, size, PIECE):
                    checksum = extend(checksum, file.read(min(PIECE, size - start)))
                if size > 0 and file.read() == checksum.to_bytes(CHECKSUM_BYTES):
                    file.seek(0)
                    return _decode(file)
        except FileNotFoundError:
            return None
        self.remove(name)
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
                    summed = _Summed(file)
                    summed.write(json.dumps(list(state)).encode() + b"\n")
                    for values in state.values():
                        np.lib.format.write_array(summed, values, allow_pickle=False)
                    file.write(summed.checksum.to_bytes(CHECKSUM_BYTES))
                os.replace(temporary, f"{self.folder}/{name}")
            except BaseException:
                with suppress(OSError):
                    os.unlink(temporary)
                raise

    def remove(self, name: str) -> None:
        """Remove a state, if it is there."""
        with suppress(OSError):
            os.unlink(f"{self.folder}/{name}")


class _Summed:
    """A file that is written together with the checksum of its bytes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.checksum = file, 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.checksum = extend(self.checksum, data)


def _decode(file: BinaryIO) -> dict[str, Array]:
    """Return the arrays of a file whose checksum is right."""
    names = json.loads(file.readline())
    read: Any = np.lib.format.read_array
    return {name: read(file, allow_pickle=False) for name in names}
