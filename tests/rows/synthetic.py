"""Rows of random fields, deformations, membranes and wedges, with oracles in numpy and scipy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage as ndi

import lazyvol as lv
from tests import formulas as by_numpy
from tests.cases import STACKED, VOLUME, VOXEL, Array, Case, wide

#: counter of the random numbers at position 0
ORIGIN = 2**30


def fractions(places: Sequence[range], lead: int, seed: int, stream: int) -> Array:
    """Uniform numbers at positions (z, y, x), which may be negative."""
    z, y, x = (np.array(p) + ORIGIN for p in places)
    quads = np.arange(x[0] // 4, x[-1] // 4 + 1)
    counters = np.meshgrid(np.array([lead]), z, y, quads, indexing="ij")
    words = by_numpy.philox(counters[::-1], (seed, stream))
    lined = np.stack([(w + 0.5) * 2.0**-32 for w in words], -1).reshape(len(z), len(y), -1)
    return lined[..., x[0] - 4 * quads[0] :][..., : len(x)]


def white(places: Sequence[range], lead: int, seed: int, stream: int, normal: bool = True) -> Array:
    """White noise of variance 1 at positions (z, y, x)."""
    if not normal:
        return np.sqrt(12) * (fractions(places, lead, seed, stream) - 0.5)
    z, y, x = places
    low = x.start // 4 * 4
    u = fractions((z, y, range(low, -(-x.stop // 4) * 4)), lead, seed, stream)
    u = u.reshape(*u.shape[:2], -1, 2)
    radius, angle = np.sqrt(-2 * np.log(u[..., 0])), 2 * np.pi * (u[..., 1] % 0.25 - 0.125)
    first, second, quadrant = np.cos(angle), -np.sin(angle), (u[..., 1] * 4).astype(int)
    first, second = np.where(quadrant % 2, -second, first), np.where(quadrant % 2, first, second)
    sign = np.where(quadrant >= 2, -1, 1)
    pair = np.stack([radius * sign * first, radius * sign * second], -1)
    return pair.reshape(*u.shape[:2], -1)[..., x.start - low :][..., : len(x)]


def smoothing_matrix(n: int, deviation: float) -> tuple[Array, range]:
    """Weights of white noise for ``n`` voxels, (voxel, noise), and the positions of the noise."""
    step = max(1, int(deviation / 1.3))
    before = int(4.5 * deviation + 0.5) if step == 1 else int(np.ceil(4.5 * deviation / step))
    after = before if step == 1 else before + 1
    voxel = np.arange(n)[:, None]
    places = range(-before, (n - 1) // step + after + 1)
    off = voxel - step * np.array(places)
    steps = np.array(places) - voxel // step
    weights = np.exp(-0.5 * (off / max(deviation, 1e-9)) ** 2) * (
        (-before <= steps) & (steps <= after)
    )
    return weights / np.linalg.norm(weights, axis=1, keepdims=True), places


def field(
    shape: Sequence[int], deviations: Sequence[float], lead: int, *, seed: int, stream: int,
    normal: bool = True,
) -> Array:  # fmt: skip
    """A smooth random field of variance 1 by three matrix products."""
    matrices, places = zip(*map(smoothing_matrix, shape, deviations), strict=True)
    noise = white(places, lead, seed, stream, normal)
    return np.einsum("ai,bj,ck,ijk->abc", *matrices, noise, optimize=True)


def fields(a: Array, lengths: Sequence[float], **options: Any) -> Array:
    """A random field for each volume of a stack."""
    deviations = [n / v / np.sqrt(2) for n, v in zip(lengths, VOXEL, strict=True)]
    return np.stack([field(a.shape[1:], deviations, k, **options) for k in range(len(a))])


def displacement(
    shape: Sequence[int], alpha: Sequence[float], sigma: Sequence[float], lead: int, seed: int
) -> list[Array]:
    """Displacements along z, y, x in voxels: alpha times smoothed noise from -1 to 1."""
    total = 1 / np.sqrt(3)
    for s in sigma:
        reach = int(4.5 * s + 0.5)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(s, 1e-9)) ** 2)
        total *= np.linalg.norm(weights / weights.sum())
    return [
        alpha[n] * total * field(shape, sigma, lead, seed=seed, stream=4 + n, normal=False)
        for n in range(3)
    ]


def warped(v: Array, moves: Sequence[Array], order: int) -> Array:
    """A volume at displaced voxels; padded, as scipy's splines are off by 3e-7 on 5 voxels."""
    grown = np.pad(wide(v), PAD, mode="symmetric")
    places = np.indices(v.shape) + np.array(moves) + PAD
    return np.asarray(ndi.map_coordinates(grown, places, order=order, mode="reflect"))


#: voxels by which volumes are padded
PAD = 40


def deformed(
    a: Array, alpha: Sequence[float], sigma: Sequence[float], seed: int, order: int
) -> Array:
    """Every volume deformed by a field of its own."""
    alpha = [n / v for n, v in zip(alpha, VOXEL, strict=True)]
    sigma = [n / v for n, v in zip(sigma, VOXEL, strict=True)]
    moves = (displacement(a.shape[1:], alpha, sigma, k, seed) for k in range(len(a)))
    return np.stack([warped(v, m, order) for v, m in zip(a, moves, strict=True)])


