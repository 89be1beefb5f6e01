"""Align particles to a reference, in one or more rounds."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import ceil, inf, log2, prod
from typing import Any, Literal

import numpy as np
import xarray as xr
from scipy.spatial.transform import Rotation

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration import pose_search, rotational_correlation, subvolume_average
from lazyvol.kernels.registration.pose_refinement import BATCH_BYTES
from lazyvol.kernels.registration.pose_search import PoseSearch
from lazyvol.kernels.registration.subvolume_average import ParticleLayout
from lazyvol.ops._checks import whole_number
from lazyvol.ops._references import half_sets
from lazyvol.ops.registration._average import layout_of
from lazyvol.ops.registration._poses import (
    ANGLE,
    AXIS,
    EULER,
    Rotations,
    Shifts,
    Wedge,
    euler_angles,
    measured_frequencies,
    particle_dims,
    reference_of,
    shifts_in_voxels,
    zyx_spacing,
)
from lazyvol.ops.registration._whole_particles import fold_whole_particles
from lazyvol.plan.reductions.fold import Fold, Output
from lazyvol.plan.verbs import blockwise
from lazyvol.stack import SPATIAL, STACK, dataset_of, float_of, require_stack, unit_of

#: smallest step of rotations in degrees: each halving takes a further round
LEAST_STEP = 0.001
#: number of best rotations kept at the coarse step, the next, and the one after
KEEP = (6, 4, 2)
#: dims of an image
IMAGE = SPATIAL[1:]
#: largest x or y of the quaternion of a rotation about z: beyond rounding
ROUNDING = 1e-9
#: default limit, relative to the highest frequency along an axis: corners of the box are left out
DEFAULT_LIMIT = 0.8

Array = np.ndarray[Any, np.dtype[Any]]
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
    orientations: Rotations | None = None,
    symmetry: int | Literal["cylinder"] = 1,
    rotations: Rotations | None = None,
    shifts: Shifts | None = None,
    iterations: int = 1,
    halves: bool = False,
) -> xr.Dataset:
    """Rotation and shift that align every particle to the reference, and the average.

    They maximize the correlation coefficient over the measured frequencies (constrained
    correlation with a ``wedge``). The search begins with all rotations, at the low frequencies that
    a coarse step can distinguish; the best ones are refined in smaller steps at higher frequencies,
    and last between the steps. Each rotation is scored at its best shift.

    Parameters
    ----------
    stack
        Volumes (k, z, y, x) or images (k, y, x), or one particle. Images rotate about z alone.
    reference
        One particle, or ``"average"``: the mean of the stack.
    angles
        Coarse step from 1 to 180 degrees, or the rotations to try.
    finest
        Last step in degrees. None: the best of ``angles``, without refinement.
    max_shift
        Longest shift, in the unit of the positions; by default a quarter of the shortest side.
    resolution
        Finest detail to compare, in the unit of the positions; by default 2.5 voxels. Detail that
        is noise correlates with its own average: choose it no finer than needed.
    mask
        Weights from 0 to 1 of the reference's voxels, preferably with a soft edge.
    wedge, orientations
        The measured frequencies of volumes, as for ``registration.average``.
    symmetry
        Order of the reference's rotational symmetry about z, or ``"cylinder"``.
    rotations, shifts
        Initial poses, as for ``registration.average``; the search stays near them.
    iterations
        Number of rounds, 1 or more: each reads every particle once, and the reference is the
        average of the previous round.
    halves
        Whether to refine two half-sets, each against its own average, so that their Fourier shell
        correlation is not biased (Scheres and Chen, Nature Methods 9, 853, 2012). They are those of
        the coordinate ``half``, or even and odd particles.

    Returns
    -------
    xarray.Dataset
        ``rotations`` (k, angle) in degrees, (k,) for images, and ``shifts`` (k, axis) in the unit
        of the positions, both as for ``registration.average``; ``ncc`` (k,), the coefficient;
        ``average``, and with ``halves`` also ``first`` and ``second``. The pose of a constant
        particle is NaN.

    Raises
    ------
    LabelError
        If the stack has other dims, or an option does not fit the stack.
    OptionError
        If an option has the wrong type or value.

    References
    ----------
    Foerster et al., PNAS 102, 4729 (2005); Scheres, J. Struct. Biol. 180, 519 (2012).

    Examples
    --------
    >>> import lazyvol as lv
    >>> rod = lv.synthetic.cylinder((24, 24, 24), radius=4, length=18, soft=2)
    >>> lying = lv.registration.rotate(rod, (0, 70, 0)).expand_dims(k=1)
    >>> poses = lv.registration.align(lying, rod, symmetry="cylinder").compute()
    >>> upright = lv.registration.rotate(lying, poses.rotations, mode="nearest")
    >>> bool(lv.scores.ncc(upright, rod) > 0.99), bool(poses.ncc > 0.99)
    (True, True)
    """
    dims = particle_dims(stack)
    _require_dims(stack, dims, wedge, halves)
    if STACK not in stack.dims:
        reference = reference_of("align", stack, reference, dims)
        aligned = align(
            stack.expand_dims(STACK), reference, angles, finest=finest, max_shift=max_shift,
            resolution=resolution, mask=mask, wedge=wedge, orientations=orientations,
            symmetry=symmetry, rotations=rotations, shifts=shifts, iterations=iterations,
        )  # fmt: skip
        return aligned.isel({STACK: 0})
    masks, since = measured_frequencies("align", stack, wedge, orientations, dims)
    layout = layout_of(stack, dims, has_wedge=bool(masks), oriented=bool(since))
    search = _pose_search(
        stack, layout, angles, finest, max_shift, resolution, symmetry, halves, dims
    )
    poses = _initial_poses(stack, rotations, shifts, dims)
    references = [reference_of("align", stack, reference, dims)] * search.n_references
    for n in range(whole_number("align", "iterations", iterations)):
        masked = [_masked_reference(r, mask, dims) for r in references]
        local = _local_search(search, n) if poses else search
        outputs = _align_once(stack, masked, masks, (*poses, *since), local, dims)
        references = [outputs[name] for name in (("first", "second") if halves else ("average",))]
        poses = _poses_of(outputs)
    return _labelled(outputs, stack, dims)


def _require_dims(
    stack: xr.DataArray, dims: Sequence[str], wedge: Wedge | None, halves: bool
) -> None:
    """Refuse stacks of other dims, and options that do not apply to the stack's dims."""
    if set(dims) not in ({*SPATIAL}, {*IMAGE}) or {*stack.dims} - {STACK, *dims}:
        raise LabelError(
            f"align: stack must have the dims {(STACK, *SPATIAL)} or {(STACK, *IMAGE)}, got "
            f"{stack.dims}; select or rename the others"
        )
    if len(dims) == len(IMAGE) and wedge is not None:
        raise LabelError(
            f"align: wedge must be None for images with the dims {dims}, got {wedge=}; only "
            f"volumes have a range of tilts"
        )
    if STACK not in stack.dims and halves:
        raise LabelError(
            f"align: halves must be False for one particle, got dims {stack.dims}; half-sets "
            f"need a stack along {STACK!r}"
        )


