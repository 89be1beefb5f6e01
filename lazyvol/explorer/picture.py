"""A static picture of a view: for saved notebooks, which do not keep the page."""

from collections.abc import Mapping
from typing import cast

from matplotlib.figure import Figure

from lazyvol.errors import LabelError
from lazyvol.explorer.views import Views
from lazyvol.plots.canvas import colour_dim
from lazyvol.plots.planes import orthogonal
from lazyvol.stack import spacing, spatial_dims


def planes_figure(views: Views, view: str, sigma: float | None, at: Mapping[str, float]) -> Figure:
    """Return the planes of a view through a point; a filter's sigma is two voxels by default."""
    if view not in views.names:
        raise LabelError(f"figure: view must be one of {', '.join(views.names)}, got {view!r}")
    spatial, colour = spatial_dims(views.array), colour_dim(views.array)
    if sigma is None:
        sigma = 2 * abs(spacing(views.array, spatial[-1]))
    array = views.shown(view, sigma)
    others = [str(d) for d in array.dims if d not in (*spatial, colour)]
    unknown = set(at) - {*spatial, *map(str, views.array.dims)} - {colour}
    if unknown:
        raise LabelError(
            f"figure: dims must be of {views.array.dims}, got {', '.join(sorted(unknown))}; "
            f"name positions by z, y, x and indices by the other dims"
        )
    volume = array.isel({d: int(at.get(d, 0)) for d in others}, drop=True)
    panels = orthogonal(volume, at={d: at[d] for d in spatial if d in at})
    return cast(Figure, panels[0].get_figure(root=True))
