"""Scores of particles against a reference: arguments checked, then one fold of co-moments."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import comoments
from lazyvol.ops._references import average_or, particles_besides
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import (
    Dims,
    dims_of,
    float_of,
    require_mask,
    with_units,
)

#: bytes per part of a state: the total, that of the block, and both combined
BYTES_PER_PART = 24
#: power of the stack's unit in a score; other scores are pure numbers
UNIT_POWERS = {"mse": 2, "rmse": 1}


@dataclass(frozen=True)
class Comparison:
    """A fold that computes scores, its operands (the stack first) and the dims it runs over."""

    metrics: tuple[str, ...]
    fold: Fold
    operands: tuple[xr.DataArray, ...]
    dims: tuple[str, ...]

    def scores(self) -> dict[str, xr.DataArray]:
        """Return the lazy scores by name, all from one fold."""
        title = "-".join(self.metrics)
        return self.labelled(fold(self.fold, *self.operands, dims=self.dims, title=title))

    def labelled(self, outputs: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
        """Return the scores among the outputs of a fold, with attributes and units."""
        return {m: with_score_attrs(outputs[m], m, self.operands[0]) for m in self.metrics}


def comparison(
    metrics: Sequence[str],
    stack: xr.DataArray,
    against: str | xr.DataArray,
    dim: Dims,
    mask: xr.DataArray | None,
    leave_one_out: bool | None,
) -> Comparison:
    """Check the arguments of a score; return the fold that computes it."""
    dims = compared_dims(stack, dim)
    if "ncc" in metrics:
        require_two_voxels("ncc", stack, dims)
    op = metrics[0] if len(metrics) == 1 else "compare"
    if leave_one_out is None:
        leave_one_out = isinstance(against, str)
    if not isinstance(against, str):
        if "bce" in metrics and against.dtype == bool:  # what a probability should have been
            against = against.astype(np.float64)
        if set(UNIT_POWERS) & set(metrics):
            _require_equal_units(op, stack, against)
    # in float64 for stacks of any type: (n average - x) subtracts nearly equal sums
    reference = average_or(op, "against", against, stack, np.dtype(np.float64))
    others = particles_besides(op, stack, reference) if leave_one_out else 0
    dtype = float_of(stack.dtype)
    spec = comoments_fold(
        partial(comoments.finish, want=dict.fromkeys(metrics, dtype)),
        metrics,
        dtype,
        others=others,
        entropy="bce" in metrics,
    )
    masks = () if mask is None else (require_mask(f"{op}: mask", mask),)
    if set(dims) != set(stack.dims[-len(dims) :]):  # blocks are copied to another axis order
        spec = replace(spec, scratch=2.0 * stack.dtype.itemsize)
    return Comparison(tuple(metrics), spec, (stack, reference, *masks), dims)


def _require_equal_units(op: str, stack: xr.DataArray, against: xr.DataArray) -> None:
    """Raise LabelError for values in different units, which have no difference."""
    units = [array.attrs.get("units") for array in (stack, against)]
    if None not in units and units[0] != units[1]:
        raise LabelError(
            f"{op}: against must have values in the stack's unit {units[0]!r}, got {units[1]!r}; "
            f"convert them and set attrs['units']"
        )


def comoments_fold(
    finish: Callable[[comoments.State], Mapping[str, Any]],
    names: Sequence[str],
    dtype: np.dtype[Any],
    *,
    others: int = 0,
    entropy: bool = False,
) -> Fold:
    """Return a fold of co-moments whose outputs ``names`` are computed by ``finish``."""
    return Fold(
        start=comoments.start,
        update=partial(comoments.update, others=others, entropy=entropy),
        combine=comoments.combine,
        finish=finish,
        outputs=dict.fromkeys(names, Output(dtype)),
        state_bytes=BYTES_PER_PART * (len(comoments.PARTS) + 1),
        finish_bytes=8 * (len(comoments.PARTS) + len(names)),
    )


def with_score_attrs(score: xr.DataArray, metric: str, stack: xr.DataArray) -> xr.DataArray:
    """Return a score with the attributes of the stack and the unit of the metric."""
    score.attrs = {str(n): v for n, v in with_units(stack, UNIT_POWERS.get(metric, 0)).items()}
    return score


def compared_dims(stack: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Return the dims to compare over; by default the spatial dims of the stack."""
    return dims_of(stack, dim)


def require_two_voxels(op: str, stack: xr.DataArray, dims: tuple[str, ...]) -> None:
    """Raise LabelError for a correlation over a single voxel, which has no variance."""
    if all(stack.sizes[d] == 1 for d in dims):
        longer = tuple(str(d) for d in stack.dims if stack.sizes[d] > 1)
        raise LabelError(
            f"{op}: dim must span two voxels or more, got {dims} of length 1 in "
            f"{dict(stack.sizes)}; pass dim={longer!r}"
        )
