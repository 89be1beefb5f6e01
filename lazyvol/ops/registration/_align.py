"""Alignment of particles to a reference, and of both to each other in turn."""

from dataclasses import replace
from functools import partial
from math import ceil, inf, log2, prod
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration import pose_search, rotational_correlation, subvolume_average
from lazyvol.kernels.registration.pose_refinement import ROOM
from lazyvol.kernels.registration.pose_search import Hunt
from lazyvol.ops._references import half_sets
from lazyvol.ops.registration._average import layout_of
from lazyvol.ops.registration._poses import (
    ANGLE,
    AXIS,
    EULER,
    Rotations,
    Shifts,
    Wedge,
    frequencies,
    in_degrees,
    in_voxels,
    reference_of,
    steps,
    whole_dims,
)
from lazyvol.ops.registration._whole_particles import fold_wholes
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import SPATIAL, STACK, float_of, require_stack, unit_of

#: how many of the best rotations are followed from the coarse step on
KEEP = (6, 4, 2)
#: dims of an image
IMAGE = SPATIAL[1:]
#: largest part of a rotation's quaternion off z that is rounding
FLAT = 1e-9
#: part of the highest frequency that is looked at by default: beyond are the box's corners
DETAIL = 0.8

Poses = tuple[xr.DataArray, ...]


@operation(
    dims={"shifts": (("k", "axis"),), "rotations": (("k", "angle"),)},
    unbounded=("shifts", "rotations"),
    counts=None,
)
def align(
    stack: xr.DataArray,
    reference: xr.DataArray | str,
    angles: float | Rotation = 20.0,
    *,
    finest: float | None = 2.0,
    max_shift: float | None = None,
    resolution: float | None = None,
    mask: xr.DataArray | None = None,
    wedge: Wedge | None = None,
    symmetry: int | Literal["cylinder"] = 1,
    rotations: Rotations | None = None,
    shifts: Shifts | None = None,
    iterations: int = 1,
    halves: bool = False,
) -> xr.Dataset:
    """Rotation and shift that lay every particle on the reference, and their average.

    The best correlation coefficient over the frequencies that were measured (constrained where
    there is a ``wedge``): first over all rotations, at the low frequencies that a coarse step can
    tell apart, then around the best of them in smaller steps and at higher frequencies, last
    between the steps. Shifts are those of the highest correlation at every rotation.

    Parameters
    ----------
    stack
        Stack of volumes (k, z, y, x), or of images (k, y, x); or one of these alone. Images turn
        about z alone.
    reference
        Volume or image, or ``"average"`` of the stack.
    angles
        Coarse step in degrees, or the rotations to try.
    finest
        Last step in degrees. None takes the best of ``angles`` as it is.
    max_shift
        The longest shift that is looked for, in the unit of the coordinates; by default a quarter
        of the shortest side.
    resolution
        Finest detail to compare, in the unit of the coordinates; by default 2.5 voxels. Detail
        that is noise alone finds itself again in the average: be modest.
    mask
        Weights from 0 to 1 of the reference's voxels, best with a soft edge.
    wedge
        What of the volumes' frequencies was measured, as for ``average``; images have none.
    symmetry
        Of the reference about z: how often it looks the same in a turn, or ``"cylinder"``.
    rotations, shifts
        Poses to begin with, as for ``average``; the search stays around them.
    iterations
        Rounds: each reads every particle once, and is against the average of the one before.
    halves
        Refine two half-sets on their own, each against its own average, so that their Fourier
        shell correlation tells the truth (Scheres and Chen, Nature Methods 9, 853, 2012). They
        are those of the coordinate ``half``, or even and odd particles.

    Returns
    -------
    xarray.Dataset
        ``rotations`` (k, angle), of images (k,), and ``shifts`` (k, axis), as ``average`` takes
        them; ``ncc``
        (k,), the coefficient; ``average``, and with ``halves`` ``first`` and ``second``. A
        particle that is constant has no pose: NaN.

    Raises
    ------
    LabelError
        If the stack has other dims, or options do not fit.

    References
    ----------
    Foerster et al., PNAS 102, 4729 (2005); Scheres, J. Struct. Biol. 180, 519 (2012).

    Examples
    --------
    >>> import lazyvol as lv
    >>> rod = lv.synthetic.cylinder((24, 24, 24), radius=4, length=18, soft=2)
    >>> lying = lv.registration.rotate(rod, (0, 70, 0)).expand_dims(k=1)
    >>> found = lv.registration.align(lying, rod, symmetry="cylinder").compute()
    >>> upright = lv.registration.rotate(lying, found.rotations, mode="nearest")
    >>> bool(lv.scores.ncc(upright, rod) > 0.99), bool(found.ncc > 0.99)
    (True, True)
    """
    dims = whole_dims(stack)
    if set(dims) not in ({*SPATIAL}, {*IMAGE}) or {*stack.dims} - {STACK, *dims}:
        raise LabelError(
            f"stack must have the dims {(STACK, *SPATIAL)} or {(STACK, *IMAGE)}, got "
            f"{stack.dims}; select or rename the others"
        )
    if len(dims) == len(IMAGE) and wedge is not None:
        raise LabelError(
            f"wedge must be None for images with the dims {dims}, got {wedge=}; a range of tilts "
            f"is of volumes"
        )
    if STACK not in stack.dims:
        if halves:
            raise LabelError(
                f"halves must be False for one particle, got dims {stack.dims}; two half-sets are "
                f"of a stack along {STACK!r}"
            )
        reference = reference_of("align", stack, reference, dims)
        alone = align(
            stack.expand_dims(STACK), reference, angles, finest=finest, max_shift=max_shift,
            resolution=resolution, mask=mask, wedge=wedge, symmetry=symmetry,
            rotations=rotations, shifts=shifts, iterations=iterations,
        )  # fmt: skip
        return alone.isel({STACK: 0})
    hunt = _hunt(stack, angles, finest, max_shift, resolution, symmetry, wedge, halves, dims)
    masks = [] if wedge is None else [frequencies(stack, wedge)]
    poses = _poses(stack, rotations, shifts, dims)
    references = [reference_of("align", stack, reference, dims)] * (1 + halves)
    if int(iterations) != iterations or iterations < 1:
        raise LabelError(f"iterations are 1 or more, got {iterations=}")
    for n in range(int(iterations)):
        searched = _local(hunt, n) if poses else hunt
        found = _round(
            stack, [_masked(r, mask, dims) for r in references], masks, poses, searched, dims
        )
        references = [found[name] for name in (("first", "second") if halves else ("average",))]
        poses = _as_poses(found)
    return _labelled(found, stack, dims)


