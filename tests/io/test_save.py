"""Saved results open unchanged, and incomplete ones never appear under their name."""

import os
import subprocess
import sys
from pathlib import Path

import dask
import dask.array as da
import mrcfile
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol.errors import (
    LabelError,
    LazyvolError,
    LossWarning,
    StoreError,
    TargetExistsError,
)
from lazyvol.io import save_result
from lazyvol.io.zarr.writer import Target, TargetGroup
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget, sampled_cost
from lazyvol.plan.graph.lazy_array import recipe_of
from lazyvol.stack import spacing

SHAPE = (7, 5, 11, 13)
A = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def stack() -> xr.DataArray:
    array = da.from_array(A, chunks=(2, 5, 6, 13))
    found = lv.as_stack(array, voxel_size=(3.0, 2.0, 1.5), unit="angstrom", name="density")
    found = found.assign_coords(score=("k", np.arange(7.0)), half=("k", [1, 2] * 3 + [1]))
    return found.assign_attrs(handedness="unknown", contrast="bright")


def test_a_stack_survives_saving_with_all_its_labels(stack, tmp_path):
    shifted = stack.assign_coords(z=("z", stack.z.values + 30, stack.z.attrs))
    lv.save(shifted, tmp_path / "a.zarr")
    xr.testing.assert_identical(lv.open(tmp_path / "a.zarr").compute(), shifted.compute())


def test_other_programs_read_what_we_write(stack, tmp_path):
    lv.save(stack, tmp_path / "a.zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], A)
    assert group.attrs["ome"]["version"] == "0.5"
    with pytest.warns(LossWarning, match="coordinates score, half; attributes handedness, contr"):
        lv.save(stack, tmp_path / "a.mrc")
    with mrcfile.open(tmp_path / "a.mrc") as file:
        np.testing.assert_array_equal(file.data, A)
        assert file.is_volume_stack()
        assert float(file.voxel_size.x) == 1.5
    lv.save(stack.isel(k=0), tmp_path / "a.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), A[0])
    with pytest.warns(LossWarning, match="voxel size and positions .angstrom.; coordinates"):
        lv.save(stack, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), A)


def test_a_dataset_becomes_a_group(stack, tmp_path):
    found = lv.stats.describe(stack).merge(lv.scores.compare(stack))
    lv.save(found, tmp_path / "d.zarr")
    for name in found:
        saved = lv.open(tmp_path / "d.zarr" / name).compute()
        np.testing.assert_array_equal(saved, found[name].values)
        assert saved.dims == found[name].dims
    assert lv.open(tmp_path / "d.zarr/ncc").score.values.tolist() == list(range(7))


def test_units_of_other_coordinates_survive(stack, tmp_path):
    curve = lv.scores.fsc(stack.isel(k=0), stack.isel(k=1))
    lv.save(curve, tmp_path / "fsc.zarr")
    saved = lv.open(tmp_path / "fsc.zarr")
    assert saved.frequency.attrs["units"] == "1/angstrom"
    np.testing.assert_array_equal(saved.frequency, curve.frequency)


def test_saving_costs_one_task_per_shard_beside_the_fold(stack, tmp_path):
    lv.save(stack, tmp_path / "a.zarr")
    counted = []

    class Counter(dask.callbacks.Callback):
        def _posttask(self, key, result, dsk, state, worker_id):
            counted.append(key)

    opened = lv.open(tmp_path / "a.zarr")
    with Counter():
        lv.save(opened * 2, tmp_path / "b.zarr")
    assert len(counted) <= 1 + 1 + 2  # a shard, what it rests on, and the end of the wave


def test_nothing_is_replaced_unasked(stack, tmp_path):
    lv.save(stack, tmp_path / "a.zarr")
    before = lv.open(tmp_path / "a.zarr").values
    with pytest.raises(TargetExistsError, match="overwrite"):
        lv.save(stack * 0, tmp_path / "a.zarr")
    np.testing.assert_array_equal(lv.open(tmp_path / "a.zarr").values, before)
    lv.save(stack * 0, tmp_path / "a.zarr", overwrite=True)
    assert not lv.open(tmp_path / "a.zarr").values.any()


def test_a_full_disk_leaves_nothing_under_the_name_and_can_be_resumed(stack, tmp_path, monkeypatch):
    written = []
    original = Target._write_shard

    def full(self, index, values):
        if not self.key.endswith("0/"):  # a coordinate
            return original(self, index, values)
        if len(written) >= 1:
            raise StoreError("no space left on the disk; free some and resume")
        written.append(index)
        original(self, index, values)

    two = xr.Dataset({"a": stack, "b": stack * 2})
    monkeypatch.setattr(Target, "_write_shard", full)
    with dask.config.set(scheduler="synchronous"), pytest.raises(StoreError, match="resume"):
        lv.save(two, tmp_path / "d.zarr")
    assert not (tmp_path / "d.zarr").exists()
    with pytest.raises(TargetExistsError, match="resume=True"):
        lv.save(two, tmp_path / "d.zarr")
    with pytest.raises(TargetExistsError, match="same operation"):
        lv.save(two * 3, tmp_path / "d.zarr", resume=True)
    written.clear()
    monkeypatch.setattr(Target, "_write_shard", lambda *a: (written.append(a[0]), original(*a)))
    lv.save(two, tmp_path / "d.zarr", resume=True)
    assert len([target for target in written if target.key.endswith("0/")]) == 1
    np.testing.assert_array_equal(lv.open(tmp_path / "d.zarr/b").values, A * 2)


KILLED = """
import os, sys
import lazyvol as lv
from lazyvol.stack import spacing
from lazyvol.io.zarr.writer import Target
original = Target._write_shard
def dying(self, index, values):
    original(self, index, values)
    if index[0] == 3:
        os._exit(9)
Target._write_shard = dying
stack = lv.open(sys.argv[1], chunks=1)
lv.save(stack * 2, sys.argv[2], memory="160MiB")
"""


def test_a_killed_run_goes_on_where_it_was_and_gives_the_same_bytes(tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(24, 64, 96, 96)).astype(np.float32)
    np.save(tmp_path / "in.npy", values)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "in.npy"), str(tmp_path / "out.zarr")]
    env = os.environ | {"PYTHONPATH": str(Path(lv.__file__).parents[1])}
    assert subprocess.run(command, env=env, check=False).returncode == 9
    assert not (tmp_path / "out.zarr").exists()
    written = []
    original = Target._write_shard
    monkeypatch.setattr(Target, "_write_shard", lambda *a: (written.append(a[1]), original(*a)))
    stack = lv.open(tmp_path / "in.npy", chunks=1)
    lv.save(stack * 2, tmp_path / "out.zarr", memory="160MiB", resume=True)
    total = len(list((tmp_path / "out.zarr").rglob("c/*/*/*/*")))
    assert 0 < len(written) < total
    np.testing.assert_array_equal(lv.open(tmp_path / "out.zarr").values, values * 2)


