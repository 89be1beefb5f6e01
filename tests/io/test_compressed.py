"""Files in gzip and bzip2: decoded once, whole, and no further than their header promises."""

import bz2
import errno
import gzip
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from lazyvol.errors import FormatError, LimitExceeded, StoreError, TruncatedError
from lazyvol.io import compressed
from lazyvol.io.faults import library_errors
from lazyvol.io.mrc import probe
from lazyvol.io.probe import probe as probe_any
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source, mrc_bytes, values

SHAPE = (5, 7, 11)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file and returns its path."""

    def _write(content: bytes, name: str = "a.mrc") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return _write


@pytest.mark.parametrize(("codec", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2")])
def test_packed_files_cut_anywhere(write, codec, suffix):
    whole_file = codec(mrc_bytes(values(SHAPE)))
    for cut in sorted(
        {2, 3, 5, 10, 18, 60, *range(100, len(whole_file) - 1, 97), len(whole_file) - 1}
    ):
        with pytest.raises(FormatError):  # noqa: PT012
            opened = probe(write(whole_file[:cut], "a.mrc" + suffix))
            opened.source.read(whole(opened.source.shape))


def test_a_packed_file_whose_checksum_is_wrong(write):
    content = bytearray(gzip.compress(mrc_bytes(values(SHAPE))))
    content[-8] ^= 1
    opened = probe(write(bytes(content), "a.mrc.gz"))
    with pytest.raises(FormatError, match="CRC"):
        opened.source.read(whole(SHAPE))


@pytest.mark.parametrize("codec", [gzip.compress, bz2.compress])
def test_a_bomb_is_not_unpacked(write, codec):
    content = mrc_bytes(values(SHAPE))
    packed = codec(content + bytes(64 << 20))
    opened = probe(write(packed, "bomb.mrc.x"))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="goes on after"):
            opened.source.read(whole(SHAPE))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    loose = probe(write(packed, "bomb.mrc.x"), permissive=True)
    np.testing.assert_array_equal(loose.source.read(whole(SHAPE)), values(SHAPE))


def test_a_packed_file_must_not_promise_too_much(write, monkeypatch):
    path = write(gzip.compress(mrc_bytes(values(SHAPE))), "a.mrc.gz")
    monkeypatch.setattr(compressed, "MAX_BYTES", 1000)
    with pytest.raises(LimitExceeded, match="unpack it first"):
        probe(path)


@pytest.fixture
def decodings(monkeypatch):
    """Collect the tokens of the arrays decoded during a test, with a cache of 4000 bytes."""
    seen: list[str] = []
    monkeypatch.setattr(compressed, "CACHE", compressed.DecodedCache(4000))
    original = compressed.CompressedSource._decoded

    def counted(self):
        seen.append(self.token)
        time.sleep(0.01)  # long enough for other threads to come along
        return original(self)

    monkeypatch.setattr(compressed.CompressedSource, "_decoded", counted)
    return seen


def test_slicing_a_packed_file_decodes_it_once(write, decodings):
    array = values(SHAPE)
    source = probe(write(gzip.compress(mrc_bytes(array, order=">")), "a.mrc.gz")).source
    assert source.chunks == SHAPE
    check_source(source, array)
    assert len(decodings) == 1
    got = source.read(whole(SHAPE))
    got[:] = 0
    check_source(source, array, tries=1)


def test_the_cache_drops_the_oldest_and_keeps_its_bound(write, decodings):
    sources = [
        probe(write(gzip.compress(mrc_bytes(values(SHAPE, seed=n))), f"{n}.mrc.gz")).source
        for n in range(3)
    ]
    for n in (0, 1, 0, 2, 0, 1):
        np.testing.assert_array_equal(sources[n].read(whole(SHAPE)), values(SHAPE, seed=n))
    tokens = [source.token for source in sources]
    assert [tokens.index(token) for token in decodings] == [0, 1, 2, 1]
    assert sum(a.nbytes for a in compressed.CACHE._held.values()) <= 4000
    large = probe(write(gzip.compress(mrc_bytes(values((11, 11, 11)))), "l.mrc.gz")).source
    for _ in range(2):
        large.read(whole(large.shape))
    assert len(decodings) == 6
    assert len(compressed.CACHE._held) == 2


def test_threads_share_one_decoding(write, decodings):
    array = values(SHAPE)
    source = probe(write(gzip.compress(mrc_bytes(array)), "a.mrc.gz")).source
    got: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: got.append(source.read(whole(SHAPE)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decodings) == 1
    assert all((array == other).all() for other in got)


def test_a_width_that_looks_like_gzip(write):
    array = values((1, 1, 0x8B1F), 0)
    for read in (probe, probe_any):
        check_source(read(write(mrc_bytes(array, mode=0))).source, array, tries=2)


@pytest.mark.parametrize(
    ("raised", "found"),
    [
        (OSError(errno.EIO, "Input/output error"), StoreError),
        (OSError("not a file of this format"), FormatError),
        (RuntimeError("odd"), FormatError),
        (EOFError("cut"), TruncatedError),
        (MemoryError(), MemoryError),
        (LimitExceeded("ours"), LimitExceeded),
    ],
)
def test_errors_of_a_library_are_of_our_kinds(raised, found):
    def is_cut(error):
        return isinstance(error, EOFError)

    with pytest.raises(found) as caught, library_errors("a.mrc", "it refuses", is_cut):
        raise raised
    if caught.value is not raised:
        assert str(caught.value).startswith("a.mrc: ")
        assert caught.value.__cause__ is raised
