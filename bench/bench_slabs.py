"""Read thin slabs and boxes of raw arrays: CPU seconds per GB of result, best of five.

python bench/bench_slabs.py
"""

import tempfile
import time
from pathlib import Path

import numpy as np

from lazyvol.io import npy
from lazyvol.plan.regions import Region, whole

#: slabs (first and last index by axis) of arrays of float32
SLABS = {
    (64, 64, 64, 64): {"y 4": {2: (10, 14)}, "x 4": {3: (10, 14)}, "box 32": {
        1: (10, 42), 2: (10, 42), 3: (10, 42),
    }},
    (8, 160, 160, 160): {"y 8": {2: (10, 18)}, "x 8": {3: (10, 18)}, "x 40": {3: (10, 50)}},
    (256, 400, 400): {"y 1": {1: (10, 11)}, "y 16": {1: (10, 26)}, "x 16": {2: (10, 26)}},
}  # fmt: skip


def region_of(shape: tuple[int, ...], cut: dict[int, tuple[int, int]]) -> Region:
    """Return the region that is cut along some axes and whole along the others."""
    return tuple(slice(*cut[axis]) if axis in cut else s for axis, s in enumerate(whole(shape)))


def seconds_per_gb(path: Path, region: Region) -> float:
    """Return the least CPU time of five reads, per GB of result."""
    source = npy.probe(path).source
    out = source.read(region)
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        source.read(region, out)
        seconds.append(time.process_time() - begun)
    return min(seconds) / out.nbytes * 1e9


def main() -> None:
    """Print a row per slab."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npy"
        for shape, slabs in SLABS.items():
            np.save(path, np.random.default_rng(0).random(shape, np.float32))
            for name, cut in slabs.items():
                print(f"| {shape} | {name} | {seconds_per_gb(path, region_of(shape, cut)):.2f} |")


if __name__ == "__main__":
    main()
