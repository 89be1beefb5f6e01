"""Each call to a disk or an object store fails once: the same bits, or an error, then a resume."""

import builtins
import errno
import os
import shutil
from contextlib import contextmanager
from functools import partial

import dask
import numpy as np
import pytest
from zarr.storage import MemoryStore

import lazyvol as lv
from lazyvol.errors import StoreError
from lazyvol.plan import failures
from tests.io.killed_runs import small_tasks

#: disk full, error of the medium (which may pass and is tried again), no permission
CODES = (errno.ENOSPC, errno.EIO, errno.EACCES)
#: calls of the operating system
CALLS = ((os, "fsync"), (os, "replace"), (os, "rename"), (os, "mkdir"), (builtins, "open"))
#: every call fails in the campaign
STEPS = (pytest.param(1, marks=pytest.mark.campaign), 4)
SHAPE = (16, 4, 4, 4)


class Faults:
    """Counts calls; number ``last`` fails."""

    def __init__(self) -> None:
        self.calls, self.last, self.code = 0, None, 0

    def set(self, last: int | None, code: int = 0) -> None:
        self.calls, self.last, self.code = 0, last, code

    def __call__(self) -> None:
        self.calls += 1
        if self.calls == self.last:
            raise OSError(self.code, os.strerror(self.code))


class FailingStore(MemoryStore):
    """A store in memory whose requests fail as those of a server do."""

    faults = Faults()

    async def get(self, *args, **options):
        self.faults()
        return await super().get(*args, **options)

    async def set(self, *args, **options):
        self.faults()
        await super().set(*args, **options)

    async def set_if_not_exists(self, *args, **options):
        self.faults()
        await super().set_if_not_exists(*args, **options)

    async def delete(self, *args, **options):
        self.faults()
        await super().delete(*args, **options)


@contextmanager
def failing_calls(faults: Faults, path):
    """Context in which calls for files at or beside a path are counted, and may fail."""

    def counted(function):
        def call(place, *args, **options):
            if isinstance(place, int) or str(place).startswith(str(path)):
                faults()
            return function(place, *args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in CALLS:
            patch.setattr(owner, name, counted(getattr(owner, name)))
        yield


@pytest.fixture
def result(tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "PAUSES", (0.0, 0.0))
    values = np.random.default_rng(2).normal(size=SHAPE).astype("f4")
    np.save(tmp_path / "in.npy", values)
    with small_tasks(), dask.config.set(scheduler="synchronous"):
        yield lv.stats.var(lv.open(tmp_path / "in.npy"), "k")


def check_faults(step, faults, save, content, clear):
    """Save with each ``step``-th call failing; the content is that of an undisturbed run."""
    faults.set(None)
    save()
    calls, expected = faults.calls, content()
    clear()
    assert calls > 30
    errors = 0
    for n, last in enumerate(range(1, calls + 1, step)):
        faults.set(last, CODES[n % len(CODES)])
        try:
            save()
        except StoreError:
            errors += 1
            faults.set(None)
            save(resume=True)
        faults.set(None)
        assert content() == expected, f"call {last} of {calls}"
        clear()
    assert 0 < errors < calls


@pytest.mark.parametrize("step", STEPS)
def test_a_disk(step, result, tmp_path):
    path, faults = tmp_path / "out.zarr", Faults()

    def content():
        return {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    def clear():
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npy", "out.zarr"]
        shutil.rmtree(path)

    with failing_calls(faults, path):
        check_faults(step, faults, partial(lv.save, result, path), content, clear)


@pytest.mark.parametrize("step", STEPS)
def test_an_object_store(step, result):
    store = FailingStore()

    def content():
        return {key: value.to_bytes() for key, value in store._store_dict.items()}

    clear = store._store_dict.clear
    check_faults(step, store.faults, partial(lv.save, result, store), content, clear)
