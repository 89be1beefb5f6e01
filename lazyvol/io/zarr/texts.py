"""Texts in zarr arrays: coordinates that xarray, other programs and lazyvol store.

They have a fixed length (``<U8``, or UTF-8 in ``|S8``) or any length (the data type ``string`` of
zarr v3, and objects with the filter ``vlen-utf8`` of v2). lazyvol writes the data type ``string``,
the only one that zarr-extensions specify.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs.vlen import VLenUTF8

from lazyvol.errors import FormatError, LabelError
from lazyvol.io.region_source import DecodedSource
from lazyvol.plan.recipes.base import Array, Source
from lazyvol.plan.regions import Region

#: bytes of an array of texts of equal length; longer ones stay Python objects
MAX_EQUAL = 64 << 20
#: dtype by which shards of texts of any length are divided
SIZED = np.dtype("U32")
LAST_CODE_POINT = 0x10FFFF


@dataclass(eq=False)
class TextSource(DecodedSource):
    """The texts of a source, whose dtype is U, S, or that of Python objects."""

    def fill(self, region: Region, out: Array) -> None:
        """Copy one region into ``out``; raise FormatError if the stored bytes are no text."""
        out[...] = self._decoded(self.source.read(region))

    def _decoded(self, values: Array) -> Array:
        """Return stored values as texts."""
        is_fixed = values.dtype.kind == "U" and values.size
        if is_fixed and np.ascontiguousarray(values).view(np.uint32).max() > LAST_CODE_POINT:
            raise FormatError(f"{self.paths[0]}: texts must be Unicode, found larger code points")
        if values.dtype.kind != "S":
            return values
        try:
            return np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"{self.paths[0]}: texts must be in UTF-8, but: {error}") from error


def text_source(source: Source) -> TextSource:
    """Return the texts of an array of another program, in a dtype that holds them all."""
    dtype = np.dtype(source.dtype)
    return TextSource(source, f"<U{dtype.itemsize}" if dtype.kind == "S" else dtype.str)


def equal_lengths(texts: Array) -> Array:
    """Return texts in memory as an array of one length, unless a long one makes it too large."""
    longest = max(map(len, texts.flat), default=1)
    return texts.astype(str) if 4 * longest * texts.size <= MAX_EQUAL else texts


def is_text(values: Any) -> bool:
    """Return True for an array of texts; Python objects that are not in memory count as texts."""
    if values.dtype.kind != "O":
        return values.dtype.kind in "UT"
    return not isinstance(values, np.ndarray) or all(isinstance(v, str) for v in values.flat)


def is_unicode(texts: npt.NDArray[Any]) -> bool:
    """Return True if texts can be stored in UTF-8: they have no lone surrogates."""
    try:
        "".join(texts.reshape(-1).tolist()).encode()
    except UnicodeEncodeError:
        return False
    return True


def encode_texts(texts: Array) -> bytes:
    """Return texts in the codec ``vlen-utf8``: their number, then each with its length.

    Raises
    ------
    LabelError
        A value is no text, or cannot be stored in UTF-8.
    """
    try:
        return bytes(VLenUTF8().encode(texts.astype(object).reshape(-1)))
    except (TypeError, UnicodeEncodeError) as error:
        raise LabelError(
            f"save: coordinates must hold texts in Unicode, but: {error}; convert or repair them"
        ) from error
