"""HDF5 files: labels, choice of the data set, and refused links."""

from functools import partial

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol.errors import (
    FormatError,
    SourceNotFoundError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io import hdf5
from lazyvol.io.flat_file import FlatFileSource
from lazyvol.io.hdf5 import source as hdf5_source
from lazyvol.plan.regions import whole
from tests.allocations import least_peak
from tests.io.reader_cases import check_source, values

SHAPE = (5, 7, 11)
FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FILES
@given(
    turn=st.permutations("tzyxc"),
    chunked=st.booleans(),
    big=st.booleans(),
    seed=st.integers(0, 99),
)
def test_hdf5_axes_by_label(tmp_path, turn, chunked, big, seed):
    sizes = dict(zip("tzyxc", (3, 4, 5, 6, 2), strict=True))
    array = values([sizes[a] for a in turn], seed=seed).astype(">f4" if big else "<f4")
    options = {"chunks": (2, 2, 2, 2, 2), "compression": "gzip"} if chunked else {}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("group/a", data=array, **options)
        data.attrs["element_size_um"] = (3.0, 2.0, 0.0)
        for n, letter in enumerate(turn):
            data.dims[n].label = letter
    opened = hdf5.probe(tmp_path / "a.h5")
    assert opened.dims == ("k", "channel", "z", "y", "x")
    assert opened.voxel_size == {"z": 3.0, "y": 2.0}
    assert isinstance(opened.source, FlatFileSource) == (not chunked)
    check_source(opened.source, array.transpose([turn.index(a) for a in "tczyx"]), tries=4)


def test_hdf5_chooses_the_largest(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["small"] = values((2, 3, 4))
        file["image"] = values((200, 300))
        file["text"] = np.array([[[b"abc"] * 9] * 9] * 9)
        file["large"] = values((3, 3, 4))
    check_source(hdf5.probe(tmp_path / "a.h5").source, values((3, 3, 4)), tries=2)
    named = hdf5.probe(f"{tmp_path}/a.h5::image")
    assert named.dims == ("y", "x")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["large"], file["small"]
    with pytest.raises(FormatError, match="none of 3 or more axes"):
        hdf5.probe(tmp_path / "a.h5")


def test_hdf5_does_not_leave_its_file(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = values(SHAPE)
    (tmp_path / "raw.bin").write_bytes(values(SHAPE).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["linked"] = h5py.ExternalLink("other.h5", "/secret")
        file.create_dataset("outside", SHAPE, "f4", external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])
        layout = h5py.VirtualLayout(SHAPE, "f4")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "secret", SHAPE)
        file.create_virtual_dataset("virtual", layout)
    for name in ("linked", "outside", "virtual"):
        with pytest.raises(UnsafeSourceError, match=r"other files|links to"):
            hdf5.probe(f"{tmp_path}/a.h5::{name}")


def test_hdf5_filters_are_listed(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", SHAPE, "f4", chunks=SHAPE, compression="gzip", shuffle=True)
    hdf5.probe(tmp_path / "a.h5")
    monkeypatch.delitem(hdf5_source.FILTERS, 1)
    with pytest.raises(UnsafeSourceError, match=r"filters \[1, 2\]"):
        hdf5.probe(tmp_path / "a.h5")


@pytest.mark.parametrize("dtype", ["c8", "S3", [("a", "f4")]])
def test_hdf5_holds_numbers(tmp_path, dtype):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", SHAPE, dtype)
    with pytest.raises(FormatError):
        hdf5.probe(f"{tmp_path}/a.h5::a")


def test_hdf5_cut_short(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = values((16, 16, 16))
    content = (tmp_path / "a.h5").read_bytes()
    for cut in (0, 7, 8, 100, 2048, len(content) - 1):
        (tmp_path / "a.h5").write_bytes(content[:cut])
        with pytest.raises(TruncatedError if cut > 2000 else FormatError):
            hdf5.probe(tmp_path / "a.h5")


def test_hdf5_unwritten_and_empty(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", SHAPE, "f4", fillvalue=3)
        file.create_dataset("zero", (0, 3, 4), "f4")
        file["null"] = h5py.Empty("f4")
    check_source_without_bytes(hdf5.probe(f"{tmp_path}/a.h5::a").source)
    for name in ("zero", "null"):
        with pytest.raises(FormatError):
            hdf5.probe(f"{tmp_path}/a.h5::{name}")
    with pytest.raises(SourceNotFoundError, match="it holds /a"):
        hdf5.probe(f"{tmp_path}/a.h5::a/b")


def check_source_without_bytes(source) -> None:
    """An array that was never written reads as its fill value, without stored bytes."""
    assert (source.read(whole(SHAPE)) == 3).all()
    assert source.stored_bytes(whole(SHAPE)) == 0


def test_cost_of_chunks(tmp_path):
    array = values((12, 64, 256))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("a", data=array, chunks=(4, 64, 64), compression="gzip")
    source = hdf5.probe(tmp_path / "a.h5").source
    region = (slice(0, 4), slice(0, 64), slice(0, 100))
    total = source.stored_bytes(whole(array.shape))
    assert source.stored_bytes(region) == pytest.approx(total / 6, abs=1)
    peak = least_peak(partial(source.read, region))
    assert peak <= source.peak_bytes(region) + (1 << 20)
