"""Shifts and rotations as arguments, converted to numbers per particle for kernels.

A rotation acts on vectors (x, y, z), right-handed, about voxel ``n // 2``: a value at v moves to R
v. Euler angles are intrinsic z, y, z as in RELION and Heymann et al. (J. Struct. Biol. 151, 196,
2005): rot, tilt and psi rotate a particle into the frame of the reference.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import rotation_grids, spectrum_layouts
from lazyvol.ops._checks import require_voxels
from lazyvol.ops._references import average_or
from lazyvol.ops.synthetic import _membranes
from lazyvol.plan.execution import local_scheduler
from lazyvol.plan.verbs import blockwise
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import (
    SPATIAL,
    STACK,
    per_dim,
    require_one_unit,
    require_stack,
    spacing,
    spatial_dims,
    unit_of,
)

#: shifts or angles without labels
Plain: TypeAlias = np.ndarray[Any, np.dtype[Any]] | Sequence[float] | Sequence[Sequence[float]]
Shifts: TypeAlias = xr.DataArray | Mapping[str, float] | Plain | float
Rotations: TypeAlias = Rotation | xr.DataArray | Plain | float
#: the measured frequencies: lowest and highest tilt, or a mask
Wedge: TypeAlias = xr.DataArray | tuple[float, float]

AXIS, ANGLE = "axis", "angle"
EULER = ("rot", "tilt", "psi")
#: spellings of the unit of angles
DEGREES = ("degree", "degrees", "deg", "\u00b0")
#: rule for rotations of images, in errors
ABOUT_Z_ALONE = (
    "rotations of images must be about z alone, got tilts; give one angle in degrees for each"
)


def particle_dims(stack: xr.DataArray) -> tuple[str, ...]:
    """Return the spatial dims of a stack, which must have voxels and one unit along them."""
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(f"stack must have at least one of the dims {SPATIAL}, got {stack.dims}")
    require_voxels("stack", stack, dims)
    require_one_unit(stack, dims, "stack")
    return dims


def axes_of(stack: xr.DataArray, dims: Sequence[str]) -> tuple[int, ...]:
    """Return the axes of dims, in the order of ``dims``."""
    return tuple(stack.dims.index(d) for d in dims)


def zyx_spacing(stack: xr.DataArray, dims: Sequence[str]) -> tuple[float, ...]:
    """Return the voxel size along three axes, 1 along those missing in ``dims``."""
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


def measured_frequencies(
    op: str, stack: xr.DataArray, wedge: Wedge | None, orientations: Rotations | None,
    dims: Sequence[str],
) -> tuple[list[xr.DataArray], list[xr.DataArray]]:  # fmt: skip
    """Return the mask of measured frequencies, and the angles of the rotation since, if any."""
    if wedge is None and orientations is not None:
        raise LabelError(
            f"{op}: orientations must be None without a wedge, got {type(orientations).__name__}; "
            f"pass e.g. wedge=(-60.0, 60.0), or the poses as rotations"
        )
    masks = [] if wedge is None else [wedge_mask(op, stack, wedge)]
    return masks, [] if orientations is None else euler_angles(stack, orientations, dims)


def wedge_mask(op: str, stack: xr.DataArray, wedge: Wedge) -> xr.DataArray:
    """Return the measured frequencies as masks of whole transforms, frequency 0 first."""
    if not isinstance(wedge, xr.DataArray):
        mask = _membranes.wedge(_first_particle(stack), tuple(wedge))
        return mask if stack.chunks is not None else mask.compute(scheduler=local_scheduler())
    lead = [str(d) for d in require_stack(wedge).dims if d not in SPATIAL]
    if not set(SPATIAL) <= set(wedge.dims) or set(lead) - set(stack.dims):
        raise LabelError(
            f"{op}: wedge must have the dims {SPATIAL} and some of the stack's others, got "
            f"{wedge.dims}; select or rename dims"
        )
    layout, width = wedge.attrs.get("layout", "fft"), stack.sizes["x"]
    if layout not in ("fft", "centred") or wedge.dtype.kind not in "biuf":
        raise LabelError(
            f"{op}: wedge must hold real numbers with attrs['layout'] 'fft' or 'centred', got "
            f"{wedge.dtype} and {layout!r}; see synthetic.wedge"
        )
    is_half = wedge.sizes["x"] == width // 2 + 1 != width
    require_same_grid(stack, wedge.isel(x=0, drop=True) if is_half else wedge)
    if not is_half and layout == "fft":
        return wedge
    kernel = partial(spectrum_layouts.zero_first, width=width, centred=layout == "centred")
    ordered = wedge.transpose(*lead, *SPATIAL).drop_vars("x", errors="ignore")
    return blockwise(
        kernel, ordered, core=SPATIAL, out=(*lead, *SPATIAL), sizes={"x": width}, scratch=8.0,
        title="wedge",
    )  # fmt: skip


def _first_particle(stack: xr.DataArray) -> xr.DataArray:
    """Return the first particle of a stack of volumes."""
    return stack.isel({d: 0 for d in stack.dims if d not in SPATIAL}, drop=True)


def particle_weights(stack: xr.DataArray, weights: xr.DataArray | Sequence[float]) -> xr.DataArray:
    """Return weights labelled along k."""
    if isinstance(weights, xr.DataArray):
        labelled = require_stack(weights)
    else:
        values = np.asarray(weights, np.float64)
        labelled = xr.DataArray(values, dims=(STACK,) if values.ndim else ())
    if set(labelled.dims) - {STACK} or labelled.sizes.get(STACK, 1) not in (1, stack.sizes[STACK]):
        raise LabelError(
            f"weights must be one number for each of the {stack.sizes[STACK]} particles along "
            f"{STACK!r}, got {dict(labelled.sizes)}"
        )
    return labelled


def shifts_in_voxels(
    stack: xr.DataArray, shifts: Shifts, dims: Sequence[str]
) -> list[xr.DataArray]:
    """Return the shifts along each of ``dims`` in voxels, with none or some of the other dims."""
    if isinstance(shifts, xr.DataArray):
        lengths = _labelled_shifts(stack, shifts, dims)
    elif isinstance(shifts, Mapping):
        by_dim = per_dim(shifts, dims, "shifts")
        lengths = [xr.DataArray(float(by_dim.get(d, 0.0))) for d in dims]
    else:
        lengths = _columns(stack, shifts, "shifts", dims)
    return [length / spacing(stack, d) for length, d in zip(lengths, dims, strict=True)]


def _columns(
    stack: xr.DataArray, numbers: Plain | float, param: str, names: Sequence[str]
) -> list[xr.DataArray]:
    """Return one array for each name from numbers (n,) for all particles or (k, n) for each."""
    values, n = real_numbers(numbers, param), len(names)
    particles = stack.sizes.get(STACK)
    if values.shape == (n,):
        return [xr.DataArray(float(v)) for v in values]
    if values.ndim == 2 and values.shape == (particles, n):
        return [xr.DataArray(column.copy(), dims=(STACK,)) for column in values.T]
    rows = "" if particles is None else f" or ({particles}, {n}), a row for each particle"
    raise LabelError(
        f"{param} must have the shape ({n},), a number for each of {tuple(names)}{rows}, got the "
        f"shape {values.shape}; reshape, or name dims with xarray.DataArray(..., dims=...)"
    )


def real_numbers(values: Any, param: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return values as a float64 array; refuse others than real numbers."""
    try:
        array = np.asarray(values)
        if array.dtype.kind in "iuf":
            return array.astype(np.float64)
    except ValueError:
        pass  # rows of different lengths
    raise LabelError(
        f"{param} must be real numbers, rows of one length, got {values!r}; see the operation's "
        f"documentation for their shapes"
    )


