"""Open the images or volumes that a STAR file lists as a stack, with its columns along k."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from lazyvol.errors import FormatError, LabelError
from lazyvol.io import particle_lists
from lazyvol.io.files import check_alike, stack_files
from lazyvol.io.opened import DataSet, Opened
from lazyvol.io.particle_lists import find_file, nearest
from lazyvol.io.region_source import (
    ConcatenatedSource,
    Section,
    StackedSource,
    ValuesSource,
)
from lazyvol.io.zarr.labels import Labels
from lazyvol.stack import SPATIAL

SUFFIXES = (".star",)
#: labels of the column that names image files
IMAGES = ("rlnImageName", "rlnTomoParticleImage")
#: dims of a stack of frames as its file opens, and of the observations of all
FRAMES, OBSERVATIONS = ("k", "y", "x"), ("obs", "y", "x")
OpenFile = Callable[[str, bool], Opened]


def probe(path: str, open_file: OpenFile, *, permissive: bool = False) -> Opened:
    """Return the stack of the images that a STAR file lists, as `probe_any` does.

    Raises
    ------
    LabelError
        The list names stacks of unequal numbers of frames.
    """
    opened = probe_any(path, open_file, permissive=permissive)
    if isinstance(opened, DataSet):
        raise LabelError(
            f"{path}: stacks of unequal numbers of frames must be opened by their list alone, "
            "without dims"
        )
    return opened


def probe_any(path: str, open_file: OpenFile, *, permissive: bool = False) -> Opened | DataSet:
    """Return the stack of the images that a STAR file lists; ``open_file`` opens each file.

    A name is that of a file, or ``number@file`` for one of its sections, counted from 1; only the
    first ``@`` after a number separates. Relative names start at the folder of the list, one of
    the four folders above it, or the current folder. Stacks of unequal numbers of frames (the 2-D
    stacks of RELION 5) make a ragged data set: ``values`` (obs, y, x) and ``row_size`` (k).

    Raises
    ------
    FormatError
        The file lists no images.
    SourceNotFoundError
        An image does not exist.
    """
    found = particle_lists.star_list(path)
    block = found.particles
    label = next((name for name in IMAGES if name in block.words), None)
    if label is None or not len(block):
        raise FormatError(
            f"{path}: a list must name images ({' or '.join(IMAGES)}) to open as a stack, found "
            f"{len(block)} rows of {list(block.words)[:8]}; read the columns without images "
            "with lazyvol.io.particles"
        )
    names = [str(name) for name in block.columns[label]]
    rows = [f"{path}, row {n} ({name})" for n, name in enumerate(names, 1)]
    images = _images(names, rows, found.path, open_file, permissive)
    name = PurePath(path).stem
    if is_ragged(images):
        return _ragged(rows, images, name, found)
    stack = stack_files(rows, images, name) if len(images) > 1 else _stack_of_one(images[0])
    return _with_columns(stack, found)


def _ragged(
    rows: list[str], images: list[Opened], name: str, found: particle_lists.StarList
) -> DataSet:
    """Return stacks of unequal numbers of frames, one after the other, with the columns on k."""
    values = _with_columns(concatenated(rows, images), found)
    labels = Labels(dims=("k",), coords=values.coords, attrs={"title": name, **values.attrs})
    variables = {
        "values": replace(values, coords={}, attrs={}),
        "row_size": row_sizes(images),
    }
    return DataSet(variables, labels, (len(images),))


def _images(
    names: list[str], rows: list[str], path: str, open_file: OpenFile, permissive: bool
) -> list[Opened]:
    """Open every image; a file that is listed several times is opened once."""
    files: dict[str, Opened] = {}
    images = []
    for name, row in zip(names, rows, strict=True):
        number, at, file = name.partition("@")
        if not at or (not number.isdecimal() and nearest(name, path)):
            at, file = "", name
        if file not in files:
            files[file] = open_file(find_file(file, path, row), permissive)
        images.append(_section(files[file], number, row) if at else files[file])
    return images


def _section(opened: Opened, number: str, row: str) -> Opened:
    """Return section ``number`` of a stack of images or volumes."""
    count = opened.source.shape[0]
    if len(opened.dims) < 3 or not number.isdecimal() or not 1 <= int(number) <= count:
        raise FormatError(
            f"{row}: the number before '@' must be a section from 1 to {count} of a stack, found "
            f"{number!r} of {opened.dims}"
        )
    dims = opened.dims[1:]
    sizes = {d: s for d, s in opened.voxel_size.items() if d in dims}
    origin = {d: o for d, o in opened.origin.items() if d in dims}
    section = Section(opened.source, int(number) - 1)
    return replace(opened, source=section, dims=dims, voxel_size=sizes, origin=origin, coords={})


def _stack_of_one(opened: Opened) -> Opened:
    """Return an image as a stack of length 1."""
    dims = ("k", *("frame" if d == "k" else d for d in opened.dims))
    return replace(opened, source=StackedSource((opened.source,)), dims=dims)


def _with_columns(stack: Opened, found: particle_lists.StarList) -> Opened:
    """Return the stack along k with the columns of the list; its pixel size has priority."""
    columns, shift_unit = particle_lists.particle_columns(found.particles, found.optics)
    pixel_sizes = particle_lists.pixel_sizes(found.particles, found.optics)
    dims = _sections_along_k(stack.dims)
    voxel_size: Mapping[str, float] = stack.voxel_size
    unit = stack.unit
    if pixel_sizes is not None and np.ptp(pixel_sizes) <= 1e-3 * np.abs(pixel_sizes).max():
        voxel_size = {d: float(pixel_sizes[0]) for d in dims if d in SPATIAL}
        unit = "angstrom"
    attrs = {**stack.attrs, **found.attrs}
    coords = particle_lists.coordinates_on_k(columns, shift_unit)
    return replace(
        stack,
        dims=dims,
        voxel_size=voxel_size,
        unit=unit,
        coords=coords,
        attrs=attrs,
        dims_error=None,
    )


def _sections_along_k(dims: tuple[str, ...]) -> tuple[str, ...]:
    """Return k for z: listed images are particles, not the sections of a volume."""
    if {"k", "obs"} & set(dims):
        return dims
    return tuple("k" if d == "z" else d for d in dims)


def is_ragged(images: Sequence[Opened]) -> bool:
    """Return True for stacks of frames that differ in their number."""
    counts = {opened.source.shape[0] for opened in images}
    return len(counts) > 1 and all(opened.dims == FRAMES for opened in images)


def concatenated(rows: Sequence[str], images: Sequence[Opened]) -> Opened:
    """Return the frames of all stacks, (obs, y, x); they must be alike but for their number.

    Raises
    ------
    LabelError
        Two stacks differ in the shape of their frames, dtype or spacing.
    """
    first = images[0]
    facts = _alike(first)
    for row, other in zip(rows, images, strict=True):
        if _alike(other) != facts:
            raise LabelError(
                f"frames of all stacks must be alike: {rows[0]} has shape and dtype {facts}, {row} "
                f"has {_alike(other)}; leave one out or convert it"
            )
        check_alike(rows[0], first, row, replace(other, source=first.source))
    source = ConcatenatedSource(tuple(opened.source for opened in images))
    common = all(dict(opened.origin) == dict(first.origin) for opened in images)
    origin = first.origin if common else {}
    return replace(first, source=source, dims=OBSERVATIONS, origin=origin, coords={})


def _alike(opened: Opened) -> tuple[tuple[int, ...], str]:
    """Return shape and dtype of a frame."""
    return opened.source.shape[1:], opened.source.dtype.name


def row_sizes(images: Sequence[Opened]) -> Opened:
    """Return the number of frames of every stack."""
    counts = np.array([opened.source.shape[0] for opened in images], np.int64)
    attrs = {"sample_dimension": "obs", "long_name": "frames of each k"}
    return Opened(source=ValuesSource(counts), dims=("k",), attrs=attrs)
