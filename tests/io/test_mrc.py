"""MRC files written here and by mrcfile: every mode, byte order, axis order, fault and limit."""

import bz2
import gzip
import io
import itertools
import os
import struct
import time
import tracemalloc
from functools import partial
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol.errors import (
    FormatError,
    LimitExceeded,
    SourceChangedError,
    SourceNotFoundError,
    TruncatedError,
)
from lazyvol.io import flat_file
from lazyvol.io.mrc import probe
from lazyvol.io.probe import probe as probe_any
from lazyvol.plan.regions import whole
from tests.allocations import least_peak
from tests.io.reader_cases import check_source, mrc_bytes, values

SHAPE = (5, 7, 11)
MODES = [0, 1, 2, 6, 12]
AXES = list(itertools.permutations((1, 2, 3)))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path."""

    def _write(content: bytes, name: str = "a.mrc") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return _write


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("axes", AXES)
def test_every_mode_byte_order_and_axis_order_reads_as_zyx(write, mode, order, axes):
    array = values(SHAPE, mode)
    cell = (11 * 1.5, 7 * 2.5, 5 * 4.0)
    content = mrc_bytes(array, mode=mode, order=order, axes=axes, grid=(11, 7, 5), cell=cell)
    opened = probe(write(content))
    assert opened.dims == ("z", "y", "x")
    assert opened.voxel_size == {"x": 1.5, "y": 2.5, "z": 4.0}
    assert opened.unit == "angstrom"
    check_source(opened.source, array, tries=4)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    mode=st.sampled_from(MODES),
    order=st.sampled_from("<>"),
    axes=st.sampled_from(AXES),
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    extended=st.integers(0, 200),
    seed=st.integers(0, 99),
)
def test_any_region_of_any_volume(tmp_path, mode, order, axes, shape, extended, seed):
    array = values(shape, mode, seed)
    content = mrc_bytes(array, mode=mode, order=order, axes=axes, extended=b"e" * extended)
    path = tmp_path / "any.mrc"
    path.write_bytes(content)
    check_source(probe(path).source, array, tries=6, seed=seed)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("stacked", [False, True])
def test_what_mrcfile_writes(tmp_path, mode, stacked):
    array = values((3, *SHAPE) if stacked else SHAPE, mode)
    path = tmp_path / "by_mrcfile.mrc"
    with mrcfile.new(path) as file:
        file.set_data(array)
        file.voxel_size = (1.5, 2.5, 4.0)
    opened = probe(path)
    assert opened.dims == (("k", "z", "y", "x") if stacked else ("z", "y", "x"))
    assert opened.voxel_size == {"x": 1.5, "y": 2.5, "z": 4.0}
    assert opened.source.chunks == ((1, *SHAPE) if stacked else (1, *SHAPE[1:]))
    check_source(opened.source, array)


def test_image_stacks(write):
    array = values(SHAPE)
    for content, name in (
        (mrc_bytes(array, group=0, grid=(11, 7, 1)), "a.mrc"),
        (mrc_bytes(array, group=0), "a.mrcs"),
        (mrc_bytes(array, group=1), "b.mrcs"),
        (gzip.compress(mrc_bytes(array, group=0)), "c.mrcs.gz"),
    ):
        opened = probe(write(content, name))
        assert opened.dims == ("k", "y", "x")
        check_source(opened.source, array, tries=3)
    assert probe(write(mrc_bytes(array, group=0), "v.mrc")).dims == ("z", "y", "x")
    single = probe(write(mrc_bytes(array[:1], group=0), "i.mrc"))
    assert single.dims == ("y", "x")
    check_source(single.source, array[0])


def test_axis_words_of_zero_are_the_usual_order(write):
    content = bytearray(mrc_bytes(values(SHAPE)))
    content[64:76] = bytes(12)
    check_source(probe(write(bytes(content))).source, values(SHAPE), tries=3)


@pytest.mark.parametrize("rows_first", [False, True])
def test_volume_stacks(write, rows_first):
    array = values((4, *SHAPE))
    axes = (2, 1, 3) if rows_first else (1, 2, 3)
    opened = probe(write(mrc_bytes(array, group=401, axes=axes, grid=(11, 7, 5))))
    assert opened.dims == ("k", "z", "y", "x")
    check_source(opened.source, array)


def test_volume_stacks_that_cannot_be_divided(write):
    array = values((4, *SHAPE))
    with pytest.raises(FormatError, match="NZ 20 and MZ 3"):
        probe(write(mrc_bytes(array, group=401, grid=(11, 7, 3))))
    with pytest.raises(FormatError, match="MZ 0; set MZ"):
        probe(write(mrc_bytes(array, group=401, grid=(11, 7, 0))))
    with pytest.raises(FormatError, match="MAPS = 3"):
        probe(write(mrc_bytes(array, group=401, axes=(3, 2, 1), grid=(11, 7, 5))))
    cube = values((1, 6, 6, 6))
    opened = probe(write(mrc_bytes(cube, group=401, grid=(6, 6, 0))))
    check_source(opened.source, cube)


@pytest.mark.parametrize("bad", [0.0, -10.0, np.nan, np.inf])
def test_spacing_that_says_nothing_is_absent(write, bad):
    opened = probe(write(mrc_bytes(values(SHAPE), cell=(22.0, bad, bad))))
    assert opened.voxel_size == {"x": 2.0}
    assert probe(write(mrc_bytes(values(SHAPE), cell=(bad, bad, bad)))).unit == "voxel"
    grid = probe(write(mrc_bytes(values(SHAPE), cell=(22.0, 14.0, 10.0), grid=(11, 0, 5))))
    assert grid.voxel_size == {"x": 2.0, "z": 2.0}


def test_spacing_has_the_digits_of_a_header(write):
    # 364.8 in float32 by 64 is 5.699999809
    opened = probe(write(mrc_bytes(values((2, 2, 64)), cell=(364.8, 0.0, 0.0), start=(3, 0, 0))))
    assert opened.voxel_size == {"x": 5.7}
    assert opened.origin == {"x": 17.1}


def test_origin_by_start_words_follows_the_axes(write):
    # start words are in file order: columns (here z), rows (x), sections (y)
    content = mrc_bytes(
        values(SHAPE), axes=(3, 1, 2), grid=(11, 7, 5), cell=(22.0, 21.0, 20.0), start=(1, 2, -3)
    )
    assert probe(write(content)).origin == {"x": 4.0, "y": -9.0, "z": 4.0}


def test_origin_words_win_over_start_words_and_imod_turns_them(write):
    facts = {"cell": (22.0, 14.0, 10.0), "start": (1, 1, 1), "origin": (5.0, 0.0, -7.0)}
    plain = probe(write(mrc_bytes(values(SHAPE), **facts)))
    assert plain.origin == {"x": 5.0, "y": 0.0, "z": -7.0}
    turned = probe(write(mrc_bytes(values(SHAPE), imod=(1146047817, 1), **facts)))
    assert turned.origin == {"x": -5.0, "y": 0.0, "z": 7.0}
    upright = probe(write(mrc_bytes(values(SHAPE), imod=(1146047817, 5), **facts)))
    assert upright.origin == plain.origin


def test_bytes_are_unsigned_only_in_old_imod_files(write):
    array = values(SHAPE, 0)
    opened = probe(write(mrc_bytes(array, mode=0, imod=(1146047817, 0))))
    check_source(opened.source, array.view("u1"))
    opened = probe(write(mrc_bytes(array, mode=0, imod=(1146047817, 1))))
    check_source(opened.source, array)


@pytest.mark.parametrize("mode", [3, 4, 16, 101, 5, -1, 2**31 - 1])
def test_unsupported_modes_are_named(write, mode):
    with pytest.raises(FormatError, match=f"mode {mode} is not supported, only 0 .i1., 1 .i2."):
        probe(write(mrc_bytes(values(SHAPE), mode=mode)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ["<", ">"])
def test_a_stamp_of_zero_leaves_the_byte_order_to_the_numbers(write, mode, order):
    array = values((4, 64, 256), mode)
    path = write(mrc_bytes(array, mode=mode, order=order, stamp=bytes(4)))
    check_source(probe(path).source, array, tries=2)


def faults() -> dict[str, tuple[bytes, str]]:
    """Return files with one repairable fault each, and the word that the error must contain."""
    array = values(SHAPE)
    return {
        "mark": (mrc_bytes(array, mark=b"\0\0\0\0"), "MAP "),
        "stamp": (mrc_bytes(array, stamp=b"\x99\x99\0\0"), "99 99"),
        "wrong stamp": (mrc_bytes(array, order=">", stamp=b"\x44\x44\0\0"), "44 44"),
        "group": (mrc_bytes(array, group=1065353216), "1065353216"),
        "negative group": (mrc_bytes(array, group=-1), "ISPG"),
        "axes": (
            mrc_bytes(array)[:64] + struct.pack("<3i", 10, 11, 12) + mrc_bytes(array)[76:],
            "10, 11, 12",
        ),
        "twice": (
            mrc_bytes(array)[:64] + struct.pack("<3i", 1, 1, 3) + mrc_bytes(array)[76:],
            "1, 1, 3",
        ),
        "surplus": (mrc_bytes(array) + b"junk", "2568"),
    }


@pytest.mark.parametrize("fault", faults())
def test_permissive_is_a_list_of_repairs(write, fault):
    content, named = faults()[fault]
    path = write(content)
    with pytest.raises(FormatError, match="permissive=True") as caught:
        probe(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    opened = probe(path, permissive=True)
    assert len(opened.attrs["repairs"]) == 1
    check_source(opened.source, values(SHAPE), tries=3)
    assert "repairs" not in probe(write(mrc_bytes(values(SHAPE)), "ok.mrc"), permissive=True).attrs


INTERESTING = [0, 1, 3, 4, 63, 64, 92, 207, 208, 210, 211, 212, 214, 216, 1020, 1023]
LATER = [1024, 1025, 1103, 1104, 1105, 1104 + 5 * 7 * 11 * 4 - 1]


@pytest.mark.parametrize("permissive", [False, True])
@pytest.mark.parametrize("cut", INTERESTING + LATER)
def test_cut_anywhere(write, cut, permissive):
    content = mrc_bytes(values(SHAPE), extended=b"e" * 80)
    path = write(content[:cut])
    for read in (probe, probe_any):
        with pytest.raises(TruncatedError, match=r"\d+ bytes|found \d+"):
            read(path, permissive=permissive)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        *((n, "nsymbt must be 0 or more") for n in (-1, -(2**31))),
        *((n, "nsymbt promises") for n in (2**31 - 1, 2000)),
        *((n, "header promises") for n in (4, 79, 81)),
    ],
)
def test_lies_about_the_extended_header(write, lie, words):
    content = bytearray(mrc_bytes(values(SHAPE), extended=b"e" * 80))
    struct.pack_into("<i", content, 92, lie)
    with pytest.raises(FormatError, match=words):
        probe(write(bytes(content)))


@pytest.mark.parametrize("counts", [(2**31 - 1,) * 3, (1, 1, 2**31 - 1), (0, 1, 1), (-1, 7, 5)])
@pytest.mark.parametrize("packed", [None, gzip.compress, bz2.compress])
def test_huge_claims_in_a_tiny_file_cost_nothing(write, counts, packed):
    content = bytearray(mrc_bytes(values(SHAPE)))
    struct.pack_into("<3i", content, 0, *counts)
    path = write(packed(bytes(content)) if packed else bytes(content))
    tracemalloc.start()
    begun = time.process_time()
    try:
        with pytest.raises((FormatError, LimitExceeded)):
            probe(path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize("axes", AXES)
def test_a_region_reads_the_bytes_it_says_and_few_of_them(write, monkeypatch, axes):
    array = values((16, 32, 64))
    source = probe(write(mrc_bytes(array, axes=axes))).source
    moved: list[int] = []
    original = flat_file.read_exactly

    def counted(handle, position, view, path):
        moved.append(view.nbytes)
        original(handle, position, view, path)

    monkeypatch.setattr(flat_file, "read_exactly", counted)
    rng = np.random.default_rng(1)
    for low in rng.integers(0, 12, (20, 3)):
        region = tuple(slice(int(n), int(n) + 4) for n in low)
        moved.clear()
        source.read(region)
        assert sum(moved) == source.stored_bytes(region)
        assert sum(moved) <= array.nbytes
    moved.clear()
    stored_first = [slice(None)] * 3
    stored_first[3 - axes[2]] = slice(3, 4)
    source.read(tuple(slice(*s.indices(n)) for s, n in zip(stored_first, array.shape, strict=True)))
    assert len(moved) == 1
    assert sum(moved) == array.nbytes // array.shape[3 - axes[2]]


@pytest.mark.parametrize(
    ("shape", "counts", "depth", "reads"),
    [
        ((128, 256, 256), (128, 256, 256), 0, 1),  # whole
        ((128, 256, 256), (3, 256, 256), 0, 1),  # sections
        ((8, 64, 64, 64), (8, 4, 64, 64), 1, 8),  # sections of volumes
        ((128, 256, 256), (3, 20, 256), 1, 3),  # rows of sections
        ((100, 1000), (100, 10), 0, 1),  # one span of 400 kB is cheaper than 100 reads
        ((100, 20_000), (100, 10), 1, 100),  # 100 reads are cheaper than a span of 8 MB
        ((400, 1000), (400, 10), 0, 2),  # a span of 1.6 MB is too large a buffer
        ((8, 160, 160, 160), (8, 160, 160, 8), 1, 128),  # ten sections at once
    ],
)
def test_how_a_box_is_read(shape, counts, depth, reads):
    plan = flat_file.plan_reads(shape, counts, 4)
    assert (plan.depth, plan.reads) == (depth, reads)
    assert plan.exact or plan.span <= flat_file.SPAN_BYTES


@pytest.mark.parametrize("axes", [(1, 2, 3), (3, 2, 1)])
@pytest.mark.parametrize("order", ["<", ">"])
def test_peak_memory_is_what_the_source_says(write, axes, order):
    array = values((64, 128, 160))
    source = probe(write(mrc_bytes(array, axes=axes, order=order))).source
    source.read(whole(array.shape))  # what is imported on first use is not of the read
    for region in (whole(array.shape), (slice(3, 60), slice(0, 128), slice(5, 100))):
        peak = least_peak(partial(source.read, region))
        assert peak <= source.peak_bytes(region) + 64 * 1024


def test_a_file_that_changes_is_not_read(write):
    path = write(mrc_bytes(values(SHAPE)))
    source = probe(path).source
    path.write_bytes(mrc_bytes(values(SHAPE)) + b"more")
    with pytest.raises(SourceChangedError, match="must not change"):
        source.read(whole(SHAPE))
    assert probe(path, permissive=True).source.token != source.token
    path.unlink()
    with pytest.raises(SourceNotFoundError):
        source.read(whole(SHAPE))


def test_tokens_name_the_stored_data(write):
    path = write(mrc_bytes(values(SHAPE)))
    assert probe(path).source.token == probe(str(path)).source.token
    assert probe(path).source.token != probe(write(path.read_bytes(), "b.mrc")).source.token
    before = probe(path).source.token
    os.utime(path, ns=(1, 1))
    assert probe(path).source.token != before


def test_a_file_cut_under_the_reader(write):
    path = write(mrc_bytes(values(SHAPE)))
    layout = probe(path).source.layout
    out = np.empty(SHAPE, "<f4")
    with io.FileIO(path) as handle:
        os.truncate(path, 1500)
        with pytest.raises(TruncatedError, match=r"found \d+"):
            flat_file.read_box(handle, layout, whole(SHAPE), out, str(path))
