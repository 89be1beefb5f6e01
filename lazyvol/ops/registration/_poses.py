"""Shifts and rotations as people give them, as one number per particle for kernels.

A rotation acts on vectors (x, y, z), right-handed, about voxel ``n // 2``: what is at v goes to
R v. Its Euler angles are the intrinsic z, y, z of RELION and Heymann et al. (J. Struct. Biol. 151,
196, 2005): rot, tilt and psi bring a particle into the frame of the reference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.ops._references import average_or
from lazyvol.ops.synthetic import _membranes
from lazyvol.plan.blas_threads import local_scheduler
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import SPATIAL, STACK, per_dim, require_stack, spacing, spatial_dims, unit_of

#: what places a particle: shifts by dim, or the angles of one
Plain: TypeAlias = np.ndarray[Any, np.dtype[Any]] | Sequence[float] | Sequence[Sequence[float]]
Shifts: TypeAlias = xr.DataArray | Mapping[str, float] | Plain | float
Rotations: TypeAlias = Rotation | xr.DataArray | Plain | float
#: what of the frequencies was measured: tilts, or a mask
Wedge: TypeAlias = xr.DataArray | tuple[float, float]

AXIS, ANGLE = "axis", "angle"
EULER = ("rot", "tilt", "psi")


def whole_dims(stack: xr.DataArray) -> tuple[str, ...]:
    """The spatial dims of a stack of real numbers; refused where it has none."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(f"particles have some of the dims z, y, x, the stack has {stack.dims}")
    empty = {d: n for d, n in stack.sizes.items() if d in dims and n == 0}
    if empty:
        raise LabelError(f"particles have one voxel or more along {dims}, got {empty}")
    return dims


def axes_of(stack: xr.DataArray, dims: Sequence[str]) -> tuple[int, ...]:
    """Axes of the spatial dims, in the order of these."""
    return tuple(stack.dims.index(d) for d in dims)


