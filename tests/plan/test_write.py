"""Writing in waves: plans of many shards, and several saves at once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
from distributed import Client

import lazyvol as lv
from lazyvol import errors
from lazyvol.plan import on_cluster, regions
from lazyvol.plan import write as plan_write
from lazyvol.plan.budget import limited


class FullDisk:
    """A sink of many blocks, none of which can be stored."""

    grid = (regions.uniform_chunks(200_000, 1), (4,), (4,), (4,))

    def has(self, region):
        return False

    def missing(self):
        return (index for index, _ in regions.boxes(self.grid))

    def file_of(self, region):
        return "a file"

    def write(self, region, block):
        raise errors.StoreError("the disk is full")


def test_a_plan_of_many_shards_is_made_wave_by_wave(monkeypatch):
    drawn = []

    def noted(grid, _boxes=regions.boxes):
        for box in _boxes(grid):
            drawn.append(box)
            yield box

    monkeypatch.setattr(regions, "boxes", noted)
    monkeypatch.setattr(plan_write, "WAVE", 1000)
    result = lv.filters.gaussian(lv.synthetic.noise((200_000, 4, 4, 4)), 1.0)
    with pytest.raises(errors.StoreError, match="disk is full"):
        plan_write.write([result.data], [FullDisk()])
    assert len(drawn) == 1000


def test_the_text_of_a_plan_has_each_step_once():
    """Each pass of a quantile depends on the input and on all passes before."""
    result = lv.stats.quantile(lv.synthetic.noise((2, 4, 5, 6)), [0.1, 0.5])
    _, steps = plan_write.plan_identity([result.data], len)
    assert len([s for s in steps if s["recipe"] == "generated"]) == 1, [s["recipe"] for s in steps]
    assert len(steps) < 40  # of 43,693 paths


submitted = threading.Event()


def waits(block):
    submitted.wait(60)
    return block


def test_saves_of_one_result_to_several_paths_at_once_have_tasks_of_their_own(
    tmp_path, monkeypatch
):
    values = np.random.default_rng(0).normal(size=(4, 5, 6, 7))
    blocks = da.from_array(values, chunks=(2, 5, 6, 7)).map_blocks(waits, meta=values[:0])
    result = lv.filters.gaussian(lv.as_stack(blocks), 1.0)
    paths, waves = [tmp_path / f"{n}.zarr" for n in range(4)], []

    def noted(*arguments, _submit=on_cluster._Run._submit):
        waves.append(_submit(*arguments))
        if len(waves) == len(paths):  # no task ends before all are submitted
            submitted.set()
        return waves[-1]

    monkeypatch.setattr(on_cluster._Run, "_submit", noted)
    with (
        Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None),
        ThreadPoolExecutor(len(paths)) as pool,
    ):
        list(pool.map(lambda path: lv.save(result, path), paths))
    for path in paths:
        np.testing.assert_array_equal(lv.open(path), lv.filters.gaussian(lv.as_stack(values), 1.0))


@pytest.mark.parametrize("shape", [(), (7,), (5, 3), (4, 1, 6, 2)])
@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_boxes_cover_a_grid_in_c_order(shape, chunk):
    grid = tuple(regions.uniform_chunks(n, chunk) for n in shape)
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    blocks = np.empty([len(chunks) for chunks in grid], object)
    for index, box in regions.boxes(grid):
        blocks[index] = numbers[box]
    assert [index for index, _ in regions.boxes(grid)] == list(np.ndindex(blocks.shape))
    np.testing.assert_array_equal(np.block(blocks.tolist()), numbers)


@pytest.mark.parametrize(
    ("regions_left", "workers", "per_task"),
    [(1, 4, 1), (4 * 32 * 5, 4, 5), (4 * 32 * 5 - 1, 4, 4), (1_000_000, 4, 16), (10_000, 1000, 1)],
)
def test_tasks_write_several_regions_while_every_worker_has_tasks(regions_left, workers, per_task):
    with limited(workers=workers):
        assert plan_write._regions_per_task(regions_left) == per_task
