"""Stencils that reduce, that add dims, and that get clipped halos."""

from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.plan.verbs import stencil

SHAPE = (3, 17, 11, 7)
A = np.random.default_rng(3).standard_normal(SHAPE)
QUICK = settings(max_examples=25, deadline=None, derandomize=True)
CHUNKS = st.tuples(*(st.integers(max(1, n // 4), n) for n in SHAPE))


def lazy(chunks=SHAPE):
    return lv.as_stack(da.from_array(A, chunks=chunks), voxel_size=2.0, unit="nm")


def slopes(block, halo):
    """Return numpy's gradient along z and y, one-sided where the halo is clipped."""
    interior = tuple(slice(lo, n - hi) for n, (lo, hi) in zip(block.shape, halo, strict=True))
    return np.stack([np.gradient(block, axis=a)[interior] for a in (1, 2)], axis=-1)


def means(block, *, size, depth=0):
    """Return means over ``size`` slices of z and a halo; the last may have fewer slices."""
    starts = range(depth, block.shape[1] - depth, size)
    ends = [min(i + size, block.shape[1] - depth) + depth for i in starts]
    return np.stack([block[:, i - depth : e].mean(1) for i, e in zip(starts, ends, strict=True)], 1)


@given(CHUNKS)
@QUICK
def test_clip_passes_the_halo_lengths_to_the_kernel(chunks):
    result = stencil(slopes, lazy(chunks), depth={"z": 1, "y": 1}, mode="clip", sizes={"axis": 2})
    expected = np.stack(np.gradient(A, axis=(1, 2)), -1)
    assert result.dims == ("k", "z", "y", "x", "axis")
    np.testing.assert_allclose(result.values, expected, atol=1e-12)
    part = result[1, 15:, 3:5, 2, 1]
    np.testing.assert_allclose(part.values, expected[1, 15:, 3:5, 2, 1], atol=1e-12)


@given(CHUNKS, st.integers(1, 18))
@QUICK
def test_a_step_combines_several_voxels_into_one(chunks, size):
    result = stencil(partial(means, size=size), lazy(chunks), depth={}, step={"z": size})
    np.testing.assert_allclose(result.values, means(A, size=size), atol=1e-12)
    np.testing.assert_allclose(result[:, -1].values, means(A, size=size)[:, -1], atol=1e-12)


@given(CHUNKS)
@QUICK
def test_a_step_with_a_halo_reflects_at_the_border(chunks):
    kernel = partial(means, size=4, depth=2)
    result = stencil(kernel, lazy(chunks), depth={"z": 2}, step={"z": 4}, mode="reflect")
    padded = np.pad(A, ((0, 0), (2, 2), (0, 0), (0, 0)), mode="symmetric")
    np.testing.assert_allclose(result.values, kernel(padded), atol=1e-12)


def test_valid_with_a_step_omits_incomplete_voxels():
    kernel = partial(means, size=4, depth=1)
    result = stencil(kernel, lazy((1, 5, 4, 3)), depth={"z": 1}, step={"z": 4}, mode="valid")
    assert result.sizes["z"] == 3
    np.testing.assert_allclose(result.values, kernel(A[:, :14]), atol=1e-12)


def test_in_memory_and_lazy_are_the_same():
    plain = lv.as_stack(A, voxel_size=2.0, unit="nm")
    options = {"depth": {"z": 1, "y": 1}, "mode": "clip", "sizes": {"axis": 2}}
    np.testing.assert_array_equal(
        stencil(slopes, plain, **options).values, stencil(slopes, lazy(), **options).values
    )


def test_one_task_per_block_after_clipping():
    stack = lazy((1, 5, 4, 3))
    result = stencil(slopes, stack, depth={"z": 9, "y": 1}, mode="clip", sizes={"axis": 2})
    blocks = result.data.npartitions
    graph = dict(dask.optimize(result.data)[0].dask)
    assert len(graph) <= blocks + stack.data.npartitions + 1


def test_an_unknown_mode_is_refused():
    with pytest.raises(LabelError, match="mode must be one of"):
        stencil(slopes, lazy(), depth={}, mode="clamp")


def before_only(block, *, depth):
    """Return sums over each voxel, those before it and the last of its halo (before, after)."""
    lo, hi = depth
    n = block.shape[1] - lo - hi
    return np.sum([block[:, i : i + n] for i in range(lo + 1)], axis=0) + block[:, lo + hi :]


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant", "wrap"])
@pytest.mark.parametrize("depth", [(4, 3), (5, 0), (0, 5), (19, 2)])
def test_a_halo_may_be_longer_on_one_side(mode, depth):
    """Blocks shorter than their halo reflect voxels outside the block."""
    kernel = partial(before_only, depth=depth)
    padded = np.pad(A, ((0, 0), (max(depth), max(depth)), (0, 0), (0, 0)), mode=NUMPY[mode])
    most, n = max(depth), SHAPE[1]
    expected = kernel(padded[:, most - depth[0] : most + n + depth[1]])
    for size in (1, 3, 17):
        result = stencil(kernel, lazy((3, size, 11, 7)), depth={"z": depth}, mode=mode)
        np.testing.assert_allclose(result.values, expected, atol=1e-12)


def clipped_sums(block, halo, *, depth):
    """Return sums from ``depth[0]`` voxels before each voxel to ``depth[1]`` after it."""
    lo, hi = halo[1]
    spans = [(max(0, i - depth[0]), i + depth[1] + 1) for i in range(lo, block.shape[1] - hi)]
    return np.stack([block[:, first:stop].sum(1) for first, stop in spans], 1)


@pytest.mark.parametrize("depth", [(2, 0), (0, 3), (1, 4)])
def test_a_clipped_halo_may_be_longer_on_one_side(depth):
    kernel = partial(clipped_sums, depth=depth)
    result = stencil(kernel, lazy((3, 5, 11, 7)), depth={"z": depth}, mode="clip")
    np.testing.assert_allclose(result.values, kernel(A, [(0, 0)] * 4), atol=1e-12)


NUMPY = {
    "reflect": "symmetric",
    "mirror": "reflect",
    "nearest": "edge",
    "constant": "constant",
    "wrap": "wrap",
}
