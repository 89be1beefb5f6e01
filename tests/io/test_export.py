"""NPY, MRC and TIFF files for other programs: values, labels, and write errors."""

import os

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol import errors
from lazyvol.io import mrc, npy, tiff
from lazyvol.io.export import whole_array, write_array, write_tiff
from lazyvol.io.mrc.writer import mrc_header
from lazyvol.io.mrc.writer import write_mrc as write_mrc_content
from lazyvol.io.npy import npy_header
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan.regions import boxes, uniform_chunks, whole
from tests.io.zarr_cases import numbers

SHAPE = (3, 5, 7, 11)
DIMS = ("k", "z", "y", "x")


def variable(values, dims=None, **labels):
    dims = dims or tuple(f"dim_{n}" for n in range(values.ndim))
    return Variable(dims, shape=values.shape, dtype=values.dtype, **labels)


def write_npy(path, labels, blocks, **options):
    write_array(path, *npy_header(f"{path}", labels), labels.shape, blocks, **options)


def write_mrc(path, labels, blocks, overwrite=False):
    header = mrc_header(path, labels)
    write_array(path, *header, labels.shape, blocks, overwrite, write_mrc_content)


def blocks_of(values, chunks):
    """Return the blocks of an array in ``chunks``, as tasks return them."""
    grid = tuple(uniform_chunks(n, c) for n, c in zip(values.shape, chunks, strict=True))
    return lambda: ((region, values[region]) for _, region in boxes(grid))


@pytest.mark.parametrize("dtype", ["bool", "u1", ">i2", "f2", "f8", "c8"])
def test_npy_holds_every_number(dtype, tmp_path):
    values = numbers(SHAPE, dtype)
    write_npy(tmp_path / "a.npy", variable(values), whole_array(values))
    got = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert got.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, values)
    if dtype != "c8":
        assert npy.probe(tmp_path / "a.npy").source.shape == SHAPE


@given(data=st.data())
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_blocks_make_the_same_file(data, tmp_path_factory):
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    chunks = tuple(data.draw(st.integers(1, n)) for n in shape)
    values = numbers(shape, "f4")
    path = tmp_path_factory.mktemp("blocks") / "a.npy"
    found = list(blocks_of(values, chunks)())
    write_npy(path, variable(values), lambda: data.draw(st.permutations(found)))
    np.testing.assert_array_equal(np.load(path), values)


@pytest.mark.parametrize(
    ("dims", "group", "mz"),
    [
        (("y", "x"), 0, 1),
        (("k", "y", "x"), 0, 1),
        (("z", "y", "x"), 1, 5),
        (("k", "z", "y", "x"), 401, 5),
    ],
)
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
def test_mrc_is_what_mrcfile_expects(dims, group, mz, dtype, tmp_path):
    shape = tuple(dict(zip(DIMS, SHAPE, strict=True))[d] for d in dims)
    values = numbers(shape, dtype)
    path = tmp_path / "a.mrc"
    sizes = {d: 0.5 + i for i, d in enumerate("zyx") if d in dims}
    origin = {d: 10.0 * s for d, s in sizes.items()}
    labels = {"voxel_size": sizes, "unit": "nanometer", "origin": origin, "name": "density"}
    write_mrc(path, variable(values, dims, **labels), blocks_of(values, [2] * len(shape)))
    with mrcfile.open(path) as opened:
        # of float16, mrcfile computes the statistics it compares with in float16
        assert mrcfile.validate(path) or dtype == "f2"
        np.testing.assert_array_equal(opened.data, values)
        assert opened.header.ispg == group
        assert opened.header.mz == mz
        assert float(opened.voxel_size.x) == pytest.approx(25.0)
        assert float(opened.header.dmean) == pytest.approx(values.astype("f8").mean())
        assert float(opened.header.rms) == pytest.approx(values.astype("f8").std())
    back = mrc.probe(path)
    assert back.dims == dims
    assert (back.voxel_size, back.unit, back.name) == (sizes, "nanometer", "density")
    assert back.origin == origin
    np.testing.assert_array_equal(back.source.read(whole(shape)), values)