def _pose_search(
    stack: xr.DataArray,
    layout: ParticleLayout,
    angles: float | Rotation,
    finest: float | None,
    max_shift: float | None,
    resolution: float | None,
    symmetry: int | str,
    halves: bool,
    dims: tuple[str, ...],
) -> PoseSearch:
    """Return the checked options of a search over the rotations ``angles``."""
    step = zyx_spacing(stack, dims)[-len(dims) :]
    side = min(stack.sizes[d] * abs(s) for d, s in zip(dims, step, strict=True))
    voxel = max(map(abs, step))
    detail = 2 * voxel / DEFAULT_LIMIT if resolution is None else float(resolution)
    reach = side / 4 if max_shift is None else float(max_shift)
    fold = inf if symmetry == "cylinder" else symmetry
    if not (isinstance(fold, (int, float)) and fold >= 1):
        raise LabelError(
            f"align: symmetry must be a number of 1 or more, or 'cylinder', got {symmetry!r}"
        )
    if not 2 * voxel <= detail < side:
        raise LabelError(
            f"align: resolution must be from two voxels ({2 * voxel:g}) to below the shortest side "
            f"({side:g}), got {resolution}"
        )
    if not 0 <= reach < inf:
        raise LabelError(f"align: max_shift must be a length of 0 or more, got {max_shift}")
    grid, degrees = _rotations_to_try(angles, finest, fold, len(dims) == len(IMAGE))
    keep = (1,) if len(degrees) == 1 else (*KEEP, *(1,) * len(degrees))[: len(degrees)]
    return PoseSearch(
        layout, degrees, keep, 1 / detail, reach, fold, grid, stack.sizes[STACK], halves
    )


