"""Pictures of a report: small PNG files inside the page, with scale bars made of HTML."""

from base64 import b64encode
from collections.abc import Callable, Iterable
from io import BytesIO
from math import ceil

import xarray as xr
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from lazyvol.plots.canvas import contrast_limits, image_extent, new_axes, scale_bar_length
from lazyvol.screening.report.markup import Html, join, tag
from lazyvol.stack import unit_of
from lazyvol.summary import sign_of

#: pixels along an image of the page beyond which voxels are averaged
WIDEST = 512

#: ink of charts on a light and on a dark page
LIGHT, DARK = "#30353b", "#d5d9de"


def plane_image(
    plane: xr.DataArray,
    caption: object,
    *,
    cmap: str = "gray",
    limits: tuple[float, float] | None = None,
    bar: float | None = None,
    alt: str = "",
) -> Html:
    """A plane (row, column) as an image of its physical proportions, rows growing upwards.

    ``bar`` is the length of the scale bar in the unit of the coordinates.
    """
    left, right, bottom, top = image_extent(plane)
    width, height = abs(right - left), abs(top - bottom)
    picture = tag(
        "img", src=_png(_shrunk(plane), cmap, limits), alt=alt or str(caption), loading="lazy",
        style=f"aspect-ratio:{width:.6g}/{height:.6g}",
    )  # fmt: skip
    row, column = (str(d) for d in plane.dims)
    axes = tag("span", f"{row}↑ {column}→", class_="axes")
    scale = _scale_bar(width, bar or scale_bar_length(width), sign_of(unit_of(plane, column)))
    framed = tag("div", picture, scale, axes, class_="plane")
    return tag("figure", framed, tag("figcaption", caption), style=f"flex:{width:.6g} 1 0")


def _scale_bar(width: float, length: float, unit: str) -> Html:
    line = tag("i", style=f"width:{100 * length / width:.4g}%")
    return tag("span", line, tag("b", f"{length:g} {unit}"), class_="bar")


def _shrunk(plane: xr.DataArray) -> xr.DataArray:
    """A plane of at most ``WIDEST`` pixels a side: blocks of voxels become their mean."""
    factor = {d: ceil(n / WIDEST) for d, n in plane.sizes.items() if n > WIDEST}
    if not factor:
        return plane
    small: xr.DataArray = plane.coarsen(factor, boundary="trim").mean()
    return small


def _png(plane: xr.DataArray, cmap: str, limits: tuple[float, float] | None) -> str:
    low, high = limits or contrast_limits(plane.values)
    memory = BytesIO()
    imsave(memory, plane.values, cmap=cmap, vmin=low, vmax=high, origin="lower", format="png")
    return _address(memory.getvalue())


def _address(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def row(*images: Html) -> Html:
    """Images beside each other, at one scale."""
    return tag("div", *images, class_="row")


def chart(draw: Callable[[Axes], Axes], caption: object, alt: str) -> Html:
    """A chart in two versions, one for a light and one for a dark page."""
    light, dark = (_chart_png(draw, ink) for ink in (LIGHT, DARK))
    picture = tag(
        "picture",
        tag("source", srcset=dark, media="(prefers-color-scheme: dark)"),
        tag("img", src=light, alt=alt, loading="lazy"),
    )
    return tag("figure", picture, tag("figcaption", caption), class_="chart")


def charts(*figures: Html) -> Html:
    """Charts beside each other where the page is wide enough."""
    return tag("div", join(*figures), class_="charts")


def _chart_png(draw: Callable[[Axes], Axes], ink: str) -> str:
    figure = draw(new_axes(5.6, 3.3)).get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("a chart draws on the axes of a figure")
    _inked(figure.findobj(), ink)
    memory = BytesIO()
    figure.savefig(memory, dpi=150, transparent=True, format="png")
    return _address(memory.getvalue())


def _inked(artists: Iterable[Artist], ink: str) -> None:
    """Text, ticks and frames in one colour; what shows data keeps its own."""
    for artist in artists:
        if isinstance(artist, Axes):
            artist.tick_params(colors=ink, which="both")
            artist.spines[:].set_edgecolor(ink)
        elif isinstance(artist, PathCollection):
            artist.set_rasterized(True)
        elif isinstance(artist, Text) and artist.get_color() in ("black", "k"):
            artist.set_color(ink)


def ramp(cmap: str, limits: tuple[float, float]) -> Html:
    """A colour bar with the values of its ends."""
    low, high = limits
    strip = xr.DataArray([[n / 63 for n in range(64)]], dims=("y", "x"))
    image = tag("img", src=_png(strip, cmap, (0, 1)), alt="colour scale")
    return tag("div", f"{low:.4g}", image, f"{high:.4g}", class_="ramp")
