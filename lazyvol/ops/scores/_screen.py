"""Which particles of a stack are wrong, when nothing can be seen in any of them."""

from functools import partial
from math import ceil, pi, radians
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.door import operation
from lazyvol.errors import LabelError
from lazyvol.kernels.screening import fourier_coefficients
from lazyvol.kernels.screening import screen as screen_kernels
from lazyvol.kernels.screening.fourier_coefficients import Band
from lazyvol.ops.registration._poses import Wedge
from lazyvol.ops.scores._comparison import comparison
from lazyvol.plan.reductions.fold import Fold, Output, joint_fold
from lazyvol.plan.verbs import blockwise, fold
from lazyvol.same_grid import require_same_grid
from lazyvol.stack import SPATIAL, STACK, require_stack, spacing, spatial_dims

#: bytes of all particles' spectra together: with many particles they end at a lower frequency.
#: 20,000 are so judged within 2 GiB
SPECTRA = 7 * 2**25
#: numbers of one particle's spectrum: all of a box of 31^3; wrong orientations show below
NUMBERS = 17_200

#: dims of an image
IMAGE = SPATIAL[1:]
#: scores against the average of the others
PLAIN = ("mse", "rmse", "cosine", "ncc")
#: columns of the result that are no float64
TYPES = {"flagged": np.dtype(bool), "best_hypothesis": np.dtype(np.int16)}
#: hypotheses by their code; templates follow
MEANINGS = ("right", "empty", "turned", "other")


