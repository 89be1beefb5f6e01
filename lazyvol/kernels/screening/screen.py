"""Screening of particles: from spectra to a table of likelihood ratios, p-values and flags.

``reference`` estimates the common volume of the particles, ``hypotheses`` the alternatives,
``mixture`` weighs them, and ``p_values`` makes p-values and applies the false discovery rate.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening import p_values, reference
from lazyvol.kernels.screening.fourier_coefficients import Band, to_spectra, to_volumes
from lazyvol.kernels.screening.fourier_rotation import in_plane, rotations
from lazyvol.kernels.screening.hypotheses import (
    CONSISTENT,
    EMPTY,
    EQUIVALENT,
    ROTATED,
    ROTATION_BATCH,
    SECOND_CLASS,
    Hypotheses,
    compare,
    distinct_rotations,
    find_second_class,
    fold_products,
)
from lazyvol.kernels.screening.mixture import Mixture, weight_folds
from lazyvol.kernels.screening.reference import References

Array = np.ndarray[Any, np.dtype[Any]]

#: columns of the table, and the Euler angles that rotate the reference into the particle
RESULTS = ("llr", "p_value", "flagged", "probability", "contrast", "noise", "best_hypothesis")
ANGLES = ("rot", "tilt", "psi")
COLUMNS = (*RESULTS, *ANGLES)
#: rounds of estimating references, each without the particles that look inconsistent
ROUNDS = 3
#: imagined particles of the mixture's prior: for all rotations together, for each other hypothesis
ROTATION_PRIOR, HYPOTHESIS_PRIOR = 5.0, 1.0
#: least Wiener gain of the reference at a frequency that is used
LEAST_GAIN = 0.02
#: standard errors by which particles must contain the references estimated from other particles
CONFIRMED = 3.0
#: largest relative variance of contrasts
MAX_CONTRAST_VARIANCE = 0.25
#: norm, as a part of the median, below which a spectrum is that of a constant volume
FLAT = 1e-4


@dataclass(frozen=True)
class Evidence:
    """Input of the caller: spectra of templates, a mask on the coarse grid, frequencies."""

    templates: Array
    mask: Array | None = None
    measured: Array | None = None


@dataclass(frozen=True)
class _Fit:
    """The hypotheses and mixture of one round, and ``p_values.noise_products`` of the last."""

    hypotheses: Hypotheses
    mixture: Mixture
    products: tuple[Array, Array] = (np.empty(0), np.empty(0))


@dataclass(frozen=True)
class _Whitened:
    """Particles' whitened spectra (``data``) at the ``selected`` frequencies, and their folds.

    ``columns`` are the numbers of the selected frequencies in a spectrum, ``weight`` is the
    probability that each particle is consistent.
    """

    data: Array
    selected: Array
    columns: Array
    whitening: Array
    folds: Array
    weight: Array
    band: Band

    @classmethod
    def of(
        cls, spectra: Array, noise_level: Array, weight: Array, folds: Array,
        references: References, band: Band,
    ) -> "_Whitened":  # fmt: skip
        """Divide spectra by the amplitude of their noise, at frequencies with signal."""
        selected = np.flatnonzero(references.gain > LEAST_GAIN)
        columns = np.concatenate([selected, selected + len(references.noise)])
        whitening = 1 / np.sqrt(np.tile(references.bounded_noise[selected], 2))
        whitening = whitening.astype(np.float32)
        data = np.take(spectra, columns, axis=1)  # row-major: 6 times faster products
        data *= whitening
        data /= noise_level[:, None].astype(np.float32)
        return cls(data, selected, columns, whitening, folds, weight, band)

    def of_volumes(self, volumes: Array) -> Array:
        """Whitened spectra of volumes on the coarse grid, in float64."""
        return to_spectra(volumes, self.band)[..., self.columns] * self.whitening


def screen_spectra(
    spectra: Array, evidence: Evidence, *, band: Band, n_rotations: int, second_class: bool,
    fdr: float,
) -> Array:  # fmt: skip
    """Return (particle, column) for the spectra of all particles.

    Particles with numbers that are not finite, and constant ones, are NaN and flagged.
    """
    table = np.full((len(spectra), len(COLUMNS)), np.nan)
    table[:, COLUMNS.index("flagged")] = 1.0
    table[:, COLUMNS.index("best_hypothesis")] = EMPTY
    informative = _is_informative(spectra)
    if np.count_nonzero(informative) >= 2:
        kept = spectra if informative.all() else spectra[informative]
        fit, noise_level = _run_rounds(kept, evidence, band, n_rotations, second_class)
        table[informative] = _table(fit, noise_level, fdr, band.planar)
    return table


def _is_informative(spectra: Array) -> Array:
    """Return True for each spectrum that is finite and not that of a constant volume."""
    power = np.einsum("kn,kn->k", spectra, spectra, dtype=np.float64)
    finite = np.isfinite(power)
    typical = np.median(power[finite]) if finite.any() else 0.0
    informative: Array = finite & (power > FLAT**2 * typical)
    return informative


def _run_rounds(
    spectra: Array, evidence: Evidence, band: Band, n_rotations: int, second_class: bool
) -> tuple[_Fit | None, Array]:
    """Return the fit of the last round, None if particles share no signal, and noise levels."""
    n = len(spectra)
    folds, weight = reference.cross_validation_folds(n), np.ones(n)
    noise_level, fit = np.ones(n), None
    spread = in_plane if band.planar else rotations
    grid = spread(n_rotations) if n_rotations else np.empty((0, 3, 3))
    measured = np.ones(len(band.index), bool) if evidence.measured is None else evidence.measured
    for number in range(ROUNDS):
        references = reference.estimate(spectra, weight, noise_level, folds, measured, band)
        if number == 0:
            noise_level = reference.noise_levels(spectra, references.noise, measured)
            references = reference.estimate(spectra, weight, noise_level, folds, measured, band)
        if not references.signal.any():
            return None, noise_level
        whitened = _Whitened.of(spectra, noise_level, weight, folds, references, band)
        fit = _fit_mixture(*_compare(whitened, references, evidence, grid), weight, noise_level)
        if fit is None:
            return None, noise_level
        if second_class and number > 0:
            fit = _with_second_class(fit, whitened, references)
        if number == ROUNDS - 1:
            fit = _with_noise_products(fit, whitened, references)
        weight = _reference_weight(fit.mixture.probability[:, 0])
        del whitened  # as large as all spectra
    return fit, noise_level


def _compare(
    whitened: _Whitened, references: References, evidence: Evidence, grid: Array
) -> tuple[Hypotheses, Array, Array]:
    """Return the hypotheses from references and the grid of rotations, t and q."""
    band, selected, whitening = whitened.band, whitened.selected, whitened.whitening
    volumes = _masked_references(whitened, references, evidence.mask)
    distinct = distinct_rotations(volumes[1:3], grid, whitening, selected, band)
    templates = _scaled_templates(whitened, evidence.templates, volumes[0])
    of_all_and_folds = np.delete(volumes, (1, 2), axis=0)
    return compare(
        whitened.data, whitened.folds, of_all_and_folds, distinct, templates, whitening, selected,
        band,
    )  # fmt: skip


def _masked_references(whitened: _Whitened, references: References, mask: Array | None) -> Array:
    """Return volumes of the references under ``mask``, or under the estimated mask or none.

    Of the last two, the one with which references explain more of the particles they leave out.
    """
    band = whitened.band
    volumes = to_volumes(references.spectra, band)
    masks = [mask] if mask is not None else [np.ones(band.coarse_shape), references.mask]
    masked = [reference.masked(volumes, m, band) for m in masks]
    return max(masked, key=lambda v: _explained(whitened, v[3:]))


def _explained(whitened: _Whitened, fold_volumes: Array) -> float:
    """Return the energy of the particles that the references of their folds explain."""
    spectra = whitened.of_volumes(fold_volumes)
    t = fold_products(whitened.data, spectra[:, None].astype(np.float32))[:, 0]
    q = (spectra**2).sum(1)[whitened.folds]
    weight = whitened.weight
    return float(max((weight * t).sum(), 0) ** 2 / max((weight * q).sum(), 1e-300))


def _scaled_templates(whitened: _Whitened, templates: Array, volume: Array) -> Array:
    """Return spectra of templates with the reference's norm; 0 for those equivalent to it."""
    if not len(templates):
        return np.empty((0, len(whitened.whitening)), np.float32)
    band = whitened.band
    volumes = reference.masked(to_volumes(templates, band), np.ones(band.coarse_shape), band)
    spectra, spectrum = whitened.of_volumes(volumes), whitened.of_volumes(volume)
    norm = np.maximum(np.linalg.norm(spectra, axis=1), 1e-300)
    reference_norm = float(np.linalg.norm(spectrum))
    equivalent = spectra @ spectrum > EQUIVALENT * norm * reference_norm
    spectra *= np.where(equivalent, 0.0, reference_norm / norm)[:, None]
    return np.asarray(spectra, np.float32)


