"""Time densities and grey levels against numpy, scipy, scikit-image and the memory bandwidth.

    python bench/bench_density.py [--runs 9]

Warm and in memory, all ways in turn in one process: ours on two threads, numpy, scipy and
scikit-image on one.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import numpy as np
from numba import njit
from scipy import ndimage as ndi
from scipy.special import ndtr
from side_by_side import RUNS, table, timed
from skimage.exposure import equalize_hist
from skimage.measure import block_reduce

import lazyvol as lv

SHAPE = (8, 256, 256, 256)
SMALL = (4, 128, 128, 128)
SIZE = {"z": 4, "y": 4, "x": 4}
POINTS = 4_000_000


@njit(nogil=True, fastmath={"reassoc", "contract"})
def total(values):
    """Return a plain sum, as fast as memory can be read."""
    result = np.float32(0)
    for i in range(values.size):
        result += values[i]
    return result


def stack_of(array: np.ndarray, volumes: int) -> object:
    return lv.as_stack(da.from_array(array, chunks=(volumes, *array.shape[1:])))


def block_ways(array: np.ndarray) -> dict:
    halves, pool = array.reshape(2, -1), ThreadPoolExecutor(2)
    stack, held = stack_of(array, 1), lv.as_stack(array)
    k, z, y, x = array.shape
    cut = (k, z // 4, 4, y // 4, 4, x // 4, 4)
    return {
        "read (sum, two threads)": lambda: list(pool.map(total, halves)),
        "lazyvol blocks 4^3, numpy": lambda: lv.density.blocks(held, SIZE),
        "lazyvol blocks 4^3, dask": lambda: lv.density.blocks(stack, SIZE).compute(),
        "lazyvol block_mean 4^3, numpy": lambda: lv.density.block_mean(held, SIZE),
        "numpy (a != 0) reshaped": lambda: (array != 0).reshape(cut).mean((2, 4, 6)),
        "dask coarsen": lambda: da.coarsen(np.mean, stack.data != 0, {1: 4, 2: 4, 3: 4}).compute(),
        "skimage block_reduce": lambda: block_reduce(array != 0, (1, 4, 4, 4), np.mean),
    }


def window_ways(array: np.ndarray) -> dict:
    held = lv.as_stack(array)
    ways = {}
    for n in (3, 9, 31):
        ways[f"lazyvol local {n}^3"] = lambda n=n: lv.density.local(held, n, mode="reflect")
        ways[f"scipy uniform_filter {n}^3"] = lambda n=n: ndi.uniform_filter(
            (array != 0).astype(np.float32), (0, n, n, n)
        )
    return ways


def point_ways() -> dict:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 127, (POINTS, 3))
    edges = [np.arange(129) - 0.5] * 3
    heavy = rng.random(POINTS)
    positions = lv.as_stack(places, dims=("point", "axis"))
    weights = lv.as_stack(heavy, dims=("point",))
    like = (128, 128, 128)

    def flat() -> np.ndarray:
        cells = np.ravel_multi_index(np.rint(places).astype(int).T, like)
        return np.bincount(cells, heavy, 128**3).reshape(like)

    return {
        "lazyvol points": lambda: lv.density.points(positions, like=like),
        "lazyvol points, weights": lambda: lv.density.points(positions, weights, like=like),
        "lazyvol points, linear": lambda: lv.density.points(
            positions, weights, like=like, method="linear"
        ),
        "numpy histogramdd": lambda: np.histogramdd(places, edges, weights=heavy),
        "numpy bincount, weights": flat,
    }


def level_ways(array: np.ndarray) -> dict:
    held = lv.as_stack(array)

    def shown() -> np.ndarray:
        low, high = np.percentile(array, (1, 99))
        return np.rint(np.clip((array - low) / (high - low), 0, 1) * 255).astype(np.uint8)

    return {
        "lazyvol gaussian_stretch": lambda: lv.intensity.gaussian_stretch(held, per="stack"),
        "scipy ndtr": lambda: ndtr((array - array.mean()) / array.std()),
        "lazyvol equalise": lambda: lv.intensity.equalise(held),
        "skimage equalize_hist": lambda: equalize_hist(array),
        "lazyvol display": lambda: lv.intensity.display(held),
        "numpy percentile, clip": shown,
    }


def shown(ways: dict, runs: int, elements: int, item: int, first: str) -> str:
    seconds = timed(ways, runs)
    rows = [
        [n, f"{1e3 * t:.1f}", f"{elements / t / 1e6:.0f}", f"{elements * item / t / 1e9:.1f}",
         f"{t / seconds[first]:.2f}"]
        for n, t in seconds.items()
    ]  # fmt: skip
    return table(["way", "ms", "million/s", "GB/s", f"time / {first}"], rows)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    dask.config.set(scheduler="threads", num_workers=2)
    rng = np.random.default_rng(0)
    large = rng.random(SHAPE, np.float32)
    large[large < 0.5] = 0
    small = np.ascontiguousarray(large[:4, :128, :128, :128])
    print(shown(block_ways(large), runs, large.size, 4, "read (sum, two threads)"), "\n")
    print(shown(window_ways(small), runs, small.size, 4, "lazyvol local 9^3"), "\n")
    print(shown(point_ways(), runs, POINTS, 24, "lazyvol points, weights"), "\n")
    print(shown(level_ways(small), runs, small.size, 4, "lazyvol equalise"))


if __name__ == "__main__":
    main()
