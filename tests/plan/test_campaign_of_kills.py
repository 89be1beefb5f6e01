"""A campaign of worker kills: every run finishes with the bits of an undisturbed one."""

import os
import shutil
import time

import numpy as np
import pytest

import lazyvol as lv
from lazyvol.client import connect
from tests.plan.clusters import Killer, hashes

#: kills for each operation, and seconds between two
KILLS = int(os.environ.get("LAZYVOL_KILLS", "100"))
PAUSE = float(os.environ.get("LAZYVOL_KILL_PAUSE", "1"))
SHAPE = (96, 96, 96, 96)

OPERATIONS = {
    "var": lv.stats.var,
    "gaussian": lambda stack: lv.filters.gaussian(stack, 2.0),
    "hessian_eigenvalues": lambda stack: lv.derivatives.hessian_eigenvalues(stack[:32], sigma=2.0),
    "screen": lv.scores.screen,
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("kills") / "in.zarr"
    particles = lv.synthetic.particles(SHAPE[1:], SHAPE[0], sigma=4.0, tilted=0.1, seed=3)
    lv.save(particles.astype(np.float32), path)
    return lv.open(path, chunks=1)


@pytest.mark.campaign
@pytest.mark.parametrize("name", OPERATIONS)
def test_campaign_of_worker_kills(name, stack, tmp_path, monkeypatch):
    for place in ("io.save_plan.BLOCK", "plan.verbs.BLOCK"):
        monkeypatch.setattr(f"lazyvol.{place}", 8 << 20)
    monkeypatch.setattr("lazyvol.plan.reductions.graph.TASK", 64 << 20)
    kills, calm, walls, rewritten = 0, [], [], 0
    with connect(workers=2, threads=1, memory="4GiB", dashboard=False) as client:
        result = OPERATIONS[name](stack)
        for _ in range(2):  # the first has kernels to compile
            shutil.rmtree(tmp_path / "calm.zarr", ignore_errors=True)
            start = time.monotonic()
            lv.save(result, tmp_path / "calm.zarr")
            calm.append(time.monotonic() - start)
        expected = hashes(tmp_path / "calm.zarr")
        while kills < KILLS:
            path = tmp_path / f"{len(walls)}.zarr"
            start = time.monotonic()
            with Killer(client, path, PAUSE) as killer:
                lv.save(result, path)
            walls.append(time.monotonic() - start)
            kills, rewritten = kills + killer.kills, rewritten + len(killer.rewritten)
            assert hashes(path) == expected
            shutil.rmtree(path)
    killed, undisturbed = float(np.mean(walls)), calm[-1]
    print(
        f"\n{name}: {len(walls)} runs, {kills} kills, {len(expected)} files each, {rewritten} "
        f"written twice; undisturbed {undisturbed:.1f} s, killed {killed:.1f} s "
        f"({killed / undisturbed:.2f} times)"
    )
    assert not rewritten
