"""Compare derivatives and vesselness of a float32 volume with numpy, scipy and scikit-image.

    python bench/bench_derivatives.py [--side 128] [--runs 7]

lazyvol runs on two threads, in memory (two blocks) and on a dask array (two chunks); the others on
the one thread that they use. Times are medians of warm runs in turn in one process. ``memory`` is
the peak of a separate process that runs a way once, over the size of the result.
"""

import argparse
import json
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import threadpoolctl
from scipy import ndimage as ndi
from side_by_side import RUNS, peak_of, peaks, table, timed
from skimage.feature import hessian_matrix_eigvals, structure_tensor, structure_tensor_eigenvalues
from skimage.filters import frangi

import lazyvol as lv

SIGMA, NARROW = 2.0, 1.5
PAIRS = list(combinations_with_replacement(range(3), 2))
Ways = dict[str, Callable[[], Any]]


def differences(a: np.ndarray) -> list[np.ndarray]:
    """Return the six elements of the Hessian by ``numpy.gradient`` twice."""
    slopes = np.gradient(a)
    return [np.gradient(slopes[i], axis=j) for i, j in PAIRS]


def field(a: np.ndarray) -> np.ndarray:
    """Return all nine elements of the Hessian by ``numpy.gradient`` twice, components last."""
    return np.stack([np.stack(np.gradient(g), -1) for g in np.gradient(a)], -2)


def gaussians(a: np.ndarray) -> list[np.ndarray]:
    """Return the six elements of the Hessian by ``scipy.ndimage``."""
    return [
        ndi.gaussian_filter(a, SIGMA, [int(n == i) + int(n == j) for n in range(3)])
        for i, j in PAIRS
    ]


def rows(a: np.ndarray) -> dict[str, Ways]:
    """Return the ways to compute each result: lazyvol in memory first, the other library last."""
    d, plain = lv.derivatives, lv.as_stack(a)
    lazy = lv.as_stack(da.from_array(a, chunks=(len(a) // 2, *a.shape[1:])))

    def both(op: Callable[..., Any], **options: Any) -> Ways:
        return {
            "ours": lambda: op(plain, **options),
            "lazy": lambda: dask.persist(op(lazy, **options)),
        }

    return {
        "gradient": both(d.gradient) | {"numpy": lambda: np.stack(np.gradient(a), -1)},
        "hessian": both(d.hessian) | {"numpy, twice": lambda: field(a)},
        "hessian_eigenvalues": both(d.hessian_eigenvalues)
        | {"skimage": lambda: hessian_matrix_eigvals(differences(a))},
        "hessian_eigenvalues, sigma 2": both(d.hessian_eigenvalues, sigma=SIGMA)
        | {"scipy + skimage": lambda: hessian_matrix_eigvals(gaussians(a))},
        "laplacian, sigma 2": both(d.laplacian, sigma=SIGMA)
        | {"scipy": lambda: ndi.gaussian_laplace(a, SIGMA)},
        "gradient_magnitude, sigma 2": both(d.gradient_magnitude, sigma=SIGMA)
        | {"scipy": lambda: ndi.gaussian_gradient_magnitude(a, SIGMA)},
        "structure_tensor_eigenvalues": both(d.structure_tensor_eigenvalues, sigma=NARROW)
        | {"skimage": lambda: structure_tensor_eigenvalues(structure_tensor(a, NARROW))},
        "vesselness, sigma 2, c given": both(d.vesselness, sigma=SIGMA, c=0.1)
        | {"skimage": lambda: frangi(a, [SIGMA], gamma=0.1, black_ridges=False)},
        "vesselness, sigma 2": both(d.vesselness, sigma=SIGMA)
        | {"skimage": lambda: frangi(a, [SIGMA], black_ridges=False)},
    }


def volume(side: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((side,) * 3, dtype="f4")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", default="")
    parser.add_argument("--peak")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    threadpoolctl.threadpool_limits(1)
    if args.peak:
        name, _, way = args.peak.partition("|")
        rows(volume(16))[name][way]()
        print(json.dumps(peak_of(rows(volume(args.side))[name][way])))
        return
    lines = []
    for name, ways in rows(volume(args.side)).items():
        if args.only not in name:
            continue
        seconds = timed(ways, args.runs)
        ours, lazy, (theirs, slow) = seconds["ours"], seconds["lazy"], list(seconds.items())[-1]
        size = np.asarray(ways["ours"]()).nbytes
        keys = [f"{name}|ours", f"{name}|{theirs}"]
        memory = peaks(str(Path(__file__).resolve()), keys, "--side", str(args.side))
        lines.append([
            name, f"{1e3 * ours:.1f}", f"{1e3 * lazy:.1f}", theirs, f"{1e3 * slow:.0f}",
            f"{slow / ours:.1f}", f"{slow / lazy:.1f}",
            *(f"{memory[key] / size:.1f}" for key in keys),
        ])  # fmt: skip
    header = [
        "result", "ours, ms", "lazy, ms", "theirs", "ms", "times faster", "lazy", "our memory",
        "their memory",
    ]  # fmt: skip
    print(table(header, lines))


if __name__ == "__main__":
    main()