@operation(dims={"templates": (IMAGE, SPATIAL, ("template", *SPATIAL))}, counts=None)
def screen(
    stack: xr.DataArray,
    *,
    average: xr.DataArray | None = None,
    templates: xr.DataArray | None = None,
    angles: float | None = 30.0,
    other: bool = True,
    mask: xr.DataArray | None = None,
    wedge: Wedge | None = None,
    fdr: float = 0.05,
) -> xr.Dataset:
    """Particles that are wrong, by likelihood, with calibrated p-values; and their plain scores.

    A particle is right where it is explained best by what the others have in common: their
    average, filtered by the signal that it holds (Wiener, the Fourier shell correlation averaged
    over all ways to halve the stack), within the mask where it rises from its noise. Rivals are
    that average under a grid of rotations, nothing but noise, ``templates``, and a second kind of
    particle found in the stack itself (principal components, then two-class expectation and
    maximisation). Rotations that the object's symmetry makes the same are no rivals. Noise is
    whitened by its own spectrum; offset, noise level and contrast are each particle's own. A
    particle is compared with averages that it is not part of, and rivals are weighed by how many
    of the other particles they explain; averages are made anew, twice, without those that look
    wrong: three in ten of them may be.

    The stack is read twice: for the plain average, and for plain scores against it with spectra
    up to the frequency that fits 224 MiB for all particles; once where ``average`` is given. All
    else follows from the spectra. Templates and mask are read at once.

    Parameters
    ----------
    stack
        Stack of volumes (k, z, y, x), or of images (k, y, x); two or more. Every other array is
        a volume or an image as these are.
    average
        Average of all of them, (z, y, x), where it was computed before.
    templates
        Volumes that a wrong particle may hold, (z, y, x) or with one dim before; any contrast.
        One that is like the average itself is left out.
    angles
        Degrees between neighbours of the grid of rotations, of images about z alone; None for no
        rotated rivals.
    other
        Whether a second kind of particle is looked for.
    mask
        Where the object is, (z, y, x), from 0 to 1; found from the data by default.
    wedge
        Range of tilts (from, to) in degrees about y, the beam along z, that a tomogram common to
        all particles was made of (of volumes alone); or the measured frequencies, (z, y, x), as
        ``synthetic.wedge`` gives them: zero is at the first voxel, or at ``n // 2`` where
        ``attrs["layout"]`` is ``"centred"``. Frequencies outside tell nothing.
    fdr
        Part of the flagged that may be right, between 0 and 1 (Benjamini and Hochberg, J. R.
        Stat. Soc. B 57, 1995).

    Returns
    -------
    xarray.Dataset
        Over k: ``mse``, ``rmse``, ``cosine`` and ``ncc`` against the average of the others;
        ``llr``, the logarithm of how much likelier the rivals together are; ``p_value``, the
        probability that a right particle has so high an llr; ``flagged``, where that is low enough
        for ``fdr`` and llr above 0; ``probability`` of being wrong, given how many are;
        ``contrast`` of the reference in it and level of its ``noise``, 1 in a typical one;
        ``best_hypothesis``, a code that its attributes explain, and of a turned one the ``angles``
        (rot, tilt, psi; intrinsic ZYZ, degrees; of images one angle) that turn the average into it
        (RELION's turn the particle into the average: the inverse). NaN voxels, or voxels that are
        all the same, make a particle NaN, and flagged. Where particles have nothing in common,
        llr is 0 and p 1.

    Raises
    ------
    LabelError
        If dims, lengths or options do not fit.

    Notes
    -----
    p-values come from simulating right particles with the noise that was measured, as the fading
    of the box leaves it and as strong as it is among the particles. Few particles
    (some tens) make a poor average: little is flagged then. A rotation by much less than
    ``angles`` is no rival, it is the same particle.

    Examples
    --------
    >>> import lazyvol as lv
    >>> stack = lv.synthetic.particles((16, 16, 16), 60, sigma=1.5, tilted=0.1, radius=3, seed=1)
    >>> found = lv.scores.screen(stack).compute()
    >>> int(found.flagged.sum()), int((found.flagged & stack.tilted).sum())
    (6, 6)
    """
    particles = stack = particles_of(stack)
    if "z" not in stack.dims:
        average, templates, mask, wedge = _slices(stack, average, templates, mask, wedge)
        stack = _slice(stack).transpose(STACK, *SPATIAL)
    if not 0 < fdr < 1:
        raise LabelError(f"fdr is a part between 0 and 1, got {fdr=}")
    band = _band(stack)
    given = screen_kernels.Given(
        _templates(templates, stack, band),
        _on_cube(mask, stack, band),
        _measured(wedge, stack, band),
    )
    turns = _turns(angles, band.planar)
    read = _read(stack, average, None if mask is None else mask > 0, band)
    n = stack.sizes[STACK]
    table = blockwise(
        partial(screen_kernels.screened, given=given, band=band, turns=turns, other=other,
                rate=fdr),
        read["rows"], core=(STACK, "number"), out=(STACK, "column"),
        sizes={"column": len(screen_kernels.COLUMNS)}, dtype=np.dtype(np.float64),
        scratch=screen_kernels.memory(n, len(given.templates), turns, band) / (n * band.size),
        title="hypotheses",
    )  # fmt: skip
    found = fold(_columns(band.planar), table, dims=("column",), title="screen")
    plain = {name: read[name] for name in PLAIN}
    columns = {**plain, **{name: _bare(found[name], particles) for name in found}}
    free = {name: c.drop_vars(list(columns), errors="ignore") for name, c in columns.items()}
    return _told(xr.Dataset(free), len(given.templates), band)


def particles_of(stack: xr.DataArray) -> xr.DataArray:
    """A stack as (k, z, y, x) or (k, y, x); refused where it is none that can be screened."""
    dims = spatial_dims(require_stack(stack))
    if set(dims) not in ({*SPATIAL}, {*IMAGE}) or set(stack.dims) != {STACK, *dims}:
        raise LabelError(
            f"particles to screen have dims {(STACK, *SPATIAL)} or {(STACK, *IMAGE)}, got "
            f"{stack.dims}; select or rename dims, or stack the files with open"
        )
    if stack.sizes[STACK] < 2:
        raise LabelError(f"a screening compares two or more particles, got {stack.sizes[STACK]}")
    if min(stack.sizes[d] for d in dims) < 4:
        raise LabelError(
            f"a screening needs 4 or more voxels along each of {dims}, got {dict(stack.sizes)}"
        )
    if stack.dtype.kind == "c":
        raise LabelError(f"particles to screen are real, got dtype={stack.dtype}")
    return stack.transpose(STACK, *dims)


