"""TIFF files: pages, axes, units, OME-XML, and false structures."""

import struct
import time
import tracemalloc
import zlib
from functools import partial

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import (
    FormatError,
    LabelError,
    LimitExceeded,
    MissingChunkError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io import tiff
from lazyvol.io.flat_file import FlatFileSource
from lazyvol.io.tiff import pages as tiff_pages
from lazyvol.io.tiff import scan
from lazyvol.plan.regions import whole
from tests.allocations import least_peak
from tests.io.reader_cases import check_source, values

SHAPE = (5, 7, 11)
FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FILES
@given(
    compressed=st.booleans(),
    tiled=st.booleans(),
    big=st.booleans(),
    order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "i2", "f4", "f8"]),
    predicted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_tiff_pages(tmp_path, compressed, tiled, big, order, dtype, predicted, seed):
    array = values((4, 37, 53), seed=seed).astype(dtype)
    options = {
        "compression": "zlib" if compressed else None,
        "tile": (16, 32) if tiled else None,
        "rowsperstrip": None if tiled else 5,
        "predictor": predicted and compressed and dtype[0] in "ui",
    }
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, bigtiff=big, byteorder=order, photometric="minisblack", **options)
    opened = tiff.probe(path)
    assert opened.dims == ("z", "y", "x")
    assert isinstance(opened.source, FlatFileSource) == (not compressed and not tiled)
    check_source(opened.source, array, tries=5, seed=seed)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize(
    ("axes", "shape", "dims", "turn"),
    [
        ("TZYX", (3, 4, 5, 6), ("k", "z", "y", "x"), (0, 1, 2, 3)),
        ("TZCYX", (3, 4, 2, 5, 6), ("k", "channel", "z", "y", "x"), (0, 2, 1, 3, 4)),
        ("ZCYX", (4, 2, 5, 6), ("channel", "z", "y", "x"), (1, 0, 2, 3)),
        ("TYX", (4, 5, 6), ("k", "y", "x"), (0, 1, 2)),
        ("ZYX", (4, 5, 6), ("z", "y", "x"), (0, 1, 2)),
    ],
)
def test_imagej_axes_and_spacing(tmp_path, axes, shape, dims, turn, compression):
    array = values(shape).astype("u2")
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        array,
        imagej=True,
        compression=compression,
        resolution=(4.0, 2.0),
        metadata={"axes": axes, "spacing": 3.0, "unit": "um"},
    )
    opened = tiff.probe(path)
    assert opened.dims == dims
    assert opened.unit == "micrometer"
    assert opened.voxel_size == {
        d: v for d, v in {"z": 3.0, "y": 0.5, "x": 0.25}.items() if d in dims
    }
    check_source(opened.source, array.transpose(turn), tries=4)


@pytest.mark.parametrize(
    ("word", "unit", "size"),
    [
        ("nm", "nanometer", 0.25),
        ("\\u00B5m", "micrometer", 0.25),
        ("micron", "micrometer", 0.25),
        ("mm", "millimeter", 0.25),
        ("cm", "millimeter", 2.5),
        ("inch", "millimeter", 6.35),
        ("A", "angstrom", 0.25),
        ("pixel", "voxel", None),
        ("", "voxel", None),
    ],
)
def test_imagej_units(tmp_path, word, unit, size):
    path = tmp_path / "a.tif"
    facts = {"axes": "ZYX", "unit": word}
    tifffile.imwrite(
        path, values(SHAPE).astype("u2"), imagej=True, resolution=(4, 4), metadata=facts
    )
    opened = tiff.probe(path)
    assert opened.unit == unit
    assert opened.voxel_size == ({} if size is None else pytest.approx({"y": size, "x": size}))


def test_imagej_writes_six_decimals(tmp_path):
    facts = {"axes": "ZYX", "unit": "mm"}
    options = {"resolution": ((666666, 1000000), (666666, 1000000)), "metadata": facts}
    tifffile.imwrite(tmp_path / "a.tif", values(SHAPE).astype("u2"), imagej=True, **options)
    assert tiff.probe(tmp_path / "a.tif").voxel_size == {"y": 1.5, "x": 1.5}


