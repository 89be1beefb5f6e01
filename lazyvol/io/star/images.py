"""Stacks that a STAR file lists: images and volumes wherever they lie, facts along k."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, SourceNotFoundError
from lazyvol.io import particle_lists, star
from lazyvol.io.files import StackedSource, stacked
from lazyvol.io.opened import Opened
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region, lengths
from lazyvol.stack import SPATIAL

SUFFIXES = (".star",)
#: labels of image files
IMAGES = ("rlnImageName", "rlnTomoParticleImage")
#: folders above the list in which relative paths are looked for: RELION's are those of a project
#: whose jobs are a folder or two below it
PARENTS = 4

Single = Callable[[str, bool], Opened]


@dataclass(eq=False)
class Section:
    """One index of the first axis of a source."""

    source: Source
    index: int
    shape: tuple[int, ...] = field(init=False)
    dtype: np.dtype[Any] = field(init=False)
    chunks: tuple[int, ...] = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.shape, self.dtype = self.source.shape[1:], self.source.dtype
        self.chunks = self.source.chunks[1:]
        self.token = f"{self.source.token}-{self.index}"

    def __reduce__(self) -> tuple[type["Section"], tuple[Source, int]]:
        """Pickled without what follows from the rest."""
        return Section, (self.source, self.index)

    def _whole(self, region: Region) -> Region:
        return (slice(self.index, self.index + 1), *region)

    def read(self, region: Region, out: Array | None = None) -> Array:
        """Copy of one region, in ``out`` where that is given."""
        out = np.empty(lengths(region), self.dtype) if out is None else out
        self.source.read(self._whole(region), out[None])
        return out

    @property
    def paths(self) -> tuple[str, ...]:
        """Those of the source."""
        return tuple(getattr(self.source, "paths", ()))

    def stored_bytes(self, region: Region) -> int:
        """That of the source."""
        return self.source.stored_bytes(self._whole(region))

    def peak_bytes(self, region: Region) -> int:
        """That of the source."""
        return self.source.peak_bytes(self._whole(region))


def probe(path: str, single: Single, *, permissive: bool = False) -> Opened:
    """Stack of the images that a STAR file lists, ``single`` opening each file.

    A name is that of a file, or ``number@file`` for one section of it, counted from 1; the first
    ``@`` behind a number counts, others belong to the file. Relative names start at the list's
    folder, one of the four above it, or the current one.

    Raises
    ------
    FormatError
        The file lists no images.
    SourceNotFoundError
        An image is not there.
    """
    block, optics = particle_lists.particle_block(star.read(path), path)
    label = next((name for name in IMAGES if name in block.columns), None)
    if label is None or not len(block):
        raise FormatError(
            f"{path}: a stack needs particles with images ({' or '.join(IMAGES)}), found "
            f"{len(block)} rows of {list(block.columns)[:8]}; read the facts alone with "
            "lazyvol.io.particles"
        )
    names = [str(name) for name in block.columns[label]]
    rows = [f"{path}, row {n} ({name})" for n, name in enumerate(names, 1)]
    opened = _images(names, rows, path, single, permissive)
    found = stacked(rows, opened, PurePath(path).stem) if len(opened) > 1 else _alone(opened[0])
    return _described(found, block, optics)


def _images(
    names: list[str], rows: list[str], path: str, single: Single, permissive: bool
) -> list[Opened]:
    """Every image, each file opened once."""
    files: dict[str, Opened] = {}
    found = []
    for name, row in zip(names, rows, strict=True):
        number, at, file = name.partition("@")
        if not at or (not number.isdecimal() and _places(name, path)):
            at, file = "", name
        if file not in files:
            files[file] = single(_place(file, path, row), permissive)
        found.append(_section(files[file], number, row) if at else files[file])
    return found


def _section(opened: Opened, number: str, row: str) -> Opened:
    """Section ``number`` of a stack of images or volumes."""
    count = opened.source.shape[0]
    if len(opened.dims) < 3 or not number.isdecimal() or not 1 <= int(number) <= count:
        raise FormatError(
            f"{row}: a number before '@' must be that of a section from 1 to {count} of a stack, "
            f"found {number!r} of {opened.dims}"
        )
    dims = opened.dims[1:]
    known = {d: s for d, s in opened.voxel_size.items() if d in dims}
    origin = {d: o for d, o in opened.origin.items() if d in dims}
    section = Section(opened.source, int(number) - 1)
    return replace(opened, source=section, dims=dims, voxel_size=known, origin=origin, coords={})


def _alone(opened: Opened) -> Opened:
    """A stack of one."""
    dims = ("k", *("frame" if d == "k" else d for d in opened.dims))
    return replace(opened, source=StackedSource((opened.source,)), dims=dims)


def _places(file: str, path: str) -> list[Path]:
    """Where a listed file lies, the nearest place first."""
    start = Path(os.path.abspath(path)).parent
    folders = [start, *list(start.parents)[:PARENTS], Path.cwd()]
    places = (folder / file for folder in folders)
    return [place for place in places if file and place.is_file()]


def _place(file: str, path: str, row: str) -> str:
    """The nearest place of a listed file."""
    found = _places(file, path)
    if not found:
        start = Path(os.path.abspath(path)).parent
        raise SourceNotFoundError(
            f"{row}: the list names {file!r}, which is not in {start}, nor from the {PARENTS} "
            "folders above it; move the list to its project's folder, or read the facts alone with "
            "lazyvol.io.particles"
        )
    return str(found[0])


def _described(found: Opened, block: star.Block, optics: star.Block | None) -> Opened:
    """The stack along k with its facts; the list's pixel size counts before that of the images."""
    facts, shift = particle_lists.facts_of(block, optics)
    sizes = particle_lists.pixel_sizes(block, optics)
    dims = _along_k(found.dims)
    known: Mapping[str, float] = found.voxel_size
    unit = found.unit
    if sizes is not None and np.ptp(sizes) <= 1e-3 * np.abs(sizes).max():
        known = {d: float(sizes[0]) for d in dims if d in SPATIAL}
        unit = "angstrom"
    words = particle_lists.units(shift)
    attrs: dict[str, object] = dict(found.attrs)
    if optics is not None:
        attrs[particle_lists.OPTICS] = particle_lists.table_of(optics)
    coords = {n: ("k", v, {"units": words[n]} if n in words else {}) for n, v in facts.items()}
    return Opened(found.source, dims, known, unit, found.origin, coords, attrs, found.name)


def _along_k(dims: tuple[str, ...]) -> tuple[str, ...]:
    """Images that were stacked as sections of a volume are particles here."""
    return dims if "k" in dims else tuple("k" if d == "z" else d for d in dims)
