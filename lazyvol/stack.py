"""The labelled stack: dims, coordinates, voxel size, units, and the checks on them."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError

#: attribute of a coordinate of one position: the voxel size along it
LONE = "spacing"
#: the axis along which volumes are stacked
STACK = "k"
#: the axes of one volume, slowest first
SPATIAL = ("z", "y", "x")

#: relative deviation of a coordinate's steps from their mean that still counts as regular
REGULAR = 1e-3

Dims = str | Iterable[Hashable] | None


def as_stack(
    array: Any,
    *,
    voxel_size: float | Sequence[float] | Mapping[str, float] = 1.0,
    unit: str = "voxel",
    dims: Sequence[str] | None = None,
    name: str | None = None,
) -> xr.DataArray:
    """Label an array: dims, positions of the voxel centres, and their unit.

    Parameters
    ----------
    array
        numpy or dask array, (z, y, x), (k, z, y, x) or, with ``dims``, of any shape.
    voxel_size
        Distance between voxel centres in ``unit``: one number, one per spatial dim present in
        the order z, y, x, or a mapping from dim to distance.
    unit
        Unit of the positions, e.g. ``"angstrom"`` or ``"micrometer"``; ``"voxel"`` where the
        size is not known.
    dims
        Names of the axes. By default the last three are z, y, x and a fourth is k.
    name
        Name of the quantity.

    Returns
    -------
    xarray.DataArray
        The same values, labelled. Nothing is computed or copied.

    Raises
    ------
    LabelError
        If the number of dims or voxel sizes does not fit the array.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.zeros((2, 3, 4, 5)), voxel_size=2.0, unit="angstrom")
    >>> stack.dims, float(stack.x[1]), stack.x.attrs["units"]
    (('k', 'z', 'y', 'x'), 2.0, 'angstrom')
    """
    names = _dims(np.ndim(array), dims)
    sizes = _voxel_sizes(voxel_size, names)
    coords = positions(dict(zip(names, np.shape(array), strict=True)), sizes, unit)
    return xr.DataArray(_native(array), coords, names, name=name)


def _native(array: Any) -> Any:
    """The array in this machine's byte order, the only one that compiled kernels know."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or dtype.isnative:
        return array
    return array.astype(dtype.newbyteorder("="))


def positions(
    lengths: Mapping[str, int],
    voxel_size: Mapping[str, float],
    unit: str,
    origin: Mapping[str, float] | None = None,
) -> dict[str, xr.Variable]:
    """Coordinates of the spatial dims in ``lengths``: origin + index times voxel size.

    A lone position does not tell its voxel size, so its coordinate has it as an attribute.
    """
    start, found = origin or {}, {}
    for d in (d for d in SPATIAL if d in lengths):
        step = voxel_size.get(d, 1.0)
        attrs = {"units": unit} | ({LONE: step} if lengths[d] == 1 and step != 1 else {})
        found[d] = xr.Variable(d, start.get(d, 0.0) + np.arange(lengths[d]) * step, attrs)
    return found


def _dims(ndim: int, dims: Sequence[str] | None) -> tuple[str, ...]:
    if dims is None:
        if not 1 <= ndim <= 4:
            raise LabelError(
                f"an array of 1 to 4 dims is labelled by itself, got {ndim=}; name them with dims="
            )
        return (STACK, *SPATIAL)[4 - ndim :] if ndim > 1 else (STACK,)
    if len(dims) != ndim or len(set(dims)) != ndim:
        raise LabelError(f"dims names every axis once, got {tuple(dims)} for {ndim=}")
    return tuple(dims)


def require_no_colours(shape: Sequence[int], what: str) -> None:
    """Refuse an array without axis names that looks like images of colours.

    Parameters
    ----------
    shape
        Lengths of the axes.
    what
        The array as the message calls it, e.g. the path of its file.

    Raises
    ------
    LabelError
        The last axis is of 3 or 4 and both axes before it are longer.
    """
    if len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4:
        colours = ("k", "z", "y", "x", "channel")[-len(shape) :]
        raise LabelError(
            f"{what}: axes without names must not end in one of 3 or 4 beside longer ones, which "
            f"may be colours, got shape {tuple(shape)}; name every axis with dims=, e.g. {colours} "
            "for colours"
        )


def _voxel_sizes(
    voxel_size: float | Sequence[float] | Mapping[str, float], dims: Sequence[str]
) -> dict[str, float]:
    spatial = [d for d in SPATIAL if d in dims]
    if isinstance(voxel_size, Mapping):
        sizes = dict(voxel_size)
    elif np.ndim(voxel_size) == 0:
        sizes = dict.fromkeys(spatial, float(voxel_size))  # type: ignore[arg-type]
    else:
        given = list(voxel_size)  # type: ignore[arg-type]
        if len(given) != len(spatial):
            raise LabelError(
                f"voxel_size is one number or one per spatial dim {spatial}, got {given}"
            )
        sizes = dict(zip(spatial, map(float, given), strict=True))
    unknown = set(sizes) - set(spatial)
    bad = {d: s for d, s in sizes.items() if not (np.isfinite(s) and s > 0)}
    if unknown or bad:
        raise LabelError(
            f"voxel_size gives positive numbers for {spatial}, got {unknown=} and {bad=}"
        )
    return sizes


