"""Import the libraries of file formats when a file needs them, and name files in their errors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lazyvol.errors import FormatError, LazyvolError, TruncatedError
from lazyvol.io.flat_file import read_error

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
