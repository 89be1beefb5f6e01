"""The commands of each topic as an attribute of this module, made at their first use."""

from importlib import import_module

from cyclopts import App

from lazyvol.cli.operations import operations_of, topic_app
from lazyvol.cli.words import topic_names


def __getattr__(name: str) -> App:
    """Return the command of a topic: ``lazyvol.cli.topics:stats``."""
    if name not in topic_names():
        raise AttributeError(f"module 'lazyvol.cli.topics' has no attribute {name!r}")
    module = import_module(f"lazyvol.ops.{name}")
    return topic_app(module, operations_of(module))
