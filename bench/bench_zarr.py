"""Read a stack in four layouts, by two trees of lazyvol in turn: CPU time, wall time and peak.

``python bench/bench_zarr.py OTHER_TREE``: 262 MB of float32 noise in whole volumes, 32^3 chunks,
32^3 in shards of a volume and (8, 32, 32, 32), without compression and as lz4 with crc32c. Each
tree reads in a process of its own with two threads, and the trees take turns. ``speed`` is
relative to the other tree, the median of pairs.

``python bench/bench_zarr.py OTHER_TREE --save``: the same of `save`, for stacks of three shapes in
memory, each in the layout that the tree chooses.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

SHAPE = (16, 160, 160, 160)
EDGE = (32, 32, 32)
LAYOUTS: dict[str, dict[str, Any]] = {
    "whole volumes": {"chunks": (1, *SHAPE[1:])},
    "32^3": {"chunks": (1, *EDGE)},
    "32^3 in shards": {"chunks": (1, *EDGE), "shards": (1, *SHAPE[1:])},
    "(8, 32^3)": {"chunks": (8, *EDGE)},
}
CODECS = {"raw": None, "lz4 + crc32c": [BloscCodec(cname="lz4", clevel=5), Crc32cCodec()]}
ROUNDS = 21
STACKS = {
    "volumes": (("k", "z", "y", "x"), (8, 128, 128, 128)),
    "particles": (("k", "z", "y", "x"), (2000, 20, 20, 20)),
    "one volume": (("z", "y", "x"), (256, 256, 256)),
}


def read(path: str, block: int) -> None:
    """Read a stack with two threads for each line of the input; print the figures as JSON."""
    import lazyvol as lv
    from lazyvol.io.zarr.reader import probe

    source = probe(path).source
    tail = [slice(0, n) for n in source.shape[1:]]
    regions = [(slice(k, k + block), *tail) for k in range(0, source.shape[0], block)]
    with ThreadPoolExecutor(2) as pool:
        measure(lambda: [*pool.map(lambda region: source.read(region).size, regions)], lv.__file__)


def save(folder: str, name: str) -> None:
    """Save a stack of `STACKS` for each line of the input; print the figures as JSON."""
    import dask
    import xarray as xr

    import lazyvol as lv

    dims, shape = STACKS[name]
    stack = xr.DataArray(np.random.default_rng(0).standard_normal(shape, np.float32), dims=dims)
    with dask.config.set(num_workers=2):
        measure(lambda: lv.save(stack, f"{folder}/a.zarr", overwrite=True), lv.__file__)


def measure(work: Callable[[], object], tree: str) -> None:
    """Call a function for each line of the input; print the figures as JSON."""
    tracemalloc.start()  # for the peak of the first call only, because it takes time
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = tracemalloc.get_traced_memory()[1] / (1 << 20) if tracemalloc.is_tracing() else 0
        tracemalloc.stop()  # no task runs now
        print(json.dumps({"cpu": cpu, "wall": wall, "peak": peak, "tree": tree}), flush=True)


class Process:
    """A process that reads or saves a store by the lazyvol of a tree."""

    def __init__(self, tree: Path, *arguments: object) -> None:
        command = [sys.executable, __file__, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        pipe = subprocess.PIPE
        self.tree = tree
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures of one read or save."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert Path(found["tree"]).is_relative_to(self.tree), found
        return found


def compare(title: str, rounds: int, *processes: Process) -> None:
    """Print a row for this tree and the other one, which take turns."""
    with processes[0].process, processes[1].process:
        peaks = [process.figures()["peak"] for process in processes]
        pairs = []
        for turn in range(rounds):  # the first of a pair changes
            found = {n: processes[n].figures() for n in ((0, 1), (1, 0))[turn % 2]}
            pairs.append((found[0], found[1]))
    cells = []
    for key in ("cpu", "wall"):
        cells.append(f"{median(ours[key] for ours, _ in pairs):.2f}")
        cells.append(f"{median(other[key] / ours[key] for ours, other in pairs):.2f}")
    cells += [f"{peak:.1f}" for peak in peaks]
    print(f"| {title} | {' | '.join(cells)} |", flush=True)


def main(other: str, mode: str = "--read") -> None:
    trees = [Path(__file__).resolve().parents[1], Path(other).resolve()]
    title = "layout | codecs" if mode == "--read" else "stack"
    print(f"| {title} | CPU, s | speed | wall, s | speed | peak, MiB | of the other |")
    print("| --- " * (7 + title.count("|")) + "|")
    if mode == "--save":
        for name in STACKS:
            with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
                folders = (ours, theirs)
                saving = [Process(t, mode, f, name) for t, f in zip(trees, folders, strict=True)]
                compare(name, ROUNDS, *saving)
        return
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    for codec, compressors in CODECS.items():
        for name, layout in LAYOUTS.items():
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "a.zarr"
                array = zarr.create_array(
                    path, shape=SHAPE, dtype="f4", compressors=compressors, **layout
                )
                array[...] = values
                reading = [Process(tree, mode, path, layout["chunks"][0]) for tree in trees]
                compare(f"{name} | {codec}", ROUNDS, *reading)


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        read(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] == "--save":
        save(sys.argv[2], sys.argv[3])
    else:
        main(*sys.argv[1:])
