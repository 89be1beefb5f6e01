"""Read NPY files: the header has a limit, pickled arrays are refused, regions are read."""

import ast
import os
import struct
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, TruncatedError, UnsafeSourceError
from lazyvol.io.axes import count_elements, default_dims
from lazyvol.io.flat_file import FlatFileSource, Layout, check_dtype, check_extent, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.repairs import Repairs

SUFFIXES = (".npy",)
MAGIC = b"\x93NUMPY"
#: the limit of numpy for headers
MAX_HEADER = 10_000
KEYS = {"descr", "fortran_order", "shape"}


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the array of an NPY file, in C or Fortran order.

    The file has no axis names: 2 axes are (y, x), 3 (z, y, x), 4 (k, z, y, x), 5 (k, channel,
    z, y, x). The voxel size is unknown.

    Parameters
    ----------
    path
        A file written by `numpy.save`.
    permissive
        Ignore bytes after the array.

    Raises
    ------
    FormatError
        The header breaks the rules or the data are not real numbers.
    UnsafeSourceError
        The array holds pickled objects.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    repairs = Repairs(file.path, permissive)
    text, offset = header_text(file.head(MAX_HEADER + 12), file.path)
    dtype, shape, fortran = header_fields(text, file.path)
    dims, dims_error = default_dims(shape, file.path)
    axes = tuple(range(len(shape)))
    stored_shape, order = (shape[::-1], axes[::-1]) if fortran else (shape, axes)
    layout = Layout(offset, dtype.str, stored_shape, order)
    check_extent(file, layout, repairs)
    return Opened(
        source=FlatFileSource(file, layout),
        dims=dims,
        attrs=repairs.attrs,
        name=PurePath(file.path).stem,
        dims_error=dims_error,
    )


def header_text(head: bytes, where: str) -> tuple[str, int]:
    """Return the header of an NPY file and the offset of its data."""
    if head[:6] != MAGIC or len(head) < 12:
        raise FormatError(f"{where}: an NPY file must start with {MAGIC!r}, found {head[:6]!r}")
    wide = head[6] in (2, 3)
    if tuple(head[6:8]) not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"{where}: NPY version must be 1.0 to 3.0, found {head[6]}.{head[7]}")
    start = 12 if wide else 10
    (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
    if length > MAX_HEADER:
        raise LimitExceeded(f"{where}: an NPY header may have {MAX_HEADER} bytes, found {length}")
    if len(head) < start + length:
        raise TruncatedError(
            f"{where}: the NPY header promises {length} bytes at offset {start}, "
            f"found {len(head) - start}; copy the file again"
        )
    return head[start : start + length].decode("utf-8", "replace"), start + length


def header_fields(text: str, where: str) -> tuple[np.dtype[Any], tuple[int, ...], bool]:
    """Return dtype, shape and whether the array is in Fortran order."""
    fields = parse_literal(text, where)
    if not isinstance(fields, dict) or set(fields) != KEYS:
        raise FormatError(f"{where}: an NPY header must have {sorted(KEYS)}, found {text[:80]!r}")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise FormatError(
            f"{where}: fortran_order must be a boolean and shape a tuple, found {fortran!r} and "
            f"{shape!r}"
        )
    if not all(type(n) is int for n in shape):
        raise FormatError(f"{where}: shape must be integers, found {shape!r}")
    count_elements(shape, where)
    return parse_dtype(fields["descr"], where), shape, fortran


def parse_literal(text: str, where: str) -> object:
    """Return the value of a Python literal; escapes occur only in names of fields."""
    if "\\" in text or not text.isascii():
        raise FormatError(f"{where}: an NPY header must be ASCII without escapes")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise FormatError(
            f"{where}: the NPY header must be a Python literal, found {text[:80]!r}"
        ) from error


def parse_dtype(descr: object, where: str) -> np.dtype[Any]:
    """Return the dtype of a header; raise if it is not that of real numbers."""
    if not isinstance(descr, str):
        raise FormatError(f"{where}: records are not supported, found dtype {str(descr)[:80]}")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where}: no dtype is called {descr!r}") from error
    if dtype.hasobject:
        raise UnsafeSourceError(
            f"{where}: the array holds pickled objects, reading them would run code; "
            "save it with a number dtype"
        )
    return check_dtype(dtype, where)
