"""Volumes and stacks out of formulas and random numbers, lazily and of any size.

Every value depends on its position and the seed alone: any region of any chunks is the same, bit
for bit, today and on another machine. Volumes are made for a shape, then their unit is the
voxel, or like a stack, then they have its spatial dims and positions. Lengths are in the unit of
these positions. The centre is voxel ``n // 2``.
"""

from functools import partial
from typing import Literal

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.synthetic import particles as copying
from lazyvol.kernels.synthetic import philox
from lazyvol.ops._grid import (
    Axis,
    Like,
    canvas,
    direction,
    float_dtype,
    made,
    not_negative,
    repeated,
    seed_of,
    steps,
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
        Shape, (k, z, y, x) or fewer from the left, or a stack whose dims and positions to take.
    kind
        ``"normal"``: mean 0, standard deviation ``scale``. ``"uniform"``: from 0 to ``scale``.
    scale
        Width of the distribution, 0 or more.
    seed
        From 0 to 2**32 - 1; other seeds give independent numbers.
    dtype
        A float type. All types are the same numbers, rounded.

    Returns
    -------
    xarray.DataArray
        Lazy. A crop is the same as smaller noise: voxel (k, z, y, x) does not know the shape.

    Raises
    ------
    LabelError
        If an option is none of these.

    Examples
    --------
    >>> import lazyvol as lv
    >>> noise = lv.synthetic.noise((4, 50, 50, 50), seed=3)
    >>> abs(float(noise.std()) - 1) < 0.01, noise.dims
    (True, ('k', 'z', 'y', 'x'))
    """
    if kind not in ("normal", "uniform"):
        raise LabelError(f"kind is 'normal' or 'uniform', got {kind!r}")
    where = canvas(like)
    kernel = partial(
        philox.numbers, shape=where.shape, seed=seed_of(seed), normal=kind == "normal",
        scale=not_negative("scale", scale), dtype=float_dtype(dtype),
    )  # fmt: skip
    return made(kernel, where, dtype, "noise")


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
    """Stack of ``n`` noisy copies of a signal, a known part of them wrongly oriented.

    Parameters
    ----------
    template
        Shape (z, y, x) of a box with a cylinder, made by formula in any orientation; or a volume
        of any content, rotated by linear interpolation (one in memory travels with the graph).
    n
        Number of particles.
    alpha
        Fraction of signal: particles are ``alpha * signal + (1 - alpha) * noise``, with normal
        noise of standard deviation 1.
    sigma
        Standard deviation of noise added to the full signal. Give either this or ``alpha``.
    tilted
        Fraction of the particles that are tilted, exactly (rounded to whole particles).
    tilt
        Degrees from and to, about a random direction at right angles to ``axis``; or
        ``"lying"``: along another dim.
    radius, length
        Of the cylinder; by default an eighth and a half of the box's shortest side.
    axis
        Dim or direction (components by dim) along which the others stand.
    soft
        Width of the cylinder's edge.
    voxel_size, unit
        Of a box given by its shape; lengths are then in this unit.
    seed
        From 0 to 2**32 - 1.
    dtype
        A float type.

    Returns
    -------
    xarray.DataArray
        Lazy, (k, z, y, x). The truth is in coordinates on k: ``tilted``, ``tilt`` in degrees,
        and ``half``, 1 and 2 in turn.

    Raises
    ------
    LabelError
        If an option is out of its range, or both or none of ``alpha`` and ``sigma`` are given.

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.particles((32, 32, 32), 50, alpha=0.2, tilted=0.1, seed=1)
    >>> stack.sizes["k"], int(stack.tilted.sum()), float(stack.tilt.max()) > 60
    (50, 5, True)
    """
    if isinstance(template, xr.DataArray):
        _require_bare(radius, length, soft, voxel_size, unit)
    where = canvas(template, voxel_size, unit)
    if where.dims != SPATIAL:
        raise LabelError(
            f"template must have the dims {SPATIAL}, got {where.dims}; transpose it, or give an "
            f"image a dim z of one voxel, with a shape (1, y, x) or .expand_dims(z=1)"
        )
    many, tilts, seed = repeated(where, n), _tilts(tilt), seed_of(seed)
    facts, below = _facts(n, seed, tilted, tilts)
    along, step = direction(where, axis), steps(where)
    signal, scale = _mixture(alpha, sigma)
    if isinstance(template, xr.DataArray):
        kernel = partial(
            copying.noise, shape=many.shape, seed=seed, scale=scale, dtype=float_dtype(dtype)
        )
        found = blockwise(
            partial(copying.copies, along=along, step=step, signal=signal),
            made(kernel, many, dtype, "noise"), template, facts["tilt"], facts["azimuth"],
            core=SPATIAL, scratch=TURNING, title="particles",
        )  # fmt: skip
    else:
        side = min(m * abs(s) for m, s in zip(where.shape, step, strict=True))
        kernel = partial(
            copying.cylinders, shape=many.shape, seed=seed, below=below, tilts=tilts,
            along=along, step=step, soft=not_negative("soft", soft), signal=signal, scale=scale,
            radius=not_negative("radius", side / 8 if radius is None else radius),
            length=not_negative("length", side / 2 if length is None else length),
            dtype=float_dtype(dtype),
        )  # fmt: skip
        found = made(kernel, many, dtype, "particles")
    truth = {name: facts[name].variable for name in ("tilted", "tilt", "half")}
    return found.rename("particles").assign_coords(truth).assign_attrs(contrast="bright")


#: bytes per voxel while a template is turned: it and its copy in float64
TURNING = 16.0


def _mixture(alpha: float | None, sigma: float | None) -> tuple[float, float]:
    """Weight of the signal and of noise of deviation 1."""
    if (alpha is None) == (sigma is None):
        raise LabelError(
            f"particles take alpha (fraction of signal) or sigma (deviation of the noise), "
            f"one of them, got {alpha=} and {sigma=}"
        )
    if alpha is None:
        return 1.0, not_negative("sigma", float(sigma or 0.0))
    if not 0 <= alpha <= 1:
        raise LabelError(f"alpha is the fraction of signal, from 0 to 1, got {alpha!r}")
    return float(alpha), 1.0 - alpha


def _tilts(tilt: tuple[float, float] | str) -> copying.Tilts:
    if tilt == "lying":
        return 90.0, 90.0, True
    if isinstance(tilt, str) or len(tilt) != 2 or not tilt[0] <= tilt[1]:
        raise LabelError(f"tilt is degrees (from, to) or 'lying', got {tilt!r}")
    return float(tilt[0]), float(tilt[1]), False


def _facts(n: int, seed: int, tilted: float, tilts: copying.Tilts) -> tuple[xr.Dataset, float]:
    """Pose and half of every particle along k, and the rank below which they are tilted."""
    if not 0 <= tilted <= 1:
        raise LabelError(f"tilted is a fraction of the particles, from 0 to 1, got {tilted!r}")
    ranks = copying.ranks(0, n, seed)
    count = round(tilted * n)
    below = float(np.sort(ranks)[count]) if count < n else np.inf
    tilt, azimuth = copying.poses(0, n, seed=seed, below=below, tilts=tilts)
    degrees = {"units": "degree"}
    facts = {
        "tilted": (STACK, ranks < below),
        "tilt": (STACK, tilt, degrees),
        "azimuth": (STACK, azimuth, degrees),
        "half": (STACK, np.arange(n, dtype=np.int8) % 2 + 1),
    }
    return xr.Dataset(facts), below


def _require_bare(
    radius: float | None, length: float | None, soft: float, voxel_size: object, unit: str
) -> None:
    if (radius, length, soft, voxel_size, unit) != (None, None, 0.0, 1.0, "voxel"):
        raise LabelError(
            "radius, length, soft, voxel_size and unit belong to a box given by its shape; "
            "leave them out with a template volume"
        )
