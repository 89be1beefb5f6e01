"""The engine ``lazyvol`` of ``xarray.open_dataset``."""

from collections.abc import Iterable
from typing import Any

import xarray as xr
from xarray.backends import BackendEntrypoint

from lazyvol.io import open as open_stack

#: name of the variable of a file without names
VALUES = "values"


class LazyvolBackend(BackendEntrypoint):
    """Open every source of `lazyvol.open` as a Dataset, lazily and with its labels.

    Leave ``chunks`` out: the variables are lazy already, in blocks of whole volumes. With
    ``chunks``, xarray puts arrays of its own around them, which are read block by block.

    Examples
    --------
    >>> import numpy as np, tempfile, xarray as xr
    >>> folder = tempfile.TemporaryDirectory()
    >>> np.save(f"{folder.name}/a.npy", np.zeros((2, 3, 4, 5), np.float32))
    >>> xr.open_dataset(f"{folder.name}/a.npy", engine=LazyvolBackend).a.dims
    ('k', 'z', 'y', 'x')
    >>> folder.cleanup()
    """

    description = (
        "Volumes and their stacks: OME-Zarr, MRC, EM, TIFF, NPY, HDF5, Imaris, NIfTI, STAR"
    )
    open_dataset_parameters = (
        "filename_or_obj", "drop_variables", "voxel_size", "unit", "dims", "permissive", "missing",
        "storage_options",
    )  # fmt: skip

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        **options: Any,
    ) -> xr.Dataset:
        """Return a source of `lazyvol.open`, with its options, as a Dataset."""
        opened = open_stack(filename_or_obj, **options)
        if isinstance(opened, xr.DataArray):
            opened = opened.to_dataset(name=opened.name or VALUES)
        dropped = [drop_variables] if isinstance(drop_variables, str) else drop_variables or []
        dataset: xr.Dataset = opened.drop_vars(dropped, errors="ignore")
        return dataset

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return False: files are opened by this engine only where it is named."""
        return False
