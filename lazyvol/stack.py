"""The labelled stack: dims, coordinates, voxel size, units, element types, and their checks."""

import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Real
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError

#: the axis along which volumes are stacked
STACK = "k"
#: the axes of one volume, slowest first
SPATIAL = ("z", "y", "x")
#: value of ``dim`` for all spatial dims of a stack: z, y, x of volumes, y, x of images
ALL_SPATIAL = "spatial"
#: attribute of a coordinate with one position that holds the voxel size along it
SPACING_ATTR = "spacing"
#: deviation of a coordinate's steps, relative to their mean, that still counts as regular
REGULARITY = 1e-3

Array = np.ndarray[Any, np.dtype[Any]]
Dims = str | Iterable[Hashable] | None
#: numbers in an array with one axis
Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[Any]]
#: lengths: one for all spatial dims of the stack, one for each in the order z, y, x, or by name
Sigma: TypeAlias = float | Mapping[str, float] | Sequence[float] | Vector
#: numbers of voxels, in these forms
Size: TypeAlias = int | Mapping[str, int] | Sequence[int] | Vector


def as_stack(
    array: Any,
    *,
    voxel_size: Sigma = 1.0,
    unit: str = "voxel",
    dims: Sequence[str] | None = None,
    name: str | None = None,
) -> xr.DataArray:
    """Array with labels: dims, positions of the voxel centres, and their unit.

    Parameters
    ----------
    array
        numpy or dask array, (z, y, x), (k, z, y, x) or, with ``dims``, of any shape. Masked values
        of a ``numpy.ma`` array become NaN; masked integers become float64.
    voxel_size
        Distance between voxel centres in ``unit``: one number, one per spatial dim of the array in
        the order z, y, x, or a mapping from dim to distance.
    unit
        Unit of the positions, e.g. ``"angstrom"`` or ``"micrometer"``; ``"voxel"`` if the size is
        not known.
    dims
        Names of the axes. By default the last three are z, y, x and a fourth is k; required where
        the last axis may hold colours (3 or 4 elements after longer axes).
    name
        Name of the quantity.

    Returns
    -------
    xarray.DataArray
        The values of ``array``, labelled. Nothing is computed, and only masked arrays are copied.

    Raises
    ------
    LabelError
        If the number of dims does not match the array, or the array holds no numbers.
    OptionError
        If voxel sizes are not positive numbers or not one per spatial dim, or the unit is not a
        word.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.zeros((2, 3, 4, 5)), voxel_size=2.0, unit="angstrom")
    >>> stack.dims, float(stack.x[1]), stack.x.attrs["units"]
    (('k', 'z', 'y', 'x'), 2.0, 'angstrom')
    """
    values = plain_array(array)
    names = _dim_names(np.shape(values), dims)
    sizes = _voxel_sizes(voxel_size, names)
    if not isinstance(unit, str):
        raise OptionError(
            f"as_stack: unit must be a word such as 'angstrom', got {unit!r}; use 'voxel' if "
            f"it is not known"
        )
    if name is not None and not isinstance(name, str):
        raise OptionError(f"as_stack: name must be a text, got {name!r}; leave it out for none")
    coords = positions(dict(zip(names, np.shape(values), strict=True)), sizes, unit)
    return data_array(values, coords, names, name)


def data_array(
    data: Any, coords: Any, dims: Sequence[str], name: Hashable = None, attrs: Any = None
) -> xr.DataArray:
    """Return a labelled array; without a name xarray names it after the layer of its graph."""
    array = xr.DataArray(data, coords, dims, attrs=attrs)
    array.name = name
    return array


def require_no_colours(shape: Sequence[int], subject: str) -> None:
    """Raise LabelError for a shape without labels that may be an image with colours.

    That is a last axis of 3 or 4 elements after two axes of more than 4: labelled x, its colours
    would be mixed as neighbouring voxels.
    """
    if len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4:
        colours = ("k", "z", "y", "x", "channel")[-len(shape) :]
        raise LabelError(
            f"{subject} must have named axes where the last one may be colours, got shape "
            f"{tuple(shape)}; name every axis with dims=, e.g. {colours} for colours or "
            f"{(STACK, *SPATIAL)[-len(shape) :]} for voxels"
        )