def _hunt(
    stack: xr.DataArray,
    angles: float | Rotation,
    finest: float | None,
    max_shift: float | None,
    resolution: float | None,
    symmetry: int | str,
    wedge: Wedge | None,
    halves: bool,
    dims: tuple[str, ...],
) -> Hunt:
    step = steps(stack, dims)[-len(dims) :]
    side = min(stack.sizes[d] * abs(s) for d, s in zip(dims, step, strict=True))
    voxel = max(map(abs, step))
    detail = 2 * voxel / DETAIL if resolution is None else float(resolution)
    reach = side / 4 if max_shift is None else float(max_shift)
    fold = inf if symmetry == "cylinder" else symmetry
    if not (isinstance(fold, (int, float)) and fold >= 1):
        raise LabelError(f"symmetry is a number of turns or 'cylinder', got {symmetry!r}")
    if not (2 * voxel <= detail < side and 0 <= reach < inf):
        raise LabelError(
            f"resolution is from two voxels ({2 * voxel:g}) to the shortest side ({side:g}) and "
            f"max_shift 0 or more, got {resolution=} and {max_shift=}"
        )
    grid, degrees = _grid(angles, finest, fold, len(dims) == len(IMAGE))
    keep = (*KEEP, *(1,) * len(degrees))[: len(degrees)]
    layout = layout_of(stack, dims, 3, False, False, wedge is not None)
    return Hunt(
        layout, degrees, (*keep[:-1], 1) if len(keep) == 1 else keep, 1 / detail, reach, fold,
        grid, stack.sizes[STACK], halves,
    )  # fmt: skip


def _grid(
    angles: float | Rotation, finest: float | None, symmetry: float, planar: bool
) -> tuple[np.ndarray[Any, np.dtype[Any]], tuple[float, ...]]:
    """Rotations to try first, and the steps from coarse to fine."""
    if isinstance(angles, Rotation):
        grid = np.atleast_2d(angles.as_quat())
        if planar and np.abs(grid[:, :2]).max(initial=0.0) > FLAT:
            raise LabelError(
                "angles must be rotations about z alone for images, got others; "
                "make them with Rotation.from_euler('z', ...)"
            )
        coarse = _between(grid, finest)
    elif 1 <= angles <= 180:
        coarse = float(angles)
        grid = (
            rotation_grids.about_z(coarse, symmetry)
            if planar
            else rotation_grids.uniform(coarse, symmetry)
        )
    else:
        raise LabelError(f"angles are a step from 1 to 180 degrees, or rotations, got {angles=}")
    if finest is None:
        return grid, (0.0,)
    if not 0 < finest <= 180:
        raise LabelError(f"finest is a step in degrees or None, got {finest=}")
    count = max(1, ceil(log2(max(coarse / finest, 1.0))))
    return grid, tuple(coarse * (finest / coarse) ** (n / count) for n in range(count + 1))


def _between(grid: np.ndarray[Any, np.dtype[Any]], finest: float | None) -> float:
    """How far rotations that someone gave lie apart, in degrees."""
    if len(grid) < 2:
        return 4 * (finest or 1.0)
    cosines = np.abs(grid @ grid.T)
    np.fill_diagonal(cosines, 0.0)
    apart = 2 * np.rad2deg(np.arccos(np.minimum(cosines.max(1), 1.0)))
    return float(max(np.median(apart), finest or 1.0))


