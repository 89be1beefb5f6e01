"""Read the XML file of BigDataViewer, which describes the setups of an HDF5 file."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from xml.etree.ElementTree import Element

from lazyvol.errors import FormatError, UnsafeSourceError
from lazyvol.io.axes import parse_unit
from lazyvol.io.flat_file import stored_file
from lazyvol.io.tiff.omexml import MAX_XML, parse_xml

SUFFIX = ".xml"
ROOT = "SpimData"
LOADER = "bdv.hdf5"


@dataclass(frozen=True)
class Setups:
    """Setups of BigDataViewer: their axis, names, voxel size along x, y, z, and unit."""

    axis: str = "setup"
    names: Mapping[int, str] = field(default_factory=dict)
    voxel_size: Sequence[float] = ()
    unit: str = "voxel"


def read(path: str) -> tuple[str, Setups]:
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


def beside(path: str) -> Setups:
    """Return the setups of the XML file next to an HDF5 file; unnamed ones if there is none."""
    xml = Path(path).with_suffix(SUFFIX)
    if not xml.is_file():
        return Setups()
    target, setups = read(str(xml))
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
