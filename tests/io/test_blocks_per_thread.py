"""Blocks and shards of small data: a few for each thread, with equal values."""

import dask
import numpy as np
import pytest
import zarr

import lazyvol as lv
from lazyvol import errors
from lazyvol.io import _automatic_grid
from lazyvol.io.zarr import local_run
from lazyvol.io.zarr.writer import Target

SHAPE = (12, 64, 128, 128)  # 4 MiB each of float32


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A stack with a stored chunk and shard for each volume."""
    values = np.random.default_rng(1).normal(size=SHAPE).astype("f4")
    path = tmp_path_factory.mktemp("blocks") / "in.zarr"
    with lv.limited(workers=12):
        lv.save(lv.as_stack(values), path)
    assert zarr.open_array(path / "0", mode="r").shards == (1, 64, 128, 128)
    return path


@pytest.mark.parametrize(("threads", "blocks"), [(1, 3), (2, 6), (3, 12), (64, 12)])
def test_each_thread_has_a_few_blocks_and_shards(path, threads, blocks, tmp_path):
    with dask.config.set(num_workers=threads):
        smooth = lv.filters.gaussian(lv.open(path), 1.0)
        assert smooth.data.numblocks == (blocks, 1, 1, 1)
        assert lv.explain(smooth).bytes_read == smooth.nbytes  # no halo is read twice
        assert lv.explain(smooth, tmp_path / "out.zarr").tasks == blocks
        lv.save(smooth, tmp_path / "out.zarr")
    expected = lv.filters.gaussian(lv.as_stack(lv.open(path).values), 1.0)
    np.testing.assert_array_equal(lv.open(tmp_path / "out.zarr"), expected)


@pytest.mark.parametrize(("threads", "blocks"), [(1, 1), (2, 2), (3, 3), (64, 12)])
def test_a_chunk_of_all_volumes_is_divided_for_idle_threads(threads, blocks):
    with dask.config.set(num_workers=threads):
        grid = _automatic_grid(SHAPE, SHAPE, 4)
    assert tuple(map(len, grid)) == (blocks, 1, 1, 1)


def test_large_and_empty_arrays_have_the_blocks_that_they_would_have_on_one_thread():
    cases = [((5000, 200, 200, 200), (1, 200, 200, 200)), ((0, 4, 4), (1, 4, 4)), ((), ())]
    for shape, chunk in cases:
        grids = []
        for threads in (1, 64):
            with dask.config.set(num_workers=threads):
                grids.append(_automatic_grid(shape, chunk, 4))
        assert grids[0] == grids[1]


def test_a_save_that_was_stopped_goes_on_with_other_threads(path, tmp_path, monkeypatch):
    def stopped(self):
        raise errors.StoreError("stopped")

    with monkeypatch.context() as patch, dask.config.set(num_workers=2):
        patch.setattr(local_run.LocalRun, "publish", stopped)
        with pytest.raises(errors.StoreError, match="stopped"):
            lv.save(lv.filters.gaussian(lv.open(path), 1.0), tmp_path / "out.zarr")

    written, write = [], Target.write

    def counted(self, region, block):
        written.append(block.ndim)
        write(self, region, block)

    monkeypatch.setattr(Target, "write", counted)
    with dask.config.set(num_workers=64):
        lv.save(lv.filters.gaussian(lv.open(path), 1.0), tmp_path / "out.zarr", resume=True)
    assert 4 not in written
    assert zarr.open_array(tmp_path / "out.zarr/0", mode="r").shards == (2, 64, 128, 128)
