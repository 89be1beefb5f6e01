"""Oracles of ``lazyvol.synthetic`` in numpy, on whole arrays."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(counter: Sequence[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Philox 4x32-10 of Salmon et al. on arrays of counters."""
    a, b, c, d = (np.asarray(w, np.uint64) for w in counter)
    k0, k1 = key
    for _ in range(10):
        p, q = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, c = (q >> HALF) ^ b ^ np.uint64(k0), (p >> HALF) ^ d ^ np.uint64(k1)
        b, d = q & LOW, p & LOW
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [a, b, c, d]


def uniform(shape: tuple[int, ...], *, seed: int, stream: int = 0) -> np.ndarray:
    """Uniform numbers: four for each group of four neighbours along x."""
    k, z, y, x = shape
    quads = np.meshgrid(*(np.arange(n) for n in (k, z, y, (x + 3) // 4)), indexing="ij")
    words = philox(quads[::-1], (seed, stream))
    return np.stack([(w + 0.5) * 2.0**-32 for w in words], -1).reshape(k, z, y, -1)[..., :x]


def normal(shape: tuple[int, ...], *, seed: int, stream: int = 0) -> np.ndarray:
    """Normal numbers by the Box-Muller transform of pairs of uniform ones."""
    k, z, y, x = shape
    u = uniform((k, z, y, -(-x // 4) * 4), seed=seed, stream=stream).reshape(k, z, y, -1, 2)
    radius = np.sqrt(-2 * np.log(u[..., 0]))
    # angles are measured from the middle of a quadrant
    angle = 2 * np.pi * (u[..., 1] % 0.25 - 0.125)
    first, second = np.cos(angle), -np.sin(angle)
    quadrant = (u[..., 1] * 4).astype(int)
    first, second = np.where(quadrant % 2, -second, first), np.where(quadrant % 2, first, second)
    sign = np.where(quadrant >= 2, -1, 1)
    pair = np.stack([radius * sign * first, radius * sign * second], -1)
    return pair.reshape(k, z, y, -1)[..., :x]


def offsets(
    shape: tuple[int, ...], step: Sequence[float], centre: Sequence[float] | None = None
) -> np.ndarray:
    """Offsets of every voxel from the centre along the three axes, (z, y, x, 3)."""
    centre_voxel = [n // 2 for n in shape] if centre is None else centre
    axes = [(np.arange(n) - c) * s for n, c, s in zip(shape, centre_voxel, step, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def edge(outside: np.ndarray, soft: float) -> np.ndarray:
    """1 inside, falling along a raised cosine over ``soft`` outside."""
    fall = 0.5 + 0.5 * np.cos(np.pi * np.clip(outside / (soft or 1.0), 0, 1))
    return np.where(outside <= 0, 1.0, fall if soft else 0.0)


def distance(*sides: np.ndarray) -> np.ndarray:
    """Distance to a solid from the distances to its sides."""
    near = np.maximum.reduce(np.broadcast_arrays(*sides))
    far = np.sqrt(sum(np.maximum(s, 0) ** 2 for s in sides))
    return np.where(near <= 0, near, far)


def cylinder(
    shape: tuple[int, ...],
    step: Sequence[float],
    *,
    radius: float,
    length: float,
    axis: Mapping[str, float] | np.ndarray,
    soft: float = 0.0,
    centre: Sequence[float] | None = None,
) -> np.ndarray:
    """A cylinder: 1 inside, 0 outside."""
    along = axis if isinstance(axis, np.ndarray) else np.array([axis.get(d, 0.0) for d in "zyx"])
    along = along / np.linalg.norm(along)
    position = offsets(shape, step, centre)
    t = position @ along
    side = np.linalg.norm(position - t[..., None] * along, axis=-1)
    return edge(distance(side - radius, abs(t) - length / 2), soft)


def ball(
    shape: tuple[int, ...], step: Sequence[float], *, radius: float, soft: float = 0.0
) -> np.ndarray:
    """A ball: 1 inside, 0 outside."""
    return edge(np.linalg.norm(offsets(shape, step), axis=-1) - radius, soft)


def box(
    shape: tuple[int, ...], step: Sequence[float], *, size: Sequence[float], soft: float = 0.0
) -> np.ndarray:
    """A box: 1 inside, 0 outside."""
    sides = abs(offsets(shape, step)) - np.divide(size, 2)
    return edge(distance(*np.moveaxis(sides, -1, 0)), soft)


def axes_of(n: int, *, seed: int, tilted: float) -> np.ndarray:
    """Axis of every particle: z, or tilted from it by 60 to 90 degrees."""
    u = uniform((n, 1, 1, 4), seed=seed, stream=1)[:, 0, 0]
    rank = np.argsort(np.argsort(u[:, 0]))
    up, axes = np.array([1.0, 0.0, 0.0]), []
    for i in range(n):
        tilt = np.radians(60 + 30 * u[i, 1]) if rank[i] < round(tilted * n) else 0.0
        azimuth = 2 * np.pi * u[i, 2]
        about = np.array([0.0, -np.sin(azimuth), np.cos(azimuth)])
        axes.append(Rotation.from_rotvec(tilt * about).apply(up))
    return np.array(axes)


def particles(
    shape: tuple[int, ...],
    step: Sequence[float],
    *,
    alpha: float,
    tilted: float,
    seed: int,
    radius: float,
    length: float,
) -> np.ndarray:
    """Noisy cylinders, some of them tilted."""
    axes = axes_of(shape[0], seed=seed, tilted=tilted)
    signal = [cylinder(shape[1:], step, radius=radius, length=length, axis=axis) for axis in axes]
    return alpha * np.stack(signal) + (1 - alpha) * normal(shape, seed=seed, stream=2)