def test_ome_names_its_channels_and_times(tmp_path):
    path = tmp_path / "a.tif"
    facts = {
        "axes": "TCZYX", "TimeIncrement": 0.5, "TimeIncrementUnit": "min",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    array = values((3, 2, 4, 5, 6)).astype("u2")
    tifffile.imwrite(path, array, ome=True, metadata=facts)
    stack = lv.open(path)
    assert stack.channel.values.tolist() == ["DAPI", "GFP"]
    assert stack.time.values.tolist() == [0.0, 30.0, 60.0]
    np.testing.assert_array_equal(stack.sel(channel="GFP"), array[:, 1])
    facts = {"axes": "ZYX", "Channel": {"Name": "GFP"}}
    tifffile.imwrite(path, values((4, 5, 6)).astype("u2"), ome=True, metadata=facts)
    assert (str(lv.open(path).channel.values), lv.open(path).dims) == ("GFP", ("z", "y", "x"))


def test_imagej_names_its_channels_and_times(tmp_path):
    path = tmp_path / "a.tif"
    array = values((3, 4, 2, 5, 6)).astype("u2")
    named = {"axes": "TZCYX", "finterval": 2.5, "Labels": ["DAPI", "GFP"] * 12}
    tifffile.imwrite(path, array, imagej=True, metadata=named)
    stack = lv.open(path)
    assert stack.channel.values.tolist() == ["DAPI", "GFP"]
    assert stack.time.values.tolist() == [0.0, 2.5, 5.0]
    numbered = {**named, "Labels": [f"slice {n}" for n in range(24)], "finterval": 0.0}
    tifffile.imwrite(path, array, imagej=True, metadata=numbered)
    assert set(lv.open(path).coords) == {"z", "y", "x"}


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [("lzw", None), ("zstd", None), ("packbits", None), ("jpeg", None), ("zlib", 3), ("lzw", 2)],
)
def test_codecs_of_imagecodecs(tmp_path, compression, predictor):
    pytest.importorskip("imagecodecs")
    array = values((4, 37, 53)).astype("f4" if predictor == 3 else "u1")
    path = tmp_path / "a.tif"
    options = {"compression": compression, "predictor": predictor, "photometric": "minisblack"}
    tifffile.imwrite(path, array, **options)
    check_source(tiff.probe(path).source, tifffile.imread(path), tries=2)


@pytest.mark.parametrize("part", ["DECOMPRESSORS", "UNPREDICTORS"])
def test_a_codec_that_is_not_installed_is_named_when_a_file_is_opened(tmp_path, part, monkeypatch):
    pytest.importorskip("imagecodecs")
    array = values((37, 53)).astype("f4")
    options = {"compression": "lzw", "predictor": 3}
    tifffile.imwrite(tmp_path / "a.tif", array, **options)
    monkeypatch.setattr(tifffile.TIFF, part, {}, raising=False)
    with pytest.raises(FormatError, match=r"LZW .* predictor 3 needs imagecodecs; pip install"):
        tiff.probe(tmp_path / "a.tif")


def test_axes_without_names(tmp_path):
    path = tmp_path / "a.tif"
    for shape, dims in (((2, 3, 5, 6), "kzyx"), ((4, 2, 3, 5, 6), ("k", "channel", "z", "y", "x"))):
        tifffile.imwrite(path, values(shape), photometric="minisblack")
        opened = tiff.probe(path)
        assert opened.dims == tuple(dims)
        check_source(opened.source, values(shape), tries=3)
    tifffile.imwrite(path, values((1, 2, 3, 2, 5, 6)), photometric="minisblack")
    with pytest.raises(LabelError, match="at most 3"):
        lv.open(path)
    opened = lv.open(path, dims=("a", "b", "c", "k", "y", "x"))
    np.testing.assert_array_equal(opened, values((1, 2, 3, 2, 5, 6)))


def test_named_axes_leave_the_rest_to_the_nameless(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, values((2, 3, 5, 6)), photometric="minisblack", metadata={"axes": "QZYX"}
    )
    assert tiff.probe(path).dims == ("k", "z", "y", "x")
    tifffile.imwrite(
        path, values((2, 3, 5, 6)), photometric="minisblack", metadata={"axes": "TQYX"}
    )
    assert tiff.probe(path).dims == ("k", "z", "y", "x")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_colours_come_before_space(tmp_path, planar, compression):
    colours = values((6, 5, 7, 3)).astype("u1")
    stored = colours if planar == "contig" else colours.transpose(0, 3, 1, 2)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, compression=compression)
    opened = tiff.probe(path)
    assert opened.dims == ("channel", "z", "y", "x")
    check_source(opened.source, colours.transpose(3, 0, 1, 2), tries=4)


