"""Translate the axis names and units of files to the dims and units of a stack."""

from collections.abc import Mapping, Sequence
from math import inf, isfinite, prod

import numpy as np

from lazyvol.errors import FormatError, LabelError
from lazyvol.io.zarr.labels import Coord
from lazyvol.stack import require_no_colours

#: order of the dims of an opened file
ORDER = ("k", "frame", "channel", "sample", "z", "y", "x")

NAMES = {
    **dict.fromkeys(("k", "t", "time", "particle"), "k"),
    **dict.fromkeys(("c", "channel", "s"), "channel"),
    **{name: name for name in ("frame", "z", "y", "x")},
}

#: dims of letters that name an axis other than themselves
LETTERS = {"t": "k", "f": "frame", "c": "channel"}

#: OME letter of each dim
TIFF_AXES = {"k": "T", "channel": "C", "z": "Z", "y": "Y", "x": "X"}

#: dims before y and x of files without axis names, by the number of these axes
DEFAULT_LEADING_DIMS: Mapping[int, tuple[str, ...]] = {
    0: (),
    1: ("z",),
    2: ("k", "z"),
    3: ("k", "channel", "z"),
}

METRES = {"angstrom": 1e-10, "nanometer": 1e-9, "micrometer": 1e-6, "millimeter": 1e-3}

#: units in files, in lower case: the unit of the stack and the factor to it
UNITS = {
    **dict.fromkeys(("a", "\u00e5", "angstrom"), ("angstrom", 1.0)),
    **dict.fromkeys(("nm", "nanometer"), ("nanometer", 1.0)),
    **dict.fromkeys(("um", "micron", "microns", "micrometer"), ("micrometer", 1.0)),
    **dict.fromkeys(("mm", "millimeter"), ("millimeter", 1.0)),
    **dict.fromkeys(("m", "meter"), ("millimeter", 1000.0)),
    "cm": ("millimeter", 10.0),
    "inch": ("millimeter", 25.4),
}

#: units of time in files, in seconds
SECONDS = {
    **dict.fromkeys(("ns", "nanosecond"), 1e-9),
    **dict.fromkeys(("us", "\u00b5s", "microsecond"), 1e-6),
    **dict.fromkeys(("ms", "millisecond"), 1e-3),
    **dict.fromkeys(("s", "sec", "second"), 1.0),
    **dict.fromkeys(("min", "minute"), 60.0),
    **dict.fromkeys(("h", "hour"), 3600.0),
    **dict.fromkeys(("d", "day"), 86400.0),
}


def parse_unit(word: str) -> tuple[str, float] | None:
    """Return the stack unit and the factor to it; None for a word that is no unit of length."""
    plain = word.strip().replace("\\u00B5", "u").replace("\\u03BC", "u")
    return UNITS.get(plain.replace("\u00b5", "u").replace("\u03bc", "u").lower())


def convert_length(value: float, unit: str, target: str) -> float:
    """Return a length in another unit; both units are those of a stack."""
    return value if unit == target else value * METRES[unit] / METRES[target]


def common_unit(sizes: Mapping[str, tuple[float, str]]) -> tuple[dict[str, float], str]:
    """Return sizes in the unit of the last dim that has one; no sizes in "voxel" if none has."""
    known = {d: (v, parse_unit(w)) for d, (v, w) in sizes.items()}
    scaled = {d: (v * u[1], u[0]) for d, (v, u) in known.items() if u and v > 0 and isfinite(v)}
    if not scaled:
        return {}, "voxel"
    unit = scaled[max(scaled, key=ORDER.index)][1]
    return {dim: convert_length(*size, unit) for dim, size in scaled.items()}, unit


def known_sizes(sizes: Mapping[str, float]) -> dict[str, float]:
    """Return the sizes that are known: files write 0, a negative number or NaN for unknown."""
    return {dim: float(v) for dim, v in sizes.items() if v > 0 and isfinite(v)}


def time_steps(seconds: Sequence[float]) -> dict[str, Coord]:
    """Return the coordinate ``time`` along k in seconds; none for fewer than two times."""
    if len(seconds) < 2:
        return {}
    return {"time": ("k", np.array(seconds, float), {"units": "second"})}