def positions(
    lengths: Mapping[str, int],
    voxel_size: Mapping[str, float],
    unit: str,
    origin: Mapping[str, float] | None = None,
) -> dict[str, xr.Variable]:
    """Return the coordinates of the spatial dims in ``lengths``: origin + index * voxel size.

    A dim of one position keeps its voxel size as an attribute of the coordinate.
    """
    start = origin or {}
    coords = {}
    for d in (d for d in SPATIAL if d in lengths):
        step = voxel_size.get(d, 1.0)
        attrs = {"units": unit} | ({SPACING_ATTR: step} if lengths[d] == 1 and step != 1 else {})
        coords[d] = xr.Variable(d, start.get(d, 0.0) + np.arange(lengths[d]) * step, attrs)
    return coords


def default_dims(shape: Sequence[int], subject: str) -> tuple[str, ...]:
    """Return the dims of an array without labels: z, y, x after k, or k of a single axis.

    Raise LabelError if it has no such dims; ``subject`` starts the message.
    """
    ndim = len(shape)
    if not 1 <= ndim <= 4:
        raise LabelError(
            f"{subject} must have 1 to 4 axes or names for them, got shape {tuple(shape)}; name "
            f"its axes by lazyvol.as_stack(array, dims=...)"
        )
    require_no_colours(shape, subject)
    return (STACK, *SPATIAL)[4 - ndim :] if ndim > 1 else (STACK,)


def _dim_names(shape: Sequence[int], dims: Sequence[str] | None) -> tuple[str, ...]:
    """Return the given names of axes, or the default ones; raise LabelError if they do not fit."""
    if dims is None:
        return default_dims(shape, "as_stack: array")
    ndim = len(shape)
    is_list = isinstance(dims, Sequence) or (isinstance(dims, np.ndarray) and dims.ndim == 1)
    names = tuple(dims) if is_list and not isinstance(dims, str) else ()
    if not all(isinstance(d, str) for d in names) or not len(names) == len(set(names)) == ndim:
        raise LabelError(
            f"as_stack: dims must name each of the {ndim} axes once, got {dims!r}; give a "
            f"sequence of different names, e.g. {(STACK, *SPATIAL)[-ndim:] if ndim else ()}"
        )
    return names


def _voxel_sizes(voxel_size: Sigma, dims: Sequence[str]) -> dict[str, float]:
    """Return the voxel size by spatial dim; raise OptionError if a size is missing or invalid."""
    spatial = [d for d in SPATIAL if d in dims]
    if isinstance(voxel_size, Mapping):
        values = dict(voxel_size)
    elif isinstance(voxel_size, Sequence) or (_in_memory(voxel_size) and np.ndim(voxel_size) == 1):
        numbers = list(voxel_size)  # type: ignore[arg-type]
        values = dict(zip(spatial, numbers, strict=False)) if len(numbers) == len(spatial) else {}
    else:
        values = dict.fromkeys(spatial, voxel_size)  # type: ignore[arg-type]
    sizes = {d: _positive(value) for d, value in values.items()}
    if set(sizes) - set(spatial) or not all(sizes.values()) or (spatial and not sizes):
        raise OptionError(
            f"as_stack: voxel_size must be one positive number, one for each of the spatial "
            f"dims {tuple(spatial)}, or a mapping from them to numbers, got {voxel_size!r}; "
            f"give it in the unit of the positions"
        )
    return sizes


def _positive(value: Any) -> float:
    """Return a positive finite number as a float, and 0 for anything else."""
    value = _without_axes(value)
    is_real = isinstance(value, Real) and not isinstance(value, bool)
    return float(value) if is_real and 0.0 < value <= sys.float_info.max else 0.0


