"""Volumes of a screening: averages without the flagged particles, a mask, and their FSC."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.kernels.registration.subvolume_average import compensate_coverage
from lazyvol.ops import filters, masks, scores, stats
from lazyvol.ops._references import half_sets
from lazyvol.ops.scores._measured import coverage
from lazyvol.plan.execution import resilient_scheduler
from lazyvol.stack import STACK, spacing, spatial_dims

Array = np.ndarray
Pair = tuple[xr.DataArray, xr.DataArray]

#: FSC below which phases are randomised to measure the correlation that a mask brings
RANDOM_BELOW = 0.8
#: shells into which a mask mixes the frequencies whose phases are not random
LEAKAGE = 2
#: dilation of a mask, and standard deviation of its soft edge, in voxels
DILATION, SOFTNESS = 3.0, 1.5


def kept_averages(stack: xr.DataArray, averages: xr.Dataset, flagged: Array) -> xr.Dataset | None:
    """Compute the averages of the particles that are not flagged: of all and of each half-set.

    Only the flagged particles are read: their sum is subtracted from that of all particles. None if
    a half-set has no particle left.
    """
    half = half_sets("screen", stack).values
    sizes = np.bincount(half, minlength=2)
    kept = np.bincount(half[~flagged], minlength=2)
    if not kept.all():
        return None
    names = ("first", "second")
    sums = {n: averages[n].astype(np.float64) * sizes[h] for h, n in enumerate(names)}
    for h, name in enumerate(names):
        positions = np.flatnonzero(flagged & (half == h))
        if positions.size:
            sums[name] -= stats.sum(stack.isel({STACK: positions}), STACK).compute()
    whole = (sums["first"] + sums["second"]) / kept.sum()
    volumes = {"kept_average": whole, "kept_half1": sums["first"] / kept[0],
               "kept_half2": sums["second"] / kept[1]}  # fmt: skip
    dtype, attrs = averages["average"].dtype, averages["average"].attrs
    return xr.Dataset({n: v.astype(dtype).assign_attrs(attrs) for n, v in volumes.items()})


def weighted_averages(
    averages: xr.Dataset, kept: xr.Dataset | None, stack: xr.DataArray, flagged: Array,
    options: Mapping[str, Any],
) -> tuple[xr.Dataset, xr.Dataset | None]:  # fmt: skip
    """Return averages of which each frequency is that of the particles that measured it.

    Plain means weaken frequencies that few particles measured. They are returned as they are if all
    particles have the same measured frequencies, or these are not known.
    """
    half = half_sets("screen", stack).values
    group = xr.DataArray(half + 2 * flagged, dims=(STACK,))
    lazy = coverage(stack, group, 4, options["wedge"], options["orientations"])
    if lazy is None:
        return averages, kept
    kept_sums, flagged_sums = np.split(lazy.compute(scheduler=resilient_scheduler()).values, 2)
    weighted = _compensated(averages, ("first", "second", "average"), kept_sums + flagged_sums)
    if kept is not None:
        kept = _compensated(kept, ("kept_half1", "kept_half2", "kept_average"), kept_sums)
    return weighted, kept


def _compensated(averages: xr.Dataset, names: Sequence[str], half_sums: Array) -> xr.Dataset:
    """Return averages of two half-sets and of both, divided by the coverage of each frequency."""
    first, second = half_sums
    weighted = {}
    for name, covered in zip(names, (first, second, first + second), strict=True):
        values = averages[name].values.astype(np.float64)
        compensate_coverage(values, covered)
        weighted[name] = averages[name].copy(data=values.astype(averages[name].dtype))
    return averages.assign(weighted)


def half_averages(averages: xr.Dataset, kept: xr.Dataset | None) -> dict[str, Pair]:
    """Return the half-set averages of all and of the kept particles."""
    halves = {"all": (averages["first"], averages["second"])}
    if kept is not None:
        halves["kept"] = (kept["kept_half1"], kept["kept_half2"])
    return halves


def shell_correlations(halves: Mapping[str, Pair]) -> xr.Dataset:
    """Return the Fourier shell correlation of each pair of half-set averages."""
    return xr.Dataset({name: scores.fsc(*pair) for name, pair in halves.items()})


def with_masked(curves: xr.Dataset, halves: Mapping[str, Pair], mask: xr.DataArray) -> xr.Dataset:
    """Return Fourier shell correlations together with those under a mask."""
    masked = {f"{n}_masked": masked_fsc(*pair, mask, curves[n]) for n, pair in halves.items()}
    return curves.assign(masked)


def masked_fsc(
    first: xr.DataArray, second: xr.DataArray, mask: xr.DataArray, plain: xr.DataArray
) -> xr.DataArray:
    """Return the Fourier shell correlation under a mask, corrected for the mask.

    ``plain`` is the correlation without it. Beyond the frequency where this falls below 0.8 the
    phases of both volumes are randomised; the correlation that is left under the mask comes from
    the mask.

    References
    ----------
    Chen et al., Ultramicroscopy 135, 24 (2013).
    """
    masked = scores.fsc(_under(first, mask), _under(second, mask))
    low = np.flatnonzero((plain.values < RANDOM_BELOW) & (plain["frequency"].values > 0))
    if not low.size:
        return masked
    onset, width = (float(plain["frequency"][n]) for n in (low[0], 1))
    random = [_with_random_phases(v, onset, seed) for seed, v in enumerate((first, second))]
    by_mask = scores.fsc(*(_under(v, mask) for v in random))
    corrected = ((masked - by_mask) / (1 - by_mask)).where(by_mask < masked, 0.0)
    result: xr.DataArray = masked.where(masked["frequency"] < onset + LEAKAGE * width, corrected)
    return result.assign_attrs(masked.attrs)


def _under(volume: xr.DataArray, mask: xr.DataArray) -> xr.DataArray:
    """Return a volume times a mask, after subtraction of its mean under the mask."""
    weights = mask.values.astype(np.float64)
    mean = float((volume.values * weights).sum() / weights.sum())
    return volume.copy(data=(volume.values - mean) * weights)


def _with_random_phases(volume: xr.DataArray, beyond: float, seed: int) -> xr.DataArray:
    """Return a volume whose phases are random at frequencies above ``beyond``."""
    dims = spatial_dims(volume)
    noise = np.fft.rfftn(np.random.default_rng(seed).normal(size=volume.shape))
    spectrum = np.fft.rfftn(volume.values)
    steps = [abs(spacing(volume, d)) for d in dims]
    axes = [np.fft.fftfreq(volume.sizes[d], s) for d, s in zip(dims[:-1], steps[:-1], strict=True)]
    axes.append(np.fft.rfftfreq(volume.sizes[dims[-1]], steps[-1]))
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*axes, indexing="ij")))
    random = np.abs(spectrum) * noise / np.maximum(np.abs(noise), 1e-300)
    values = np.fft.irfftn(
        np.where(radius > beyond, random, spectrum), s=volume.shape, axes=range(volume.ndim)
    )
    return volume.copy(data=values)


def object_mask(average: xr.DataArray, length: float) -> xr.DataArray:
    """Return a soft mask, 0 to 1, where a low-passed average differs from its median.

    ``length`` is the resolution; the mask is as smooth as twice this, within limits set by the box.
    """
    voxel = nyquist(average) / 2
    coarsest = max(4 * voxel, shortest_side(average) / 4)
    smooth = filters.bandpass(average, float(np.clip(2 * length, 4 * voxel, coarsest)))
    difference = abs(smooth - float(np.median(smooth.values)))
    inside = masks.dilate(masks.threshold(difference), radius=DILATION * voxel)
    soft = filters.gaussian(inside.astype(np.float32), SOFTNESS * voxel, mode="nearest")
    return soft.clip(0.0, 1.0).rename("mask")


def low_passed(volume: xr.DataArray, length: float) -> xr.DataArray:
    """Return a volume low-passed to a resolution; unchanged if it reaches the Nyquist limit."""
    return filters.bandpass(volume, length) if nyquist(volume) < length < np.inf else volume


def nyquist(volume: xr.DataArray) -> float:
    """Return the Nyquist limit as a length: twice the coarsest voxel size."""
    return 2 * max(abs(spacing(volume, d)) for d in spatial_dims(volume))


def shortest_side(volume: xr.DataArray) -> float:
    """Return the length of the shortest side of the box."""
    return min(volume.sizes[d] * abs(spacing(volume, d)) for d in spatial_dims(volume))


def resolution(curve: xr.DataArray, cutoff: float = 0.143) -> float:
    """Return the length at which a Fourier shell correlation first falls below ``cutoff``.

    Interpolated linearly between shells; 0 if it stays above, infinity if it starts below.

    Examples
    --------
    >>> import xarray as xr
    >>> frequency = [0.0, 0.1, 0.2]
    >>> curve = xr.DataArray([1.0, 0.5, 0.1], {"frequency": frequency}, ["frequency"])
    >>> round(resolution(curve, 0.3), 3)
    6.667
    """
    frequency = np.asarray(curve.coords[curve.dims[0]].values, np.float64)
    values = np.asarray(curve.values, np.float64)
    shells = np.isfinite(values) & (frequency > 0)
    frequency, values = frequency[shells], values[shells]
    below = np.flatnonzero(values < cutoff)
    if not below.size:
        return 0.0
    n = int(below[0])
    if n == 0:
        return float("inf")
    share = (values[n - 1] - cutoff) / (values[n - 1] - values[n])
    return float(1 / (frequency[n - 1] + share * (frequency[n] - frequency[n - 1])))
