"""Rows of the fourier topic, with whole transforms and scipy as the oracle."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.ndimage as ndi

import lazyvol as lv
from tests.cases import VOXEL, Array, Case, each
from tests.rows.registration import ROUNDED, each_shifted, labelled_moves, shifted_by_phase


def filtered(multiply: Callable[..., Array], size: Any) -> Callable[[Array], Array]:
    """Return a filter of every particle by its whole transform."""
    return each(lambda v: np.fft.ifftn(multiply(np.fft.fftn(v), size)).real)


def in_planes(v: Array) -> Array:
    """Return a particle filtered along z and x alone."""
    spectra = np.fft.fftn(v, axes=(0, 2)).transpose(1, 0, 2)
    planes = [ndi.fourier_ellipsoid(s, (3, 5)) for s in spectra]
    return np.fft.ifftn(np.stack(planes), axes=(1, 2)).real.transpose(1, 0, 2)


FOURIER = {
    "fourier.gaussian": Case(
        lambda s: lv.fourier.gaussian(s, 3.0),
        filtered(ndi.fourier_gaussian, [3.0 / d for d in VOXEL]), also={"sigma": 3.0},
    ),
    "fourier.uniform": Case(
        lambda s: lv.fourier.uniform(s, (2, 3, 5)), filtered(ndi.fourier_uniform, (2, 3, 5)),
        also={"size": 3},
    ),
    "fourier.ellipsoid": Case(
        lambda s: lv.fourier.ellipsoid(s, {"x": 5, "z": 3}), each(in_planes), ulps=8.0,
        also={"size": 3},
    ),
    "fourier.shift": Case(
        lambda s: lv.fourier.shift(s, labelled_moves(s)), each_shifted(shifted_by_phase),
        ulps=ROUNDED,
    ),
}  # fmt: skip
