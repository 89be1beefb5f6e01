"""What every picture shares: axes without global state, physical extents, limits, scale bars."""

from collections.abc import Sequence
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
from lazyvol.summary import sign_of

#: colours that hold on a light and on a dark page
BLUE, RED, GREEN, AMBER, GREY = "#3d85c6", "#d9573b", "#3a9a6b", "#c98a1b", "#8a9099"
#: dims of colours in images, as files name them
COLOURS = ("channel", "sample")
CYCLE = (BLUE, RED, GREEN, AMBER, "#8e6bbf", "#3aa3a8")

Reduce = Literal["slice", "mean", "max"]
Limits = tuple[float, float] | None


def new_axes(width: float = 6.0, height: float = 4.0) -> Axes:
    """Axes of a figure of its own, in inches; pyplot does not know of it."""
    return new_figure(width, height).add_subplot()


def new_figure(width: float, height: float) -> Figure:
    """A figure that draws itself, in inches; pyplot does not know of it."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axis_label(array: xr.DataArray, dim: str) -> str:
    """Name of a dim with its unit."""
    return f"{dim} ({sign_of(unit_of(array, dim))})"


def limits_of(values: Any, low: float = 1, high: float = 99) -> tuple[float, float]:
    """Contrast limits: two percentiles of the finite values, never equal."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 1.0
    least, most = (float(p) for p in np.percentile(finite, (low, high)))
    if least < most:
        return least, most
    least, most = float(finite.min()), float(finite.max())
    return (least, most) if least < most else (least - 0.5, most + 0.5)


def edges_of(array: xr.DataArray, dim: str) -> tuple[float, float]:
    """Outer edges of the first and last voxel along ``dim``, in its unit."""
    step = spacing(array, dim)
    first = float(array.coords[dim][0]) if dim in array.coords else 0.0
    return first - step / 2, first + (array.sizes[dim] - 0.5) * step


def extent_of(plane: xr.DataArray) -> tuple[float, float, float, float]:
    """Where a plane (row, column) lies: left, right, bottom, top."""
    row, column = (str(d) for d in plane.dims[:2])
    return (*edges_of(plane, column), *edges_of(plane, row))


def colour_of(array: xr.DataArray) -> str | None:
    """The dim of red, green, blue and perhaps alpha; None where there is none."""
    return next((d for d in COLOURS if array.sizes.get(d) in (3, 4)), None)


def volume_dims(array: xr.DataArray) -> tuple[str, ...]:
    """Dims of a volume, an image or a stack of images, without those of colours; no others."""
    colour, spatial = colour_of(array), spatial_dims(array)
    dims = tuple(str(d) for d in array.dims if d != colour)
    if len(spatial) < 2 or not 2 <= len(dims) <= 3:
        raise LabelError(
            f"a picture must be of a volume with dims ('z', 'y', 'x'), an image or a stack of "
            f"images, got {tuple(array.dims)}; select the rest first, e.g. with .isel(k=0)"
        )
    return dims


def cut_dim(array: xr.DataArray, dim: str | None) -> str | None:
    """The dim along which a picture is cut: ``dim``, z, or that of a stack of images.

    None for an image.
    """
    dims, spatial = volume_dims(array), spatial_dims(array)
    if len(dims) == 2:
        if dim is not None:
            raise LabelError(
                f"dim must be left out for an image, got {dim=} for {tuple(array.dims)}; an image "
                f"is drawn as it is"
            )
        return None
    rest = tuple(d for d in dims if d not in spatial)
    if dim is not None:
        has_dim(rest or spatial, dim)
        return dim
    return (rest or spatial)[0]


def index_at(array: xr.DataArray, dim: str, at: float | None) -> int:
    """Index of the voxel nearest to a position along ``dim``; its middle (n // 2) by default."""
    if at is None:
        return array.sizes[dim] // 2
    low, high = sorted(edges_of(array, dim))
    if not low <= at <= high:
        raise LabelError(
            f"a position along {dim!r} lies between {low:g} and {high:g} "
            f"{unit_of(array, dim)}, got {at:g}"
        )
    first = float(array.coords[dim][0]) if dim in array.coords else 0.0
    return int(np.clip(round((at - first) / spacing(array, dim)), 0, array.sizes[dim] - 1))


