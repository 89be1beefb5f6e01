"""LZW and JPEG segments of TIFF files that their decoders could not bear are refused before."""

import numpy as np
import pytest
import tifffile

import lazyvol as lv
from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io.tiff.streams import CLEAR, END, check_jpeg, check_lzw

imagecodecs = pytest.importorskip("imagecodecs")


def packed(codes, *, old=False):
    """Return codes of 9 bits as bytes, the highest bits first, in old files the lowest."""
    bits = "".join(f"{code:09b}"[:: -1 if old else 1] for code in codes)
    order = "little" if old else "big"
    return np.packbits([bit == "1" for bit in bits], bitorder=order).tobytes()


@pytest.mark.parametrize("old", [False, True])
def test_the_code_after_a_clear_code_must_be_a_byte(old):
    sound = packed([CLEAR, 65, 66, 258, CLEAR, CLEAR, 67, END, 300], old=old)
    check_lzw(sound, "a.tif")
    assert imagecodecs.lzw_decode(sound, out=5) == b"ABABC"
    for codes in ([CLEAR, 300, 65], [CLEAR, 65, 66, CLEAR, 258, 66, END]):
        with pytest.raises(FormatError, match=r"a\.tif: an LZW segment must begin anew"):
            check_lzw(packed(codes, old=old), "a.tif")


@pytest.mark.parametrize("values", [4, 256])
def test_streams_of_the_encoder_pass_with_longer_codes(values):
    """Random bytes of few values fill the table late; codes have all lengths up to 12 bits."""
    data = np.random.default_rng(values).integers(0, values, 40_000).astype("u1").tobytes()
    stream = imagecodecs.lzw_encode(data)
    for cut in (len(stream), -3, 3000):
        check_lzw(stream[:cut], "a.tif")


def test_clear_codes_without_end_are_refused():
    with pytest.raises(LimitExceeded, match="CLEAR code per 128 bytes"):
        check_lzw(packed([CLEAR] * 1000), "a.tif")


def test_a_file_is_checked_before_it_is_decoded(tmp_path):
    values = np.arange(60, dtype="u1").reshape(2, 5, 6)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, compression="lzw", photometric="minisblack")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tif:
        start, count = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    np.testing.assert_array_equal(lv.open(path), values)
    content[start : start + count] = packed([CLEAR, 400]).ljust(count, b"\0")
    path.write_bytes(content)
    with pytest.raises(FormatError, match="must begin anew with a byte, got code 400 at bit 9"):
        lv.open(path).compute()


def frame(height, width, components=1, marker=0xC0):
    size = height.to_bytes(2), width.to_bytes(2)
    return bytes([0xFF, marker, 0, 11, 8]) + b"".join(size) + bytes([components, 0, 0, 0])


def test_a_jpeg_frame_may_not_be_larger_than_its_segment():
    start, scan = b"\xff\xd8", b"\xff\xda\x00\x04ab"
    check_jpeg(start + frame(8, 8) + scan + frame(9, 9), 64, "a.tif")
    tables = b"\xff\xe1\x00\x12" + frame(99, 99).ljust(16, b"0")  # a picture in the facts
    check_jpeg(start + tables + frame(8, 8) + scan, 64, "a.tif")
    for cut in (b"", start, start[:1], start + b"\xff\xc0", start + frame(9, 9)[:6]):
        check_jpeg(cut, 64, "a.tif")
    for stream in (frame(9, 9), b"?\xff\xff" + frame(9, 9), frame(8, 8, 3), frame(9, 9, 1, 0xC2)):
        with pytest.raises(LimitExceeded, match=r"a\.tif: a JPEG segment may decode to 64 bytes"):
            check_jpeg(start + stream + scan, 64, "a.tif")


def test_a_file_whose_jpeg_declares_more_pixels_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    values = np.full((16, 16), 7, "u1")
    tifffile.imwrite(path, values, compression="jpeg", photometric="minisblack")
    np.testing.assert_array_equal(lv.open(path), values)
    content = path.read_bytes()
    assert content.count(frame(16, 16)[:9]) == 1
    path.write_bytes(content.replace(frame(16, 16)[:9], frame(65000, 65000)[:9]))
    with pytest.raises(LimitExceeded, match="it declares 65000 x 65000 pixels"):
        lv.open(path).compute()


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("compression", ["lzw", "jpeg", "zlib"])
def test_segments_are_read_once(compression, tile, tmp_path, monkeypatch):
    path = tmp_path / "a.tif"
    values = np.random.default_rng(1).integers(0, 256, (2, 40, 50)).astype("u1")
    options = {"photometric": "minisblack", "compression": compression, "tile": tile}
    tifffile.imwrite(path, values, **options)
    with tifffile.TiffFile(path) as tif:
        expected = tif.asarray()
        offsets = [offset for page in tif.pages for offset in page.dataoffsets]
    starts, seek = [], tifffile.FileHandle.seek

    def noted(self, offset, *whence):
        starts.append(offset)
        return seek(self, offset, *whence)

    monkeypatch.setattr(tifffile.FileHandle, "seek", noted)
    np.testing.assert_array_equal(lv.open(path).compute(), expected)
    assert {offset: starts.count(offset) for offset in offsets} == dict.fromkeys(offsets, 1)
