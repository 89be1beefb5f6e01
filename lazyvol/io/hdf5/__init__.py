"""Read HDF5 files: any data set by name, and the layouts of microscopes and of EMAN2."""

import os
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, LabelError
from lazyvol.io import cf
from lazyvol.io.axes import default_dims, dims_of_names, known_sizes, order_axes
from lazyvol.io.faults import Repairs
from lazyvol.io.flat_file import FlatFileSource, Layout, StoredFile, check_extent, stored_file
from lazyvol.io.hdf5 import layouts
from lazyvol.io.hdf5.source import (
    arrays,
    attribute,
    check_safe,
    data_sets,
    dataset_at,
    open_file,
    render_bits,
)
from lazyvol.io.opened import Opened
from lazyvol.plan.recipes.base import Source

SUFFIXES = (".h5", ".hdf5", ".hdf", ".ims")
MAGIC = b"\x89HDF\r\n\x1a\n"
SEPARATOR = "::"


def probe(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the image of an HDF5 file, or its data set ``file.h5::group/name``.

    Files of Imaris, BigDataViewer and EMAN2 open as stacks, see `lazyvol.io.hdf5.layouts`. Of
    other files the data set of 3 or more axes with most elements is opened. Axis names are those
    of the dimension labels or of an ``axes`` attribute (time becomes k, c channel), otherwise they
    follow from the number of axes as in NPY files. The attribute ``element_size_um`` (z, y, x)
    gives the spacing.

    Parameters
    ----------
    path
        The file, with ``::name`` if it holds several arrays.
    permissive
        Has no effect: no repairs are defined for HDF5.

    Raises
    ------
    FormatError
        The file is not HDF5, no array fits, several fit equally, or h5py is missing.
    TruncatedError
        The file is shorter than its header promises.
    UnsafeSourceError
        The data are in another file or need a filter that is not part of HDF5.
    LimitExceeded
        A chunk or an attribute is too large.
    """
    file_name, _, array_name = os.fspath(path).partition(SEPARATOR)
    file = stored_file(file_name)
    with open_file(file) as store:
        image = None if array_name else layouts.image(store, file)
        if image is not None:
            return image
        data = (
            dataset_at(store, array_name, file.path)
            if array_name
            else largest_array(store, file.path)
        )
        names, dims_error = axis_names(data, file.path)
        dims, order = order_axes(names, file.path)
        spacing = voxel_size(data, dims, file.path)
        return Opened(
            source=cf.decode_source(
                source_of(file, data, order), packing(data, file.path), file.path
            ),
            dims=dims,
            voxel_size=spacing,
            unit="micrometer" if spacing else "voxel",
            name=PurePath(data.name).name,
            dims_error=dims_error,
        )


def probe_xml(path: str | os.PathLike[str], *, permissive: bool = False) -> Opened:
    """Return the image of BigDataViewer that an XML file describes.

    Registrations of the setups are not applied.

    Parameters
    ----------
    path
        The XML file; its HDF5 file is in the same folder or below it.
    permissive
        Has no effect: no repairs are defined.

    Raises
    ------
    FormatError, UnsafeSourceError
        As `lazyvol.io.hdf5.layouts.read_spim_data`, and as `probe` for the HDF5 file.
    """
    target, setups = layouts.read_spim_data(os.fspath(path))
    file = stored_file(target)
    with open_file(file) as store:
        return layouts.big_data_viewer(store, file, setups)


def largest_array(store: Any, where: str) -> Any:
    """Return the only largest data set; raise FormatError if there are several or none."""
    candidates = arrays(store)
    largest = [d for d in candidates if d.size == max(c.size for c in candidates)]
    if len(largest) != 1:
        names = ", ".join(d.name for d in largest[:20]) or "none of 3 or more axes"
        raise FormatError(
            f"{where}: one data set must be chosen, found {names}; write "
            f"{PurePath(where).name}{SEPARATOR}name"
        )
    check_safe(largest[0], where)
    return largest[0]


def axis_names(data: Any, where: str) -> tuple[tuple[str, ...], LabelError | None]:
    """Return axis names, and the error if they are ambiguous."""
    labels = [dim.label for dim in data.dims]
    if all(labels):
        return dims_of_names(labels, data.shape, where)
    axes = attribute(data, "axes", where)
    if isinstance(axes, str) and len(axes) == data.ndim:
        return dims_of_names(axes, data.shape, where)
    return default_dims(data.shape, where)


def voxel_size(data: Any, dims: Sequence[str], where: str) -> dict[str, float]:
    """Return micrometres per voxel from the attribute ``element_size_um``."""
    sizes = np.atleast_1d(np.asarray(attribute(data, "element_size_um", where)))
    if sizes.shape != (3,) or sizes.dtype.kind not in "iuf":
        return {}
    spacing = dict(zip(("z", "y", "x"), sizes.tolist(), strict=True))
    return known_sizes({dim: value for dim, value in spacing.items() if dim in dims})


def packing(data: Any, where: str) -> dict[str, Any]:
    """Return the CF attributes of a data set; NetCDF stores them as arrays of one element."""
    return cf.select_packing({n: attribute(data, n, where) for n in cf.READ if n in data.attrs})


def source_of(file: StoredFile, data: Any, order: tuple[int, ...]) -> Source:
    """Return a flat source if the array is contiguous, otherwise one that reads with h5py."""
    offset = None if data.chunks else data.id.get_offset()
    rendered = bool(render_bits(data.parent, file.path))
    if offset is None or data.file.userblock_size or rendered:
        return data_sets(file, data, data.name.replace("{", "{{").replace("}", "}}"), order)
    layout = Layout(offset, data.dtype.str, data.shape, order)
    check_extent(file, layout, Repairs(file.path, permissive=True))
    return FlatFileSource(file, layout)
