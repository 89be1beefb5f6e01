"""Find the files that a list names in the folders of its RELION project."""

import os
from pathlib import Path

from lazyvol.errors import SourceNotFoundError

#: relative paths are searched in this many parent folders: those of RELION start at the project
#: folder, and its lists are one or two folders below it
PARENTS = 4


def candidates(file: str, path: str) -> list[Path]:
    """Return the existing paths of a listed file, the nearest to the list ``path`` first."""
    start = Path(os.path.abspath(path)).parent
    folders = [start, *list(start.parents)[:PARENTS], Path.cwd()]
    paths = (folder / file for folder in folders)
    return [path for path in paths if file and path.is_file()]


def find_file(file: str, path: str, row: str) -> str:
    """Return the nearest path of a listed file; raise SourceNotFoundError if there is none."""
    found = candidates(file, path)
    if not found:
        start = Path(os.path.abspath(path)).parent
        raise SourceNotFoundError(
            f"{row}: the list names {file!r}, which is not in {start}, nor in the {PARENTS} "
            "folders above it; move the list to the folder of its project, or read the columns "
            "without images with lazyvol.io.particles"
        )
    return str(found[0])