def regular_times(count: int, step: float, unit: str = "s") -> dict[str, Coord]:
    """Return the coordinate ``time`` of frames at equal steps; none if the step is not known."""
    seconds = step * SECONDS.get(unit, 0.0)
    return time_steps([n * seconds for n in range(count)] if 0 < seconds < inf else [])


def channel_names(
    names: Sequence[str], dim: str = "channel", *, has_axis: bool = False
) -> dict[str, Coord]:
    """Return the names of channels as coordinate of their dim; none unless all have one.

    The name of a single channel has no dim, unless ``has_axis`` is true.
    """
    if not names or not all(names):
        return {}
    return {dim: ((), names[0]) if len(names) == 1 and not has_axis else (dim, np.array(names))}


def axes_of_letters(dims: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of axes that are given as letters or as words.

    Examples
    --------
    >>> axes_of_letters("kcyx"), axes_of_letters(("k", "y", "x"))
    (('k', 'channel', 'y', 'x'), ('k', 'y', 'x'))
    """
    if isinstance(dims, str):
        return tuple(LETTERS.get(letter, letter) for letter in dims)
    return tuple(dims)


def order_axes(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the axis names in the order of `ORDER`, and the stored axis of each.

    If one of the names is unknown, the order is unchanged.
    """
    if len(set(names)) != len(names):
        raise FormatError(f"{where}: axes must differ, found {', '.join(names)}")
    if not set(names) <= set(ORDER):
        return tuple(names), tuple(range(len(names)))
    dims = tuple(sorted(names, key=ORDER.index))
    return dims, tuple(names.index(dim) for dim in dims)


def default_dims(shape: Sequence[int], where: str) -> tuple[tuple[str, ...], LabelError | None]:
    """Return the dims of an array without axis names, and the error if they are ambiguous.

    Two axes are (y, x), three (z, y, x), four (k, z, y, x), five (k, channel, z, y, x).

    Examples
    --------
    >>> default_dims((5, 7, 11), "a.npy")
    (('z', 'y', 'x'), None)
    >>> print(default_dims((5,), "a.npy")[1])
    a.npy: an array without axis names must have 2 to 5 axes, found 1; name them with dims=
    """
    count = len(shape)
    if count - 2 not in DEFAULT_LEADING_DIMS:
        return tuple(f"axis_{n}" for n in range(count)), LabelError(
            f"{where}: an array without axis names must have 2 to 5 axes, found {count}; name them "
            "with dims="
        )
    return (*DEFAULT_LEADING_DIMS[count - 2], "y", "x"), colour_axis_error(shape, where)


def colour_axis_error(shape: Sequence[int], where: str) -> LabelError | None:
    """Return the error for an array without axis names whose last axis may hold colours."""
    try:
        require_no_colours(shape, where)
    except LabelError as error:
        return error
    return None


def dims_of_names(
    letters: Sequence[str], shape: Sequence[int], where: str
) -> tuple[tuple[str, ...], LabelError | None]:
    """Return the dims for axis letters or words, and the error if they are ambiguous.

    Unknown axes get the first unused names of z, k, channel, frame, in the order of `ORDER`.
    """
    known = [NAMES.get(letter.lower()) for letter in letters]
    if known.count("channel") > 1:
        known[len(known) - 1 - known[::-1].index("channel")] = "sample"
    unknown = known.count(None)
    unused = [name for name in ("z", "k", "channel", "frame") if name not in known]
    if unknown > min(3, len(unused)) or len({*known} - {None}) < len(known) - unknown:
        return tuple(f"axis_{n}" for n in range(len(known))), LabelError(
            f"{where}: axes must be different ones of {', '.join(NAMES)} and at most 3 others, "
            f"found {'/'.join(letters)}; name them with dims="
        )
    names = iter(sorted(unused[:unknown], key=ORDER.index))
    error = colour_axis_error(shape, where) if unknown and "channel" not in known else None
    return tuple(name or next(names) for name in known), error


def count_elements(shape: Sequence[int], where: str) -> int:
    """Return the number of elements; raise FormatError if an axis has no length."""
    if any(n < 1 for n in shape):
        raise FormatError(f"{where}: every axis must have 1 voxel or more, found {tuple(shape)}")
    return prod(shape)
