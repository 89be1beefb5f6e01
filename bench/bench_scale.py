"""Plan computations of up to 10^6 tasks, and none of them runs: CPU time and memory of the client.

    python bench/bench_scale.py

Three tables. ``save`` of a Gaussian of generated volumes of 200^3: CPU seconds until the first task
starts, and what the process has grown by then; a shard holds 8 volumes, so that 10^6 of them are
256 TB. A Gaussian of foreign dask arrays in chunks of 8^3: the CPU seconds of its whole graph.
Each row is a process of its own. The third table: CPU microseconds for each of 20,000 write tasks
that do nothing, of the client, the scheduler and the workers, each in its own process.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any
from unittest import mock

import dask.array as da
from distributed.deploy.subprocess import SubprocessCluster
from side_by_side import resident, table

import lazyvol as lv
from lazyvol.plan import regions, write
from lazyvol.plan.regions import Region

SHARDS = (1_000, 10_000, 100_000, 1_000_000)
CHUNKS = (10, 20, 40, 64)


def first_task(shards: int) -> dict[str, float]:
    """Return the CPU seconds before the first task of a save, and the growth in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        lv.save(lv.filters.gaussian(lv.synthetic.noise((2, 8, 8, 8)), 1.0), f"{folder}/warm.zarr")
        result = lv.filters.gaussian(lv.synthetic.noise((8 * shards, 200, 200, 200)), 1.0)
        figures: dict[str, float] = {}
        before, start = resident(), time.process_time()

        def stop(*_: Any) -> None:
            figures.setdefault("seconds", time.process_time() - start)
            figures.setdefault("MiB", (resident() - before) / (1 << 20))
            raise KeyboardInterrupt

        try:
            with mock.patch.object(write, "_write_block", stop):
                lv.save(result, f"{folder}/out.zarr")
        except KeyboardInterrupt:
            return figures
    raise RuntimeError("no task was started")


def foreign_graph(chunks: int) -> dict[str, float]:
    """Return the CPU seconds, MiB and tasks of the graph of a Gaussian of ``chunks`` cubed."""
    array = da.zeros((8 * chunks,) * 3, chunks=8, dtype="f4").map_blocks(abs, dtype="f4")
    before, start = resident(), time.process_time()
    graph = dict(lv.filters.gaussian(lv.as_stack(array), 1.0).__dask_graph__())
    seconds = time.process_time() - start
    return {"seconds": seconds, "MiB": (resident() - before) / (1 << 20), "tasks": len(graph)}


class Nowhere:
    """A sink that stores nothing."""

    grid = (regions.uniform_chunks(20_000, 1), (1,), (1,), (1,))

    def has(self, region: Region) -> bool:
        return True

    def missing(self) -> tuple[()]:
        return ()

    def file_of(self, region: Region) -> str:
        return "nowhere"

    def write(self, region: Region, block: Any) -> None:
        pass


def task_costs() -> list[list[str]]:
    """Return the CPU microseconds of a task by process."""
    result = lv.filters.gaussian(lv.synthetic.noise((20_000, 1, 1, 1)), 1.0)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = {"n_workers": 2, "threads_per_worker": 1}
    with (
        mock.patch.dict(os.environ, environment),
        SubprocessCluster(**workers, scheduler_kwargs={"host": "127.0.0.1"}) as cluster,
        lv.connect(cluster) as client,
    ):

        def seconds() -> list[float]:
            scheduler = client.run_on_scheduler(time.process_time)
            return [time.process_time(), scheduler, sum(client.run(time.process_time).values())]

        write.write([result.data], [Nowhere()])  # warm
        rows = []
        for per_task in (1, write.MOST_REGIONS):
            with mock.patch.object(write, "MOST_REGIONS", per_task):
                before, start = seconds(), time.perf_counter()
                write.write([result.data], [Nowhere()])
            elapsed = time.perf_counter() - start
            spent = [1e6 * (b - a) / 20_000 for a, b in zip(before, seconds(), strict=True)]
            per_shard = [f"{us:.0f}" for us in spent]
            rows.append([str(per_task), *per_shard, f"{20_000 / elapsed:,.0f}"])
    return rows


def row(name: str, number: int) -> list[str]:
    """Return the figures of one way, measured in a new process."""
    command = [sys.executable, __file__, name, str(number)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures = json.loads(out.splitlines()[-1])
    tasks = [f"{figures['tasks']:,.0f}"] if "tasks" in figures else []
    return [*tasks, f"{figures['seconds']:.2f}", f"{figures['MiB']:.0f}"]


def main() -> None:
    rows = [[f"{n:,}", *row("first_task", n)] for n in SHARDS]
    print(table(["shards", "first task after, s CPU", "growth, MiB"], rows), "\n")
    rows = [[f"{n**3:,}", *row("foreign_graph", n)] for n in CHUNKS]
    print(table(["foreign chunks", "tasks", "graph, s CPU", "growth, MiB"], rows), "\n")
    header = ["shards per task", "client, us per shard", "scheduler", "workers", "shards / s"]
    print(table(header, task_costs()))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(globals()[sys.argv[1]](int(sys.argv[2]))))
    else:
        main()
