"""Rows of the registration topic, with oracles in numpy and scipy."""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import xarray as xr
from scipy.spatial.transform import Rotation

import lazyvol as lv
from tests.cases import UNIT, VOLUME, VOXEL, Array, Case, each, mask_of, masked, wide

#: ulps of interpolated values: both implementations round the positions
ROUNDED = 64.0
#: ulps (float64) of spectra interpolated in float32, relative to the largest value
INTERPOLATED = 1e-6 / np.finfo(np.float64).eps


def moves(k: int) -> Array:
    """Shifts in the unit of the positions, (k, axis)."""
    return np.random.default_rng(8).uniform(-4, 4, (k, 3))


def labelled_moves(s: xr.DataArray) -> xr.DataArray:
    """Shifts with labels, in another order of the axes."""
    shifts = xr.DataArray(moves(s.sizes["k"]), dims=("k", "axis"), coords={"axis": list(VOLUME)})
    return shifts.sel(axis=["x", "z", "y"]).assign_attrs(units=UNIT)


def rotations(k: int) -> Rotation:
    """One rotation for each particle."""
    return Rotation.from_rotvec(np.random.default_rng(4).normal(size=(k, 3)))


def weights(k: int) -> Array:
    """Weights, one of them 0."""
    return np.where(np.arange(k) == 1, 0.0, np.linspace(0.5, 2, k))


def each_shifted(function: Callable[[Array, Array], Array]) -> Callable[[Array], Array]:
    """Apply a function of a particle and its shift in voxels to a stack."""
    return lambda a: np.stack(
        [function(v, m / VOXEL) for v, m in zip(wide(a), moves(len(a)), strict=True)]
    )


def shifted_by_phase(v: Array, voxels: Array) -> Array:
    """A particle shifted by a phase ramp."""
    return np.fft.ifftn(ndi.fourier_shift(np.fft.fftn(v), voxels)).real


def rotated(v: Array, rotation: Rotation, move: Any = (0.0, 0.0, 0.0), **options: Any) -> Array:
    """A particle shifted by a length and rotated about voxel n // 2 in physical space."""
    inverse, step = rotation.as_matrix().T[::-1, ::-1], np.array(VOXEL)
    matrix, centre = inverse * step / step[:, None], np.array(v.shape) // 2
    offset = centre - matrix @ centre - np.array(move) / step
    return ndi.affine_transform(v, matrix, offset, **options)


def each_rotated(**options: Any) -> Callable[[Array], Array]:
    """Rotate every particle of a stack by its own rotation."""
    return lambda a: np.stack(
        [rotated(v, r, **options) for v, r in zip(wide(a), rotations(len(a)), strict=True)]
    )


def rotated_about_z(a: Array) -> Array:
    """Every particle rotated by 30 degrees about z, periodically."""
    rotation = Rotation.from_euler("z", 30, degrees=True)
    return np.stack([rotated(v, rotation, mode="grid-wrap") for v in wide(a)])


def averaged(a: Array) -> dict[str, Array]:
    """The average and its weight; voxels from outside a box do not count."""
    poses = zip(wide(a), rotations(len(a)), moves(len(a)), strict=True)
    placed = np.stack([rotated(v, r, m, cval=np.nan) for v, r, m in poses])
    weight = np.where(np.isnan(placed), 0.0, weights(len(a))[:, None, None, None])
    total = (np.nan_to_num(placed) * weight).sum(0)
    with np.errstate(invalid="ignore"):
        return {"average": total / weight.sum(0), "weight": weight.sum(0)}


def correlations(v: Array, reference: Array, at: list[Array], whiten: bool = False) -> Array:
    """Circular cross-correlation at any shifts, by the Fourier sum."""
    cross = np.conj(np.fft.fftn(v - v.mean())) * np.fft.fftn(reference - reference.mean())
    if whiten:
        cross /= np.maximum(abs(cross), 100 * np.finfo(np.float64).eps)
    cycles = (np.outer(p, np.fft.fftfreq(n)) for p, n in zip(at, v.shape, strict=True))
    waves = (np.exp(2j * np.pi * c) for c in cycles)
    return np.einsum("zyx,az,by,cx->abc", cross, *waves, optimize=True).real


