"""Figures of the planes: images in physical units, lines through the point, and a scale bar."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from bokeh.events import Tap
from bokeh.models import ColumnDataSource, LinearColorMapper, ScaleBar, Span
from bokeh.models.annotations.dimensional import Metric
from bokeh.palettes import Cividis256, Greys256, Inferno256, Magma256, Turbo256, Viridis256
from bokeh.plotting import figure

from lazyvol.plots.canvas import (
    AMBER,
    axis_label,
    colour_dim,
    dim_edges,
    image_extent,
    nearest_index,
    position_text,
    rescaled_colours,
    rows_run_down,
)
from lazyvol.stack import spatial_dims, unit_of
from lazyvol.summary import unit_symbol

PALETTES = {
    "grey": Greys256,
    "inverted grey": tuple(reversed(Greys256)),
    "viridis": Viridis256,
    "magma": Magma256,
    "inferno": Inferno256,
    "cividis": Cividis256,
    "turbo": Turbo256,
}
#: pixels along the longest edge of a plane
EDGE = 420
#: least pixels along that edge where the page is fitted to the window
LEAST_EDGE = 240
#: pixels beside and below a plane: axes, their labels, and tools
MARGIN = 72
#: pixels along the shortest edge of a plane: a thin slab is drawn wider than it is
SHORTEST = 90
#: pixels of a plane along each label of an axis, and of the narrowest plane with a scale bar
TICK, BAR = 55, 150
#: rows and columns of the planes across each dim: x is shared by two planes, and so is y
AXES = {"z": ("y", "x"), "y": ("z", "x"), "x": ("y", "z")}
#: transparency of masks and labels, from 0 to 255, and the colours of labels
OVERLAY_ALPHA = 90
LABEL_COLOURS = np.array(
    [[0xD9, 0x57, 0x3B], [0x3D, 0x85, 0xC6], [0x3A, 0x9A, 0x6B], [0xC9, 0x8A, 0x1B],
     [0x8E, 0x6B, 0xBF], [0x3A, 0xA3, 0xA8], [0xB8, 0x4A, 0x8C], [0x7A, 0x8C, 0x2E]], np.uint8
)  # fmt: skip


class PlaneFigure:
    """The figure of the planes across one dim of an array.

    Parameters
    ----------
    array
        The array whose planes are shown.
    normal
        Dim across which the planes are.
    scale
        Pixels per unit of length.
    mapper
        Colour mapper that all figures share.
    moved
        Called with the indices of a point, by dim, when the figure is clicked.
    ground
        Colour around the plane; None for that of the theme.
    """

    def __init__(
        self, array: xr.DataArray, normal: str, scale: float, mapper: LinearColorMapper,
        moved: Callable[[Mapping[str, int]], None], ground: str | None = None,
    ) -> None:  # fmt: skip
        self.array, self.normal = array, normal
        rows, columns = AXES[normal]
        self.rows, self.columns, self._moved = rows, columns, moved
        left, right = sorted(dim_edges(array, columns))
        bottom, top = sorted(dim_edges(array, rows))
        self._spans = (right - left, top - bottom)
        vertical = (top, bottom) if rows_run_down(array) else (bottom, top)
        self.model = figure(
            x_range=(left, right), y_range=vertical, x_axis_label=axis_label(array, columns),
            y_axis_label=axis_label(array, rows), tools="pan,wheel_zoom,box_zoom,reset,save",
            active_scroll="wheel_zoom", toolbar_location="above", name=f"plane-{normal}",
        )  # fmt: skip
        self.model.grid.visible = False
        self.model.toolbar.logo = None
        if ground is not None:
            self.model.border_fill_color = ground
        self.source = ColumnDataSource({n: [] for n in ("image", "x", "y", "dw", "dh")})
        self.overlay = ColumnDataSource({n: [] for n in ("image", "x", "y", "dw", "dh")})
        place = {"x": "x", "y": "y", "dw": "dw", "dh": "dh"}
        if colour_dim(array) is None:
            self.model.image(image="image", source=self.source, color_mapper=mapper, **place)
        else:
            self.model.image_rgba(image="image", source=self.source, **place)
        self.model.image_rgba(image="image", source=self.overlay, **place)
        self.lines = {
            rows: Span(dimension="width", line_color=AMBER, line_alpha=0.8),
            columns: Span(dimension="height", line_color=AMBER, line_alpha=0.8),
        }
        for line in self.lines.values():
            self.model.add_layout(line)
        self.model.title.text_font_size = "12px"
        self._bar = _scale_bar(self.model.x_range, unit_of(array, columns))
        self.model.add_layout(self._bar)
        self.model.on_event(Tap, self._tapped)
        self.resize(scale)

    def resize(self, scale: float) -> None:
        """Draw the plane with other pixels per unit of length."""
        width, height = (max(SHORTEST, round(span * scale)) for span in self._spans)
        self.model.update(frame_width=width, frame_height=height)
        for axis, pixels in ((self.model.xaxis, width), (self.model.yaxis, height)):
            axis[0].ticker.desired_num_ticks = int(np.clip(pixels // TICK, 2, 6))
        self._bar.visible = width >= BAR

    def show(self, plane: xr.DataArray, limits: tuple[float, float]) -> None:
        """Show a plane; colours are scaled from ``limits``."""
        colour = colour_dim(plane)
        plane = plane.transpose(self.rows, self.columns, *([colour] if colour else []))
        image = plane.values if colour is None else _as_rgba(plane.values, limits)
        self.source.data = self._placed(image, plane)

    def show_overlay(self, plane: xr.DataArray | None) -> None:
        """Show a plane of a mask or of labels, or nothing."""
        if plane is None:
            self.overlay.data = {n: [] for n in ("image", "x", "y", "dw", "dh")}
            return
        plane = plane.transpose(self.rows, self.columns)
        self.overlay.data = self._placed(_as_overlay(plane.values), plane)

    def show_point(self, index: Mapping[str, int]) -> None:
        """Move the lines to a point, and write the position of the plane above it."""
        for dim, line in self.lines.items():
            low, high = dim_edges(self.array, dim)
            line.location = low + (index[dim] + 0.5) * (high - low) / self.array.sizes[dim]
        if self.normal in self.array.dims:
            self.model.title.text = position_text(self.array, self.normal, index[self.normal])

    def _placed(self, image: npt.NDArray[Any], plane: xr.DataArray) -> dict[str, list[Any]]:
        """Return the columns of an image source; a decreasing axis turns the image."""
        left, right, bottom, top = image_extent(plane)
        image = image[:: -1 if top < bottom else 1, :: -1 if right < left else 1]
        return {
            "image": [np.ascontiguousarray(image)],
            "x": [min(left, right)], "y": [min(bottom, top)],
            "dw": [abs(right - left)], "dh": [abs(top - bottom)],
        }  # fmt: skip

    def _tapped(self, event: Tap) -> None:
        try:
            self._moved(
                {
                    self.columns: nearest_index(self.array, self.columns, event.x),
                    self.rows: nearest_index(self.array, self.rows, event.y),
                }
            )
        except ValueError:  # a click beside the image
            return


def pixels_per_unit(array: xr.DataArray) -> float:
    """Return the scale at which the longest edge of all planes has ``EDGE`` pixels."""
    return EDGE / max(_spans(array).values())


def pixels_to_fit(array: xr.DataArray, width: int, height: int, beside: int) -> float:
    """Return the scale at which all planes fit into a part of the page.

    The planes across z and y are ``beside`` pixels or more away from the right edge.
    """
    spans = _spans(array)
    x, y, z = (spans.get(d, 0.0) for d in ("x", "y", "z"))
    columns = 1 + (z > 0)
    scale = (width - columns * MARGIN) / (x + z)
    if z:
        scale = min(scale, (width - beside - MARGIN) / x)
    scale = min(scale, (height - columns * MARGIN) / (y + z))
    return max(scale, LEAST_EDGE / max(x, y, z))


def _spans(array: xr.DataArray) -> dict[str, float]:
    """Return the length of each spatial dim, from the edge of its first voxel to the last."""
    edges = ((d, dim_edges(array, d)) for d in spatial_dims(array))
    return {d: abs(high - low) for d, (low, high) in edges}


def _scale_bar(x_range: Any, unit: str) -> ScaleBar:
    symbol = unit_symbol(unit)
    lengths = [m * 10.0**power for power in range(-4, 7) for m in (1, 2, 5)]
    return ScaleBar(
        range=x_range, unit=symbol, location="bottom_left", background_fill_alpha=0.75, padding=5,
        background_fill_color="white", border_line_color=None, bar_line_width=3, bar_length=0.25,
        label_text_font_size="12px", label_text_color="black", bar_line_color="black",
        dimensional=Metric(base_unit=symbol, include=[symbol], ticks=lengths),
    )  # fmt: skip


def _as_rgba(values: npt.NDArray[Any], limits: tuple[float, float]) -> npt.NDArray[np.uint32]:
    """Return colours (row, column, 3 or 4) between limits as pixels."""
    pixels = np.full((*values.shape[:2], 4), 255, np.uint8)
    pixels[..., :3] = np.round(255 * rescaled_colours(values[..., :3], limits))
    return pixels.view(np.uint32)[..., 0]


def _as_overlay(values: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Return labels as half-transparent colours; 0 and NaN are transparent."""
    labels = np.nan_to_num(values).astype(np.int64)
    pixels = np.zeros((*labels.shape, 4), np.uint8)
    pixels[..., :3] = LABEL_COLOURS[(labels - 1) % len(LABEL_COLOURS)]
    pixels[..., 3] = np.where(labels != 0, OVERLAY_ALPHA, 0)
    return pixels.view(np.uint32)[..., 0]
