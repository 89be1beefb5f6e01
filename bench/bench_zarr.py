"""Read a stack in four layouts, by two trees of lazyvol in turn: CPU time, wall time and peak.

``python bench/bench_zarr.py OTHER_TREE``: 262 MB of float32 noise in whole volumes, 32^3 chunks,
32^3 in shards of a volume and (8, 32, 32, 32), without compression and as lz4 with crc32c. Each
tree reads in a process of its own with two threads, and the trees take turns. ``speed`` is
relative to the other tree, the median of pairs.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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


def read(path: str, block: int) -> None:
    """Read a stack with two threads for each line of the input; print the figures as JSON."""
    import lazyvol as lv
    from lazyvol.io.zarr.reader import probe

    source = probe(path).source
    tail = [slice(0, n) for n in source.shape[1:]]
    regions = [(slice(k, k + block), *tail) for k in range(0, source.shape[0], block)]
    tracemalloc.start()  # for the peak of the first read only, because it takes time
    with ThreadPoolExecutor(2) as pool:
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in pool.map(lambda region: source.read(region).size, regions):
                pass
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            peak = tracemalloc.get_traced_memory()[1] / (1 << 20) if tracemalloc.is_tracing() else 0
            tracemalloc.stop()
            figures = {"cpu": cpu, "wall": wall, "peak": peak, "tree": lv.__file__}
            print(json.dumps(figures), flush=True)


class Reader:
    """A process that reads a store by the lazyvol of a tree."""

    def __init__(self, tree: Path, path: Path, block: int) -> None:
        command = [sys.executable, __file__, "--read", str(path), str(block)]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        pipe = subprocess.PIPE
        self.tree = tree
        self.process = subprocess.Popen(
            command, env=environment, stdin=pipe, stdout=pipe, text=True
        )

    def figures(self) -> dict[str, Any]:
        """Return the figures of one read."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert Path(found["tree"]).is_relative_to(self.tree), found
        return found


def main() -> None:
    trees = [Path(__file__).resolve().parents[1], Path(sys.argv[1]).resolve()]
    values = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    print("| layout | codecs | CPU, s | speed | wall, s | speed | peak, MiB | of the other |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for codec, compressors in CODECS.items():
        for name, layout in LAYOUTS.items():
            with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
                path = Path(folder) / "a.zarr"
                array = zarr.create_array(
                    path, shape=SHAPE, dtype="f4", compressors=compressors, **layout
                )
                array[...] = values
                readers = [Reader(tree, path, layout["chunks"][0]) for tree in trees]
                for reader in readers:
                    stack.enter_context(reader.process)
                peaks = [reader.figures()["peak"] for reader in readers]
                pairs = []
                for turn in range(ROUNDS):  # the first of a pair changes
                    found = {n: readers[n].figures() for n in ((0, 1), (1, 0))[turn % 2]}
                    pairs.append((found[0], found[1]))
            cells = []
            for key in ("cpu", "wall"):
                cells.append(f"{median(ours[key] for ours, _ in pairs):.2f}")
                cells.append(f"{median(other[key] / ours[key] for ours, other in pairs):.2f}")
            cells += [f"{peak:.1f}" for peak in peaks]
            print(f"| {name} | {codec} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "--read":
        read(sys.argv[2], int(sys.argv[3]))
    else:
        main()
