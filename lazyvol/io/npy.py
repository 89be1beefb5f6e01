"""Read NPY files: numpy parses the header, pickled arrays are refused, regions are read."""

import os
from io import BytesIO
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LabelError, UnsafeSourceError
from lazyvol.io.axes import count_elements, default_dims
from lazyvol.io.compressed import array_source
from lazyvol.io.faults import Repairs, library_errors
from lazyvol.io.flat_file import Layout, check_dtype, stored_file
from lazyvol.io.opened import Opened
from lazyvol.io.zarr.layout import Variable

SUFFIXES = (".npy",)
MAGIC = np.lib.format.MAGIC_PREFIX
#: bytes of a file that are read to find its header; numpy limits headers to 10,000
HEAD_BYTES = 16 << 10


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
    shape, fortran, dtype, offset = read_header(file.head(HEAD_BYTES), file.path)
    count_elements(shape, file.path)
    dims, dims_error = default_dims(shape, file.path)
    axes = tuple(range(len(shape)))
    stored_shape, order = (shape[::-1], axes[::-1]) if fortran else (shape, axes)
    layout = Layout(offset, dtype.str, stored_shape, order)
    return Opened(
        source=array_source(file, None, layout, repairs),
        dims=dims,
        attrs=repairs.attrs,
        name=PurePath(file.path).stem,
        dims_error=dims_error,
    )


def npy_header(path: str, variable: Variable) -> tuple[bytes, np.dtype[Any]]:
    """Return the header of an NPY file and the stored dtype; raise LabelError for no numbers."""
    stored = np.dtype(variable.dtype).newbyteorder("<")
    if stored.kind not in "biufc":
        raise LabelError(f"{path}: NPY files must hold numbers, got {stored}; convert it")
    shape = tuple(map(int, variable.shape))
    header = {"descr": stored.str, "fortran_order": False, "shape": shape}
    buffer = BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue(), stored


def read_header(head: bytes, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, order (True for Fortran), dtype, and the offset of the data."""
    stream = BytesIO(head)
    with library_errors(
        where,
        "numpy cannot read the header",
        lambda error: "EOF" in str(error) and len(head) < HEAD_BYTES,
    ):
        version = np.lib.format.read_magic(stream)
        # version 3 differs from 2 in the names of fields only
        read = {1: np.lib.format.read_array_header_1_0}.get(
            version[0], np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(stream)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise FormatError(f"{where}: NPY version must be 1.0 to 3.0, found {version}")
    if dtype.hasobject:
        raise UnsafeSourceError(
            f"{where}: the array holds pickled objects, reading them would run code; "
            "save it with a number dtype"
        )
    return tuple(map(int, shape)), fortran, check_dtype(dtype, where), stream.tell()
