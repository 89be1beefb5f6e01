"""Screening: particles that another hypothesis explains better than the average of the others."""

from functools import partial
from math import ceil, pi, radians
from typing import Any, Literal

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.screening import fourier_coefficients
from lazyvol.kernels.screening import screen as screen_kernels
from lazyvol.kernels.screening import table as table_kernels
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.kernels.screening.memory import screening_bytes
from lazyvol.ops.registration._poses import Rotations, Wedge
from lazyvol.ops.scores._comparison import comparison
from lazyvol.ops.scores._measured import FREQUENCY, measured_weights
from lazyvol.plan.checkpoints import keeping_steps
from lazyvol.plan.reductions.fold import Fold, Output, joint_fold
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import (
    SPATIAL,
    STACK,
    dataset_of,
    require_stack,
    spacing,
    spatial_dims,
    unit_of,
)

#: bytes of the spectra of all particles: more particles get a lower highest frequency; 20,000 are
#: screened within 2 GiB
SPECTRA_BYTES = 7 * 2**25
#: numbers in the spectrum of one particle: all of a box of 31^3, which shows orientations
MAX_SIZE = 17_200

#: dims of an image
IMAGE = SPATIAL[1:]
#: plain scores against the average of the others
PLAIN_SCORES = ("mse", "rmse", "cosine", "ncc")
#: columns of the result that are not float64
DTYPES = {
    "flagged": np.dtype(bool), "best_hypothesis": np.dtype(np.int16), "wedge": np.dtype(np.int16)
}  # fmt: skip
#: names of hypotheses by code; templates follow
HYPOTHESES = (
    "consistent", "empty", "rotated", "shifted", "second_class", "extra_density", "unlike"
)  # fmt: skip
#: knowledge of the wedge of a particle, by code
WEDGES = ("none", "given", "found", "unclear")