def _fit_mixture(
    hypotheses: Hypotheses, t: Array, q: Array, weight: Array, noise_level: Array
) -> _Fit | None:
    """Scale hypotheses to the contrast of the particles and fit the mixture.

    Return None if particles do not contain the references estimated from the other particles.
    """
    contrast = _expected_contrast(t[:, 0], q[:, 0], weight, noise_level)
    overlap = (weight * contrast * t[:, 0]).sum()
    energy = (weight * contrast**2 * q[:, 0]).sum()
    if overlap < CONFIRMED * np.sqrt(energy):
        return None
    strength = float(overlap / energy)
    hypotheses.spectra *= np.float32(strength)
    hypotheses.references *= np.float32(strength)
    t, q = t * strength, q * strength**2
    variance = _contrast_variance(t[:, 0] / contrast, q[:, 0], weight, contrast)
    rotated = hypotheses.kind == ROTATED
    prior = np.full(len(rotated), HYPOTHESIS_PRIOR)
    prior[rotated] = ROTATION_PRIOR / max(1, rotated.sum())
    prior[0] = 0.0
    return _Fit(hypotheses, Mixture.fit(t, q, contrast, variance, prior))


def _expected_contrast(t: Array, q: Array, weight: Array, noise_level: Array) -> Array:
    """Return the contrast of each particle after division by its noise level.

    Either the signal is equally strong in all particles, or signal and noise were scaled
    together: the one that explains more of the particles.
    """
    equal_signal: Array = np.median(noise_level) / noise_level

    def explained(contrast: Array) -> float:
        return float((weight * contrast * t).sum() ** 2 / (weight * contrast**2 * q).sum())

    equal_contrast = np.ones_like(equal_signal)
    return equal_signal if explained(equal_signal) > explained(equal_contrast) else equal_contrast


