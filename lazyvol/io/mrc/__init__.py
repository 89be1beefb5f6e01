"""MRC and CCP4 files: a bounded look at the header, then plain reads of regions.

Conventions, by MRC2014 and the programs that came before it:

* The array is handed over as (z, y, x) whatever MAPC, MAPR, MAPS say; all three 0 means 1, 2, 3.
* ISPG 401 to 630 is a stack of volumes (k, z, y, x) of MZ sections each. ISPG 0 with MZ = 1, or
  the suffix ``.mrcs``, is a stack of images (k, y, x); a single image of ISPG 0 is (y, x).
  Everything else is a volume, ISPG 0 with MZ > 1 included, as RELION and IMOD write it.
* Voxel size is CELLA / M in angstrom; 0, negative and not finite mean unknown.
* The first voxel is at ORIGIN where one of its words is not 0, else at NSTART voxels: programs
  that write both mean the same place. IMOD turns the sign of ORIGIN unless its flag 4 is set.
* Labels of our own writer tell a stack of one image from an image, the unit that lengths had, and
  the name.
* Mode 0 is signed, unless IMOD's stamp is there without its flag 1.
"""

import os
from math import isfinite

from lazyvol.errors import FormatError, TruncatedError
from lazyvol.io.axes import METRES, arrange, positive, unit_of
from lazyvol.io.compressed import CompressedSource, codec_of, head, plain_name
from lazyvol.io.flat_file import Layout, RawSource, StoredFile, check_extent, stored_file
from lazyvol.io.mrc.header import HEADER_BYTES, IMOD_ORIGIN, STACK_GROUPS, Header, parse
from lazyvol.io.opened import Opened
from lazyvol.io.repairs import Repairs
from lazyvol.plan.recipes.base import Source

SUFFIXES = (".mrc", ".mrcs", ".map", ".ccp4", ".rec", ".st", ".ali", ".preali")
LETTERS = "xyz"


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Volume, image stack or volume stack in an MRC file, plain or packed.

    Parameters
    ----------
    path
        A file in MRC2014 or CCP4 format, possibly in gzip or bzip2.
    permissive
        Read a file with these faults, each noted in ``attrs["repairs"]``: no 'MAP ' string; a
        wrong machine stamp; an ISPG that means nothing (taken for one volume); axis words that
        are no permutation of 1, 2, 3 (taken for 1, 2, 3); bytes after the data.

    Returns
    -------
    Opened
        Dims (z, y, x), (k, z, y, x), (k, y, x) or (y, x); spacing in angstrom.

    Raises
    ------
    FormatError
        The header breaks the rules, or its mode is not 0, 1, 2, 6 or 12.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    first = file.head(HEADER_BYTES)
    codec = codec_of(first)
    repairs = Repairs(file.path, permissive)
    header = parse(head(file, codec, HEADER_BYTES) if codec else first, repairs)
    stem, suffix = plain_name(file.path)
    names, shape = stored_axes(header, suffix, file.path)
    dims, order = arrange(names, file.path)
    layout = Layout(HEADER_BYTES + header.extended, header.dtype, shape, order)
    source = (
        CompressedSource(file, codec, layout, surplus=permissive)
        if codec
        else plain(file, layout, repairs)
    )
    return described(header, source, dims, repairs, stem)


def described(
    header: Header, source: Source, dims: tuple[str, ...], repairs: Repairs, name: str
) -> Opened:
    """Source with the labels of its header."""
    spacing = positive({d: v for d, v in voxel_size(header).items() if d in dims})
    places = origin(header, spacing)
    unit, angstrom = noted_unit(header)
    attrs: dict[str, object] = {}
    if repairs.made:
        attrs["repairs"] = tuple(repairs.made)
    if any(angle not in (0.0, 90.0) for angle in header.angles):
        attrs["cell_angles"] = header.angles
    return Opened(
        source=source,
        dims=dims,
        voxel_size={d: digits(v / angstrom) for d, v in spacing.items()},
        unit=unit if spacing else "voxel",
        origin={d: digits(v / angstrom) for d, v in places.items()},
        attrs=attrs,
        name=header.notes.get("name", name),
    )


def stored_axes(header: Header, suffix: str, where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and lengths of the stored axes, slowest first."""
    columns, rows, sections = header.counts
    names = tuple(LETTERS[word - 1] for word in reversed(header.axes))
    if header.group in STACK_GROUPS:
        per_volume = sections_per_volume(header, where)
        return ("k", *names), (sections // per_volume, per_volume, rows, columns)
    lone = sections == 1 and suffix != ".mrcs" and header.notes.get("dims") != "k y x"
    if header.group == 0 and lone and names[0] == "z":
        return names[1:], (rows, columns)
    images = suffix == ".mrcs" or (header.group == 0 and header.grid[2] == 1)
    if images and names[0] == "z":
        return ("k", *names[1:]), (sections, rows, columns)
    return names, (sections, rows, columns)


def sections_per_volume(header: Header, where: str) -> int:
    """MZ of a volume stack; 0 is understood for a single cube, where it can mean only one thing."""
    columns, rows, sections = header.counts
    if header.axes[2] != 3:
        raise FormatError(f"{where}: a volume stack needs MAPS = 3, found {header.axes[2]}")
    per_volume = header.grid[2]
    if per_volume == 0 and columns == rows == sections:
        return sections
    if per_volume < 1 or sections % per_volume:
        raise FormatError(
            f"{where}: in a volume stack (ISPG {header.group}) NZ must be a multiple of MZ, found "
            f"NZ {sections} and MZ {per_volume}; set MZ to the sections of one volume"
        )
    return per_volume


def voxel_size(header: Header) -> dict[str, float]:
    """Spacing per axis of the cell as the header has it; 0 where M is 0."""
    cells = zip(LETTERS, header.cell, header.grid, strict=True)
    return {letter: digits(cell / grid) if grid else 0.0 for letter, cell, grid in cells}


def noted_unit(header: Header) -> tuple[str, float]:
    """Unit that lengths had before our writer turned them into angstrom, and its angstrom."""
    word = header.notes.get("unit", "angstrom")
    found = unit_of(word)
    return (word, METRES[found[0]] * found[1] / METRES["angstrom"]) if found else ("angstrom", 1.0)


def digits(value: float) -> float:
    """Value to the 7 digits that a float32 header carries: 5.7, not 5.699999809."""
    return float(f"{value:.7g}")


def origin(header: Header, spacing: dict[str, float]) -> dict[str, float]:
    """Position of the first voxel along every axis of known spacing."""
    if any(header.origin) and all(isfinite(word) for word in header.origin):
        sign = -1.0 if header.imod is not None and not header.imod & IMOD_ORIGIN else 1.0
        places = {letter: sign * word for letter, word in zip(LETTERS, header.origin, strict=True)}
    else:
        starts = zip(header.axes, header.start, strict=True)
        places = {LETTERS[axis - 1]: float(start) for axis, start in starts}
        places = {letter: n * spacing.get(letter, 0.0) for letter, n in places.items()}
    return {dim: digits(places[dim]) + 0.0 for dim in spacing}


def plain(file: StoredFile, layout: Layout, repairs: Repairs) -> RawSource:
    """Source of an unpacked file whose size fits its header."""
    if layout.offset > file.size:
        raise TruncatedError(
            f"{file.path}: nsymbt promises {layout.offset - HEADER_BYTES} bytes of extended "
            f"header, {file.size - HEADER_BYTES} bytes follow the header; copy the file again"
        )
    check_extent(file, layout, repairs)
    return RawSource(file, layout)
