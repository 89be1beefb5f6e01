"""Curves of scores: against the particle, the fraction of signal, the position, the frequency."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from lazyvol.door import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.plots.canvas import BLUE, CYCLE, GREY, RED, new_axes, tidy
from lazyvol.stack import unit_of
from lazyvol.summary import sign_of


@operation
def correlation(curve: xr.Dataset, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Computes a correlation along one dim and draws it with its confidence band.

    Parameters
    ----------
    curve
        Dataset of ``correlation`` and, where known, ``lower`` and ``upper`` over one dim, as
        ``scores.profile`` gives it.
    label
        What the legend calls it, where several are compared.
    ax
        Axes to draw on; those of a new figure by default. Curves drawn on the same axes get
        colours of their own.

    Raises
    ------
    LabelError
        If the dataset has no ``correlation``, or it has not exactly one dim.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> found = xr.Dataset({"correlation": ("z", np.linspace(1, 0, 5))})
    >>> plots.correlation(found).get_xlabel()
    'z'
    """
    dim = _one_dim(curve, "correlation")
    found = curve.compute()
    places = _places(found, dim)
    ax = tidy(ax or new_axes(6.0, 3.4))
    before = sum(line.get_gid() == "correlation" for line in ax.lines)
    colour = CYCLE[before % len(CYCLE)]
    banded = {"lower", "upper"} <= set(found)
    if banded:
        level = found.attrs.get("confidence")
        name = "confidence band" if level is None else f"{float(level):.0%} confidence band"
        name = "_nolegend_" if label else name
        lower, upper = found["lower"].values, found["upper"].values
        ax.fill_between(places, lower, upper, color=colour, alpha=0.22, lw=0, label=name)
    if not before:
        ax.axhline(0, color=GREY, lw=0.8)
    values = found["correlation"].values
    ax.plot(places, values, color=colour, lw=1.6, label=label, gid="correlation")
    if label or banded:
        ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel(_label(found, dim))
    ax.set_ylabel("correlation")
    return ax


