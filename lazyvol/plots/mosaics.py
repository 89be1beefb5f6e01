"""Mosaics: slices of one volume, or one image of each particle, at one scale.

The vertical axis of a plane points upwards, as in most viewers of MRC files, and that of a colour
image downwards, as in a photograph. By default, contrast runs from the 1st to the 99th percentile
of the values shown.
"""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.plots.canvas import (
    Limits,
    Reduce,
    colour_dim,
    contrast_limits,
    draw_scale_bar,
    limits_or_default,
    new_axes,
    position_text,
    reduced_along,
    require_colormap,
    require_positions,
    rescaled_colours,
    rows_run_down,
    slicing_dim,
)
from lazyvol.stack import spacing, spatial_dims, unit_of
from lazyvol.summary import unit_symbol

#: tiles in a row up to which each has a caption; in longer rows only the first
CAPTIONED = 14


@operation
def slices(
    volume: xr.DataArray,
    *,
    dim: str | None = None,
    n: int = 9,
    columns: int | None = None,
    cmap: str = "gray",
    limits: Limits = None,
    ax: Axes | None = None,
) -> Axes:
    """Computes ``n`` evenly spaced slices of a volume, and draws them as a mosaic.

    Parameters
    ----------
    volume
        (z, y, x), or images (k, y, x), of which only the slices shown are read; an image (y, x) is
        one tile.
    dim
        Dim across which to slice, by default z, or k of a stack of images.
    n
        Number of slices; fewer if the volume has fewer.
    columns
        Number of tiles per row; by default the mosaic is as square as possible.
    cmap, limits
        Name of the matplotlib colour map, and the values at its two ends.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        All slices, with their positions and one scale bar.

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
    >>> volume = lv.as_stack(np.random.default_rng(0).normal(size=(8, 5, 7)))
    >>> plots.slices(volume, n=4).get_title()
    '4 slices along z'
    """
    along = slicing_dim(volume, dim)
    if along is None:
        return _mosaic(volume.expand_dims("tile").compute(), [""], columns, cmap, limits, False, ax)
    require_positions(volume, along)
    indices = np.unique(np.linspace(0, volume.sizes[along] - 1, max(1, n)).round().astype(int))
    planes = volume.isel({along: [int(i) for i in indices]}).transpose(along, ...).compute()
    captions = [position_text(volume, along, int(i)) for i in indices]
    ax = _mosaic(planes, captions, columns, cmap, limits, False, ax)
    ax.set_title(f"{len(indices)} slices along {along}")
    return ax


