"""HDF5 files of Imaris, BigDataViewer and EMAN2: values, labels, and false structures."""

import pickle
import zlib
from functools import partial

import h5py
import numpy as np
import pytest

import lazyvol as lv
from lazyvol.errors import FormatError, LimitExceeded, SourceNotFoundError, UnsafeSourceError
from lazyvol.io import hdf5
from lazyvol.io.hdf5 import source as hdf5_source
from tests.allocations import least_peak
from tests.io.hdf5_cases import (
    letters,
    write_big_data_viewer,
    write_eman2,
    write_imaris,
    write_spim_data,
)
from tests.io.reader_cases import check_source, values

SHAPE = (5, 11, 13)
TIMES = [f"2020-01-01 10:00:{n:02d}.500" for n in (0, 30, 50)]


def numbers(*shape: int, dtype: str = "u2") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65535, shape).astype(dtype)


def test_imaris_files_have_channels_times_and_positions(tmp_path):
    array = numbers(3, 2, *SHAPE)
    options = {"voxel_size": (2.0, 0.5, 0.25), "start": (10.0, 0.0, -3.0)}
    names = ["DAPI", "Grün 488"]
    write_imaris(tmp_path / "a.ims", array, names=names, times=TIMES, **options)
    check_source(hdf5.probe(tmp_path / "a.ims").source, array, tries=6)
    stack = lv.open(tmp_path / "a.ims")
    assert (stack.dims, stack.name) == (("k", "channel", "z", "y", "x"), "a")
    assert stack.channel.values.tolist() == names
    assert stack.time.values.tolist() == [0.0, 30.0, 50.0]
    assert (stack.time.dims, stack.time.attrs["units"]) == (("k",), "second")
    np.testing.assert_allclose(stack.z, 11.0 + 2.0 * np.arange(5))
    np.testing.assert_allclose(stack.x, -2.875 + 0.25 * np.arange(13))
    assert stack.y.attrs["units"] == "micrometer"
    np.testing.assert_array_equal(stack.sel(channel="DAPI")[1], array[1, 0])
    assert float(lv.stats.mean(stack[:, 0])[2, 3, 4]) == pytest.approx(array[:, 0, 2, 3, 4].mean())


def test_an_imaris_volume_has_no_other_axes(tmp_path):
    array = numbers(1, 1, *SHAPE, dtype="f4")
    write_imaris(tmp_path / "a.ims", array, names=["only"], unit="nm")
    stack = lv.open(tmp_path / "a.ims")
    assert (stack.dims, str(stack.channel.values)) == (("z", "y", "x"), "only")
    assert stack.z.attrs["units"] == "nanometer"
    np.testing.assert_array_equal(stack, array[0, 0])
    assert lv.open(tmp_path / "a.ims", dims="kyx").dims == ("k", "y", "x")
    level = lv.open(f"{tmp_path}/a.ims::DataSet/ResolutionLevel 1/TimePoint 0/Channel 0/Data")
    np.testing.assert_array_equal(level, array[0, 0, ::2, ::2, ::2])


@pytest.mark.parametrize("times", [["", *TIMES[1:]], ["yesterday"] * 3, []])
def test_imaris_times_that_are_not_dates_are_left_out(tmp_path, times):
    write_imaris(tmp_path / "a.ims", numbers(3, 1, *SHAPE), times=times)
    assert "time" not in lv.open(tmp_path / "a.ims").coords


def test_big_data_viewer_by_its_xml_file(tmp_path):
    array = numbers(3, 2, *SHAPE)
    assert array.max() > 32767
    write_big_data_viewer(tmp_path / "a.h5", array, first=7)
    names = ["left", "right"]
    write_spim_data(tmp_path / "a.xml", "a.h5", names, voxel_size=(2.0, 0.5, 0.25))
    for name in ("a.xml", "a.h5"):
        stack = lv.open(tmp_path / name)
        assert stack.dims == ("k", "channel", "z", "y", "x")
        assert stack.channel.values.tolist() == names
        assert [float(stack[d][1]) for d in "zyx"] == [2.0, 0.5, 0.25]
        assert stack.z.attrs["units"] == "micrometer"
        np.testing.assert_array_equal(stack, array)
    check_source(hdf5.probe(tmp_path / "a.h5").source, array, tries=6)


