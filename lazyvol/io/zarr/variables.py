"""Open the arrays of a group that xarray or another program wrote as one data set."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath

from lazyvol.errors import FormatError, LossWarning
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.zarr.coordinates import LIST, dims_in_file
from lazyvol.io.zarr.labels import Labels
from lazyvol.io.zarr.nodes import Node

#: names in an error message
SHOWN = 20


def open_variables(
    group: Node,
    members: Sequence[Node],
    open_array: Callable[[Node], Opened],
    attrs: Mapping[str, object],
) -> DataSet:
    """Return the arrays of a group as a data set, each with its coordinates.

    Arrays of texts and times are left out with a warning.

    Raises
    ------
    FormatError
        The group holds images or groups, or its arrays do not name their dims or differ in their
        lengths: one of them must be chosen.
    """
    if not all(m.kind == "array" and dims_in_file(m) and _is_child(m, group) for m in members):
        raise _choice_error(group, members)
    opened = {}
    for member in members:
        name = PurePath(member.key).name
        try:
            opened[name] = open_array(member)
        except FormatError as error:
            warnings.warn(
                f"open: variable {name!r} is left out: {error}", LossWarning, stacklevel=2
            )
    files = [dims_in_file(m) for m in members if PurePath(m.key).name in opened]
    new = {
        old: dim
        for dims, array in zip(files, opened.values(), strict=True)
        for old, dim in zip(dims, array.dims, strict=True)
        if old != dim
    }
    variables = {name: _with_dims(array, new, group) for name, array in opened.items()}
    spans = {span for a in variables.values() for span in zip(a.dims, a.source.shape, strict=True)}
    if not variables or len(spans) > len(dict(spans)):
        raise _choice_error(group, members)
    kept = {name: value for name, value in attrs.items() if name != LIST}
    return DataSet(variables, Labels((), attrs=kept), ())


def _with_dims(array: Opened, new: Mapping[str, str], group: Node) -> Opened:
    """Rename the dims of an array as those of the others of its group."""
    dims = [new.get(dim, dim) for dim in array.dims]
    return array if dims == list(array.dims) else array.with_dims(dims, group.path)


def _is_child(member: Node, group: Node) -> bool:
    return "/" not in member.key[len(group.key) :].rstrip("/")


def _choice_error(group: Node, members: Sequence[Node]) -> FormatError:
    names = [member.key[len(group.key) :].rstrip("/") for member in members]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return FormatError(
        f"{group.path}: one array must be chosen unless all name their dims and agree in their "
        f"lengths, this group holds {', '.join(names[:SHOWN])}{more}; open one, e.g. "
        f"lazyvol.open({f'{group.path}/{names[0]}'!r})"
    )
