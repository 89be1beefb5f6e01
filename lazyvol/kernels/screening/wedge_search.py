"""Missing wedges found in the power of the particles, each in its own orientation.

In a wedge there is no noise. The power of a particle's frequencies, divided by the mean of their
shell, is compared with all orientations of a wedge: first summed over directions, for a grid of
orientations, then by single frequencies around the best. The angle of the wedge is common to all.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.geometry.rotation_grids import neighbours, super_fibonacci, zyx_matrices
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.measured import STEPS, Measured, batches, shell_means, tilt_range

Array = np.ndarray[Any, np.dtype[Any]]

#: knowledge of the wedge of a particle
NONE, GIVEN, FOUND, UNCLEAR = range(4)
#: relative power at which single frequencies are cut, so that signal does not outweigh noise
CUT = 4.0
#: lowest frequency, in steps: below it the taper of the box fills a wedge
LOWEST = 2.5
#: least power of a shell relative to the strongest one, whose leakage fills wedges of weaker ones
LEAST_POWER = 0.01
#: frequencies from which a wedge is searched for
LEAST_FREQUENCIES = 300
#: most directions, and frequencies in each at least
DIRECTIONS, PER_DIRECTION = 400, 8
#: variance of the power along directions, relative to that of stationary noise, from which
#: particles differ
DISPERSION = 2.0
#: degrees between orientations of the grid, and highest tilts that are tried
GRID, HIGHEST_TILTS = 10.0, (40.0, 50.0, 60.0, 70.0)
#: degrees of the refinement
REFINED = (5.0, 2.5, 1.25)
#: changes of the highest tilt that are tried in a sample of particles
TILT_STEPS, SAMPLE = (-7.5, -5.0, -2.5, 0.0, 2.5, 5.0, 7.5), 64
#: power inside a wedge, relative to outside
LEAKAGE = 0.1
#: least log likelihood ratio of a wedge to none, and largest power in it relative to outside
LEAST_GAIN, LARGEST_POWER = 25.0, 0.35
#: power of frequencies that are said not to be measured, relative to others, from which they were
FILLED = 0.5
#: least fraction of particles in which a wedge must be found
LEAST_FOUND = 0.9


def find(spectra: Array, band: Band) -> tuple[Measured, Array]:
    """Return the weights of all frequencies, and the code of each particle's wedge.

    In steep noise, strong frequencies leak into the wedges of weak ones: if there is none in all
    frequencies, it is searched for in the strong ones.
    """
    code = np.full(len(spectra), NONE)
    for used in _usable(spectra, band):
        if band.planar or len(used) < LEAST_FREQUENCIES:
            continue
        directions = _directions(len(used))
        nearest = np.abs(_unit(band.frequency[used]) @ directions.T).argmax(1)
        counts = np.bincount(nearest, minlength=len(directions)).astype(np.float64)
        sums = np.stack([
            np.bincount(nearest, row, minlength=len(directions))
            for batch in batches(len(spectra))
            for row in relative_power(spectra[batch], band)[:, used]
        ])  # fmt: skip
        if _dispersion(sums, counts) < DISPERSION:
            continue
        found = _find_each(spectra, *_best_of_grid(sums, counts, directions), used, band)
        if (found[1] == FOUND).mean() >= LEAST_FOUND:
            return found
        code[:] = UNCLEAR
    return Measured.everywhere(len(band.index)), code


def _find_each(
    spectra: Array, rotations: Array, tilt: float, used: Array, band: Band
) -> tuple[Measured, Array]:
    """Return weights and codes from searches near the best rotations of the grid."""
    frequency = np.ascontiguousarray(band.frequency[used])

    def power_of(k: int) -> Array:
        return np.asarray(relative_power(spectra[k : k + 1], band)[0, used], np.float64)

    sample = [int(k) for k in np.unique(np.linspace(0, len(spectra) - 1, SAMPLE).astype(int))]
    known = []
    for k in sample:
        power = power_of(k)
        known.append((_refined(rotations[k], power, frequency, tilt).matrix, power))
    tilt = _best_tilt(known, tilt, used, band)
    steps = np.full((len(spectra), len(band.index)), STEPS, np.uint8)
    code = np.full(len(spectra), UNCLEAR)
    for k, rotation in enumerate(rotations):
        wedge = _refined(rotation, power_of(k), frequency, tilt)
        if wedge.gain > LEAST_GAIN and wedge.power < LARGEST_POWER:
            steps[k] = Measured.of(tilt_range(wedge.matrix, (-tilt, tilt), band)).steps[0]
            code[k] = FOUND
    return Measured(steps), code


def _usable(spectra: Array, band: Band) -> list[Array]:
    """Return all frequencies besides the lowest, then those of strong shells if these are fewer."""
    power = np.zeros(spectra.shape[1])
    for batch in batches(len(spectra)):
        power += np.square(spectra[batch]).sum(0, dtype=np.float64)
    size = np.maximum(np.bincount(band.shell), 1)
    shells = np.bincount(band.shell, power.reshape(2, -1).sum(0)) / size
    strong = (shells > LEAST_POWER * shells.max())[band.shell]
    counted = _counted(band)
    every, of_strong = np.flatnonzero(counted), np.flatnonzero(counted & strong)
    return [every] if len(of_strong) == len(every) else [every, of_strong]


def _counted(band: Band) -> Array:
    """Return True for the frequencies from ``LOWEST``."""
    return np.asarray(np.sqrt((band.frequency**2).sum(1)) * band.shortest_side >= LOWEST)


def relative_power(spectra: Array, band: Band) -> Array:
    """Return the power of each frequency relative to the mean of its shell, at most ``CUT``."""
    power = np.square(spectra).reshape(len(spectra), 2, -1).sum(1)
    power /= shell_means(power, np.ones((1, power.shape[1]), np.float32), band)
    return np.asarray(np.minimum(power, CUT))


def fills_gaps(spectra: Array, measured: Measured, band: Band) -> bool:
    """Return True if frequencies that were not measured have almost the power of the others."""
    inside, outside = np.zeros(2), np.zeros(2)
    counted = _counted(band)
    for batch in batches(len(spectra)):
        power = relative_power(spectra[batch], band)
        steps = np.broadcast_to(measured.of_particles(batch).steps, power.shape)
        for total, region in ((inside, (steps == 0) & counted), (outside, (steps > 0) & counted)):
            total += region.sum(), (power * region).sum()
    if not (inside[0] and outside[0]):
        return False
    return bool(inside[1] / inside[0] > FILLED * outside[1] / outside[0])


def _unit(vectors: Array) -> Array:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def _directions(count: int) -> Array:
    """Return evenly spread unit vectors of a half space for ``count`` frequencies."""
    n = max(30, min(DIRECTIONS, count // PER_DIRECTION))
    s = np.arange(n) + 0.5
    height, angle = 1 - s / n, np.pi * (1 + np.sqrt(5.0)) * s
    across = np.sqrt(1 - height**2)
    return np.stack([height, across * np.sin(angle), across * np.cos(angle)], -1)


def _dispersion(sums: Array, counts: Array) -> float:
    """Return the variance of the sums of particles relative to that of stationary noise."""
    expected = sums.mean(0)
    filled = (expected > 0) & (counts > 0)
    deviation = (sums[:, filled] / expected[filled] - 1) ** 2
    return float((deviation * counts[filled]).mean())


@cache
def _grid() -> Array:
    """Return quaternions of wedges, ``GRID`` degrees apart.

    Half turns about its three axes leave a wedge as it is: one of four rotations is kept.
    """
    count = int(8 * np.pi**2 / np.radians(GRID) ** 3)
    quaternions = super_fibonacci(count)
    return quaternions[(np.abs(quaternions[:, :3]) <= np.abs(quaternions[:, 3:])).all(1)]


def _in_wedge(vectors: Array, matrices: Array, tilt: float) -> Array:
    """Return (vector, rotation): True for vectors in the missing wedge above a tilt in degrees."""
    beam, across = vectors @ matrices[:, :, 0].T, vectors @ matrices[:, :, 2].T
    return np.asarray(np.abs(beam) > np.tan(np.radians(tilt)) * np.abs(across))


def _best_of_grid(sums: Array, counts: Array, directions: Array) -> tuple[Array, float]:
    """Return the best rotation of the grid for every particle, and the common highest tilt."""
    quaternions = _grid()
    matrices = zyx_matrices(quaternions)
    best = []
    for tilt in HIGHEST_TILTS:
        wedges = _in_wedge(directions, matrices, tilt).astype(np.float32)
        missing = counts @ wedges
        chosen, gain = np.empty(len(sums), np.int64), 0.0
        for batch in batches(len(sums)):
            power = sums[batch].astype(np.float32) @ wedges
            gains = _gains(missing, power, counts.sum(), sums[batch].sum(1)[:, None])
            chosen[batch] = gains.argmax(1)
            gain += float(gains.max(1).sum())
        best.append((gain, tilt, chosen))
    _, tilt, chosen = max(best, key=lambda b: b[0])
    return quaternions[chosen], tilt


def _gains(missing: Array, power: Array, count: float, total: Array) -> Array:
    """Return log likelihood ratios of exponential power with two means to power with one.

    ``missing`` frequencies of ``count`` hold ``power`` of ``total``.
    """
    rest = np.maximum(count - missing, 1e-9)
    inside = np.maximum(power, 1e-3 * missing) / np.maximum(missing, 1e-9)
    outside = np.maximum(total - power, 1e-9) / rest
    gains = count * np.log(total / count) - missing * np.log(inside) - rest * np.log(outside)
    return np.where(inside < outside, gains, 0.0)


@dataclass(frozen=True)
class _Wedge:
    """A wedge of a particle: its rotation, gain, and the power inside relative to outside."""

    matrix: Array
    gain: float
    power: float


def _refined(quaternion: Array, power: Array, frequency: Array, tilt: float) -> _Wedge:
    """Return the best wedge near a rotation."""
    total, count = power.sum(), len(power)
    slope = np.tan(np.radians(tilt))
    for step in REFINED:
        for _ in range(3):
            tried = neighbours(quaternion, step)
            matrices = np.ascontiguousarray(zyx_matrices(tried))
            missing, inside = _sums_in_wedges(frequency, power, matrices, slope)
            gains = _gains(missing, inside, count, total)
            n = int(gains.argmax())
            quaternion = tried[n]
            if n == 0:
                break
    outside = (total - inside[n]) / max(count - missing[n], 1)
    relative = inside[n] / max(missing[n], 1) / max(outside, 1e-9)
    return _Wedge(matrices[n], float(gains[n]), float(relative))


def _best_tilt(sample: list[tuple[Array, Array]], tilt: float, used: Array, band: Band) -> float:
    """Return the highest tilt under which particles, with wedges at given rotations, are likeliest.

    ``sample`` are rotation matrices and the power of the ``used`` frequencies, which is expected to
    follow the weights of a wedge down to what leaks into it.
    """
    logs = {}
    for tried in {min(max(tilt + change, 5.0), 85.0) for change in TILT_STEPS}:
        logs[tried] = 0.0
        for matrix, power in sample:
            weights = tilt_range(matrix, (-tried, tried), band)[used]
            expected = np.maximum(weights, LEAKAGE)
            level = (power / expected).mean()
            logs[tried] -= len(power) * np.log(level) + np.log(expected).sum()
    return max(logs, key=logs.__getitem__)


@compiled
def _sums_in_wedges(frequency, power, matrices, slope):  # type: ignore[no-untyped-def]
    """Return the number of frequencies and their power in each of several wedges."""
    missing, inside = np.zeros(len(matrices)), np.zeros(len(matrices))
    for n in range(len(matrices)):
        m = matrices[n]
        for p in range(len(frequency)):
            f, g, h = frequency[p]
            beam = f * m[0, 0] + g * m[1, 0] + h * m[2, 0]
            across = f * m[0, 2] + g * m[1, 2] + h * m[2, 2]
            if abs(beam) > slope * abs(across):
                missing[n] += 1
                inside[n] += power[p]
    return missing, inside