@operation(dims={"templates": (IMAGE, SPATIAL, ("template", *SPATIAL))}, counts=None)
def screen(
    stack: xr.DataArray,
    *,
    average: xr.DataArray | None = None,
    templates: xr.DataArray | None = None,
    angles: float | None = 30.0,
    second_class: bool = True,
    mask: xr.DataArray | None = None,
    wedge: Wedge | Literal["auto"] | None = "auto",
    orientations: Rotations | None = None,
    fdr: float = 0.05,
) -> xr.Dataset:
    """Likelihood ratios, p-values and flags of misaligned or foreign particles, and plain scores.

    Each particle is compared with the average of the other particles and with alternative
    hypotheses: that average under a grid of rotations and of shifts, with something else beside
    it, noise alone (an empty particle), ``templates``, and a second class of particles found in the
    stack. A particle is flagged as inconsistent if an alternative explains it better than chance
    allows.

    Parameters
    ----------
    stack
        Particles (k, z, y, x), or images (k, y, x), two or more, with 4 or more voxels along each
        spatial dim. Every other array is a volume or an image on the same grid.
    average
        Average of all particles, (z, y, x), if it is known: saves one of two reads of the stack.
    templates
        Volumes that misassigned particles may show, (z, y, x) or with one more dim; their contrast
        does not matter. A template that is equivalent to the average is left out.
    angles
        Spacing of the grid of rotations in degrees, from 5 to 180, for images about z alone; None
        for no rotations.
    second_class
        Search for a second class of particles.
    mask
        Mask of the object, (z, y, x), from 0 to 1; estimated from the data by default.
    wedge
        The frequencies that were measured. A tilt range (from, to) in degrees, tilt axis y and beam
        along z, of the tomogram; ``orientations`` say how each particle was rotated since. A mask
        or weights of the Fourier transform, (z, y, x) or (k, z, y, x), as ``synthetic.wedge`` makes
        it: zero frequency at the first voxel, or at ``n // 2`` if ``attrs["layout"]`` is
        ``"centred"``; of the length ``x // 2 + 1`` along x as RELION and Warp write them
        (``rlnCtfImage``). Weights multiply the signal; whether they multiply the noise too is seen
        in the particles. ``"auto"``: a wedge of each particle is found in its power, where
        particles have different ones. None: all were measured.
    orientations
        Rotations that particles underwent after they were measured, as for
        ``registration.rotate``: rot, tilt and psi of RELION, (k, angle). By default the coordinates
        ``rot``, ``tilt`` and ``psi`` of the stack, if it has all three, else none.
    fdr
        False discovery rate, between 0 and 1: the expected fraction of consistent particles among
        the flagged.

    Returns
    -------
    xarray.Dataset
        Over k: ``mse``, ``rmse``, ``cosine`` and ``ncc`` with the average of the other particles;
        ``llr``, the log likelihood ratio of the alternatives to the average; ``p_value``, the
        probability that a consistent particle reaches this llr; ``flagged``, True where the
        p-value passes ``fdr`` and llr is above 0; ``probability`` that the particle is
        inconsistent; ``contrast`` of the average in the particle; ``noise``, its amplitude relative
        to the median particle; ``best_hypothesis``, a code whose names are in its attributes, and
        stand in its place in tables (consistent, empty, rotated, shifted, second_class, template_0,
        ...; extra_density: the average with something beside it, such as a neighbour or a gold
        bead; unlike: the average in no pose, such as another species); ``measured``, the fraction
        of the frequencies that was measured; ``wedge``, a code as well: ``none``, ``given``,
        ``found``, or ``unclear`` where power differs in a way that no wedge explains, or fills a
        given one; ``angles`` and ``shifts``, the refined pose of the average in
        particles that are "rotated" or "shifted", NaN in others: rot, tilt and psi (k, angle)
        (intrinsic ZYZ, degrees, the inverse of RELION's; one angle for images) that rotate the
        average, and the lengths (k, axis), in the unit of the positions, by which it is moved then.
        ``attrs["highest_frequency"]`` is the frequency up to which particles were compared.
        Particles that are constant or hold NaN are NaN and flagged. If particles share no signal,
        llr is 0 and p 1.

    Raises
    ------
    LabelError
        If dims, lengths or units do not fit, or ``angles``, ``wedge``, ``orientations``, ``mask``,
        ``templates`` or ``fdr`` hold other values than these.

    Notes
    -----
    The average is Wiener-filtered by the Fourier shell correlation of half-sets, averaged over all
    halvings, and masked where it exceeds its noise. Rotations that are symmetries of the object
    are left out, as are shifts, up to 0.3 of the shortest side, that change little. What a particle
    holds besides the average is judged by the energy of its residual, relative to the residuals of
    the other particles, where an object as strong as the average would stand out in one particle.
    The best pose of a particle is refined; ``rotated`` and ``shifted`` are the reason only if it
    explains most of the residual, and ``unlike`` if particles share what it leaves. Spectra are
    whitened by the noise spectrum; offset, noise level and contrast are
    estimated for each particle. A particle is not part of the averages that it is compared with,
    and averages are estimated three times, without particles that look inconsistent: up to
    three in ten may be. The second class comes from principal components, then expectation
    maximization. p-values are simulated with the measured noise.

    Every sum over particles is weighted by what was measured of each, and every comparison is made
    at the frequencies that the particle has. Where these are unclear, unmeasured frequencies would
    look like a second class: there is a warning and none is searched for.

    With some tens of particles the average is poor and few are flagged. Rotations much smaller
    than ``angles`` are not detected.

    All particles' spectra, up to the frequency where they take 224 MiB, are in memory in one task;
    the stack itself is read twice. ``templates`` and ``mask`` are computed at once.

    References
    ----------
    Benjamini and Hochberg, J. R. Stat. Soc. B 57, 289 (1995);
    ``scipy.stats.false_discovery_control``.

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.particles((16, 16, 16), 60, sigma=1.5, tilted=0.1, radius=3, seed=1)
    >>> result = lv.scores.screen(stack).compute()
    >>> int(result.flagged.sum()), int((result.flagged & stack.tilted).sum())
    (6, 6)
    """
    particles = stack = as_particles(stack)
    if "z" not in stack.dims:
        average, templates, mask, wedge = _one_slice_options(stack, average, templates, mask, wedge)
        orientations = None
        stack = _one_slice(stack).transpose(STACK, *SPATIAL)
    if not 0 < fdr < 1:
        raise LabelError(f"screen: fdr must be between 0 and 1, got {fdr}")
    band = _band(stack)
    evidence = screen_kernels.Evidence(
        _template_spectra(templates, stack, band),
        _coarse_mask(mask, stack, band),
        isinstance(wedge, str),
    )
    weights = [] if wedge is None or isinstance(wedge, str) else [
        measured_weights(wedge, orientations, stack, band)
    ]  # fmt: skip
    n_rotations = _rotation_count(angles, band.planar)
    inputs = _scores_and_spectra(stack, average, None if mask is None else mask > 0, band)
    n = stack.sizes[STACK]
    memory = screening_bytes(
        n, len(evidence.templates), n_rotations, band,
        per_particle=evidence.find_wedges or any(STACK in w.dims for w in weights),
        transfer=any(w.dtype.kind == "f" for w in weights),
    )  # fmt: skip
    table = blockwise(
        partial(screen_kernels.screen_spectra, evidence=evidence, band=band,
                n_rotations=n_rotations, second_class=second_class, fdr=fdr,
                keeping=keeping_steps),
        inputs["spectra"], *weights, core=(STACK, "number", FREQUENCY), out=(STACK, "column"),
        sizes={"column": len(table_kernels.COLUMNS)}, dtype=np.dtype(np.float64),
        scratch=memory / (n * band.size), title="hypotheses",
    )  # fmt: skip
    results = fold(_columns_fold(band), table, dims=("column",), title="screen")
    plain = {name: inputs[name] for name in PLAIN_SCORES}
    columns = {**plain, **{name: _labelled(results[name], particles) for name in results}}
    return _annotate(dataset_of(columns), len(evidence.templates), band, particles)


