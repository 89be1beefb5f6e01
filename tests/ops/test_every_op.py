"""Promises of all operations, tested on every row of the table."""

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

import lazyvol as lv
from tests.oracles import ORACLES, VOLUME, Case, function_of
from tests.strategies import (
    BACKINGS,
    DTYPE,
    FEW,
    chunked,
    chunkings,
    labelled,
    values,
)

ROWS = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in ORACLES.items()])


def refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("building computed something")


def parts(result: Any) -> dict[str, Any]:
    """Return results by name; that of a single array is empty."""
    if isinstance(result, xr.Dataset):
        return {str(n): a for n, a in result.data_vars.items()}
    return dict(result) if isinstance(result, Mapping) else {"": result}


def of(option: Any, name: str) -> Any:
    return option[name] if isinstance(option, Mapping) else option


def declared(case: Case, name: str, data: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that a row declares for data of a dtype."""
    promised = of(case.dtype, name)
    if promised == "same":
        return data
    if promised == "float":
        return data if data.kind == "f" else np.dtype(np.float64)
    return np.dtype(promised)


def check(case: Case, result: Any, array: np.ndarray) -> None:
    """Check dims, dtype, shape and values of a result, which is computed once if it is lazy."""
    expected = parts(case.oracle(array))
    computed = parts(dask.compute(result)[0])
    assert set(computed) == set(expected)
    for name, lazy in parts(result).items():
        got = computed[name]
        assert got.dims == case.dims
        assert got.dtype == lazy.dtype == declared(case, name, array.dtype)
        assert got.shape == lazy.shape == np.shape(expected[name])
        assert_near(got.values, expected[name], case.ulps)


def assert_near(got: np.ndarray, expected: np.ndarray, ulps: float) -> None:
    """Check that results differ by at most ``ulps`` units of precision of the largest value."""
    if ulps == 0 or got.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    finite = np.abs(expected[np.isfinite(expected)], dtype=np.float64)
    atol = ulps * np.finfo(got.dtype).eps * float(np.max(finite, initial=0.0))
    np.testing.assert_allclose(got.astype(np.float64), expected, rtol=0, atol=atol)


# the table -------------------------------------------------------------------------------------


def topics() -> Iterator[str]:
    """Yield the modules of public operations."""
    import lazyvol.ops

    for module in pkgutil.iter_modules(lazyvol.ops.__path__):
        if hasattr(import_module(f"lazyvol.ops.{module.name}"), "__all__"):
            yield module.name


@pytest.mark.parametrize("topic", list(topics()))
def test_every_public_name_has_a_row(topic):
    module = import_module(f"lazyvol.ops.{topic}")
    rows = {function_of(name) for name in ORACLES}
    missing = [n for n in module.__all__ if f"{topic}.{n}" not in rows]
    assert not missing, f"without a row in tests/oracles.py: {missing}"
    assert getattr(lv, topic) is module
    undocumented = [n for n in module.__all__ if ">>>" not in (getattr(module, n).__doc__ or "")]
    assert not undocumented, f"without an example: {undocumented}"


def test_every_row_is_a_public_name():
    for name in map(function_of, ORACLES):
        topic, function = name.split(".")
        assert function in import_module(f"lazyvol.ops.{topic}").__all__


# values ----------------------------------------------------------------------------------------


@ROWS
@given(grid=chunkings(), data=st.data())
@FEW
def test_any_chunking_matches_the_oracle(case, grid, data):
    dtype = data.draw(DTYPE if set(case.dtypes) > {"uint8"} else st.just("uint8"))
    array = values(dtype)
    with dask.config.set(scheduler=refuse):
        result = case.op(chunked(array, grid))
    with dask.config.set(scheduler="sync"):
        check(case, result, array)


@ROWS
@pytest.mark.parametrize("backing", BACKINGS)
def test_any_backing_matches_the_oracle(case, backing):
    array = values("float32")
    with dask.config.set(scheduler="threads", num_workers=2):
        check(case, case.op(BACKINGS[backing](array)), array)


@ROWS
def test_a_cluster_matches_the_oracle(case, client):
    array = values("float32")
    with client.as_current():
        check(case, case.op(BACKINGS["irregular"](array)), array)


@ROWS
def test_numpy_stays_numpy_and_dask_stays_lazy(case):
    array = values("float32")
    for name, result in parts(case.op(BACKINGS["3-D chunks"](array))).items():
        assert isinstance(result.data, da.Array), name
    if not case.generated:
        for name, result in parts(case.op(labelled(array))).items():
            assert isinstance(result.data, np.ndarray), name


@ROWS
def test_inputs_are_not_changed(case):
    array = values("float32")
    array.setflags(write=False)
    stack = labelled(array)
    before = stack.copy(deep=True)
    case.op(stack)
    xr.testing.assert_identical(stack, before)


@ROWS
def test_the_order_of_dims_does_not_matter(case):
    if case.generated:
        return
    stack = chunked(values("float32"), (3, 2, 4, 7))
    plain, turned = parts(case.op(stack)), parts(case.op(stack.transpose("x", "k", "z", "y")))
    for name, result in plain.items():
        again = turned[name].transpose(*result.dims)
        np.testing.assert_allclose(again.values, result.values, rtol=1e-5, atol=1e-5)


# labels ----------------------------------------------------------------------------------------


@ROWS
@pytest.mark.parametrize("backing", ["numpy", "irregular"])
def test_coordinates_attributes_and_name_are_kept(case, backing):
    stack = BACKINGS[backing](values("float32"))
    for name, result in parts(case.op(stack)).items():
        for d in VOLUME:
            if d in case.dims and d not in case.moved:
                assert result.coords[d].variable.identical(stack.coords[d].variable)
        if not case.generated:
            assert_labels(result, stack, case, name)


def assert_labels(result: xr.DataArray, stack: xr.DataArray, case: Case, name: str) -> None:
    assert result.coords["session"].item() == "a7"
    assert ("score" in result.coords) == ("k" in case.dims)
    assert result.name == (name or "density")
    power = of(case.power, name)
    units = {1: "e", 2: "e^2"}.get(power, power)
    assert result.attrs.get("units") == units
    assert (result.attrs["handedness"], result.attrs["contrast"]) == ("unknown", "dark")
