"""A valid file per format, and damaged copies of it, for the tests of readers and the campaign."""

import bz2
import gzip
import io
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import nibabel
import numpy as np
import tifffile
import zarr
from PIL import Image

import lazyvol as lv
from lazyvol.errors import LazyvolError
from lazyvol.io.probe import probe
from lazyvol.plan.regions import size, whole
from tests.io.hdf5_cases import write_big_data_viewer, write_eman2, write_imaris, write_spim_data
from tests.io.reader_cases import mrc_bytes, values

SHAPE = (4, 5, 6)
#: what reading a damaged file may take: seconds of CPU, and bytes above twice the file
SECONDS, BYTES = 1.0, 64 << 20
WORDS = [0, 1, 2, 3, 0x7F, 0x80, 0xFF]


@dataclass(frozen=True)
class Seed:
    """A valid file: the path to open, its bytes, the bytes to damage, and files beside it.

    ``damaged`` is the file that is damaged, if it is not the one that is opened.
    """

    name: str
    content: bytes
    header: int = 1 << 20
    damaged: str = ""
    beside: dict[str, bytes] = field(default_factory=dict)

    def write(self, folder: Path, content: bytes | None = None) -> Path:
        """Write the file, damaged unless ``content`` is None, and those beside it."""
        if content is None:
            for name, data in self.beside.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
        path = folder / (self.damaged or self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.content if content is None else content)
        return folder / self.name


def saved(save: Callable[..., object], *args: object, **options: object) -> bytes:
    """Return the bytes that ``save`` writes."""
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def written(save: Callable[..., object], *args: object, **options: object) -> bytes:
    """Return the bytes of the file that ``save`` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        save(path, *args, **options)
        return path.read_bytes()


def generic_hdf5(path: Path, **options: object) -> None:
    with h5py.File(path, "w") as file:
        data = file.create_dataset("group/a", data=values((3, *SHAPE)), **options)
        data.attrs["element_size_um"] = (3.0, 2.0, 1.0)


def zarr_seed(version: int, damaged: str) -> Seed:
    """Return a zarr array of one of the versions, one of whose files is damaged."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.zarr"
        options = {"chunks": (2, 5, 6), "zarr_format": version, "attributes": {"a": [1, "b"]}}
        zarr.create_array(path, data=values(SHAPE), **options)
        files = {
            f"a.zarr/{p.relative_to(path)}": p.read_bytes() for p in path.rglob("*") if p.is_file()
        }
    return Seed("a.zarr", files[damaged], damaged=damaged, beside=files)