def _slices(
    stack: xr.DataArray,
    average: xr.DataArray | None,
    templates: xr.DataArray | None,
    mask: xr.DataArray | None,
    wedge: Wedge | None,
) -> tuple[xr.DataArray | None, xr.DataArray | None, xr.DataArray | None, Wedge | None]:
    """Options of images as those of volumes of one slice."""
    if not (wedge is None or isinstance(wedge, xr.DataArray)):
        raise LabelError(
            f"wedge must be None or a mask of frequencies for images, got {wedge=}; a range of "
            f"tilts is of volumes"
        )
    given = {"average": average, "templates": templates, "mask": mask, "wedge": wedge}
    for name, image in given.items():
        if image is None:
            continue
        require_stack(image)
        if not set(IMAGE) <= set(image.dims) or "z" in image.dims:
            raise LabelError(
                f"{name} must have the dims {IMAGE} of the images, got {image.dims}; select or "
                f"rename dims"
            )
        require_same_grid(stack, image)
    average, templates, mask, wedge = (
        None if image is None else _slice(image) for image in given.values()
    )
    return average, templates, mask, wedge


def _slice(image: xr.DataArray) -> xr.DataArray:
    """Images as volumes of one slice, without the place along z that they may come from."""
    return image.drop_vars("z", errors="ignore").expand_dims("z")


