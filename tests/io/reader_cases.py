"""Helpers of reader tests: real data, hand-made MRC files, and checks of a source."""

import pickle
import struct
from collections.abc import Sequence

import numpy as np

from lazyvol.plan.recipes.base import Source
from lazyvol.plan.regions import Region, lengths, size, whole

MODE_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}


def mrc_bytes(
    array: np.ndarray,
    *,
    mode: int = 2,
    order: str = "<",
    axes: tuple[int, int, int] = (1, 2, 3),
    group: int = 1,
    grid: tuple[int, int, int] | None = None,
    cell: tuple[float, float, float] = (0.0, 0.0, 0.0),
    start: tuple[int, int, int] = (0, 0, 0),
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0),
    extended: bytes = b"",
    stamp: bytes | None = None,
    mark: bytes = b"MAP ",
    imod: tuple[int, int] = (0, 0),
) -> bytes:
    """Return an MRC file of a volume (z, y, x) or stack (k, z, y, x) with stored axes ``axes``."""
    lead = array.ndim - 3
    letters = [3, 2, 1]
    stored = array.transpose(
        *range(lead), *(lead + letters.index(word) for word in reversed(axes))
    ).astype(order + MODE_DTYPES.get(mode, "f4"))
    nz, ny, nx = stored.shape[-3] * int(np.prod(stored.shape[:-3])), *stored.shape[-2:]
    grid = grid or (nx, ny, stored.shape[-3])
    head = bytearray(1024)
    fields = (nx, ny, nz, mode, *start, *grid, *cell, 90.0, 90.0, 90.0, *axes)
    struct.pack_into(f"{order}10i6f3i", head, 0, *fields)
    struct.pack_into(f"{order}2i", head, 88, group, len(extended))
    struct.pack_into(f"{order}2i", head, 152, *imod)
    struct.pack_into(f"{order}3f", head, 196, *origin)
    head[208:212] = mark
    head[212:216] = stamp or {"<": b"\x44\x44\0\0", ">": b"\x11\x11\0\0"}[order]
    return bytes(head) + extended + stored.tobytes()


def values(shape: Sequence[int], mode: int = 2, seed: int = 0) -> np.ndarray:
    """Return values that the dtype of an MRC mode represents exactly."""
    rng = np.random.default_rng(seed)
    low = 0 if mode == 6 else -128
    return rng.integers(low, 128, tuple(shape)).astype(MODE_DTYPES[mode])


def random_region(rng: np.random.Generator, shape: Sequence[int]) -> Region:
    """Draw a region of at least one element."""
    corners = [sorted(rng.choice(n + 1, 2, replace=False)) for n in shape]
    return tuple(slice(int(a), int(b)) for a, b in corners)


def check_source(source: Source, expected: np.ndarray, *, tries: int = 12, seed: int = 0) -> None:
    """Check values, dtype, tokens and costs of random regions of a source."""
    assert isinstance(source, Source)
    assert source.shape == expected.shape
    assert source.dtype == expected.dtype.newbyteorder("=")
    assert source.dtype.isnative
    assert len(source.chunks) == len(source.shape)
    again = pickle.loads(pickle.dumps(source))
    assert again.token == source.token
    rng = np.random.default_rng(seed)
    empty = (slice(0, 0), *whole(source.shape)[1:])
    some = [random_region(rng, source.shape) for _ in range(tries)]
    for region in (whole(source.shape), empty, *some):
        check_region(source, expected, region)
    check_region(again, expected, random_region(rng, source.shape))


def check_region(source: Source, expected: np.ndarray, region: Region) -> None:
    """Read one region into new and into given memory."""
    got = source.read(region)
    assert got.dtype == source.dtype
    assert got.flags.c_contiguous
    assert got.flags.writeable
    assert got.base is None or got.base.nbytes == got.nbytes
    np.testing.assert_array_equal(got, expected[region])
    out = np.empty(lengths(region), source.dtype)
    assert source.read(region, out) is out
    np.testing.assert_array_equal(out, expected[region])
    assert source.peak_bytes(region) >= got.nbytes
    assert (source.stored_bytes(region) > 0) == (size(region) > 0)
