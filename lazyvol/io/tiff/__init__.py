"""Read TIFF files: check the page chain and sizes first, then read the pages of a region.

The axes are those that the file names (ImageJ, OME-XML, tifffile): T is k, the axis that statistics
run over; C, and samples such as RGB, are channel; Z, Y, X come last. The pages of a file without
axis names are z, as electron microscopes write sections; if Z is named, they are k.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isclose, prod
from pathlib import PurePath
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from lazyvol.errors import FormatError
from lazyvol.io.axes import (
    TIFF_AXES,
    channel_names,
    common_unit,
    count_elements,
    dims_of_names,
    order_axes,
    regular_times,
)
from lazyvol.io.compressed import array_source
from lazyvol.io.faults import BIOIO, Repairs
from lazyvol.io.flat_file import Layout, StoredFile, check_dtype, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.tiff.omexml import comment_text, is_ome, parse_planes, parse_xml
from lazyvol.io.tiff.pages import (
    UNSUPPORTED,
    check_codec,
    open_tiff,
    paged_source,
)
from lazyvol.io.tiff.scan import page_offsets
from lazyvol.io.zarr.labels import (
    RECORD_KEY,
    ArrayReference,
    Coord,
    Coords,
    Labels,
    decode_record,
)
from lazyvol.plan.recipes.base import Source

SUFFIXES = (".tif", ".tiff", ".btf")
MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass(frozen=True)
class Series:
    """Axes of the first series, its page offsets, and the offset of contiguous data."""

    axes: str
    shape: tuple[int, ...]
    pages: tuple[int, ...]
    offset: int | None
    voxel_size: Mapping[str, float]
    unit: str
    coords: Coords
    labels: Labels | None = None


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the first series of a TIFF, BigTIFF, ImageJ or OME-TIFF file.

    Parameters
    ----------
    path
        The file. Planes that OME-XML places in other files are not read.
    permissive
        Read the first series of several, and files in whose tags tifffile reports damage;
        ``attrs["repairs"]`` lists the faults.

    Raises
    ------
    FormatError
        Tags are damaged, data are not real numbers, pages differ, or a codec is not installed.
    TruncatedError
        Pages or data are beyond the end of the file.
    MissingChunkError
        The file does not hold a plane that its metadata promise.
    UnsafeSourceError
        The compression is not allowed.
    LimitExceeded
        The file has too many pages or tags, or a page is too large for its stored bytes.
    """
    file = stored_file(path)
    repairs = Repairs(file.path, permissive)
    offsets = page_offsets(file)
    with open_tiff(file) as (tif, complaints):
        check_kind(tif, file.path)
        check_codec(tif.pages.first, file.path)
        series = first_series(tif, offsets, repairs)
        for complaint in complaints:
            repairs.assume(f"tifffile reports {complaint!r:.200}", "ignoring it")
        names, dims_error = dims_of_names(series.axes, series.shape, file.path)
        dims, order = order_axes(names, file.path)
        source = source_of(file, tif, series, order)
    opened = Opened(
        source=source,
        dims=dims,
        voxel_size={d: v for d, v in series.voxel_size.items() if d in dims},
        unit=series.unit,
        coords=series.coords,
        attrs=repairs.attrs,
        name=PurePath(file.path).stem.removesuffix(".ome"),
        dims_error=dims_error,
    )
    return opened if series.labels is None else with_labels(opened, series.labels)


def with_labels(opened: Opened, labels: Labels) -> Opened:
    """Return the array with the labels of our writer; a spacing that was edited since is kept."""
    sizes, unit = common_unit({d: (v, labels.unit) for d, v in labels.voxel_size.items()})
    same = sizes.keys() == opened.voxel_size.keys() and all(
        isclose(v, opened.voxel_size[d], rel_tol=1e-6) for d, v in sizes.items()
    )
    attrs, name = {**labels.attrs, **opened.attrs}, labels.name or opened.name
    opened = replace(opened, attrs=attrs, name=name)
    if same and unit == opened.unit:
        return replace(
            opened,
            voxel_size=labels.voxel_size,
            unit=labels.unit,
            origin=labels.origin,
            coords=labels.coords,
            without_coords=labels.without_coords,
        )
    changed = labels.voxel_size.keys() | opened.voxel_size.keys()
    return replace(
        opened,
        coords={n: coord for n, coord in labels.coords.items() if n not in changed},
        without_coords=tuple(d for d in labels.without_coords if d not in changed),
    )


def check_kind(tif: Any, where: str) -> None:
    """Raise FormatError for vendor files whose planes are not their pages."""
    kind = next((kind for kind in UNSUPPORTED if getattr(tif, f"is_{kind}")), None)
    if kind:
        raise FormatError(f"{where}: lazyvol has no reader for {kind.upper()} files; {BIOIO}")