def _band(stack: xr.DataArray) -> Band:
    numbers = min(NUMBERS, SPECTRA // (4 * stack.sizes[STACK]))
    shape, step = zip(*((stack.sizes[d], spacing(stack, d)) for d in SPATIAL), strict=True)
    return fourier_coefficients.band_of(shape, step, max(64, numbers))


def _turns(angles: float | None, planar: bool) -> int:
    if angles is None:
        return 0
    if not 5 <= angles <= 180:
        raise LabelError(f"angles between rotations are from 5 to 180 degrees, got {angles=}")
    if planar:
        return ceil(360 / angles - 1e-9) - 1
    return ceil(8 * pi**2 / radians(angles) ** 3)


def _read(
    stack: xr.DataArray, average: xr.DataArray | None, inside: xr.DataArray | None, band: Band
) -> dict[str, xr.DataArray]:
    """Plain scores and spectra of all particles, in one read."""
    against = "average" if average is None else average
    asked = comparison(PLAIN, stack, against, SPATIAL, inside, True)
    count, places = len(asked.operands), _places(stack)
    both = joint_fold(
        (asked.fold, range(count)),
        (_spectra(band), (0, *range(count, count + len(places)))),
    )
    read = fold(both, *asked.operands, *places, dims=asked.dims, title="scores-spectra")
    return read | asked.labelled(read)


def _spectra(band: Band) -> Fold:
    z, y, x = band.cube
    single = np.dtype(np.float32)
    return Fold(
        start=partial(fourier_coefficients.start, band=band),
        update=partial(fourier_coefficients.update, band=band),
        combine=fourier_coefficients.combine,
        finish=partial(fourier_coefficients.finish, band=band, dtype=single),
        outputs={"rows": Output(single, ("number",), (band.size,))},
        state_bytes=8 * z * y * (x // 2 + 1) + 8,
        finish_bytes=16 * band.size + 8,
    )


def _places(stack: xr.DataArray) -> list[xr.DataArray]:
    """Number of each voxel along each spatial dim."""
    return [xr.DataArray(np.arange(stack.sizes[d]), dims=(d,)) for d in SPATIAL]


def _columns(planar: bool) -> Fold:
    """Columns of the table as arrays of their own, out of one task."""
    double = np.dtype(np.float64)
    outputs = {c: Output(TYPES.get(c, double)) for c in screen_kernels.FACTS}
    euler = ((), ()) if planar else (("angle",), (len(screen_kernels.ANGLES),))
    outputs["angles"] = Output(double, *euler)
    return Fold(
        start=screen_kernels.start, update=screen_kernels.update, combine=screen_kernels.combine,
        finish=partial(screen_kernels.finish, planar=planar), outputs=outputs,
        state_bytes=8 * len(screen_kernels.COLUMNS), finish_bytes=16 * len(screen_kernels.COLUMNS),
    )  # fmt: skip


def _rows_of(volumes: Any, band: Band) -> Any:
    """Spectra of a few volumes in memory."""
    state = fourier_coefficients.start(volumes.shape[:1], band=band)
    fourier_coefficients.update(
        state, (1, 2, 3), volumes, *(np.arange(n) for n in band.shape), band=band
    )
    return fourier_coefficients.finish(state, band=band, dtype=np.dtype(np.float32))["rows"]


def _templates(templates: xr.DataArray | None, stack: xr.DataArray, band: Band) -> Any:
    if templates is None:
        return np.empty((0, band.size), np.float32)
    _require_volume("templates", templates, stack, extra=1)
    lead = [d for d in templates.dims if d not in SPATIAL]
    values = templates.transpose(*lead, *SPATIAL).values
    if not np.isfinite(values).all():
        raise LabelError("templates hold voxels that are not finite; fill them (fillna)")
    return _rows_of(values.reshape(-1, *band.shape), band)


def _on_cube(mask: xr.DataArray | None, stack: xr.DataArray, band: Band) -> Any:
    """A mask at the coarser places of the spectra."""
    if mask is None:
        return None
    _require_volume("mask", mask, stack)
    places = {
        d: np.clip(np.rint((np.arange(m) - m // 2) * (n / m) + n // 2).astype(int), 0, n - 1)
        for d, m, n in zip(SPATIAL, band.cube, band.shape, strict=True)
    }
    values = np.asarray(mask.transpose(*SPATIAL).isel(places).values, np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and 0 < values.max() <= 1):
        raise LabelError(
            f"a mask is from 0 to 1 and not empty, got values from {values.min():g} to "
            f"{values.max():g}"
        )
    return values


def _measured(wedge: Wedge | None, stack: xr.DataArray, band: Band) -> Any:
    """Which frequencies of the band were measured."""
    if wedge is None:
        return None
    if isinstance(wedge, xr.DataArray):
        _require_volume("wedge", wedge, stack)
        centred = wedge.attrs.get("layout", "fft") == "centred"
        middle = np.array(band.shape) // 2 if centred else 0
        at = (band.index + middle) % np.array(band.shape)
        return np.asarray(wedge.transpose(*SPATIAL).values)[tuple(at.T)] > 0.5
    low, high = (float(a) for a in wedge)
    if not -90 <= low < high <= 90:
        raise LabelError(f"wedge is a range of tilts from -90 to 90 degrees, got {wedge=}")
    z, _, x = band.frequency.T
    tilt = np.degrees(np.arctan2(z * np.where(x < 0, -1, 1), np.abs(x)))
    return ((tilt >= low) & (tilt <= high)) | ((z == 0) & (x == 0))


def _require_volume(name: str, volume: xr.DataArray, stack: xr.DataArray, extra: int = 0) -> None:
    require_stack(volume)
    more = [d for d in volume.dims if d not in SPATIAL]
    if not set(SPATIAL) <= set(volume.dims) or len(more) > extra or STACK in more:
        raise LabelError(
            f"{name} has the dims {SPATIAL}{' and one more' if extra else ''}, got {volume.dims}"
        )
    require_same_grid(stack, volume)


def _bare(column: xr.DataArray, stack: xr.DataArray) -> xr.DataArray:
    """A column with the coordinates of the particles and no unit."""
    attrs = {name: value for name, value in stack.attrs.items() if name != "units"}
    coords = {n: c for n, c in stack.coords.items() if set(c.dims) <= {STACK}}
    column.attrs = {str(name): value for name, value in attrs.items()}
    return column.assign_coords(coords)


def _told(found: xr.Dataset, templates: int, band: Band) -> xr.Dataset:
    names = (*MEANINGS, *(f"template_{n}" for n in range(templates)))
    found["best_hypothesis"].attrs |= {
        "flag_values": list(range(len(names))), "flag_meanings": " ".join(names)
    }  # fmt: skip
    found["angles"].attrs["units"] = "degree"
    if "angle" in found.dims:
        found = found.assign_coords(angle=list(screen_kernels.ANGLES))
    return found.assign_attrs(highest_frequency=band.limit)