def classic(entries: list[tuple[int, int, int, int]], after: int = 0, data: bytes = b"") -> bytes:
    """Return a little-endian TIFF of one page with the given tags."""
    tags = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + tags + struct.pack("<I", after) + data


def page(width: int, height: int, compression: int, offset: int, count: int) -> list:
    """Tags of a page of bytes in one strip."""
    words = {256: width, 257: height, 273: offset, 278: height, 279: count}
    shorts = {258: 8, 259: compression, 262: 1, 277: 1}
    return [
        *((tag, 4, 1, value) for tag, value in words.items()),
        *((tag, 3, 1, value) for tag, value in shorts.items()),
    ]


DATA_AT = 8 + 2 + 9 * 12 + 4


def test_a_page_as_written_by_hand(tmp_path):
    array = values((3, 4)).astype("u1")
    path = tmp_path / "a.tif"
    path.write_bytes(classic(page(4, 3, 1, DATA_AT, 12), data=array.tobytes()))
    check_source(tiff.probe(path).source, array)
    packed = zlib.compress(array.tobytes())
    path.write_bytes(classic(page(4, 3, 8, DATA_AT, len(packed)), data=packed))
    check_source(tiff.probe(path).source, array)


def tile(width: int, count: int, data: bytes) -> bytes:
    """TIFF of a page of 4 x 3 bytes in one deflated tile."""
    words = {256: 4, 257: 3, 322: width, 323: width, 324: DATA_AT + 12, 325: count}
    shorts = {258: 8, 259: 8, 262: 1, 277: 1}
    entries = [(tag, 4, 1, value) for tag, value in words.items()]
    return classic([*entries, *((tag, 3, 1, value) for tag, value in shorts.items())], data=data)


def test_a_tile_may_be_larger_than_its_page(tmp_path):
    block = values((1, 256, 256)).astype("u1")[0]
    packed = zlib.compress(block.tobytes())
    (tmp_path / "a.tif").write_bytes(tile(256, len(packed), packed))
    check_source(tiff.probe(tmp_path / "a.tif").source, block[:3, :4])


TIFF_LIES = {
    "huge tile": (tile(1 << 20, 12, bytes(12)), LimitExceeded),
    "empty": (b"", FormatError),
    "four bytes": (b"II*\0", FormatError),
    "version": (b"II\x07\0" + bytes(20), FormatError),
    "no page": (b"II*\0" + bytes(8), FormatError),
    "first page outside": (b"II*\0" + struct.pack("<I", 999), TruncatedError),
    "cut tags": (classic(page(4, 3, 1, DATA_AT, 12))[:60], TruncatedError),
    "loop": (classic(page(4, 3, 1, DATA_AT, 12), after=8, data=bytes(12)), FormatError),
    "next outside": (
        classic(page(4, 3, 1, DATA_AT, 12), after=9999, data=bytes(12)),
        TruncatedError,
    ),
    "data outside": (classic(page(4, 3, 1, DATA_AT, 12), data=bytes(11)), TruncatedError),
    "packed outside": (classic(page(4, 3, 8, DATA_AT, 13), data=bytes(12)), TruncatedError),
    "data short": (classic(page(4, 3, 1, DATA_AT, 8), data=bytes(8)), TruncatedError),
    "huge plain": (classic(page(2**31, 2**31, 1, DATA_AT, 12), data=bytes(12)), TruncatedError),
    "huge packed": (classic(page(2**31, 2**31, 8, DATA_AT, 12), data=bytes(12)), LimitExceeded),
    "no data": (classic(page(4, 3, 8, 0, 12), data=bytes(12)), MissingChunkError),
    "lzma": (classic(page(4, 3, 34925, DATA_AT, 12), data=bytes(12)), UnsafeSourceError),
    "unknown": (classic(page(4, 3, 1234, DATA_AT, 12), data=bytes(12)), UnsafeSourceError),
    "many tags": (b"II*\0" + struct.pack("<IH", 8, 60000) + bytes(720010), LimitExceeded),
    "sub-pages": (
        classic([*page(4, 3, 1, DATA_AT + 12, 12), (330, 4, 2**30, 0)], data=bytes(12)),
        LimitExceeded,
    ),
}


@pytest.mark.parametrize("lie", TIFF_LIES)
def test_tiffs_that_lie(tmp_path, lie, capfd):
    content, error = TIFF_LIES[lie]
    (tmp_path / "a.tif").write_bytes(content)
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises(error, match=r"a\.tif"):
            tiff.probe(tmp_path / "a.tif")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 1.0
    assert capfd.readouterr() == ("", "")


