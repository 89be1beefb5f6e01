"""Statistics of every voxel along the stack, or over any dims, in one read of the data.

Results keep the other dims, their coordinates, the attributes and the name; the unit follows from
the statistic (variance: the unit squared). Floats keep their type, integers give float64. Sums are
carried in double-double arithmetic, so float32 results do not depend on chunks or threads.
"""

from builtins import sum as add
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.reductions import moments
from lazyvol.ops.stats import _histogram, _quantile
from lazyvol.ops.stats._quantile import Method
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import (
    ALL_SPATIAL,
    Dims,
    dataset_of,
    dims_of,
    float_of,
    reduces_split_axes,
    require_mask,
    with_units,
)

__all__ = [
    "count", "describe", "histogram", "max", "mean", "min",
    "norm", "quantile", "std", "sum", "var",
]  # fmt: skip


@operation
def mean(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Average over ``dim``.

    Parameters
    ----------
    stack
        Array of real numbers with any dims.
    dim
        Dim or dims to reduce; None reduces all of them.
    skipna
        Leave NaN out. By default one NaN makes its average NaN.
    mask
        Boolean, over any dims of the stack: only voxels where it is True count. All by default.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit; NaN where nothing counts.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``numpy.mean`` and ``numpy.nanmean``; sums as in Knuth, The Art of Computer Programming 2,
    section 4.2.2.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(24.0).reshape(2, 2, 2, 3))
    >>> lv.stats.mean(stack).values[0, 0]
    array([6., 7., 8.])
    """
    return _statistic("mean", stack, dim, skipna, mask)


@operation
def sum(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Sum over ``dim``.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit; 0 where nothing counts.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``numpy.sum`` and ``numpy.nansum``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.sum(lv.as_stack(np.ones((5, 2, 2, 3)))).values[0, 0]
    array([5., 5., 5.])
    """
    return _statistic("sum", stack, dim, skipna, mask)


@operation
def var(
    stack: xr.DataArray,
    dim: Dims = "k",
    *,
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Variance over ``dim``: the sum of squared deviations over ``n - ddof``, never negative.

    For float32 and integers of up to 16 bits the result is correctly rounded. For float64 it has
    all digits while the mean is below about 1e7 standard deviations (at 1e8, 21 units in the last
    place are lost, at 1e14 all: subtract an offset first), and while values are 0 or between about
    1e-140 and 1e150 in size. int64 beyond 2**53 is rounded when it is read.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.
    ddof
        Degrees of freedom to subtract from the number of values, 0 or more.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit squared; NaN where a mask or ``skipna`` leaves no more
        than ``ddof`` values.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.
    OptionError
        If ``ddof`` is negative, or ``dim`` has no more than ``ddof`` voxels.

    References
    ----------
    ``numpy.var`` and ``numpy.nanvar``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(4.0).reshape(4, 1, 1, 1) + 1e8)
    >>> lv.stats.var(stack, ddof=1).item()
    1.6666666666666667
    """
    return _statistic("var", stack, dim, skipna, mask, ddof=ddof)


@operation
def std(
    stack: xr.DataArray,
    dim: Dims = "k",
    *,
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Standard deviation over ``dim``: the square root of ``var``.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.
    ddof
        As for ``var``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit; NaN where ``var`` is.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.
    OptionError
        If ``ddof`` is negative, or ``dim`` has no more than ``ddof`` voxels.

    References
    ----------
    ``numpy.std`` and ``numpy.nanstd``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.std(lv.as_stack(np.array([1.0, 3.0]).reshape(2, 1, 1, 1))).item()
    1.0
    """
    return _statistic("std", stack, dim, skipna, mask, ddof=ddof)