def _contrast_variance(t: Array, q: Array, weight: Array, contrast: Array) -> float:
    """Return the relative variance of contrasts about their expectation, beyond that of noise."""
    precision = weight * q**2
    excess = (t / q - 1) ** 2 - 1 / (q * contrast**2)
    variance = (precision * excess).sum() / max(precision.sum(), 1e-300)
    return float(np.clip(variance, 0, MAX_CONTRAST_VARIANCE))


def _with_second_class(fit: _Fit, whitened: _Whitened, references: References) -> _Fit:
    """Return the fit with a second class of particles as a hypothesis, if there is one."""
    hypotheses, mixture = fit.hypotheses, fit.mixture
    data, folds, contrast = whitened.data, whitened.folds, mixture.contrast
    even = data if (contrast == 1).all() else data / contrast.astype(np.float32)[:, None]
    selected = whitened.selected
    snr = np.tile(references.signal[selected] / references.bounded_noise[selected], 2)
    weights = mixture.weights[weight_folds(len(data))]
    means = find_second_class(
        even, hypotheses.references, mixture.logs, weights, snr, folds, mixture.contrast_variance
    )
    if means is None:
        return fit
    extended = Hypotheses(
        np.r_[hypotheses.kind, SECOND_CLASS],
        np.concatenate([hypotheses.rotation, np.eye(3)[None]]),
        np.concatenate([hypotheses.spectra, means.mean(0, keepdims=True)]),
        hypotheses.references,
    )
    t = np.c_[mixture.t, fold_products(data, means[:, None])]
    q = np.c_[mixture.q, (means.astype(np.float64) ** 2).sum(1)[folds]]
    prior = np.r_[mixture.prior, HYPOTHESIS_PRIOR]
    return _Fit(extended, Mixture.fit(t, q, contrast, mixture.contrast_variance, prior))


def _reference_weight(consistent: Array) -> Array:
    """Return the weight of each particle in the next references, from its probability.

    Only particles below 0.5 lose weight: weighting all particles by their fit to a reference
    would reinforce the noise in it.
    """
    return np.where(consistent < 0.5, consistent, 1.0)


def _with_noise_products(fit: _Fit, whitened: _Whitened, references: References) -> _Fit:
    """Return the fit with the means and covariance that p-values are simulated from."""
    products = p_values.noise_products(
        fit.hypotheses.spectra, fit.mixture.q, references.noise, whitened.whitening,
        whitened.columns, whitened.band,
    )  # fmt: skip
    return _Fit(fit.hypotheses, fit.mixture, products)


