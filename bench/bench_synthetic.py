"""Random fields and deformations beside what numpy and scipy users write.

    python bench/bench_synthetic.py [--side 128] [--large 512]

Two threads for ours, one for scipy, which has no others; warm, in turn, median of 5. The table of
sizes runs the large field once, in a process of its own, and says what a covariance matrix of as
many voxels would take.
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
#: longest for which the FFT is run: at 40 it takes 30 s and 5 GB for 160^3
SHORT = 8.0
GIB = 2**30


def convolved(side: int, length: float) -> np.ndarray:
    """White noise convolved with a Gaussian, as answers on the web have it."""
    deviation = length / np.sqrt(2)
    reach = int(4.5 * deviation + 0.5)
    line = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    kernel = np.einsum("a,b,c->abc", *[line / np.linalg.norm(line)] * 3).astype("f4")
    noise = np.random.default_rng(0).standard_normal((side + 2 * reach,) * 3, dtype="f4")
    return scipy.signal.fftconvolve(noise, kernel, mode="valid")


def filtered(side: int, length: float) -> np.ndarray:
    """White noise through scipy's own separable Gaussian."""
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
        if length <= SHORT:
            ways["fftconvolve"] = lambda n=length: convolved(side, n)
        found = timed(ways, RUNS)
        row = [f"{length:g}", f"{1e9 * found['ours'] / side**3:.1f}"]
        for name in ("fftconvolve", "gaussian_filter"):
            per = 1e9 * found.get(name, np.nan) / side**3
            row += [f"{per:.0f}", f"{found.get(name, np.nan) / found['ours']:.1f}"]
        rows.append(row)
    return rows


def moved(volume: np.ndarray, alpha: float, sigma: float, order: int) -> np.ndarray:
    """Simard's deformation as users write it: smoothed noise, map_coordinates."""
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
                "scipy": lambda s=sigma, o=order: moved(volume, 40.0, s, o),
            }
            found = timed(ways, RUNS)
            rows.append([
                f"order {order}, sigma {sigma:g}", f"{1e9 * found['ours'] / side**3:.0f}",
                f"{1e9 * found['scipy'] / side**3:.0f}", f"{found['scipy'] / found['ours']:.1f}",
            ])  # fmt: skip
    return rows


def exactness(side: int) -> list[list[str]]:
    """Largest difference from the Gaussian correlation, over all pairs of a line."""
    rows = []
    for length in (0.5, 1.0, 2.0, 5.0, 40.0, 700.0):
        deviation = length / np.sqrt(2)
        found = gaussian_field.taps(deviation)
        n = min(4 * side, 8 * max(4, round(length)))
        span = found.noise_span(0, n)
        matrix = np.zeros((n, span.stop - span.start))
        for i in range(n):
            first = found.noise_span(i, i + 1).start - span.start
            matrix[i, first : first + found.count] = found.weights[i % found.step]
        lag = np.arange(n)
        wanted = np.exp(-(((lag[:, None] - lag) / length) ** 2) / 2)
        error = np.abs(matrix @ matrix.T - wanted).max()
        rows.append([f"{length:g}", str(found.step), str(found.count), f"{error:.1e}"])
    return rows


def large(side: int) -> None:
    """Make a field block by block, keeping nothing but its sum of squares."""
    field = lv.synthetic.correlated_noise((side,) * 3, 25.0)
    lv.stats.std(field, None).compute()


def sizes(side: int) -> list[list[str]]:
    start = time.perf_counter()
    taken = peaks(__file__, ["large"], "--large", str(side))["large"]
    seconds = time.perf_counter() - start
    most = int(np.sqrt(8 * GIB / 8))  # voxels whose covariance fits 8 GiB
    rows = [
        ["multivariate normal", f"{most} voxels ({most ** (1 / 3):.0f}^3)", "8 GiB", ""],
        ["ours", f"{side**3} voxels ({side}^3), {side**3 / most:.0f} times as many",
         f"{taken / GIB:.2f} GiB", f"{seconds:.1f} s with start and compilation"],
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