@operation
def min(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Minimum over ``dim``, in the stack's own dtype.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``. Where a mask leaves nothing, NaN for floats, the largest value of the
        dtype for integers.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, ``dim`` has length 0 and the dtype is an integer, or the mask is
        not boolean or does not fit the stack.

    References
    ----------
    ``numpy.min`` and ``numpy.nanmin``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.min(lv.as_stack(np.arange(6).reshape(3, 1, 1, 2))).values.ravel()
    array([0, 1])
    """
    return _statistic("min", stack, dim, skipna, mask)


@operation
def max(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Maximum over ``dim``, in the stack's own dtype.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``. Where a mask leaves nothing, NaN for floats, the smallest value of the
        dtype for integers.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, ``dim`` has length 0 and the dtype is an integer, or the mask is
        not boolean or does not fit the stack.

    References
    ----------
    ``numpy.max`` and ``numpy.nanmax``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.max(lv.as_stack(np.arange(6).reshape(3, 1, 1, 2))).values.ravel()
    array([4, 5])
    """
    return _statistic("max", stack, dim, skipna, mask)


@operation
def count(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = True, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Number of values over ``dim`` that are in the mask and, by default, not NaN.

    Parameters
    ----------
    stack, dim, mask
        As for ``mean``.
    skipna
        Leave NaN out (the default).

    Returns
    -------
    xarray.DataArray
        int64 without ``dim`` and without a unit.

    Raises
    ------
    LabelError
        If the stack lacks ``dim``, or the mask is not boolean or does not fit the stack.

    References
    ----------
    ``xarray.DataArray.count``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.count(lv.as_stack(np.array([1, np.nan, 2]).reshape(3, 1, 1, 1))).item()
    2
    """
    return _statistic("count", stack, dim, skipna, mask)


@operation(unbounded=("ord",))
def norm(
    stack: xr.DataArray,
    dim: Dims = ALL_SPATIAL,
    *,
    ord: float = 2,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Vector norm over ``dim``, by default of every volume.

    Parameters
    ----------
    stack, skipna, mask
        As for ``mean``.
    dim
        Dim or dims to reduce, the spatial ones by default; None reduces all of them.
    ord
        1, 2 or infinity. For order 2, magnitudes of float64 values must be at most 1e154, whose
        squares are in the range of the type; small ones of any size count.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit.

    Raises
    ------
    LabelError
        If ``ord`` is another number, the stack lacks ``dim``, or the mask is not boolean or does
        not fit the stack.

    References
    ----------
    ``numpy.linalg.norm``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.norm(lv.as_stack(np.array([3.0, 4.0]).reshape(1, 1, 1, 2))).values
    array([5.])
    """
    if ord not in NORMS:
        raise LabelError(f"norm: ord must be one of {list(NORMS)}, got {ord=}")
    statistic = NORMS[ord]
    return _statistic(statistic, stack, dim, skipna, mask, absolute=ord != 2, op="norm").rename(
        stack.name
    )


#: statistic of the absolute values that is the norm of an order
NORMS = {1: "sum", 2: "norm", np.inf: "max"}


@operation
def describe(
    stack: xr.DataArray,
    dim: Dims = "k",
    *,
    statistics: Sequence[str] = ("mean", "var", "min", "max", "norm"),
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.Dataset:
    """Dataset of several statistics from one read of the data.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.
    statistics
        Names among sum, mean, var, std, min, max, norm (of order 2) and count.
    ddof
        As for ``var``.

    Returns
    -------
    xarray.Dataset
        A variable for each statistic, as its function of this module returns it.

    Raises
    ------
    LabelError
        If a statistic is unknown or there is none, the stack lacks ``dim``, or the mask is not
        boolean or does not fit the stack.
    OptionError
        If ``ddof`` is negative, or ``dim`` has no more than ``ddof`` voxels.

    References
    ----------
    ``scipy.stats.describe``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> result = lv.stats.describe(lv.as_stack(np.arange(8.0).reshape(2, 1, 1, 4)))
    >>> {name: float(result[name][0, 0, 0]) for name in result}
    {'mean': 2.0, 'var': 4.0, 'min': 0.0, 'max': 4.0, 'norm': 4.0}
    """
    unknown = [name for name in statistics if name not in STATISTICS]
    if unknown or not statistics:
        raise LabelError(
            f"describe: statistics must be names among {tuple(STATISTICS)}, got {tuple(statistics)}"
        )
    names = tuple(statistics)
    return dataset_of(_statistics("describe", names, stack, dim, skipna, mask, ddof=ddof))


@operation
def quantile(
    stack: xr.DataArray,
    q: float | Iterable[float],
    dim: Dims = "k",
    *,
    method: Method = "linear",
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Quantiles over ``dim``, exact, interpolated in float64.

    Over dims that each block holds whole, e.g. z, y, x of every particle, the data are read once
    and sorted. Otherwise they are read once for each digit of the values' bits (float32 along k:
    8 times for volumes of 200^3, 2 to 4 times for 30^3), in memory that does not grow with the
    stack.

    Parameters
    ----------
    stack, dim, skipna, mask
        As for ``mean``.
    q
        One number or several, each from 0 to 1.
    method
        Place of a quantile among the sorted values, by the names of ``numpy.quantile``: between the
        two next to it (``"linear"``), or one of them (``"lower"``, ``"higher"``, ``"nearest"``) or
        their mean (``"midpoint"``); or as an estimate for a population: ``"inverted_cdf"``,
        ``"averaged_inverted_cdf"``, ``"closest_observation"``, ``"interpolated_inverted_cdf"``,
        ``"hazen"``, ``"weibull"``, ``"median_unbiased"``, ``"normal_unbiased"``.

    Returns
    -------
    xarray.DataArray
        Without ``dim``, in the stack's unit; NaN where nothing counts. Several ``q`` add
        ``quantile`` as the last dim, with a coordinate.

    Raises
    ------
    LabelError
        If ``q`` is empty or outside [0, 1], the stack lacks ``dim``, or the mask is not boolean or
        does not fit the stack.

    References
    ----------
    ``numpy.quantile`` and ``numpy.nanquantile``. R. J. Hyndman, Y. Fan, "Sample quantiles in
    statistical packages", The American Statistician 50, 1996.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1, 1))
    >>> lv.stats.quantile(stack, 0.5).item()
    3.0
    >>> lv.stats.quantile(stack, (0.0, 0.25, 1.0)).values.ravel()
    array([1.  , 1.75, 8.  ])
    >>> lv.stats.quantile(stack, 0.3, method="higher").item()
    2.0
    """
    return _quantile.quantile(_operands("quantile", stack, mask), q, dim, method, skipna)


@operation
def histogram(
    stack: xr.DataArray,
    *,
    bins: int | Sequence[float] = 256,
    range: tuple[float, float] | None = None,
    dim: Dims = None,
    mask: xr.DataArray | None = None,
    weights: xr.DataArray | None = None,
) -> xr.Dataset:
    """Counts of values, or sums of their weights, in bins over ``dim``.

    NaN and values outside the range are not counted; the last bin includes its right edge.

    Parameters
    ----------
    stack, mask
        As for ``mean``.
    bins
        Number of bins of equal width, 1 or more, or their rising edges in the stack's unit.
    range
        First and last edge in the stack's unit. By default the smallest and the largest finite
        value of the whole stack, which takes a second read.
    dim
        Dim or dims to count over; None, the default, counts over all of them.
    weights
        Weight of every voxel, over any dims of the stack: bins hold sums of weights.

    Returns
    -------
    xarray.Dataset
        ``counts`` (kept dims, ``bin``), int64, and ``edges`` (``edge``), float64, which all kept
        elements share. ``bin`` has a coordinate, the centres, where ``range`` or edges are given.
        Sums have the weights' float dtype and unit, and do not depend on chunks.

    Raises
    ------
    LabelError
        If ``bins`` is less than 1 or edges do not rise, ``range`` is not finite and rising, too
        narrow for the bins or given besides edges, the stack lacks ``dim``, or the mask or the
        weights do not fit the stack.

    References
    ----------
    ``numpy.histogram``.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 1.5, 4.0]).reshape(4, 1, 1, 1))
    >>> histogram = lv.stats.histogram(stack, bins=4)
    >>> histogram.counts.values, histogram.edges.values
    (array([1, 2, 0, 1]), array([0., 1., 2., 3., 4.]))
    >>> lv.stats.histogram(stack, bins=(0, 1, 4), weights=stack).counts.values
    array([0. , 6.5])
    """
    operands = _operands("histogram", stack, mask)
    return _histogram.histogram(operands, weights, bins, range, dim)


#: parts of the kernel's state that a statistic needs, its name in the kernel, power of its unit
STATISTICS: Mapping[str, tuple[tuple[str, ...], str, int]] = {
    "sum": (("sum",), "sum", 1),
    "mean": (("sum",), "mean", 1),
    "var": (("sum", "square"), "var", 2),
    "std": (("sum", "square"), "std", 1),
    "norm": (("square",), "norm", 1),
    "min": (("low",), "low", 1),
    "max": (("high",), "high", 1),
    "count": (("count",), "count", 0),
}


def _operands(op: str, stack: xr.DataArray, mask: xr.DataArray | None) -> tuple[xr.DataArray, ...]:
    return (stack,) if mask is None else (stack, require_mask(f"{op}: mask", mask))


def _statistic(
    name: str,
    stack: xr.DataArray,
    dim: Dims,
    skipna: bool,
    mask: xr.DataArray | None,
    *,
    ddof: int = 0,
    absolute: bool = False,
    op: str | None = None,
) -> xr.DataArray:
    return _statistics(op or name, (name,), stack, dim, skipna, mask, ddof=ddof, absolute=absolute)[
        name
    ]


def _statistics(
    op: str,
    names: tuple[str, ...],
    stack: xr.DataArray,
    dim: Dims,
    skipna: bool,
    mask: xr.DataArray | None,
    *,
    ddof: int = 0,
    absolute: bool = False,
) -> dict[str, xr.DataArray]:
    """Return statistics by name, all from one fold; ``absolute`` takes those of absolute values."""
    dims = dims_of(stack, dim, subject=f"{op}: dim")
    n = prod(stack.sizes[d] for d in dims)
    free = _degrees_of_freedom(op, ddof, n if {"var", "std"} & set(names) else None)
    if {"min", "max"} & set(names) and not absolute:
        _require_extremes(op, stack, dims, n)
    spec = statistics_fold(
        op, names, stack.dtype, n, ddof=free,
        counted=skipna or mask is not None or "count" in names, skipna=skipna, absolute=absolute,
    )  # fmt: skip
    if reduces_split_axes(stack, dims):
        spec = replace(spec, scratch=spec.scratch + stack.dtype.itemsize)
    outputs = fold(spec, *_operands(op, stack, mask), dims=dims, title="-".join(names))
    statistics = {name: outputs[STATISTICS[name][1]] for name in names}
    for name, array in statistics.items():
        array.attrs = with_units(stack, STATISTICS[name][2])
    return statistics


def _degrees_of_freedom(op: str, ddof: int, n: int | None) -> int:
    """Return ``ddof``; raise OptionError if ``n`` values leave no degree of freedom."""
    if ddof < 0:
        raise OptionError(
            f"{op}: ddof must be a whole number of 0 or more, got {ddof!r}; pass 0 or 1"
        )
    if n is not None and ddof > 0 and n <= ddof:
        raise OptionError(
            f"{op}: ddof must be less than the number of values, got {ddof=} of {n}; reduce a "
            f"longer dim or pass ddof=0"
        )
    return ddof


def _require_extremes(op: str, stack: xr.DataArray, dims: Iterable[str], n: int) -> None:
    """Raise LabelError for an extreme of zero integers, because integers have no missing value."""
    if not n and stack.dtype.kind != "f":
        raise LabelError(
            f"{op}: dim must hold a value, got length 0 along {tuple(dims)} of "
            f"{dict(stack.sizes)}; select something, or reduce floats, which give NaN"
        )


def statistics_fold(
    op: str,
    names: tuple[str, ...],
    dtype: np.dtype[Any],
    n: int,
    *,
    ddof: int = 0,
    counted: bool = False,
    skipna: bool = False,
    absolute: bool = False,
    result: np.dtype[Any] | None = None,
) -> Fold:
    """Return the fold of some statistics of ``n`` values of ``dtype`` each, for an operation.

    ``counted`` counts the values that are reduced, where they may be fewer than ``n``; ``result``
    is the type of results that do not keep ``dtype``, by default its float type.
    """
    held = float_of(dtype) if absolute else dtype
    parts = {part: None for name in names for part in STATISTICS[name][0]}
    parts |= {"count": None} if counted else {}
    parts |= {"faint": None} if held == np.float64 and {"std", "norm"} & set(names) else {}
    floats = float_of(dtype) if result is None else result
    dtypes = {STATISTICS[name][1]: _result_dtype(name, held, floats) for name in names}
    finish: Callable[[moments.State], dict[str, Any]] = partial(
        moments.finish, want=dtypes, n=n, ddof=ddof
    )
    item = {"sum": 16, "square": 16, "count": 8, "faint": 1}
    item |= dict.fromkeys(("low", "high"), held.itemsize)
    return Fold(
        start=partial(moments.start, parts=tuple(parts), dtype=held),
        update=partial(moments.update, skipna=skipna, absolute=absolute, op=op),
        combine=moments.combine,
        finish=finish,
        outputs={name: Output(dtype) for name, dtype in dtypes.items()},
        state_bytes=add(item[part] for part in parts),
        finish_bytes=add(dtype.itemsize for dtype in dtypes.values()),
        scratch=held.itemsize * absolute + (4.0 if counted else 0),
    )


def _result_dtype(name: str, held: np.dtype[Any], floats: np.dtype[Any]) -> np.dtype[Any]:
    if name == "count":
        return np.dtype(np.int64)
    return held if name in ("min", "max") else floats
