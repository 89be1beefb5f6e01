"""TIFF files: page chain and sizes checked first, then only the pages of a region are read.

Axes by what the file says (ImageJ, OME-XML, the axes tifffile writes): T is k, the axis that
statistics run over; C, and samples such as RGB, are channel; Z, Y, X come last. A file that only
has pages is (z, y, x), as electron microscopes write sections; with a known Z its other axis is k.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, prod
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError
from lazyvol.io.axes import TIFF_AXES, arrange, common_unit, elements, named
from lazyvol.io.flat_file import (
    Layout,
    RawSource,
    StoredFile,
    check_dtype,
    check_extent,
    stored_file,
)
from lazyvol.io.opened import Opened
from lazyvol.io.repairs import Repairs
from lazyvol.io.tiff.omexml import comment, is_ome, planes
from lazyvol.io.tiff.pages import (
    FOREIGN,
    PagedSource,
    check_codec,
    check_page,
    opened,
    segment_bytes,
)
from lazyvol.io.tiff.scan import directories
from lazyvol.io.zarr.labels import KEY, Elsewhere, Labels, read_record
from lazyvol.plan.recipes.base import Source

SUFFIXES = (".tif", ".tiff", ".btf")
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Series:
    """Axes of the first series, the pages it lies in, and the offset of data in one piece."""

    axes: str
    shape: tuple[int, ...]
    pages: tuple[int, ...]
    offset: int | None
    voxel_size: Mapping[str, float]
    unit: str
    labels: Labels | None = None


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """First series of a TIFF, BigTIFF, ImageJ or OME-TIFF file.

    Parameters
    ----------
    path
        The file. Planes that OME-XML places in other files are not followed.
    permissive
        Read the first series of several, and a file in whose tags tifffile reports damage; each
        fault is noted in ``attrs["repairs"]``.

    Raises
    ------
    FormatError
        Damaged tags, data that are not plain real numbers, pages that differ, or a codec that is
        not installed.
    TruncatedError
        Pages or data lie beyond the end of the file.
    MissingChunkError
        A plane that the metadata promise is not in the file.
    UnsafeSourceError
        A compression that is not allowed.
    LimitExceeded
        Too many pages or tags, or a page that is out of proportion to its stored bytes.
    """
    file = stored_file(path)
    repairs = Repairs(file.path, permissive)
    chain = directories(file)
    with opened(file) as (tif, complaints):
        check_kind(tif, file.path)
        check_codec(tif.pages.first, file.path)
        series = first_series(tif, chain, repairs)
        for complaint in complaints:
            repairs.need(f"tifffile reports {complaint!r:.200}", "ignoring it")
        names, doubt = named(series.axes, series.shape, file.path)
        dims, order = arrange(names, file.path)
        source = source_of(file, tif, series, order)
    found = Opened(
        source=source,
        dims=dims,
        voxel_size={d: v for d, v in series.voxel_size.items() if d in dims},
        unit=series.unit,
        attrs={"repairs": tuple(repairs.made)} if repairs.made else {},
        name=PurePath(file.path).stem.removesuffix(".ome"),
        doubt=doubt,
    )
    return found if series.labels is None else labelled(found, series.labels)


def labelled(found: Opened, own: Labels) -> Opened:
    """A file of ours with its labels; a spacing that another program has changed since counts."""
    sizes, unit = common_unit({d: (v, own.unit) for d, v in own.voxel_size.items()})
    same = sizes.keys() == found.voxel_size.keys() and all(
        isclose(v, found.voxel_size[d], rel_tol=1e-6) for d, v in sizes.items()
    )
    attrs, name = {**own.attrs, **found.attrs}, own.name or found.name
    found = replace(found, coords=own.coords, attrs=attrs, name=name, bare=own.bare)
    if same and unit == found.unit:
        return replace(found, voxel_size=own.voxel_size, unit=own.unit, origin=own.origin)
    changed = own.voxel_size.keys() | found.voxel_size.keys()
    return replace(
        found,
        coords={n: coord for n, coord in own.coords.items() if n not in changed},
        bare=tuple(d for d in own.bare if d not in changed),
    )


def check_kind(tif: Any, where: str) -> None:
    """Refuse vendor files whose planes the page chain does not tell."""
    kind = next((kind for kind in FOREIGN if getattr(tif, f"is_{kind}")), None)
    if kind:
        raise FormatError(f"{where}: {kind.upper()} files are not supported; convert to OME-TIFF")


def first_series(tif: Any, chain: tuple[int, ...], repairs: Repairs) -> Series:
    """The first series, by OME-XML if the file has it, else by tifffile."""
    first = tif.pages.first
    if is_ome(first.description):
        ome = planes(first.description, len(chain), repairs.where)
        pages = tuple(chain[page] for page in ome.pages)
        own = own_labels(first, ome.axes + first.axes, ome.shape + first.shape, repairs.where)
        kept = "" if own is None else "".join(TIFF_AXES[dim] for dim in own.dims)
        axes, shape = squeezed(ome.axes, ome.shape, kept)
        axes, shape = axes + first.axes, shape + first.shape
        return Series(axes, shape, pages, None, ome.voxel_size, ome.unit, own)
    found = tif.series[0]
    if len(tif.series) > 1:
        shapes = ", ".join(str(s.shape) for s in tif.series[:5])
        repairs.need(f"pages must form one series, found {shapes}", "reading the first")
    pages = tuple(page.offset for page in found.pages)
    spacing, unit = imagej_spacing(tif, first)
    return Series(found.axes, found.shape, pages, found.dataoffset, spacing, unit)


def own_labels(page: Any, axes: str, shape: tuple[int, ...], where: str) -> Labels | None:
    """Labels of our writer; those of an array that is another one by now are left alone."""
    note = comment(page.description, KEY, where)
    if note is None:
        return None
    try:
        content = json.loads(note)
        letters = [TIFF_AXES[dim] for dim in content["dims"]]
        lengths = tuple(content["shape"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{where}: its annotation {KEY!r} is damaged: {error!r:.80}") from error
    known = dict(zip(axes, shape, strict=True))
    same = tuple(known.get(a) for a in letters) == lengths and prod(lengths) == prod(shape)
    if not same or page.dtype is None:
        return None
    found = read_record(content, lengths, np.dtype(page.dtype), where)
    if any(isinstance(values, Elsewhere) for _, values, *_ in found.coords.values()):
        raise FormatError(f"{where}: its annotation {KEY!r} must hold all coordinates")
    return found


def squeezed(axes: str, shape: tuple[int, ...], kept: str) -> tuple[str, tuple[int, ...]]:
    """Axes along which there is more than one plane, and those that are ``kept``."""
    some = [(a, n) for a, n in zip(axes, shape, strict=True) if n > 1 or a in kept]
    return "".join(a for a, _ in some), tuple(n for _, n in some)


def imagej_spacing(tif: Any, page: Any) -> tuple[dict[str, float], str]:
    """Spacing in ImageJ's unit; a plain resolution in dots per inch says nothing of a specimen."""
    facts = tif.imagej_metadata or {}
    sizes = {"z": facts.get("spacing", 0.0), "y": pitch(page, "YResolution")}
    sizes["x"] = pitch(page, "XResolution")
    unit = str(facts.get("unit", ""))
    numbers = {d: v for d, v in sizes.items() if isinstance(v, int | float)}
    return common_unit({dim: (float(v), unit) for dim, v in numbers.items()})


