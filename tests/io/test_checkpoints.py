"""Reductions that are killed continue from their checkpoints, to the same bits."""

import shutil
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from zarr.storage import MemoryStore

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.places import ZarrPlace
from lazyvol.io.state_files import OBJECTS, StateFolder, StateObjects
from lazyvol.plan import checkpointed_graphs, checkpoints
from lazyvol.plan.checkpoints import TaskPlace
from lazyvol.plan.reductions import graph
from tests.io.killed_runs import (
    RESULTS,
    SHAPE,
    Counter,
    ForkServer,
    save,
    small_tasks,
    write_input,
)

#: tiles that are in work when a run of two threads is killed
IN_WORK = 2
#: runs of each result in the campaign; each is killed one to three times
TRIALS = 15


@pytest.fixture(scope="module")
def server():
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path):
    write_input(tmp_path)
    return tmp_path


def files(folder):
    """The bytes of all files of a store, without the name of the run that wrote them."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def undisturbed(name, folder):
    """Save a result; return its files, and the number of tiles that were added."""
    count = Counter()
    with small_tasks(count):
        save(name, str(folder))
    expected = files(folder / "out.zarr")
    lv.save(lv.as_stack(np.zeros(2)), folder / "out.zarr", overwrite=True)
    return expected, count.calls


@pytest.mark.parametrize("name", ["var", "means of volumes", "ncc", "describe"])
def test_a_killed_reduction_repeats_the_tiles_in_work_alone(name, folder, server):
    expected, tiles = undisturbed(name, folder)
    assert tiles >= 8
    last = round(0.9 * tiles)
    assert server.killed(name, folder, last, "overwrite")
    count = Counter()
    with small_tasks(count, workers=3):
        save(name, str(folder), resume=True, overwrite=True)
    assert tiles - last < count.calls <= tiles - last + 1 + IN_WORK
    assert files(folder / "out.zarr") == expected
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "out.zarr", "tiles"]


def test_a_kill_after_publication_leaves_nothing_that_stays(folder, server):
    assert server.killed("var", folder, 10**6, "before the removal of states")
    assert len(list(folder.glob("out.zarr.lazyvol-tmp/*/plan.json"))) == 1
    count = Counter()
    with small_tasks(count):
        save("var", str(folder), resume=True)
    assert not count.calls
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "out.zarr", "tiles"]


def test_a_resumed_reduction_names_the_parameter_that_differs(folder, server):
    assert server.killed("var", folder, 6)
    stack = lv.open(folder / "in.npy")
    with pytest.raises(errors.TargetExistsError, match="ddof of var was 0, now it is 1;"):
        lv.save(lv.stats.var(stack, "k", ddof=1), folder / "out.zarr", resume=True)
    np.save(folder / "in.npy", np.zeros(SHAPE, "f4"))
    with pytest.raises(errors.TargetExistsError, match="version of input was"):
        save("var", str(folder), resume=True)


class Folder(StateFolder):
    """States in files, whose bytes can be changed."""

    def __init__(self, path):
        for name in ("states", "partial"):
            (path / name).mkdir()
        super().__init__(str(path / "states"), str(path / "partial"))

    def bytes_of(self, name):
        return Path(self.folder, name).read_bytes()

    def set_bytes(self, name, data):
        Path(self.folder, name).write_bytes(data)


class Objects(StateObjects):
    """States in objects, whose bytes can be changed."""

    def __init__(self, path):
        place = ZarrPlace("memory", store=MemoryStore())

        def put(key, write):
            buffer = BytesIO()
            write(buffer)
            place.put(key, buffer.getvalue())

        super().__init__(place, put)

    def bytes_of(self, name):
        return self.place.whole(f"{OBJECTS}/{name}")

    def set_bytes(self, name, data):
        self.place.put(f"{OBJECTS}/{name}", data)


@pytest.mark.parametrize("kind", [Folder, Objects])
def test_a_damaged_state_counts_as_absent(kind, tmp_path):
    store = kind(tmp_path)
    state = {"mean": np.arange(6.0).reshape(2, 3), "count": np.array(7), "0 m2": np.zeros((0, 2))}
    store.write("a", state)
    for name, values in store.read("a").items():
        np.testing.assert_array_equal(values, state[name], strict=True)
    whole = store.bytes_of("a")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (b"0", whole[:3], whole[:-1], whole + b"0", bytes(flipped)):
        store.set_bytes("a", damaged)
        assert store.names() == {"a"}
        assert store.read("a") is None
        assert store.names() == set()
    with pytest.raises(ValueError, match="Object arrays"):
        store.write("b", {"objects": np.array([None])})
    assert store.names() == set()
    assert not list(tmp_path.glob("partial/*"))


class Noted(dict):
    """A store in memory."""

    def names(self):
        return self.keys()

    def read(self, name):
        return self.get(name)

    def write(self, name, state):
        self[name] = state

    def remove(self, name):
        self.pop(name, None)


def test_a_state_is_kept_when_it_is_worth_its_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(checkpoints, "_SPEEDS", {})
    store = Noted()
    kept = checkpoints.Checkpoints(store)

    def work(seconds, nbytes, *states):
        clock[0] += seconds
        return {"m": np.zeros(nbytes, np.uint8)}

    size = 2 * 10**6  # written in 30 ms, which may be 1 % of 3 s
    states = [checkpoints.run_checkpointed(kept, TaskPlace(n), work, 2.8, size) for n in "ab"]
    assert not store
    checkpoints.run_checkpointed(kept, TaskPlace("ab"), work, 0.0, size, states)
    assert list(store) == ["ab"]
    assert checkpoints.run_checkpointed(kept, TaskPlace("ab"), None) is store["ab"]
    checkpoints.run_checkpointed(kept, TaskPlace("c"), work, 2.2, size)
    assert list(store) == ["ab", "c"]
    checkpoints.run_checkpointed(kept, TaskPlace("d"), work, 0.0, size, [store["ab"], store["c"]])
    assert list(store) == ["ab", "c"]


def test_tasks_below_a_kept_result_do_nothing():
    store = Noted(top={"": np.arange(3)})
    kept = checkpoints.Checkpoints(store)
    needless = checkpoints.run_checkpointed(
        kept,
        TaskPlace(
            "leaf",
            (
                "merge",
                "top",
            ),
        ),
        None,
    )
    passed_on = checkpoints.run_checkpointed(kept, TaskPlace("merge", ("top",)), None, [needless])
    assert type(passed_on) is type(needless)
    top = checkpoints.run_checkpointed(kept, TaskPlace("top"), None, [needless])
    np.testing.assert_array_equal(top, np.arange(3))
    store.clear()  # its state was damaged meanwhile
    with pytest.raises(errors.StoreError, match="was damaged"):
        checkpoints.run_checkpointed(kept, TaskPlace("top"), None, [needless])


def test_uses_of_a_result_lead_to_the_nearest_common_one(tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "TASK", 1 << 14)
    write_input(tmp_path)
    stack = lv.open(tmp_path / "in.npy")
    scores = lv.scores.ncc(stack).data
    above = checkpointed_graphs._results_above([scores.dask], {scores.name})

    def short(key):
        return None if key is None else f"{key[0].split('-')[1]} {key[0].rpartition('-')[2]}"

    assert {(short(key), short(top)) for key, top in above.items()} == {
        ("average leaf", "average done"), ("average done", "average mean"),
        ("average mean", "ncc ncc"), ("ncc done", "ncc ncc"), ("ncc ncc", None),
    }  # fmt: skip


def results(folder):
    """The bytes of what was saved, without the records of time."""
    return {
        p.relative_to(folder): p.read_bytes()
        for p in (*folder.rglob("out/*"), *folder.rglob("out.zarr/**/*"))
        if p.is_file() and p.name not in ("report.html", "run.json")
    }


@pytest.mark.campaign
@pytest.mark.parametrize("name", [*RESULTS, "screening"])
def test_campaign_of_kills(name, tmp_path, server):
    """Kill runs before a random tile or at a random moment, and resumed ones too."""
    random, count = np.random.default_rng(sum(map(ord, name))), Counter()
    write_input(tmp_path)
    with small_tasks(count):
        save(name, str(tmp_path))
        tiles, start = count.calls, time.monotonic()
        save(name, str(tmp_path), overwrite=True)
    expected, seconds = results(tmp_path), time.monotonic() - start
    kills = repeated = 0
    for trial in range(TRIALS):
        for left in tmp_path.glob("out*"):
            shutil.rmtree(left)
        (tmp_path / "tiles").unlink(missing_ok=True)
        killed = 0
        for _ in range(1 + trial % 3):
            at_tile = int(random.integers(1, tiles + 1)), 0.0
            at_moment = 10**6, float(random.uniform(0.01, seconds))
            last, moment = at_tile if trial % 2 else at_moment
            killed += server.killed(name, tmp_path, last, "resume", moment)
        count = Counter(path=f"{tmp_path}/tiles")
        with small_tasks(count), suppress(errors.TargetExistsError):
            save(name, str(tmp_path), resume=True)
        kills += killed
        extra = (tmp_path / "tiles").stat().st_size - tiles
        repeated += extra
        assert extra <= IN_WORK * killed
        assert results(tmp_path) == expected
        count.calls = 0
        with small_tasks(count), suppress(errors.TargetExistsError):
            save(name, str(tmp_path), resume=True)
        assert not count.calls
        assert not list(tmp_path.rglob("*.lazyvol-tmp"))
    print(f"{name}: {kills} kills of {TRIALS} runs of {tiles} tiles, {repeated} tiles repeated")
