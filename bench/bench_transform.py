"""Compare transforms, morphology and Fourier filters with scipy, scikit-image and dask-image.

    python bench/bench_transform.py [--size 128] [--runs 5]

CPU seconds of all threads, medians of warm runs in turn in one process, on one volume of float32.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import dask.array as da
import numpy as np
import scipy.fft
import scipy.ndimage as ndi
import skimage.morphology
import skimage.transform
from bench_measure import cpu_seconds
from dask_image.ndinterp import affine_transform
from scipy.spatial.transform import Rotation
from side_by_side import RUNS, table

import lazyvol as lv

Ways = Mapping[str, Callable[[], Any]]


def rotation(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the matrix and offset of a rotation about the centre."""
    matrix = Rotation.from_euler("ZYZ", (20, 30, 40), degrees=True).as_matrix()
    centre = np.full(3, size // 2)
    return matrix, centre - matrix @ centre


def transforms(volume: np.ndarray) -> dict[str, Ways]:
    matrix, offset = rotation(len(volume))
    blocks = da.from_array(volume, chunks=len(volume) // 2)
    cases: dict[str, Ways] = {
        f"rotation, order {order}": {
            "lazyvol": lambda order=order: lv.transform.affine(volume, matrix, offset, order=order),
            "scipy": lambda order=order: ndi.affine_transform(volume, matrix, offset, order=order),
        }
        for order in (0, 1, 3, 5)
    }
    cases["rotation, order 1"] = {
        **cases["rotation, order 1"],
        "dask-image": lambda: affine_transform(blocks, matrix, offset=offset, order=1).compute(),
    }
    cases["half as many voxels, smoothed"] = {
        "lazyvol": lambda: lv.transform.rescale(volume, 0.5),
        "scikit-image": lambda: skimage.transform.rescale(volume, 0.5, anti_aliasing=True),
    }
    return cases


def morphology(volume: np.ndarray) -> dict[str, Ways]:
    mask = volume > -0.02
    return {
        "distances in a mask": {
            "lazyvol": lambda: lv.masks.distance_transform(mask),
            "scipy": lambda: ndi.distance_transform_edt(mask),
        },
        "reconstruction": {
            "lazyvol": lambda: lv.filters.reconstruct(volume - 0.02, volume),
            "scikit-image": lambda: skimage.morphology.reconstruction(volume - 0.02, volume),
        },
        "white top-hat of 5 voxels": {
            "lazyvol": lambda: lv.filters.white_tophat(volume, 5),
            "scipy": lambda: ndi.white_tophat(volume, 5),
        },
    }


def fourier(volume: np.ndarray) -> dict[str, Ways]:
    def by_scipy() -> np.ndarray:
        spectrum = scipy.fft.rfftn(volume.astype(np.float64))
        ndi.fourier_gaussian(spectrum, 8.0, n=volume.shape[-1], output=spectrum)
        return scipy.fft.irfftn(spectrum, volume.shape).astype(np.float32)

    return {
        "Gaussian of sigma 8 in Fourier space": {
            "lazyvol": lambda: lv.fourier.gaussian(volume, 8.0),
            "scipy": by_scipy,
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    noise = np.random.default_rng(0).normal(size=(options.size,) * 3)
    volume = ndi.gaussian_filter(noise, 2).astype(np.float32)
    rows = []
    for name, ways in {**transforms(volume), **morphology(volume), **fourier(volume)}.items():
        seconds = cpu_seconds(ways, options.runs)
        ratios = [f"{way} {s / seconds['lazyvol']:.2g}" for way, s in seconds.items()]
        rows.append([name, f"{seconds['lazyvol']:.3f}", ", ".join(ratios[1:])])
    print(table(["operation", "lazyvol, s", "others, times as long"], rows))


if __name__ == "__main__":
    main()