def _labelled_shifts(
    stack: xr.DataArray, shifts: xr.DataArray, dims: Sequence[str]
) -> list[xr.DataArray]:
    """Return the shifts along each of ``dims``, in the unit of the stack's positions."""
    _require_particle_dims(stack, shifts, "shifts", AXIS, dims)
    names = _labels(shifts, "shifts", AXIS, dims)
    stack_unit = unit_of(stack, dims[-1])
    unit = shifts.attrs.get("units", stack_unit)
    if unit != stack_unit:
        raise LabelError(
            f"shifts must be in the unit of the stack's positions, {stack_unit}, got {unit}; "
            f"convert them, and set their attribute 'units'"
        )
    return [shifts.isel({AXIS: names.index(d)}, drop=True) for d in dims]


def _require_particle_dims(
    stack: xr.DataArray, numbers: xr.DataArray, param: str, own_dim: str, dims: Sequence[str]
) -> None:
    """Refuse numbers with other dims than ``own_dim`` and the non-spatial ones of the stack."""
    require_stack(numbers)
    wrong = [d for d in numbers.dims if d != own_dim and (d in dims or d not in stack.dims)]
    if wrong:
        allowed = tuple(d for d in stack.dims if d not in dims)
        raise LabelError(
            f"{param} must have the dim {own_dim!r} and some of {allowed}, got {numbers.dims}"
        )


