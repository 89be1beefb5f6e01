"""Import the libraries of file formats when a file needs them, and name files in their errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lazyvol.errors import FormatError, LazyvolError

#: remedy for files of microscopes without a reader of ours
BIOIO = (
    'open it with bioio: lazyvol.as_stack(bioio.BioImage(path).dask_data, dims=("k", "channel", '
    '"z", "y", "x"))'
)


def library(name: str, where: str, remedy: str) -> Any:
    """Import a module; raise FormatError with ``remedy`` if it is not installed."""
    try:
        return import_module(name)
    except ImportError as error:
        raise FormatError(f"{where}: reading it needs {name}; {remedy}") from error


@contextmanager
def library_errors(where: str, complaint: str) -> Iterator[None]:
    """Turn errors of a library, which have no common class, into FormatError; ours pass."""
    try:
        yield
    except LazyvolError:
        raise
    except Exception as error:
        raise FormatError(f"{where}: {complaint}: {error!r:.200}") from error


def formats_library(name: str, where: str) -> Any:
    """Import a module of the extra ``formats``."""
    return library(name, where, 'pip install "lazyvol[formats]"')