def test_unknown_suffixes_are_refused(stack, tmp_path):
    with pytest.raises(LabelError, match=r"\.zarr"):
        lv.save(stack, tmp_path / "a.jpg")


def test_exports_stream(stack, tmp_path):
    plain = stack.drop_vars(["score", "half"]).drop_attrs()
    plain = plain.assign_coords({d: stack[d] for d in "zyx"})
    lv.save(plain.isel(k=slice(1, 4)), tmp_path / "part.mrc")
    opened = lv.open(tmp_path / "part.mrc")
    assert opened.dims == ("k", "z", "y", "x")
    np.testing.assert_array_equal(opened.values, A[1:4])


def test_failures_of_the_tree_are_all_lazyvol_errors(stack, tmp_path):
    for wrong in (stack.astype(complex), stack.rename(z="z" * 3).drop_vars("zzz")):
        with pytest.raises(LazyvolError):
            lv.scores.fsc(wrong, wrong)


def test_a_lone_slice_keeps_its_voxel_size(tmp_path):
    lone = lv.as_stack(np.ones((1, 3, 4), "f4"), voxel_size=(7.0, 2.0, 2.0), unit="nanometer")
    lv.save(lone, tmp_path / "lone.zarr")
    assert spacing(lv.open(tmp_path / "lone.zarr"), "z") == 7.0


@pytest.mark.parametrize("memory", ["200MiB", "512MiB", None])
def test_shards_of_small_results_over_large_inputs_keep_the_budget(tmp_path, monkeypatch, memory):
    """A shard of block means or of every 16th voxel needs far more than its own bytes."""
    grids = []
    monkeypatch.setattr(
        save_result, "write", lambda values, targets, **_: grids.append(targets[0].grid)
    )
    monkeypatch.setattr(TargetGroup, "publish", lambda self: None)
    stack = lv.synthetic.noise((64, 128, 128, 128), seed=1)  # 512 MiB
    every = slice(None, None, 16)
    results = [lv.density.block_mean(stack, 32), lv.filters.gaussian(stack, 2.0).isel(x=every)]
    for n, result in enumerate(results):
        lv.save(result, tmp_path / f"{n}.zarr", memory=memory)
        recipe = recipe_of(result.data)
        limit = 4 * BLOCK
        if memory is not None:
            with lv.limited(memory):
                limit = Budget.current().per_task_of(regions.count(grids[-1]))
        assert sampled_cost(recipe, grids[-1])[1] <= limit
