"""Read and write OME-NGFF metadata (OME-Zarr 0.1 to 0.5): axes, voxel size and origin."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from lazyvol.errors import FormatError
from lazyvol.io.axes import channel_names, convert_length, parse_unit, regular_times
from lazyvol.io.zarr.labels import Coord, Labels
from lazyvol.stack import SPATIAL, STACK

VERSION = "0.5"
VERSIONS = ("0.1", "0.2", "0.3", "0.4", VERSION)
#: axes of images before version 0.3, or the last of them
OLD_AXES = ("t", "c", "z", "y", "x")
TYPES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
#: axis names that mean the stack axis, in order of preference
STACK_NAMES = (STACK, "particle", "t", "time")

#: units of OME that other formats do not have, in millimeter
OME_LENGTHS = {
    "picometer": 1e-9, "centimeter": 10.0, "decimeter": 100.0, "meter": 1000.0, "kilometer": 1e6,
    "inch": 25.4, "foot": 304.8, "yard": 914.4,
}  # fmt: skip


def of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the OME metadata among attributes: under ``ome`` since version 0.5."""
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, dict) else {}


def is_plate(attributes: Mapping[str, Any]) -> bool:
    """Return True for the attributes of a plate of wells."""
    return isinstance(of(attributes).get("plate"), dict)


def multiscale(attributes: Mapping[str, Any], where: str) -> Mapping[str, Any] | None:
    """Return the first multiscale image in the attributes of a group; None if it has none."""
    ome = of(attributes)
    if "multiscales" not in ome:
        return None
    images = ome["multiscales"]
    if not isinstance(images, list) or not images or not isinstance(images[0], dict):
        raise FormatError(
            f"{where}: multiscales must list at least one image, found {images!r:.80}"
        )
    version = str(images[0].get("version", ome.get("version", VERSION)))
    if version not in VERSIONS:
        raise FormatError(
            f"{where}: the OME-Zarr version must be one of {', '.join(VERSIONS)}, "
            f"found {version!r:.40}"
        )
    image: Mapping[str, Any] = images[0]
    return image


def level_path(image: Mapping[str, Any], where: str) -> str:
    """Return the folder of level 0, the full resolution."""
    return level_paths(image, where)[0]


def level_paths(image: Mapping[str, Any], where: str) -> list[str]:
    """Return the folders of all levels, the full resolution first."""
    return [dataset["path"] for dataset in _datasets(image, where)]


def _datasets(image: Mapping[str, Any], where: str) -> list[Mapping[str, Any]]:
    levels = image.get("datasets")
    if (
        not isinstance(levels, list)
        or not levels
        or not all(isinstance(d, dict) and isinstance(d.get("path"), str) for d in levels)
    ):
        raise FormatError(f"{where}: datasets must list levels with a path, found {levels!r:.80}")
    return levels


def read_labels(
    image: Mapping[str, Any], path: str, ndim: int, where: str, *, permissive: bool = False
) -> Labels:
    """Return dims, voxel size, unit and origin of the level that is stored under ``path``.

    Space axes keep their names z, y, x; a channel axis becomes ``channel``; time, or the first
    axis that is neither, becomes ``k``. Without units the scale is in voxels of level 0.
    ``permissive`` takes a scale that is not positive as unknown.
    """
    axes = _axes(image.get("axes"), ndim, where)
    dims = dims_of([name for name, _, _ in axes], [kind for _, kind, _ in axes], where)
    known, scale, shift = _scale_and_shift(image, path, ndim, where)
    units = {d: axis[2] for d, axis in zip(dims, axes, strict=True) if axis[1] == "space"}
    transforms = dict(zip(dims, zip(scale, shift, strict=True), strict=True)) if known else {}
    sizes = {d: transforms[d] for d in units if d in transforms}
    _check_scale(sizes, where, permissive)
    voxel_size, origin, unit = _to_common_unit(sizes, units)
    name = image.get("name")
    return Labels(dims, voxel_size, unit, origin, name=name if isinstance(name, str) else None)


