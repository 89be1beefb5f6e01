"""Distances, components, whitening and unmixing against scipy, numpy and dask.

    python bench/bench_clustering.py [--large] [--folder DIR]

All in one process with two threads, warm, interleaved; the median of five. ``--large`` whitens
50,000 x 3072 float32 once each way (minutes), and reports the CPU seconds of all cores, the largest
deviation of the covariance from the identity, and the peak memory in a separate process.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import xarray as xr
from scipy.spatial.distance import cdist
from side_by_side import peak_of, peaks, table, timed

import lazyvol as lv

THREADS = 2
SAMPLES, FEATURES = 50_000, 3072
DIMS = ("k", "feature")


def volumes(n: int, box: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, box, box, box), dtype=np.float32)


def distance_rows(n: int = 96, box: int = 32) -> list[list[str]]:
    """Compare distances with scipy on one core, in float64."""
    array = volumes(n, box)
    stack, flat = lv.as_stack(array), array.reshape(n, -1)
    rows = []
    for metric, name in (("euclidean", "euclidean"), ("ncc", "correlation")):
        seconds = timed({
            "lazyvol": lambda metric=metric: lv.clustering.distances(stack, metric=metric),
            "scipy cdist": lambda name=name: cdist(flat, flat, name),
        })  # fmt: skip
        rows.append(row(f"distances {metric}, {n} x {box}^3", seconds))
    return rows


def gram_row(n: int = 256, box: int = 32) -> list[str]:
    """Compare distances with the matrix product alone, in float64 with two threads."""
    array = volumes(n, box)
    stack, flat = lv.as_stack(array), array.reshape(n, -1)

    def bare() -> np.ndarray:
        wide = flat.astype(np.float64)
        return wide @ wide.T

    seconds = timed({"lazyvol": lambda: lv.clustering.distances(stack), "numpy x @ x.T": bare})
    return row(f"distances against the bare product, {n} x {box}^3", seconds)


def component_row(n: int = 200, box: int = 32, count: int = 8) -> list[str]:
    array = volumes(n, box)
    stack, flat = lv.as_stack(array), array.reshape(n, -1)
    lazy = da.from_array(flat, chunks=(n, -1))

    def by_dask() -> None:
        centred = lazy - lazy.mean(0)
        dask.compute(*da.linalg.svd_compressed(centred.T, count, n_power_iter=2))

    seconds = timed({
        "lazyvol": lambda: lv.clustering.components(stack, count),
        "numpy svd": lambda: np.linalg.svd(flat - flat.mean(0), full_matrices=False),
        "dask svd_compressed (approximate)": by_dask,
    })  # fmt: skip
    return row(f"{count} components, {n} x {box}^3", seconds)


def unmix_row() -> list[str]:
    image = np.random.default_rng(0).random((2048, 2048, 3), dtype=np.float32)
    matrix = np.array([[1.0, 0.3, 0.1], [0.2, 0.9, 0.4], [0.0, 0.5, 1.2]])
    stack = xr.DataArray(image, dims=("y", "x", "channel"))
    seconds = timed({
        "lazyvol": lambda: lv.unmixing.unmix(stack, matrix),
        "numpy image @ inv": lambda: image @ np.linalg.inv(matrix).astype(np.float32),
        "numpy in float64": lambda: (image @ np.linalg.inv(matrix)).astype(np.float32),
    })  # fmt: skip
    return row("unmix 2048 x 2048 x 3", seconds)


def whiten_row(n: int = 4000, p: int = 512) -> list[str]:
    samples = correlated(n, p)
    stack = lv.as_stack(samples, dims=("k", "feature"))
    seconds = timed({
        "lazyvol": lambda: lv.intensity.whiten(stack), "numpy svd": lambda: zca_by_numpy(samples)
    })  # fmt: skip
    return row(f"whiten {n} x {p}", seconds)


def row(name: str, seconds: dict[str, float]) -> list[str]:
    """Return a row of the table: the name, our time, and those of the others with their ratios."""
    ours = seconds["lazyvol"]
    others = [f"{way} {s:.3f} s, {s / ours:.1f}x" for way, s in seconds.items() if way != "lazyvol"]
    return [name, f"{ours:.3f} s", "; ".join(others)]


# whitening of 600 MB ---------------------------------------------------------------------------


def correlated(n: int, p: int) -> np.ndarray:
    """Return samples like images: correlated neighbours, variances over three decades."""
    rng = np.random.default_rng(1)
    samples = rng.standard_normal((n, p), dtype=np.float32)
    fall = (1 / np.arange(1, p // 2 + 2)).astype(np.float32)
    for at in range(0, n, 5000):
        part = np.fft.rfft(samples[at : at + 5000], axis=1) * fall
        samples[at : at + 5000] = np.fft.irfft(part, p, axis=1)
    return 100 * samples + 120


def zca_by_numpy(samples: np.ndarray) -> np.ndarray:
    """Return the ZCA by numpy's SVD of the centred samples."""
    u, _, v = np.linalg.svd(samples - samples.mean(0), full_matrices=False)
    return np.sqrt(np.float32(len(samples) - 1)) * (u @ v)