def pitch(page: Any, tag: str) -> float:
    """Units per pixel by a resolution tag, which holds pixels per unit; 0 where unknown.

    ImageJ writes 6 decimals: 0.666666 pixels per millimetre mean 1.5 mm.
    """
    value = page.tags.valueof(tag) or (0, 1)
    pixels, units = value
    return float(f"{units / pixels:.6g}") if pixels else 0.0


def source_of(file: StoredFile, tif: Any, series: Series, order: tuple[int, ...]) -> Source:
    """Plain reads where the data lie in one piece, decoded pages elsewhere."""
    page = tif.pages.first
    where = file.path
    elements(series.shape, where)
    if page.dtype is None:
        raise FormatError(f"{where}: no number type has {page.bitspersample} bits of this format")
    dtype = check_dtype(np.dtype(page.dtype), where)
    if series.offset is not None:
        stored = dtype.newbyteorder(tif.byteorder).str
        lead = min(1, len(series.shape) - len(page.shape))
        layout = Layout(series.offset, stored, series.shape, order, lead)
        check_extent(file, layout, Repairs(where, permissive=True))
        return RawSource(file, layout)
    depth = len(series.shape) - len(page.shape)
    grid = series.shape[:depth]
    if series.shape[depth:] != page.shape or prod(grid) != len(series.pages):
        raise FormatError(
            f"{where}: the metadata promise {series.shape} ({series.axes}), the file has "
            f"{len(series.pages)} pages of {page.shape}"
        )
    sizes = check_page(page, file, 0), segment_bytes(page)
    return PagedSource(file, series.pages, grid, page.shape, dtype.str, *sizes, order)
