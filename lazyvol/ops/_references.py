"""References that particles are compared with (an average, another stack); half-sets."""

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.ops.stats import statistics_fold
from lazyvol.plan.verbs import fold
from lazyvol.stack import STACK, float_of


def average_or(
    op: str,
    param: str,
    reference: str | xr.DataArray,
    stack: xr.DataArray,
    dtype: np.dtype[np.floating] | None = None,
) -> xr.DataArray:
    """Return ``reference``, or the average of ``stack`` along k for ``"average"``.

    The average is summed in double-double arithmetic and stored as ``dtype``, by default the
    stack's float type.
    """
    if not isinstance(reference, str):
        return require_numbers(op, param, reference, stack)
    if reference != "average":
        raise LabelError(
            f"{op}: {param} must be 'average', a volume or a stack, got {reference!r}; pass one"
        )
    if STACK not in stack.dims:
        raise LabelError(
            f"{op}: {param} must be a volume for a stack without the dim {STACK!r}, got 'average' "
            f"for the dims {stack.dims}; pass a volume"
        )
    spec = statistics_fold(
        op, ("mean",), stack.dtype, stack.sizes[STACK], result=dtype or float_of(stack.dtype)
    )
    return fold(spec, stack, dims=(STACK,), title="average")["mean"]


def require_numbers(
    op: str, param: str, reference: xr.DataArray, stack: xr.DataArray
) -> xr.DataArray:
    """Return ``reference``; raise LabelError for a mask beside a stack of numbers.

    A mask in the place of a volume is nearly always an argument in the wrong place.
    """
    if reference.dtype == bool and stack.dtype != bool:
        raise LabelError(
            f"{op}: {param} must hold numbers as the stack does, got dtype=bool; pass a mask as "
            f"mask=, or binary values as {param}.astype(float)"
        )
    return reference


def particles_besides(op: str, stack: xr.DataArray, reference: xr.DataArray) -> int:
    """Return the number of particles of an average from which each particle is left out."""
    n = stack.sizes.get(STACK, 0)
    if n < 2 or STACK in reference.dims:
        raise LabelError(
            f"{op}: leave_one_out needs two or more particles along {STACK!r} and a reference "
            f"without this dim, got {n} particles and the dims {reference.dims}; pass "
            f"leave_one_out=False"
        )
    return n


def half_sets(op: str, stack: xr.DataArray) -> xr.DataArray:
    """Return the half-set of each particle, 0 or 1: its coordinate ``half``, else odd and even."""
    n = stack.sizes.get(STACK, 0)
    if n < 2:
        raise LabelError(
            f"{op}: half-sets must hold two or more particles along {STACK!r}, got {n}; pass a "
            f"longer stack"
        )
    numbers = np.arange(n) % 2
    if "half" in stack.coords and stack.coords["half"].dims == (STACK,):
        names, numbers = np.unique(stack.coords["half"].values, return_inverse=True)
        if len(names) != 2:
            raise LabelError(
                f"{op}: the coordinate 'half' must name two half-sets, got the values "
                f"{names[:5].tolist()}; assign another, or drop it to split odd and even particles"
            )
    return xr.DataArray(numbers.astype(np.int64), dims=(STACK,))
