"""Stacks hold plain dask arrays: operations work on whatever xarray and dask derive from them."""

import gc
import operator
import weakref

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from dask.graph_manipulation import bind, checkpoint, clone

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.plan.graph.lazy_array import as_lazy_array
from lazyvol.plan.recipes.base import leaves
from lazyvol.plan.recipes.leaves import Foreign, is_in_memory
from lazyvol.plan.verbs import blockwise
from tests.sources import READS, elements_read
from tests.strategies import labelled, stored, values

A = values("float32")
#: an image of the last two dims, and a number for each particle
IMAGE = np.random.default_rng(3).normal(size=A.shape[2:]).astype(np.float32)
WEIGHTS = np.linspace(0.5, 2.0, len(A))


def twin(array: xr.DataArray, data: np.ndarray, *dims: str) -> xr.DataArray:
    """Return an operand with the labels of a stack."""
    return xr.DataArray(data, {d: array[d] for d in dims if d in array.coords}, dims)


def weights(s: xr.DataArray) -> xr.DataArray:
    return twin(s, WEIGHTS, "k")


#: common expressions; each is evaluated on numpy and on lazy stacks
EXPRESSIONS = {
    "plus": lambda s: s + 1,
    "minus from": lambda s: 1.5 - s,
    "times itself": lambda s: s * s,
    "over": lambda s: s / 3,
    "floor": lambda s: s // 2,
    "modulo": lambda s: s % 2,
    "power": lambda s: s**2,
    "negative": lambda s: -s,
    "absolute": abs,
    "float16 scalar": lambda s: s * np.float16(2),
    "0-d array": lambda s: s + np.array(2.0),
    "compare": lambda s: s > 0.5,
    "compare twice": lambda s: (s > 0.5) & (s < 2),
    "either": lambda s: (s > 2) | (s < -2),
    "invert": lambda s: ~(s > 0),
    "xor": lambda s: (s > 0) ^ (s > 1),
    "equal": lambda s: s == s.isel(k=0),
    "exp": lambda s: np.exp(s / 8),
    "sqrt of abs": lambda s: np.sqrt(abs(s)),
    "maximum": lambda s: np.maximum(s, 0),
    "arctan2": lambda s: np.arctan2(s, s + 10),
    "hypot": lambda s: np.hypot(s, 2),
    "isfinite": np.isfinite,
    "sign": np.sign,
    "where": lambda s: s.where(s > 0),
    "where else": lambda s: s.where(s > 0, -1),
    "xr.where": lambda s: xr.where(s > 0, s, 2 * s),
    "fillna": lambda s: s.where(s > 0).fillna(7),
    "isnull": lambda s: s.where(s > 0).isnull(),
    "notnull": lambda s: s.where(s > 0).notnull(),
    "clip": lambda s: s.clip(-1, 1),
    "clip above": lambda s: s.clip(max=1),
    "round": lambda s: s.round(1),
    "astype": lambda s: s.astype("float64"),
    "astype int": lambda s: s.astype("int32"),
    "astype twice": lambda s: (s.astype("int16") * 2).astype("float32"),
    "real": lambda s: s.real,
    "conj": lambda s: s.conj(),
    "transpose": lambda s: s.transpose("x", "k", "z", "y"),
    "reverse dims": lambda s: s.T,
    "one particle": lambda s: s.isel(k=3),
    "one plane": lambda s: s.isel(z=2),
    "slice": lambda s: s.isel(k=slice(2, 6), x=slice(1, 12)),
    "steps": lambda s: s.isel(y=slice(None, None, 3)),
    "steps from": lambda s: s.isel(x=slice(1, None, 4), z=slice(0, 5, 2)),
    "flip": lambda s: s.isel(z=slice(None, None, -1)),
    "flip in steps": lambda s: s.isel(y=slice(10, 1, -2), k=slice(None, None, -1)),
    "list": lambda s: s.isel(k=[5, 1, 1, 3]),
    "list and slice": lambda s: s.isel(k=[0, 6], y=slice(2, 9)),
    "list and integer": lambda s: s.isel(x=[2, 3, 9], k=2),
    "two lists": lambda s: s.isel(k=[0, 6, 2], x=[1, 12]),
    "pointwise lists": lambda s: s.isel({d: xr.DataArray([1, 4], dims="p") for d in "kx"}),
    "mask along k": lambda s: s.isel(k=np.array([True, False, True] + 4 * [False])),
    "sel": lambda s: s.sel(y=4.0),
    "sel nearest": lambda s: s.sel(x=[3.1, 9.2], method="nearest"),
    "sel slice": lambda s: s.sel(z=slice(3.0, 9.0)),
    "loc": lambda s: s.loc[{"y": slice(2.0, 8.0)}],
    "brackets": lambda s: s[1:4, ..., 2],
    "head": lambda s: s.head(k=2),
    "thin": lambda s: s.thin(y=2, x=3),
    "slice of a slice": lambda s: s.isel(k=slice(1, 7)).isel(k=slice(2, None), z=1),
    "drop where k": lambda s: s.where(s.score > 0.4, drop=True),
    "sort by score": lambda s: s.sortby("score", ascending=False),
    "roll": lambda s: s.roll(x=3),
    "shift": lambda s: s.shift(y=2),
    "pad": lambda s: s.pad(x=1, constant_values=0.0),
    "diff": lambda s: s.diff("x"),
    "cumsum": lambda s: s.cumsum("k"),
    "expand": lambda s: s.expand_dims(c=2),
    "new axis": lambda s: s.expand_dims("c"),
    "squeeze": lambda s: s.isel(z=[2]).squeeze("z"),
    "stacked": lambda s: s.stack(pixel=("y", "x")).drop_vars(["pixel", "y", "x"]),
    "concat": lambda s: xr.concat([s, s.isel(k=slice(0, 2)) * 2], "k"),
    "broadcast": lambda s: s.broadcast_like(s.isel(k=0)),
    "minus mean": lambda s: s - s.mean("k"),
    "minus our mean": lambda s: s - lv.stats.mean(s),
    "standardised": lambda s: (s - lv.stats.mean(s)) / lv.stats.std(s),
    "coefficient of variation": lambda s: lv.stats.var(s).where(lv.stats.mean(s) != 0),
    "minus an image": lambda s: s - twin(s, IMAGE, "y", "x"),
    "times weights": lambda s: s * weights(s),
    "weights from the left": lambda s: weights(s) * s,
    "plus a turned one": lambda s: s + s.transpose("x", "y", "z", "k"),
    "minus the first": lambda s: s - s.isel(k=0),
    "neighbours": lambda s: s.isel(k=slice(1, None)).drop_vars("score") - s.isel(k=slice(0, -1)),
    "chunk": lambda s: s.chunk(k=2, y=5),
    "chunk and add": lambda s: s.chunk(z=2) + s,
    "mean of k": lambda s: s.mean("k"),
    "max of space": lambda s: s.max(("z", "y", "x")),
    "var": lambda s: s.var("x"),
    "median": lambda s: s.chunk(k=-1).median("k"),
    "dot": lambda s: s.dot(s.isel(k=0), dim=("y", "x")),
    "rolling": lambda s: s.rolling(k=3, min_periods=1).mean(),
    "coarsen": lambda s: s.coarsen(x=2, boundary="trim").mean(),
    "groupby": lambda s: s.assign_coords(half=("k", np.arange(7) % 2)).groupby("half").mean(),
    "ufunc parallelized": lambda s: xr.apply_ufunc(np.cbrt, s, dask="parallelized"),
    "map_blocks": lambda s: s.map_blocks(operator.neg) if s.chunks else -s,
    "rename": lambda s: s.rename(z="depth"),
    "deep copy": lambda s: s.copy(deep=True) + 1,
    "filter in between": lambda s: lv.filters.gaussian(s * 2, 2.0) - s,
    "filters of expressions": lambda s: lv.filters.uniform(s.isel(z=slice(1, 5)) ** 2, 3).isel(k=1),
}  # fmt: skip


