"""Histograms: counts in bins between given limits, or limits from a further read."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import histogram as kernels
from lazyvol.ops._checks import bin_count, require_new_dim
from lazyvol.ops.stats._scratch import layout_scratch
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import (
    Dims,
    dataset_of,
    dims_of,
    float_of,
    reduces_split_axes,
    with_units,
)

Array = np.ndarray[Any, np.dtype[Any]]

FLOAT64 = np.dtype(np.float64)
#: bytes per voxel of values and weights in float64
SUMMED = 16.0


def histogram(
    operands: tuple[xr.DataArray, ...],
    weights: xr.DataArray | None,
    bins: int | Sequence[float],
    limits: tuple[float, float] | None,
    dim: Dims,
) -> xr.Dataset:
    """Return counts, or sums of weights, over ``dim``, and edges.

    ``operands`` are the stack and perhaps a mask. Without edges or ``limits`` bins lie between the
    smallest and the largest finite value of the stack.
    """
    stack = operands[0]
    dims = dims_of(stack, dim, subject="histogram: dim")
    for new in ("bin", "edge"):
        require_new_dim(stack, new, "histogram")
    edges, number = _edges(bins, limits)
    ends: tuple[xr.DataArray, ...] = ()
    if edges is None:
        extent = _extent(operands, number)
        ends, labelled = (extent["low"], extent["high"]), extent["edges"]
    else:
        labelled = xr.DataArray(edges, dims="edge", attrs=stack.attrs)
    spec = _counting(stack, weights, dims, number, edges, isinstance(bins, int), len(operands) > 1)
    weighed = () if weights is None else (weights,)
    counts = fold(spec, *operands, *weighed, *ends, dims=dims, title="histogram")["counts"]
    counts.attrs = with_units(stack, 0) if weights is None else dict(weights.attrs)
    if edges is not None:
        unit = {name: value for name, value in stack.attrs.items() if name == "units"}
        counts = counts.assign_coords(bin=("bin", (edges[1:] + edges[:-1]) / 2, unit))
    return dataset_of({"counts": counts, "edges": labelled})


def _edges(
    bins: int | Sequence[float], limits: tuple[float, float] | None
) -> tuple[Array | None, int]:
    """Return the edges, None if they depend on the values, and the number of bins."""
    if isinstance(bins, int):
        number = bin_count("histogram", bins)
        if limits is None:
            return None, number
        return kernels.bin_edges(*bin_limits("histogram", limits, number), number), number
    edges = np.asarray(bins, np.float64)
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise LabelError(
            f"histogram: bins must be a number, or two or more rising edges, got {bins!r}; sort "
            f"them, each once"
        )
    if limits is not None:
        raise LabelError(
            f"histogram: range must be None where bins are edges, got {limits}; leave it out"
        )
    return edges, len(edges) - 1


def bin_limits(op: str, limits: Sequence[float], bins: int) -> tuple[float, float]:
    """Return both limits as floats; raise LabelError unless bins between them have a width."""
    try:
        low, high = (float(limit) for limit in limits)
    except (TypeError, ValueError):
        raise LabelError(
            f"{op}: range must be a pair of numbers, (low, high), got {limits!r}"
        ) from None
    if not (np.isfinite(low) and np.isfinite(high) and low <= high):
        raise LabelError(f"{op}: range must be finite with low <= high, got {(low, high)}")
    if not (np.diff(kernels.bin_edges(low, high, bins)) > 0).all():
        raise LabelError(
            f"{op}: range must be wide enough for {bins} bins in float64, got {(low, high)}; take "
            f"fewer bins"
        )
    return low, high


def _extent(operands: tuple[xr.DataArray, ...], bins: int) -> dict[str, xr.DataArray]:
    """Return ``low`` and ``high``, the extreme finite values, and ``edges``, from one read."""
    dims = tuple(str(d) for d in operands[0].dims)
    spec = Fold(
        start=kernels.start_extent,
        update=kernels.update_extent,
        combine=kernels.combine_extents,
        finish=partial(kernels.finish_extent, bins=bins),
        outputs={
            "low": Output(FLOAT64), "high": Output(FLOAT64),
            "edges": Output(FLOAT64, ("edge",), (bins + 1,)),
        },
        state_bytes=16,
        finish_bytes=8 * (bins + 3),
        scratch=layout_scratch(operands[0], dims, len(operands) > 1),
    )  # fmt: skip
    return fold(spec, *operands, dims=dims, title="histogram-range")


def _counting(
    stack: xr.DataArray,
    weights: xr.DataArray | None,
    dims: Sequence[str],
    bins: int,
    edges: Array | None,
    even: bool,
    masked: bool,
) -> Fold:
    """Return the fold that counts or adds weights; edges that are not given follow from limits."""
    options: dict[str, Any] = {"masked": masked, "edges": edges, "even": even}
    scratch = layout_scratch(stack, dims, masked)
    if weights is None:
        return Fold(
            start=partial(kernels.start, bins=bins),
            update=partial(kernels.update, **options),
            combine=kernels.combine,
            finish=kernels.finish,
            outputs={"counts": Output(np.dtype(np.int64), ("bin",), (bins,))},
            state_bytes=8 * bins,
            scratch=scratch,
        )
    return Fold(
        start=partial(kernels.start_sums, bins=bins),
        update=partial(kernels.update_sums, **options),
        combine=kernels.combine_sums,
        finish=kernels.finish_sums,
        outputs={"counts": Output(float_of(weights.dtype), ("bin",), (bins,))},
        state_bytes=16 * bins,
        finish_bytes=8 * bins,
        scratch=scratch + SUMMED * (1 + reduces_split_axes(stack, dims)),
    )