def as_particles(stack: xr.DataArray) -> xr.DataArray:
    """Return a stack as (k, z, y, x) or (k, y, x); raise LabelError if it cannot be screened."""
    dims = spatial_dims(require_stack(stack))
    if set(dims) not in ({*SPATIAL}, {*IMAGE}) or set(stack.dims) != {STACK, *dims}:
        raise LabelError(
            f"screen: stack must have the dims {(STACK, *SPATIAL)} or {(STACK, *IMAGE)}, got "
            f"{stack.dims}; select or rename dims, or stack the files with open"
        )
    if stack.sizes[STACK] < 2:
        raise LabelError(
            f"screen: stack must hold two or more particles, got {stack.sizes[STACK]}; open all "
            f"files of the particles"
        )
    if min(stack.sizes[d] for d in dims) < 4:
        raise LabelError(
            f"screen: stack must have 4 or more voxels along each of {dims}, got "
            f"{dict(stack.sizes)}; use scores.ncc for smaller boxes"
        )
    if stack.dtype.kind == "c":
        raise LabelError(f"screen: stack must hold real numbers, got {stack.dtype}; use .real")
    return stack.transpose(STACK, *dims)


def _one_slice_options(
    stack: xr.DataArray,
    average: xr.DataArray | None,
    templates: xr.DataArray | None,
    mask: xr.DataArray | None,
    wedge: Wedge | str | None,
) -> tuple[xr.DataArray | None, xr.DataArray | None, xr.DataArray | None, Wedge | None]:
    """Return options for images as options for volumes of one slice."""
    if isinstance(wedge, tuple):
        raise LabelError(
            f"screen: wedge must be None or a mask of frequencies for images, got {wedge}; a tilt "
            f"range applies to volumes"
        )
    if isinstance(wedge, str):
        wedge = None
    options = {"average": average, "templates": templates, "mask": mask, "wedge": wedge}
    for name, image in options.items():
        if image is None:
            continue
        require_stack(image)
        if not set(IMAGE) <= set(image.dims) or "z" in image.dims:
            raise LabelError(
                f"screen: {name} must have the dims {IMAGE} of the images, got {image.dims}; "
                f"select or rename dims"
            )
        require_same_grid(stack, image)
    average, templates, mask, wedge = (
        None if image is None else _one_slice(image) for image in options.values()
    )
    return average, templates, mask, wedge