def test_setups_that_are_not_channels_have_an_axis_of_their_own(tmp_path):
    write_big_data_viewer(tmp_path / "a.h5", numbers(2, 2, *SHAPE))
    assert lv.open(tmp_path / "a.h5").dims == ("k", "setup", "z", "y", "x")
    write_spim_data(tmp_path / "a.xml", "a.h5", ["0", "90"], channels=[0, 0])
    assert lv.open(tmp_path / "a.xml").setup.values.tolist() == ["0", "90"]
    write_spim_data(tmp_path / "a.xml", "other.h5", ["0", "90"])
    assert "setup" in lv.open(tmp_path / "a.h5").dims


def test_eman2_stacks_of_volumes_and_of_images(tmp_path):
    volumes = [values(SHAPE, seed=n) for n in range(4)]
    write_eman2(tmp_path / "a.hdf", volumes, apix=4.5)
    stack = lv.open(tmp_path / "a.hdf")
    assert stack.dims == ("k", "z", "y", "x")
    assert (float(stack.z[1]), stack.z.attrs["units"]) == (4.5, "angstrom")
    check_source(hdf5.probe(tmp_path / "a.hdf").source, np.stack(volumes), tries=6)
    write_eman2(tmp_path / "b.hdf", [v[0] for v in volumes])
    images = lv.open(tmp_path / "b.hdf")
    assert (images.dims, images.y.attrs["units"]) == (("k", "y", "x"), "voxel")
    np.testing.assert_array_equal(images, np.stack(volumes)[:, 0])
    write_eman2(tmp_path / "c.hdf", volumes[:1])
    assert lv.open(tmp_path / "c.hdf").dims == ("z", "y", "x")


@pytest.mark.parametrize("bits", [3, 8])
def test_numbers_that_eman2_reduced_are_restored(tmp_path, bits):
    images = [values(SHAPE, seed=n) * (n + 1.5) for n in range(3)]
    expected = write_eman2(tmp_path / "a.hdf", images, bits=bits)
    stack = lv.open(tmp_path / "a.hdf")
    assert stack.dtype == np.float32
    np.testing.assert_allclose(stack, np.stack(expected), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        stack[1:, 2:4, 3, ::2], np.stack(expected)[1:, 2:4, 3, ::2], rtol=1e-5, atol=1e-4
    )
    one = lv.open(f"{tmp_path}/a.hdf::MDF/images/2/image")
    np.testing.assert_allclose(one, expected[2], rtol=1e-5, atol=1e-4)


def test_an_image_of_another_kind_is_an_error_when_it_is_read(tmp_path):
    images = [values(SHAPE), values((5, 11, 14))]
    write_eman2(tmp_path / "a.hdf", images)
    stack = lv.open(tmp_path / "a.hdf")
    np.testing.assert_array_equal(stack[0], images[0])
    with pytest.raises(FormatError, match=r"/MDF/images/1/image must have the shape"):
        stack[1].compute()
    with h5py.File(tmp_path / "a.hdf", "a") as file:
        del file["MDF/images/1/image"]
    with pytest.raises(SourceNotFoundError, match="images/1/image"):
        lv.open(tmp_path / "a.hdf")[1].compute()


def test_many_images_are_a_small_source_and_a_bounded_read(tmp_path):
    write_eman2(tmp_path / "a.hdf", [np.full((64, 64), n, "f4") for n in range(300)])
    source = hdf5.probe(tmp_path / "a.hdf").source
    assert len(pickle.dumps(source)) < 2000
    region = (slice(10, 60), slice(0, 64), slice(0, 64))
    got = source.read(region)
    peak = least_peak(partial(source.read, region))
    np.testing.assert_array_equal(got[:, 3, 4], np.arange(10, 60))
    assert peak <= source.peak_bytes(region) + (1 << 20)
    assert source.stored_bytes(region) == 50 * 64 * 64 * 4


