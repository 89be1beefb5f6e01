"""``python -m lazyvol.cli``."""

from lazyvol.cli import run

run()
