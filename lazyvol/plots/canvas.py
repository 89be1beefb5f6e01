"""Shared parts of all plots: axes without pyplot, physical extents, contrast limits, scale bars."""

from collections.abc import Sequence
from io import BytesIO
from math import floor, log10
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lazyvol.errors import LabelError, OptionError
from lazyvol.stack import spacing, spatial_dims, unit_of
from lazyvol.summary import unit_symbol

#: colours that are legible on light and on dark pages
BLUE, RED, GREEN, AMBER, GREY = "#3d85c6", "#d9573b", "#3a9a6b", "#c98a1b", "#8a9099"
#: names of the colour axis of images, as readers give them
COLOURS = ("channel", "sample")
CYCLE = (BLUE, RED, GREEN, AMBER, "#8e6bbf", "#3aa3a8")

Reduce = Literal["slice", "mean", "max"]
Limits = tuple[float, float] | None


class ShownAxes(Axes):
    """Axes that Jupyter shows as a picture of their figure."""

    def _repr_png_(self) -> bytes:
        return picture_of(self)


class ShownPanels(tuple[Axes, ...]):
    """Axes of one figure, which Jupyter shows as its picture."""

    def _repr_png_(self) -> bytes:
        return picture_of(self[0])


def picture_of(ax: Axes) -> bytes:
    """Return the figure of some axes as the bytes of a PNG file."""
    picture = BytesIO()
    ax.get_figure(root=True).savefig(picture, format="png", dpi=110)  # type: ignore[union-attr]
    return picture.getvalue()


def new_axes(width: float = 6.0, height: float = 4.0) -> Axes:
    """Return axes on a new figure of this size in inches, which pyplot does not manage."""
    return new_figure(width, height).add_subplot(axes_class=ShownAxes)


def new_figure(width: float, height: float) -> Figure:
    """Return a figure with its own canvas, of this size in inches, which pyplot does not manage."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axis_label(array: xr.DataArray, dim: str) -> str:
    """Return the name of a dim with its unit."""
    return f"{dim} ({unit_symbol(unit_of(array, dim))})"


def contrast_limits(values: Any, low: float = 1, high: float = 99) -> tuple[float, float]:
    """Return two percentiles of the finite values, or different limits if these are equal."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    lower, upper = (float(p) for p in np.percentile(finite, (low, high)))
    if lower < upper:
        return lower, upper
    lower, upper = float(finite.min()), float(finite.max())
    return (lower, upper) if lower < upper else (lower - 0.5, upper + 0.5)


def dim_edges(array: xr.DataArray, dim: str) -> tuple[float, float]:
    """Return the outer edges of the first and last voxel along ``dim``, in its unit."""
    step = spacing(array, dim)
    first = float(array.coords[dim][0]) if dim in array.coords else 0.0
    return first - step / 2, first + (array.sizes[dim] - 0.5) * step


def image_extent(plane: xr.DataArray) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top of a plane (row, column) in physical units."""
    row, column = (str(d) for d in plane.dims[:2])
    return (*dim_edges(plane, column), *dim_edges(plane, row))


def colour_dim(array: xr.DataArray) -> str | None:
    """Return the dim of red, green, blue (and alpha), or None."""
    return next((d for d in COLOURS if array.sizes.get(d) in (3, 4)), None)


def rows_run_down(array: xr.DataArray) -> bool:
    """Return True for colours: they are shown as photographs, with the first row at the top."""
    return colour_dim(array) is not None


def volume_dims(array: xr.DataArray) -> tuple[str, ...]:
    """Return the dims of a volume, an image or a stack of images, without that of colours.

    Raise LabelError for any other array.
    """
    colour, spatial = colour_dim(array), spatial_dims(array)
    dims = tuple(str(d) for d in array.dims if d != colour)
    if len(spatial) < 2 or not 2 <= len(dims) <= 3:
        raise LabelError(
            f"plots: array must be a volume with dims ('z', 'y', 'x'), an image or a stack of "
            f"images, got {tuple(array.dims)}; select along the other dims, e.g. with .isel(k=0)"
        )
    return dims


def slicing_dim(array: xr.DataArray, dim: str | None) -> str | None:
    """Return the dim to slice or reduce: ``dim``, by default z or that of a stack of images.

    Return None for an image.
    """
    dims, spatial = volume_dims(array), spatial_dims(array)
    if len(dims) == 2:
        if dim is not None:
            raise LabelError(
                f"dim must be left out for an image, got {dim=} for {tuple(array.dims)}; pass a "
                f"volume to draw a slice"
            )
        return None
    choices = tuple(d for d in dims if d not in spatial) or spatial
    if dim is not None:
        require_dim(choices, dim)
        return dim
    return choices[0]


def require_positions(array: xr.DataArray, dim: str) -> None:
    """Raise LabelError for an array of length 0 along ``dim``."""
    if array.sizes[dim] == 0:
        raise LabelError(
            f"volume must have one voxel or more along {dim!r}, got 0; select a non-empty part"
        )


def nearest_index(array: xr.DataArray, dim: str, at: float | None) -> int:
    """Return the index nearest to a position along ``dim``, by default the middle, n // 2."""
    require_positions(array, dim)
    if at is None:
        return array.sizes[dim] // 2
    low, high = sorted(dim_edges(array, dim))
    if not low <= at <= high:
        raise LabelError(
            f"at must be between {low:g} and {high:g} {unit_of(array, dim)} along {dim!r}, got "
            f"{at:g}; choose a position inside"
        )
    first = float(array.coords[dim][0]) if dim in array.coords else 0.0
    return int(np.clip(round((at - first) / spacing(array, dim)), 0, array.sizes[dim] - 1))