def _table(fit: _Fit | None, noise_level: Array, fdr: float, planar: bool) -> Array:
    """Return (particle, column); without a shared signal ratios are 0 and p-values 1."""
    table = np.full((len(noise_level), len(COLUMNS)), np.nan)
    column = {name: table[:, n] for n, name in enumerate(COLUMNS)}
    column["noise"][:] = noise_level
    column["flagged"][:] = 0.0
    if fit is None:
        column["llr"][:], column["p_value"][:], column["probability"][:] = 0.0, 1.0, 0.0
        column["best_hypothesis"][:] = CONSISTENT
        return table
    mixture = fit.mixture
    column["llr"][:] = mixture.ratios
    column["p_value"][:] = p_values.p_values(mixture, *fit.products)
    rejected = p_values.benjamini_hochberg(column["p_value"], fdr)
    # an outlier that no alternative explains better is still consistent
    column["flagged"][:] = rejected & (column["llr"] > 0)
    column["probability"][:] = 1 - mixture.probability[:, 0]
    column["contrast"][:] = mixture.t[:, 0] / mixture.q[:, 0]
    _add_best_hypothesis(fit, column, planar)
    return table


def _add_best_hypothesis(fit: _Fit, column: dict[str, Array], planar: bool) -> None:
    """Fill in the most probable kind of hypothesis, and the angles of the best rotation."""
    kinds, probability = fit.hypotheses.kind, fit.mixture.probability
    codes = np.unique(kinds)
    by_kind = np.stack([probability[:, kinds == c].sum(1) for c in codes], axis=1)
    by_kind[column["flagged"] > 0, 0] = 0.0
    column["best_hypothesis"][:] = codes[by_kind.argmax(1)]
    rotated = np.flatnonzero(kinds == ROTATED)
    particles = np.flatnonzero(column["best_hypothesis"] == ROTATED)
    if len(particles):
        best = rotated[probability[np.ix_(particles, rotated)].argmax(1)]
        matrices_xyz = fit.hypotheses.rotation[best][:, ::-1, ::-1]
        for name, angles in zip(ANGLES, _euler_angles(matrices_xyz, planar), strict=True):
            column[name][particles] = angles


def _euler_angles(matrices_xyz: Array, planar: bool) -> Array:
    """Return rot, tilt and psi in degrees; for images rot alone, as scipy warns at tilt 0."""
    rotation = Rotation.from_matrix(matrices_xyz)
    if not planar:
        return np.asarray(rotation.as_euler("ZYZ", degrees=True)).T
    rot = rotation.as_rotvec(degrees=True)[:, 2]
    return np.stack([rot, np.zeros_like(rot), np.zeros_like(rot)])


def memory(n: int, n_templates: int, n_rotations: int, band: Band) -> int:
    """Return the bytes that ``screen_spectra`` takes besides its input, in its largest phase."""
    folds = int(reference.cross_validation_folds(n).max()) + 1
    hypotheses = 4 + n_rotations + n_templates
    lasting = 2.3 * 4 * n * band.size + 8 * hypotheses * 6 * n
    lasting += 4 * band.size * (3 * hypotheses + 2 * ROTATION_BATCH * (folds + 2))
    coarse = int(np.prod(band.coarse_shape))
    padded = 8 * 8 * coarse  # complex64, twice as long along each axis
    squares = 8 * band.size * reference.BATCH
    rotating = (folds + 3) * (3 * padded + 40 * coarse)
    simulating = 8 * hypotheses * (6 * hypotheses + 5 * p_values.DRAWS // 10)
    simulating += 4 * p_values.DRAWS * (int(weight_folds(n).max()) + 8)
    return int(lasting + max(squares, rotating, simulating))


def start(shape: tuple[int, ...]) -> dict[str, Array]:
    """Return an empty table."""
    return {"table": np.zeros((*shape, len(COLUMNS)))}


def update(state: dict[str, Array], axes: tuple[int, ...], block: Array) -> None:
    """Add the whole table to the state."""
    state["table"] += np.moveaxis(block, axes[0], -1)


def combine(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """Add two tables."""
    return {"table": a["table"] + b["table"]}


def finish(state: dict[str, Array], *, planar: bool = False) -> dict[str, Array]:
    """Return the columns by name, Euler angles as one array; for images rot alone."""
    columns = {name: state["table"][..., n] for n, name in enumerate(COLUMNS)}
    angles = [columns.pop(name) for name in ANGLES]
    return {**columns, "angles": angles[0] if planar else np.stack(angles, axis=-1)}