def acquisition(
    attributes: Mapping[str, Any], path: str, dims: Sequence[str], shape: Sequence[int], where: str
) -> dict[str, Coord]:
    """Return the names of the channels and the times of the frames of an image, if given."""
    omero, image = of(attributes).get("omero"), multiscale(attributes, where)
    listed = omero.get("channels") if isinstance(omero, dict) else None
    channels = listed if isinstance(listed, list) else []
    names = [str(c.get("label", "")) if isinstance(c, dict) else "" for c in channels]
    sizes = dict(zip(dims, shape, strict=True))
    known = sizes.get("channel") == len(names)
    coords = channel_names(names, has_axis=True) if known else {}
    if image is None:
        return coords
    _, scale, _ = _scale_and_shift(image, path, len(shape), where)
    axes = zip(_axes(image.get("axes"), len(shape), where), dims, scale, strict=True)
    steps = [(step, unit) for (_, kind, unit), dim, step in axes if (kind, dim) == ("time", STACK)]
    return coords | (regular_times(sizes[STACK], steps[0][0], steps[0][1] or "") if steps else {})


def _scale_and_shift(
    image: Mapping[str, Any], path: str, ndim: int, where: str
) -> tuple[bool, list[float], list[float]]:
    """Return scale and translation of a level, and whether a scale is given."""
    level = next(d for d in _datasets(image, where) if d["path"] == path)
    scale, shift = [1.0] * ndim, [0.0] * ndim
    known = _transform(level.get("coordinateTransformations"), scale, shift, where)
    known |= _transform(image.get("coordinateTransformations"), scale, shift, where)
    return known, scale, shift


def _axes(value: object, ndim: int, where: str) -> list[tuple[str, str, str | None]]:
    """Return name, type and unit of each axis."""
    if value is None and ndim <= len(OLD_AXES):
        value = list(OLD_AXES[len(OLD_AXES) - ndim :])
    if not isinstance(value, list) or len(value) != ndim:
        raise FormatError(
            f"{where}: axes must name the {ndim} axes of the array, found {value!r:.120}"
        )
    return [_axis(axis, where) for axis in value]


def _axis(axis: object, where: str) -> tuple[str, str, str | None]:
    if isinstance(axis, str):
        axis = {"name": axis, "type": TYPES.get(axis.lower())}
    if not isinstance(axis, dict) or not isinstance(axis.get("name"), str):
        raise FormatError(f"{where}: an axis must have a name, found {axis!r:.80}")
    unit = axis.get("unit")
    return axis["name"], str(axis.get("type") or ""), unit if isinstance(unit, str) else None


def dims_of(names: Sequence[str], kinds: Sequence[str], where: str) -> tuple[str, ...]:
    """Return dims for axis names and types: space in lower case, channel, and the stack axis."""
    dims = [
        name.lower() if kind == "space" else "channel" if kind == "channel" else name
        for name, kind in zip(names, kinds, strict=True)
    ]
    others = [i for i, kind in enumerate(kinds) if kind not in ("space", "channel")]
    stack = next((i for word in STACK_NAMES for i in others if names[i].lower() == word), None)
    stack = next((i for i in others if kinds[i] == "time"), stack) if stack is None else stack
    stack = others[0] if stack is None and others else stack
    if stack is not None:
        dims[stack] = STACK
    if len(set(dims)) != len(dims):
        raise FormatError(f"{where}: axes must have different names, found {list(names)}")
    return tuple(dims)


def default_dims(names: Sequence[str | None] | None, ndim: int) -> tuple[str, ...]:
    """Return the dims of a plain array from its axis names, otherwise from their number."""
    if names and None not in names and len(set(names)) == ndim:
        words = [str(name) for name in names]
        if ndim < 2 or [w.lower() for w in words[-2:]] != ["y", "x"]:
            return tuple(words)
        kinds = [{**TYPES, "channel": "channel"}.get(word.lower(), "") for word in words]
        return dims_of(words, kinds, "dimension names")
    if 2 <= ndim <= 5:
        lead = {4: (STACK,), 5: (STACK, "channel")}.get(ndim, ())
        return (*lead, *SPATIAL[max(0, 3 - ndim) :])
    return tuple(f"dim_{i}" for i in range(ndim))


def _transform(value: object, scale: list[float], shift: list[float], where: str) -> bool:
    """Apply transformations to scale and shift in order; return True if one is a scale."""
    scaled = False
    for step in value if isinstance(value, list) else []:
        kind = step.get("type") if isinstance(step, dict) else None
        if kind == "identity":
            continue
        if kind not in ("scale", "translation"):
            raise FormatError(
                f"{where}: coordinateTransformations must be scale or translation, found "
                f"{step!r:.80}"
            )
        for axis, number in enumerate(_numbers(step.get(kind), len(scale), kind, where)):
            if kind == "scale":
                scale[axis] *= number
                shift[axis] *= number
            else:
                shift[axis] += number
        scaled |= kind == "scale"
    return scaled


