"""Images and charts of a report: PNG and SVG embedded in the page, scale bars in HTML."""

import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from io import BytesIO, StringIO
from math import ceil

import xarray as xr
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from lazyvol.plots.canvas import contrast_limits, image_extent, new_axes, scale_bar_length
from lazyvol.screening.report.markup import Html, tag
from lazyvol.stack import unit_of
from lazyvol.summary import unit_symbol

#: pixels along a side of an image, beyond which voxels are averaged
MAX_PIXELS = 512

#: text colour of charts, replaced by that of the page
TEXT = "#123457"


def plane_image(
    plane: xr.DataArray,
    caption: object,
    *,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    bar: float | None = None,
    alt: str = "",
) -> Html:
    """Return a plane (row, column) as an image in physical proportions, rows upwards.

    ``bar`` is the length of the scale bar in the unit of the coordinates.
    """
    left, right, bottom, top = image_extent(plane)
    width, height = abs(right - left), abs(top - bottom)
    picture = tag(
        "img", src=_png(_downsampled(plane), cmap, limits), alt=alt or str(caption), loading="lazy",
        style=f"aspect-ratio:{width:.6g}/{height:.6g}",
    )  # fmt: skip
    row, column = (str(d) for d in plane.dims)
    axes = tag("span", f"{row}↑ {column}→", class_="axes")
    scale = _scale_bar(width, bar or scale_bar_length(width), unit_symbol(unit_of(plane, column)))
    framed = tag("div", picture, scale, axes, class_="plane")
    return tag("figure", framed, tag("figcaption", caption), style=f"flex:{width:.6g} 1 0")


def _scale_bar(width: float, length: float, unit: str) -> Html:
    """Return a bar of ``length`` on an image of ``width``."""
    line = tag("i", style=f"width:{100 * length / width:.4g}%")
    return tag("span", line, tag("b", f"{length:g} {unit}"), class_="bar")


def _downsampled(plane: xr.DataArray) -> xr.DataArray:
    """Return block means of a plane, at most ``MAX_PIXELS`` pixels a side."""
    factor = {d: ceil(n / MAX_PIXELS) for d, n in plane.sizes.items() if n > MAX_PIXELS}
    if not factor:
        return plane
    block_means: xr.DataArray = plane.coarsen(factor, boundary="trim").mean()
    return block_means


def _png(plane: xr.DataArray, cmap: str, limits: tuple[float, float] | None) -> str:
    """Return a plane as the data URL of a PNG, black and white at ``limits``."""
    low, high = limits or contrast_limits(plane.values)
    png = BytesIO()
    imsave(png, plane.values, cmap=cmap, vmin=low, vmax=high, origin="lower", format="png")
    return _data_url(png.getvalue())


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def row(*images: Html) -> Html:
    """Return images in a row, at one scale."""
    return tag("div", *images, class_="row")


def chart(draw: Callable[[Axes], Axes], caption: object, alt: str) -> Html:
    """Return a chart as SVG in the page, its text in the colour of the page's text."""
    figure = draw(new_axes(7.6, 3.9)).get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("draw must return axes of a figure")
    _set_text_colour(figure.findobj(), TEXT)
    svg = StringIO()
    with rc_context({"svg.hashsalt": alt}):  # names of its parts do not vary between runs
        figure.savefig(svg, transparent=True, format="svg")
    picture = tag("div", Html(_inline(svg.getvalue())), role="img", aria_label=alt)
    return tag("figure", picture, tag("figcaption", caption), class_="chart")


def _inline(svg: str) -> str:
    """Return an SVG file as an element of a page: without its prologue, metadata and addresses."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)
    return element.replace(TEXT, "currentColor").replace("xlink:href", "href")


def _set_text_colour(artists: Iterable[Artist], colour: str) -> None:
    """Give text, ticks and frames one colour; data keep theirs."""
    for artist in artists:
        if isinstance(artist, Axes):
            artist.tick_params(colors=colour, which="both")
            artist.spines[:].set_edgecolor(colour)
        elif isinstance(artist, Text) and artist.get_color() in ("black", "k"):
            artist.set_color(colour)


def ramp(cmap: str, limits: tuple[float, float]) -> Html:
    """Return a colour bar with the values at its ends."""
    low, high = limits
    strip = xr.DataArray([[n / 63 for n in range(64)]], dims=("y", "x"))
    image = tag("img", src=_png(strip, cmap, (0, 1)), alt="colour scale")
    return tag("div", f"{low:.4g}", image, f"{high:.4g}", class_="ramp")
