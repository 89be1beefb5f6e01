"""Runs on one path: one at a time, killed at any moment, resumed, and never a mixture."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import numpy as np
import pytest

import lazyvol as lv
from lazyvol import errors
from lazyvol.io import atomic, run_lock
from lazyvol.io.zarr import local_run
from lazyvol.io.zarr.writer import Target
from tests.io.store_cases import shard_files
from tests.paths import ROOT

SHAPE = (12, 16, 16, 16)
A = np.random.default_rng(5).normal(size=SHAPE).astype("f4")

SAVE = """
import os, sys, time
import lazyvol as lv
from lazyvol.io.zarr import shard_shape
from lazyvol.io.zarr.writer import Target
import lazyvol.io.save_plan
source, target, sigma, delay, options = sys.argv[1:6]
lazyvol.io.save_plan.BLOCK = 40_000
written = Target._write_shard
def slow(self, index, values):
    if self.key != "0/":  # a coordinate
        return written(self, index, values)
    time.sleep(float(delay))
    written(self, index, values)
    os.write(1, b"shard\\n")  # one call: lines of two threads are not mixed
Target._write_shard = slow
lv.save(lv.filters.gaussian(lv.open(source, chunks=1), float(sigma)), target,
        **{name: True for name in options.split(",") if name})
"""


def started(folder: Path, sigma: float, options: str = "", delay: float = 0.2):
    """Start a process that saves a filtered stack to ``out.zarr``."""
    paths = [str(folder / "in.npy"), str(folder / "out.zarr")]
    command = [sys.executable, "-c", SAVE, *paths, f"{sigma}", f"{delay}", options]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )


def filtered(folder: Path, sigma: float):
    return lv.filters.gaussian(lv.open(folder / "in.npy", chunks=1), sigma)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    np.save(tmp_path / "in.npy", A)
    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 40_000)
    return tmp_path


@pytest.fixture
def written(monkeypatch):
    """The shards of the stack that this process writes; coordinates are written again."""
    indices: list[tuple[int, ...]] = []
    write = Target._write_shard

    def noted(self, index, values):
        indices.extend([index] if self.key == "0/" else [])
        write(self, index, values)

    monkeypatch.setattr(Target, "_write_shard", noted)
    return indices


def test_a_second_run_is_refused_while_the_first_is_alive(folder):
    with started(folder, 1.0, "overwrite", delay=0.4) as first:
        assert first.stdout.readline() == "shard\n"
        first.send_signal(signal.SIGSTOP)  # alive, however long the attempts take
        try:
            for options in ({}, {"resume": True}, {"overwrite": True}):
                with pytest.raises(errors.TargetExistsError, match="another run is wr") as caught:
                    lv.save(filtered(folder, 3.0), folder / "out.zarr", **options)
                assert "overwrite" not in str(caught.value)
        finally:
            first.send_signal(signal.SIGCONT)
        assert first.wait(60) == 0, first.stderr.read()
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), filtered(folder, 1.0))


def test_a_killed_run_is_resumed_with_other_memory_and_workers(folder, written):
    with started(folder, 1.0) as first:
        assert [first.stdout.readline() for _ in range(4)] == ["shard\n"] * 4
        first.send_signal(signal.SIGKILL)
    with pytest.raises(errors.TargetExistsError, match=r"weights of stencil was .*, now it is"):
        lv.save(filtered(folder, 3.0), folder / "out.zarr", resume=True)
    with pytest.raises(errors.TargetExistsError, match="interrupted; continue it by resume=True"):
        lv.save(filtered(folder, 1.0), folder / "out.zarr")
    with dask.config.set(num_workers=3):
        lv.save(filtered(folder, 1.0), folder / "out.zarr", resume=True, memory="2GiB")
    shards = len(shard_files(folder / "out.zarr/0"))
    assert 0 < len(written) <= shards - 4
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), filtered(folder, 1.0))
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "out.zarr"]
    written.clear()
    lv.save(filtered(folder, 1.0), folder / "out.zarr", resume=True)  # nothing is left to do
    assert not written
    assert lv.verify(folder / "out.zarr").ok


@pytest.mark.parametrize("damage", ["empty", "cut", "misplaced"])
def test_finished_shards_are_checked_before_a_run_is_resumed(damage, folder, written, monkeypatch):
    def stopped(self):
        raise errors.StoreError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(local_run.LocalRun, "publish", stopped)
        with pytest.raises(errors.StoreError):
            lv.save(filtered(folder, 1.0), folder / "out.zarr")
    (run,) = (folder / "out.zarr.lazyvol-tmp").glob("*/store/0")
    first, second = shard_files(run)[:2]
    content = {"empty": b"", "cut": first.read_bytes()[:-50], "misplaced": second.read_bytes()}
    first.write_bytes(content[damage])
    written.clear()
    lv.save(filtered(folder, 1.0), folder / "out.zarr", resume=True)
    assert len(written) == 1
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), filtered(folder, 1.0))


def test_a_reduction_is_resumed_with_another_number_of_workers(folder, monkeypatch):
    def stopped(self):
        raise errors.StoreError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(local_run.LocalRun, "publish", stopped)
        with lv.limited(workers=2), pytest.raises(errors.StoreError, match="stopped"):
            lv.save(lv.stats.var(lv.open(folder / "in.npy", chunks=1)), folder / "out.zarr")
    with lv.limited("1GiB", workers=4):
        variance = lv.stats.var(lv.open(folder / "in.npy", chunks=1))
        lv.save(variance, folder / "out.zarr", resume=True)
    np.testing.assert_allclose(lv.open(folder / "out.zarr"), A.var(0), rtol=1e-5)


def test_arrays_in_memory_are_known_by_their_content(folder, monkeypatch):
    def stopped(self):
        raise errors.StoreError("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(local_run.LocalRun, "publish", stopped)
        with pytest.raises(errors.StoreError, match="stopped"):
            lv.save(lv.as_stack(A), folder / "out.zarr")
    with pytest.raises(errors.TargetExistsError, match="content of input was"):
        lv.save(lv.as_stack(-A), folder / "out.zarr", resume=True)
    lv.save(lv.as_stack(A.copy()), folder / "out.zarr", resume=True)
    np.testing.assert_array_equal(lv.open(folder / "out.zarr"), A)


def test_an_input_that_is_replaced_during_a_run_is_an_error(folder, monkeypatch):
    lv.save(lv.as_stack(A), folder / "in.zarr")
    write, count = Target._write_shard, []

    def replacing(self, index, values):
        write(self, index, values)
        count.append(index)
        if len(count) == 6 and "out" in self.run.path:
            monkeypatch.setattr(Target, "_write_shard", write)
            lv.save(lv.as_stack(-A), folder / "in.zarr", overwrite=True)

    result = lv.open(folder / "in.zarr") * 2
    monkeypatch.setattr(Target, "_write_shard", replacing)
    with pytest.raises(errors.SourceChangedError, match="open it again"):
        lv.save(result, folder / "out.zarr")
    assert not (folder / "out.zarr").exists()


KILLED = """
import os, sys
import numpy as np
import lazyvol as lv
from lazyvol.io import atomic
from lazyvol.io.zarr import local_run
name, place = sys.argv[2:4]
module = next(m for m in (local_run, atomic, local_run.shutil) if hasattr(m, name))
real = getattr(module, name)
def dying(*args, **kwargs):
    if place == "after":
        real(*args, **kwargs)
    os._exit(9)
