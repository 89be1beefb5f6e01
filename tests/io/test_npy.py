"""NPY files: layouts, and false headers."""

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol.errors import (
    FormatError,
    TruncatedError,
    UnsafeSourceError,
)
from lazyvol.io import npy
from tests.io.reader_cases import check_source, values

SHAPE = (5, 7, 11)
FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


NPY_DIMS = {
    2: ("y", "x"),
    3: ("z", "y", "x"),
    4: ("k", "z", "y", "x"),
    5: ("k", "channel", "z", "y", "x"),
}


@FILES
@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    dtype=st.sampled_from(["<i2", ">i2", "<f4", ">f4", "<f8", "|u1", "<u8", "<f2", "|b1"]),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 99),
)
def test_npy_in_c_and_fortran_order(tmp_path, shape, dtype, order, seed):
    array = np.asarray(values(shape, seed=seed), dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    opened = npy.probe(tmp_path / "a.npy")
    assert opened.dims == NPY_DIMS[len(shape)]
    check_source(opened.source, array, tries=6, seed=seed)


def npy_file(header: bytes, data: bytes = bytes(40), version: tuple[int, int] = (1, 0)) -> bytes:
    """Return an NPY file with the given header."""
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5), }\n"
NPY_LIES = {
    "empty": (b"", FormatError),
    "magic only": (b"\x93NUMPY", FormatError),
    "version": (npy_file(GOOD, version=(9, 0)), FormatError),
    "short data": (npy_file(GOOD, bytes(39)), TruncatedError),
    "long data": (npy_file(GOOD, bytes(41)), FormatError),
    "short header": (npy_file(GOOD)[:30], TruncatedError),
    "long header": (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + GOOD, TruncatedError),
    "huge": (npy_file(GOOD.replace(b"(2, 5)", b"(99999999999, 99999999999)")), TruncatedError),
    "negative": (npy_file(GOOD.replace(b"(2, 5)", b"(-2, -5)")), FormatError),
    "zero": (npy_file(GOOD.replace(b"(2, 5)", b"(0, 5)")), FormatError),
    "floats": (npy_file(GOOD.replace(b"(2, 5)", b"(2.0, 5)")), FormatError),
    "list": (npy_file(GOOD.replace(b"(2, 5)", b"[2, 5]")), FormatError),
    "objects": (npy_file(GOOD.replace(b"<f4", b"|O")), UnsafeSourceError),
    "records": (npy_file(GOOD.replace(b"'<f4'", b"[('a', '<f4')]")), FormatError),
    "complex": (npy_file(GOOD.replace(b"<f4", b"<c8")), FormatError),
    "dates": (npy_file(GOOD.replace(b"<f4", b"<M8[s]")), FormatError),
    "text": (npy_file(GOOD.replace(b"<f4", b"<U1")), FormatError),
    "no dtype": (npy_file(GOOD.replace(b"<f4", b"zzz")), FormatError),
    "flag": (npy_file(GOOD.replace(b"False", b"0")), FormatError),
    "call": (npy_file(b"__import__('os').system('true')"), FormatError),
    "deep": (npy_file(b"(" * 5000), FormatError),
    "deeper": (npy_file(b"-" * 5000 + b"1"), FormatError),
    "comma": (npy_file(GOOD.replace(b"<f4", b",f2")), FormatError),
    "too long": (npy_file(GOOD + b" " * 60000), FormatError),
    "keys": (npy_file(b"{'descr': '<f4'}"), FormatError),
    "null": (npy_file(b"{\0}"), FormatError),
}


@pytest.mark.parametrize("lie", NPY_LIES)
def test_npy_headers_that_lie(tmp_path, lie):
    content, error = NPY_LIES[lie]
    (tmp_path / "a.npy").write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=r"a\.npy"):
            npy.probe(tmp_path / "a.npy")
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_versions(tmp_path, version):
    array = values(SHAPE)
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, array, version=version)
    check_source(npy.probe(tmp_path / "a.npy").source, array, tries=2)


def test_npy_surplus_is_a_repair(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy_file(GOOD, bytes(41)))
    opened = npy.probe(tmp_path / "a.npy", permissive=True)
    assert len(opened.attrs["repairs"]) == 1
    check_source(opened.source, np.zeros((2, 5), "f4"))
