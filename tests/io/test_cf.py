"""Packed numbers of xarray and NetCDF are decoded to the bit as xarray decodes them."""

import json
import warnings

import h5py
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import FormatError
from lazyvol.io.probe import probe
from tests.io.reader_cases import check_source

SHAPE = (2, 3, 4, 5)
DIMS = ("k", "z", "y", "x")
REAL = (np.random.default_rng(0).normal(size=SHAPE) * 50).astype("f4")
HOLES = np.where(REAL > 40, np.nan, REAL).astype("f4")
WHOLE = np.random.default_rng(1).integers(0, 100, SHAPE).astype("i2")
PACKED = {
    "i2": (HOLES, {"dtype": "i2", "scale_factor": 0.1, "add_offset": 5.0, "_FillValue": -999}),
    "i4": (HOLES, {"dtype": "i4", "scale_factor": 1e-3, "_FillValue": -(2**31)}),
    "f4 scale": (HOLES, {"dtype": "i2", "scale_factor": np.float32(0.1), "_FillValue": -9}),
    "u1 scale": (WHOLE * 0.5, {"dtype": "u1", "scale_factor": 0.5}),
    "offset": (WHOLE, {"add_offset": np.float64(3)}),
    "i2 fill": (WHOLE, {"_FillValue": np.int16(5)}),
    "u8 fill": (WHOLE.astype("u8"), {"_FillValue": np.uint64(7)}),
    "f4 fill": (HOLES, {"_FillValue": np.float32(-5)}),
    "f8 missing": (HOLES.astype("f8"), {"missing_value": -1.0, "_FillValue": -1.0}),
    "unsigned": (np.abs(REAL).round(), {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1}),
    "plain f4": (REAL, {}),
    "plain f4 with nan": (HOLES, {}),
    "plain i2": (WHOLE, {}),
    "bool": (WHOLE > 50, {}),
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", PACKED)
def test_stores_of_xarray_are_decoded_as_xarray_does(kind, zarr_format, tmp_path):
    values, encoding = PACKED[kind]
    written = xr.Dataset({"v": (DIMS, values, {"units": "nm", "a": 1})})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written.to_zarr(
            tmp_path / "a.zarr",
            zarr_format=zarr_format,
            encoding={"v": encoding | {"chunks": (1, 3, 4, 5)}},
            consolidated=False,
        )
    wanted = xr.open_zarr(tmp_path / "a.zarr", consolidated=False)["v"]
    found = lv.open(tmp_path / "a.zarr" / "v")
    assert (found.dtype, found.attrs) == (wanted.dtype, wanted.attrs)
    np.testing.assert_array_equal(found.values, wanted.values)
    assert found.compute().dtype == wanted.dtype
    check_source(probe(tmp_path / "a.zarr" / "v").source, wanted.values, tries=3)


@pytest.mark.parametrize("chunks", [None, (1, 3, 4, 5)])
@pytest.mark.parametrize(
    "attrs",
    [
        {"scale_factor": 0.1, "add_offset": 5.0, "_FillValue": np.int16(7)},
        {"scale_factor": np.float32(2)},
        {"missing_value": np.int16(3), "_FillValue": np.int16(4)},
        {"_Unsigned": b"true"},
        {},
    ],
)
def test_hdf5_is_decoded_as_xarray_does(attrs, chunks, tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        data = file.create_dataset("v", data=WHOLE - 50, chunks=chunks)
        for name, value in attrs.items():
            single = isinstance(value, bytes)
            data.attrs[name] = value if single else np.array([value])
    plain = {n: v.decode() if isinstance(v, bytes) else v for n, v in attrs.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = xr.decode_cf(xr.Dataset({"v": (DIMS, WHOLE - 50, plain)}))["v"].load()
    found = lv.open(tmp_path / "a.nc")
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found.values, wanted.values)


def test_times_and_wrong_attributes_are_refused_by_name(tmp_path):
    times = xr.Dataset({"v": (("z", "y"), np.arange(6).reshape(2, 3).astype("M8[s]"))})
    times.to_zarr(tmp_path / "t.zarr", consolidated=False)
    with pytest.raises(FormatError, match=r"times.*since"):
        lv.open(tmp_path / "t.zarr" / "v")
    xr.Dataset({"v": (DIMS, WHOLE)}).to_zarr(tmp_path / "a.zarr", consolidated=False)
    place = tmp_path / "a.zarr" / "v" / "zarr.json"
    told = json.loads(place.read_text())
    for name, value in (("scale_factor", "large"), ("_FillValue", "many"), ("add_offset", [1, 2])):
        told["attributes"] = {name: value}
        place.write_text(json.dumps(told))
        with pytest.raises(FormatError, match=name):
            lv.open(tmp_path / "a.zarr" / "v")


def test_lengths_in_a_unit_of_time_stay_numbers(tmp_path):
    xr.Dataset({"v": (DIMS, WHOLE, {"units": "seconds"})}).to_zarr(
        tmp_path / "a.zarr", consolidated=False
    )
    found = lv.open(tmp_path / "a.zarr" / "v")
    assert (found.dtype, found.attrs["units"]) == (np.int16, "seconds")


def test_attributes_of_our_own_stores_pack_nothing(tmp_path):
    stack = lv.as_stack(WHOLE).assign_attrs(scale_factor=2.0, _FillValue=5)
    lv.save(stack, tmp_path / "a.zarr")
    np.testing.assert_array_equal(lv.open(tmp_path / "a.zarr").values, WHOLE)
