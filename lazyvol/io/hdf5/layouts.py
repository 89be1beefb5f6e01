"""Images that programs spread over many data sets of an HDF5 file.

Imaris 5.5
    ``/DataSet/ResolutionLevel 0/TimePoint t/Channel c/Data`` (z, y, x), padded to whole chunks;
    attributes hold the true size, and texts as arrays of letters. [1]_
BigDataViewer
    ``/t00000/s00/0/cells`` (z, y, x) for time point 0 and setup 0. Unsigned 16-bit integers are
    stored as signed ones. Sizes of voxels and names of setups are in an XML file. [2]_
EMAN2
    ``/MDF/images/0/image`` (z, y, x) or (y, x) for image 0; attributes of its group hold the size
    of a pixel in angstrom, and the range of numbers that were reduced to few bits. [3]_

References
----------
.. [1] Imaris 5.5 file format description, https://imaris.oxinst.com/support/imaris-file-format
.. [2] T. Pietzsch et al., "BigDataViewer: visualization and processing for large image data sets",
   Nature Methods 12, 481-483, 2015; https://imagej.net/plugins/bdv
.. [3] G. Tang et al., "EMAN2: an extensible image processing suite for electron microscopy",
   J. Struct. Biol. 157, 38-46, 2007; https://blake.bcm.edu/emanwiki/EMAN2ImageFormats
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, UnsafeSourceError
from lazyvol.io.axes import (
    channel_names,
    common_unit,
    known_sizes,
    order_axes,
    parse_unit,
    time_steps,
)
from lazyvol.io.faults import formats_library
from lazyvol.io.flat_file import StoredFile, stored_file
from lazyvol.io.hdf5.source import attribute, data_sets, dataset_at, node_at
from lazyvol.io.opened import Opened
from lazyvol.io.tiff.omexml import MAX_XML, parse_xml

SUFFIX = ".xml"
ROOT = "SpimData"
LOADER = "bdv.hdf5"
#: time points, channels or images of one file
MAX_MEMBERS = 1_000_000
LEVEL = "DataSet/ResolutionLevel 0"
IMAGES = "MDF/images"


@dataclass(frozen=True)
class Setups:
    """Setups of BigDataViewer: their axis, names, voxel size along x, y, z, and unit."""

    axis: str = "setup"
    names: Mapping[int, str] = field(default_factory=dict)
    voxel_size: Sequence[float] = ()
    unit: str = "voxel"


def read_spim_data(path: str) -> tuple[str, Setups]:
    """Return the HDF5 file that an XML file describes, and its setups.

    Raises
    ------
    FormatError
        The file is not XML of BigDataViewer, or the data are not in HDF5.
    UnsafeSourceError
        The data are outside the folder of the file, or the XML defines entities.
    """
    file = stored_file(path)
    root = parse_xml(file.head(MAX_XML + 1).decode("utf-8", "replace"), file.path)
    if root.tag != ROOT:
        raise FormatError(
            f"{file.path}: an XML file must be of BigDataViewer ({ROOT}), found {root.tag!r:.40}"
        )
    loader = root.find("SequenceDescription/ImageLoader")
    found = None if loader is None else loader.get("format")
    name = None if loader is None else loader.findtext("hdf5")
    if found != LOADER or not name:
        raise FormatError(
            f"{file.path}: the data must be in an HDF5 file (image loader {LOADER}), found "
            f"{found!r:.40}; export them as XML/HDF5"
        )
    target = PurePath(name.strip())
    if target.is_absolute() or ".." in target.parts:
        raise UnsafeSourceError(
            f"{file.path}: the HDF5 file must be in the folder of the XML file, found {name!r:.80}"
        )
    return os.path.join(os.path.dirname(file.path), target), setups_of(root, file.path)


def setups_beside(path: str) -> Setups:
    """Return the setups of the XML file next to an HDF5 file; unnamed ones if there is none."""
    xml = Path(path).with_suffix(SUFFIX)
    if not xml.is_file():
        return Setups()
    target, setups = read_spim_data(str(xml))
    return setups if os.path.realpath(target) == os.path.realpath(path) else Setups()


def setups_of(root: Element, where: str) -> Setups:
    """Return the setups; their axis is ``channel`` if each has a channel of its own."""
    try:
        views = {
            int(view.findtext("id", "")): view
            for view in root.iterfind("SequenceDescription/ViewSetups/ViewSetup")
        }
        size = next((view.find("voxelSize") for view in views.values()), None)
        numbers = () if size is None else tuple(map(float, size.findtext("size", "").split()))
    except ValueError as error:
        raise FormatError(f"{where}: a setup must have numbers, but: {error}") from error
    channels = {view.findtext("attributes/channel", "") for view in views.values()}
    word = "" if size is None else size.findtext("unit", "")
    unit, factor = parse_unit(word) or ("voxel", 1.0)
    names = {number: view.findtext("name", "").strip() for number, view in views.items()}
    axis = "channel" if len(channels) == len(views) and "" not in channels else "setup"
    return Setups(axis, names, tuple(n * factor for n in numbers), unit)


def image(store: Any, file: StoredFile) -> Opened | None:
    """Return the image of a file in one of the layouts; None for other files."""
    if node_at(store, LEVEL, file.path) is not None:
        return imaris(store, file)
    if node_at(store, IMAGES, file.path) is not None:
        return eman2(store, file)
    if numbered(store, r"t(\d{5,})", file.path):
        return big_data_viewer(store, file, setups_beside(file.path))
    return None


def imaris(store: Any, file: StoredFile) -> Opened:
    """Return an image of Imaris (k, channel, z, y, x), with names of channels and times."""
    where = file.path
    times = numbered(node_at(store, LEVEL, where), r"TimePoint (\d+)", where)
    first = node_at(store, f"{LEVEL}/TimePoint {min(times, default=0)}", where)
    channels = numbered(first, r"Channel (\d+)", where)
    if not times or not channels:
        raise FormatError(f"{where}: an Imaris file must hold a channel, found none")
    name = f"{LEVEL}/TimePoint {{0}}/Channel {{1}}/Data"
    data = dataset_at(store, name.format(times[0], channels[0]), where)
    lengths = [int(letters(data.parent, f"ImageSize{axis}", where) or 0) for axis in "ZYX"]
    shape = tuple(lengths) if all(lengths) else data.shape
    if any(n > stored for n, stored in zip(shape, data.shape, strict=True)):
        raise FormatError(
            f"{where}: data set {data.name} must hold an image of {shape}, found {data.shape}"
        )
    info = node_at(store, "DataSetInfo/Image", where)
    sizes, origin, unit = imaris_extent(info, shape, where)
    names = [
        letters(node_at(store, f"DataSetInfo/Channel {c}", where), "Name", where) for c in channels
    ]
    seconds = imaris_times(node_at(store, "DataSetInfo/TimeInfo", where), times, where)
    return opened_parts(
        file,
        data,
        name,
        {"k": times, "channel": channels},
        shape,
        voxel_size=sizes,
        origin=origin,
        unit=unit,
        coords=time_steps(seconds) | channel_names(names),
    )


def imaris_extent(
    info: Any, shape: Sequence[int], where: str
) -> tuple[dict[str, float], dict[str, float], str]:
    """Return voxel size, position of the first voxel centre, and unit."""
    word = letters(info, "Unit", where) or "um"
    steps, starts = {}, {}
    for axis, (dim, length) in enumerate(zip("xyz", reversed(shape), strict=True)):
        low, high = (float(letters(info, f"Ext{end}{axis}", where) or 0) for end in ("Min", "Max"))
        steps[dim] = (high - low) / length
        starts[dim] = low + steps[dim] / 2
    sizes, unit = common_unit({d: (v, word) for d, v in steps.items()})
    return sizes, {d: starts[d] * sizes[d] / steps[d] for d in sizes}, unit


def imaris_times(info: Any, times: Sequence[int], where: str) -> list[float]:
    """Return seconds since the first time point; an empty list if a date is not known."""
    texts = [letters(info, f"TimePoint{t + 1}", where) for t in times]
    try:
        dates = np.array([text.strip().replace(" ", "T") for text in texts], "datetime64[us]")
    except ValueError:
        return []
    known = "" not in texts and not np.isnat(dates).any()
    return list((dates - dates[0]) / np.timedelta64(1, "s")) if known else []


def big_data_viewer(store: Any, file: StoredFile, setups: Setups) -> Opened:
    """Return an image of BigDataViewer (k, setup, z, y, x), at full resolution."""
    where = file.path
    times = numbered(store, r"t(\d{5,})", where)
    views = numbered(node_at(store, f"t{times[0]:05d}", where), r"s(\d{2,})", where)
    if not views:
        raise FormatError(f"{where}: time point {times[0]} must hold a setup, found none")
    name = "t{0:05d}/s{1:02d}/0/cells"
    data = dataset_at(store, name.format(times[0], views[0]), where)
    return opened_parts(
        file,
        data,
        name,
        {"k": times, setups.axis: views},
        data.shape,
        dtype="<u2" if data.dtype.kind == "i" and data.dtype.itemsize == 2 else None,
        voxel_size=known_sizes(dict(zip("xyz", setups.voxel_size, strict=False))),
        unit=setups.unit,
        coords=channel_names([setups.names.get(v, "") for v in views], setups.axis),
    )


def eman2(store: Any, file: StoredFile) -> Opened:
    """Return the images of EMAN2 (k, z, y, x) or (k, y, x); a single one without k."""
    where = file.path
    numbers = numbered(node_at(store, IMAGES, where), r"(\d+)", where)
    if not numbers:
        raise FormatError(f"{where}: an EMAN2 file must hold an image, found none")
    name = f"{IMAGES}/{{0}}/image"
    data = dataset_at(store, name.format(numbers[0]), where)
    if attribute(data.parent, "EMAN.is_complex", where):
        raise FormatError(f"{where}: images must be real, image {numbers[0]} is complex")
    sizes = {d: attribute(data.parent, f"EMAN.apix_{d}", where) for d in "zyx"[-data.ndim :]}
    known = known_sizes({d: float(v) for d, v in sizes.items() if v is not None})
    unit = "angstrom" if known else "voxel"
    return opened_parts(file, data, name, {"k": numbers}, data.shape, voxel_size=known, unit=unit)


def opened_parts(
    file: StoredFile,
    data: Any,
    name: str,
    members: Mapping[str, Sequence[int]],
    shape: tuple[int, ...],
    *,
    dtype: str | None = None,
    **labels: Any,
) -> Opened:
    """Return equal data sets, the first of them ``data``, without axes of length 1 before z."""
    if not 2 <= len(shape) <= 3:
        raise FormatError(
            f"{file.path}: data set {data.name} must have 2 or 3 axes, found {len(shape)}"
        )
    leading = [dim for dim, numbers in members.items() if len(numbers) > 1]
    dims, order = order_axes([*leading, *"zyx"[-len(shape) :]], file.path)
    source = data_sets(file, data, name, order, tuple(members.values()), shape, dtype)
    return Opened(source=source, dims=dims, name=PurePath(file.path).stem, **labels)


def numbered(group: Any, pattern: str, where: str) -> Sequence[int]:
    """Return the numbers in the names of members of a group, ascending."""
    h5py = formats_library("h5py", where)
    if not isinstance(group, h5py.Group):
        return ()
    if len(group) > MAX_MEMBERS:
        raise LimitExceeded(
            f"{where}: group {group.name} may have {MAX_MEMBERS} members, found {len(group)}"
        )
    matches = (re.fullmatch(pattern, name) for name in group)
    numbers = sorted(int(match[1]) for match in matches if match)
    run = range(numbers[0], numbers[-1] + 1) if numbers else ()
    return run if len(run) == len(numbers) else tuple(numbers)


def letters(node: Any, name: str, where: str) -> str:
    """Return an attribute as text, also if it is stored as an array of letters; "" if absent."""
    value = None if node is None else attribute(node, name, where)
    if isinstance(value, np.ndarray) and value.dtype.kind == "S":
        value = value.tobytes().decode("utf-8", "replace")
    return "" if value is None else str(value).strip("\0 ")