def synthetic() -> xr.DataArray:
    """Return generated noise with the labels of the other stacks."""
    noise = lv.synthetic.noise(labelled(A), seed=4)
    return labelled(noise.data.rechunk((3, 5, 11, 13)))


BACKINGS = {
    "opened": lambda: stored(A, (2, 5, 6, 13)),
    "computed": lambda: lv.filters.gaussian(stored(A, (1, 5, 11, 13)), 0.5),
    "synthetic": synthetic,
}
ROWS = pytest.mark.parametrize("name", EXPRESSIONS)


def near(result: np.ndarray, expected: np.ndarray) -> None:
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(
        result.astype(np.float64), expected.astype(np.float64), rtol=2e-5, atol=2e-5
    )


def of_three(a: np.ndarray) -> np.ndarray:
    """Return means of every value and its neighbours along the last axis, reflected at the ends."""
    wide = np.pad(a.astype("f8"), [(0, 0)] * (a.ndim - 1) + [(1, 1)], mode="symmetric")
    return (wide[..., :-2] + wide[..., 1:-1] + wide[..., 2:]) / 3


@ROWS
@pytest.mark.parametrize("backing", BACKINGS)
def test_expressions_have_the_values_of_numpy(name, backing, tmp_path):
    stack = BACKINGS[backing]()
    plain = EXPRESSIONS[name](stack.compute())
    with dask.config.set(scheduler="synchronous"):
        result = EXPRESSIONS[name](stack)
        assert type(result.data) in (da.Array, np.ndarray)
        near(result.values, plain.values)
        mean = lv.stats.mean(result.astype("f8"), None)
        near(mean.values, np.asarray(plain.values.astype("f8").mean()))
        smooth = lv.filters.uniform(result.astype("f8"), {str(result.dims[-1]): 3})
        near(smooth.values, of_three(plain.values))
        lv.save(
            result.drop_vars([c for c in result.coords if c not in result.dims]),
            tmp_path / "a.zarr",
        )
    with dask.config.set(scheduler="threads", num_workers=2):
        near(lv.open(tmp_path / "a.zarr").values, plain.values)
        near(result.values, plain.values)