def dims_of(stack: xr.DataArray, dim: Dims, *, subject: str = "dim") -> tuple[str, ...]:
    """Return ``dim`` as a tuple of dims of ``stack``; None means all, "spatial" the spatial ones.

    Raise LabelError if the stack lacks one of them, or one is repeated.
    """
    if dim is None:
        return tuple(str(d) for d in stack.dims)
    if isinstance(dim, str) and dim == ALL_SPATIAL and ALL_SPATIAL not in stack.dims:
        return _require_spatial_dims(stack, subject)
    names: Any = (dim,) if isinstance(dim, str) else dim
    names = tuple(str(d) for d in names) if isinstance(names, Iterable) else names
    valid = isinstance(names, tuple) and len(set(names)) == len(names)
    if not valid or any(d not in stack.dims for d in names):
        raise LabelError(
            f"{subject} must name dims of the stack, each once, got {names!r}; the stack has "
            f"{stack.dims}"
        )
    return tuple(names)


def _require_spatial_dims(stack: xr.DataArray, subject: str) -> tuple[str, ...]:
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"{subject} must name dims where the stack has none of {SPATIAL}, got the dims "
            f"{stack.dims}; name some of these, or rename them"
        )
    return dims


def spatial_dims(stack: xr.DataArray) -> tuple[str, ...]:
    """Return the spatial dims of ``stack``, in the order z, y, x."""
    return tuple(d for d in SPATIAL if d in stack.dims)


def per_dim(
    option: Any, dims: Sequence[str], subject: str, *, known: Iterable[Hashable] | None = None
) -> dict[str, Any]:
    """Return an option by dim: one value for all ``dims``, one for each in order, or a mapping.

    A mapping may have any of the dims ``known``, by default ``dims``. The values are not checked.
    """
    names = tuple(str(d) for d in (dims if known is None else known))
    if isinstance(option, Mapping):
        unknown = [d for d in option if d not in names]
        if unknown or not option:
            raise LabelError(
                f"{subject} must name some of the dims {names}, got {dict(option)}; "
                f"{f'leave out {unknown}' if unknown else 'name one or more'}"
            )
        return {str(d): _without_axes(value) for d, value in option.items()}
    if not dims:
        raise LabelError(
            f"{subject} must be a mapping where the stack has none of the dims {SPATIAL}, got "
            f"{option!r}; name some of {names}"
        )
    if isinstance(option, str) or not (isinstance(option, Sequence) or np.ndim(option)):
        return dict.fromkeys(dims, _without_axes(option))
    values = [_without_axes(v) for v in option]
    if len(values) != len(dims):
        raise LabelError(
            f"{subject} must be one value, or one for each of {tuple(dims)} in this order, got "
            f"{len(values)} values {option!r}; give {len(dims)} of them, or a mapping by dim"
        )
    return dict(zip(dims, values, strict=True))


def _without_axes(value: Any) -> Any:
    """Return the element of a 0-dimensional array, and any other value unchanged."""
    return value.item() if _in_memory(value) and value.ndim == 0 else value


def _in_memory(value: Any) -> bool:
    """Return True for a numpy array, and for a labelled one."""
    array = value.data if isinstance(value, xr.DataArray) else value
    return isinstance(array, np.ndarray | np.generic)


def is_number(value: Any) -> bool:
    """Return True for a real number that is no boolean."""
    is_real = isinstance(value, int | float | np.number)
    return is_real and not isinstance(value, bool | np.timedelta64)


def spacing(stack: xr.DataArray, dim: str) -> float:
    """Return the distance between neighbours along ``dim``, in its unit; 1 without a coordinate.

    Raise LabelError if the positions are not equally spaced.
    """
    if dim not in stack.coords:
        return 1.0
    if stack.sizes[dim] < 2:
        return float(stack.coords[dim].attrs.get(SPACING_ATTR, 1.0))
    values = position_values(stack, dim)
    steps = np.diff(values)
    step = float((values[-1] - values[0]) / (len(values) - 1))
    if step == 0 or not np.abs(steps - step).max() <= REGULARITY * abs(step):  # NaN is refused
        raise LabelError(
            f"coordinate {dim!r} must have equal steps, got steps from {steps.min():g} to "
            f"{steps.max():g}; resample the stack, or label it with as_stack"
        )
    return step


