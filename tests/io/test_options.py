"""Options of open and save of a wrong type are refused with the option and the rule."""

from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import LazyvolError, OptionError
from tests.arguments.test_options import WRONG

A = np.random.default_rng(0).random((2, 3, 4, 5))
#: more values that no option of a type takes
ODD: dict[str, Any] = {
    **WRONG, "type": int, "slice": slice(2), "range": range(4), "table": xr.DataArray([1.0, 2.0])
}  # fmt: skip


@pytest.mark.parametrize(
    "option",
    ["source", "chunks", "voxel_size", "unit", "dims", "permissive", "missing", "storage_options"],
)
def test_wrong_options_of_open_give_a_stack_or_a_refusal(option, tmp_path):
    np.save(tmp_path / "a.npy", A)
    for kind, value in ODD.items():
        try:
            lv.open(**{"source": tmp_path / "a.npy", option: value}).compute()
        except LazyvolError:
            continue
        except Exception as error:
            pytest.fail(f"{option}={kind}: {error!r}")


@pytest.mark.parametrize("option", ["resume", "overwrite", "progress", "memory", "storage_options"])
def test_wrong_options_of_save_give_a_file_or_a_refusal(option, tmp_path):
    for kind, value in ODD.items():
        try:
            lv.save(lv.as_stack(A), tmp_path / f"{kind}.zarr", **{option: value})
        except LazyvolError:
            continue
        except Exception as error:
            pytest.fail(f"{option}={kind}: {error!r}")


@pytest.mark.parametrize("kind", [da.from_array, np.asarray, np.ndarray.tolist])
def test_plain_arrays_are_saved_with_labels(kind, tmp_path):
    lv.save(kind(A), tmp_path / "a.zarr")
    found = lv.open(tmp_path / "a.zarr")
    assert found.dims == ("k", "z", "y", "x")
    np.testing.assert_array_equal(found, A)


TAKE_PATHS = {
    "verify": lv.verify,
    "particles": lv.io.particles,
    "resume": lv.resume,
    "save": lambda path: lv.save(A, path),
    "explain": lambda path: lv.explain(lv.as_stack(A), path),
}


@pytest.mark.parametrize("path", [5, 1.5, b"a.zarr"])
@pytest.mark.parametrize("read", TAKE_PATHS.values(), ids=TAKE_PATHS)
def test_only_paths_are_paths(read, path):
    with pytest.raises(OptionError, match="path must be a path, got"):
        read(path)


def test_the_rule_is_in_the_message(tmp_path):
    with pytest.raises(
        OptionError, match=r"open: chunks must be a text, a whole number, .*got 1.5"
    ):
        lv.open(tmp_path / "a.npy", chunks=1.5)
    with pytest.raises(OptionError, match=r"open: voxel_size must be a number.*got '2'"):
        lv.open(tmp_path / "a.npy", voxel_size="2")
    with pytest.raises(OptionError, match="save: overwrite must be True or False, got 'yes'"):
        lv.save(lv.as_stack(A), tmp_path / "a.zarr", overwrite="yes")


def test_numpy_numbers_are_numbers(tmp_path):
    np.save(tmp_path / "a.npy", A)
    opened = lv.open(tmp_path / "a.npy", chunks=np.int64(1), voxel_size=np.float32(2))
    assert (opened.chunks[0], float(opened.x[1])) == ((1, 1), 2.0)
