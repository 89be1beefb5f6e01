"""Statistics of every voxel along the stack, or over any dims, in one read of the data.

All of them accept the same options:

``dim``
    Dim or dims to reduce, ``"k"`` by default; ``None`` reduces all of them.
``skipna``
    Leave NaN voxels out. By default a NaN makes its statistic NaN, as in numpy.
``mask``
    Boolean array over any of the stack's dims: only voxels where it is True count.

Results keep dims, coordinates, attributes and name; their unit follows the meaning
(variance: the unit squared). Floats keep their type, integers give float64; all sums are carried
in double-double, so float32 results do not depend on chunks, threads or schedulers.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import moments
from lazyvol.ops._checks import degrees_of_freedom, require_extremes
from lazyvol.ops.stats import _distribution
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import (
    ALL_SPATIAL,
    Dims,
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

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(24.0).reshape(2, 2, 2, 3))
    >>> lv.stats.mean(stack).values[0, 0]
    array([6., 7., 8.])
    """
    return _one("mean", stack, dim, skipna, mask)


@operation
def sum(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Sum over ``dim``; 0 where nothing is counted.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.sum(lv.as_stack(np.ones((5, 2, 2, 3)))).values[0, 0]
    array([5., 5., 5.])
    """
    return _one("sum", stack, dim, skipna, mask)


@operation
def var(
    stack: xr.DataArray,
    dim: Dims = "k",
    *,
    ddof: int = 0,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Variance over ``dim``: the sum of squared deviations over ``n - ddof``.

    Never negative. Of float32 and small integers right to rounding; of float64 while the mean is
    below about 1e7 deviations (21 units in the last place at 1e8, nothing left at 1e14: subtract
    an offset first), and while values of float64 are 0 or from about 1e-140 to 1e150 in size: their
    squares then have all digits. int64 beyond 2**53 is rounded as it is read. NaN where a mask or
    ``skipna`` leaves no more than ``ddof`` values; fewer than that without them are refused.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.arange(4.0).reshape(4, 1, 1, 1) + 1e8)
    >>> lv.stats.var(stack, ddof=1).item()
    1.6666666666666667
    """
    return _one("var", stack, dim, skipna, mask, ddof=ddof)


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

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.std(lv.as_stack(np.array([1.0, 3.0]).reshape(2, 1, 1, 1))).item()
    1.0
    """
    return _one("std", stack, dim, skipna, mask, ddof=ddof)


@operation
def min(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Least value over ``dim``, in the stack's own dtype.

    Where a mask leaves nothing, floats give NaN and integers the largest of their type; integers
    over a dim of length 0 are refused.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.min(lv.as_stack(np.arange(6).reshape(3, 1, 1, 2))).values.ravel()
    array([0, 1])
    """
    return _one("min", stack, dim, skipna, mask)


@operation
def max(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = False, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Greatest value over ``dim``, in the stack's own dtype.

    Where a mask leaves nothing, floats give NaN and integers the least of their type; integers
    over a dim of length 0 are refused.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.max(lv.as_stack(np.arange(6).reshape(3, 1, 1, 2))).values.ravel()
    array([4, 5])
    """
    return _one("max", stack, dim, skipna, mask)


@operation
def count(
    stack: xr.DataArray, dim: Dims = "k", *, skipna: bool = True, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Number of values over ``dim`` (int64) that are in the mask and, by default, not NaN.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.count(lv.as_stack(np.array([1, np.nan, 2]).reshape(3, 1, 1, 1))).item()
    2
    """
    return _one("count", stack, dim, skipna, mask)


@operation(unbounded=("ord",))
def norm(
    stack: xr.DataArray,
    dim: Dims = ALL_SPATIAL,
    *,
    ord: float = 2,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Vector norm over ``dim``, by default of every volume: as ``numpy.linalg.norm`` of order 1,
    2 or infinity.

    Order 2 is of values that are 0 or from about 1e-140 to 1e150 in size: of float64 beyond, the
    squares leave the range of the type, as they do in numpy. Every float32 is within.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> lv.stats.norm(lv.as_stack(np.array([3.0, 4.0]).reshape(1, 1, 1, 2))).values
    array([5.])
    """
    if ord not in NORMS:
        raise LabelError(f"norm has the orders {list(NORMS)}, got {ord=}")
    return _one(NORMS[ord], stack, dim, skipna, mask, absolute=ord != 2).rename(stack.name)


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
    """Dataset of several ``statistics`` from one read of the data.

    They are among sum, mean, var, std, min, max, norm and count.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> found = lv.stats.describe(lv.as_stack(np.arange(8.0).reshape(2, 1, 1, 4)))
    >>> {name: float(found[name][0, 0, 0]) for name in found}
    {'mean': 2.0, 'var': 4.0, 'min': 0.0, 'max': 4.0, 'norm': 4.0}
    """
    unknown = [name for name in statistics if name not in NEEDS]
    if unknown or not statistics:
        raise LabelError(f"statistics are among {tuple(NEEDS)}, got {tuple(statistics)}")
    return xr.Dataset(_statistics(tuple(statistics), stack, dim, skipna, mask, ddof=ddof))


@operation
def quantile(
    stack: xr.DataArray,
    q: float | Iterable[float],
    dim: Dims = "k",
    *,
    skipna: bool = False,
    mask: xr.DataArray | None = None,
) -> xr.DataArray:
    """Quantiles over ``dim``, as ``numpy.quantile`` in float64: linear between two values.

    One ``q`` drops ``dim``; several add the dim ``quantile``, the last one, with a coordinate.
    Exact, in memory that does not grow with the stack: along k it reads the data once for each
    digit of a value's bits (float32 of 200^3: 8 times; of 30^3 or a whole stack: 2 to 4). Over
    dims that a block has whole, e.g. every particle's z, y, x, it reads them once and sorts.
    Integers give float64; NaN where nothing counts.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1, 1))
    >>> lv.stats.quantile(stack, 0.5).item()
    3.0
    >>> lv.stats.quantile(stack, (0.0, 0.25, 1.0)).values.ravel()
    array([1.  , 1.75, 8.  ])
    """
    flags = None if mask is None else require_mask("quantile: mask", mask)
    return _distribution.quantile(stack, q, dim, skipna, flags)


@operation
def histogram(
    stack: xr.DataArray,
    *,
    bins: int = 256,
    range: tuple[float, float] | None = None,
    dim: Dims = None,
    mask: xr.DataArray | None = None,
) -> xr.Dataset:
    """Counts in ``bins`` bins of equal width over ``dim``, as ``numpy.histogram`` in float64.

    ``counts`` (kept dims, ``bin``) and ``edges`` (``edge``), the same for all kept elements. NaN
    and what lies outside ``range`` is not counted; the last bin includes its right edge. A
    ``range`` spares the first of two reads, which finds the least and the greatest finite value,
    and gives ``bin`` its centres as a coordinate.

    Examples
    --------
    >>> import numpy as np, lazyvol as lv
    >>> stack = lv.as_stack(np.array([0.0, 1.0, 1.5, 4.0]).reshape(4, 1, 1, 1))
    >>> found = lv.stats.histogram(stack, bins=4)
    >>> found.counts.values, found.edges.values
    (array([1, 2, 0, 1]), array([0., 1., 2., 3., 4.]))
    """
    flags = None if mask is None else require_mask("histogram: mask", mask)
    return _distribution.histogram(stack, bins, range, dim, flags)


def _one(
    name: str,
    stack: xr.DataArray,
    dim: Dims,
    skipna: bool,
    mask: xr.DataArray | None,
    *,
    ddof: int = 0,
    absolute: bool = False,
) -> xr.DataArray:
    return _statistics((name,), stack, dim, skipna, mask, ddof=ddof, absolute=absolute)[name]


#: what each statistic needs of a state, what the kernel calls it, and the power of its unit
NEEDS: Mapping[str, tuple[tuple[str, ...], str, int]] = {
    "sum": (("sum",), "sum", 1),
    "mean": (("sum",), "mean", 1),
    "var": (("sum", "square"), "var", 2),
    "std": (("sum", "square"), "std", 1),
    "norm": (("square",), "norm", 1),
    "min": (("low",), "low", 1),
    "max": (("high",), "high", 1),
    "count": (("count",), "count", 0),
}


def _statistics(
    names: tuple[str, ...],
    stack: xr.DataArray,
    dim: Dims,
    skipna: bool,
    mask: xr.DataArray | None,
    *,
    ddof: int = 0,
    absolute: bool = False,
) -> dict[str, xr.DataArray]:
    """Statistics by name, all from one fold."""
    op = names[0] if len(names) == 1 else "describe"
    dims = dims_of(stack, dim)
    n = prod(stack.sizes[d] for d in dims)
    free = degrees_of_freedom(op, ddof, n if {"var", "std"} & set(names) else None)
    if {"min", "max"} & set(names) and not absolute:
        require_extremes(op, stack, dims, n)
    spec = statistics_fold(
        names, stack.dtype, n, ddof=free,
        counted=skipna or mask is not None or "count" in names, skipna=skipna, absolute=absolute,
    )  # fmt: skip
    if reduces_split_axes(stack, dims):
        spec = replace(spec, scratch=spec.scratch + stack.dtype.itemsize)
    operands = (stack,) if mask is None else (stack, require_mask(f"{op}: mask", mask))
    found = fold(spec, *operands, dims=dims, title="-".join(names))
    made = {n: found[NEEDS[n][1]] for n in names}
    for name, array in made.items():
        array.attrs = _attrs(stack, NEEDS[name][2])
    return made


def statistics_fold(
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
    """The fold behind ``names`` for data of ``dtype``, ``n`` values to each result."""
    parts = {p: None for name in names for p in NEEDS[name][0]}
    parts |= {"count": None} if counted else {}
    floats = float_of(dtype) if result is None else result
    held = float_of(dtype) if absolute else dtype
    want = {NEEDS[m][1]: _dtype(m, held, floats) for m in names}
    finish: Callable[[moments.State], dict[str, Any]] = partial(
        moments.finish, want=want, n=n, ddof=ddof
    )
    return Fold(
        start=partial(moments.start, parts=tuple(parts), dtype=held),
        update=partial(moments.update, skipna=skipna, absolute=absolute),
        combine=moments.combine,
        finish=finish,
        outputs={m: Output(t) for m, t in want.items()},
        state_bytes=_state_bytes(tuple(parts), held),
        finish_bytes=_finish_bytes(want),
        scratch=held.itemsize * absolute + (4.0 if counted else 0),
    )


def _dtype(name: str, data: np.dtype[Any], floats: np.dtype[Any]) -> np.dtype[Any]:
    if name == "count":
        return np.dtype(np.int64)
    return data if name in ("min", "max") else floats


def _state_bytes(parts: tuple[str, ...], dtype: np.dtype[Any]) -> int:
    each = {"sum": 16, "square": 16, "count": 8, "low": dtype.itemsize, "high": dtype.itemsize}
    total = 0
    for part in parts:
        total += each[part]
    return total


def _finish_bytes(want: Mapping[str, np.dtype[Any]]) -> int:
    total = 0
    for dtype in want.values():
        total += dtype.itemsize
    return total


def _attrs(stack: xr.DataArray, power: int) -> dict[str, Any]:
    return {str(n): v for n, v in with_units(stack, power).items()}