def seeds() -> dict[str, Seed]:
    """Return a valid file per format and variant."""
    array = values(SHAPE)
    small = array.astype("u2")
    facts = {"axes": "ZYX", "unit": "nm", "spacing": 2.0, "Labels": list("abcd")}
    mrc = mrc_bytes(array, extended=b"e" * 40, cell=(6.0, 5.0, 4.0))
    nii = nibabel.Nifti1Image(array.T, np.eye(4)).to_bytes()
    em = bytes([6, 0, 0, 5]) + np.array(SHAPE[::-1], "<i4").tobytes() + bytes(496) + array.tobytes()
    views = np.arange(240, dtype="u2").reshape(2, 1, *SHAPE)
    big_data_viewer = written(write_big_data_viewer, views)
    spim_data = written(write_spim_data, "a.h5", ["a"])
    colours = np.arange(105, dtype="u1").reshape(5, 7, 3)
    grey = {"photometric": "minisblack"}

    def tiff(data: np.ndarray = small, **options: object) -> Seed:
        return Seed("a.tif", saved(tifffile.imwrite, data, **options))

    def picture(suffix: str, **options: object) -> Seed:
        return Seed(f"a.{suffix}", saved(Image.fromarray(colours).save, suffix, **options))

    return {
        "mrc": Seed("a.mrc", mrc, 1064),
        "stack": Seed("a.mrc", mrc_bytes(values((3, *SHAPE)), group=401), 1024),
        "mrc.gz": Seed("a.mrc.gz", gzip.compress(mrc), 60),
        "mrc.bz2": Seed("a.mrc.bz2", bz2.compress(mrc), 60),
        "em": Seed("a.em", em, 20),
        "npy": Seed("a.npy", saved(np.save, array), 128),
        "tiff": tiff(**grey),
        "tiff deflate": tiff(**grey, compression="zlib", tile=(16, 16)),
        "tiff lzw": tiff(**grey, compression="lzw", predictor=2),
        "tiff zstd": tiff(**grey, compression="zstd"),
        "tiff packbits": tiff(**grey, compression="packbits"),
        "tiff jpeg": tiff(small.astype("u1"), **grey, compression="jpeg"),
        "imagej": tiff(imagej=True, metadata=facts),
        "ome": tiff(ome=True, metadata={"axes": "ZYX"}),
        "nii": Seed("a.nii", nii, 352),
        "nii.gz": Seed("a.nii.gz", gzip.compress(nii), 60),
        "hdf5": Seed("a.h5", written(generic_hdf5)),
        "hdf5 chunks": Seed("a.h5", written(generic_hdf5, chunks=(1, 4, 5, 6), compression="gzip")),
        "imaris": Seed("a.ims", written(write_imaris, values((2, 1, *SHAPE)), names=["a"])),
        "big data viewer": Seed("a.h5", big_data_viewer),
        "spim data": Seed("a.xml", spim_data, beside={"a.h5": big_data_viewer}),
        "eman2": Seed("a.hdf", written(write_eman2, list(values((2, *SHAPE))), bits=8)),
        "zarr v3": zarr_seed(3, "a.zarr/zarr.json"),
        "zarr v2": zarr_seed(2, "a.zarr/.zarray"),
        "zarr chunk": zarr_seed(3, "a.zarr/c/0/0/0"),
        "png": picture("png"),
        "jpeg": picture("jpeg"),
        "bmp": picture("bmp"),
        "gif": picture("gif"),
    }


def mutants(content: bytes, header: int, rounds: int, seed: int = 20260101) -> Iterator[bytes]:
    """Return copies with changed bytes, cleared ranges, extreme words, and cut or longer ends."""
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        copy = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            at = int(rng.integers(0, min(header, len(content))))
            match rng.integers(0, 6):
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
                case 5:
                    copy = digits_changed(copy, rng)
        yield bytes(copy)


def digits_changed(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Return the text with one of its digits replaced by several, or the copy of binary data."""
    places = [n for n, byte in enumerate(content[:4096]) if 48 <= byte < 58]
    if not places:
        return content
    at = int(rng.choice(places))
    return content[:at] + b"9" * int(rng.integers(1, 12)) + content[at + 1 :]


def opened_and_read(path: Path, *, permissive: bool) -> str | None:
    """Open and read a file; return the message of a LazyvolError, raise any other error."""
    try:
        source = probe(path, permissive=permissive).source
        region = whole(source.shape)
        if size(region) * source.dtype.itemsize > BYTES // 2:
            region = tuple(slice(0, min(n, 2)) for n in source.shape)
        if source.peak_bytes(region) <= BYTES:
            source.read(region)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that chunks are absent, which damage may claim
            lv.open(path, permissive=permissive)
    except LazyvolError as error:
        return str(error)
    return None


@dataclass
class Outcome:
    """Of damaged files: how many could be read, the most CPU seconds, and the bytes of growth."""

    read: int = 0
    slowest: float = 0.0
    grown: int = 0


def damage(seed: Seed, folder: Path, rounds: int, number: int = 20260101) -> Outcome:
    """Open and read damaged copies; raise the first error that is not a LazyvolError."""
    path = seed.write(folder)
    outcome = Outcome()
    opened_and_read(path, permissive=False)
    before = peak_memory()
    for n, mutant in enumerate(mutants(seed.content, seed.header, rounds, number)):
        seed.write(folder, mutant)
        begun = time.process_time()
        try:
            fault = opened_and_read(path, permissive=bool(n % 2))
        except Exception as error:
            error.add_note(f"mutant {n} of {seed.name}, seed {number}")
            raise
        outcome.read += fault is None
        assert fault is None or "\n" not in fault, fault
        outcome.slowest = max(outcome.slowest, time.process_time() - begun)
    outcome.grown = peak_memory() - before
    return outcome


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