@operation(unbounded=("threshold",))
def scores(
    values: xr.DataArray,
    *,
    flagged: xr.DataArray | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Computes a score per particle and draws it against the particle.

    Parameters
    ----------
    values
        (k,).
    flagged
        (k,), boolean: particles to mark.
    threshold
        Score where the flagged begin, drawn as a line.
    ax
        Axes to draw on; those of a new figure by default.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> found = xr.DataArray(np.array([0.5, 0.1, 0.6]), dims="k", name="ncc")
    >>> plots.scores(found, flagged=found < 0.2, threshold=0.2).get_ylabel()
    'ncc'
    """
    dim = _one_dim(values, None)
    heights, places = values.compute().values, np.arange(values.sizes[dim])
    marked = _flags(values, flagged)
    ax = tidy(ax or new_axes(6.4, 3.4))
    size = float(np.clip(6000 / max(1, len(places)), 3, 22))
    ax.scatter(places[~marked], heights[~marked], s=size, color=BLUE, lw=0, alpha=0.65)
    ax.scatter(places[marked], heights[marked], s=size, color=RED, lw=0, label="flagged")
    _threshold(ax, threshold, upright=False)
    if marked.any():
        ax.legend(frameon=False, fontsize=8, loc="best", markerscale=2)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("particle")
    ax.set_ylabel(str(values.name or "score"))
    ax.margins(x=0.01)
    return ax


@operation(unbounded=("threshold",))
def histogram(
    values: xr.DataArray,
    *,
    bins: int | None = None,
    flagged: xr.DataArray | None = None,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Computes the values of an array and draws how often they occur.

    Parameters
    ----------
    values
        Any dims; values that are not finite are left out and counted in the label of the axis.
    bins
        Number of bins of equal width; by default as many as the square root of the number of
        values, from 10 to 80.
    flagged
        Boolean, as ``values``: these are stacked on the others in another colour.
    threshold
        Drawn as a line.
    ax
        Axes to draw on; those of a new figure by default.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> found = xr.DataArray(np.random.default_rng(0).normal(size=500), dims="k", name="ncc")
    >>> plots.histogram(found).get_xlabel()
    'ncc'
    """
    found = values.compute().values.ravel()
    finite = np.isfinite(found)
    marked = _flags(values, flagged).ravel()
    parts = [found[finite & ~marked], found[finite & marked]]
    if bins is not None and bins < 1:
        raise OptionError(f"histogram: bins must be a whole number of 1 or more, got {bins}")
    number = bins or int(np.clip(np.sqrt(max(1, finite.sum())), 10, 80))
    ax = tidy(ax or new_axes(6.4, 3.4))
    if finite.any():
        edges = np.histogram_bin_edges(found[finite], number).tolist()
        ax.hist(parts, edges, stacked=True, color=[BLUE, RED], label=["kept", "flagged"], lw=0)
    _threshold(ax, threshold, upright=True)
    if marked.any():
        ax.legend(frameon=False, fontsize=8)
    lost = "" if finite.all() else f" ({int((~finite).sum())} not finite, left out)"
    ax.set_xlabel(f"{values.name or 'value'}{lost}")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_ylabel("number")
    return ax


@operation
def alpha_sweep(metrics: xr.Dataset, *, dim: str = "alpha", ax: Axes | None = None) -> Axes:
    """Computes metrics against the fraction of signal and draws a line for each.

    Parameters
    ----------
    metrics
        Dataset of arrays over ``dim``, or over ``dim`` and others: of those the median is drawn,
        with a band from the 5th to the 95th percentile.
    dim
        The dim along the axis.
    ax
        Axes to draw on; those of a new figure by default.

    Raises
    ------
    LabelError
        If a metric has no ``dim``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> alpha = np.linspace(0, 1, 5)
    >>> found = xr.Dataset({"ncc": ("alpha", alpha)}, {"alpha": alpha})
    >>> plots.alpha_sweep(found).get_xlabel()
    'alpha'
    """
    found = metrics.compute()
    ax = tidy(ax or new_axes(6.0, 3.6))
    for n, (name, values) in enumerate(found.items()):
        if dim not in values.dims:
            raise LabelError(f"each metric has dim {dim!r}, {name!r} has {tuple(values.dims)}")
        _banded(ax, values.transpose(dim, ...), dim, CYCLE[n % len(CYCLE)])
    ax.set_xlabel(_label(found, dim))
    ax.set_ylabel("metric")
    ax.legend(frameon=False, fontsize=8)
    return ax


@operation(dims={"curve": (("frequency",),)})
def fsc(
    curve: xr.DataArray, *, cutoffs: Sequence[float] = (0.143, 0.5), ax: Axes | None = None
) -> Axes:
    """Computes a Fourier shell correlation and draws it against the spatial frequency.

    Parameters
    ----------
    curve
        (frequency,), the frequencies in one over a length. The shell at 0 is left out: it holds
        one number, the mean, and correlates as 1 or -1.
    cutoffs
        Values drawn as lines.
    ax
        Axes to draw on; those of a new figure by default. A second scale gives the lengths.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> frequency = xr.Variable("frequency", np.linspace(0, 0.1, 6), {"units": "1/angstrom"})
    >>> curve = xr.DataArray(np.linspace(1, 0, 6), {"frequency": frequency}, ["frequency"])
    >>> plots.fsc(curve).get_xlabel()
    'spatial frequency (1/Å)'
    """
    dim = _one_dim(curve, None)
    found = curve.isel({dim: _places(curve, dim) > 0}).compute()
    places = np.asarray(_places(found, dim), np.float64)
    ax = tidy(ax or new_axes(6.4, 3.4))
    ax.axhline(0, color=GREY, lw=0.8)
    for cutoff in cutoffs:
        ax.axhline(cutoff, color=RED, lw=0.9, ls=(0, (4, 3)))
        ax.annotate(
            f"{cutoff:g}", (0, cutoff), (4, 2), textcoords="offset points", color=RED, fontsize=8
        )
    ax.plot(places, found.values, color=BLUE, lw=1.6, marker="o", ms=2.6)
    unit = sign_of(unit_of(found, dim).removeprefix("1/"))
    ax.set_xlabel(f"spatial frequency (1/{unit})")
    ax.set_ylabel("Fourier shell correlation")
    ax.set_ylim(min(-0.1, float(np.nanmin(found.values, initial=0)) - 0.05), 1.05)
    ax.set_xlim(0, places[-1])
    _lengths(ax, unit)
    return ax


def _lengths(ax: Axes, unit: str) -> None:
    """A second scale on top: the lengths behind the frequencies."""
    top = ax.twiny()
    top.set_xlim(ax.get_xlim())
    ticks = [t for t in ax.get_xticks() if 0 < t <= ax.get_xlim()[1]]
    top.set_xticks(ticks, [f"{1 / t:.3g}" for t in ticks])
    top.set_xlabel(f"length ({unit})", fontsize=8)
    top.tick_params(labelsize=8)
    top.spines[["top", "right"]].set_visible(False)


def _banded(ax: Axes, values: xr.DataArray, dim: str, colour: str) -> None:
    places, table = _places(values, dim), values.values.reshape(values.sizes[dim], -1)
    if table.shape[1] > 1:
        low, high = np.nanpercentile(table, (5, 95), axis=1)
        ax.fill_between(places, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(places, np.nanmedian(table, axis=1), color=colour, lw=1.6, label=str(values.name))


def _threshold(ax: Axes, threshold: float | None, *, upright: bool) -> None:
    if threshold is None or not np.isfinite(threshold):
        return
    line = ax.axvline if upright else ax.axhline
    line(threshold, color=GREY, lw=1.1, ls=(0, (4, 3)), label=f"threshold {threshold:.4g}")


def _flags(values: xr.DataArray, flagged: xr.DataArray | None) -> np.ndarray:
    if flagged is None:
        return np.zeros(values.shape, bool)
    if flagged.shape != values.shape or flagged.dtype != bool:
        raise LabelError(
            f"flagged is boolean and of the shape {values.shape}, got "
            f"{flagged.dtype=} and {flagged.shape=}"
        )
    return np.asarray(flagged.compute().values, bool)


def _one_dim(found: xr.Dataset | xr.DataArray, name: str | None) -> str:
    if name is not None and name not in found:
        raise LabelError(f"the curve is in {name!r}, the dataset has {sorted(map(str, found))}")
    dims = found.dims if name is None else found[name].dims
    if len(dims) != 1:
        raise LabelError(f"a curve has one dim, got {tuple(dims)}")
    return str(next(iter(dims)))


def _places(found: xr.Dataset | xr.DataArray, dim: str) -> np.ndarray:
    return found[dim].values if dim in found.coords else np.arange(found.sizes[dim])


def _label(found: xr.Dataset | xr.DataArray, dim: str) -> str:
    unit = found[dim].attrs.get("units") if dim in found.coords else None
    return dim if unit is None else f"{dim} ({sign_of(str(unit))})"