setattr(module, name, dying)
lv.save(lv.as_stack(np.ones((4, 8, 8, 8), "f4")), sys.argv[1], overwrite=True)
"""


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("name", ["exchange", "rmtree", "sync_folder"])
def test_a_kill_while_a_store_is_replaced_leaves_the_name_and_blocks_nothing(name, place, folder):
    path = folder / "out.zarr"
    lv.save(lv.as_stack(np.zeros((4, 8, 8, 8), "f4")), path)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", KILLED, str(path), name, place]
    assert subprocess.run(command, env=env, check=False).returncode == 9
    found = np.unique(lv.open(path).values)
    assert found.tolist() in ([0.0], [1.0])
    lv.save(lv.as_stack(np.full((4, 8, 8, 8), 2, "f4")), path, overwrite=True)
    assert np.unique(lv.open(path).values).tolist() == [2.0]
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "out.zarr"]


def test_there_is_no_moment_without_the_name(folder):
    path = folder / "out.zarr"
    lv.save(lv.as_stack(A), path)
    misses, tries = 0, 0
    with started(folder, 0.5, "overwrite", delay=0.0) as process:
        while process.poll() is None:
            misses += not (path / "zarr.json").exists()
            tries += 1
    assert process.returncode == 0
    assert tries > 100
    assert misses == 0


def test_a_system_that_cannot_exchange_names_replaces_a_store_too(folder, monkeypatch):
    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    for value in (0, 1):
        lv.save(lv.as_stack(np.full(SHAPE, value, "f4")), folder / "out.zarr", overwrite=True)
    assert lv.open(folder / "out.zarr").values.all()
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "out.zarr"]


EXPORT = """
import os, sys
import numpy as np
from lazyvol.io import atomic
if sys.argv[2] == "named":
    atomic._nameless_file = lambda folder: None
with atomic.new_file(sys.argv[1], True) as file:
    file.write(bytes(1000))
    file.flush()
    os._exit(9)
"""


@pytest.mark.parametrize("kind", ["nameless", "named"])
def test_a_killed_export_leaves_nothing_that_stays(kind, tmp_path):
    path = tmp_path / "a.npy"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EXPORT, str(path), kind]
    assert subprocess.run(command, env=env, check=False).returncode == 9
    left = list(tmp_path.iterdir())
    if kind == "nameless" and atomic._nameless_file(str(tmp_path)) is not None:
        assert not left
    lv.save(lv.as_stack(A), path, overwrite=True)
    lv.save(lv.as_stack(-A), path, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]
    np.testing.assert_array_equal(np.load(path), -A)


def test_a_lock_is_released_by_the_death_of_its_process(tmp_path):
    code = "import sys, time; from lazyvol.io import run_lock\n"
    code += "run_lock.acquire(sys.argv[1], 'a', 'x'); print('held', flush=True); time.sleep(60)"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(tmp_path / "l")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(errors.TargetExistsError, match="another run"):
            run_lock.acquire(str(tmp_path / "l"), "b", "x")
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            run_lock.acquire(str(tmp_path / "l"), "b", "x")
            break
        except errors.TargetExistsError:
            time.sleep(0.05)
    run_lock.release(str(tmp_path / "l"), "b")
    assert not list(tmp_path.iterdir())
