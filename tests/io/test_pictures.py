"""Pictures and movies: values by Pillow and imageio, stacks, and what is refused."""

import zlib

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

import lazyvol as lv
from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io import pictures
from tests.allocations import least_peak
from tests.io.reader_cases import check_source
from tests.paths import DATA

pytest.importorskip("dask_image.imread")
pytest.importorskip("pims")


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, shape).astype("u1")


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_pictures_have_channels_first(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    for array in (numbers(7, 11), numbers(7, 11, 3)):
        Image.fromarray(array).save(path)
        opened = pictures.probe(path)
        assert opened.dims == (("y", "x") if array.ndim == 2 else ("channel", "y", "x"))
        check_source(opened.source, array if array.ndim == 2 else array.transpose(2, 0, 1), tries=4)


def test_a_jpeg_is_what_pillow_decodes(tmp_path):
    Image.fromarray(numbers(40, 50, 3)).save(tmp_path / "a.jpg")
    expected = np.asarray(Image.open(tmp_path / "a.jpg")).transpose(2, 0, 1)
    np.testing.assert_array_equal(lv.open(tmp_path / "a.jpg"), expected)
    assert lv.open(tmp_path / "a.jpg", dims="cyx").sizes["channel"] == 3


def test_a_folder_of_pictures_is_a_stack(tmp_path):
    array = numbers(12, 7, 11)
    for n, plane in enumerate(array):
        Image.fromarray(plane).save(tmp_path / f"img{n}.png")
    np.testing.assert_array_equal(lv.open(tmp_path, dims="kyx"), array)
    assert lv.open(tmp_path).dims == ("z", "y", "x")


def test_previews_beside_volumes_are_not_members(tmp_path):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros((3, 4, 5), "f4"))
    Image.fromarray(numbers(7, 11)).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text("<Warp/>")
    assert lv.open(tmp_path).shape == (2, 3, 4, 5)


def test_an_animation_has_frames_along_k(tmp_path):
    array = numbers(5, 16, 24, 3)
    iio.imwrite(tmp_path / "a.gif", array, loop=0)
    stack = lv.open(tmp_path / "a.gif")
    assert stack.dims == ("k", "channel", "y", "x")
    np.testing.assert_array_equal(stack, iio.imread(tmp_path / "a.gif").transpose(0, 3, 1, 2))


def test_a_movie_has_frames_along_k(tmp_path, monkeypatch):
    pytest.importorskip("av")
    path = tmp_path / "a.mp4"
    smooth = np.linspace(0, 200, 48)[:, None] + 4 * np.arange(10)[:, None, None]
    frames = np.repeat(smooth[..., None] + np.zeros((1, 1, 64, 1)), 3, -1).astype("u1")
    iio.imwrite(path, frames, plugin="pyav", codec="mpeg4", fps=10)
    expected = iio.imread(path, plugin="pyav")
    monkeypatch.setattr(pictures, "BLOCK_BYTES", 3 * expected[0].nbytes)
    opened = pictures.probe(path)
    assert opened.dims == ("k", "channel", "y", "x")
    assert opened.source.chunks[0] == 3
    check_source(opened.source, expected.transpose(0, 3, 1, 2), tries=2)


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")
@pytest.mark.parametrize("name", ["images_2d/kodim03.png", "masks/horse.png"])
def test_real_pictures(name):
    expected = np.asarray(Image.open(DATA / name)).transpose(2, 0, 1)
    np.testing.assert_array_equal(lv.open(DATA / name), expected)


def png(width: int, height: int) -> bytes:
    """Return a PNG of one short stream that declares a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + checksum

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    data = zlib.compress(bytes(1 << 16))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.png").write_bytes(png(9000, 9000))

    def refused() -> None:
        with pytest.raises(LimitExceeded, match="declares 81000000"):
            lv.open(tmp_path / "a.png")

    assert least_peak(refused) < 8 << 20


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n\0\0"])
def test_other_content_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.png: Pillow cannot read it"):
        lv.open(tmp_path / "a.png")


def test_names_that_are_patterns_are_refused(tmp_path):
    Image.fromarray(numbers(7, 11)).save(tmp_path / "a[1].png")
    with pytest.raises(FormatError, match="rename the file"):
        lv.open(tmp_path / "a[1].png")


@pytest.mark.parametrize("suffix", [".czi", ".lif", ".nd2"])
def test_files_of_microscopes_are_left_to_bioio(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"\xda\xce\xbe\x0a" * 300)
    with pytest.raises(FormatError, match=r"open it with bioio: lazyvol\.as_stack"):
        lv.open(tmp_path / f"a{suffix}")


def test_n5_is_refused_by_name(tmp_path):
    (tmp_path / "a.n5" / "raw").mkdir(parents=True)
    (tmp_path / "a.n5" / "attributes.json").write_text('{"n5": "2.0.0"}')
    for name in ("a.n5", "a.n5/raw"):
        if name.endswith("raw"):
            (tmp_path / name / "attributes.json").write_text('{"dimensions": [5, 5, 5]}')
        with pytest.raises(FormatError, match="N5 store"):
            lv.open(tmp_path / name)