def test_many_expressions_are_tested():
    assert len(EXPRESSIONS) >= 80


#: expressions that are read as recipes: a plane of the result needs a plane of the store
THIN = (
    "plus", "times itself", "compare twice", "where else", "fillna", "clip", "astype", "transpose",
    "slice", "list", "flip", "steps", "minus our mean", "times weights", "minus the first",
)  # fmt: skip


@pytest.mark.parametrize("name", THIN)
def test_expressions_stay_lazy_by_region(name):
    stack = stored(A, (2, 5, 6, 13))
    result = EXPRESSIONS[name](stack)
    assert not any(
        isinstance(leaf, Foreign) and not is_in_memory(leaf) and "lazyvol" not in leaf.name
        for leaf in leaves(as_lazy_array(result.data).recipe)
    )
    token = f"stored-{A.dtype}-{A.shape}-{(2, 5, 6, 13)}"
    plane = result.isel(z=1).copy()
    dask.compute(lv.stats.mean(stack))
    READS[token].clear()
    plane.compute()
    passes = 1 if name != "minus our mean" else 1 + 5
    thick = 2 if name == "minus the first" else 1
    assert elements_read(token) <= passes * thick * A.size / A.shape[1]


# assignments -----------------------------------------------------------------------------------


def set_item(s: xr.DataArray) -> None:
    s[0] = 0


def set_loc(s: xr.DataArray) -> None:
    s.loc[{"y": 4.0}] = 5


def set_where(s: xr.DataArray) -> None:
    s.data[s.data > 1] = -1


def set_slice(s: xr.DataArray) -> None:
    s[{"k": slice(1, 3), "x": 2}] = 9


def add_out(s: xr.DataArray) -> None:
    if isinstance(s.data, da.Array):
        np.add(s.data, 1, out=s.data)
    else:
        s.data += 1


def add_in_place(s: xr.DataArray) -> None:
    s += 1


def replace_data(s: xr.DataArray) -> None:
    s.data = s.data * 0 + 3


@pytest.mark.parametrize("backing", [*BACKINGS, "masks"])
@pytest.mark.parametrize(
    "change", [set_item, set_loc, set_where, set_slice, add_out, add_in_place, replace_data]
)
def test_assignments_take_effect(change, backing, tmp_path):
    if backing == "masks":
        stack = lv.masks.apply(stored(A, (2, 5, 6, 13)), lv.as_stack(A[0] > 0).assign_coords(
            {d: stored(A, (2, 5, 6, 13))[d] for d in "zyx"}), 0.25)  # fmt: skip
    else:
        stack = BACKINGS[backing]()
    plain = stack.compute()
    change(plain)
    change(stack)
    near(stack.values, plain.values)
    near((stack * 1).values, plain.values)
    near(stack.isel(k=0).values, plain.isel(k=0).values)
    near(lv.stats.max(stack).values, plain.values.max(0))
    smooth = lv.filters.uniform(stack.astype("f8"), {"x": 3})
    near(smooth.values, of_three(plain.values))
    lv.save(stack, tmp_path / "a.zarr")
    near(lv.open(tmp_path / "a.zarr").values, plain.values)


# data sets -------------------------------------------------------------------------------------


def twice(block: xr.DataArray) -> xr.DataArray:
    return block * 2