def position_text(array: xr.DataArray, dim: str, index: int) -> str:
    """Return the position at ``index`` as text, e.g. ``z = 96 Å``."""
    if dim not in spatial_dims(array):
        return f"{dim} = {array.coords[dim].values[index] if dim in array.coords else index}"
    position = float(array.coords[dim][index]) if dim in array.coords else float(index)
    return f"{dim} = {position:.4g} {unit_symbol(unit_of(array, dim))}"


def scale_bar_length(span: float) -> float:
    """Return a round length near a quarter of ``span``: 1, 2 or 5 times a power of ten."""
    target = span / 4
    power = 10.0 ** floor(log10(target)) if target > 0 else 1.0
    return max((m * power for m in (1, 2, 5) if m * power <= target * 1.001), default=power)


def draw_scale_bar(ax: Axes, left: float, bottom: float, span: float, unit: str) -> None:
    """Draw a scale bar with its length; ``left`` and ``bottom`` are data coordinates."""
    length = scale_bar_length(span)
    ax.add_patch(
        Rectangle((left, bottom), length, span / 60, color="white", ec="black", lw=0.4, zorder=4)
    )
    ax.text(
        left, bottom + span / 30, f"{length:g} {unit_symbol(unit)}", color="white", fontsize=8,
        va="bottom", zorder=4, path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def style_curve(ax: Axes) -> Axes:
    """Return axes styled for curves: no box, faint horizontal lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def require_dim(dims: Sequence[str], dim: str) -> None:
    """Raise LabelError if ``dim`` is not among ``dims``."""
    if dim not in dims:
        raise LabelError(f"dim must be one of {tuple(dims)}, got {dim!r}; rename or choose one")


def reduced_along(array: xr.DataArray, dim: str, reduce: Reduce) -> xr.DataArray:
    """Return the central slice of an array along ``dim``, or its mean or maximum."""
    if reduce == "slice":
        return array.isel({dim: array.sizes[dim] // 2}, drop=True)
    if reduce == "mean":
        return array.mean(dim, keep_attrs=True)
    return array.max(dim, keep_attrs=True)


def limits_or_default(array: xr.DataArray, limits: Limits, low: float = 1, high: float = 99) -> Any:
    """Return ``limits``, by default 0 and 255 of 8-bit colours, and percentiles of other arrays."""
    if limits is None and colour_dim(array) is not None and array.dtype == np.uint8:
        return 0.0, 255.0
    return limits or contrast_limits(array.values, low, high)


def rescaled_colours(values: Any, limits: tuple[float, float]) -> Any:
    """Return colours (..., channel) rescaled from limits to 0 ... 1, clipped; NaN is black."""
    scaled = (np.asarray(values, np.float64) - limits[0]) / (limits[1] - limits[0])
    return np.clip(np.nan_to_num(scaled, nan=0.0), 0.0, 1.0)


def require_colormap(cmap: str) -> str:
    """Return ``cmap``; raise OptionError if matplotlib has no colour map of this name."""
    if cmap not in colormaps:
        raise OptionError(
            f"cmap must be a colour map of matplotlib, e.g. 'gray' or 'magma', got {cmap!r}; see "
            f"matplotlib.colormaps"
        )
    return cmap


def draw_plane(ax: Axes, plane: xr.DataArray, cmap: str, limits: tuple[float, float]) -> AxesImage:
    """Draw a plane (row, column), possibly with colours, on axes in physical units."""
    colour = colour_dim(plane)
    plane = plane if colour is None else plane.transpose(..., colour)
    row, column = (str(d) for d in plane.dims[:2])
    values = plane.values if colour is None else rescaled_colours(plane.values, limits)
    image = ax.imshow(
        values, cmap=require_colormap(cmap), vmin=limits[0], vmax=limits[1], origin="lower",
        extent=image_extent(plane), interpolation="nearest", aspect="equal",
    )  # fmt: skip
    if rows_run_down(plane):
        ax.invert_yaxis()
    ax.set_xlabel(axis_label(plane, column))
    ax.set_ylabel(axis_label(plane, row))
    ax.tick_params(labelsize=8)
    return image
