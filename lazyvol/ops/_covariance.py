"""Spectra of stacks: by the squared distances of samples, or by the products of features.

The first costs the square of the number of samples in memory, the second that of the number of
features; the smaller is taken. A spectrum is a small array (``sample`` or ``feature``,
``component``) that is made once; see ``lazyvol.kernels.linalg.eigenbasis`` for its rows.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.kernels.linalg import covariance, eigenbasis, pairwise_distances
from lazyvol.plan.pairwise import Paired, pairs
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.tables import settled
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.stack import require_stack

#: features whose products are made: their matrix takes 0.5 GB
FEATURES = 8192
#: bytes that BLAS takes for itself in a product
BLAS = 12 * 2**20
DOUBLE = np.dtype(np.float64)


def paired(metric: str, dtype: np.dtype[Any]) -> Paired:
    """Distances by a metric."""
    return Paired(
        start=pairwise_distances.start,
        update=partial(pairwise_distances.update, metric=metric, itemsize=dtype.itemsize),
        finish=partial(pairwise_distances.finish, metric=metric, dtype=dtype),
        dtype=dtype,
        state_bytes=16 + dtype.itemsize,
        buffers=4 * pairwise_distances.STRETCH + BLAS,
    )


def require_real(stack: xr.DataArray) -> xr.DataArray:
    """``stack`` itself where its values are real numbers."""
    if require_stack(stack).dtype.kind == "c":
        raise LabelError(f"components are of real numbers, got dtype={stack.dtype}; use .real")
    return stack


def require_free(stack: xr.DataArray, new: str) -> None:
    """Refuse a stack that has the dim which a result would add."""
    if new in stack.dims:
        raise LabelError(f"the result has a new dim {new!r}, the stack has {stack.dims}; rename it")


def require_mask(mask: xr.DataArray, dims: Sequence[str]) -> xr.DataArray:
    """A boolean mask over ``dims``, repeated along those that it lacks."""
    if require_stack(mask).dtype != bool:
        raise LabelError(f"a mask is boolean, got dtype={mask.dtype}; compare it, e.g. mask > 0")
    extra = [d for d in mask.dims if d not in dims]
    if extra:
        raise LabelError(f"a mask of volumes has dims among {tuple(dims)}, got {extra=}")
    return mask


def samples_spectrum(
    stack: xr.DataArray, dim: str, count: int, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Spectrum (sample, component) from the squared distances along ``dim``."""
    spec = paired("squared", DOUBLE)
    square = pairs(spec, stack, dim=dim, mask=mask, title="squared distances")
    names = tuple(str(d) for d in square.dims)
    size = stack.sizes[dim]
    found = blockwise(
        partial(eigenbasis.of_samples, count=count), square.rename("spectrum"), core=names,
        out=("_sample", "component"),
        sizes={"_sample": size + eigenbasis.FACTS, "component": count}, dtype=DOUBLE, scratch=24,
        title="spectrum",
    )  # fmt: skip
    return settled(found)


def features_spectrum(
    stack: xr.DataArray, over: Sequence[str], count: int, mask: xr.DataArray | None = None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Spectrum (feature, component) from products over ``over``, and the mean of every feature."""
    kept = tuple(str(d) for d in stack.dims if d not in over)
    p, n = _volume(stack, over), prod(stack.sizes[d] for d in over)
    if p > FEATURES:
        raise LabelError(
            f"products of features are made of {FEATURES} at most, got {p} along {kept} and "
            f"{n} samples; take patches, or fewer samples than features"
        )
    found = _products(stack, over, kept, p)
    operands = (found["gram"], found["sums"]) if mask is None else (
        found["gram"], found["sums"], mask
    )  # fmt: skip
    spectrum = blockwise(
        partial(eigenbasis.of_features, n=n, count=count), *operands, core=(*kept, "_feature"),
        out=("_sample", "component"), sizes={"_sample": p + eigenbasis.FACTS, "component": count},
        dtype=DOUBLE, scratch=24,
        title="spectrum",
    )  # fmt: skip
    mean = stack.isel(dict.fromkeys(over, 0), drop=True).astype(DOUBLE) + found["sums"] / n
    return settled(spectrum.rename("spectrum").rename(_sample="_feature")), mean


def _products(
    stack: xr.DataArray, over: Sequence[str], kept: Sequence[str], p: int
) -> dict[str, xr.DataArray]:
    """Sums of products about the first sample, and its distance from the mean, in one read."""
    spec = Fold(
        start=covariance.start_products,
        update=covariance.update_products,
        combine=covariance.combine,
        finish=covariance.finish,
        outputs={"gram": Output(DOUBLE, ("_feature",), (p,)), "sums": Output(DOUBLE)},
        state_bytes=8 * (p + 1),
        finish_bytes=8 * (p + 1),
        scratch=2.0 * stack.dtype.itemsize,
    )
    entire = blockwise(_as_it_is, stack, core=kept, dtype=stack.dtype, title="whole samples")
    first = stack.isel(dict.fromkeys(over, 0), drop=True)
    return fold(spec, entire, first, dims=tuple(over), title="products")


def _as_it_is(block: Any) -> Any:
    return block


def weighted_sums(
    stack: xr.DataArray, weights: xr.DataArray, dim: str, mask: xr.DataArray | None = None
) -> xr.DataArray:
    """Sums of volumes by ``weights`` (``dim``, ``component``), in one read: (..., component)."""
    count = weights.sizes["component"]
    spec = Fold(
        start=partial(covariance.start_weighted, count=count),
        update=partial(covariance.update_weighted, masked=mask is not None),
        combine=covariance.combine,
        finish=covariance.finish,
        outputs={"sums": Output(DOUBLE, ("component",), (count,))},
        state_bytes=8 * count,
        finish_bytes=8 * count,
        scratch=2.0 * stack.dtype.itemsize,
    )
    each = [weights.isel(component=i) for i in range(count)]
    operands = (stack, *each) if mask is None else (stack, *each, mask)
    return fold(spec, *operands, dims=(dim,), title="weighted sums")["sums"]


def small(
    kernel: Any, table: xr.DataArray, out: Sequence[str], sizes: Mapping[str, int], *others: Any
) -> xr.DataArray:
    """A kernel on a whole small table, and on others over its dims; float64."""
    return blockwise(
        kernel, table, *others, core=tuple(str(d) for d in table.dims), out=out, sizes=sizes,
        dtype=DOUBLE, scratch=16, title="spectrum",
    )  # fmt: skip


def _volume(stack: xr.DataArray, over: Sequence[str]) -> int:
    return prod(n for d, n in stack.sizes.items() if d not in over)
