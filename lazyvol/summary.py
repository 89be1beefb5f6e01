"""Facts of a stack as people read them: shape, voxel size, type, size. No voxel is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import xarray as xr

from lazyvol.plan.budget import show_bytes
from lazyvol.stack import spacing, spatial_dims, unit_of

TIMES = " \N{MULTIPLICATION SIGN} "
SIGNS = {"angstrom": "Å", "nanometer": "nm", "micrometer": "µm", "millimeter": "mm"}


@dataclass(frozen=True)
class Source:
    """A stack's name, lengths, voxel size per dim, type and bytes."""

    name: str
    sizes: Mapping[str, int]
    voxel_size: Mapping[str, float]
    unit: str
    dtype: str
    nbytes: int

    @classmethod
    def of(cls, stack: xr.DataArray, name: str | None = None) -> "Source":
        """The facts of a stack, under a name of its own or another."""
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
        """Name and value of each fact."""
        shape = TIMES.join(f"{n}" for n in self.sizes.values())
        sizes = TIMES.join(f"{v:.4g}" for v in self.voxel_size.values())
        unknown = " (the file does not say)" if self.unit == "voxel" else ""
        return {
            "file": self.name,
            "shape": f"{shape} ({', '.join(self.sizes)})",
            "voxel size": f"{sizes} {sign_of(self.unit)}{unknown}",
            "type": self.dtype,
            "size": show_bytes(self.nbytes),
        }


def sign_of(unit: str) -> str:
    """A unit as people write it."""
    return SIGNS.get(unit, unit)