def _rotations_to_try(
    angles: float | Rotation, finest: float | None, symmetry: float, planar: bool
) -> tuple[Array, tuple[float, ...]]:
    """Return the rotations to try first, and the steps from coarse to fine."""
    if isinstance(angles, Rotation):
        grid = np.atleast_2d(angles.as_quat())
        if planar and np.abs(grid[:, :2]).max(initial=0.0) > ROUNDING:
            raise LabelError(
                "align: angles must be rotations about z alone for images, got others; "
                "make them with Rotation.from_euler('z', ...)"
            )
        coarse = _typical_distance(grid, finest)
    elif 1 <= angles <= 180:
        coarse = float(angles)
        about = rotation_grids.about_z if planar else rotation_grids.uniform
        grid = about(coarse, symmetry)
    else:
        raise LabelError(
            f"align: angles must be a step from 1 to 180 degrees, or rotations, got {angles}"
        )
    if finest is None:
        return grid, (0.0,)
    if not LEAST_STEP <= finest <= 180:
        raise LabelError(
            f"align: finest must be a step of {LEAST_STEP} to 180 degrees, or None, got {finest}"
        )
    return grid, _halving_steps(coarse, finest)


def _halving_steps(coarse: float, finest: float) -> tuple[float, ...]:
    """Return steps from ``coarse`` to ``finest`` that decrease by a factor of about 2."""
    count = max(1, ceil(log2(max(coarse / finest, 1.0))))
    return tuple(coarse * (finest / coarse) ** (n / count) for n in range(count + 1))


def _typical_distance(grid: Array, finest: float | None) -> float:
    """Return the median distance of given rotations to their nearest neighbour, in degrees."""
    if len(grid) < 2:
        return 4 * (finest or 1.0)
    cosines = np.abs(grid @ grid.T)
    np.fill_diagonal(cosines, 0.0)
    distances = 2 * np.rad2deg(np.arccos(np.minimum(cosines.max(1), 1.0)))
    return float(max(np.median(distances), finest or 1.0))


def _local_search(search: PoseSearch, n: int) -> PoseSearch:
    """Return the search around known poses in round ``n``, from half the coarse step on."""
    if search.steps == (0.0,):
        return search
    finest = search.steps[-1]
    degrees = _halving_steps(max(finest, search.steps[0] / 2 ** (n + 1)), finest)
    return replace(search, steps=(degrees[0], *degrees), keep=(1,) * (len(degrees) + 1), grid=None)


def _initial_poses(
    stack: xr.DataArray, rotations: Rotations | None, shifts: Shifts | None, dims: tuple[str, ...]
) -> Poses:
    """Return the given angles and shifts (in the unit of the positions) of particles, or none."""
    if rotations is None and shifts is None:
        return ()
    angles = euler_angles(stack, 0.0 if rotations is None else rotations, dims)
    voxels = shifts_in_voxels(stack, (0.0,) * len(dims) if shifts is None else shifts, dims)
    step = zyx_spacing(stack, dims)[-len(dims) :]
    lengths = [v * s for v, s in zip(voxels, step, strict=True)]
    zeros = xr.DataArray(np.zeros(stack.sizes[STACK]), dims=(STACK,))
    missing = [zeros] * (len(SPATIAL) - len(dims))
    columns = (*angles, *missing, *lengths)
    return tuple(c if STACK in c.dims else zeros + c for c in columns)


