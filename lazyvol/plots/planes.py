"""Planes of one volume in physical units: orthogonal slices, projections, density maps.

The vertical axis of a plane points upwards, as in most viewers of MRC files, and that of a colour
image downwards, as in a photograph. By default, contrast runs from the 1st to the 99th percentile
of the values shown.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lazyvol.arguments import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.plots.canvas import (
    AMBER,
    Limits,
    ShownPanels,
    contrast_limits,
    dim_edges,
    draw_plane,
    image_extent,
    limits_or_default,
    nearest_index,
    new_axes,
    new_figure,
    position_text,
    reduced_along,
    require_dim,
    slicing_dim,
    volume_dims,
)
from lazyvol.stack import spacing, spatial_dims

#: part of its width and height up to which the thickness of a volume makes it a slab
SLAB = 0.3


@operation
def orthogonal(
    volume: xr.DataArray,
    *,
    at: Mapping[str, float] | None = None,
    cmap: str = "gray",
    limits: Limits = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Computes the three slices through a point, and draws them at one scale.

    Parameters
    ----------
    volume
        (z, y, x), of which only the three slices are read; or an image (y, x), drawn as it is.
    at
        Position of the point by dim, in the unit of the coordinates; the middle, n // 2, along
        other dims.
    cmap, limits
        As in ``slices``; all three share the limits.
    axes
        Three axes to draw on, one for an image; by default those of a new figure.

    Returns
    -------
    tuple of matplotlib.axes.Axes
        The slices across z, y and x; of an image one.

    Raises
    ------
    LabelError
        If ``volume`` is no volume or image, or a position is outside it.
    OptionError
        If there are not as many ``axes`` as planes, or matplotlib has no colour map ``cmap``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> volume = lv.as_stack(np.zeros((4, 5, 7)), voxel_size=2.0, unit="angstrom")
    >>> [ax.get_title() for ax in plots.orthogonal(volume, at={"z": 2.0})]
    ['z = 2 Å', 'y = 4 Å', 'x = 6 Å']
    """
    dims = spatial_dims(volume)
    if len(dims) == 2 and slicing_dim(volume, None) is not None:
        raise LabelError(
            f"orthogonal: volume must have the dims ('z', 'y', 'x') or be an image, got "
            f"{tuple(volume.dims)}; select an image, e.g. with .isel(k=0), or draw all with slices"
        )
    volume_dims(volume)
    for name in at or {}:
        require_dim(dims, name)
    index = {d: nearest_index(volume, d, (at or {}).get(d)) for d in dims}
    if len(dims) == 2:
        return (_image(volume, index, cmap, limits, axes),)
    planes = {d: volume.isel({d: i}, drop=True).compute() for d, i in index.items()}
    limits = limits or contrast_limits(np.concatenate([p.values.ravel() for p in planes.values()]))
    panels = _panels(planes) if axes is None else _require_panels(axes, len(planes))
    for ax, (dim, plane) in zip(panels, planes.items(), strict=True):
        draw_plane(ax, plane, cmap, limits)
        _draw_cross(ax, volume, plane, index)
        ax.set_title(position_text(volume, dim, index[dim]), fontsize=9)
    return panels


@operation
def projection(
    volume: xr.DataArray,
    *,
    dim: str | None = None,
    reduce: Literal["mean", "max"] = "mean",
    cmap: str = "gray",
    limits: Limits = None,
    ax: Axes | None = None,
) -> Axes:
    """Computes the mean or the maximum of a volume along one dim, and draws it.

    Parameters
    ----------
    volume
        (z, y, x), or images (k, y, x), read completely; an image (y, x) is drawn as it is.
    dim
        Dim along which to reduce, by default z, or k of a stack of images.
    reduce
        ``"mean"`` or ``"max"``.
    cmap, limits, ax
        As in ``slices``.

    Returns
    -------
    matplotlib.axes.Axes
        The projection, with axes in physical units.

    Raises
    ------
    LabelError
        If ``volume`` is no volume, image or stack of images, or has no ``dim``.
    OptionError
        If matplotlib has no colour map ``cmap``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> ax = plots.projection(lv.as_stack(np.zeros((4, 5, 7))), dim="y")
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title()
    ('x (voxel)', 'z (voxel)', 'mean along y')
    """
    along = slicing_dim(volume, dim)
    plane = (volume if along is None else reduced_along(volume, along, reduce)).compute()
    ax = ax or new_axes(4.6, 4.2)
    draw_plane(ax, plane, cmap, limits_or_default(plane, limits))
    ax.set_title("" if along is None else f"{reduce} along {along}", fontsize=10)
    return ax


