"""NPY files: a bounded header, no pickles, then plain reads of regions."""

import ast
import os
import struct
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LimitExceeded, TruncatedError, UnsafeSourceError
from lazyvol.io.axes import arrange, elements, guessed
from lazyvol.io.flat_file import Layout, RawSource, check_dtype, check_extent, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.repairs import Repairs

SUFFIXES = (".npy",)
MAGIC = b"\x93NUMPY"
#: numpy's own limit for a header it will evaluate
MAX_HEADER = 10_000
KEYS = {"descr", "fortran_order", "shape"}


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Array in an NPY file, C or Fortran order.

    The file has no axis names: 2 axes are (y, x), 3 (z, y, x), 4 (k, z, y, x), 5 (k, channel,
    z, y, x). Spacing is unknown.

    Parameters
    ----------
    path
        A file written by `numpy.save`.
    permissive
        Ignore bytes after the array.

    Raises
    ------
    FormatError
        The header breaks the rules or the data are not plain real numbers.
    UnsafeSourceError
        The array holds pickled objects.
    TruncatedError
        The file is shorter than its header promises.
    """
    file = stored_file(path)
    repairs = Repairs(file.path, permissive)
    text, offset = header_text(file.head(MAX_HEADER + 12), file.path)
    dtype, shape, fortran = header_fields(text, file.path)
    names, doubt = guessed(shape, file.path)
    dims, order = arrange(names, file.path)
    stored = tuple(reversed(shape)) if fortran else shape
    turned = tuple(reversed(order)) if fortran else order
    layout = Layout(offset, dtype.str, stored, turned)
    check_extent(file, layout, repairs)
    return Opened(
        source=RawSource(file, layout),
        dims=dims,
        attrs={"repairs": tuple(repairs.made)} if repairs.made else {},
        name=PurePath(file.path).stem,
        doubt=doubt,
    )


def header_text(head: bytes, where: str) -> tuple[str, int]:
    """Header of an NPY file and the offset of its data."""
    if head[:6] != MAGIC or len(head) < 12:
        raise FormatError(f"{where}: an NPY file starts with {MAGIC!r}, found {head[:6]!r}")
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
    """Dtype, shape and whether the first axis is the fastest."""
    fields = literal(text, where)
    if not isinstance(fields, dict) or set(fields) != KEYS:
        raise FormatError(f"{where}: an NPY header needs {sorted(KEYS)}, found {text[:80]!r}")
    shape, fortran = fields["shape"], fields["fortran_order"]
    if not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise FormatError(f"{where}: found fortran_order {fortran!r} and shape {shape!r}")
    if not all(type(n) is int for n in shape):
        raise FormatError(f"{where}: shape must be integers, found {shape!r}")
    elements(shape, where)
    return plain_dtype(fields["descr"], where), shape, fortran


def literal(text: str, where: str) -> object:
    """Value of a Python literal; escapes are refused, they only occur in names of fields."""
    if "\\" in text or not text.isascii():
        raise FormatError(f"{where}: the NPY header holds characters no plain array needs")
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise FormatError(f"{where}: the NPY header is no Python literal: {text[:80]!r}") from error


def plain_dtype(descr: object, where: str) -> np.dtype[Any]:
    """Dtype of a header, real numbers only."""
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
