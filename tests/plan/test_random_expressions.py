"""Random chains of xarray, dask and numpy steps before an operation have the values of numpy."""

import copy
import random
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LazyvolError

Change = Callable[[xr.DataArray], xr.DataArray]
#: elements of an array after a step, at most
MOST_ELEMENTS = 20_000


def doubled(block):
    return block * 2


def assigned(array: xr.DataArray, dim: str, where: slice, value: float) -> xr.DataArray:
    array = array.copy()
    array[{dim: where}] = np.asarray(value).astype(array.dtype)
    return array


def assigned_by_position(array: xr.DataArray, dim: str, value: float) -> xr.DataArray:
    array = array.assign_coords({dim: np.arange(array.sizes[dim]) * 1.0})
    array.loc[{dim: slice(0, 1.5)}] = np.asarray(value).astype(array.dtype)
    return array


def assigned_where(array: xr.DataArray, value: float) -> xr.DataArray:
    data = array.data.copy()
    data[data > value] = np.asarray(value).astype(array.dtype)
    return array.copy(data=data)


def added_in_place(array: xr.DataArray, value: float) -> xr.DataArray:
    array = array.copy()
    array += np.asarray(value).astype(array.dtype)
    return array


def added_by_out(array: xr.DataArray, value: float) -> xr.DataArray:
    data = array.data.copy()
    np.add(data, np.asarray(value).astype(array.dtype), out=data)
    return array.copy(data=data)


def on_dask(change: Callable[[da.Array], da.Array]) -> Change:
    """Return a change of a dask array; arrays in memory become one for it."""

    def changed(array: xr.DataArray) -> xr.DataArray:
        return array.copy(data=change(da.asarray(array.data)))

    return changed