def _poses_of(outputs: dict[str, xr.DataArray]) -> Poses:
    """Return the angles and shifts of a round as initial poses of the next."""
    rotations, shifts = outputs["rotations"], outputs["shifts"]
    lengths = [shifts.isel({AXIS: n}, drop=True) for n in range(shifts.sizes[AXIS])]
    if ANGLE not in rotations.dims:
        zeros = 0.0 * lengths[0]
        return (rotations, zeros, zeros, zeros, *lengths)
    return (*(rotations.isel({ANGLE: n}, drop=True) for n in range(len(EULER))), *lengths)


def _masked_reference(
    reference: xr.DataArray, mask: xr.DataArray | None, dims: tuple[str, ...]
) -> xr.DataArray:
    """Return a reference times its mask, after subtracting its mean at the edge of the mask."""
    if mask is None:
        return reference
    return blockwise(
        rotational_correlation.apply_mask, reference, require_stack(mask), core=dims,
        dtype=float_of(reference.dtype), scratch=24.0, title="masked",
    )  # fmt: skip


def _align_once(
    stack: xr.DataArray,
    references: list[xr.DataArray],
    masks: list[xr.DataArray],
    poses: Poses,
    search: PoseSearch,
    dims: tuple[str, ...],
) -> dict[str, xr.DataArray]:
    """Return the poses of all particles and the averages with these poses, from one read."""
    n, sizes = search.n, tuple(stack.sizes[d] for d in dims)
    voxels, dtype, double = prod(sizes), float_of(stack.dtype), np.dtype(np.float64)
    averages = ("average", "first", "second") if search.halves else ("average",)
    angles = ((STACK,), (n,)) if search.planar else ((STACK, ANGLE), (n, len(EULER)))
    spec = Fold(
        start=partial(pose_search.start, search=search),
        update=partial(pose_search.update, search=search),
        combine=subvolume_average.combine,
        finish=partial(pose_search.finish, dtype=dtype, planar=search.planar),
        outputs={
            "rotations": Output(double, *angles),
            "shifts": Output(double, (STACK, AXIS), (n, len(dims))),
            "ncc": Output(double, (STACK,), (n,)),
            **dict.fromkeys(averages, Output(dtype, dims, sizes)),
        },
        state_bytes=voxels * search.n_references * (16 + 5 * bool(masks)) + 56 * n,
        finish_bytes=voxels * len(averages) * (24 + 32 * bool(masks)) + 56 * n,
        scratch=140.0 + 2 * BATCH_BYTES / max(1, voxels),
    )
    numbers = xr.DataArray(np.arange(n), dims=(STACK,))
    groups = half_sets("align", stack) if search.halves else numbers * 0
    operands = (numbers, groups, *references, *masks, *poses)
    return fold_whole_particles(
        spec, stack, *operands, whole=dims, dims=(STACK, *dims), title="align"
    )


def _labelled(
    outputs: dict[str, xr.DataArray], stack: xr.DataArray, dims: tuple[str, ...]
) -> xr.Dataset:
    """Return the outputs of the last round with labels and units."""
    attrs = {k: v for k, v in stack.attrs.items() if k != "units"}
    units = {"rotations": {"units": "degree"}, "shifts": {"units": unit_of(stack, dims[-1])}}
    for name in ("rotations", "shifts", "ncc"):
        outputs[name].attrs = attrs | units.get(name, {})
    if ANGLE in outputs["rotations"].dims:
        outputs["rotations"] = outputs["rotations"].assign_coords({ANGLE: (ANGLE, list(EULER))})
    outputs["shifts"] = outputs["shifts"].assign_coords({AXIS: (AXIS, list(dims))})
    return dataset_of(outputs)
