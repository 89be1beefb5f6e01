"""Synthetic volumes and stacks from formulas and random numbers, lazy and of any size.

Every value depends on its position and the seed alone: a region is bitwise equal for any chunks, on
any machine. Volumes are defined by a shape, with the voxel as unit, or like a stack, with its
spatial dims and positions. Lengths are in the unit of these positions. The centre is voxel ``n //
2``.
"""

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import affine
from lazyvol.kernels.synthetic import particles as particle_kernels
from lazyvol.kernels.synthetic import philox
from lazyvol.ops._grid import (
    Axis,
    Like,
    checked_seed,
    float_dtype,
    generate_array,
    grid_of,
    non_negative,
    stacked_grid,
    unit_vector,
    voxel_steps,
)
from lazyvol.ops.synthetic._fields import correlated_noise, elastic
from lazyvol.ops.synthetic._membranes import grid_lines, membrane, wedge
from lazyvol.ops.synthetic._solids import box, circle, cylinder, sphere
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import SPATIAL, STACK, Sigma

__all__ = [
    "box",
    "circle",
    "correlated_noise",
    "cylinder",
    "elastic",
    "grid_lines",
    "membrane",
    "noise",
    "particles",
    "sphere",
    "wedge",
]


@operation
def noise(
    like: Like,
    *,
    kind: Literal["normal", "uniform"] = "normal",
    scale: float = 1.0,
    seed: int = 0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Independent random voxels.

    Parameters
    ----------
    like
        Shape (k, z, y, x) or fewer from the left, or a stack whose dims and positions are taken.
    kind
        ``"normal"``: mean 0, standard deviation ``scale``. ``"uniform"``: from 0 to ``scale``.
    scale
        Width of the distribution, 0 or more.
    seed
        Whole number from 0 to 2**32 - 1; other seeds give independent numbers.
    dtype
        Float dtype by name. Numbers are equal for all dtypes, up to rounding.

    Returns
    -------
    xarray.DataArray
        Lazy, over the dims of ``like``. A crop equals the noise of a smaller shape: voxel (k, z,
        y, x) does not depend on the shape.

    Raises
    ------
    LabelError
        If a number is out of its range.
    OptionError
        If an option has the wrong type or ``kind`` is unknown.

    References
    ----------
    Philox 4x32-10: Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC11 (2011).

    Examples
    --------
    >>> import lazyvol as lv
    >>> noise = lv.synthetic.noise((4, 50, 50, 50), seed=3)
    >>> abs(float(noise.std()) - 1) < 0.01, noise.dims
    (True, ('k', 'z', 'y', 'x'))
    """
    grid = grid_of(like)
    kernel = partial(
        philox.numbers, shape=grid.shape, seed=checked_seed(seed), normal=kind == "normal",
        scale=non_negative("scale", scale), dtype=float_dtype(dtype),
    )  # fmt: skip
    return generate_array(kernel, grid, dtype, "noise")


@operation
def particles(
    template: Like,
    n: int,
    *,
    alpha: float | None = None,
    sigma: float | None = None,
    tilted: float = 0.1,
    tilt: tuple[float, float] | Literal["lying"] = (60.0, 90.0),
    radius: float | None = None,
    length: float | None = None,
    axis: Axis = "z",
    soft: float = 0.0,
    voxel_size: Sigma = 1.0,
    unit: str = "voxel",
    seed: int = 0,
    dtype: str = "float32",
) -> xr.DataArray:
    """Stack of ``n`` noisy copies of a signal, a known fraction of them tilted.

    Parameters
    ----------
    template
        Shape (z, y, x) of a box with a cylinder, computed by formula in any orientation; or a
        volume, rotated by linear interpolation (one in memory becomes part of the graph).
    n
        Number of particles, 0 or more.
    alpha
        Fraction of signal, from 0 to 1: particles are ``alpha * signal + (1 - alpha) * noise``,
        with normal noise of standard deviation 1.
    sigma
        Standard deviation of noise added to the full signal. Give either this or ``alpha``.
    tilted
        Fraction of the particles that are tilted, exactly (rounded to whole particles).
    tilt
        Lowest and highest tilt in degrees, about a random direction perpendicular to ``axis``; or
        ``"lying"``: parallel to another dim.
    radius, length
        Radius and length of the cylinder; by default an eighth and a half of the box's shortest
        side.
    axis
        Orientation of the other particles: a dim, or components of a vector by dim.
    soft
        Width of the cylinder's edge.
    voxel_size, unit
        Voxel size and unit of a box given by its shape; lengths are then in this unit.
    seed
        Whole number from 0 to 2**32 - 1.
    dtype
        Float dtype by name.

    Returns
    -------
    xarray.DataArray
        Lazy, (k, z, y, x), with the coordinates ``tilted``, ``tilt`` in degrees, and ``half`` (1
        and 2 alternate) along k.

    Raises
    ------
    LabelError
        If a number is out of its range, both or none of ``alpha`` and ``sigma`` are given, or the
        template has other dims than z, y, x.
    OptionError
        If an option has the wrong type.

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.particles((32, 32, 32), 50, alpha=0.2, tilted=0.1, seed=1)
    >>> stack.sizes["k"], int(stack.tilted.sum()), float(stack.tilt.max()) > 60
    (50, 5, True)
    """
    if isinstance(template, xr.DataArray):
        _require_no_box_options(radius, length, soft, voxel_size, unit)
    grid = grid_of(template, voxel_size, unit)
    if grid.dims != SPATIAL:
        raise LabelError(
            f"particles: template must have the dims {SPATIAL}, got {grid.dims}; transpose it, or "
            f"give an image a dim z of one voxel, with a shape (1, y, x) or .expand_dims(z=1)"
        )
    stacked, tilts, seed = stacked_grid(grid, n), _checked_tilts(tilt), checked_seed(seed)
    properties, below = _properties(n, seed, tilted, tilts)
    along, step = unit_vector(grid, axis), voxel_steps(grid)
    signal, scale = _amplitudes(alpha, sigma)
    if isinstance(template, xr.DataArray):
        kernel = partial(
            particle_kernels.noise, shape=stacked.shape, seed=seed, scale=scale,
            dtype=float_dtype(dtype),
        )  # fmt: skip
        stack = blockwise(
            partial(particle_kernels.add_template, along=along, step=step, signal=signal),
            generate_array(kernel, stacked, dtype, "noise"), template, properties["tilt"],
            properties["azimuth"], core=SPATIAL, scratch=_tilt_scratch(grid.shape),
            title="particles",
        )  # fmt: skip
    else:
        side = min(m * abs(s) for m, s in zip(grid.shape, step, strict=True))
        kernel = partial(
            particle_kernels.cylinders, shape=stacked.shape, seed=seed, below=below, tilts=tilts,
            along=along, step=step, soft=non_negative("soft", soft), signal=signal, scale=scale,
            radius=non_negative("radius", side / 8 if radius is None else radius),
            length=non_negative("length", side / 2 if length is None else length),
            dtype=float_dtype(dtype),
        )  # fmt: skip
        stack = generate_array(kernel, stacked, dtype, "particles")
    truth = {name: properties[name].variable for name in ("tilted", "tilt", "half")}
    return stack.rename("particles").assign_coords(truth).assign_attrs(contrast="bright")


def _tilt_scratch(shape: Sequence[int]) -> float:
    """Return the bytes per voxel of a template, its padded copy and the tilted one, in float64."""
    padded = prod(n + 2 * affine.PADDING for n in shape) / max(1, prod(shape))
    return 16.0 + 8.0 * padded


def _amplitudes(alpha: float | None, sigma: float | None) -> tuple[float, float]:
    """Return the factors of the signal and of noise of standard deviation 1."""
    if (alpha is None) == (sigma is None):
        raise LabelError(
            f"particles: one of alpha (fraction of signal) and sigma (deviation of the noise) must "
            f"be given, got {alpha=} and {sigma=}"
        )
    if alpha is None:
        return 1.0, non_negative("sigma", float(sigma or 0.0))
    if not 0 <= alpha <= 1:
        raise LabelError(f"particles: alpha must be a fraction from 0 to 1, got {alpha!r}")
    return float(alpha), 1.0 - alpha


def _checked_tilts(tilt: tuple[float, float] | str) -> particle_kernels.Tilts:
    """Return the lowest and highest tilt, and whether azimuths are multiples of 90 degrees."""
    if tilt == "lying":
        return 90.0, 90.0, True
    if isinstance(tilt, str) or len(tilt) != 2 or not tilt[0] <= tilt[1]:
        raise LabelError(
            f"particles: tilt must be two rising angles in degrees, or 'lying', got {tilt!r}"
        )
    return float(tilt[0]), float(tilt[1]), False


def _properties(
    n: int, seed: int, tilted: float, tilts: particle_kernels.Tilts
) -> tuple[xr.Dataset, float]:
    """Return the pose and half-set of every particle, and the rank below which they are
    tilted."""
    if not 0 <= tilted <= 1:
        raise LabelError(f"particles: tilted must be a fraction from 0 to 1, got {tilted!r}")
    ranks = particle_kernels.ranks(0, n, seed)
    count = round(tilted * n)
    below = float(np.sort(ranks)[count]) if count < n else np.inf
    tilt, azimuth = particle_kernels.poses(0, n, seed=seed, below=below, tilts=tilts)
    degrees = {"units": "degree"}
    properties = {
        "tilted": (STACK, ranks < below),
        "tilt": (STACK, tilt, degrees),
        "azimuth": (STACK, azimuth, degrees),
        "half": (STACK, np.arange(n, dtype=np.int8) % 2 + 1),
    }
    return xr.Dataset(properties), below


def _require_no_box_options(
    radius: float | None, length: float | None, soft: float, voxel_size: object, unit: str
) -> None:
    """Refuse options of a box with a cylinder where the template is a volume."""
    options = {
        "radius": (radius, None), "length": (length, None), "soft": (soft, 0.0),
        "voxel_size": (voxel_size, 1.0), "unit": (unit, "voxel"),
    }  # fmt: skip
    given = {name: value for name, (value, default) in options.items() if value != default}
    if given:
        raise LabelError(
            f"particles: {', '.join(given)} must be omitted if template is a volume, got {given}; "
            f"give a shape for a box with a cylinder"
        )