def test_a_long_loop_of_pages_ends(tmp_path):
    # tifffile 2026.3 looks for loops at page 100 only: a ring of 250 pages never ends there
    step = 2 + 12 + 4
    pages = [struct.pack("<HHHIII", 1, 256, 4, 1, 4, 8 + (n + 1) % 250 * step) for n in range(250)]
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + b"".join(pages))
    with pytest.raises(FormatError, match="page 250 points back"):
        tiff.probe(tmp_path / "a.tif")


def test_pages_are_capped(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", values((5, 4, 4)), photometric="minisblack", metadata=None)
    monkeypatch.setattr(scan, "MAX_PAGES", 4)
    with pytest.raises(LimitExceeded, match="4 pages"):
        tiff.probe(tmp_path / "a.tif")


def test_one_strip_for_all_rows(tmp_path):
    # many programs write 2**32 - 1 rows per strip
    content = page(4, 3, 8, DATA_AT, 0)
    packed = zlib.compress(bytes(range(12)))
    facts = {278: 2**32 - 1, 279: len(packed)}
    entries = [(tag, kind, n, facts.get(tag, value)) for tag, kind, n, value in content]
    (tmp_path / "a.tif").write_bytes(classic(entries, data=packed))
    expected = np.arange(12, dtype="u1").reshape(3, 4)
    check_source(tiff.probe(tmp_path / "a.tif").source, expected)


def test_a_deflate_bomb_is_not_inflated(tmp_path):
    packed = zlib.compress(bytes(256 << 20), 9)
    count = len(packed)
    path = tmp_path / "a.tif"
    # the page declares what the ratio allows, the stream holds a hundred times more
    path.write_bytes(classic(page(1000, 1000, 8, DATA_AT, count), data=packed))
    source = tiff.probe(path).source
    assert not source.read(whole((1000, 1000))).any()
    peak = least_peak(partial(source.read, whole((1000, 1000))))
    assert peak <= source.peak_bytes(whole((1000, 1000))) + (1 << 20)


def test_a_broken_deflate_stream(tmp_path):
    packed = zlib.compress(values((3, 4)).astype("u1").tobytes())
    for broken in (b"\0" * len(packed), packed[:6] + bytes(len(packed) - 6), packed[:4]):
        path = tmp_path / "a.tif"
        path.write_bytes(classic(page(4, 3, 8, DATA_AT, len(broken)), data=broken))
        with pytest.raises(FormatError):
            tiff.probe(path).source.read(whole((3, 4)))


def test_pages_that_differ(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for shape in ((5, 6), (5, 6), (4, 6)):
            file.write(values(shape), photometric="minisblack", metadata=None)
    with pytest.raises(FormatError, match=r"one series, found \(2, 5, 6\), \(4, 6\)"):
        tiff.probe(path)
    assert tiff.probe(path, permissive=True).source.shape == (2, 5, 6)


def test_what_tifffile_complains_of_is_an_error(tmp_path, caplog):
    content = classic([*page(4, 3, 1, DATA_AT + 12, 12), (65000, 77, 1, 0)], data=bytes(range(12)))
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(FormatError, match=r"tifffile reports .*invalid data type 77.*permissive"):
        tiff.probe(tmp_path / "a.tif")
    opened = tiff.probe(tmp_path / "a.tif", permissive=True)
    assert len(opened.attrs["repairs"]) == 1
    check_source(opened.source, np.arange(12, dtype="u1").reshape(3, 4))
    assert not caplog.records
    tifffile.logger().error("others still hear tifffile")
    assert len(caplog.records) == 1


def test_only_the_pages_of_a_region_are_decoded(tmp_path, monkeypatch):
    array = values((9, 20, 30))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, compression="zlib", photometric="minisblack")
    source = tiff.probe(path).source
    seen: list[int] = []
    original = tiff_pages.decode_page
    monkeypatch.setattr(
        tiff_pages,
        "decode_page",
        lambda page, file: seen.append(page.index) or original(page, file),
    )
    source.read((slice(3, 5), slice(2, 4), slice(0, 30)))
    assert seen == [3, 4]
    assert source.chunks == (1, 20, 30)


def test_vendor_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tifffile.TiffFile, "is_stk", True, raising=False)
    tifffile.imwrite(tmp_path / "a.tif", values((4, 4)))
    with pytest.raises(FormatError, match="no reader for STK files; open it with bioio"):
        tiff.probe(tmp_path / "a.tif")
