"""Helpers of writer tests: variables, saved stores, labels of every kind."""

from pathlib import Path
from uuid import uuid4

import numpy as np

from lazyvol.io.zarr import create as zarr_create
from lazyvol.io.zarr import manifest
from lazyvol.io.zarr.create import run_of
from lazyvol.io.zarr.layout import Variable
from lazyvol.io.zarr.run_plan import RunPlan
from lazyvol.plan.regions import boxes

SHAPE = (5, 7, 11, 13)
DIMS = ("k", "z", "y", "x")
SMALL = 2000


def variable(shape=SHAPE, dtype="float32", dims=DIMS, **labels):
    return Variable(shape=shape, dtype=dtype, dims=dims, **labels)


class Alone:
    """The only array of a store that is being written."""

    def __init__(self, store):
        self.target, self.publish = store.variables[""], store.publish
        self.discard = store.run.discard

    def __getattr__(self, name):
        return getattr(self.target, name)


def create(path, variable, *, plan=None, overwrite=False, resume=False, **options):
    """Start to write a store of one array."""
    plan = plan or RunPlan(uuid4().hex)
    run = run_of(path, plan.token, overwrite=overwrite, resume=resume)
    return Alone(zarr_create.create(run, plan, variable, **options))


def create_group(path, variables):
    """Start to write a data set."""
    plan, shared = RunPlan(uuid4().hex), variable((), "int8", ())
    return zarr_create.create_group(run_of(path, plan.token), plan, variables, shared)


def saved(path, values, *, max_shard_bytes=SMALL, overwrite=False, **labels):
    """Write an array with the lazyvol writer, shard by shard."""
    dims = labels.pop("dims", DIMS[-values.ndim :] if values.ndim <= 4 else None)
    target = create(
        path,
        variable(values.shape, values.dtype, dims, **labels),
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
    )
    for _, region in boxes(target.grid):
        target.write(region, values[region])
    target.publish()
    return target


def shard_files(path):
    """The shards of arrays of two axes or more: coordinates have one."""
    no_shards = ("zarr.json", manifest.NAME)
    files = (p for p in Path(path).rglob("*") if p.is_file() and p.name not in no_shards)
    return sorted(p for p in files if p.parent.name != "c")


LABELS = {
    "voxel_size": {"z": 1.5, "y": 0.1, "x": 1e-7},
    "unit": "angstrom",
    "origin": {"z": -3.25, "x": 0.1},
    "name": "particles",
    "coords": {
        "score": ("k", np.array([0.1, np.nan, np.inf, -np.inf, 1e-300])),
        "single": ("k", np.array([0.1, 2, 3, 4, 5], "f4")),
        "half": ("k", np.array([1, 2, 1, 2, 1], "u1")),
        "flagged": ("k", np.array([True, False, True, False, True])),
        "tomogram": ("k", np.array(["a", "b b", "\u00e5", "", "e"])),
        "time": ("k", np.array([0, 1, 2, 3, 4], "M8[s]")),
        "z": ("z", np.linspace(0, 1, 7)),
    },
    "attrs": {
        "handedness": "unknown",
        "number": 5,
        "real": 0.1,
        "nothing": None,
        "not_a_number": float("inf"),
        "pair": (1, (2.5, "x")),
        "deep": {"a": [1, {"b": True}]},
        "matrix": np.arange(6.0).reshape(2, 3),
    },
}


def assert_labels(opened, dims=DIMS):
    assert opened.dims == dims
    for key in ("voxel_size", "unit", "origin", "name"):
        assert getattr(opened, key) == LABELS[key]
    assert set(opened.coords) == set(LABELS["coords"])
    for name, (dim, values) in LABELS["coords"].items():
        got = opened.coords[name]
        assert got[0] == dim
        assert got[1].dtype == values.dtype
        np.testing.assert_array_equal(got[1], values)
    matrix = opened.attrs["matrix"]
    assert {k: v for k, v in opened.attrs.items() if k != "matrix"} == {
        k: v for k, v in LABELS["attrs"].items() if k != "matrix"
    }
    np.testing.assert_array_equal(matrix, LABELS["attrs"]["matrix"])