def position_values(stack: xr.DataArray, dim: str) -> Array:
    """Return the positions along ``dim`` in float64; raise LabelError unless they are numbers."""
    values = stack.coords[dim].values
    if values.dtype.kind not in "iuf":
        raise LabelError(
            f"coordinate {dim!r} must hold positions in numbers, got dtype={values.dtype}; assign "
            f"numbers with .assign_coords, or drop it with .drop_vars({dim!r})"
        )
    return np.asarray(values, np.float64)


def first_position(stack: xr.DataArray, dim: str) -> float:
    """Return the position of the first voxel along ``dim``; 0 without a coordinate or a voxel."""
    has_positions = dim in stack.coords and stack.sizes[dim] > 0
    return float(position_values(stack, dim)[0]) if has_positions else 0.0


def require_one_unit(stack: xr.DataArray, dims: Iterable[str], subject: str) -> None:
    """Raise LabelError if positions along ``dims`` differ in unit; ``subject`` starts the message.

    Lengths that hold along several dims, and rotations, have no meaning then. A single slice
    without a position has no unit.
    """
    measured = [d for d in dims if d in stack.coords or stack.sizes.get(d, 1) > 1]
    units = {d: unit_of(stack, d) for d in measured}
    if len(set(units.values())) > 1:
        raise LabelError(
            f"{subject} must have one unit of length along {tuple(units)}, got {units}; convert "
            f"the coordinates"
        )


def is_by_dim(option: Any) -> bool:
    """Return True for an option with one value per dim, not one for all."""
    return isinstance(option, Mapping | Sequence) or np.ndim(option) > 0


def reduces_split_axes(stack: xr.DataArray, dims: Sequence[str]) -> bool:
    """Return True if other axes are between ``dims``, so that a reduction must copy its blocks."""
    axes = sorted(stack.dims.index(d) for d in dims)
    return bool(axes) and axes != list(range(axes[0], axes[-1] + 1))


def unit_of(stack: xr.DataArray, dim: str) -> str:
    """Return the unit of the coordinate of ``dim``; ``voxel`` without one."""
    return str(stack.coords[dim].attrs.get("units", "voxel")) if dim in stack.coords else "voxel"


def require_stack(stack: Any) -> xr.DataArray:
    """Return ``stack``; raise LabelError if it is no labelled array of numbers."""
    if not isinstance(stack, xr.DataArray):
        raise LabelError(
            f"stack must be a labelled xarray.DataArray, got {type(stack).__name__}; label it "
            f"with lazyvol.as_stack(array)"
        )
    if stack.dtype.kind not in "biufc":
        raise LabelError(
            f"stack must hold numbers, got dtype={stack.dtype} in {stack.name!r}; convert it, "
            f"e.g. with .astype('float32')"
        )
    if not stack.dtype.isnative:
        raise LabelError(
            f"stack must be in this machine's byte order, got dtype={stack.dtype.str!r}; convert "
            f"it with as_stack, or with .astype({stack.dtype.newbyteorder('=').str!r})"
        )
    return stack


def require_mask(subject: str, mask: xr.DataArray) -> xr.DataArray:
    """Return ``mask``; raise LabelError unless it is boolean. ``subject`` is "op: param"."""
    if mask.dtype != bool:
        raise LabelError(
            f"{subject} must be boolean, got dtype={mask.dtype}; compare it, e.g. mask > 0"
        )
    return mask


def with_units(stack: xr.DataArray, power: int) -> dict[str, Any]:
    """Return the attributes of a result in the stack's unit to a power (variance: 2; counts: 0)."""
    attrs = {str(name): value for name, value in stack.attrs.items()}
    unit = attrs.pop("units", None) if power == 0 else attrs.get("units")
    if unit and power not in (0, 1):
        attrs["units"] = f"({unit})^{power}" if " " in str(unit) else f"{unit}^{power}"
    return attrs


def dataset_of(results: Mapping[str, xr.DataArray]) -> xr.Dataset:
    """Return results by name; each replaces a coordinate of its name that the stack brought."""
    return xr.Dataset(
        {name: array.drop_vars(set(results) & set(array.coords)) for name, array in results.items()}
    )


# element types: numbers that compiled kernels support, without masked values ----------------------


