"""OME-TIFF files: planes in any order, and false XML."""

import numpy as np
import pytest
import tifffile

from lazyvol.errors import (
    FormatError,
    MissingChunkError,
    UnsafeSourceError,
)
from lazyvol.io import tiff
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source, values


@pytest.mark.parametrize("order", ["TZCYX", "TCZYX", "CTZYX"])
def test_ome_planes_in_any_order(tmp_path, order):
    sizes = {"T": 3, "Z": 4, "C": 2, "Y": 5, "X": 6}
    array = values([sizes[a] for a in order]).astype("u2")
    facts = {"axes": order, "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 500.0}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, array, ome=True, metadata={**facts, "PhysicalSizeZUnit": "nm"})
    opened = tiff.probe(path)
    assert opened.dims == ("k", "channel", "z", "y", "x")
    assert opened.name == "a"
    assert opened.unit == "micrometer"
    assert opened.voxel_size == pytest.approx({"x": 0.25, "y": 0.25, "z": 0.5})
    turned = array.transpose([order.index(a) for a in "TCZYX"])
    check_source(opened.source, turned, tries=4)
    np.testing.assert_array_equal(tifffile.imread(path), array)


OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0"><Pixels ID="P" DimensionOrder="XYZCT" Type="uint16" SizeX="6" SizeY="5" '
    'SizeZ="{z}" SizeC="1" SizeT="1">{data}</Pixels></Image></OME>'
)


def ome_file(path, z: int | str, data: str, prefix: str = "") -> None:
    """Return an OME-TIFF of 4 pages with the given description."""
    text = prefix + OME.format(z=z, data=data)
    array = values((4, 5, 6)).astype("u2")
    options = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(path, array, description=text.encode(), **options)


def test_ome_pages_may_be_shuffled(tmp_path):
    shuffle = (2, 0, 3, 1)
    data = "".join(f'<TiffData IFD="{page}" FirstZ="{z}"/>' for z, page in enumerate(shuffle))
    ome_file(tmp_path / "a.tif", 4, data)
    expected = values((4, 5, 6)).astype("u2")[list(shuffle)]
    check_source(tiff.probe(tmp_path / "a.tif").source, expected, tries=3)


@pytest.mark.parametrize(
    ("z", "data", "prefix", "error"),
    [
        (9, "<TiffData/>", "", MissingChunkError),
        (10**12, '<TiffData PlaneCount="1000000000000"/>', "", MissingChunkError),
        (4, '<TiffData IFD="0" PlaneCount="2"/>', "", MissingChunkError),
        (4, '<TiffData IFD="7"/>', "", MissingChunkError),
        (4, '<TiffData IFD="-1"/>', "", FormatError),
        (4, "", "", MissingChunkError),
        (0, "<TiffData/>", "", MissingChunkError),
        ("x", "<TiffData/>", "", FormatError),
        (4, "<TiffData>", "", FormatError),
        (4, '<Channel SamplesPerPixel="0"/><TiffData/>', "", FormatError),
        (4, "<TiffData/>", '<!DOCTYPE a [<!ENTITY b "c">]>', UnsafeSourceError),
    ],
)
def test_ome_that_lies(tmp_path, z, data, prefix, error):
    ome_file(tmp_path / "a.tif", z, data, prefix)
    with pytest.raises(error, match=r"a\.tif") as caught:
        tiff.probe(tmp_path / "a.tif")
    assert not isinstance(z, int) or z <= 4 or "planes, the file has 4 pages" in str(caught.value)


def test_a_page_that_differs_in_the_middle(tmp_path):
    array = values((20, 5, 6))
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, array, ome=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[3].tags[256].overwrite(5)
    source = tiff.probe(path).source
    region = (slice(4, 9), *whole((5, 6)))
    np.testing.assert_array_equal(source.read(region), array[region])
    with pytest.raises(FormatError, match=r"page 3 must be \(5, 6\) float32, found \(5, 5\)"):
        source.read(whole(source.shape))
