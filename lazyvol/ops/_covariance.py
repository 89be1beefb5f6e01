"""Eigenbases and weighted sums of stacks, shared by principal components and whitening.

The eigenbasis comes either from the squared distances between samples, which takes memory for the
square of their number, or from the products between features; callers choose the smaller. It is a
small array (``sample`` or ``feature``, ``component``) that is computed once; its rows are described
in ``lazyvol.kernels.linalg.eigenbasis``.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import covariance, eigenbasis, pairwise_distances
from lazyvol.plan.pairwise import PairKernel, pairs
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise, computed_once, fold

#: most features whose products are formed: their matrix takes 0.5 GB
MAX_FEATURES = 8192
#: bytes that BLAS allocates for a product
BLAS_BYTES = 12 * 2**20
FLOAT64 = np.dtype(np.float64)


def pairwise_metric(metric: str, dtype: np.dtype[Any]) -> PairKernel:
    """Return the pairwise computation of a metric, with results in ``dtype``."""
    return PairKernel(
        start=pairwise_distances.start,
        update=partial(pairwise_distances.update, metric=metric, itemsize=dtype.itemsize),
        finish=partial(pairwise_distances.finish, metric=metric, dtype=dtype),
        dtype=dtype,
        state_bytes=16 + dtype.itemsize,
        buffers=4 * pairwise_distances.STRETCH_BYTES + BLAS_BYTES,
    )


def sample_eigenbasis(
    stack: xr.DataArray, dim: str, count: int, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Return the eigenbasis (sample, component) of the squared distances along ``dim``."""
    metric = pairwise_metric("squared", FLOAT64)
    square = pairs(metric, stack, dim=dim, mask=mask, title="squared distances")
    rows = stack.sizes[dim] + eigenbasis.EXTRA_ROWS
    basis = blockwise(
        partial(eigenbasis.from_distances, count=count), square.rename("eigenbasis"),
        core=tuple(str(d) for d in square.dims), out=("_sample", "component"),
        sizes={"_sample": rows, "component": count}, dtype=FLOAT64, scratch=24, title="eigenbasis",
    )  # fmt: skip
    return computed_once(basis)


def feature_eigenbasis(
    stack: xr.DataArray, over: Sequence[str], count: int, mask: xr.DataArray | None = None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the eigenbasis (feature, component) of samples along ``over``, and their mean."""
    kept = tuple(str(d) for d in stack.dims if d not in over)
    p, n = (prod(stack.sizes[d] for d in dims) for dims in (kept, over))
    if p > MAX_FEATURES:
        raise LabelError(
            f"stack must have at most {MAX_FEATURES} features where samples outnumber them, got "
            f"{p} along {kept} and {n} samples; take patches, or fewer samples than features"
        )
    sums = _sums_of_products(stack, over, kept, p)
    operands = [sums["gram"], sums["sums"], *([] if mask is None else [mask])]
    basis = blockwise(
        partial(eigenbasis.from_products, n=n, count=count), *operands, core=(*kept, "_feature"),
        out=("_sample", "component"),
        sizes={"_sample": p + eigenbasis.EXTRA_ROWS, "component": count}, dtype=FLOAT64,
        scratch=24, title="eigenbasis",
    )  # fmt: skip
    mean = _first_sample(stack, over).astype(FLOAT64) + sums["sums"] / n
    return computed_once(basis.rename("eigenbasis").rename(_sample="_feature")), mean


def _sums_of_products(
    stack: xr.DataArray, over: Sequence[str], kept: Sequence[str], p: int
) -> dict[str, xr.DataArray]:
    """Return ``gram``, the sums of products about the first sample, and ``sums``, in one read."""
    reduction = Fold(
        start=covariance.start_products,
        update=covariance.update_products,
        combine=covariance.combine,
        finish=covariance.finish_products,
        outputs={"gram": Output(FLOAT64, ("_feature",), (p,)), "sums": Output(FLOAT64)},
        state_bytes=8 * (p + 1),
        finish_bytes=8 * (p + 1),
        scratch=2.0 * stack.dtype.itemsize,
    )
    # a block must hold all features of its samples
    samples = blockwise(_unchanged, stack, core=kept, dtype=stack.dtype, title="whole samples")
    return fold(reduction, samples, _first_sample(stack, over), dims=tuple(over), title="products")


def _first_sample(stack: xr.DataArray, over: Sequence[str]) -> xr.DataArray:
    return stack.isel(dict.fromkeys(over, 0), drop=True)


def _unchanged(block: Any) -> Any:
    return block


def weighted_sums(
    stack: xr.DataArray, weights: xr.DataArray, dim: str, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Return the sums of volumes by ``weights`` (``dim``, component), in one read.

    The result has the dims (..., component), and is 0 outside ``mask``.
    """
    count = weights.sizes["component"]
    reduction = Fold(
        start=partial(covariance.start_weighted, count=count),
        update=partial(covariance.update_weighted, masked=mask is not None),
        combine=covariance.combine,
        finish=covariance.finish,
        outputs={"sums": Output(FLOAT64, ("component",), (count,))},
        state_bytes=8 * count,
        finish_bytes=8 * count,
        scratch=2.0 * stack.dtype.itemsize,
    )
    columns = [weights.isel(component=i) for i in range(count)]
    operands = [stack, *columns, *([] if mask is None else [mask])]
    return fold(reduction, *operands, dims=(dim,), title="weighted sums")["sums"]


def apply_to_table(
    kernel: Any, table: xr.DataArray, out: Sequence[str], sizes: Mapping[str, int], *others: Any
) -> xr.DataArray:
    """Apply a kernel to a whole small table (and others over its dims) in one task; float64."""
    return blockwise(
        kernel, table, *others, core=tuple(str(d) for d in table.dims), out=out, sizes=sizes,
        dtype=FLOAT64, scratch=16, title="eigenbasis",
    )  # fmt: skip
