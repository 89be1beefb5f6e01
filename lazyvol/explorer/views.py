"""The views of an explorer: the array, results of the user, and filters computed on sight."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments.rules import show_value
from lazyvol.errors import LabelError
from lazyvol.explorer.planes import Planes
from lazyvol.explorer.recent import Recent
from lazyvol.plots.canvas import colour_dim
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import require_stack, spatial_dims

#: name of the view of the array itself
VALUES = "values"


def _smoothed(stack: xr.DataArray, sigma: float) -> xr.DataArray:
    from lazyvol import filters

    return filters.gaussian(stack, sigma)


def _ridges(stack: xr.DataArray, sigma: float) -> xr.DataArray:
    from lazyvol import derivatives

    decreasing = derivatives.hessian_eigenvalues(stack, sigma=sigma)
    axis = next(str(d) for d in decreasing.dims if d not in stack.dims)
    return -decreasing.isel({axis: -1}, drop=True)


def _gradient(stack: xr.DataArray, sigma: float) -> xr.DataArray:
    from lazyvol import derivatives

    return derivatives.gradient_magnitude(stack, sigma=sigma)


#: filters of the array, computed for the slab on the screen alone
FILTERS: Mapping[str, Callable[[xr.DataArray, float], xr.DataArray]] = {
    "Gaussian": _smoothed,
    "Hessian ridges": _ridges,
    "gradient magnitude": _gradient,
}


@dataclass
class Views:
    """Planes of the array, of results on its grid, and of filters, each opened at its first use.

    All share one memory of what was read and computed last.
    """

    array: xr.DataArray
    results: Mapping[str, xr.DataArray] = field(default_factory=dict)
    recent: Recent = field(default_factory=Recent)
    _planes: dict[Any, Planes] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The names of all views; colours have no filters."""
        filters = [] if colour_dim(self.array) or self.array.dtype.kind == "c" else list(FILTERS)
        return [VALUES, *self.results, *filters]

    def planes(self, name: str, sigma: float) -> Planes:
        """Return the planes of a view; ``sigma``, a length, counts for filters alone."""
        key = (name, sigma if name in FILTERS else None)
        if key not in self._planes:
            self._planes[key] = Planes(self.shown(name, sigma), self.recent)
        return self._planes[key]

    def shown(self, name: str, sigma: float) -> xr.DataArray:
        """Return the lazy array of a view."""
        if name in self.results:
            return self.results[name]
        return FILTERS[name](self.array, sigma) if name in FILTERS else self.array

    def add(self, name: str, array: xr.DataArray) -> None:
        """Add or replace a result."""
        self.results = {**self.results, name: array}
        self._planes.pop((name, None), None)


def on_the_grid(array: xr.DataArray, results: Any) -> dict[str, xr.DataArray]:
    """Return results by name; raise LabelError unless each has the spatial grid of ``array``.

    Parameters
    ----------
    array
        The array that is explored.
    results
        A DataArray, a Dataset, or a mapping of names to DataArrays. Dims that only a result has
        (the axis of a gradient, say) are numbered, and become one view per label.
    """
    if results is None:
        return {}
    if isinstance(results, xr.DataArray):
        results = {str(results.name or "result"): results}
    named: dict[str, xr.DataArray] = {}
    if not isinstance(results, xr.Dataset | Mapping):
        raise LabelError(
            f"explore: results must be a DataArray, a Dataset or a mapping of names to DataArrays, "
            f"got {show_value(results)}; label it with lazyvol.as_stack(array)"
        )
    for name, result in results.items():
        result = require_stack(result)
        if spatial_dims(result) != spatial_dims(array):
            raise LabelError(
                f"explore: results must have the spatial dims {spatial_dims(array)}, got "
                f"{spatial_dims(result)} for {name!r}; explore it alone"
            )
        require_same_grid(array, result)
        named |= dict(_components(str(name), result, array))
    return named


def _components(
    name: str, result: xr.DataArray, array: xr.DataArray
) -> list[tuple[str, xr.DataArray]]:
    """Return a result without the dims that ``array`` lacks: one array per label of these."""
    extra = [d for d in result.dims if d not in array.dims]
    if not extra:
        return [(name, result)]
    stacked = [(f"{name} {_label(result, extra[0], n)}", result.isel({extra[0]: n}, drop=True))
               for n in range(result.sizes[extra[0]])]  # fmt: skip
    return [pair for label, part in stacked for pair in _components(label, part, array)]


def _label(result: xr.DataArray, dim: Any, n: int) -> str:
    label = result.coords[dim].values[n] if dim in result.coords else n
    return f"{label:g}" if isinstance(label, np.floating) else str(label)