@operation
def montage(
    stack: xr.DataArray,
    *,
    dim: str | None = None,
    reduce: Reduce = "slice",
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    cmap: str = "gray",
    limits: Limits = None,
    shared: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """Computes one image of each volume of a small stack, and draws them as a mosaic.

    Parameters
    ----------
    stack
        (k, z, y, x) or images (k, y, x), one tile per particle. With ``reduce="slice"`` only the
        central slices are read.
    dim
        Dim of a volume along which to slice or reduce, by default z.
    reduce
        ``"slice"`` for the central slice, ``"mean"`` or ``"max"`` along ``dim``.
    captions
        One text per tile; by default the values of k.
    columns, cmap, limits
        As in ``slices``.
    shared
        If True, all tiles have the same contrast limits; by default each has its own.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        All tiles, with captions and one scale bar.

    Raises
    ------
    LabelError
        If ``stack`` has not exactly one dim in addition to those of a volume or an image, or if
        there is not one caption per tile.
    OptionError
        If matplotlib has no colour map ``cmap``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> stack = lv.as_stack(np.random.default_rng(0).normal(size=(6, 5, 7, 11)))
    >>> ax = plots.montage(stack.isel(k=[1, 5]), captions=["first", "last"])
    >>> sorted(t.get_text() for t in ax.texts)[-2:]
    ['first', 'last']
    """
    tile_dim = _tile_dim(stack)
    along = slicing_dim(stack.isel({tile_dim: 0}, drop=True), dim)
    texts = _default_captions(stack, tile_dim) if captions is None else list(captions)
    if len(texts) != stack.sizes[tile_dim]:
        raise LabelError(
            f"montage: captions must be {stack.sizes[tile_dim]} texts, one per tile, got "
            f"{len(texts)}; add some, or select particles"
        )
    images = stack if along is None else reduced_along(stack, along, reduce)
    planes = images.transpose(tile_dim, ...).compute()
    return _mosaic(planes, texts, columns, cmap, limits, not (shared or limits), ax)


def _tile_dim(stack: xr.DataArray) -> str:
    """Return the dim with one tile for each index."""
    colour, spatial = colour_dim(stack), spatial_dims(stack)
    others = [str(d) for d in stack.dims if d not in spatial and d != colour]
    if len(others) != 1 or not stack.sizes[others[0]]:
        raise LabelError(
            f"montage: stack must have one dim besides those of a volume or an image, not empty, "
            f"got {dict(stack.sizes)}; select along the others, e.g. with .isel, or draw one "
            f"volume with slices"
        )
    return others[0]


def _default_captions(stack: xr.DataArray, dim: str) -> list[str]:
    values = stack.coords[dim].values if dim in stack.coords else range(stack.sizes[dim])
    return [f"{dim} = {v}" for v in values]


def _mosaic(
    planes: xr.DataArray,
    captions: Sequence[str],
    columns: int | None,
    cmap: str,
    limits: Limits,
    own_limits: bool,
    ax: Axes | None,
) -> Axes:
    """Draw planes (tile, row, column) in rows of tiles, with captions and one scale bar."""
    rows_dim, columns_dim = spatial_dims(planes.isel({planes.dims[0]: 0}, drop=True))
    colour = colour_dim(planes)
    planes = planes if colour is None else planes.transpose(..., colour)
    columns = columns or ceil(sqrt(len(planes)))
    rows = ceil(len(planes) / columns)
    width, height = (planes.sizes[d] * abs(spacing(planes, d)) for d in (columns_dim, rows_dim))
    gap, line = 0.04 * width, 0.16 * width if any(captions) else 0.0
    down, size = rows_run_down(planes), float(np.clip(80 / columns, 4, 8))
    ax = ax or new_axes(
        7.2, min(12.0, 7.2 * rows * (height + line) / (columns * (width + gap)) + 0.5)
    )
    shared = limits_or_default(planes, limits)
    own_limits = own_limits and not (colour is not None and planes.dtype == np.uint8)
    for n, (plane, caption) in enumerate(zip(planes.values, captions, strict=True)):
        left, bottom = n % columns * (width + gap), -(n // columns + 1) * (height + line)
        low, high = contrast_limits(plane) if own_limits else shared
        plane = plane if colour is None else rescaled_colours(plane, (low, high))
        plane = plane[::-1] if down else plane
        ax.imshow(
            plane, cmap=require_colormap(cmap), vmin=low, vmax=high, origin="lower",
            interpolation="nearest", extent=(left, left + width, bottom, bottom + height),
        )  # fmt: skip
        if columns <= CAPTIONED or n % columns == 0:
            ax.text(left, bottom + height + line / 6, caption, fontsize=size)
    _hide_frame(ax, columns * (width + gap) - gap, rows * (height + line))
    bottom = -rows * (height + line)
    draw_scale_bar(ax, 0.05 * width, bottom + 0.05 * height, width, unit_of(planes, columns_dim))
    ax.set_xlabel(f"{columns_dim} to the right, {rows_dim} {'down' if down else 'up'}wards; "
                  f"tiles are {width:.4g} {unit_symbol(unit_of(planes, columns_dim))} wide",
                  fontsize=8)  # fmt: skip
    return ax


def _hide_frame(ax: Axes, width: float, height: float) -> None:
    """Set the limits of a mosaic, and remove ticks and box."""
    ax.set_xlim(0, width)
    ax.set_ylim(-height, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
