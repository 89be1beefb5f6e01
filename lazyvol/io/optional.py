"""Format libraries, imported when a file needs them."""

from importlib import import_module
from typing import Any

from lazyvol.errors import FormatError


def library(name: str, where: str, remedy: str) -> Any:
    """Module ``name``, or a `FormatError` that says how to install it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise FormatError(f"{where}: reading it needs {name}; {remedy}") from error


def formats(name: str, where: str) -> Any:
    """Module of the extra ``formats``."""
    return library(name, where, 'pip install "lazyvol[formats]"')