def mixed() -> xr.Dataset:
    """Return lazy results, a foreign dask variable and a numpy one."""
    stack = stored(A, (2, 5, 6, 13))
    described = lv.stats.describe(stack)
    return described.assign(
        cv=described["var"].where(described["mean"] != 0),
        theirs=("k", da.arange(7, chunks=3)),
        ours=stack,
        plain=("k", np.arange(7.0)),
    )


@pytest.mark.parametrize(
    "use",
    [
        lambda d: d.compute(),
        lambda d: d.persist().compute(),
        lambda d: d.chunk(k=2).compute(),
        lambda d: d.merge(xr.Dataset({"more": d.theirs * 2})).compute(),
        lambda d: xr.map_blocks(
            lambda block: block * 2, d[["ours", "theirs"]].chunk(k=2)
        ).compute(),
        lambda d: d.assign_coords(m=d.ours.mean(("z", "y", "x"))).compute(),
        lambda d: dask.compute(d)[0],
        lambda d: dask.optimize(d)[0].compute(),
        lambda d: d.isel(k=slice(0, 3)).load(),
    ],
)
def test_data_sets_mix_lazy_results_with_any_dask_array(use):
    result = use(mixed())
    assert set(result) >= {"ours", "theirs"}
    factor = 1 if "var" in result else 2
    n = result.sizes["k"]
    np.testing.assert_allclose(result.ours.values, factor * A[:n], rtol=1e-6)


