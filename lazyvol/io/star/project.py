"""Find the files that a list names in the folders of its RELION project."""

import os
from pathlib import Path

from lazyvol.errors import SourceNotFoundError

#: relative paths are searched in this many parent folders: those of RELION start at the project
#: folder, and its lists are one or two folders below it
PARENTS = 4


def nearest(file: str, path: str) -> Path | None:
    """Return the path of a listed file, the nearest to the list ``path``; None if it is absent."""
    start = Path(os.path.abspath(path)).parent
    paths = (folder / file for folder in (start, *start.parents[:PARENTS], Path.cwd()))
    return next((found for found in paths if file and found.is_file()), None)


def find_file(file: str, path: str, row: str) -> str:
    """Return the nearest path of a listed file; raise SourceNotFoundError if there is none."""
    found = nearest(file, path)
    if found is None:
        start = Path(os.path.abspath(path)).parent
        raise SourceNotFoundError(
            f"{row}: the list names {file!r}, which is not in {start}, nor in the {PARENTS} "
            "folders above it; move the list to the folder of its project, or read the columns "
            "without images with lazyvol.io.particles"
        )
    return str(found)