def deformed_slices(a: Array, alpha: float, sigma: float, seed: int) -> Array:
    """Every slice deformed by a field of its own."""
    (_, height, width), out = VOXEL, np.empty(a.shape)
    for k, z in np.ndindex(a.shape[:2]):
        moves = displacement(
            (1, *a.shape[2:]), (0.0, alpha / height, alpha / width),
            (0.0, sigma / height, sigma / width), k * a.shape[1] + z, seed,
        )  # fmt: skip
        out[k, z] = warped(a[k, z], [m[0] for m in moves[1:]], 1)
    return out


def membrane(shape: Sequence[int], radius: float, thick: float, leaf: float, soft: float) -> Array:
    """A vesicle with two leaflets."""
    distance = abs(np.linalg.norm(by_numpy.offsets(shape, VOXEL), axis=-1) - radius)
    return by_numpy.edge(np.maximum(distance - thick / 2, thick / 2 - leaf - distance), soft)


def sheet(shape: Sequence[int], thick: float) -> Array:
    """A flat membrane normal to (1, 0, 1)."""
    along = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)
    return by_numpy.edge(abs(by_numpy.offsets(shape, VOXEL) @ along) - thick / 2, 0.0)


def lines(shape: Sequence[int], periods: Sequence[float], thick: float) -> Array:
    """Lines that repeat along y and x."""
    position = by_numpy.offsets(shape, VOXEL)[..., 1:]
    distance = abs((position + np.divide(periods, 2)) % periods - np.divide(periods, 2))
    return (distance.min(-1) <= thick / 2).astype(float)


def wedge(shape: Sequence[int], low: float, high: float, shifted: bool) -> Array:
    """Mask by the angle of every frequency in the plane of z and x."""
    axes = [np.fft.fftfreq(n, v) for n, v in zip(shape, VOXEL, strict=True)]
    fz, _, fx = np.meshgrid(*map(np.fft.fftshift, axes) if shifted else axes, indexing="ij")
    angle = np.degrees(np.arctan2(fz, fx))
    angle = np.where(angle > 90, angle - 180, np.where(angle < -90, angle + 180, angle))
    return ((angle >= low) & (angle <= high) | (fz == 0) & (fx == 0)).astype(float)


def generated(op: Any, oracle: Any, dims: tuple[str, ...] = VOLUME) -> Case:
    """A row of an operation that creates a float32 array from a grid."""
    return Case(op, oracle, dims, None, "float32", 4.0, ("uint8",), generated=True)


#: ulps of float64: scipy adds displacements to the index of a voxel, which rounds them
ROUNDED = 200.0

TEXTURES = {
    "synthetic.correlated_noise": generated(
        lambda s: lv.synthetic.correlated_noise(s, {"y": 9.0, "x": 12.0}, seed=21, scale=2.0),
        lambda a: 2 * fields(a, (0.0, 9.0, 12.0), seed=21, stream=3), STACKED,
    ),
    "synthetic.correlated_noise/long": generated(
        lambda s: lv.synthetic.correlated_noise(s, 80.0, seed=22),
        lambda a: fields(a, (80.0, 80.0, 80.0), seed=22, stream=3), STACKED,
    ),
    "synthetic.elastic": Case(
        lambda s: lv.synthetic.elastic(s, 60.0, {"z": 3.0, "y": 9.0, "x": 4.0}, seed=6),
        lambda a: deformed(a, (60.0,) * 3, (3.0, 9.0, 4.0), 6, 1), ulps=ROUNDED,
    ),
    "synthetic.elastic/cubic": Case(
        lambda s: lv.synthetic.elastic(s, {"z": 9.0, "x": 20.0}, 4.0, seed=7, order=3),
        lambda a: deformed(a, (9.0, 0.0, 20.0), (4.0,) * 3, 7, 3), ulps=ROUNDED,
    ),
    "synthetic.elastic/slices": Case(
        lambda s: lv.synthetic.elastic(s, 30.0, 5.0, seed=8, dim=("y", "x")),
        lambda a: deformed_slices(a, 30.0, 5.0, 8), ulps=ROUNDED,
    ),
    "synthetic.membrane": generated(
        lambda s: lv.synthetic.membrane(s, radius=6.0, thickness=5.0, leaflet=1.5, soft=1.0),
        lambda a: membrane(a.shape[1:], 6.0, 5.0, 1.5, 1.0),
    ),
    "synthetic.membrane/flat": generated(
        lambda s: lv.synthetic.membrane(s, thickness=4.1, axis={"z": 1.0, "x": 1.0}),
        lambda a: sheet(a.shape[1:], 4.1),
    ),
    "synthetic.grid_lines": generated(
        lambda s: lv.synthetic.grid_lines(s, {"y": 6.0, "x": 5.0}, 1.0),
        lambda a: lines(a.shape[1:], (6.0, 5.0), 1.0),
    ),
    "synthetic.wedge": generated(
        lambda s: lv.synthetic.wedge(s, (-40.0, 61.0)),
        lambda a: wedge(a.shape[1:], -40.0, 61.0, shifted=False),
    ),
    "synthetic.wedge/centred": generated(
        lambda s: lv.synthetic.wedge(s, layout="centred"),
        lambda a: wedge(a.shape[1:], -60.0, 60.0, shifted=True),
    ),
}  # fmt: skip
