"""Time filters against scipy.ndimage and dask-image, in memory.

    python bench/bench_filters.py [--shape 16 128 128 128] [--runs 5]

float32 in chunks of two volumes, two threads (one for scipy.ndimage), warm, all ways in turn in one
process. Ways that take seconds per volume are timed on the first volumes only; all times are per
voxel.
"""

import argparse
from functools import partial

import dask
import dask.array as da
import dask_image.ndfilters as theirs
import numba
import numpy as np
import scipy.ndimage as ndi
import scipy.signal
from side_by_side import RUNS, Way, table, timed

import lazyvol as lv

KERNEL = np.random.default_rng(1).normal(size=(7, 7, 7)).astype(np.float32)
LARGE = np.random.default_rng(2).normal(size=(15, 15, 15)).astype(np.float32)


@numba.njit
def spread(values: np.ndarray) -> float:
    """Return the largest minus the smallest value."""
    return values.max() - values.min()


def ways(array: np.ndarray) -> dict[str, dict[str, tuple[Way, int]]]:
    """Return, by filter and way, a call and the number of volumes that it filters."""

    def ours(op, volumes: int = len(array)) -> tuple[Way, int]:
        lazy = op(lv.as_stack(da.from_array(array[:volumes], chunks=(2, -1, -1, -1))))
        return (lambda: lazy.compute()), volumes

    def peer(op, volumes: int = len(array), **options) -> tuple[Way, int]:
        chunked = da.from_array(array[:volumes], chunks=(1, -1, -1, -1))
        lazy = op(chunked, **options)
        return (lambda: lazy.compute()), volumes

    def single(op, volumes: int = 4) -> tuple[Way, int]:
        return (lambda: [op(v) for v in array[:volumes]]), volumes

    def windows(name: str, size: int, few: int = 4) -> dict[str, tuple[Way, int]]:
        op, scipys = getattr(lv.filters, name), getattr(ndi, f"{name}_filter")
        return {
            "lazyvol": ours(lambda s: op(s, size), 16 if few > 1 else 4),
            "scipy": single(lambda v: scipys(v, size), few),
            "dask-image": peer(
                getattr(theirs, f"{name}_filter"), 4 if few > 1 else 2, size=(1, size, size, size)
            ),
        }

    return {
        "gaussian, sigma 2": {
            "lazyvol": ours(lambda s: lv.filters.gaussian(s, 2.0)),
            "scipy": single(lambda v: ndi.gaussian_filter(v, 2.0)),
            "dask-image": peer(theirs.gaussian_filter, sigma=(0, 2, 2, 2)),
        },
        "uniform 9^3": windows("uniform", 9),
        "uniform 33^3": windows("uniform", 33),
        "minimum 9^3": windows("minimum", 9),
        "median 3^3": windows("median", 3, few=1),
        "convolve 7^3": {
            "lazyvol": ours(lambda s: lv.filters.convolve(s, KERNEL)),
            "scipy": single(lambda v: ndi.convolve(v, KERNEL), 1),
            "dask-image": peer(theirs.convolve, 2, weights=KERNEL[None]),
            "scipy.signal.oaconvolve": single(
                lambda v: scipy.signal.oaconvolve(np.pad(v, 3, mode="symmetric"), KERNEL, "valid")
            ),
        },
        "convolve 15^3": {
            "lazyvol": ours(lambda s: lv.filters.convolve(s, LARGE), 8),
            "scipy.signal.oaconvolve": single(
                lambda v: scipy.signal.oaconvolve(np.pad(v, 7, mode="symmetric"), LARGE, "valid")
            ),
        },
        "laplace": {
            "lazyvol": ours(lv.filters.laplace),
            "scipy": single(ndi.laplace),
            "dask-image": peer(partial(theirs.laplace)),
        },
        "sobel": {
            "lazyvol": ours(lambda s: lv.filters.sobel(s, "x")),
            "scipy": single(ndi.sobel),
        },
        "sobel, norm": {
            "lazyvol": ours(lambda s: lv.filters.sobel(s, "spatial")),
            "scipy": single(lambda v: ndi.generic_gradient_magnitude(v, ndi.sobel)),
        },
        "gradient magnitude, sigma 2": {
            "lazyvol": ours(lambda s: lv.filters.gaussian_gradient_magnitude(s, 2.0)),
            "scipy": single(lambda v: ndi.gaussian_gradient_magnitude(v, 2.0)),
        },
        "laplacian of Gaussian, sigma 2": {
            "lazyvol": ours(lambda s: lv.filters.gaussian_laplace(s, 2.0)),
            "scipy": single(lambda v: ndi.gaussian_laplace(v, 2.0)),
        },
        "generic 3^3, numba": {
            "lazyvol": ours(lambda s: lv.filters.generic(s, spread, 3), 4),
            "scipy": single(lambda v: ndi.generic_filter(v, spread, 3), 1),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=int, nargs=4, default=(16, 128, 128, 128))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    array = np.random.default_rng(0).normal(2.0, 1.0, args.shape).astype(np.float32)
    voxels = array[0].size
    rows = []
    for name, calls in ways(array).items():
        if args.only not in name:
            continue
        seconds = timed({way: run for way, (run, _) in calls.items()}, args.runs)
        times = {way: 1e9 * s / voxels / calls[way][1] for way, s in seconds.items()}
        for way, ns in times.items():
            rows.append([name, way, f"{ns:.2f}", f"{ns / times['lazyvol']:.1f}"])
    print(table(["filter", "way", "ns per voxel", "times lazyvol"], rows))


if __name__ == "__main__":
    main()
