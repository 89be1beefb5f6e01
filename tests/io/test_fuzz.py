"""Damaged files give a LazyvolError or an array within seconds."""

import bz2
import gzip
import io
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile

from lazyvol.errors import LazyvolError
from lazyvol.io.probe import probe
from tests.io.reader_cases import mrc_bytes, values

ROUNDS = 300
SHAPE = (4, 5, 6)


def saved(save, *args, **options) -> bytes:
    """Return the bytes that ``save`` writes."""
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def seeds() -> dict[str, tuple[str, bytes, int]]:
    """Return a valid file per format: its name, its bytes, and the length of its header."""
    array = values(SHAPE)
    image = nibabel.Nifti1Image(array.T, np.eye(4))
    small = array.astype("u2")
    facts = {"axes": "ZYX", "unit": "nm", "spacing": 2.0}
    mrc = mrc_bytes(array, extended=b"e" * 40, cell=(6.0, 5.0, 4.0))
    stack = mrc_bytes(values((3, *SHAPE)), group=401)
    npy = saved(np.save, array)
    plain = saved(tifffile.imwrite, small, photometric="minisblack")
    packed = saved(
        tifffile.imwrite, small, photometric="minisblack", compression="zlib", tile=(16, 16)
    )
    imagej = saved(tifffile.imwrite, small, imagej=True, metadata=facts)
    ome = saved(tifffile.imwrite, small, ome=True, metadata={"axes": "ZYX"})
    nii = image.to_bytes()
    return {
        "mrc": ("a.mrc", mrc, 1064),
        "stack": ("a.mrc", stack, 1024),
        "mrc.gz": ("a.mrc.gz", gzip.compress(mrc), 60),
        "mrc.bz2": ("a.mrc.bz2", bz2.compress(mrc), 60),
        "npy": ("a.npy", npy, 128),
        "tiff": ("a.tif", plain, len(plain)),
        "tiff packed": ("a.tif", packed, len(packed)),
        "imagej": ("a.tif", imagej, len(imagej)),
        "ome": ("a.tif", ome, len(ome)),
        "nii": ("a.nii", nii, 352),
        "nii.gz": ("a.nii.gz", gzip.compress(nii), 60),
    }


SEEDS = seeds()
WORDS = [0, 1, 2, 3, 0x7F, 0x80, 0xFF]


def mutants(content: bytes, header: int, rounds: int) -> Iterator[bytes]:
    """Return copies with changed bytes, cleared ranges, extreme words, and cut or longer ends."""
    rng = np.random.default_rng(20260101)
    for _ in range(rounds):
        copy = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, header))
            match rng.integers(0, 5):
                case 0:
                    copy[at % len(copy)] = int(rng.choice(WORDS))
                case 1:
                    copy[at % len(copy)] ^= 1 << int(rng.integers(0, 8))
                case 2:
                    copy[at : at + 4] = rng.bytes(4)
                case 3:
                    copy[at // 4 * 4 : at // 4 * 4 + 4] = bytes([int(rng.choice(WORDS))] * 4)
                case 4:
                    copy = copy[: int(rng.integers(1, len(copy) + 1))] + rng.bytes(
                        rng.integers(0, 9)
                    )
        yield bytes(copy)


def opened_and_read(path: Path, *, permissive: bool) -> str | None:
    """Open a file and read a corner; return the message of a LazyvolError, raise others."""
    try:
        source = probe(path, permissive=permissive).source
        corner = tuple(slice(0, min(n, 2)) for n in source.shape)
        if source.peak_bytes(corner) < 1 << 28:
            source.read(corner)
    except LazyvolError as error:
        return str(error)
    return None


@pytest.mark.parametrize("kind", SEEDS)
def test_damage_is_an_error_of_the_tree(tmp_path, kind, capfd):
    name, content, header = SEEDS[kind]
    path = tmp_path / name
    path.write_bytes(content)
    assert probe(path).source.shape[-3:] == SHAPE
    slowest, read = 0.0, 0
    for number, mutant in enumerate(mutants(content, header, ROUNDS)):
        path.write_bytes(mutant)
        begun = time.process_time()
        fault = opened_and_read(path, permissive=bool(number % 2))
        read += fault is None
        assert fault is None or str(path) in fault
        slowest = max(slowest, time.process_time() - begun)
    assert slowest < 1.0
    assert read < ROUNDS
    assert capfd.readouterr() == ("", "")
