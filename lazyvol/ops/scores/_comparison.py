"""How scores are made: the fold behind all of them, and what they are held against."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.reductions import comoments
from lazyvol.ops.stats import statistics_fold
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import fold
from lazyvol.stack import (
    STACK,
    Dims,
    dims_of,
    float_of,
    require_stack,
    with_units,
)

#: bytes per part of a state: its value, that of the tile, and those combined
EACH = 24
#: power of the stack's unit that a score has; the others are pure numbers
POWERS = {"mse": 2, "rmse": 1}


@dataclass(frozen=True)
class Comparison:
    """A fold that gives scores, with its operands, the stack first, and the dims it is over."""

    metrics: tuple[str, ...]
    fold: Fold
    operands: tuple[xr.DataArray, ...]
    dims: tuple[str, ...]

    def scores(self) -> dict[str, xr.DataArray]:
        """Scores by name, all from one fold."""
        title = "-".join(self.metrics)
        return self.labelled(fold(self.fold, *self.operands, dims=self.dims, title=title))

    def labelled(self, found: Mapping[str, xr.DataArray]) -> dict[str, xr.DataArray]:
        """The scores among the outputs of a fold."""
        return {m: relabelled(found[m], m, self.operands[0]) for m in self.metrics}


def comparison(
    metrics: Sequence[str],
    stack: xr.DataArray,
    against: str | xr.DataArray,
    dim: Dims,
    mask: xr.DataArray | None,
    leave_one_out: bool | None,
) -> Comparison:
    """What makes scores, not yet folded."""
    dims = compared_dims(stack, dim)
    if "ncc" in metrics:
        require_several("ncc", stack, dims)
    own = isinstance(against, str)
    others = _others(stack) if (own if leave_one_out is None else leave_one_out) else 0
    reference = _reference(stack, against)
    if others and STACK in reference.dims:
        raise LabelError(
            f"leave_one_out needs an average without {STACK!r}, got dims {reference.dims}"
        )
    dtype = float_of(stack.dtype)
    spec = agreement_fold(
        partial(comoments.finish, want=dict.fromkeys(metrics, dtype)),
        metrics,
        dtype,
        others=others,
        entropy="bce" in metrics,
    )
    operands = (stack, reference) if mask is None else (stack, reference, mask)
    if set(dims) != set(stack.dims[-len(dims) :]):  # both are laid out anew
        spec = replace(spec, scratch=2.0 * stack.dtype.itemsize)
    return Comparison(tuple(metrics), spec, operands, dims)


def agreement_fold(
    finish: Callable[[comoments.State], Mapping[str, Any]],
    names: Sequence[str],
    dtype: np.dtype[Any],
    *,
    others: int = 0,
    entropy: bool = False,
) -> Fold:
    """The fold of co-moments that gives ``names`` by ``finish``."""
    return Fold(
        start=comoments.start,
        update=partial(comoments.update, others=others, entropy=entropy),
        combine=comoments.combine,
        finish=finish,
        outputs=dict.fromkeys(names, Output(dtype)),
        state_bytes=EACH * len(comoments.PARTS),
        finish_bytes=8 * (len(comoments.PARTS) + len(names)),
    )


def relabelled(score: xr.DataArray, metric: str, stack: xr.DataArray) -> xr.DataArray:
    """A score with the stack's attributes and its own unit."""
    score.attrs = {str(n): v for n, v in with_units(stack, POWERS.get(metric, 0)).items()}
    return score


def compared_dims(stack: xr.DataArray, dim: Dims) -> tuple[str, ...]:
    """Dims to compare over; "spatial" are those that the stack has."""
    require_stack(stack)
    return dims_of(stack, dim)


def require_several(op: str, stack: xr.DataArray, dims: tuple[str, ...]) -> None:
    """Refuse a correlation over a single voxel, which has no deviation."""
    if all(stack.sizes[d] == 1 for d in dims):
        longer = tuple(str(d) for d in stack.dims if stack.sizes[d] > 1)
        raise LabelError(
            f"{op}: dim must span two voxels or more, got {dims} of length 1 in "
            f"{dict(stack.sizes)}; pass dim={longer!r}"
        )


def _others(stack: xr.DataArray) -> int:
    n = stack.sizes.get(STACK, 0)
    if n < 2:
        raise LabelError(
            f"leaving one out of the average needs two or more particles along {STACK!r}, got {n}; "
            f"pass leave_one_out=False"
        )
    return n


def _reference(stack: xr.DataArray, against: str | xr.DataArray) -> xr.DataArray:
    """What is scored against. The average is in float64, whatever the stack's type:
    (n avg - x) subtracts nearly equal sums."""
    if not isinstance(against, str):
        return require_stack(against)
    if against != "average":
        raise LabelError(f"against is 'average', a volume or a stack, got {against!r}")
    if STACK not in stack.dims:
        raise LabelError(f"an average is over {STACK!r}, the stack has dims {stack.dims}")
    spec = statistics_fold(("mean",), stack.dtype, stack.sizes[STACK], result=np.dtype(np.float64))
    return fold(spec, stack, dims=(STACK,), title="average")["mean"]