def _local(hunt: Hunt, n: int) -> Hunt:
    """The search around known poses: from half the coarse step on, finer in later rounds."""
    if hunt.steps == (0.0,):
        return hunt
    fine = hunt.steps[-1]
    first = max(fine, hunt.steps[0] / 2 ** (n + 1))
    count = max(1, ceil(log2(max(first / fine, 1.0))))
    degrees = tuple(first * (fine / first) ** (i / count) for i in range(count + 1))
    return replace(hunt, steps=(degrees[0], *degrees), keep=(1,) * (len(degrees) + 1), grid=None)


def _poses(
    stack: xr.DataArray, rotations: Rotations | None, shifts: Shifts | None, dims: tuple[str, ...]
) -> Poses:
    """Angles and shifts that particles come with, or none."""
    if rotations is None and shifts is None:
        return ()
    angles = in_degrees(stack, 0.0 if rotations is None else rotations, dims)
    moves = in_voxels(stack, (0.0,) * len(dims) if shifts is None else shifts, dims)
    sides = steps(stack, dims)[-len(dims) :]
    lengths = [m * s for m, s in zip(moves, sides, strict=True)]
    along = xr.DataArray(np.zeros(stack.sizes[STACK]), dims=(STACK,))
    still = [along] * (len(SPATIAL) - len(dims))
    return tuple(n if STACK in n.dims else along + n for n in (*angles, *still, *lengths))


def _as_poses(found: dict[str, xr.DataArray]) -> Poses:
    shifts = found["shifts"]
    moves = [shifts.isel({AXIS: n}, drop=True) for n in range(shifts.sizes[AXIS])]
    if ANGLE not in found["rotations"].dims:
        none = 0.0 * moves[0]
        return (found["rotations"], none, none, none, *moves)
    return (*(found["rotations"].isel({ANGLE: n}, drop=True) for n in range(3)), *moves)


def _masked(
    reference: xr.DataArray, mask: xr.DataArray | None, dims: tuple[str, ...]
) -> xr.DataArray:
    """A reference without what the mask leaves out, about its mean under it."""
    if mask is None:
        return reference
    return blockwise(
        rotational_correlation.masked, reference, require_stack(mask), core=dims,
        dtype=float_of(reference.dtype), scratch=24.0, title="masked",
    )  # fmt: skip


def _round(
    stack: xr.DataArray,
    references: list[xr.DataArray],
    masks: list[xr.DataArray],
    poses: Poses,
    hunt: Hunt,
    dims: tuple[str, ...],
) -> dict[str, xr.DataArray]:
    """Poses of all particles and the averages in them, from one read."""
    n, sizes = hunt.n, tuple(stack.sizes[d] for d in dims)
    voxels, dtype, double = prod(sizes), float_of(stack.dtype), np.dtype(np.float64)
    volumes = ("average", "first", "second") if hunt.halves else ("average",)
    angles = ((STACK,), (n,)) if hunt.planar else ((STACK, ANGLE), (n, len(EULER)))
    spec = Fold(
        start=partial(pose_search.start, hunt=hunt),
        update=partial(pose_search.update, hunt=hunt),
        combine=subvolume_average.combine,
        finish=partial(pose_search.finish, dtype=dtype, planar=hunt.planar),
        outputs={
            "rotations": Output(double, *angles),
            "shifts": Output(double, (STACK, AXIS), (n, len(dims))),
            "ncc": Output(double, (STACK,), (n,)),
            **dict.fromkeys(volumes, Output(dtype, dims, sizes)),
        },
        state_bytes=voxels * (1 + hunt.halves) * (16 + 5 * bool(masks)) + 56 * n,
        finish_bytes=voxels * len(volumes) * (24 + 32 * bool(masks)) + 56 * n,
        scratch=140.0 + 2 * ROOM / max(1, voxels),
    )
    numbers = xr.DataArray(np.arange(n), dims=(STACK,))
    groups = half_sets("align", stack) if hunt.halves else numbers * 0
    operands = (numbers, groups, *references, *masks, *poses)
    return fold_wholes(spec, stack, *operands, whole=dims, dims=(STACK, *dims), title="align")


def _labelled(
    found: dict[str, xr.DataArray], stack: xr.DataArray, dims: tuple[str, ...]
) -> xr.Dataset:
    facts = {k: v for k, v in stack.attrs.items() if k != "units"}
    units = {"rotations": {"units": "degree"}, "shifts": {"units": unit_of(stack, dims[-1])}}
    for name in ("rotations", "shifts", "ncc"):
        found[name].attrs = facts | units.get(name, {})
    if ANGLE in found["rotations"].dims:
        found["rotations"] = found["rotations"].assign_coords({ANGLE: (ANGLE, list(EULER))})
    found["shifts"] = found["shifts"].assign_coords({AXIS: (AXIS, list(dims))})
    return xr.Dataset(found)