def changes(rng: random.Random, array: xr.DataArray) -> dict[str, Change]:
    """Return changes along random dims by random numbers: of values, shape, order and chunks."""
    dim, other = rng.choice(array.dims), rng.choice(array.dims)
    n, value = array.sizes[dim], round(rng.uniform(-1, 2), 2)
    ends = sorted((rng.randint(0, n), rng.randint(0, n)))
    part = slice(*ends, rng.choice([1, 1, 2, 3]))
    back = slice(ends[1] - 1, None, -rng.choice([1, 2])) if ends[1] else part
    places = [rng.randrange(n) for _ in range(3)] if n else []
    chosen = np.array([rng.random() < 0.6 for _ in range(n)], bool)
    order = rng.sample(array.dims, array.ndim)
    every: dict[str, Change] = {
        "slice": lambda a: a.isel({dim: part}),
        "backwards": lambda a: a.isel({dim: back}),
        "two slices": lambda a: a.isel({dim: part}).isel({other: slice(0, None, 2)}),
        "list": lambda a: a.isel({dim: places}),
        "vector": lambda a: a.isel({dim: xr.DataArray(places, dims=dim)}),
        "mask": lambda a: a.isel({dim: chosen}),
        "one": lambda a: a.isel({dim: 0}),
        "without the first": lambda a: a.drop_isel({dim: [0]}),
        "arithmetic": lambda a: a * value + 1,
        "with itself": lambda a: a * a - a,
        "minus the first": lambda a: a - a.isel({dim: 0}, drop=True),
        "standardized": lambda a: (a - a.mean(dim)) / (a.std(dim) + 1),
        "where": lambda a: a.where(a > value),
        "where else": lambda a: xr.where(a > value, a, -a),
        "where, dropped": lambda a: a.where(xr.DataArray(chosen, dims=dim), drop=True),
        "compared": lambda a: (a > value).astype("f4"),
        "float64": lambda a: a.astype("f8"),
        "int16": lambda a: a.fillna(0).clip(-100, 100).astype("i2"),
        "clip": lambda a: a.clip(-1, 1.5),
        "roll": lambda a: a.roll({dim: 2}),
        "shift": lambda a: a.shift({dim: -1}),
        "pad": lambda a: a.pad({dim: (1, 2)}, mode="edge"),
        "diff": lambda a: a.diff(dim),
        "cumsum": lambda a: a.cumsum(dim),
        "transpose": lambda a: a.transpose(*order),
        "concat": lambda a: xr.concat([a.isel({dim: slice(0, 2)}), a * 2], dim),
        "rolling": lambda a: a.rolling({dim: 3}, min_periods=1, center=True).mean(),
        "coarsen": lambda a: a.coarsen({dim: 2}, boundary="trim").mean(),
        "sortby": lambda a: (
            a.assign_coords(key=(dim, -np.arange(n) * 7 % 5)).sortby("key").drop_vars("key")
        ),
        "reindex": lambda a: a.assign_coords({dim: np.arange(n)}).reindex({dim: range(-1, n + 1)}),
        "groups": lambda a: a.groupby(xr.DataArray(np.arange(n) % 2, dims=dim, name="half")).map(
            lambda group: group - group.mean(dim)
        ),
        "stacked": lambda a: a.stack(pixel=a.dims[-2:]).unstack("pixel"),
        "broadcast": lambda a: a.broadcast_like(a.isel({dim: [0]}).drop_vars(dim, errors="ignore")),
        "maximum": lambda a: a.max(dim),
        "dot": lambda a: a * a.astype("f8").dot(a, dim=dim),
        "sorted": lambda a: xr.apply_ufunc(
            np.sort, a if a.chunks is None else a.chunk({dim: -1}),
            input_core_dims=[[dim]], output_core_dims=[[dim]],
            dask="parallelized", output_dtypes=[a.dtype],
        ),
        "assigned": lambda a: assigned(a, dim, part, value),
        "assigned by position": lambda a: assigned_by_position(a, dim, value),
        "assigned where": lambda a: assigned_where(a, value),
        "added in place": lambda a: added_in_place(a, value),
        "added by out": lambda a: added_by_out(a, value),
        "chunks of 1": lambda a: a.chunk({dim: 1}),
        "chunks of two axes": lambda a: a.chunk({dim: max(1, n // 2), other: 3}),
        "rechunk": on_dask(lambda data: data.rechunk(2)),
        "persist": lambda a: a.persist(),
        "optimize": lambda a: dask.optimize(a)[0],
        "pickle": lambda a: cloudpickle.loads(cloudpickle.dumps(a)),
        "deep copy": copy.deepcopy,
        "map_blocks": lambda a: a.map_blocks(doubled, template=a * 2) if a.chunks else doubled(a),
        "dask's map_blocks": on_dask(lambda data: data.map_blocks(np.copy)),
        "dask's stack": on_dask(lambda data: da.stack([data, data])[1]),
        "dask's take": on_dask(lambda data: da.take(data, np.arange(data.shape[0])[::-1], 0)),
        "dask's flip": on_dask(lambda data: da.flip(data, -1)),
        "from_delayed": on_dask(
            lambda data: da.from_delayed(dask.delayed(data), data.shape, data.dtype)
        ),
        "in a Dataset": lambda a: a.to_dataset(name="a").assign(b=lambda d: d.a * 2)["b"],
        "our filter": lambda a: lv.filters.uniform(a, 3),
        "minus our mean": lambda a: a - lv.stats.mean(a, dim),
    }  # fmt: skip
    return every


OPERATIONS: dict[str, Callable[[xr.DataArray], xr.DataArray | xr.Dataset]] = {
    "no operation": lambda a: a,
    "gaussian": lambda a: lv.filters.gaussian(a, 1.2),
    "median": lambda a: lv.filters.median(a, 3),
    "mean": lambda a: lv.stats.mean(a, a.dims[0]),
    "var": lambda a: lv.stats.var(a, a.dims[-1], skipna=True),
    "quantile": lambda a: lv.stats.quantile(a, 0.3, a.dims[0]),
    "describe": lambda a: lv.stats.describe(a, a.dims[0]),
    "gradient": lv.derivatives.gradient,
    "block means": lambda a: lv.density.block_mean(a, 2),
    "label": lambda a: lv.masks.label(a > 0.3),
    "unit norm": lv.intensity.unit_norm,
}


def drawn(rng: random.Random, folder: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Return random values in one of four forms, and as an array in memory."""
    dims = ("k", "z", "y", "x")[-rng.choice([2, 3, 4, 4]) :]
    shape = [rng.choice([3, 5, 7, 11]) for _ in dims]
    dtype = rng.choice(["f4", "f4", "f8", "i2", "u1"])
    numbers = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 8, shape)
    values = (np.abs(numbers) if dtype == "u1" else numbers).astype(dtype)
    chunks = [min(n, rng.choice([1, 2, 3, n])) for n in shape]
    form = rng.choice(["stored", "dask", "result", "memory"])
    plain = lv.as_stack(values.copy(), dims=dims)
    lazy = lv.as_stack(da.from_array(values, chunks=chunks), dims=dims)
    if form == "memory":
        lazy = plain.copy(deep=True)
    elif form == "stored":
        lazy.drop_vars(list(lazy.coords)).to_dataset(name="a").to_zarr(folder / "in.zarr")
        lazy = lv.open(folder / "in.zarr")
    elif form == "result":
        lazy, plain = (lv.filters.uniform(a, 2) for a in (lazy, plain))
    return (a.drop_vars(list(a.coords)) for a in (lazy, plain.compute()))  # type: ignore[return-value]


def outcome(operation: Callable[[], xr.DataArray | xr.Dataset]) -> xr.DataArray | xr.Dataset | None:
    """Return the computed result of an operation, None if it refuses its input."""
    try:
        return operation().compute()
    except LazyvolError:
        return None


def check(seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    lazy, plain = drawn(rng, folder)
    trail = []
    for _ in range(rng.randint(1, 4)):
        every = changes(rng, plain)
        name = rng.choice(sorted(every))
        try:
            changed = every[name](plain).compute()
        except (ValueError, IndexError, TypeError, KeyError, ZeroDivisionError):
            continue  # not possible for this shape or dtype
        if changed.ndim < 2 or changed.size > MOST_ELEMENTS:
            continue
        trail.append(name)
        lazy, plain = every[name](lazy), changed
    name = rng.choice(sorted(OPERATIONS))
    trail.append(name)
    result = outcome(lambda: OPERATIONS[name](lazy))
    expected = outcome(lambda: OPERATIONS[name](plain))
    assert (result is None) == (expected is None), (seed, trail)
    if result is None or expected is None:
        return
    scale = max((float(np.nanmax(abs(v), initial=1)) for v in _values(expected)), default=1.0)
    for got, wanted in zip(_values(result), _values(expected), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=2e-4 * scale, err_msg=str(trail))
    lv.save(OPERATIONS[name](lazy), folder / "out.zarr")
    for got, wanted in zip(_values(lv.open(folder / "out.zarr")), _values(result), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6, err_msg=str(trail))


def _values(result: xr.DataArray | xr.Dataset) -> list[np.ndarray]:
    """Return values as float64, those of a Dataset by name."""
    if isinstance(result, xr.Dataset):
        return [np.asarray(result[name].values, "f8") for name in sorted(map(str, result))]
    return [np.asarray(result.values, "f8")]


#: warnings of numpy and xarray about empty and NaN slices, and of dask about many chunks
pytestmark = [pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("seed", range(30))
def test_random_expressions_have_the_values_of_numpy(seed, tmp_path):
    check(seed, tmp_path)


@pytest.mark.campaign
def test_many_random_expressions(tmp_path):
    for seed in range(1000, 3000):
        folder = tmp_path / str(seed)
        folder.mkdir()
        check(seed, folder)
