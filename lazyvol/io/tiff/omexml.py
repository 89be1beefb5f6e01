"""OME-XML in a TIFF file: which page is which plane, and how far voxels are apart."""

from dataclasses import dataclass
from math import prod
from xml.etree import ElementTree

from lazyvol.errors import FormatError, LimitExceeded, MissingChunkError, UnsafeSourceError
from lazyvol.io.axes import common_unit

MAX_XML = 64 << 20
DEFAULT_UNIT = "\u00b5m"


@dataclass(frozen=True)
class Planes:
    """First image of an OME-TIFF: its leading axes and the page of every plane."""

    axes: str
    shape: tuple[int, ...]
    pages: tuple[int, ...]
    voxel_size: dict[str, float]
    unit: str


def is_ome(description: str) -> bool:
    """Whether an image description is OME-XML."""
    return description.rstrip()[-4:] == "OME>"


def planes(description: str, pages: int, where: str) -> Planes:
    """Planes of the first image in a file of ``pages`` pages.

    Raises
    ------
    FormatError
        The XML breaks OME's rules.
    MissingChunkError
        A plane has no page in this file.
    UnsafeSourceError
        The XML defines entities.
    """
    pixels = first_pixels(description, where)
    try:
        return read(pixels, pages, where)
    except (KeyError, ValueError) as error:
        raise FormatError(f"{where}: the OME-XML breaks OME's rules: {error!r}") from error


def comment(description: str, space: str, where: str) -> str | None:
    """Text of the first comment in a name space; None where there is none."""
    notes = (e for e in tree(description, where).iter() if e.tag.endswith("}CommentAnnotation"))
    note = next((n for n in notes if n.attrib.get("Namespace") == space), None)
    value = None if note is None else next((e for e in note if e.tag.endswith("}Value")), None)
    return None if value is None else value.text


def first_pixels(description: str, where: str) -> ElementTree.Element:
    """The ``Pixels`` element of the first image."""
    root = tree(description, where)
    found = next((e for image in root for e in image if e.tag.endswith("}Pixels")), None)
    if found is None:
        raise FormatError(f"{where}: the OME-XML holds no image")
    return found


def tree(description: str, where: str) -> ElementTree.Element:
    """OME-XML of bounded size, without entities."""
    if len(description) > MAX_XML:
        raise LimitExceeded(f"{where}: OME-XML may have {MAX_XML} bytes, found {len(description)}")
    if "<!DOCTYPE" in description or "<!ENTITY" in description:
        raise UnsafeSourceError(f"{where}: OME-XML must not define entities")
    try:
        return ElementTree.fromstring(description)
    except ElementTree.ParseError as error:
        raise FormatError(f"{where}: the OME-XML is no XML: {error}") from error


def read(pixels: ElementTree.Element, pages: int, where: str) -> Planes:
    """Planes of one image; sizes are checked against the number of pages."""
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
    return Planes(axes, shape, page_of_planes(pixels, axes, shape, pages, where), spacing, unit)


def samples_per_pixel(pixels: ElementTree.Element) -> int:
    """Samples of each pixel, the same in all channels."""
    channels = [e for e in pixels if e.tag.endswith("}Channel")]
    counts = {int(c.attrib.get("SamplesPerPixel", 1)) for c in channels} or {1}
    if len(counts) > 1 or min(counts) < 1:
        raise ValueError(f"channels of {sorted(counts)} samples")
    return counts.pop()


def page_of_planes(
    pixels: ElementTree.Element, axes: str, shape: tuple[int, ...], pages: int, where: str
) -> tuple[int, ...]:
    """Page of every plane in C order."""
    table: dict[int, int] = {}
    for data in (e for e in pixels if e.tag.endswith("}TiffData")):
        first = 0
        for axis, length in zip(axes, shape, strict=True):
            first = first * length + int(data.attrib.get(f"First{axis}", 0))
        count = int(data.attrib.get("PlaneCount", 1 if "IFD" in data.attrib else pages))
        page = int(data.attrib.get("IFD", 0))
        if min(first, count, page) < 0:
            raise ValueError(f"TiffData {data.attrib}")
        room = max(0, min(count, pages - page, prod(shape) - first))
        table.update((first + i, page + i) for i in range(room if len(table) < prod(shape) else 0))
    missing = prod(shape) - len(table)
    if missing:
        raise MissingChunkError(f"{where}: {missing} of {prod(shape)} OME planes have no page here")
    return tuple(table[plane] for plane in range(prod(shape)))


def voxel_size(pixels: ElementTree.Element) -> tuple[dict[str, float], str]:
    """Spacing per dim and its unit."""
    sizes = {}
    for axis in "ZYX":
        value = float(pixels.attrib.get(f"PhysicalSize{axis}", 0))
        unit = pixels.attrib.get(f"PhysicalSize{axis}Unit", DEFAULT_UNIT)
        sizes[axis.lower()] = (value, unit)
    return common_unit(sizes)