def steps(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Size of a voxel along three axes, 1 along those that ``dims`` lacks."""
    return (*(1.0,) * (3 - len(dims)), *(spacing(stack, d) for d in dims))


def reference_of(
    op: str, stack: xr.DataArray, reference: xr.DataArray | str, dims: Sequence[str]
) -> xr.DataArray:
    """Return the reference, or the average of the stack; it must have all spatial dims."""
    volume = average_or(op, "reference", reference, stack)
    missing = [d for d in dims if d not in volume.dims]
    if missing:
        raise LabelError(
            f"{op}: reference must have the dims {tuple(dims)}, got {volume.dims}; add {missing}"
        )
    require_same_grid(stack, volume)
    return volume


def frequencies(stack: xr.DataArray, wedge: Wedge) -> xr.DataArray:
    """The frequencies that were measured as a mask, the lowest first."""
    if not isinstance(wedge, xr.DataArray):
        made = _membranes.wedge(_space(stack), tuple(wedge))
        return made if stack.chunks is not None else made.compute(scheduler=local_scheduler())
    missing = [d for d in SPATIAL if d not in require_stack(wedge).dims]
    if missing:
        raise LabelError(f"a mask of frequencies has the dims {SPATIAL}, got {wedge.dims}")
    if wedge.attrs.get("layout", "fft") != "fft":
        raise LabelError(f"a mask of frequencies has frequency 0 first, got {wedge.attrs=}")
    require_same_grid(stack, wedge)
    return wedge


def _space(stack: xr.DataArray) -> xr.DataArray:
    """One particle of a stack."""
    return stack.isel({d: 0 for d in stack.dims if d not in SPATIAL}, drop=True)


def per_particle(stack: xr.DataArray, numbers: xr.DataArray | Sequence[float]) -> xr.DataArray:
    """A number for each particle along k."""
    if isinstance(numbers, xr.DataArray):
        found = require_stack(numbers)
    else:
        values = np.asarray(numbers, np.float64)
        found = xr.DataArray(values, dims=(STACK,) if values.ndim else ())
    if set(found.dims) - {STACK} or found.sizes.get(STACK, 1) not in (1, stack.sizes[STACK]):
        raise LabelError(
            f"weights are one number for each of the {stack.sizes[STACK]} particles along "
            f"{STACK!r}, got {dict(found.sizes)}"
        )
    return found


def in_voxels(stack: xr.DataArray, shifts: Shifts, dims: Sequence[str]) -> list[xr.DataArray]:
    """Shifts along each of ``dims`` in voxels, over the other dims of ``stack`` or none."""
    if isinstance(shifts, xr.DataArray):
        found = _labelled_shifts(stack, shifts, dims)
    elif isinstance(shifts, Mapping):
        given = per_dim(shifts, dims, "shifts")
        found = [xr.DataArray(float(given.get(d, 0.0))) for d in dims]
    else:
        found = _columns(stack, shifts, "shifts", dims)
    return [own / spacing(stack, d) for own, d in zip(found, dims, strict=True)]


def _columns(
    stack: xr.DataArray, given: Plain | float, what: str, names: Sequence[str]
) -> list[xr.DataArray]:
    """Numbers (n,) of every particle or (k, n) of each as one array for each of n names."""
    values, n = numbers_of(given, what), len(names)
    particles = stack.sizes.get(STACK)
    if values.shape == (n,):
        return [xr.DataArray(float(v)) for v in values]
    if values.ndim == 2 and values.shape == (particles, n):
        return [xr.DataArray(column.copy(), dims=(STACK,)) for column in values.T]
    rows = "" if particles is None else f" or ({particles}, {n}), a row for each particle"
    raise LabelError(
        f"{what} must have the shape ({n},), a number for each of {tuple(names)}{rows}, got the "
        f"shape {values.shape}; reshape, or name dims with xarray.DataArray(..., dims=...)"
    )


def numbers_of(given: Any, what: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What stands for numbers as an array; refused where it does not."""
    try:
        values = np.asarray(given)
        if values.dtype.kind in "iuf":
            return values.astype(np.float64)
    except ValueError:
        pass  # rows of different lengths
    raise LabelError(
        f"{what} must be real numbers, rows of one length, got {given!r}; see the operation's "
        f"documentation for their shapes"
    )


def _labelled_shifts(
    stack: xr.DataArray, shifts: xr.DataArray, dims: Sequence[str]
) -> list[xr.DataArray]:
    _require_leading(stack, shifts, AXIS, dims)
    names = named(shifts, AXIS, dims)
    unit, known = shifts.attrs.get("units", "voxel"), unit_of(stack, dims[-1])
    if unit != known and "voxel" not in (unit, known):
        raise LabelError(f"shifts are in {unit}, the stack's positions in {known}; convert one")
    return [shifts.isel({AXIS: names.index(d)}, drop=True) for d in dims]


def _require_leading(
    stack: xr.DataArray, given: xr.DataArray, own: str, dims: Sequence[str]
) -> None:
    """Refuse numbers of particles with other dims than those of the stack and their own."""
    require_stack(given)
    wrong = [d for d in given.dims if d != own and (d in dims or d not in stack.dims)]
    if wrong:
        raise LabelError(
            f"numbers of particles have dim {own!r} and those of {stack.dims} that are not "
            f"spatial, got {given.dims}"
        )


def named(given: xr.DataArray, dim: str, names: Sequence[str]) -> list[str]:
    """Labels along a dim that has to name each of ``names``; in that order where it has none."""
    found = [str(v) for v in given.coords[dim].values] if dim in given.coords else list(names)
    if sorted(found) != sorted(names) or given.sizes.get(dim) != len(names):
        raise LabelError(
            f"dim {dim!r} names {tuple(names)}, got {tuple(found)} for sizes {dict(given.sizes)}"
        )
    return found


def in_degrees(
    stack: xr.DataArray, rotations: Rotations, dims: Sequence[str]
) -> list[xr.DataArray]:
    """rot, tilt and psi in degrees, over the dims of ``stack`` that are not spatial or none."""
    found = _angles(stack, rotations, dims)
    if len(dims) == 3:
        return found
    if set(dims) != {"y", "x"}:
        raise LabelError(f"rotations are of particles with dims z, y, x or y, x, got {tuple(dims)}")
    if not isinstance(rotations, xr.DataArray) and any((a.values % 360).any() for a in found[1:2]):
        raise LabelError("images turn about z alone; give one angle in degrees for each")
    return found


def _angles(stack: xr.DataArray, rotations: Rotations, dims: Sequence[str]) -> list[xr.DataArray]:
    if isinstance(rotations, Rotation):
        return _of_rotation(stack, rotations)
    if isinstance(rotations, xr.DataArray):
        _require_leading(stack, rotations, ANGLE, dims)
        if ANGLE not in rotations.dims:
            return about_z(rotations)
        if len(dims) == 2:
            raise LabelError("images turn about z alone; give one angle in degrees for each")
        names = named(rotations, ANGLE, EULER)
        return [rotations.isel({ANGLE: names.index(a)}, drop=True) for a in EULER]
    values = numbers_of(rotations, "rotations")
    if values.shape in ((), (1,)):
        return about_z(xr.DataArray(values.item()))
    if len(dims) == 2:
        return about_z(_in_plane(stack, values))
    return _columns(stack, values, "rotations", EULER)


def _in_plane(stack: xr.DataArray, values: np.ndarray[Any, np.dtype[Any]]) -> xr.DataArray:
    """One angle for each image along k."""
    n = stack.sizes.get(STACK)
    if n is not None and values.shape in ((n,), (n, 1)):
        return xr.DataArray(values.reshape(n), dims=(STACK,))
    each = "" if n is None else f", or of the shape ({n},), one for each image"
    raise LabelError(
        f"rotations of images must be about z alone, one angle in degrees{each}, got the shape "
        f"{values.shape}; leave out tilt and psi"
    )


def about_z(angle: xr.DataArray) -> list[xr.DataArray]:
    """Euler angles of a rotation about z."""
    return [angle, xr.DataArray(0.0), xr.DataArray(0.0)]


def _of_rotation(stack: xr.DataArray, rotations: Rotation) -> list[xr.DataArray]:
    angles = rotation_grids.angles(rotations.as_quat())
    if angles.ndim == 1:
        return [xr.DataArray(float(a)) for a in angles]
    if STACK not in stack.dims or len(angles) != stack.sizes[STACK]:
        raise LabelError(
            f"rotations are one, or one for each of the {stack.sizes.get(STACK, 1)} particles "
            f"along {STACK!r}, got {len(angles)}"
        )
    return [xr.DataArray(a, dims=(STACK,)) for a in angles.T]
