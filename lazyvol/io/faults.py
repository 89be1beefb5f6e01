"""Faults of files: repairs that the user permits, errors of the system and of format libraries."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    SourceNotFoundError,
    StoreError,
    TruncatedError,
)

#: remedy for files of microscopes without a reader of ours
BIOIO = (
    'open it with bioio: lazyvol.as_stack(bioio.BioImage(path).dask_data, dims=("k", "channel", '
    '"z", "y", "x"))'
)


@dataclass
class Repairs:
    """Repairs of one file; if ``permissive`` is false, the first fault raises."""

    where: str
    permissive: bool
    messages: list[str] = field(default_factory=list)

    def assume(self, problem: str, assumption: str) -> None:
        """Record that a reader makes an assumption, or raise FormatError."""
        if not self.permissive:
            raise FormatError(
                f"{self.where}: {problem}; permissive=True reads it anyway, {assumption}"
            )
        self.messages.append(f"{problem}; {assumption}")

    @property
    def attrs(self) -> dict[str, object]:
        """Return the attribute that lists the repairs; none if there are none."""
        return {"repairs": tuple(self.messages)} if self.messages else {}


@contextmanager
def read_errors(path: str) -> Iterator[None]:
    """Turn errors of the operating system into lazyvol errors; those of lazyvol pass unchanged."""
    try:
        yield
    except LazyvolError:
        raise
    except OSError as error:
        raise read_error(path, error) from error


def read_error(path: str, error: Exception) -> LazyvolError:
    """Return the lazyvol error for an error of the operating system."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError, ValueError)):
        return SourceNotFoundError(f"{path}: no such file; check the path")
    if isinstance(error, IsADirectoryError):
        return FormatError(f"{path}: a file is expected here, found a folder")
    return StoreError(
        f"{path}: the operating system refused to read it: {error}; check the permissions and the "
        "disk"
    )


def library(name: str, where: str, remedy: str) -> Any:
    """Import a module; raise FormatError with ``remedy`` if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise FormatError(f"{where}: reading it needs {name}; {remedy}") from error


@contextmanager
def library_errors(
    where: str, complaint: str, is_cut: Callable[[Exception], bool] = lambda error: False
) -> Iterator[None]:
    """Turn errors of a library, which have no common class, into FormatError; ours pass.

    Errors for which ``is_cut`` is true become TruncatedError, those with a number of the operating
    system StoreError.
    """
    try:
        yield
    except (LazyvolError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise read_error(where, error) from error
        message = f"{where}: {complaint}: {error!r:.200}"
        if is_cut(error):
            raise TruncatedError(f"{message}; copy the file again") from error
        raise FormatError(message) from error


def formats_library(name: str, where: str) -> Any:
    """Import a module of the extra ``formats``."""
    return library(name, where, 'pip install "lazyvol[formats]"')
