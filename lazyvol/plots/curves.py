"""Curves: correlations, scores of particles, histograms, metrics against the fraction of signal."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from lazyvol.arguments import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.plots.canvas import AMBER, BLUE, CYCLE, GREEN, GREY, RED, new_axes, style_curve
from lazyvol.summary import unit_symbol

#: colours of Fourier shell correlations; red is that of the cutoffs
FSC_COLOURS = (BLUE, GREEN, AMBER, GREY)


@operation
def correlation(curve: xr.Dataset, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """Computes and draws a correlation along one dim, with its confidence band.

    Parameters
    ----------
    curve
        ``correlation`` and, if known, ``lower`` and ``upper``, all over one dim, as
        ``scores.profile`` returns them.
    label
        Name of the curve in the legend, to compare several.
    ax
        Axes to draw on; by default those of a new figure. Each curve on the same axes gets its own
        colour.

    Returns
    -------
    matplotlib.axes.Axes
        The correlation against the position along the dim, in its unit.

    Raises
    ------
    LabelError
        If the dataset has no ``correlation``, or this has not exactly one dim.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> curve = xr.Dataset({"correlation": ("z", np.linspace(1, 0, 5))})
    >>> plots.correlation(curve).get_xlabel()
    'z'
    """
    dim = _only_dim(curve, "correlation", "curve")
    curve = curve.compute()
    places = _positions(curve, dim)
    ax = style_curve(ax or new_axes(6.0, 3.4))
    earlier = sum(line.get_gid() == "correlation" for line in ax.lines)
    colour = CYCLE[earlier % len(CYCLE)]
    has_band = {"lower", "upper"} <= set(curve)
    if has_band:
        level = curve.attrs.get("confidence")
        name = "confidence band" if level is None else f"{float(level):.0%} confidence band"
        name = "_nolegend_" if label else name
        lower, upper = curve["lower"].values, curve["upper"].values
        ax.fill_between(places, lower, upper, color=colour, alpha=0.22, lw=0, label=name)
    if not earlier:
        ax.axhline(0, color=GREY, lw=0.8)
    values = curve["correlation"].values
    ax.plot(places, values, color=colour, lw=1.6, label=label, gid="correlation")
    if label or has_band:
        ax.legend(frameon=False, fontsize=8)
    ax.set_xlabel(_dim_label(curve, dim))
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
    """Computes and draws one score per particle, in the order of the particles.

    Parameters
    ----------
    values
        (k,), the scores.
    flagged
        (k,), boolean: particles to mark in another colour.
    threshold
        Score at which to draw a line, in the unit of ``values``.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        One dot per particle.

    Raises
    ------
    LabelError
        If ``values`` has not exactly one dim, or ``flagged`` is not boolean and of its shape.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> ncc = xr.DataArray(np.array([0.5, 0.1, 0.6]), dims="k", name="ncc")
    >>> plots.scores(ncc, flagged=ncc < 0.2, threshold=0.2).get_ylabel()
    'ncc'
    """
    dim = _only_dim(values, None, "scores: values")
    heights, places = values.compute().values, np.arange(values.sizes[dim])
    marked = _flags(values, flagged, "scores")
    ax = style_curve(ax or new_axes(6.4, 3.4))
    size = float(np.clip(6000 / max(1, len(places)), 3, 22))
    ax.scatter(places[~marked], heights[~marked], s=size, color=BLUE, lw=0, alpha=0.65)
    ax.scatter(places[marked], heights[marked], s=size, color=RED, lw=0, label="flagged")
    _draw_threshold(ax, threshold, vertical=False)
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
    """Computes and draws the histogram of an array.

    Parameters
    ----------
    values
        Array of any dims. Values that are not finite are left out; the label of the axis has
        their number.
    bins
        Number of bins of equal width; by default the square root of the number of values, from 10
        to 80.
    flagged
        Boolean, with the shape of ``values``: the flagged ones are stacked on the others in another
        colour.
    threshold
        Value at which to draw a line, in the unit of ``values``.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The number of values in each bin.

    Raises
    ------
    LabelError
        If ``flagged`` is not boolean and of the shape of ``values``.
    OptionError
        If ``bins`` is less than 1.

    References
    ----------
    ``numpy.histogram``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> ncc = xr.DataArray(np.random.default_rng(0).normal(size=500), dims="k", name="ncc")
    >>> plots.histogram(ncc).get_xlabel()
    'ncc'
    """
    if bins is not None and bins < 1:
        raise OptionError(f"histogram: bins must be 1 or more, got {bins}; leave it out to choose")
    flat = values.compute().values.ravel()
    flat = flat.astype(np.uint8) if flat.dtype == bool else flat
    finite = np.isfinite(flat)
    marked = _flags(values, flagged, "histogram").ravel()
    parts = [flat[finite & ~marked], flat[finite & marked]]
    count = bins or int(np.clip(np.sqrt(max(1, finite.sum())), 10, 80))
    ax = style_curve(ax or new_axes(6.4, 3.4))
    if finite.any():
        edges = np.histogram_bin_edges(flat[finite], count).tolist()
        ax.hist(parts, edges, stacked=True, color=[BLUE, RED], label=["kept", "flagged"], lw=0)
    _draw_threshold(ax, threshold, vertical=True)
    if marked.any():
        ax.legend(frameon=False, fontsize=8)
    omitted = "" if finite.all() else f" ({int((~finite).sum())} not finite, left out)"
    ax.set_xlabel(f"{values.name or 'value'}{omitted}")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    ax.set_ylabel("number")
    return ax


@operation
def alpha_sweep(metrics: xr.Dataset, *, dim: str = "alpha", ax: Axes | None = None) -> Axes:
    """Computes and draws metrics against the fraction of signal, one line for each.

    Parameters
    ----------
    metrics
        Arrays over ``dim``; if they have other dims, the median over these is drawn, with a band
        from the 5th to the 95th percentile.
    dim
        Dim of the horizontal axis.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        One line per metric, named in the legend.

    Raises
    ------
    LabelError
        If a metric lacks ``dim``.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> alpha = np.linspace(0, 1, 5)
    >>> metrics = xr.Dataset({"ncc": ("alpha", alpha)}, {"alpha": alpha})
    >>> plots.alpha_sweep(metrics).get_xlabel()
    'alpha'
    """
    metrics = metrics.compute()
    ax = style_curve(ax or new_axes(6.0, 3.6))
    for n, (name, values) in enumerate(metrics.items()):
        if dim not in values.dims:
            raise LabelError(
                f"alpha_sweep: metrics must have the dim {dim!r}, got {tuple(values.dims)} of "
                f"{name!r}; pass dim=, or leave it out"
            )
        _draw_median(ax, values.transpose(dim, ...), dim, CYCLE[n % len(CYCLE)])
    ax.set_xlabel(_dim_label(metrics, dim))
    ax.set_ylabel("metric")
    ax.legend(frameon=False, fontsize=8)
    return ax


@operation(dims={"curve": (("frequency",),)})
def fsc(
    curve: xr.DataArray | xr.Dataset,
    *,
    cutoffs: Sequence[float] = (0.143, 0.5),
    ax: Axes | None = None,
) -> Axes:
    """Computes and draws Fourier shell correlations against the spatial frequency.

    Parameters
    ----------
    curve
        (frequency,), with frequencies in 1 / length; a Dataset draws one curve for each variable,
        with a legend. The shell at frequency 0 is left out: it holds the mean alone, and its
        correlation is 1 or -1.
    cutoffs
        Correlations at which to draw lines.
    ax
        Axes to draw on; by default those of a new figure. A second scale on top gives the lengths.

    Returns
    -------
    matplotlib.axes.Axes
        The correlation of each shell.

    Raises
    ------
    LabelError
        If ``curve`` has not exactly one dim.

    References
    ----------
    Rosenthal, P. B. and Henderson, R. (2003), J. Mol. Biol. 333, 721-745, for the cutoff 0.143.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from lazyvol import plots
    >>> frequency = xr.Variable("frequency", np.linspace(0, 0.1, 6), {"units": "1/angstrom"})
    >>> curve = xr.DataArray(np.linspace(1, 0, 6), {"frequency": frequency}, ["frequency"])
    >>> plots.fsc(curve).get_xlabel()
    'spatial frequency (1/Å)'
    """
    dim = _only_dim(curve, None, "fsc: curve")
    curve = curve.isel({dim: _positions(curve, dim) > 0}).compute()
    frequencies = np.asarray(_positions(curve, dim), np.float64)
    if not frequencies.size:
        raise LabelError("fsc: curve must have a frequency above 0, got none; pass a whole curve")
    ax = style_curve(ax or new_axes(6.4, 3.4))
    ax.axhline(0, color=GREY, lw=0.8)
    for cutoff in cutoffs:
        ax.axhline(cutoff, color=RED, lw=0.9, ls=(0, (4, 3)))
        ax.annotate(  # beside the axes, where no legend covers it
            f"{cutoff:g}", (1, cutoff), (4, 0), xycoords=ax.get_yaxis_transform(), va="center",
            textcoords="offset points", color=RED, fontsize=8,
        )  # fmt: skip
    curves = {None: curve} if isinstance(curve, xr.DataArray) else dict(curve.items())
    for (name, values), colour in zip(curves.items(), cycle(FSC_COLOURS)):
        ax.plot(frequencies, values.values, color=colour, lw=1.6, marker="o", ms=2.6, label=name)
    if None not in curves:
        ax.legend(frameon=False, fontsize=8)
    lowest = min(float(np.nanmin(c.values, initial=0)) for c in curves.values())
    unit = unit_symbol(str(curve[dim].attrs.get("units", "voxel")).removeprefix("1/"))
    ax.set_xlabel(f"spatial frequency (1/{unit})")
    ax.set_ylabel("Fourier shell correlation")
    ax.set_ylim(min(-0.1, lowest - 0.05), 1.05)
    ax.set_xlim(0, frequencies[-1])
    _draw_length_scale(ax, unit)
    return ax


def _draw_length_scale(ax: Axes, unit: str) -> None:
    """Add a second scale on top, with the lengths of the frequencies."""
    top = ax.twiny()
    top.set_xlim(ax.get_xlim())
    ticks = [t for t in ax.get_xticks() if 0 < t <= ax.get_xlim()[1]]
    top.set_xticks(ticks, [f"{1 / t:.3g}" for t in ticks])
    top.set_xlabel(f"length ({unit})", fontsize=8)
    top.tick_params(labelsize=8)
    top.spines[["top", "right"]].set_visible(False)


def _draw_median(ax: Axes, values: xr.DataArray, dim: str, colour: str) -> None:
    """Draw the median over all dims but ``dim``, with a band of the 5th to 95th percentile."""
    places, table = _positions(values, dim), values.values.reshape(values.sizes[dim], -1)
    if table.shape[1] > 1:
        low, high = np.nanpercentile(table, (5, 95), axis=1)
        ax.fill_between(places, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(places, np.nanmedian(table, axis=1), color=colour, lw=1.6, label=str(values.name))


def _draw_threshold(ax: Axes, threshold: float | None, *, vertical: bool) -> None:
    if threshold is None or not np.isfinite(threshold):
        return
    line = ax.axvline if vertical else ax.axhline
    line(threshold, color=GREY, lw=1.1, ls=(0, (4, 3)), label=f"threshold {threshold:.4g}")


def _flags(values: xr.DataArray, flagged: xr.DataArray | None, op: str) -> np.ndarray:
    """Return a flag per value, by default all False."""
    if flagged is None:
        return np.zeros(values.shape, bool)
    if flagged.shape != values.shape or flagged.dtype != bool:
        raise LabelError(
            f"{op}: flagged must be boolean and of the shape {values.shape}, got "
            f"{flagged.dtype=} and {flagged.shape=}; compare the values, e.g. values > 0.2"
        )
    return np.asarray(flagged.compute().values, bool)


def _only_dim(array: xr.Dataset | xr.DataArray, name: str | None, subject: str) -> str:
    """Return the dim of a curve, which is the variable ``name`` of a dataset, or an array."""
    if name is not None and name not in array:
        raise LabelError(
            f"{name}: {subject} must have the variable {name!r}, got {sorted(map(str, array))}; "
            f"rename one"
        )
    dims = array.dims if name is None else array[name].dims
    if len(dims) != 1:
        raise LabelError(f"{subject} must have one dim, got {tuple(dims)}; select along the others")
    return str(next(iter(dims)))


def _positions(array: xr.Dataset | xr.DataArray, dim: str) -> np.ndarray:
    """Return the coordinate of a dim, by default 0, 1, 2, ..."""
    return array[dim].values if dim in array.coords else np.arange(array.sizes[dim])


def _dim_label(array: xr.Dataset | xr.DataArray, dim: str) -> str:
    """Return the name of a dim, with the unit of its coordinate."""
    unit = array[dim].attrs.get("units") if dim in array.coords else None
    return dim if unit is None else f"{dim} ({unit_symbol(str(unit))})"
