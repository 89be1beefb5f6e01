"""Random fields and deformations compared with the usual code in numpy and scipy.

    python bench/bench_synthetic.py [--side 128] [--large 512]

Two threads for lazyvol, one for scipy, which has no more; warm, interleaved, median of 5. The table
of sizes computes the large field once, in a process of its own, and the voxels whose covariance
matrix fits the memory.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import dask
import numpy as np
import scipy.ndimage as ndi
import scipy.signal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from side_by_side import RUNS, peak_of, peaks, table, timed

import lazyvol as lv
from lazyvol.kernels.synthetic import gaussian_field

LENGTHS = (2.0, 8.0, 20.0)
#: longest length with FFT: at 40 it takes 30 s and 5 GB for 160^3
LONGEST_FFT = 8.0
GIB = 2**30


def convolved(side: int, length: float) -> np.ndarray:
    """White noise convolved with a Gaussian by FFT."""
    deviation = length / np.sqrt(2)
    reach = int(4.5 * deviation + 0.5)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = np.einsum("a,b,c->abc", *[line / np.linalg.norm(line)] * 3).astype("f4")
    noise = np.random.default_rng(0).standard_normal((side + 2 * reach,) * 3, dtype="f4")
    return scipy.signal.fftconvolve(noise, kernel, mode="valid")


def filtered(side: int, length: float) -> np.ndarray:
    """White noise smoothed by ``scipy.ndimage.gaussian_filter``."""
    deviation = length / np.sqrt(2)
    reach = int(4.5 * deviation + 0.5)
    noise = np.random.default_rng(0).standard_normal((side + 2 * reach,) * 3, dtype="f4")
    smooth = ndi.gaussian_filter(noise, deviation, truncate=4.5)
    return smooth[(slice(reach, -reach),) * 3]


def fields(side: int) -> list[list[str]]:
    rows = []
    for length in LENGTHS:
        ways = {
            "ours": lambda n=length: lv.synthetic.correlated_noise((side,) * 3, n).compute(),
            "gaussian_filter": lambda n=length: filtered(side, n),
        }
        if length <= LONGEST_FFT:
            ways["fftconvolve"] = lambda n=length: convolved(side, n)
        seconds = timed(ways, RUNS)
        row = [f"{length:g}", f"{1e9 * seconds['ours'] / side**3:.1f}"]
        for name in ("fftconvolve", "gaussian_filter"):
            per = 1e9 * seconds.get(name, np.nan) / side**3
            row += [f"{per:.0f}", f"{seconds.get(name, np.nan) / seconds['ours']:.1f}"]
        rows.append(row)
    return rows


def deformed(volume: np.ndarray, alpha: float, sigma: float, order: int) -> np.ndarray:
    """Simard's deformation by smoothed noise and ``map_coordinates``."""
    rng = np.random.default_rng(0)
    places = np.indices(volume.shape).astype("f8")
    for axis in range(volume.ndim):
        noise = rng.uniform(-1, 1, volume.shape)
        places[axis] += alpha * ndi.gaussian_filter(noise, sigma, mode="constant")
    return ndi.map_coordinates(volume, places, order=order, mode="reflect")


def deformations(side: int) -> list[list[str]]:
    volume = np.random.default_rng(1).standard_normal((side,) * 3, dtype="f4")
    stack = lv.as_stack(volume)
    rows = []
    for order in (1, 3):
        for sigma in (2.0, 8.0):
            ways = {
                "ours": lambda s=sigma, o=order: lv.synthetic.elastic(stack, 40.0, s, order=o),
                "scipy": lambda s=sigma, o=order: deformed(volume, 40.0, s, o),
            }
            seconds = timed(ways, RUNS)
            ours, scipys = (1e9 * seconds[name] / side**3 for name in ways)
            rows.append([
                f"order {order}, sigma {sigma:g}", f"{ours:.0f}", f"{scipys:.0f}",
                f"{scipys / ours:.1f}",
            ])  # fmt: skip
    return rows


def exactness(side: int) -> list[list[str]]:
    """Largest error of the correlation, over all pairs of voxels of a line."""
    rows = []
    for length in (0.5, 1.0, 2.0, 5.0, 40.0, 700.0):
        deviation = length / np.sqrt(2)
        taps = gaussian_field.taps(deviation)
        n = min(4 * side, 8 * max(4, round(length)))
        span = taps.noise_span(0, n)
        matrix = np.zeros((n, span.stop - span.start))
        for i in range(n):
            first = taps.noise_span(i, i + 1).start - span.start
            matrix[i, first : first + taps.count] = taps.weights[i % taps.step]
        lag = np.arange(n)
        expected = np.exp(-(((lag[:, None] - lag) / length) ** 2) / 2)
        error = np.abs(matrix @ matrix.T - expected).max()
        rows.append([f"{length:g}", str(taps.step), str(taps.count), f"{error:.1e}"])
    return rows


def large(side: int) -> None:
    """Compute a field block by block, and keep only its deviation."""
    field = lv.synthetic.correlated_noise((side,) * 3, 25.0)
    lv.stats.std(field, None).compute()


def sizes(side: int) -> list[list[str]]:
    start = time.perf_counter()
    peak = peaks(__file__, ["large"], "--large", str(side))["large"]
    seconds = time.perf_counter() - start
    voxels = int(np.sqrt(8 * GIB / 8))  # voxels whose covariance fits 8 GiB
    rows = [
        ["multivariate normal", f"{voxels} voxels ({voxels ** (1 / 3):.0f}^3)", "8 GiB", ""],
        ["ours", f"{side**3} voxels ({side}^3), {side**3 / voxels:.0f} times as many",
         f"{peak / GIB:.2f} GiB", f"{seconds:.1f} s with start and compilation"],
    ]  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--large", type=int, default=512)
    parser.add_argument("--peak")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    if args.peak:
        with lv.limited("1GiB", workers=2):
            print(json.dumps(peak_of(lambda: large(args.large))))
        return
    header = ["length", "ours, ns/voxel", "fftconvolve", "times", "gaussian_filter", "times"]
    parts = {
        tuple(header): lambda: fields(args.side),
        ("elastic", "ours, ns/voxel", "scipy", "times"): lambda: deformations(args.side),
        ("length", "spacing", "products", "largest error"): lambda: exactness(args.side),
        ("way", "feasible", "memory", "time"): lambda: sizes(args.large),
    }
    for head, rows in parts.items():
        print(table(list(head), rows()), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