def dims_of(stack: xr.DataArray, dim: Dims, *, what: str = "dim") -> tuple[str, ...]:
    """``dim`` as a tuple of dims that ``stack`` has; None means all of them."""
    if dim is None:
        return tuple(str(d) for d in stack.dims)
    names = (dim,) if isinstance(dim, str) else tuple(str(d) for d in dim)
    missing = [d for d in names if d not in stack.dims]
    if missing or len(set(names)) != len(names):
        raise LabelError(
            f"{what} names dims of the stack, each once; got {names}, the stack has {stack.dims}"
        )
    return names


def spatial_dims(stack: xr.DataArray) -> tuple[str, ...]:
    """The spatial dims that ``stack`` has, in the order z, y, x."""
    return tuple(d for d in SPATIAL if d in stack.dims)


def spacing(stack: xr.DataArray, dim: str) -> float:
    """Distance between neighbours along ``dim`` in the unit of its coordinate; 1 without one."""
    if dim not in stack.coords:
        return 1.0
    if stack.sizes[dim] < 2:
        return float(stack.coords[dim].attrs.get(LONE, 1.0))
    values = np.asarray(stack.coords[dim].values, np.float64)
    steps = np.diff(values)
    step = float((values[-1] - values[0]) / (len(values) - 1))
    if not np.isfinite(step) or step == 0 or np.abs(steps - step).max() > REGULAR * abs(step):
        raise LabelError(
            f"coordinate {dim!r} is not regular: steps run from {steps.min():g} to "
            f"{steps.max():g}; give it equal steps, e.g. with as_stack"
        )
    return step


def apart(stack: xr.DataArray, dims: Sequence[str]) -> bool:
    """Whether other dims lie between some, so that blocks are laid out anew to be reduced."""
    at = sorted(stack.dims.index(d) for d in dims)
    return bool(at) and at != list(range(at[0], at[-1] + 1))


def unit_of(stack: xr.DataArray, dim: str) -> str:
    """Unit of the coordinate of ``dim``; ``voxel`` where it has none."""
    return str(stack.coords[dim].attrs.get("units", "voxel")) if dim in stack.coords else "voxel"


def require_stack(stack: Any) -> xr.DataArray:
    """``stack`` itself where it is a labelled array of numbers."""
    if not isinstance(stack, xr.DataArray):
        raise LabelError(
            f"a labelled xarray.DataArray is needed, got {type(stack).__name__}; "
            f"label it with lazyvol.as_stack(array)"
        )
    if stack.dtype.kind not in "biufc":
        raise LabelError(f"voxels are numbers, got dtype={stack.dtype} in {stack.name!r}")
    if not stack.dtype.isnative:
        raise LabelError(
            f"voxels are in this machine's byte order, got dtype={stack.dtype.str!r}; as_stack "
            f"turns them, as does .astype({stack.dtype.newbyteorder('=').str!r})"
        )
    return stack


def require_mask(mask: Any) -> xr.DataArray:
    """``mask`` itself where it is a labelled array of flags."""
    flags = require_stack(mask)
    if flags.dtype != bool:
        raise LabelError(f"a mask is boolean, got dtype={flags.dtype}; compare it, e.g. mask > 0")
    return flags


def require_same_grid(a: xr.DataArray, b: xr.DataArray) -> None:
    """Refuse two stacks whose common dims differ in length, unit or position."""
    for d in (str(d) for d in a.dims if d in b.dims):
        if a.sizes[d] != b.sizes[d]:
            raise LabelError(
                f"both have dim {d!r}, of lengths {a.sizes[d]} and {b.sizes[d]}; "
                f"crop or resample one of them"
            )
        if d in SPATIAL and d in a.coords and d in b.coords:
            _require_same_positions(a, b, d)


def _require_same_positions(a: xr.DataArray, b: xr.DataArray, dim: str) -> None:
    units = unit_of(a, dim), unit_of(b, dim)
    if units[0] != units[1] and "voxel" not in units:
        raise LabelError(
            f"coordinate {dim!r} is in {units[0]} and in {units[1]}; convert one of them"
        )
    steps = spacing(a, dim), spacing(b, dim)
    if "voxel" not in units and not np.isclose(*steps, rtol=REGULAR):
        raise LabelError(
            f"voxels along {dim!r} are {steps[0]:g} and {steps[1]:g} {units[0]} apart; "
            f"resample one of them"
        )


def float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Float type of a result: a float's own, float64 for integers and booleans."""
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)


def with_units(stack: xr.DataArray, power: int) -> dict[Hashable, Any]:
    """Attributes of a result whose unit is the stack's to a power (variance: 2; counts: 0)."""
    attrs = dict(stack.attrs)
    unit = attrs.pop("units", None) if power == 0 else attrs.get("units")
    if unit and power not in (0, 1):
        attrs["units"] = f"({unit})^{power}" if " " in str(unit) else f"{unit}^{power}"
    return attrs