def position_text(array: xr.DataArray, dim: str, index: int) -> str:
    """``z = 96 Å`` for the voxel at ``index``."""
    if dim not in spatial_dims(array):
        return f"{dim} = {array.coords[dim].values[index] if dim in array.coords else index}"
    place = float(array.coords[dim][index]) if dim in array.coords else float(index)
    return f"{dim} = {place:.4g} {sign_of(unit_of(array, dim))}"


def bar_length(span: float) -> float:
    """A round length of about a quarter of ``span``: 1, 2 or 5 times a power of ten."""
    target = span / 4
    power = 10.0 ** floor(log10(target)) if target > 0 else 1.0
    return max((m * power for m in (1, 2, 5) if m * power <= target * 1.001), default=power)


def draw_scale_bar(ax: Axes, left: float, bottom: float, span: float, unit: str) -> None:
    """A scale bar with its length, whose lower left corner is at a data position."""
    length = bar_length(span)
    ax.add_patch(
        Rectangle((left, bottom), length, span / 60, color="white", ec="black", lw=0.4, zorder=4)
    )
    ax.text(
        left, bottom + span / 30, f"{length:g} {sign_of(unit)}", color="white", fontsize=8,
        va="bottom", zorder=4, path_effects=[withStroke(linewidth=2, foreground="black")],
    )  # fmt: skip


def tidy(ax: Axes) -> Axes:
    """Axes of a curve: no box, faint horizontal lines."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    return ax


def has_dim(dims: Sequence[str], dim: str) -> None:
    """Refuse a dim that is not among ``dims``."""
    if dim not in dims:
        raise LabelError(f"dim is one of {tuple(dims)}, got {dim!r}")


def flattened(array: xr.DataArray, dim: str, reduce: Reduce) -> xr.DataArray:
    """The central slice of an array, or its mean or maximum along ``dim``."""
    if reduce == "slice":
        return array.isel({dim: array.sizes[dim] // 2}, drop=True)
    if reduce == "mean":
        return array.mean(dim, keep_attrs=True)
    if reduce == "max":
        return array.max(dim, keep_attrs=True)
    raise LabelError(f"reduce is 'slice', 'mean' or 'max', got {reduce!r}")


def shown_limits(array: xr.DataArray, limits: Limits, low: float = 1, high: float = 99) -> Any:
    """Given limits, those of 8-bit colours, or percentiles."""
    if limits is None and colour_of(array) is not None and array.dtype == np.uint8:
        return 0.0, 255.0
    return limits or limits_of(array.values, low, high)


def coloured(values: Any, limits: tuple[float, float]) -> Any:
    """Colours (..., channel) between limits as shares from 0 to 1; black where not finite."""
    shares = (np.asarray(values, np.float64) - limits[0]) / (limits[1] - limits[0])
    return np.clip(np.nan_to_num(shares, nan=0.0), 0.0, 1.0)


def map_of(cmap: str) -> str:
    """The name of a colour map that matplotlib has."""
    if cmap not in colormaps:
        raise OptionError(
            f"cmap must be a colour map of matplotlib, e.g. 'gray' or 'magma', got {cmap!r}; they "
            f"are listed in matplotlib.colormaps"
        )
    return cmap


def draw_plane(ax: Axes, plane: xr.DataArray, cmap: str, limits: tuple[float, float]) -> AxesImage:
    """Draw a plane (row, column), or one with colours, with physical axes."""
    colour = colour_of(plane)
    plane = plane if colour is None else plane.transpose(..., colour)
    row, column = (str(d) for d in plane.dims[:2])
    values = plane.values if colour is None else coloured(plane.values, limits)
    image = ax.imshow(
        values, cmap=map_of(cmap), vmin=limits[0], vmax=limits[1], origin="lower",
        extent=extent_of(plane), interpolation="nearest", aspect="equal",
    )  # fmt: skip
    ax.set_xlabel(axis_label(plane, column))
    ax.set_ylabel(axis_label(plane, row))
    ax.tick_params(labelsize=8)
    return image
