"""The explorer: linked planes of any lazy array, results over them, and a table of particles.

A page of Panel and Bokeh, in a notebook or served to a browser of this machine. What is on the
screen is computed, and nothing else.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import FormatError, LabelError
from lazyvol.stack import STACK, as_stack, require_stack, spatial_dims

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lazyvol.explorer.page import Contents
    from lazyvol.explorer.server import ExplorerServer

__all__ = ["Explorer", "explore"]


@operation(unchecked=("obj", "results", "overlay", "particles"))
def explore(
    obj: Any,
    results: xr.DataArray | xr.Dataset | Mapping[str, xr.DataArray] | None = None,
    *,
    overlay: Any = None,
    particles: xr.DataArray | xr.Dataset | None = None,
    title: str | None = None,
) -> "Explorer":
    """Shows three linked planes of a stack, of results, and of filters, computed on sight.

    In a notebook the explorer is shown as the value of a cell; ``show`` opens it in a browser.
    Sliders step along every dim, a click on a plane moves the point, and the keys on the page step,
    jump and change the contrast. Stacks (k, ...) can be averaged while particles are read; the
    particles that are flagged in the table do not count.

    Parameters
    ----------
    obj
        Volume (z, y, x), image (y, x), or either with more dims such as k or colours; a DataArray,
        or an array as for ``as_stack``. Lazy arrays stay lazy.
    results
        Results on the grid of ``obj``: a DataArray, a Dataset, or DataArrays by name. Each becomes
        a view; dims that ``obj`` lacks become one view per label.
    overlay
        Mask or labels (z, y, x), or with the dims of ``obj``, drawn in half-transparent colours.
    particles
        Table along k, such as the result of ``scores.screen``; ``flagged`` marks particles.
    title
        Heading of the page; by default the name of the array.

    Returns
    -------
    Explorer
        Shown by Jupyter; ``show()`` serves it to a browser.

    Raises
    ------
    LabelError
        If ``obj`` is no image or volume, a result is on another grid, or ``particles`` has another
        length along k.
    FormatError
        If Panel is not installed; ``lazyvol[explore]`` installs it.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.zeros((3, 8, 9, 10)), voxel_size=2.0, unit="angstrom")
    >>> explorer = lv.explore(stack, lv.filters.gaussian(stack, 1.0), title="zeros")
    >>> explorer
    Explorer of 'zeros': 3 x 8 x 9 x 10 (k, z, y, x), views values, result, Gaussian, ...
    """
    array = require_stack(obj) if isinstance(obj, xr.DataArray) else as_stack(obj)
    if len(spatial_dims(array)) not in (2, 3):
        raise LabelError(
            f"explore: obj must have two or three of the dims ('z', 'y', 'x'), got {array.dims}; "
            f"rename its dims"
        )
    _require_panel()
    from lazyvol.explorer.page import Contents
    from lazyvol.explorer.particles import Particles
    from lazyvol.explorer.planes import Planes
    from lazyvol.explorer.views import Views, on_the_grid

    if STACK in array.dims:
        table = Particles(array, particles)
    elif particles is not None:
        raise LabelError(
            f"explore: particles must be left out for an array without the dim k, got "
            f"{array.dims}; explore the stack"
        )
    else:
        table = None
    views = Views(array, on_the_grid(array, results))
    masks = {} if overlay is None else on_the_grid(array, _labelled(overlay, array))
    shown = next((Planes(mask, views.recent) for mask in masks.values()), None)
    return Explorer(Contents(views, shown, table, title or str(array.name or "stack")))


def _labelled(overlay: Any, array: xr.DataArray) -> xr.DataArray:
    """Return a mask or labels as a DataArray on the grid of ``array``."""
    if isinstance(overlay, xr.DataArray):
        return overlay
    values = as_stack(overlay)
    if any(values.sizes[d] != array.sizes.get(d) for d in values.dims):
        raise LabelError(
            f"explore: overlay must have the shape of the stack or of a volume in it, got "
            f"{dict(values.sizes)} for {dict(array.sizes)}; make it for this stack"
        )
    coords = {d: array.coords[d] for d in values.dims if d in array.coords}
    return values.drop_vars(list(values.coords)).assign_coords(coords)


class Explorer:
    """Linked planes of an array: shown by Jupyter, or served to a browser by ``show``."""

    def __init__(self, contents: "Contents") -> None:
        self.contents = contents

    def __repr__(self) -> str:
        array, names = self.contents.views.array, self.contents.views.names
        sizes = " x ".join(str(n) for n in array.shape)
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        dims = ", ".join(map(str, array.dims))
        return f"Explorer of {self.contents.title!r}: {sizes} ({dims}), views {shown}"

    def panel(self) -> Any:
        """Return the page as a viewable of Panel, to place it in an app of your own."""
        from lazyvol.explorer.page import Page

        return Page(self.contents).layout

    def figure(self, view: str = "values", *, sigma: float | None = None, **at: float) -> "Figure":
        """Computes the linked planes of a view, and draws them: a picture that a notebook keeps.

        Parameters
        ----------
        view
            Name of the view, as on the page.
        sigma
            Sigma of a filter, a length; two voxels by default.
        at
            The point: positions along z, y and x, by default the middle, and indices along other
            dims, by default 0, e.g. ``k=41``.

        Returns
        -------
        matplotlib.figure.Figure
            The planes across z, y and x; of an image one.

        Raises
        ------
        LabelError
            If there is no view or dim of that name, or a position is outside.
        """
        from lazyvol.explorer.picture import planes_figure

        return planes_figure(self.contents.views, view, sigma, at)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        _require_panel()
        return self.panel()._repr_mimebundle_(include, exclude)

    def show(self, *, port: int = 0, open_browser: bool = True) -> "ExplorerServer":
        """Serves the explorer on this machine, and opens it in the browser.

        The server listens on 127.0.0.1 alone, because anyone who reaches it can read the data.

        Parameters
        ----------
        port
            Port of the server; 0 for any that is free.
        open_browser
            If True, open the page.

        Returns
        -------
        ExplorerServer
            The server, which runs in a thread: ``url`` is the address of the page, and ``stop()``
            ends it.

        Raises
        ------
        StoreError
            If the port is in use.
        """
        from lazyvol.explorer.server import serve_in_thread

        return serve_in_thread(self.contents, port=port, open_browser=open_browser)


def _require_panel() -> None:
    """Load Panel's extension; raise FormatError if Panel is not installed."""
    try:
        import panel
    except ImportError as error:
        raise FormatError(
            "explore: Panel must be installed; run pip install 'lazyvol[explore]'"
        ) from error
    panel.extension("tabulator")
