"""How scores are made: the fold behind all of them, and what they are held against."""

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
    op = metrics[0] if len(metrics) == 1 else "compare"
    if leave_one_out is None:
        leave_one_out = isinstance(against, str)
    # in float64 whatever the stack's type: (n avg - x) subtracts nearly equal sums
    reference = average_or(op, "against", against, stack, np.dtype(np.float64))
    others = particles_besides(op, stack, reference) if leave_one_out else 0
    dtype = float_of(stack.dtype)
    spec = agreement_fold(
        partial(comoments.finish, want=dict.fromkeys(metrics, dtype)),
        metrics,
        dtype,
        others=others,
        entropy="bce" in metrics,
    )
    masks = () if mask is None else (require_mask(f"{op}: mask", mask),)
    if set(dims) != set(stack.dims[-len(dims) :]):  # both are laid out anew
        spec = replace(spec, scratch=2.0 * stack.dtype.itemsize)
    return Comparison(tuple(metrics), spec, (stack, reference, *masks), dims)


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
    return dims_of(stack, dim)


def require_several(op: str, stack: xr.DataArray, dims: tuple[str, ...]) -> None:
    """Refuse a correlation over a single voxel, which has no deviation."""
    if all(stack.sizes[d] == 1 for d in dims):
        longer = tuple(str(d) for d in stack.dims if stack.sizes[d] > 1)
        raise LabelError(
            f"{op}: dim must span two voxels or more, got {dims} of length 1 in "
            f"{dict(stack.sizes)}; pass dim={longer!r}"
        )