def test_data_sets_are_written_by_xarray(tmp_path):
    zarr = pytest.importorskip("zarr")
    assert zarr
    result = mixed().drop_vars("session")
    result.chunk(k=2).to_zarr(tmp_path / "theirs.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "theirs.zarr", consolidated=False)
    np.testing.assert_allclose(again.cv.values, A.var(0), rtol=1e-5)


def test_generalised_ufuncs_are_not_elementwise():
    square = np.random.default_rng(0).normal(size=(3, 8, 8))
    lazy = lv.as_stack(da.from_array(square, chunks=(1, 4, 4)))
    image = (lazy * 1).data
    product = np.matmul(image, image)
    np.testing.assert_allclose(product.compute(), square @ square)
    wrapped = lv.as_stack(product)
    np.testing.assert_allclose(lv.stats.sum(wrapped, None).values, (square @ square).sum())


@pytest.mark.parametrize(
    "change",
    [
        clone,
        lambda x: bind(x, checkpoint(x)),
        lambda x: dask.optimize(x)[0],
        lambda x: x.persist(),
        lambda x: cloudpickle.loads(cloudpickle.dumps(x)),
        lambda x: x.copy(),
        lambda x: da.from_delayed(dask.delayed(x), x.shape, x.dtype),
        lambda x: x.rechunk(3).rechunk((1, 5, 11, 13)),
        lambda x: da.concatenate([x[:2], x[2:]]),
        lambda x: x.map_blocks(np.copy),
        lambda x: da.Array(x.dask, x.name, x.chunks, meta=x._meta),
    ],
)
def test_dask_operations_on_whole_graphs_keep_the_values(change):
    stack = stored(A, (1, 3, 11, 13))
    result = lv.filters.gaussian(stack - lv.stats.mean(stack), 2.0)
    changed = result.copy(data=change(result.data))
    near(changed.values, result.values)
    near(lv.stats.max(changed).values, result.values.max(0))
    assert lv.explain(lv.stats.max(changed)).tasks >= 1


@pytest.mark.parametrize("empty", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "picked", [[0, 2, 4], [3, 0, 0, 1], slice(None, None, 3), [True, False] * 3]
)
def test_selections_of_empty_arrays_keep_their_lengths(picked, empty):
    shape = [6, 6, 6, 6]
    shape[empty] = 0
    plain = np.zeros(shape)
    stack = blockwise(np.copy, lv.as_stack(da.from_array(plain, chunks=4)))
    axis = (empty + 1) % 4
    index = (slice(None),) * axis + (picked,)
    selected = stack.data[index]
    for result in (selected, selected * 2, selected.T.rechunk(5).T):
        assert result.compute().shape == plain[index].shape == result.shape
    again = blockwise(np.copy, stack.copy(data=stack.data).isel({stack.dims[axis]: picked}))
    assert again.compute().shape == plain[index].shape


def test_empty_blocks_beside_a_single_voxel_do_not_count():
    """A dask mask leaves them; dask computes ``x + 1`` of the chunks (1, 0) as two values."""
    chosen = da.from_array(np.arange(7) == 4, chunks=3)
    array = da.from_array(A, chunks=(3, 5, 6, 13))[chosen].compute_chunk_sizes()
    assert array.chunks[0] == (0, 1, 0)
    for stack in (lv.as_stack(array), lv.as_stack(A[4:5]).copy(data=array)):
        near(lv.stats.max(stack, "x").values, A[4:5].max(-1))
        filled = lv.density.blocks(stack, {"x": 13})
        near(filled.values, np.ones((1, 5, 11, 1), np.float32))


def test_blocks_of_another_type_than_declared_are_cast():
    array = da.from_array(A, chunks=(2, 5, 6, 13)).map_blocks(np.float64, dtype=np.float32)
    stack = labelled(array)
    for result in (
        lv.stats.max(stack),
        lv.filters.median(stack, 1),
        lv.masks.apply(stack, stack > 0),
    ):
        assert result.dtype == result.values.dtype == np.float32
    near(lv.stats.max(stack).values, A.max(0))


# masks and other kinds of blocks ---------------------------------------------------------------

HIDDEN = A > 1


def hidden_mask(values: np.ndarray) -> xr.DataArray:
    """Return a stack whose blocks are masked, which its dask array does not announce."""
    blocks = dask.delayed(np.ma.masked_array)(values, HIDDEN)
    return labelled(da.from_delayed(blocks, values.shape, values.dtype))


def test_masked_blocks_are_nan():
    stack = hidden_mask(A)
    plain = np.where(HIDDEN, np.nan, A)
    near(lv.stats.mean(stack, None, skipna=True).values, np.asarray(np.nanmean(plain)))
    near(lv.filters.maximum(stack, 1).values, plain)
    with pytest.raises(LabelError, match="must hold floats where values are masked"):
        lv.stats.mean(hidden_mask(A.astype("i4"))).compute()


def test_arithmetic_with_masked_arrays_keeps_the_mask():
    masked = da.from_array(np.ma.masked_array(A, HIDDEN), chunks=(2, 5, 6, 13))
    result = stored(A, (2, 5, 6, 13)).data + masked
    computed = result.compute()
    np.testing.assert_array_equal(np.ma.getmaskarray(computed), HIDDEN)
    near(lv.stats.max(result, None).values, np.asarray(2 * A[~HIDDEN].max()))


def test_a_changed_array_in_memory_is_another_input():
    reference = stored(A, (2, 5, 11, 13)).isel(k=0, drop=True)
    stack = labelled(A.copy())
    first = lv.registration.shifts(stack, reference)
    stack.values[...] = np.roll(A, 2, 2)
    second = lv.registration.shifts(stack, reference)
    result = dask.compute(first, second)
    assert not np.array_equal(*result)
    near(result[0].values, lv.registration.shifts(labelled(A), reference).values)


def test_coordinates_may_have_other_chunks():
    stack = labelled(A).chunk(k=2)
    result = lv.filters.uniform(stack.isel(k=slice(1, None)), {"x": 3}).chunk(k=3)
    middle = lv.stats.quantile(result, 0.5, "x")
    near(middle.values, np.quantile(of_three(A[1:]), 0.5, -1).astype("f4"))


def test_a_graph_is_freed_with_its_last_array():
    stack = lv.as_stack(da.from_array(A, chunks=2))
    mean = lv.stats.mean(lv.filters.laplace(stack) + 1)
    mean.compute()
    graphs = (stack.data.dask, mean.data.dask)
    layers = [weakref.ref(layer) for graph in graphs for layer in graph.layers.values()]
    del stack, mean, graphs
    gc.collect()
    assert not any(layer() for layer in layers)


@pytest.mark.parametrize("steps", [2, 30])
def test_a_step_of_a_chain_has_as_many_inputs_at_any_height(steps):
    stack = lv.as_stack(da.from_array(A, chunks=2))
    for _ in range(steps):
        stack = stack + 0.1 * lv.filters.laplace(stack)
    assert len(as_lazy_array(stack.data).origin.arrays) == 2


def test_a_stack_without_a_name_stays_without():
    lazy = da.from_array(A, chunks=2)
    stack = lv.as_stack(A).chunk(k=2)
    results = (
        lv.as_stack(lazy), lv.stats.mean(lazy), lv.filters.laplace(stack), lv.scores.ncc(stack),
        lv.clustering.distances(stack), lv.density.block_mean(stack, 1),
    )  # fmt: skip
    assert [r.name for r in results] == [None] * len(results)