def peak(v: Array, reference: Array, limit: float = np.inf, whiten: bool = False) -> Array:
    """Shift of the highest correlation on voxels, then on quarters of voxels around it."""

    def highest(at: list[Array]) -> Array:
        values = correlations(v, reference, at, whiten)
        grids = np.meshgrid(*(p * s for p, s in zip(at, VOXEL, strict=True)), indexing="ij")
        values[sum(g**2 for g in grids) > limit**2 * (1 + 1e-9)] = -np.inf
        best = np.unravel_index(values.argmax(), values.shape)
        return np.array([p[i] for p, i in zip(at, best, strict=True)])

    whole = highest([np.arange(-(n // 2), n // 2 + 1) for n in v.shape])
    return highest([c + np.arange(-3, 3) / 4 for c in whole]) * VOXEL


def peaks(references: Callable[[Array], Array], **options: Any) -> Callable[[Array], Array]:
    """Shift of every particle against its own reference."""
    return lambda a: np.stack(
        [peak(v, r, **options) for v, r in zip(wide(a), references(wide(a)), strict=True)]
    )


def third(a: Array) -> Array:
    """The third particle as reference of all."""
    return a[[2] * len(a)]


def others(a: Array) -> Array:
    """For each particle the average of the others."""
    return np.stack([np.delete(a, k, axis=0).mean(0) for k in range(len(a))])


def masked_peaks(a: Array) -> Array:
    """Shift of the highest coefficient over the voxels in both masks."""
    flags = mask_of(a.shape)
    reach = [range(-int(9 / s), int(9 / s) + 1) for s in VOXEL]
    shifts = [m for m in product(*reach) if np.linalg.norm(np.array(m) * VOXEL) <= 9]
    best = [max(shifts, key=lambda m, v=v: masked_ncc(v, wide(a)[2], flags, m)) for v in wide(a)]
    return np.array(best) * VOXEL


def masked_ncc(v: Array, reference: Array, flags: Array, move: tuple[int, ...]) -> float:
    """Pearson's r of a shifted particle and a reference over the voxels in both masks."""
    pairs = list(zip(move, v.shape, strict=True))
    here = tuple(slice(max(0, -m), n - max(0, m)) for m, n in pairs)
    there = tuple(slice(max(0, m), n - max(0, -m)) for m, n in pairs)
    both = flags[here] & flags[there]
    if both.sum() < 0.3 * flags.sum():
        return -np.inf
    p, q = v[here][both], reference[there][both]
    p, q = p - p.mean(), q - q.mean()
    return float(p @ q / np.sqrt(p @ p * (q @ q)))


def unaligned(s: xr.DataArray) -> xr.Dataset:
    """An alignment that tries only the identity and no shift."""
    return lv.registration.align(s, s.isel(k=2), Rotation.identity(), finest=None, max_shift=0.0)


def coefficients(a: Array) -> dict[str, Array]:
    """Correlation of spectra up to 0.4 per largest voxel, that of the reference compensated for
    linear interpolation."""
    shape = a.shape[1:]
    steps = zip(shape, VOXEL, strict=True)
    frequencies = np.meshgrid(*(np.fft.fftfreq(n, s) for n, s in steps), indexing="ij")
    inside = sum(f**2 for f in frequencies) <= (0.4 / max(VOXEL)) ** 2
    inside[0, 0, 0] = False
    places = np.meshgrid(*((np.arange(n) - n // 2) / n for n in shape), indexing="ij")
    taper = np.prod([np.sinc(p / 2) ** 2 for p in places], axis=0)
    outer = sum((2 * p) ** 2 for p in places) >= 1
    reference = np.fft.fftn((wide(a)[2] - wide(a)[2][outer].mean()) / taper)[inside]
    spectra = (np.fft.fftn(v)[inside] for v in wide(a))
    unit = reference / np.linalg.norm(reference)
    return {"ncc": np.array([np.vdot(f, unit).real / np.linalg.norm(f) for f in spectra])}


def shift_case(op: Callable[..., xr.DataArray], oracle: Callable[[Array], Array]) -> Case:
    """A row of ``shifts``."""
    return Case(op, oracle, ("k", "axis"), power=UNIT, dtype="float64")


REGISTRATION = {
    "registration.shifts": shift_case(
        lambda s: lv.registration.shifts(s, s.isel(k=2, drop=True), upsample=4), peaks(third)
    ),
    "registration.shifts/average": shift_case(
        lambda s: lv.registration.shifts(s, upsample=4), peaks(others)
    ),
    "registration.shifts/stack": shift_case(
        lambda s: lv.registration.shifts(s, s.roll(y=2), upsample=4, max_shift=7.0),
        peaks(lambda a: np.roll(a, 2, 2), limit=7.0),
    ),
    "registration.shifts/phase": shift_case(
        lambda s: lv.registration.shifts(s, s.isel(k=2), upsample=4, weighting="phase"),
        peaks(third, whiten=True),
    ),
    "registration.shifts/mask": shift_case(
        lambda s: lv.registration.shifts(
            s, s.isel(k=2), upsample=1, max_shift=9.0, mask=masked(s)
        ),
        masked_peaks,
    ),
    "registration.shift": Case(
        lambda s: lv.registration.shift(s, labelled_moves(s)), each_shifted(ndi.shift), ulps=ROUNDED
    ),
    "registration.shift/linear": Case(
        lambda s: lv.registration.shift(s, labelled_moves(s), order=1, mode="reflect"),
        each_shifted(lambda v, m: ndi.shift(v, m, order=1, mode="reflect")), ulps=ROUNDED,
    ),
    "registration.shift/wrap": Case(
        lambda s: lv.registration.shift(s, {"x": 2.2, "z": 6.0}, mode="wrap"),
        each(lambda v: ndi.shift(v, (2, 0, 2.2 / 1.5), mode="grid-wrap")), ulps=ROUNDED,
    ),
    "registration.shift/nearest": Case(
        lambda s: lv.registration.shift(s, (1.0, -2.5, 0.0), mode="nearest"),
        each(lambda v: ndi.shift(v, (1 / 3, -1.25, 0), mode="nearest")), ulps=ROUNDED,
    ),
    "registration.shift/fourier": Case(
        lambda s: lv.registration.shift(s, labelled_moves(s), order="fourier"),
        each_shifted(shifted_by_phase), ulps=ROUNDED,
    ),
    "registration.rotate": Case(
        lambda s: lv.registration.rotate(s, rotations(s.sizes["k"]), fill=-2.0),
        each_rotated(cval=-2.0), ulps=ROUNDED,
    ),
    "registration.rotate/linear": Case(
        lambda s: lv.registration.rotate(s, rotations(s.sizes["k"]), order=1, mode="reflect"),
        each_rotated(order=1, mode="reflect"), ulps=ROUNDED,
    ),
    "registration.rotate/mirror": Case(
        lambda s: lv.registration.rotate(s, rotations(s.sizes["k"]), mode="mirror"),
        each_rotated(mode="mirror"), ulps=ROUNDED,
    ),
    "registration.rotate/z": Case(
        lambda s: lv.registration.rotate(s, 30.0, mode="wrap"), rotated_about_z, ulps=ROUNDED
    ),
    "registration.average": Case(
        lambda s: lv.registration.average(
            s, labelled_moves(s), rotations(s.sizes["k"]), weights(s.sizes["k"])
        ),
        averaged, VOLUME, power={"average": 1, "weight": None},
        dtype={"average": "float", "weight": "float64"}, ulps=ROUNDED,
    ),
    "registration.average/mean": Case(
        lambda s: lv.registration.average(s)[["average"]],
        lambda a: {"average": wide(a).mean(0)}, VOLUME, power={"average": 1},
    ),
    "registration.align": Case(
        lambda s: unaligned(s)[["average"]], lambda a: {"average": wide(a).mean(0)}, VOLUME,
        power={"average": 1}, ulps=ROUNDED,
    ),
    "registration.align/score": Case(
        lambda s: unaligned(s)[["ncc"]], coefficients, ("k",), power=None, dtype="float64",
        ulps=INTERPOLATED,
    ),
}  # fmt: skip
