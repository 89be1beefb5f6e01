"""Parse the OME-XML of a TIFF file: the page of every plane, and the voxel size."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from xml.etree import ElementTree

from lazyvol.errors import FormatError, LimitExceeded, MissingChunkError, UnsafeSourceError
from lazyvol.io.axes import channel_names, common_unit, regular_times
from lazyvol.io.faults import library_errors
from lazyvol.io.zarr.labels import Coord, Coords

MAX_XML = 64 << 20
DEFAULT_UNIT = "\u00b5m"


@dataclass(frozen=True)
class Planes:
    """The first image of an OME-TIFF: its leading axes, the page of every plane, and labels."""

    axes: str
    shape: tuple[int, ...]
    pages: tuple[int, ...]
    voxel_size: dict[str, float]
    unit: str
    coords: Coords


def is_ome(description: str) -> bool:
    """Return True if an image description is OME-XML."""
    return description.rstrip()[-4:] == "OME>"


def parse_planes(root: ElementTree.Element, pages: int, where: str) -> Planes:
    """Return the planes of the first image in a file of ``pages`` pages.

    Raises
    ------
    FormatError
        The XML breaks the rules of OME.
    MissingChunkError
        A plane has no page in the file.
    """
    pixels = first_pixels(root, where)
    try:
        return _planes_of(pixels, pages, where)
    except (KeyError, ValueError) as error:
        raise FormatError(f"{where}: the OME-XML must follow OME, but: {error!r}") from error


def comment_text(root: ElementTree.Element, namespace: str) -> str | None:
    """Return the text of the first comment annotation in a namespace; None if there is none."""
    comments = (e for e in root.iter() if e.tag.endswith("}CommentAnnotation"))
    comment = next((c for c in comments if c.attrib.get("Namespace") == namespace), None)
    values = () if comment is None else (e for e in comment if e.tag.endswith("}Value"))
    value = next(iter(values), None)
    return None if value is None else value.text


def first_pixels(root: ElementTree.Element, where: str) -> ElementTree.Element:
    """Return the ``Pixels`` element of the first image."""
    pixels = next((e for image in root for e in image if e.tag.endswith("}Pixels")), None)
    if pixels is None:
        raise FormatError(f"{where}: the OME-XML must hold an image, found none")
    return pixels


def parse_xml(description: str, where: str) -> ElementTree.Element:
    """Parse XML; raise if it is too large or defines entities."""
    if len(description) > MAX_XML:
        raise LimitExceeded(f"{where}: XML may have {MAX_XML} bytes, found {len(description)}")
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise UnsafeSourceError(f"{where}: XML must not define entities")
    with library_errors(where, "the XML is not valid"):
        return ElementTree.fromstring(description)


def _planes_of(pixels: ElementTree.Element, pages: int, where: str) -> Planes:
    """Return the planes of one image; raise MissingChunkError if there are too few pages."""
    axes = "".join(reversed(pixels.attrib["DimensionOrder"]))[:-2]
    samples = samples_per_pixel(pixels)
    sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in axes}
    sizes["C"] //= samples
    shape = tuple(sizes[axis] for axis in axes)
    if min(shape) < 1 or prod(shape) > pages:
        raise MissingChunkError(
            f"{where}: OME-XML promises {'x'.join(map(str, shape))} ({axes}) planes, the file has "
            f"{pages} pages; open the files of a set as a list"
        )
    spacing, unit = voxel_size(pixels)
    places = pages_of_planes(pixels, axes, shape, pages, where)
    return Planes(axes, shape, places, spacing, unit, acquisition(pixels, sizes, samples))


def samples_per_pixel(pixels: ElementTree.Element) -> int:
    """Return the samples per pixel; raise ValueError if channels differ."""
    channels = [e for e in pixels if e.tag.endswith("}Channel")]
    counts = {int(c.attrib.get("SamplesPerPixel", 1)) for c in channels} or {1}
    if len(counts) > 1 or min(counts) < 1:
        raise ValueError(f"SamplesPerPixel must agree, found {sorted(counts)}")
    return counts.pop()


def acquisition(
    pixels: ElementTree.Element, sizes: Mapping[str, int], samples: int
) -> dict[str, Coord]:
    """Return the names of the channels and the times of the frames, where they are given."""
    names = [e.attrib.get("Name", "") for e in pixels if e.tag.endswith("}Channel")]
    known = channel_names(names) if samples == 1 and len(names) == sizes["C"] else {}
    step, unit = pixels.attrib.get("TimeIncrement", 0), pixels.attrib.get("TimeIncrementUnit", "s")
    return known | regular_times(sizes["T"], float(step), unit)


def pages_of_planes(
    pixels: ElementTree.Element, axes: str, shape: tuple[int, ...], pages: int, where: str
) -> tuple[int, ...]:
    """Return the page of every plane, planes in C order."""
    page_of: dict[int, int] = {}
    for data in (e for e in pixels if e.tag.endswith("}TiffData")):
        first = 0
        for axis, length in zip(axes, shape, strict=True):
            first = first * length + int(data.attrib.get(f"First{axis}", 0))
        count = int(data.attrib.get("PlaneCount", 1 if "IFD" in data.attrib else pages))
        page = int(data.attrib.get("IFD", 0))
        if min(first, count, page) < 0:
            raise ValueError(f"TiffData {data.attrib}")
        usable = max(0, min(count, pages - page, prod(shape) - first))
        usable = usable if len(page_of) < prod(shape) else 0
        page_of.update((first + i, page + i) for i in range(usable))
    missing = prod(shape) - len(page_of)
    if missing:
        raise MissingChunkError(
            f"{where}: {missing} of {prod(shape)} OME planes have no page in this file"
        )
    return tuple(page_of[plane] for plane in range(prod(shape)))


def voxel_size(pixels: ElementTree.Element) -> tuple[dict[str, float], str]:
    """Return the spacing by dim and its unit."""
    sizes = {}
    for axis in "ZYX":
        value = float(pixels.attrib.get(f"PhysicalSize{axis}", 0))
        unit = pixels.attrib.get(f"PhysicalSize{axis}Unit", DEFAULT_UNIT)
        sizes[axis.lower()] = (value, unit)
    return common_unit(sizes)
