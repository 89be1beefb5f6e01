"""Histograms: counts in bins between limits that are given, or found in a read of their own."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import histogram as kernels
from lazyvol.ops._checks import require_new_dim, whole_number
from lazyvol.ops.stats._scratch import layout_scratch
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import Dims, dataset_of, dims_of, with_units

FLOAT64 = np.dtype(np.float64)


def histogram(
    operands: tuple[xr.DataArray, ...], bins: int, limits: tuple[float, float] | None, dim: Dims
) -> xr.Dataset:
    """Return counts over ``dim`` and edges; ``operands`` are the stack and perhaps a mask.

    Without ``limits`` bins lie between the smallest and the largest finite value of the stack.
    """
    stack = operands[0]
    dims = dims_of(stack, dim, subject="histogram: dim")
    for new in ("bin", "edge"):
        require_new_dim(stack, new, "histogram")
    bins = whole_number("histogram", "bins", bins)
    masked = len(operands) > 1
    if limits is None:
        extent = _extent(operands, bins)
        spec = _counting(stack, dims, bins, None, masked)
        ends = (extent["low"], extent["high"])
        counts = fold(spec, *operands, *ends, dims=dims, title="histogram")["counts"]
        counts.attrs = with_units(stack, 0)
        return dataset_of({"counts": counts, "edges": extent["edges"]})
    limits = bin_limits("histogram", limits, bins)
    spec = _counting(stack, dims, bins, limits, masked)
    counts = fold(spec, *operands, dims=dims, title="histogram")["counts"]
    counts.attrs = with_units(stack, 0)
    edges = kernels.bin_edges(*limits, bins)
    unit = {name: value for name, value in stack.attrs.items() if name == "units"}
    centres = ("bin", (edges[1:] + edges[:-1]) / 2, unit)
    labelled = xr.DataArray(edges, dims="edge", attrs=stack.attrs)
    return dataset_of({"counts": counts.assign_coords(bin=centres), "edges": labelled})


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
    dims: Sequence[str],
    bins: int,
    limits: tuple[float, float] | None,
    masked: bool,
) -> Fold:
    """Return the fold that counts; limits that are not given are its last operands."""
    return Fold(
        start=partial(kernels.start, bins=bins),
        update=partial(kernels.update, masked=masked, limits=limits),
        combine=kernels.combine,
        finish=kernels.finish,
        outputs={"counts": Output(np.dtype(np.int64), ("bin",), (bins,))},
        state_bytes=8 * bins,
        scratch=layout_scratch(stack, dims, masked),
    )