def _one_slice(image: xr.DataArray) -> xr.DataArray:
    """Return images as volumes of one slice, without a coordinate ``z`` of their own."""
    return image.drop_vars("z", errors="ignore").expand_dims("z")


def _band(stack: xr.DataArray) -> Band:
    """Return the band of frequencies in which particles are compared."""
    size = min(MAX_SIZE, SPECTRA_BYTES // (4 * stack.sizes[STACK]))
    shape, steps = zip(*((stack.sizes[d], spacing(stack, d)) for d in SPATIAL), strict=True)
    return fourier_coefficients.band_of(shape, steps, max(64, size))


def _rotation_count(angles: float | None, planar: bool) -> int:
    """Return the number of rotations ``angles`` degrees apart, besides the identity."""
    if angles is None:
        return 0
    if not 5 <= angles <= 180:
        raise LabelError(
            f"screen: angles must be between 5 and 180 degrees, got {angles}; pass None for no "
            f"rotations"
        )
    if planar:
        return ceil(360 / angles - 1e-9) - 1
    return ceil(8 * pi**2 / radians(angles) ** 3)


def _scores_and_spectra(
    stack: xr.DataArray, average: xr.DataArray | None, inside: xr.DataArray | None, band: Band
) -> dict[str, xr.DataArray]:
    """Return the plain scores and the spectra of all particles, from one read."""
    against = "average" if average is None else average
    plain = comparison(PLAIN_SCORES, stack, against, SPATIAL, inside, True)
    count, positions = len(plain.operands), _voxel_numbers(stack)
    joint = joint_fold(
        (plain.fold, range(count)),
        (_spectra_fold(band), (0, *range(count, count + len(positions)))),
    )
    outputs = fold(joint, *plain.operands, *positions, dims=plain.dims, title="scores-spectra")
    return outputs | plain.labelled(outputs)


def _spectra_fold(band: Band) -> Fold:
    """Return a fold over space that gives the spectra of volumes."""
    z, y, x = band.coarse_shape
    single = np.dtype(np.float32)
    return Fold(
        start=partial(fourier_coefficients.start, band=band),
        update=partial(fourier_coefficients.update, band=band),
        combine=fourier_coefficients.combine,
        finish=partial(fourier_coefficients.finish, band=band, dtype=single),
        outputs={"spectra": Output(single, ("number",), (band.size,))},
        state_bytes=8 * z * y * (x // 2 + 1) + 8,
        finish_bytes=16 * band.size + 8,
    )


def _voxel_numbers(stack: xr.DataArray) -> list[xr.DataArray]:
    """Return the number of each voxel along each spatial dim."""
    return [xr.DataArray(np.arange(stack.sizes[d]), dims=(d,)) for d in SPATIAL]


def _columns_fold(band: Band) -> Fold:
    """Return a fold that splits the table into arrays, all from one task."""
    double = np.dtype(np.float64)
    outputs = {c: Output(DTYPES.get(c, double)) for c in table_kernels.RESULTS}
    euler = ((), ()) if band.planar else (("angle",), (len(table_kernels.ANGLES),))
    outputs["angles"] = Output(double, *euler)
    outputs["shifts"] = Output(double, ("axis",), (len(table_kernels.SHIFTS) - band.planar,))
    return Fold(
        start=table_kernels.start, update=table_kernels.update, combine=table_kernels.combine,
        finish=partial(table_kernels.finish, steps=band.spacing, planar=band.planar),
        outputs=outputs,
        state_bytes=8 * len(table_kernels.COLUMNS), finish_bytes=16 * len(table_kernels.COLUMNS),
    )  # fmt: skip


def _template_spectra(templates: xr.DataArray | None, stack: xr.DataArray, band: Band) -> Any:
    """Return (template, number)."""
    if templates is None:
        return np.empty((0, band.size), np.float32)
    _require_volume("templates", templates, stack, extra=1)
    lead = [d for d in templates.dims if d not in SPATIAL]
    values = templates.transpose(*lead, *SPATIAL).values
    if not np.isfinite(values).all():
        bad = np.count_nonzero(~np.isfinite(values))
        raise LabelError(
            f"screen: templates must be finite, got {bad} NaN or infinite voxels; fill them with "
            f".fillna(0)"
        )
    volumes = values.reshape(-1, *band.shape)
    state = fourier_coefficients.start(volumes.shape[:1], band=band)
    positions = [np.arange(n) for n in band.shape]
    fourier_coefficients.update(state, (1, 2, 3), volumes, *positions, band=band)
    spectra = fourier_coefficients.finish(state, band=band, dtype=np.dtype(np.float32))["spectra"]
    return fourier_coefficients.near_one(spectra)


def _coarse_mask(mask: xr.DataArray | None, stack: xr.DataArray, band: Band) -> Any:
    """Return the mask at the nearest voxels of the coarse grid."""
    if mask is None:
        return None
    _require_volume("mask", mask, stack)
    nearest = {
        d: np.clip(np.rint((np.arange(m) - m // 2) * (n / m) + n // 2).astype(int), 0, n - 1)
        for d, m, n in zip(SPATIAL, band.coarse_shape, band.shape, strict=True)
    }
    values = np.asarray(mask.transpose(*SPATIAL).isel(nearest).values, np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and 0 < values.max() <= 1):
        raise LabelError(
            f"screen: mask must be from 0 to 1 and not empty, got values from {values.min():g} to "
            f"{values.max():g}; scale it with intensity.rescale"
        )
    return values


def _require_volume(name: str, volume: xr.DataArray, stack: xr.DataArray, extra: int = 0) -> None:
    """Raise LabelError unless a volume, with up to ``extra`` more dims, fits the stack."""
    require_stack(volume)
    others = [d for d in volume.dims if d not in SPATIAL]
    if not set(SPATIAL) <= set(volume.dims) or len(others) > extra or STACK in others:
        raise LabelError(
            f"screen: {name} must have the dims {SPATIAL}{' and one more' if extra else ''}, got "
            f"{volume.dims}; select or rename dims"
        )
    require_same_grid(stack, volume)


def _labelled(column: xr.DataArray, stack: xr.DataArray) -> xr.DataArray:
    """Return a column with the coordinates of the particles and no unit."""
    attrs = {name: value for name, value in stack.attrs.items() if name != "units"}
    coords = {n: c for n, c in stack.coords.items() if set(c.dims) <= {STACK}}
    column.attrs = {str(name): value for name, value in attrs.items()}
    return column.assign_coords(coords)


def _annotate(
    results: xr.Dataset, n_templates: int, band: Band, particles: xr.DataArray
) -> xr.Dataset:
    """Return results with names of hypotheses and axes, units and the highest frequency."""
    hypotheses = (*HYPOTHESES, *(f"template_{n}" for n in range(n_templates)))
    for column, names in (("best_hypothesis", hypotheses), ("wedge", WEDGES)):
        results[column].attrs |= {
            "flag_values": list(range(len(names))), "flag_meanings": " ".join(names)
        }  # fmt: skip
    dims = spatial_dims(particles)
    results["angles"].attrs["units"] = "degree"
    results["shifts"].attrs["units"] = unit_of(particles, dims[-1])
    results = results.assign_coords(axis=list(dims))
    if "angle" in results.dims:
        results = results.assign_coords(angle=list(table_kernels.ANGLES))
    return results.assign_attrs(highest_frequency=band.limit)