def test_mrc_of_unknown_size_and_of_nan(tmp_path):
    values = np.full((2, 3, 4), np.nan, "f4")
    unknown = variable(values, ("z", "y", "x"), unit="voxel", voxel_size={"x": 1.0})
    write_mrc(tmp_path / "a.mrc", unknown, whole_array(values))
    assert mrc.probe(tmp_path / "a.mrc").voxel_size == {}
    with mrcfile.open(tmp_path / "a.mrc") as opened:
        assert float(opened.header.rms) == -1.0


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [(("z", "y", "x"), "f8"), (("z", "y", "x"), "i4"), (("x", "y", "z"), "f4"), (("z", "y"), "f4")],
)
def test_mrc_refuses_what_it_has_no_form_for(dims, dtype, tmp_path):
    values = numbers((2, 3, 4), dtype)
    with pytest.raises(errors.LabelError, match=r"astype|transpose"):
        write_mrc(tmp_path / "a.mrc", variable(values, dims), whole_array(values))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "dims", [("y", "x"), ("z", "y", "x"), DIMS, ("k", "channel", "z", "y", "x")]
)
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8"])
def test_tiff_is_ome(dims, dtype, tmp_path):
    values = numbers((2, 3, 4, 5, 6)[-len(dims) :], dtype)
    sizes = {d: 0.5 + i for i, d in enumerate("zyx") if d in dims}
    labels = {"voxel_size": sizes, "unit": "angstrom"}
    write_tiff(tmp_path / "a.tif", values, variable(values, dims, **labels))
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        assert opened.is_ome
        np.testing.assert_array_equal(opened.asarray(), values)
    back = tiff.probe(tmp_path / "a.tif")
    assert back.dims == dims
    assert (back.voxel_size, back.unit) == (sizes, "angstrom")
    np.testing.assert_array_equal(back.source.read(whole(values.shape)), values)


@pytest.mark.parametrize(
    ("dims", "dtype"),
    [
        (("z", "y", "x"), "bool"),
        (("z", "y", "x"), "i8"),
        (("x", "y", "z"), "f4"),
        (("a", "y", "x"), "f4"),
    ],
)
def test_tiff_refuses_what_it_has_no_form_for(dims, dtype, tmp_path):
    values = numbers((2, 3, 4), dtype)
    with pytest.raises(errors.LabelError, match=r"astype|transpose"):
        write_tiff(tmp_path / "a.tif", values, variable(values, dims))
    assert not list(tmp_path.iterdir())


#: the call that gives a complete file its name
NAMING = "os.link" if hasattr(os, "O_TMPFILE") else "os.replace"


def writers():
    values = numbers((4, 3, 2), "f4")
    labels, blocks = variable(values, ("z", "y", "x")), whole_array(values)
    return {
        "npy": lambda path, **o: write_npy(path, labels, blocks, **o),
        "mrc": lambda path, **o: write_mrc(path, labels, blocks, **o),
        "tif": lambda path, **o: write_tiff(path, values, labels, **o),
    }


@pytest.mark.parametrize("suffix", writers())
@pytest.mark.parametrize("call", ["os.fsync", NAMING, "builtins.open"])
def test_a_disk_that_refuses_leaves_nothing(suffix, call, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(call, refuse)
        with pytest.raises(errors.StoreError, match="No space left"):
            writers()[suffix](tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", writers())
def test_files_are_replaced_only_when_asked(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_text("mine")
    with pytest.raises(errors.TargetExistsError, match="overwrite=True"):
        writers()[suffix](path)
    assert path.read_text() == "mine"
    writers()[suffix](path, overwrite=True)
    assert path.stat().st_size > 90
    (tmp_path / "folder").mkdir()
    with pytest.raises(errors.TargetExistsError):
        writers()[suffix](tmp_path / "folder", overwrite=True)
    with pytest.raises(errors.StoreError, match="create the folder"):
        writers()[suffix](tmp_path / "none" / "a")


def test_blocks_that_do_not_cover_leave_nothing(tmp_path):
    values = numbers((4, 3), "f4")
    part = (slice(0, 2), slice(0, 3))
    for blocks in ([(part, values[:2])], [(part, values)], [(part, values[:2])] * 3):
        with pytest.raises(errors.LabelError):
            write_npy(tmp_path / "a.npy", variable(values), lambda blocks=blocks: blocks)

    def failing():
        yield part, values[:2]
        raise errors.MissingChunkError("chunk 5 is absent")

    with pytest.raises(errors.MissingChunkError, match="chunk 5"):
        write_npy(tmp_path / "a.npy", variable(values), failing)
    assert not list(tmp_path.iterdir())