def stored(folder: Path) -> Path:
    path = folder / f"samples-{SAMPLES}x{FEATURES}.zarr"
    if not path.exists():
        samples = correlated(SAMPLES, FEATURES)
        lazy = da.from_array(samples, chunks=(2500, FEATURES))
        lv.save(lv.as_stack(lazy, dims=("k", "feature")), path)
    return path


def whitened(folder: Path) -> None:
    """Whiten from disk to disk."""
    target = folder / "white.zarr"
    with dask.config.set(num_workers=THREADS):
        result = lv.intensity.whiten(lv.open(stored(folder)))
        lv.save(result, target, overwrite=True, memory="1GiB")


def by_numpy(folder: Path) -> np.ndarray:
    return zca_by_numpy(lv.open(stored(folder)).values)


def identity_error(white: np.ndarray) -> float:
    """Return the largest deviation of the covariance from the identity, in float64."""
    total, sums = np.zeros((white.shape[1],) * 2), np.zeros(white.shape[1])
    for at in range(0, len(white), 5000):
        part = white[at : at + 5000].astype(np.float64)
        total += part.T @ part
        sums += part.sum(0)
    n = len(white)
    return float(abs((total - np.outer(sums, sums) / n) / (n - 1) - np.eye(len(sums))).max())


def large(folder: Path) -> list[list[str]]:
    """Return rows of seconds, CPU seconds, deviation from the identity, and peak memory."""
    held = lv.open(stored(folder)).values
    ways = {
        "lazyvol, disk to disk": lambda: whitened(folder),
        "lazyvol, in memory": lambda: lv.intensity.whiten(lv.as_stack(held, dims=DIMS)).values,
        "numpy svd, in memory": lambda: zca_by_numpy(held),
    }
    lv.intensity.whiten(lv.as_stack(held[:200, :100], dims=DIMS))
    peak_bytes, rows = peaks(__file__, ["lazyvol", "numpy svd"], "--folder", str(folder)), []
    for name, way in ways.items():
        start, cores = time.perf_counter(), time.process_time()
        result = way()
        seconds, cores = time.perf_counter() - start, time.process_time() - cores
        white = lv.open(folder / "white.zarr").values if result is None else result
        peak = peak_bytes.get(name.removesuffix(", disk to disk").removesuffix(", in memory"), 0)
        rows.append([
            name, f"{seconds:.0f}", f"{cores:.0f}", f"{identity_error(white):.1e}",
            "(the stack is held)" if name == "lazyvol, in memory" else f"{peak / 2**20:.0f}",
        ])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    parser.add_argument("--peak")
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    if args.peak:
        way = whitened if args.peak == "lazyvol" else by_numpy
        print(json.dumps(peak_of(lambda: way(folder))))
        return
    if args.large:
        header = ["whiten 50,000 x 3072", "s", "core s", "off the identity", "peak, MiB"]
        print(table(header, large(folder)))
        return
    rows = [*distance_rows(), gram_row(), component_row(), unmix_row(), whiten_row()]
    print(table(["operation", "lazyvol", "others"], rows))


if __name__ == "__main__":
    sys.exit(main())
