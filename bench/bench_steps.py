"""Chains that refer to each step twice: n steps of s + 0.1 laplace(s), with dask and scipy.

``python bench/bench_steps.py`` prints a table for bench/RESULTS.md. Every way builds and computes
its result again in each round; dask uses ``map_overlap``, scipy has the whole stack in memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import dask
import dask.array as da
import numpy as np
import scipy.ndimage as ndi

import lazyvol as lv

SHAPE = (8, 64, 64, 64)
CHUNKS = (1, 64, 64, 64)


def by_lazyvol(a: np.ndarray, n: int) -> tuple[Any, int]:
    s = lv.as_stack(da.from_array(a, chunks=CHUNKS))
    for _ in range(n):
        s = s + 0.1 * lv.filters.laplace(s)
    return s.values, lv.explain(s).rows[-1].tasks


def by_dask(a: np.ndarray, n: int) -> tuple[Any, int]:
    x = da.from_array(a, chunks=CHUNKS)
    for _ in range(n):
        smooth = x.map_overlap(each_volume, depth=(0, 1, 1, 1), boundary="none", meta=a[:0])
        x = x + np.float32(0.1) * smooth
    (optimised,) = dask.optimize(x)
    return x.compute(), len(dict(optimised.dask))


def by_scipy(a: np.ndarray, n: int) -> tuple[Any, int]:
    for _ in range(n):
        a = a + np.float32(0.1) * each_volume(a)
    return a, 0


def each_volume(block: np.ndarray) -> np.ndarray:
    return np.stack([ndi.laplace(volume) for volume in block]) if len(block) else block


WAYS: dict[str, Callable[[np.ndarray, int], tuple[Any, int]]] = {
    "lazyvol": by_lazyvol,
    "dask, map_overlap": by_dask,
    "scipy, in memory, one thread": by_scipy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="*", default=[2, 14, 50])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    a = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    print("| steps | way | seconds | time / lazyvol | tasks |\n| --- | --- | --- | --- | --- |")
    for n in options.steps:
        seconds: dict[str, list[float]] = {name: [] for name in WAYS}
        results: dict[str, tuple[Any, int]] = {}
        for _ in range(options.rounds + 1):  # the first warms up
            for name, way in WAYS.items():
                start = time.perf_counter()
                results[name] = way(a, n)
                seconds[name].append(time.perf_counter() - start)
        lazyvol = statistics.median(seconds["lazyvol"][1:])
        for name, times in seconds.items():
            np.testing.assert_allclose(results[name][0], results["lazyvol"][0], atol=1e-4)
            median = statistics.median(times[1:])
            tasks = results[name][1] or ""
            print(f"| {n} | {name} | {median:.3f} | {median / lazyvol:.2f} | {tasks} |")


if __name__ == "__main__":
    with dask.config.set(scheduler="threads", num_workers=2):
        main()
