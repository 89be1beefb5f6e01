"""Write selected rows of a particle list, with new columns, in the format of the list itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.arguments import operation
from lazyvol.arguments.rules import show_value
from lazyvol.errors import FormatError, LabelError
from lazyvol.io import commas, em, star
from lazyvol.io.atomic import PathLike, require_free
from lazyvol.io.flat_file import stored_file
from lazyvol.io.particle_lists import lines_of, motive_table, star_list
from lazyvol.io.places import path_text
from lazyvol.io.tables import write_bytes
from lazyvol.plan.recipes.base import Array

#: name of the column that numbers the rows of the list, where new columns get a file of their own
ROW = "row"

Table = dict[str, Array]


@operation(unchecked=("source", "rows", "path"))
def write_selection(
    source: PathLike,
    rows: Any,
    columns: Mapping[str, Any],
    path: PathLike,
    *,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Write selected particles of a list to a list of the same format.

    Nothing of the selected rows changes: a STAR file keeps all blocks, columns and digits, a
    Dynamo table its lines, a motive list its values and their type. New columns stand behind those
    of a STAR or CSV file, or in place of a column of the same name. Dynamo and EM lists have no
    names for them, so they go to a CSV file of the same stem, with the numbers of the rows in
    ``source``.

    Parameters
    ----------
    source
        A particle list, as ``lazyvol.io.particles`` reads it; of an optimisation set of RELION 5
        the particle list that it names is written.
    rows
        One flag per row of ``source``, or the numbers of the rows from 0 in the order to write.
    columns
        Values of the new columns by name, one for each row of ``source``.
    path
        File to write, with the suffix of ``source``.
    overwrite
        Replace existing files.

    Returns
    -------
    tuple of str
        The files that were written. An EM list without particles is not: the format has no form
        for it.

    Raises
    ------
    LabelError
        ``rows`` or a column does not fit the number of rows, ``path`` has another suffix, or a
        value or a name cannot be written.
    TargetExistsError
        A file exists and ``overwrite`` is False.
    SourceNotFoundError, FormatError, LimitExceeded
        As for ``lazyvol.io.particles``.
    StoreError
        The operating system refuses to write.

    Examples
    --------
    >>> import lazyvol as lv
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder, "a.csv")
    ...     _ = table.write_text("tag,cc\\n7,0.5\\n8,0.25\\n9,0.125\\n")
    ...     kept = [True, False, True]
    ...     scores = {"llr": [-3.5, 2.0, -1.5]}
    ...     _ = lv.io.write_selection(table, kept, scores, f"{folder}/kept.csv")
    ...     print(Path(folder, "kept.csv").read_text(), end="")
    tag,cc,llr
    7,0.5,-3.5
    9,0.125,-1.5
    """
    where = path_text(source, "write_selection: source")
    target = path_text(path, "write_selection: path")
    suffix = PurePath(where).suffix.lower()
    if suffix not in WRITERS:
        raise FormatError(
            f"{where}: particle lists are {', '.join(WRITERS)} files; save the columns with "
            "lazyvol.save"
        )
    if PurePath(target).suffix.lower() != suffix:
        raise LabelError(
            f"write_selection: path must end in {suffix}, as its source, got {target!r}; rename it"
        )
    values = {str(name): _array(column, name) for name, column in columns.items()}
    contents = WRITERS[suffix](where, rows, values, target)
    for file in contents:
        require_free(file, overwrite)
    for file, content in contents.items():
        write_bytes(file, content, overwrite=overwrite)
    return tuple(contents)


def _array(values: Any, name: str) -> Array:
    """Return a column or rows as an array; raise LabelError for anything else."""
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise LabelError(
            f"write_selection: {name} must be an array or a sequence of values, got "
            f"{show_value(values)}; pass a numpy array"
        ) from error


def _selected(where: str, rows: Any, columns: Table, count: int) -> Array:
    """Return the numbers of the selected rows; raise LabelError if rows or columns do not fit."""
    wrong = {n: c.shape for n, c in columns.items() if c.shape != (count,)}
    if wrong:
        raise LabelError(
            f"write_selection: columns must have one value for each of the {count} rows of "
            f"{where}, got {wrong}"
        )
    flags = _array(rows, "rows")
    if flags.dtype == bool and flags.shape == (count,):
        return np.flatnonzero(flags)
    in_range = (
        flags.dtype.kind in "iu"
        and flags.ndim == 1
        and bool(((flags >= 0) & (flags < count)).all())
    )
    if not in_range and flags.size:
        raise LabelError(
            f"write_selection: rows must be {count} flags or numbers from 0 to {count - 1} of rows "
            f"of {where}, got {flags.dtype} of shape {flags.shape}"
        )
    return flags.astype(np.int64)


def _star(where: str, rows: Any, columns: Table, target: str) -> dict[str, bytes]:
    """Return the file with all blocks, in that of the particles the selected rows."""
    found = star_list(where)
    selected = _selected(where, rows, columns, len(found.particles)).tolist()
    bad = [name for name in columns if not name or set(name) & set(star.WHITE)]
    if bad:
        raise LabelError(f"write_selection: columns must have names without spaces, got {bad}")
    words: dict[str, Sequence[str]] = {**found.particles.words}
    words |= {name: star.column_words(name, column) for name, column in columns.items()}
    picked = {label: [column[n] for n in selected] for label, column in words.items()}
    blocks = [
        star.words_text(b.name, picked if b is found.particles else b.words, b.loop)
        for b in found.blocks
    ]
    return {target: "\n".join(blocks).encode()}


def _dynamo(where: str, rows: Any, columns: Table, target: str) -> dict[str, bytes]:
    """Return the selected lines of a Dynamo table."""
    lines = lines_of(where)
    selected = _selected(where, rows, columns, len(lines))
    content = "".join(f"{lines[n]}\n" for n in selected)
    return {target: content.encode()} | _apart(selected, columns, target)


def _motive(where: str, rows: Any, columns: Table, target: str) -> dict[str, bytes]:
    """Return the selected rows of a motive list, in its own type and byte order."""
    table, template = motive_table(where), stored_file(where).head(em.HEADER_BYTES)
    selected = _selected(where, rows, columns, len(table))
    if not selected.size:
        return {}
    dtype, _ = em.parse_header(template, where)
    picked = table[selected].astype(dtype)
    head = em.header(dtype, (1, *picked.shape), template)
    return {target: head + picked.tobytes()} | _apart(selected, columns, target)


def _commas(where: str, rows: Any, columns: Table, target: str) -> dict[str, bytes]:
    """Return the selected rows of a CSV table."""
    table = commas.read(where)
    selected = _selected(where, rows, columns, len(next(iter(table.values()), ())))
    picked = {name: column[selected] for name, column in (table | columns).items()}
    return {target: commas.text(picked).encode()}


def _apart(selected: Array, columns: Table, target: str) -> dict[str, bytes]:
    """Return a CSV file for the columns of a list whose columns have no names."""
    if not columns:
        return {}
    table = {ROW: selected} | {name: column[selected] for name, column in columns.items()}
    return {str(PurePath(target).with_suffix(".csv")): commas.text(table).encode()}


#: contents of the files of a selection by suffix of the list
WRITERS: Mapping[str, Callable[[str, Any, Table, str], dict[str, bytes]]] = {
    ".star": _star, ".tbl": _dynamo, ".em": _motive, ".csv": _commas,
}  # fmt: skip