@operation
def density(
    blocks: xr.DataArray,
    *,
    dim: str | None = None,
    at: float | None = None,
    cmap: str = "magma",
    limits: Limits = None,
    ax: Axes | None = None,
) -> Axes:
    """Computes one slice of a density map, and draws it with a colour bar.

    Parameters
    ----------
    blocks
        (z, y, x), e.g. the share of occupied voxels in each block; images (k, y, x); or an
        image (y, x).
    dim
        Dim across which to slice, by default z, or k of a stack of images.
    at
        Position of the slice in the unit of ``dim``; by default the middle.
    cmap, limits, ax
        As in ``slices``; by default the limits are the extremes.

    Returns
    -------
    matplotlib.axes.Axes
        The slice, with a colour bar next to it.

    Raises
    ------
    LabelError
        If ``blocks`` is no volume, image or stack of images, lacks ``dim``, or ``at`` is outside.
    OptionError
        If matplotlib has no colour map ``cmap``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> plots.density(lv.as_stack(np.eye(4)[None] * np.ones((3, 1, 1)))).get_title()
    'z = 1 voxel'
    """
    along = slicing_dim(blocks, dim)
    plane, title = blocks, ""
    if along is not None:
        index = nearest_index(blocks, along, at)
        plane, title = blocks.isel({along: index}, drop=True), position_text(blocks, along, index)
    plane = plane.compute()
    ax = ax or new_axes(5.2, 4.2)
    image = draw_plane(ax, plane, cmap, limits_or_default(plane, limits, 0, 100))
    bar = ax.get_figure(root=True).colorbar(image, ax=ax, shrink=0.85)  # type: ignore[union-attr]
    bar.set_label(str(blocks.attrs.get("long_name", blocks.name or "density")))
    ax.set_title(title, fontsize=10)
    return ax


def _image(
    image: xr.DataArray, index: Mapping[str, int], cmap: str, limits: Limits,
    axes: Sequence[Axes] | None,
) -> Axes:  # fmt: skip
    """Draw an image with lines through the point."""
    ax = new_axes(4.6, 4.2) if axes is None else _require_panels(axes, 1)[0]
    plane = image.compute()
    draw_plane(ax, plane, cmap, limits_or_default(plane, limits))
    _draw_cross(ax, image, plane, index)
    return ax


def _require_panels(axes: Sequence[Axes], count: int) -> tuple[Axes, ...]:
    """Return ``axes`` as a tuple; raise OptionError unless there are ``count``."""
    if len(axes) != count:
        raise OptionError(
            f"orthogonal: axes must be {count} Axes, got {len(axes)}; pass one per plane"
        )
    return tuple(axes)


def _panels(planes: Mapping[str, xr.DataArray]) -> tuple[Axes, ...]:
    """Return three new axes in proportion to their planes: those of a slab below each other."""
    extents = [image_extent(p) for p in planes.values()]
    widths, heights = ([abs(e[i + 1] - e[i]) for e in extents] for i in (0, 2))
    if heights[1] < SLAB * min(widths[0], heights[0]):
        figure = new_figure(6.4, min(10.0, 5.6 * sum(heights) / max(widths) + 1.8))
        return ShownPanels(figure.subplots(3, 1, height_ratios=heights))
    figure = new_figure(9.6, min(9.0, max(2.2, 8.4 * max(heights) / sum(widths) + 0.8)))
    return ShownPanels(figure.subplots(1, 3, width_ratios=widths))


def _draw_cross(
    ax: Axes, volume: xr.DataArray, plane: xr.DataArray, index: Mapping[str, int]
) -> None:
    """Draw thin lines at the positions of the other two slices."""
    row, column = (str(d) for d in plane.dims if d in index)
    positions = {d: dim_edges(volume, d)[0] + (index[d] + 0.5) * spacing(volume, d) for d in index}
    ax.axhline(positions[row], color=AMBER, lw=0.7, alpha=0.8)
    ax.axvline(positions[column], color=AMBER, lw=0.7, alpha=0.8)
