"""Open pictures and movies through dask-image, which reads them frame by frame."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from math import ceil, prod
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded
from lazyvol.io.axes import count_elements, order_axes
from lazyvol.io.faults import formats_library, library, library_errors
from lazyvol.io.flat_file import (
    FileSource,
    StoredFile,
    check_dtype,
    stored_file,
    stored_region,
    token,
)
from lazyvol.io.opened import Opened
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region, size, touched

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif")
MOVIES = (".avi", ".mov", ".mp4")
SUFFIXES = (*PICTURES, *MOVIES)
#: the content that Pillow may decode in a file with the suffix of a picture
PILLOW = ("PNG", "JPEG", "BMP", "GIF")
#: largest ratio of decoded to stored bytes, and decoded bytes that any file may have
MAX_RATIO, FREE_BYTES = 1100, 16 << 20
#: dask-image opens a file again for every block of frames
BLOCK_BYTES = 32 << 20
#: dims of a frame by the number of its axes
FRAME_DIMS = {2: ("y", "x"), 3: ("y", "x", "channel"), 4: ("k", "y", "x", "channel")}


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return a picture (channel, y, x), a grey one (y, x), or a movie (k, channel, y, x).

    Parameters
    ----------
    path
        A PNG, JPEG, BMP or GIF file, or a movie (AVI, MOV, MP4) that PyAV decodes.
    permissive
        Has no effect: no repairs are defined.

    Raises
    ------
    FormatError
        The content cannot be decoded, or dask-image or PyAV is missing.
    LimitExceeded
        A picture declares more pixels than its stored bytes can hold.
    """
    file = stored_file(path)
    if PurePath(file.path).suffix.lower() in PICTURES:
        check_picture(file)
    else:
        formats_library("av", file.path)
    with opened_frames(file, 1) as frames:
        pass
    several = frames.shape[0] > 1
    frame_shape = frames.shape[1:]
    if len(frame_shape) not in FRAME_DIMS or (several and len(frame_shape) == 4):
        raise FormatError(f"{file.path}: frames must be images, found shape {frames.shape}")
    check_dtype(frames.dtype, file.path)
    count_elements(frames.shape, file.path)
    names = (("k",) if several else ()) + FRAME_DIMS[len(frame_shape)]
    dims, order = order_axes(names, file.path)
    per_block = max(1, BLOCK_BYTES // (prod(frame_shape) * frames.dtype.itemsize))
    source = PictureSource(
        file, frames.shape, frames.dtype.str, order, min(per_block, frames.shape[0])
    )
    return Opened(source=source, dims=dims, name=PurePath(file.path).stem)


def check_picture(file: StoredFile) -> None:
    """Raise unless Pillow knows the content and its pixels fit the stored bytes."""
    pillow = library("PIL.Image", file.path, "pip install pillow")
    with (
        library_errors(file.path, "Pillow cannot read it"),
        file.open() as handle,
        pillow.open(handle, formats=PILLOW) as picture,
    ):
        count = prod(picture.size) * len(picture.getbands()) * getattr(picture, "n_frames", 1)
    if count > max(FREE_BYTES, MAX_RATIO * file.size):
        raise LimitExceeded(
            f"{file.path}: a picture may decode to {MAX_RATIO} times its {file.size} bytes, it "
            f"declares {count}"
        )


@contextmanager
def opened_frames(file: StoredFile, per_block: int) -> Iterator[Any]:
    """Yield the dask array of the frames, first axis; turn errors in the context into ours."""
    imread = formats_library("dask_image.imread", file.path).imread
    if escape(file.path) != file.path:
        raise FormatError(
            f"{file.path}: dask-image takes '*', '?' and '[' in names for patterns; rename the file"
        )
    with (
        library_errors(file.path, "dask-image cannot read it"),
        file.unchanged(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # it warns of a last block with fewer frames
        yield imread(file.path, nframes=per_block)


@dataclass(eq=False)
class PictureSource(FileSource):
    """Frames of a picture or movie; those of a block are decoded together."""

    stored_shape: tuple[int, ...]
    stored_dtype: str
    order: tuple[int, ...]
    per_block: int

    def __post_init__(self) -> None:
        shape = self._kept(self.stored_shape)
        chunks = self._kept((self.per_block, *self.stored_shape[1:]))
        self.shape = tuple(shape[axis] for axis in self.order)
        self.chunks = tuple(chunks[axis] for axis in self.order)
        self.dtype = np.dtype(self.stored_dtype)
        self.token = token(self.file, self.stored_shape, self.stored_dtype, self.order)

    def _kept(self, values: tuple[int, ...]) -> tuple[int, ...]:
        """Return values per stored axis without that of a single frame."""
        return values[len(values) - len(self.order) :]

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``."""
        box = stored_region(region, self.order)
        single = (0,) * (len(self.stored_shape) - len(self.order))
        with opened_frames(self.file, self.per_block) as frames:
            block = frames[(*single, *box)].compute(scheduler="synchronous")
            out[...] = block.transpose(self.order)

    def stored_bytes(self, region: Region) -> int:
        """Return the share of the frames that are decoded, of the bytes of the file."""
        if not size(region):
            return 0
        return ceil(self.file.size * self._decoded_frames(region) / self.stored_shape[0])

    def peak_bytes(self, region: Region) -> int:
        """Return the bytes of the result and of two copies of the decoded frames."""
        frame = prod(self.stored_shape[1:]) * self.dtype.itemsize
        decoded = self._decoded_frames(region) * frame
        return size(region) * self.dtype.itemsize + 2 * decoded + 2 * self.per_block * frame

    def _decoded_frames(self, region: Region) -> int:
        """Return the number of frames in the blocks of a region."""
        if len(self.order) < len(self.stored_shape):
            return 1
        frames = touched((region[self.order.index(0)],), (self.per_block,))
        return min(frames, self.stored_shape[0])
