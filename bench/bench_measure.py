"""Compare tables of objects with scipy, scikit-image and dask-image.

    python bench/bench_measure.py [--runs 5]

CPU seconds of both threads, medians of 5 warm runs in turn in one process. scikit-image and
dask-image, which take long for every label, run with a hundred labels alone, dask-image once.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import dask
import dask.array as da
import dask_image.ndmeasure as ndmeasure
import numpy as np
import scipy.ndimage as ndi
from side_by_side import RUNS, table
from skimage.measure import regionprops_table

import lazyvol as lv

SEVEN = ("mean", "var", "min", "max", "center_of_mass", "bbox", "count")


def cpu_seconds(ways: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Return the median CPU seconds of each way, run in turn after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for n in range(runs + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if n:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def volumes(size: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise, and cubes of 8 voxels with random labels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, labels + 1, (size // 8,) * 3)
    coarse.flat[:labels] = np.arange(1, labels + 1)  # every label occurs
    cubes = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2).astype(np.int32)
    return rng.random((size,) * 3).astype(np.float32), cubes


def by_scipy(values: np.ndarray, labels: np.ndarray, index: np.ndarray) -> None:
    for function in (ndi.mean, ndi.variance, ndi.minimum, ndi.maximum, ndi.center_of_mass):
        function(values, labels, index)
    ndi.find_objects(labels)
    np.bincount(labels.ravel())


def by_skimage(values: np.ndarray, labels: np.ndarray) -> None:
    names = ("num_pixels", "bbox", "centroid_weighted", "intensity_mean", "intensity_std",
             "intensity_min", "intensity_max")  # fmt: skip
    regionprops_table(labels, values, properties=names)


def by_dask_image(values: da.Array, labels: da.Array, index: np.ndarray) -> float:
    """Return the CPU seconds of the mean alone, the cheapest of the seven."""
    start = time.process_time()
    ndmeasure.mean(values, labels, index).compute()
    return time.process_time() - start


def compare(size: int, count: int, runs: int) -> list[list[str]]:
    values, labels = volumes(size, count)
    index = np.arange(1, count + 1)
    chunked = [da.from_array(a, chunks=size // 3) for a in (values, labels)]
    stack, objects = (lv.as_stack(a) for a in chunked)
    plain, plain_objects = lv.as_stack(values), lv.as_stack(labels)

    def ours(*what: str, **options: Any) -> Callable[[], Any]:
        return lambda: dask.compute(lv.measure.table(stack, objects, what=what, **options))

    ways = {
        "lazyvol, 7 properties": ours(*SEVEN),
        "lazyvol, 7 properties, labels named": ours(*SEVEN, index=index),
        "lazyvol, 7 properties, numpy": lambda: lv.measure.table(plain, plain_objects, what=SEVEN),
        "scipy, the same 7": lambda: by_scipy(values, labels, index),
        "lazyvol, mean": ours("mean"),
        "scipy, mean": lambda: ndi.mean(values, labels, index),
        "lazyvol, median": ours("median"),
        "scipy, median": lambda: ndi.median(values, labels, index),
        "lazyvol, inertia": ours("inertia_tensor"),
    }
    if count <= 100:
        ways |= {
            "scikit-image, the same 7": lambda: by_skimage(values, labels),
            "scikit-image, inertia": lambda: regionprops_table(
                labels, properties=("inertia_tensor",)
            ),
        }
    seconds = cpu_seconds(ways, runs)
    if count <= 100:
        seconds["dask-image, mean alone, once"] = by_dask_image(*chunked, index)
    reference = seconds["lazyvol, 7 properties"]
    references = {way: seconds[f"lazyvol, {way}"] for way in ("mean", "median", "inertia")}
    rows = []
    for way, s in seconds.items():
        ours_alike = references.get(way.rpartition(", ")[2], reference)
        rows.append([f"{size}³, {count} labels", way, f"{s:.3f}", f"{s / ours_alike:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS)
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    for size, labels in ((96, 100), (160, 2000)):
        rows = compare(size, labels, args.runs)
        print(table(["volume", "way", "CPU seconds", "times lazyvol"], rows), flush=True)


if __name__ == "__main__":
    main()