def _numbers(value: object, count: int, field: str, where: str) -> list[float]:
    if (
        not isinstance(value, list)
        or len(value) != count
        or not all(type(v) in (int, float) for v in value)
    ):
        raise FormatError(f"{where}: {field} must list {count} numbers, found {value!r:.80}")
    return [float(v) for v in value]


def _check_scale(sizes: dict[str, tuple[float, float]], where: str, permissive: bool) -> None:
    bad = {d: v for d, v in sizes.items() if not (isfinite(v[0]) and v[0] > 0 and isfinite(v[1]))}
    if bad and not permissive:
        raise FormatError(
            f"{where}: scale must be positive and translation finite, found {bad}; "
            "permissive=True takes them as unknown"
        )
    for dim in bad:
        del sizes[dim]


def parse_ome_unit(word: str) -> tuple[str, float] | None:
    """Return the stack unit of an OME unit and the factor to it; None if it is no length."""
    if word in OME_LENGTHS:
        return "millimeter", OME_LENGTHS[word]
    return parse_unit(word)


def _to_common_unit(
    sizes: Mapping[str, tuple[float, float]], units: Mapping[str, str | None]
) -> tuple[dict[str, float], dict[str, float], str]:
    """Return voxel size and origin in the unit of the last axis that has one."""
    known = {d: parse_ome_unit(word) for d, word in units.items() if word and d in sizes}
    lengths = {d: unit for d, unit in known.items() if unit}
    if not lengths:
        kept = {d: v for d, v in sizes.items() if not units[d]}
        return {d: v[0] for d, v in kept.items()}, {d: v[1] for d, v in kept.items()}, "voxel"
    unit = list(lengths.values())[-1][0]
    factors = {d: convert_length(f, u, unit) for d, (u, f) in lengths.items()}
    voxel_size = {d: sizes[d][0] * f for d, f in factors.items()}
    return voxel_size, {d: sizes[d][1] * f for d, f in factors.items()}, unit


def level_folder(number: int) -> str:
    """Return the folder of a level of lower resolution.

    xarray takes the arrays beside each other for variables of one data set, so it must not find
    axes of two lengths there.
    """
    return f"levels/{number}"


def image_of(labels: Labels, levels: Sequence[Sequence[int]] = ()) -> dict[str, Any] | None:
    """Return OME-Zarr 0.5 attributes for an array in folder "0"; None if its dims do not fit.

    ``levels`` are the factors along each axis of the levels of lower resolution.

    An image has 2 or 3 space axes at the end, before them at most a time axis and one more. The
    stack axis has type "particle", but "time" next to a channel, as OME requires.
    """
    space = [d for d in labels.dims if d in SPATIAL]
    lead = labels.dims[: len(labels.dims) - len(space)]
    fits = labels.dims[len(lead) :] == tuple(d for d in SPATIAL if d in space)
    if not fits or len(space) < 2 or len(lead) > 2 or (len(lead) == 2 and lead[0] != STACK):
        return None
    axes: list[dict[str, str]] = [{"name": d, "type": _axis_type(d, len(lead))} for d in lead]
    unit = {} if labels.unit == "voxel" else {"unit": labels.unit}
    axes += [
        {"name": d, "type": "space", **(unit if d in labels.voxel_size else {})} for d in space
    ]
    scale = [float(labels.voxel_size.get(d, 1.0)) for d in labels.dims]
    shift = [float(labels.origin.get(d, 0.0)) for d in labels.dims]
    datasets = [_dataset("0", scale, shift, [1] * len(scale))]
    for number, factors in enumerate(levels, 1):
        datasets.append(_dataset(level_folder(number), scale, shift, factors))
    image: dict[str, Any] = {"axes": axes, "datasets": datasets}
    if labels.name:
        image["name"] = labels.name
    return {"version": VERSION, "multiscales": [image]}


def _dataset(
    path: str, scale: Sequence[float], shift: Sequence[float], factors: Sequence[int]
) -> dict[str, Any]:
    """Return a level whose voxels cover ``factors`` voxels of level 0, from centre to centre."""
    moved = [t + s * (f - 1) / 2 for t, s, f in zip(shift, scale, factors, strict=True)]
    steps: list[dict[str, Any]] = [
        {"type": "scale", "scale": [s * f for s, f in zip(scale, factors, strict=True)]},
        {"type": "translation", "translation": moved},
    ]
    return {"path": path, "coordinateTransformations": steps}


def _axis_type(dim: str, leading: int) -> str:
    if dim == STACK:
        return "time" if leading == 2 else "particle"
    return "channel" if dim == "channel" else dim