def test_layouts_do_not_leave_their_files(tmp_path):
    write_eman2(tmp_path / "other.hdf", [values(SHAPE)])
    with h5py.File(tmp_path / "a.hdf", "w") as file:
        file["MDF/images/0/image"] = values(SHAPE)
        file["MDF/images/1"] = h5py.ExternalLink("other.hdf", "/MDF/images/0")
    with pytest.raises(UnsafeSourceError, match="links to"):
        lv.open(tmp_path / "a.hdf").compute()
    with h5py.File(tmp_path / "b.ims", "w") as file:
        file["DataSet"] = h5py.ExternalLink("other.hdf", "/MDF")
    with pytest.raises(UnsafeSourceError, match="links to"):
        lv.open(tmp_path / "b.ims")
    for name in ("../other.hdf", str(tmp_path / "other.hdf")):
        write_spim_data(tmp_path / "a.xml", name, ["a"])
        with pytest.raises(UnsafeSourceError, match="folder of the XML file"):
            lv.open(tmp_path / "a.xml")


def test_xml_files_of_other_programs_are_refused(tmp_path):
    path = tmp_path / "a.xml"
    write_spim_data(path, "a.n5", ["a"], loader="bdv.n5")
    with pytest.raises(FormatError, match=r"found 'bdv\.n5'; export them as XML/HDF5"):
        lv.open(path)
    for text, error in {
        "<SpimData>": "the XML is not valid",
        "<Warp/>": "must be of BigDataViewer",
        '<!DOCTYPE a [<!ENTITY b "c">]><SpimData/>': "must not define entities",
        "<SpimData/>": "image loader bdv.hdf5",
    }.items():
        path.write_text(text)
        with pytest.raises((FormatError, UnsafeSourceError), match=error):
            lv.open(path)


def test_a_stream_longer_than_its_chunk_is_refused(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("a", SHAPE, "f4", chunks=SHAPE, compression="gzip")
        data.id.write_direct_chunk((0, 0, 0), zlib.compress(bytes(32 << 20), 9))
    with pytest.raises(LimitExceeded, match=r"data set /a may have \d+ stored bytes, they have"):
        lv.open(tmp_path / "a.h5")
    noise = np.random.default_rng(0).bytes(4096)
    with h5py.File(tmp_path / "b.h5", "w") as file:
        options = {"chunks": (1, 1, 64), "compression": "gzip", "fletcher32": True}
        file.create_dataset("a", data=np.frombuffer(noise, "u1").reshape(8, 8, 64), **options)
    assert lv.open(tmp_path / "b.h5").values.tobytes() == noise


def test_channels_that_files_share_are_kept(tmp_path):
    for n in range(3):
        write_imaris(tmp_path / f"{n}.ims", numbers(1, 2, *SHAPE), names=["DAPI", "GFP"])
    stack = lv.open(tmp_path)
    assert (stack.dims, stack.channel.values.tolist()) == (
        ("k", "channel", "z", "y", "x"), ["DAPI", "GFP"],
    )  # fmt: skip
    write_imaris(tmp_path / "2.ims", numbers(1, 2, *SHAPE), names=["DAPI", "RFP"])
    assert "channel" not in lv.open(tmp_path).coords


def test_large_chunks_and_attributes_are_refused(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", (1 << 16, 1 << 16), "u1", chunks=(1 << 16, 1 << 15))
    with pytest.raises(LimitExceeded, match="a chunk of data set /a"):
        lv.open(f"{tmp_path}/a.h5::a")
    monkeypatch.setattr(hdf5_source, "MAX_ATTRIBUTE", 10)
    write_imaris(tmp_path / "a.ims", numbers(1, 1, *SHAPE))
    with h5py.File(tmp_path / "a.ims", "a") as file:
        file["DataSetInfo/Image"].attrs["Unit"] = letters("u" * 11)
    with pytest.raises(LimitExceeded, match="an attribute may have 10 bytes, Unit"):
        lv.open(tmp_path / "a.ims")