def _labels(numbers: xr.DataArray, param: str, dim: str, names: Sequence[str]) -> list[str]:
    """Return the labels along a dim, by default ``names``; refuse others than these."""
    labels = [str(v) for v in numbers.coords[dim].values] if dim in numbers.coords else list(names)
    if sorted(labels) != sorted(names) or numbers.sizes.get(dim) != len(names):
        raise LabelError(
            f"{param} must have the labels {tuple(names)} along {dim!r}, got {tuple(labels)} for "
            f"sizes {dict(numbers.sizes)}"
        )
    return labels


def euler_angles(
    stack: xr.DataArray, rotations: Rotations, dims: Sequence[str]
) -> list[xr.DataArray]:
    """Return rot, tilt and psi in degrees, with none or some of the non-spatial dims."""
    angles = _angles(stack, rotations, dims)
    if len(dims) == 3:
        return angles
    if set(dims) != {"y", "x"}:
        raise LabelError(
            f"stack must have the dims z, y, x or y, x to be rotated, got {tuple(dims)}"
        )
    if not isinstance(rotations, xr.DataArray) and (angles[1].values % 360).any():
        raise LabelError(ABOUT_Z_ALONE)
    return angles


def _angles(stack: xr.DataArray, rotations: Rotations, dims: Sequence[str]) -> list[xr.DataArray]:
    """Return rot, tilt and psi of rotations in any accepted form."""
    if isinstance(rotations, Rotation):
        return _angles_of_rotation(stack, rotations)
    if isinstance(rotations, xr.DataArray):
        _require_particle_dims(stack, rotations, "rotations", ANGLE, dims)
        if rotations.attrs.get("units", "degree") not in DEGREES:
            raise LabelError(
                f"rotations must be in degrees, got {rotations.attrs['units']}; convert them, e.g. "
                f"with numpy.degrees, and set their attribute 'units'"
            )
        if ANGLE not in rotations.dims:
            return _about_z(rotations)
        if len(dims) == 2:
            raise LabelError(ABOUT_Z_ALONE)
        names = _labels(rotations, "rotations", ANGLE, EULER)
        return [rotations.isel({ANGLE: names.index(a)}, drop=True) for a in EULER]
    values = real_numbers(rotations, "rotations")
    if values.shape in ((), (1,)):
        return _about_z(xr.DataArray(values.item()))
    if len(dims) == 2:
        return _about_z(_image_angles(stack, values))
    return _columns(stack, values, "rotations", EULER)


def _image_angles(stack: xr.DataArray, values: np.ndarray[Any, np.dtype[Any]]) -> xr.DataArray:
    """Return one angle for each image along k."""
    n = stack.sizes.get(STACK)
    if n is not None and values.shape in ((n,), (n, 1)):
        return xr.DataArray(values.reshape(n), dims=(STACK,))
    each = "" if n is None else f", or of the shape ({n},), one for each image"
    raise LabelError(
        f"rotations of images must be about z alone, one angle in degrees{each}, got the shape "
        f"{values.shape}; leave out tilt and psi"
    )


def _about_z(angle: xr.DataArray) -> list[xr.DataArray]:
    """Return the Euler angles of a rotation about z."""
    return [angle, xr.DataArray(0.0), xr.DataArray(0.0)]


def _angles_of_rotation(stack: xr.DataArray, rotations: Rotation) -> list[xr.DataArray]:
    """Return the Euler angles of one rotation, or of one for each particle."""
    angles = rotation_grids.to_euler(rotations.as_quat())
    if angles.ndim == 1:
        return [xr.DataArray(float(a)) for a in angles]
    if STACK not in stack.dims or len(angles) != stack.sizes[STACK]:
        raise LabelError(
            f"rotations must be one, or one for each of the {stack.sizes.get(STACK, 1)} particles "
            f"along {STACK!r}, got {len(angles)}"
        )
    return [xr.DataArray(a, dims=(STACK,)) for a in angles.T]
