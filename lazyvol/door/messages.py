"""Values in error messages: short, and arrays by their shape."""

from typing import Any

import xarray as xr

MAX_CHARACTERS = 60


def show_value(value: Any) -> str:
    """Return a value as text for a message."""
    if isinstance(value, xr.DataArray):
        return f"a DataArray with dims {tuple(map(str, value.dims))}"
    if isinstance(value, xr.Dataset):
        return f"a Dataset of {sorted(map(str, value.data_vars))}"
    if getattr(value, "shape", ()) != ():
        return f"an array of shape {tuple(value.shape)}"
    text = repr(value)
    if len(text) <= MAX_CHARACTERS:
        return text
    return f"{text[:MAX_CHARACTERS]}... ({type(value).__name__})"