def first_series(tif: Any, offsets: tuple[int, ...], repairs: Repairs) -> Series:
    """Return the first series, from OME-XML if the file has it, otherwise from tifffile."""
    first = tif.pages.first
    if is_ome(first.description):
        root = parse_xml(first.description, repairs.where)
        ome = parse_planes(root, len(offsets), repairs.where)
        pages = tuple(offsets[page] for page in ome.pages)
        stored = ome.axes + first.axes, ome.shape + first.shape
        labels = stored_labels(root, first.dtype, *stored, repairs.where)
        kept = "" if labels is None else "".join(TIFF_AXES[dim] for dim in labels.dims)
        axes, shape = squeeze(ome.axes, ome.shape, kept)
        axes, shape = axes + first.axes, shape + first.shape
        return Series(axes, shape, pages, None, ome.voxel_size, ome.unit, ome.coords, labels)
    series = tif.series[0]
    if len(tif.series) > 1:
        shapes = ", ".join(str(s.shape) for s in tif.series[:5])
        repairs.assume(f"pages must form one series, found {shapes}", "reading the first")
    pages = tuple(page.offset for page in series.pages)
    spacing, unit = imagej_spacing(tif, first)
    coords = imagej_acquisition(tif.imagej_metadata or {}, series.axes, series.shape)
    return Series(series.axes, series.shape, pages, series.dataoffset, spacing, unit, coords)


def stored_labels(
    root: Element, dtype: Any, axes: str, shape: tuple[int, ...], where: str
) -> Labels | None:
    """Return the labels of our writer; None if there are none or the array changed since."""
    text = comment_text(root, RECORD_KEY)
    if text is None:
        return None
    try:
        content = json.loads(text)
        letters = [TIFF_AXES[dim] for dim in content["dims"]]
        lengths = tuple(content["shape"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"{where}: its annotation {RECORD_KEY!r} is damaged: {error!r:.80}"
        ) from error
    known = dict(zip(axes, shape, strict=True))
    same = tuple(known.get(a) for a in letters) == lengths and prod(lengths) == prod(shape)
    if not same or dtype is None:
        return None
    labels = decode_record(content, lengths, np.dtype(dtype), where)
    if any(isinstance(values, ArrayReference) for _, values, *_ in labels.coords.values()):
        raise FormatError(f"{where}: its annotation {RECORD_KEY!r} must hold all coordinates")
    return labels


def squeeze(axes: str, shape: tuple[int, ...], kept: str) -> tuple[str, tuple[int, ...]]:
    """Remove the axes of length 1 that are not ``kept``."""
    remaining = [(a, n) for a, n in zip(axes, shape, strict=True) if n > 1 or a in kept]
    return "".join(a for a, _ in remaining), tuple(n for _, n in remaining)


def imagej_spacing(tif: Any, page: Any) -> tuple[dict[str, float], str]:
    """Return the spacing in the unit of ImageJ; a resolution in dots per inch is ignored."""
    metadata = tif.imagej_metadata or {}
    sizes = {"z": metadata.get("spacing", 0.0), "y": pixel_size(page, "YResolution")}
    sizes["x"] = pixel_size(page, "XResolution")
    unit = str(metadata.get("unit", ""))
    numbers = {d: v for d, v in sizes.items() if isinstance(v, int | float)}
    return common_unit({dim: (float(v), unit) for dim, v in numbers.items()})


def imagej_acquisition(
    metadata: Mapping[str, Any], axes: str, shape: tuple[int, ...]
) -> dict[str, Coord]:
    """Return the times of the frames, and labels that depend on the channel alone as its names."""
    sizes = dict(zip(axes, shape, strict=True))
    step, labels = metadata.get("finterval", 0.0), metadata.get("Labels", ())
    times = regular_times(sizes.get("T", 1), step) if isinstance(step, int | float) else {}
    planes = [n for axis, n in sizes.items() if axis not in "YXS"]
    if "C" not in sizes or "S" in sizes or len(labels) != prod(planes):
        return times
    order = [axis for axis in axes if axis not in "YXS"]
    names = np.moveaxis(np.array(labels).reshape(planes), order.index("C"), 0)
    names = names.reshape(len(names), -1)
    same = (names == names[:, :1]).all() and len(set(names[:, 0])) == len(names)
    return times | (channel_names(names[:, 0].tolist()) if same else {})


def pixel_size(page: Any, tag: str) -> float:
    """Return units per pixel from a tag of pixels per unit; 0 if unknown.

    ImageJ writes 6 decimals: 0.666666 pixels per millimetre mean 1.5 mm.
    """
    value = page.tags.valueof(tag) or (0, 1)
    pixels, units = value
    return float(f"{units / pixels:.6g}") if pixels else 0.0


def source_of(file: StoredFile, tif: Any, series: Series, order: tuple[int, ...]) -> Source:
    """Return a flat source if the data are contiguous, otherwise one that decodes pages."""
    page = tif.pages.first
    where = file.path
    count_elements(series.shape, where)
    if page.dtype is None:
        raise FormatError(
            f"{where}: samples must be of a numpy dtype, found {page.bitspersample} bits of format "
            f"{page.sampleformat}"
        )
    dtype = check_dtype(np.dtype(page.dtype), where)
    if series.offset is not None:
        stored = dtype.newbyteorder(tif.byteorder).str
        split_axes = min(1, len(series.shape) - len(page.shape))
        layout = Layout(series.offset, stored, series.shape, order, split_axes)
        return array_source(file, None, layout, Repairs(where, permissive=True))
    depth = len(series.shape) - len(page.shape)
    grid = series.shape[:depth]
    if series.shape[depth:] != page.shape or prod(grid) != len(series.pages):
        raise FormatError(
            f"{where}: the metadata promise {series.shape} ({series.axes}), the file has "
            f"{len(series.pages)} pages of {page.shape}"
        )
    return paged_source(file, tif, series.pages, grid, order)