def plain_array(array: Any) -> Any:
    """Return an array of supported numbers without labels or masked values, as ``as_stack`` needs.

    Lists become arrays; raise LabelError for labelled arrays, paths and anything but numbers.
    """
    if isinstance(array, xr.DataArray | xr.Dataset | xr.Variable):
        raise LabelError(
            f"as_stack: array must be unlabelled, got a {type(array).__name__} with dims "
            f"{tuple(array.dims)}; use it as it is, or label its .data"
        )
    if array is None or isinstance(array, str | bytes | PathLike):
        raise LabelError(
            f"as_stack: array must be an array of numbers, got {array!r}; open a file with "
            f"lazyvol.open(path)"
        )
    if not all(hasattr(array, name) for name in ("shape", "dtype", "ndim")):
        array = _from_lists(array)
    require_numbers(array.dtype, "as_stack: array")
    require_known_sizes(array.shape, "as_stack: array")
    return filled_with_nan(native(array), "as_stack: array")


def require_known_sizes(shape: Sequence[float], subject: str) -> None:
    """Raise LabelError for a dask array of unknown lengths, which are NaN."""
    if any(n != n for n in shape):
        raise LabelError(
            f"{subject} must have chunks of known sizes, got shape {tuple(shape)}; call "
            f"compute_chunk_sizes() on its dask array first"
        )


def _from_lists(array: Any) -> Array:
    try:
        return np.asarray(array)
    except (ValueError, TypeError) as error:
        raise LabelError(
            f"as_stack: array must be an array of numbers, got {type(array).__name__} of unequal "
            f"parts; stack volumes of one shape with numpy.stack"
        ) from error


def native(array: Any) -> Any:
    """Return an array in this machine's byte order, the only one that compiled kernels support."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def require_numbers(dtype: Any, subject: str) -> None:
    """Raise LabelError for an element type that is no number, or wider than kernels support."""
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufc":
        raise LabelError(
            f"{subject} must hold numbers, got dtype={dtype}; convert it, e.g. with "
            f".astype('float32')"
        )
    if dtype.kind in "fc" and dtype.itemsize > (8 if dtype.kind == "f" else 16):
        widest = "float64" if dtype.kind == "f" else "complex128"
        raise LabelError(
            f"{subject} must hold numbers of at most 64 bits, got dtype={dtype}; convert it with "
            f".astype({widest!r})"
        )


def is_masked(array: Any) -> bool:
    """Return True for a ``numpy.ma.MaskedArray``, or a dask array whose blocks are such arrays."""
    return isinstance(getattr(array, "_meta", array), np.ma.MaskedArray)


def mask_of(array: Any) -> Any:
    """Return the boolean mask of a masked array, lazy if the array is."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getmaskarray(array)
    return array.map_blocks(np.ma.getmaskarray, dtype=bool, meta=np.empty((), bool))


def data_of(array: Any) -> Any:
    """Return the values of a masked array, including those under its mask."""
    if isinstance(array, np.ma.MaskedArray):
        return np.ma.getdata(array)
    return array.map_blocks(np.ma.getdata, dtype=array.dtype, meta=np.empty((), array.dtype))


def filled_with_nan(array: Any, subject: str) -> Any:
    """Return an array without a mask: masked values are NaN, in the float type of the values."""
    if not is_masked(array):
        return array
    if isinstance(array, np.ma.MaskedArray) and not np.ma.getmaskarray(array).any():
        return np.ma.getdata(array)
    if array.dtype == bool:
        raise LabelError(
            f"{subject} must have no masked flags, as a flag cannot be NaN, got a masked array; "
            f"fill it, e.g. with .filled(False)"
        )
    dtype = float_of(array.dtype)
    if isinstance(array, np.ma.MaskedArray):
        return _nan_for_masked(array)
    return array.map_blocks(_nan_for_masked, dtype=dtype, meta=np.empty((), dtype))


def _nan_for_masked(block: Any) -> Any:
    return np.ma.filled(block.astype(float_of(block.dtype)), np.nan)


def float_of(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the float type of a result: that of a float, float64 for integers and booleans."""
    return dtype if dtype.kind in "fc" else np.dtype(np.float64)
