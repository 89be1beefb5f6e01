"""Summary of a stack for readers: shape, voxel size, data type, size in bytes. Reads no voxel."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.stack import spacing, spatial_dims, unit_of

TIMES = " \N{MULTIPLICATION SIGN} "
UNIT_SYMBOLS = {"angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm"}


@dataclass(frozen=True)
class StackSummary:
    """Name, lengths, voxel size per spatial dim, unit, data type and bytes of a stack."""

    name: str
    sizes: Mapping[str, int]
    voxel_size: Mapping[str, float]
    unit: str
    dtype: str
    nbytes: int

    @classmethod
    def of(cls, stack: xr.DataArray, name: str | None = None) -> "StackSummary":
        """Return the summary of a stack, under ``name`` if it is not None."""
        dims = spatial_dims(stack)
        return cls(
            name=name or str(stack.name or "stack"),
            sizes={str(d): n for d, n in stack.sizes.items()},
            voxel_size={d: abs(spacing(stack, d)) for d in dims},
            unit=unit_of(stack, dims[-1]) if dims else "voxel",
            dtype=str(stack.dtype),
            nbytes=prod(stack.shape) * stack.dtype.itemsize,
        )

    def facts(self) -> dict[str, str]:
        """Return each entry as text, by name."""
        shape = TIMES.join(f"{n}" for n in self.sizes.values())
        sizes = TIMES.join(f"{v:.4g}" for v in self.voxel_size.values())
        unknown = " (not in the file)" if self.unit == "voxel" else ""
        return {
            "file": self.name,
            "shape": f"{shape} ({', '.join(self.sizes)})",
            "voxel size": f"{sizes} {unit_symbol(self.unit)}{unknown}",
            "type": self.dtype,
            "size": show_bytes(self.nbytes),
        }


def unit_symbol(unit: str) -> str:
    """Return the symbol of a unit, e.g. Å for angstrom; other units unchanged."""
    return UNIT_SYMBOLS.get(unit, unit)
