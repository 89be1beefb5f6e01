"""Stacks as layers of napari: lazy, at several scales, in physical units.

napari is imported to open a viewer, and nowhere else.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.arguments.rules import show_value
from lazyvol.errors import FormatError, LabelError, OptionError
from lazyvol.io import open as open_stack
from lazyvol.io.zarr.levels import lower_levels
from lazyvol.io.zarr.pyramid import is_labels
from lazyvol.plan.budget import BLOCK
from lazyvol.plan.graph.lazy_array import recipe_of, source_array
from lazyvol.plan.recipes.leaves import Stored
from lazyvol.plan.regions import block_grid
from lazyvol.plots.canvas import COLOURS, colour_dim
from lazyvol.stack import as_stack, first_position, require_stack, spacing, spatial_dims, unit_of
from lazyvol.summary import UNIT_SYMBOLS

#: values, options and kind of a layer, as napari takes them from readers
LayerData: TypeAlias = tuple[Any, dict[str, Any], str]


@operation(unchecked=("obj",))
def to_napari(obj: Any, *, viewer: Any = None) -> Any:
    """Shows an array in napari, as layers that read what is on the screen.

    Stores with levels of lower resolution (``save(..., pyramid=True)``) become multiscale layers,
    dtypes of masks and labels (bool, int32, uint32, int64) layers of labels, a channel axis one
    layer per channel, and red, green and blue in bytes a coloured layer. Axes have the positions,
    units and names of the coordinates.

    Parameters
    ----------
    obj
        Image (y, x), volume (z, y, x), or either with more dims such as k; a DataArray, a Dataset
        of these (one layer per variable), or an array as for ``as_stack``.
    viewer
        The viewer that shows the layers; by default the current one, or a new one.

    Returns
    -------
    napari.Viewer
        The viewer, with the new layers on top.

    Raises
    ------
    LabelError
        If an array has no dims y and x, or its positions are not equally spaced.
    FormatError
        If napari is needed and not installed; ``lazyvol[napari]`` installs it.

    Notes
    -----
    With lazyvol installed, ``napari --plugin lazyvol particles.zarr`` opens any supported file.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol.napari_layers import layer_data
    >>> stack = lv.as_stack(np.zeros((3, 8, 9, 10), "f4"), voxel_size=2.0, unit="angstrom")
    >>> [(values, options, kind)] = layer_data(stack)
    >>> kind, options["scale"], options["units"]
    ('image', (1.0, 2.0, 2.0, 2.0), ('pixel', 'angstrom', 'angstrom', 'angstrom'))
    """
    if viewer is not None and not hasattr(viewer, "add_image"):
        raise OptionError(
            f"to_napari: viewer must be a viewer of napari, got {show_value(viewer)}; leave it out "
            "for the current one"
        )
    layers = layer_data(obj)
    viewer = _current_viewer() if viewer is None else viewer
    for values, options, kind in layers:
        getattr(viewer, f"add_{kind}")(values, **options)
    return viewer


def layer_data(obj: Any) -> list[LayerData]:
    """Return values, options and kind ("image" or "labels") of each layer of an array.

    ``viewer.add_image(values, **options)`` adds an image.

    Raises
    ------
    LabelError
        If an array has no dims y and x, or its positions are not equally spaced.
    """
    if isinstance(obj, xr.Dataset):
        return [_layer(array.rename(name)) for name, array in obj.data_vars.items()]
    return [_layer(require_stack(obj) if isinstance(obj, xr.DataArray) else as_stack(obj))]


def reader(path: str | Sequence[str]) -> Callable[[Any], list[LayerData]]:
    """Return napari's reader of files that lazyvol opens; only metadata is read."""
    return lambda paths: layer_data(open_stack(paths))


def _layer(array: xr.DataArray) -> LayerData:
    if spatial_dims(array)[-2:] != ("y", "x"):
        raise LabelError(
            f"to_napari: obj must have the dims y and x, got {array.dims}; rename its dims"
        )
    labels = is_labels(array.dtype)
    channel = next((d for d in COLOURS if d in array.dims), None)
    colours = colour_dim(array) if array.dtype == np.uint8 else None
    if colours:
        array = array.transpose(..., colours)
    dims = [d for d in array.dims if d not in (colours, None if labels else channel)]
    options: dict[str, Any] = {
        "name": str(array.name or "stack"),
        "scale": tuple(_spacing(array, d) for d in dims),
        "translate": tuple(_start(array, d) for d in dims),
        "units": tuple(_unit(array, d) for d in dims),
        "axis_labels": tuple(map(str, dims)),
    }
    levels = _levels(array)
    if len(levels) > 1:
        options["multiscale"] = True
    if labels:
        levels = [level.astype(np.uint8) if level.dtype == bool else level for level in levels]
    elif colours:
        options["rgb"] = True
    elif channel:
        options["channel_axis"] = array.get_axis_num(channel)
        options["name"] = _channel_names(array, channel, options["name"])
    return levels if len(levels) > 1 else levels[0], options, "labels" if labels else "image"


def _levels(array: xr.DataArray) -> list[Any]:
    """Return the values of an array, followed by those of the stored levels below."""
    recipe = recipe_of(array.data)
    if not isinstance(recipe, Stored):
        return [array.data]
    lower = lower_levels(recipe.source)
    return [
        array.data,
        *(source_array(s, block_grid(s.shape, s.chunks, s.dtype.itemsize, BLOCK)) for s in lower),
    ]


def _spacing(array: xr.DataArray, dim: Any) -> float:
    return spacing(array, dim) if dim in spatial_dims(array) else 1.0


def _start(array: xr.DataArray, dim: Any) -> float:
    return first_position(array, dim) if dim in spatial_dims(array) else 0.0


def _unit(array: xr.DataArray, dim: Any) -> str:
    """Return a unit that napari knows: a length, otherwise pixels."""
    unit = unit_of(array, dim)
    return unit if unit in UNIT_SYMBOLS else "pixel"


def _channel_names(array: xr.DataArray, channel: str, name: str) -> list[str]:
    found: Mapping[Any, Any] = array.coords
    labels = found[channel].values if channel in found else range(array.sizes[channel])
    return [f"{name} {label}" for label in labels]


def _current_viewer() -> Any:
    try:
        import napari
    except ImportError as error:
        raise FormatError(
            "to_napari: napari must be installed; run pip install 'lazyvol[napari]'"
        ) from error
    return napari.current_viewer() or napari.Viewer()
