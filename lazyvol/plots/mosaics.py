"""Mosaics: many small pictures at one scale.

The second axis of a plane grows upwards, as in most viewers of MRC files. Contrast runs from the
1st to the 99th percentile of what is shown unless ``limits`` says otherwise.
"""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.plots.canvas import (
    Limits,
    Reduce,
    colour_of,
    coloured,
    cut_dim,
    draw_scale_bar,
    flattened,
    limits_of,
    map_of,
    new_axes,
    position_text,
    shown_limits,
)
from lazyvol.stack import spacing, spatial_dims, unit_of
from lazyvol.summary import sign_of


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
    """Computes ``n`` evenly spaced slices of a volume and draws them as one mosaic.

    Parameters
    ----------
    volume
        (z, y, x), or images (k, y, x); only the slices shown are read. An image (y, x) is one
        tile.
    dim
        The dim that is cut: by default z, or that of a stack of images.
    n
        Number of slices, at most as many as there are.
    columns
        Tiles per row; as square as possible by default.
    cmap, limits
        Colour map, and the values of its two ends.
    ax
        Axes to draw on; those of a new figure by default.

    Raises
    ------
    LabelError
        If ``volume`` is not one volume, or has no ``dim``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> volume = lv.as_stack(np.random.default_rng(0).normal(size=(8, 5, 7)))
    >>> plots.slices(volume, n=4).get_title()
    '4 slices along z'
    """
    along = cut_dim(volume, dim)
    if along is None:
        return _mosaic(volume.expand_dims("tile").compute(), [""], columns, cmap, limits, False, ax)
    places = np.unique(np.linspace(0, volume.sizes[along] - 1, max(1, n)).round().astype(int))
    planes = volume.isel({along: [int(i) for i in places]}).transpose(along, ...).compute()
    captions = [position_text(volume, along, int(i)) for i in places]
    ax = _mosaic(planes, captions, columns, cmap, limits, False, ax)
    ax.set_title(f"{len(places)} slices along {along}")
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
    """Computes one picture of each volume of a small stack and draws them as a mosaic.

    Parameters
    ----------
    stack
        (k, z, y, x) or images (k, y, x), one tile for each k; select the particles to
        show first. With ``reduce="slice"`` only the central slices are read.
    dim
        The dim of a volume that is cut or projected, by default z.
    reduce
        The central slice, or the mean or maximum along ``dim``.
    captions
        One text per tile; the values of k by default.
    columns, cmap, limits
        As in ``slices``.
    shared
        Whether all tiles share their contrast limits; by default each has its own.
    ax
        Axes to draw on; those of a new figure by default.

    Raises
    ------
    LabelError
        If ``stack`` has not one stack dim and three spatial ones, or captions do not fit.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> from lazyvol import plots
    >>> stack = lv.as_stack(np.random.default_rng(0).normal(size=(6, 5, 7, 11)))
    >>> ax = plots.montage(stack.isel(k=[1, 5]), captions=["first", "last"])
    >>> sorted(t.get_text() for t in ax.texts)[-2:]
    ['first', 'last']
    """
    first = _tiled(stack)
    along = cut_dim(stack.isel({first: 0}, drop=True), dim)
    words = _captions(stack, first) if captions is None else list(captions)
    if len(words) != stack.sizes[first]:
        raise LabelError(f"{stack.sizes[first]} tiles need as many captions, got {len(words)}")
    shown = stack if along is None else flattened(stack, along, reduce)
    planes = shown.transpose(first, ...).compute()
    return _mosaic(planes, words, columns, cmap, limits, not (shared or limits), ax)


def _tiled(stack: xr.DataArray) -> str:
    """The dim whose indices are the tiles."""
    colour, spatial = colour_of(stack), spatial_dims(stack)
    rest = [str(d) for d in stack.dims if d not in spatial and d != colour]
    if len(rest) != 1 or not stack.sizes[rest[0]]:
        raise LabelError(
            f"stack must have one dim beside those of a volume or an image, of one index or more, "
            f"got {dict(stack.sizes)}; select the rest first, e.g. with .isel, or draw one volume "
            f"with slices"
        )
    return rest[0]


def _captions(stack: xr.DataArray, dim: str) -> list[str]:
    values = stack.coords[dim].values if dim in stack.coords else range(stack.sizes[dim])
    return [f"{dim} = {v}" for v in values]


def _mosaic(
    planes: xr.DataArray,
    captions: Sequence[str],
    columns: int | None,
    cmap: str,
    limits: Limits,
    own: bool,
    ax: Axes | None,
) -> Axes:
    """Planes (tile, row, column) in rows of tiles, with captions and one scale bar."""
    rows_dim, columns_dim = spatial_dims(planes.isel({planes.dims[0]: 0}, drop=True))
    colour = colour_of(planes)
    planes = planes if colour is None else planes.transpose(..., colour)
    wide = columns or ceil(sqrt(len(planes)))
    high = ceil(len(planes) / wide)
    width, height = (planes.sizes[d] * abs(spacing(planes, d)) for d in (columns_dim, rows_dim))
    gap, line = 0.04 * width, 0.16 * width
    ax = ax or new_axes(7.2, min(12.0, 7.2 * high * (height + line) / (wide * (width + gap)) + 0.5))
    shared = shown_limits(planes, limits)
    own = own and not (colour is not None and planes.dtype == np.uint8)
    for n, (plane, caption) in enumerate(zip(planes.values, captions, strict=True)):
        left, bottom = n % wide * (width + gap), -(n // wide + 1) * (height + line)
        low, high_value = limits_of(plane) if own else shared
        plane = plane if colour is None else coloured(plane, (low, high_value))
        ax.imshow(
            plane, cmap=map_of(cmap), vmin=low, vmax=high_value, origin="lower",
            interpolation="nearest", extent=(left, left + width, bottom, bottom + height),
        )  # fmt: skip
        ax.text(left + width / 2, bottom + height + line / 6, caption, ha="center", fontsize=8)
    _frame(ax, wide * (width + gap) - gap, high * (height + line))
    last = -high * (height + line)
    draw_scale_bar(ax, 0.05 * width, last + 0.05 * height, width, unit_of(planes, columns_dim))
    ax.set_xlabel(f"{columns_dim} to the right, {rows_dim} upwards; "
                  f"tiles are {width:.4g} {sign_of(unit_of(planes, columns_dim))} wide",
                  fontsize=8)  # fmt: skip
    return ax


def _frame(ax: Axes, width: float, height: float) -> None:
    ax.set_xlim(0, width)
    ax.set_ylim(-height, 0)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
