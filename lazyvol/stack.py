"""The labelled stack: dims, coordinates, voxel size, units, and the checks on them."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from math import isfinite
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError
from lazyvol.voxels import float_of as float_of
from lazyvol.voxels import unlabelled

#: attribute of a coordinate of one position: the voxel size along it
LONE = "spacing"
#: the axis along which volumes are stacked
STACK = "k"
#: the axes of one volume, slowest first
SPATIAL = ("z", "y", "x")

#: relative deviation of a coordinate's steps from their mean that still counts as regular
REGULAR = 1e-3

Array = np.ndarray[Any, np.dtype[Any]]
#: as a ``dim``: the spatial dims that the stack has, of volumes z, y, x, of images y, x
PRESENT = "spatial"

Dims = str | Iterable[Hashable] | None
#: lengths: one for all spatial dims that are there, one for each in the order z, y, x, or by name
Sigma: TypeAlias = float | Mapping[str, float] | Sequence[float] | np.ndarray[Any, np.dtype[Any]]
#: numbers of voxels, likewise
Size: TypeAlias = int | Mapping[str, int] | Sequence[int] | np.ndarray[Any, np.dtype[Any]]


def as_stack(
    array: Any,
    *,
    voxel_size: Sigma = 1.0,
    unit: str = "voxel",
    dims: Sequence[str] | None = None,
    name: str | None = None,
) -> xr.DataArray:
    """Label an array: dims, positions of the voxel centres, and their unit.

    Parameters
    ----------
    array
        numpy or dask array, (z, y, x), (k, z, y, x) or, with ``dims``, of any shape. What a
        ``numpy.ma`` array masks becomes NaN, of integers in float64.
    voxel_size
        Distance between voxel centres in ``unit``: one number, one per spatial dim present in
        the order z, y, x, or a mapping from dim to distance.
    unit
        Unit of the positions, e.g. ``"angstrom"`` or ``"micrometer"``; ``"voxel"`` where the
        size is not known.
    dims
        Names of the axes. By default the last three are z, y, x and a fourth is k; needed where
        the last axis may be colours (3 or 4 elements beside longer axes).
    name
        Name of the quantity.

    Returns
    -------
    xarray.DataArray
        The same values, labelled. Nothing is computed, and only masked arrays are copied.

    Raises
    ------
    LabelError
        If the number of dims or voxel sizes does not fit the array, or it holds no numbers.
    OptionError
        If voxel sizes are not positive numbers, or the unit is not a word.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.zeros((2, 3, 4, 5)), voxel_size=2.0, unit="angstrom")
    >>> stack.dims, float(stack.x[1]), stack.x.attrs["units"]
    (('k', 'z', 'y', 'x'), 2.0, 'angstrom')
    """
    values = unlabelled(array)
    names = _dims(np.shape(values), dims)
    sizes = _voxel_sizes(voxel_size, names)
    if not isinstance(unit, str):
        raise OptionError(f"as_stack: unit must be a word such as 'angstrom', got {unit!r}")
    coords = positions(dict(zip(names, np.shape(values), strict=True)), sizes, unit)
    return xr.DataArray(values, coords, names, name=name)


def require_no_colours(shape: Sequence[int], what: str) -> None:
    """Refuse an unlabelled shape that may be an image with colours.

    It may where the last axis has 3 or 4 elements and both axes before it more than 4: labelled
    as x, colours would be mixed by whatever mixes neighbours.
    """
    if len(shape) >= 3 and shape[-1] in (3, 4) and min(shape[-3:-1]) > 4:
        colours = ("k", "z", "y", "x", "channel")[-len(shape) :]
        raise LabelError(
            f"{what} must have named axes where the last one may be colours, got shape "
            f"{tuple(shape)}; name every axis with dims=, e.g. {colours} for colours or "
            f"{(STACK, *SPATIAL)[-len(shape) :]} for voxels"
        )


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


def _dims(shape: Sequence[int], dims: Sequence[str] | None) -> tuple[str, ...]:
    ndim = len(shape)
    if dims is None:
        if not 1 <= ndim <= 4:
            raise LabelError(
                f"as_stack: array must have 1 to 4 axes to be labelled by itself, got {ndim=}; "
                f"name its axes by dims="
            )
        require_no_colours(shape, "as_stack: array")
        return (STACK, *SPATIAL)[4 - ndim :] if ndim > 1 else (STACK,)
    named = isinstance(dims, Iterable) and not isinstance(dims, str)
    names = tuple(dims) if named else ()
    if len(names) != ndim or len(set(names)) != ndim or not all(isinstance(d, str) for d in names):
        raise LabelError(
            f"as_stack: dims must name each of the {ndim} axes once, got {dims!r}; give a "
            f"sequence of different names, e.g. {(STACK, *SPATIAL)[-ndim:] if ndim else ()}"
        )
    return names


def _voxel_sizes(voxel_size: Sigma, dims: Sequence[str]) -> dict[str, float]:
    spatial = [d for d in SPATIAL if d in dims]
    if isinstance(voxel_size, Mapping):
        given = dict(voxel_size)
    elif np.ndim(voxel_size) == 0:
        given = dict.fromkeys(spatial, voxel_size)  # type: ignore[arg-type]
    else:
        numbers = list(voxel_size)  # type: ignore[arg-type]
        given = dict(zip(spatial, numbers, strict=False)) if len(numbers) == len(spatial) else {}
    sizes = {d: _size(value) for d, value in given.items()}
    if set(sizes) - set(spatial) or not all(sizes.values()) or (spatial and not sizes):
        raise OptionError(
            f"as_stack: voxel_size must be one positive number, one for each of the spatial dims "
            f"{tuple(spatial)}, or a mapping from them to numbers, got {voxel_size!r}"
        )
    return sizes


def _size(value: Any) -> float:
    """A distance between voxels; 0 where it is none."""
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        return 0.0
    found = float(value)
    return found if isfinite(found) and found > 0 else 0.0


def dims_of(stack: xr.DataArray, dim: Dims, *, what: str = "dim") -> tuple[str, ...]:
    """``dim`` as a tuple of dims that ``stack`` has; None means all, "spatial" the spatial ones."""
    if dim is None:
        return tuple(str(d) for d in stack.dims)
    if not isinstance(dim, str) and not isinstance(dim, Iterable):
        raise LabelError(f"{what} names dims of the stack, got {dim!r}; the stack has {stack.dims}")
    if isinstance(dim, str) and dim == PRESENT and PRESENT not in stack.dims:
        return _present(stack, what)
    names = (dim,) if isinstance(dim, str) else tuple(str(d) for d in dim)
    missing = [d for d in names if d not in stack.dims]
    if missing or len(set(names)) != len(names):
        raise LabelError(
            f"{what} names dims of the stack, each once; got {names}, the stack has {stack.dims}"
        )
    return names


def _present(stack: xr.DataArray, what: str) -> tuple[str, ...]:
    dims = spatial_dims(stack)
    if not dims:
        raise LabelError(
            f"{what} must name dims where the stack has none of {SPATIAL}, got the dims "
            f"{stack.dims}; pass {what}=, or rename dims"
        )
    return dims


def spatial_dims(stack: xr.DataArray) -> tuple[str, ...]:
    """The spatial dims that ``stack`` has, in the order z, y, x."""
    return tuple(d for d in SPATIAL if d in stack.dims)


def per_dim(
    option: Any, dims: Sequence[str], what: str, *, known: Iterable[Hashable] | None = None
) -> dict[str, Any]:
    """An option by dim: one value for all ``dims``, one for each in their order, or by name.

    Names are among ``known``, by default ``dims``. Values are for the caller to check.
    """
    names = tuple(str(d) for d in (dims if known is None else known))
    if isinstance(option, Mapping):
        unknown = [d for d in option if d not in names]
        if unknown or not option:
            raise LabelError(
                f"{what} must name some of the dims {names}, got {dict(option)}; "
                f"{f'leave out {unknown}' if unknown else 'name one or more'}"
            )
        return {str(d): _plain(value) for d, value in option.items()}
    if not dims:
        raise LabelError(
            f"{what} must be by name where there are none of the dims {SPATIAL}, got {option!r}; "
            f"give a mapping from some of {names}"
        )
    if isinstance(option, str) or not (isinstance(option, Sequence) or np.ndim(option)):
        return dict.fromkeys(dims, _plain(option))
    values = [_plain(v) for v in option]
    if len(values) != len(dims):
        raise LabelError(
            f"{what} must be one value, or one for each of {tuple(dims)} in this order, got "
            f"{len(values)} values {option!r}; give {len(dims)} of them, or a mapping by dim"
        )
    return dict(zip(dims, values, strict=True))


def _plain(value: Any) -> Any:
    """A number out of an array without dims."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def is_number(value: Any) -> bool:
    """Whether a real number, not a flag."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


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
    """Refuse two stacks whose common dims differ in length, unit or labels.

    Positions along z, y and x agree within 1e-3 of a voxel where both have them in one unit,
    ``"voxel"`` among these: a mask cropped elsewhere is refused. Where one alone is in voxels, it
    is either unlabelled (0, 1, 2, ..., as ``as_stack`` leaves it) and fits anywhere, or counts
    voxels from the origin of the other's unit. Labels along other dims are equal where both
    have them, and so are names of particles: coordinates along k of whole numbers or texts, each
    of which occurs once.
    """
    for d in (str(d) for d in a.dims if d in b.dims):
        if a.sizes[d] != b.sizes[d]:
            raise LabelError(
                f"both have dim {d!r}, of lengths {a.sizes[d]} and {b.sizes[d]}; "
                f"crop or resample one of them"
            )
    require_same_labels(a, b)


def require_same_labels(a: xr.DataArray, b: xr.DataArray) -> None:
    """Refuse two stacks whose common dims of one length differ in unit or labels.

    Labels are taken from indexes: values of a coordinate take 9 us each, of an index 0.2.
    """
    if a is b:
        return
    ours, theirs = a.coords.variables, b.coords.variables
    indexes = a.xindexes, b.xindexes
    for name in ours.keys() & theirs.keys():
        own, other = ours[name], theirs[name]
        if own is other or len(own.dims) != 1 or own.dims != other.dims:
            continue
        dim = str(own.dims[0])
        if name == dim and name in indexes[0] and name in indexes[1]:
            values = [np.asarray(i[name].to_pandas_index()) for i in indexes]
            _require_same_index(dim, values, [own.attrs, other.attrs])
        elif dim == STACK and own.shape == other.shape and _is_naming(own) and _is_naming(other):
            _require_equal(str(name), own.values, other.values, 0.0)


def _require_same_index(
    dim: str, values: Sequence[Array], attrs: Sequence[Mapping[str, Any]]
) -> None:
    units = [str(own.get("units", "voxel")) for own in attrs]
    if units[0] != units[1] and dim in SPATIAL and "voxel" not in units:
        raise LabelError(
            f"coordinate {dim!r} is in {units[0]} and in {units[1]}; convert one of them"
        )
    if len(values[0]) != len(values[1]):
        return
    one_unit = units[0] == units[1]
    numbers = all(v.dtype.kind in "iuf" for v in values)
    if one_unit and (values[0] == values[1]).all() and LONE not in {*attrs[0], *attrs[1]}:
        return
    steps = [_step(v, own) for v, own in zip(values, attrs, strict=True)]
    if dim in SPATIAL and numbers:
        _require_same_positions(dim, values, steps, units)
    else:
        _require_equal(dim, values[0], values[1], REGULAR * steps[0] if numbers else 0.0)


def _is_naming(labels: xr.Variable) -> bool:
    """Whether labels tell particles apart: whole numbers or texts in memory, each once."""
    if labels.dtype.kind not in "iuOUST" or labels.chunks is not None:
        return False
    values = labels.values.tolist()
    return all(isinstance(v, Hashable) for v in values) and len(set(values)) == len(values)


def _require_equal(name: str, ours: Array, theirs: Array, near: float) -> None:
    """Refuse labels that differ, by more than ``near`` where they are numbers; NaN is no label."""
    differ = np.asarray((ours != theirs) & ((ours == ours) | (theirs == theirs)))
    if near and differ.any():
        differ &= ~(np.abs(ours.astype(np.float64) - theirs) <= near)
    if differ.any():
        at = int(np.argmax(differ))
        found = [v[at : at + 1].tolist()[0] for v in (ours, theirs)]
        raise LabelError(
            f"labels {name!r} of both must be equal, got {found[0]!r} and {found[1]!r} at "
            f"place {at}; select those that both have, in one order"
        )


def _require_same_positions(
    dim: str, values: Sequence[Array], steps: Sequence[float], units: Sequence[str]
) -> None:
    ours, theirs = (v.astype(np.float64) for v in values)
    step = steps[0]
    if units[0] != units[1]:
        counts, lengths, step = (ours, theirs, steps[1]) if units[0] == "voxel" else (
            theirs, ours, steps[0])  # fmt: skip
        if np.array_equal(counts, np.arange(len(counts))):
            return
        ours, theirs, step = counts, lengths / step, 1.0
    elif not abs(steps[0] - steps[1]) <= REGULAR * step:
        raise LabelError(
            f"voxels along {dim!r} are {steps[0]:g} and {steps[1]:g} {units[0]} apart; "
            f"resample one of them"
        )
    if not (np.abs(ours - theirs) <= REGULAR * step).all():
        ends = [f"{v[0]:g} to {v[-1]:g} {u}" for v, u in zip(values, units, strict=True)]
        raise LabelError(
            f"positions along {dim!r} of both must agree within {REGULAR:g} of a voxel, got "
            f"{ends[0]} and {ends[1]}; crop both alike, or give one the coordinates of the other "
            f"by .assign_coords"
        )


def _step(values: Array, attrs: Mapping[str, Any]) -> float:
    """Mean distance of neighbours; 1 where it is not known."""
    if len(values) < 2 or values.dtype.kind not in "iuf":
        return abs(float(attrs.get(LONE, 1.0)))
    step = abs(float(values[-1]) - float(values[0])) / (len(values) - 1)
    return step if isfinite(step) and step > 0 else 1.0


def with_units(stack: xr.DataArray, power: int) -> dict[Hashable, Any]:
    """Attributes of a result whose unit is the stack's to a power (variance: 2; counts: 0)."""
    attrs = dict(stack.attrs)
    unit = attrs.pop("units", None) if power == 0 else attrs.get("units")
    if unit and power not in (0, 1):
        attrs["units"] = f"({unit})^{power}" if " " in str(unit) else f"{unit}^{power}"
    return attrs
