"""Planes of one volume: slices, projections and maps of density, in physical units.

The second axis of a plane grows upwards, as in most viewers of MRC files. Contrast runs from the
1st to the 99th percentile of what is shown unless ``limits`` says otherwise.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lazyvol.door import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.plots.canvas import (
    AMBER,
    Limits,
    cut_dim,
    draw_plane,
    edges_of,
    extent_of,
    flattened,
    has_dim,
    index_at,
    limits_of,
    new_axes,
    new_figure,
    position_text,
    shown_limits,
    volume_dims,
)
from lazyvol.stack import spacing, spatial_dims


@operation
def orthogonal(
    volume: xr.DataArray,
    *,
    at: Mapping[str, float] | None = None,
    cmap: str = "gray",
    limits: Limits = None,
    axes: Sequence[Axes] | None = None,
) -> tuple[Axes, ...]:
    """Computes three slices through a point and draws them at one scale; of an image, itself.

    Parameters
    ----------
    volume
        (z, y, x), of which only the three slices are read; or an image (y, x).
    at
        Position of the point in the unit of the coordinates, per dim; the middle (n // 2) where
        a dim is not named.
    cmap, limits
        As in ``slices``; the limits are shared.
    axes
        Three axes to draw on (one for an image); those of a new figure by default.

    Returns
    -------
    tuple of Axes
        Across z, across y, across x; one of an image.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> volume = lv.as_stack(np.zeros((4, 5, 7)), voxel_size=2.0, unit="angstrom")
    >>> [ax.get_title() for ax in plots.orthogonal(volume, at={"z": 2.0})]
    ['z = 2 Å', 'y = 4 Å', 'x = 6 Å']
    """
    dims = spatial_dims(volume)
    if len(dims) == 2 and cut_dim(volume, None) is not None:
        raise LabelError(
            f"volume must have the dims ('z', 'y', 'x') or be an image, got {tuple(volume.dims)}; "
            f"select an image, e.g. with .isel(k=0), or draw all with slices"
        )
    volume_dims(volume)
    for name in at or {}:
        has_dim(dims, name)
    index = {d: index_at(volume, d, (at or {}).get(d)) for d in dims}
    if len(dims) == 2:
        return (_image(volume, index, cmap, limits, axes),)
    planes = {d: volume.isel({d: i}, drop=True).compute() for d, i in index.items()}
    shown = limits or limits_of(np.concatenate([p.values.ravel() for p in planes.values()]))
    if axes is not None and len(axes) != len(planes):
        raise OptionError(f"orthogonal: axes must be {len(planes)} Axes, got {len(axes)}")
    panels = tuple(axes) if axes is not None else _panels(planes)
    for ax, (dim, plane) in zip(panels, planes.items(), strict=True):
        draw_plane(ax, plane, cmap, shown)
        _cross(ax, volume, plane, index)
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
    """Computes the mean or the maximum of a volume along one dim and draws it.

    Parameters
    ----------
    volume
        (z, y, x), or images (k, y, x); all of it is read. An image (y, x) is drawn as it is.
    dim
        The dim that vanishes: by default z, or that of a stack of images.
    reduce
        ``"mean"`` or ``"max"``.
    cmap, limits, ax
        As in ``slices``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> ax = plots.projection(lv.as_stack(np.zeros((4, 5, 7))), dim="y")
    >>> ax.get_xlabel(), ax.get_ylabel(), ax.get_title()
    ('x (voxel)', 'z (voxel)', 'mean along y')
    """
    along = cut_dim(volume, dim)
    if reduce not in ("mean", "max"):
        raise LabelError(f"reduce is 'mean' or 'max', got {reduce!r}")
    plane = (volume if along is None else flattened(volume, along, reduce)).compute()
    ax = ax or new_axes(4.6, 4.2)
    draw_plane(ax, plane, cmap, shown_limits(plane, limits))
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
    """Computes one slice of a map of densities and draws it with a colour bar.

    Parameters
    ----------
    blocks
        (z, y, x), e.g. the share of occupied voxels in each block; images (k, y, x); or an
        image (y, x).
    dim, at
        The dim that is cut (by default z, or that of a stack of images), and where, in the unit
        of its coordinate; the middle by default.
    cmap, limits, ax
        As in ``slices``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> plots.density(lv.as_stack(np.eye(4)[None] * np.ones((3, 1, 1)))).get_title()
    'z = 1 voxel'
    """
    along = cut_dim(blocks, dim)
    plane, title = blocks, ""
    if along is not None:
        index = index_at(blocks, along, at)
        plane, title = blocks.isel({along: index}, drop=True), position_text(blocks, along, index)
    plane = plane.compute()
    ax = ax or new_axes(5.2, 4.2)
    image = draw_plane(ax, plane, cmap, shown_limits(plane, limits, 0, 100))
    bar = ax.get_figure(root=True).colorbar(image, ax=ax, shrink=0.85)  # type: ignore[union-attr]
    bar.set_label(str(blocks.attrs.get("long_name", blocks.name or "density")))
    ax.set_title(title, fontsize=10)
    return ax


def _image(
    image: xr.DataArray, index: Mapping[str, int], cmap: str, limits: Limits,
    axes: Sequence[Axes] | None,
) -> Axes:  # fmt: skip
    """An image with lines through the point."""
    if axes is not None and len(axes) != 1:
        raise LabelError(f"axes must be one for an image, got {len(axes)}; give one of them")
    ax = axes[0] if axes is not None else new_axes(4.6, 4.2)
    plane = image.compute()
    draw_plane(ax, plane, cmap, shown_limits(plane, limits))
    _cross(ax, image, plane, index)
    return ax


def _panels(planes: Mapping[str, xr.DataArray]) -> tuple[Axes, ...]:
    """Three axes whose widths follow the planes, so that all have one scale."""
    extents = [extent_of(p) for p in planes.values()]
    widths = [abs(e[1] - e[0]) for e in extents]
    height = max(abs(e[3] - e[2]) for e in extents) / sum(widths)
    figure = new_figure(9.6, min(9.0, max(2.2, 8.4 * height + 0.8)))
    return tuple(figure.subplots(1, 3, width_ratios=widths))


def _cross(ax: Axes, volume: xr.DataArray, plane: xr.DataArray, index: Mapping[str, int]) -> None:
    """Thin lines where the other two slices are."""
    row, column = (str(d) for d in plane.dims if d in index)
    place = {d: edges_of(volume, d)[0] + (index[d] + 0.5) * spacing(volume, d) for d in index}
    ax.axhline(place[row], color=AMBER, lw=0.7, alpha=0.8)
    ax.axvline(place[column], color=AMBER, lw=0.7, alpha=0.8)
