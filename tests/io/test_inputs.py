"""Sources of a lazy array are found behind any operations, without making its tasks."""

import dask
import dask.array as da
import numpy as np
import pytest
from dask.blockwise import BlockwiseDepDict, blockwise
from dask.highlevelgraph import HighLevelGraph

import lazyvol as lv
from lazyvol.io.inputs import sources_of
from lazyvol.plan.graph.layers import RecipeLayer

A = np.random.default_rng(0).random((6, 4, 5, 7)).astype("f4")


def stored(folder, name: str, values=A, chunks=2) -> da.Array:
    np.save(folder / name, values)
    return lv.open(folder / name, chunks=chunks).data


def paths(*arrays) -> list[str]:
    """Return the file names, sorted, with repetitions."""
    return sorted(p.rpartition("/")[2] for s in sources_of(arrays) for p in s.paths)


class Plain:
    """A source that dask reads by slices."""

    def __init__(self, path: str) -> None:
        self.path, self.shape, self.dtype, self.ndim = path, A.shape, A.dtype, A.ndim

    @property
    def paths(self):
        return (self.path,)

    def stored_bytes(self, region):
        return 0

    def __getitem__(self, index):
        return A[index]


def read(block, source):
    return block


DERIVED = {
    "itself": lambda a: a,
    "dask": lambda a: (a + 1)[::2],
    "ours": lambda a: lv.filters.gaussian(lv.as_stack(a), sigma=1.0).data,
    "ours of dask's": lambda a: lv.stats.mean(lv.as_stack(a * 2)).data,
    "folded": lambda a: lv.stats.var(lv.as_stack(a)).data + a[0],
    "rechunked": lambda a: (a - 1).rechunk((4, 4, 3, 7)),
    "block by block": lambda a: a.map_blocks(np.sqrt),
    "optimised": lambda a: dask.optimize(a + 1)[0],
    "delayed": lambda a: da.from_delayed(dask.delayed(np.abs)(a), A.shape, A.dtype),
    "joined": lambda a: da.concatenate([a, da.zeros_like(a)]),
}


@pytest.mark.parametrize("kind", DERIVED)
@pytest.mark.parametrize("chunks", [1, 4, -1])
def test_sources_behind_every_operation(kind, chunks, tmp_path):
    a, b = stored(tmp_path, "a.npy", chunks=chunks), stored(tmp_path, "b.npy", chunks=chunks)
    found = DERIVED[kind](a)
    assert paths(found) == ["a.npy"]
    assert paths(found, found) == ["a.npy"]
    assert paths(da.stack([found, DERIVED[kind](b)])) == ["a.npy", "b.npy"]
    assert paths(found, da.ones(3), np.ones(3)) == ["a.npy"]


@pytest.mark.parametrize("inline", [False, True])
def test_sources_that_dask_reads(inline):
    made = da.from_array(Plain("c.raw"), chunks=2, inline_array=inline, asarray=False)
    assert paths(made + 1) == ["c.raw"]
    mapped = da.ones((4, 4), chunks=2).map_blocks(read, Plain("d.raw"), dtype=float)
    assert paths(mapped) == ["d.raw"]
    listed = da.ones((4, 4), chunks=2).map_blocks(read, source=Plain("e.raw"), dtype=float)
    assert paths(listed) == ["e.raw"]


def test_no_task_is_made(tmp_path, monkeypatch):
    def fail(layer, key=""):
        raise AssertionError(f"a task was made: {key}")

    a = stored(tmp_path, "a.npy", np.zeros((100_000, 1, 1, 1), "u1"), 1)
    lazy = [a, a + 1, lv.filters.gaussian(lv.as_stack(a), sigma=1.0).data * 2]
    monkeypatch.setattr(RecipeLayer, "__getitem__", fail)
    monkeypatch.setattr("dask.blockwise.Blockwise._dict", property(fail))
    for array in lazy:
        assert paths(array) == ["a.npy"]


def test_sources_that_blocks_are_handed_one_each():
    given = BlockwiseDepDict({(n,): Plain(f"{n}.raw") for n in range(3)}, numblocks=(3,))
    layer = blockwise(read, "named", "i", given, "i", None, None, numblocks={})
    graph = HighLevelGraph({"named": layer}, {"named": set()})
    array = da.Array(graph, "named", ((2, 2, 2),), dtype="f4")
    assert paths(array + 1) == ["0.raw", "1.raw", "2.raw"]
