"""Axes and units of a file, in the words of a stack."""

from collections.abc import Mapping, Sequence
from math import isfinite, prod

from lazyvol.errors import FormatError, LabelError
from lazyvol.stack import require_no_colours

#: order in which a reader hands over the axes of a file
ORDER = ("k", "frame", "channel", "sample", "z", "y", "x")

NAMES = {
    "k": "k",
    "t": "k",
    "time": "k",
    "particle": "k",
    "frame": "frame",
    "c": "channel",
    "channel": "channel",
    "s": "channel",
    "z": "z",
    "y": "y",
    "x": "x",
}

#: letters of OME for our dims
TIFF_AXES = {"k": "T", "channel": "C", "z": "Z", "y": "Y", "x": "X"}

#: names for axes a file leaves nameless, by how many there are before y and x; a lone one is z
NAMELESS: Mapping[int, tuple[str, ...]] = {
    0: (),
    1: ("z",),
    2: ("k", "z"),
    3: ("k", "channel", "z"),
}

METRES = {"angstrom": 1e-10, "nanometer": 1e-9, "micrometer": 1e-6, "millimeter": 1e-3}

#: what files write for a unit: its name here and how many of it the written one is
UNITS = {
    "a": ("angstrom", 1.0),
    "\u00e5": ("angstrom", 1.0),
    "angstrom": ("angstrom", 1.0),
    "nm": ("nanometer", 1.0),
    "nanometer": ("nanometer", 1.0),
    "um": ("micrometer", 1.0),
    "micron": ("micrometer", 1.0),
    "microns": ("micrometer", 1.0),
    "micrometer": ("micrometer", 1.0),
    "mm": ("millimeter", 1.0),
    "millimeter": ("millimeter", 1.0),
    "cm": ("millimeter", 10.0),
    "m": ("millimeter", 1000.0),
    "meter": ("millimeter", 1000.0),
    "inch": ("millimeter", 25.4),
}


def unit_of(word: str) -> tuple[str, float] | None:
    """Unit that a file's word means and its factor; None for a word that means no length."""
    plain = word.strip().replace("\\u00B5", "u").replace("\\u03BC", "u")
    return UNITS.get(plain.replace("\u00b5", "u").replace("\u03bc", "u").lower())


def common_unit(sizes: Mapping[str, tuple[float, str]]) -> tuple[dict[str, float], str]:
    """Sizes per dim in one unit, that of the last dim; "voxel" where none is known."""
    known = {d: (v, unit_of(w)) for d, (v, w) in sizes.items()}
    scaled = {d: (v * u[1], u[0]) for d, (v, u) in known.items() if u and v > 0 and isfinite(v)}
    if not scaled:
        return {}, "voxel"
    unit = scaled[max(scaled, key=ORDER.index)][1]

    def converted(value: float, own: str) -> float:
        return value if own == unit else value * METRES[own] / METRES[unit]

    return {dim: converted(*size) for dim, size in scaled.items()}, unit


def positive(sizes: Mapping[str, float]) -> dict[str, float]:
    """The sizes that are known: files write 0, a negative number or NaN for unknown."""
    return {dim: float(v) for dim, v in sizes.items() if v > 0 and isfinite(v)}


def arrange(names: Sequence[str], where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Dims of a file with axes ``names`` in the order of `ORDER`, and the axis each one is.

    Names that nobody knows stay where they are.
    """
    if len(set(names)) != len(names):
        raise FormatError(f"{where}: axes must differ, found {', '.join(names)}")
    if not set(names) <= set(ORDER):
        return tuple(names), tuple(range(len(names)))
    dims = tuple(sorted(names, key=ORDER.index))
    return dims, tuple(names.index(dim) for dim in dims)


def guessed(shape: Sequence[int], where: str) -> tuple[tuple[str, ...], LabelError | None]:
    """Names of all axes of an array that carries none, and why they must not be a guess, if so.

    Two are (y, x), three (z, y, x), four (k, z, y, x), five (k, channel, z, y, x).

    Examples
    --------
    >>> guessed((5, 7, 11), "a.npy")
    (('z', 'y', 'x'), None)
    >>> print(guessed((5,), "a.npy")[1])
    a.npy: 2 to 5 axes have names by their number, found 1; name them with dims=
    """
    count = len(shape)
    if count - 2 not in NAMELESS:
        return tuple(f"axis_{n}" for n in range(count)), LabelError(
            f"{where}: 2 to 5 axes have names by their number, found {count}; name them with dims="
        )
    return (*NAMELESS[count - 2], "y", "x"), colours(shape, where)


def colours(shape: Sequence[int], where: str) -> LabelError | None:
    """Why the axes of an array without names must not be guessed: they may end in colours."""
    try:
        require_no_colours(shape, where)
    except LabelError as error:
        return error
    return None


def named(
    letters: Sequence[str], shape: Sequence[int], where: str
) -> tuple[tuple[str, ...], LabelError | None]:
    """Names of axes given by letters or words, and why they must not be a guess, if so.

    Unknown ones get the first free names of z, k, channel, frame, in the order of `ORDER`.
    """
    known = [NAMES.get(letter.lower()) for letter in letters]
    if known.count("channel") > 1:
        known[len(known) - 1 - known[::-1].index("channel")] = "sample"
    missing = known.count(None)
    free = [name for name in ("z", "k", "channel", "frame") if name not in known]
    if missing > min(3, len(free)) or len({*known} - {None}) < len(known) - missing:
        return tuple(f"axis_{n}" for n in range(len(known))), LabelError(
            f"{where}: axes must be different ones of {', '.join(NAMES)} and at most 3 others, "
            f"found {'/'.join(letters)}; name them with dims="
        )
    fill = iter(sorted(free[:missing], key=ORDER.index))
    doubt = colours(shape, where) if missing and "channel" not in known else None
    return tuple(name or next(fill) for name in known), doubt


def elements(shape: Sequence[int], where: str) -> int:
    """Number of elements of a shape that holds data: every length at least 1."""
    if any(n < 1 for n in shape):
        raise FormatError(f"{where}: every axis needs a length of 1 or more, found {tuple(shape)}")
    return prod(shape)
