"""Values as messages show them: short, and arrays by their shape."""

from typing import Any

import xarray as xr

LONGEST = 60


def shown(value: Any) -> str:
    """A value in a message."""
    if isinstance(value, xr.DataArray):
        return f"a DataArray with dims {tuple(map(str, value.dims))}"
    if isinstance(value, xr.Dataset):
        return f"a Dataset of {sorted(map(str, value.data_vars))}"
    if getattr(value, "shape", ()) != ():
        return f"an array of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... ({type(value).__name__})"
