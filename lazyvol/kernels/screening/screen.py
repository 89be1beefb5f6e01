"""Screening of particles: from spectra to a table of likelihood ratios, p-values and flags.

``reference`` estimates the common volume of the particles, ``hypotheses`` the alternatives,
``mixture`` weighs them, and ``p_values`` makes p-values and applies the false discovery rate.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening import misalignment, p_values, reference, wedge_search
from lazyvol.kernels.screening.flags import flag
from lazyvol.kernels.screening.fourier_coefficients import Band, near_one, to_spectra, to_volumes
from lazyvol.kernels.screening.fourier_rotation import in_plane, rotations
from lazyvol.kernels.screening.hypotheses import (
    CONSISTENT,
    EMPTY,
    EQUIVALENT,
    ROTATED,
    SECOND_CLASS,
    SHIFTED,
    Hypotheses,
    Poses,
    compare,
    distinct_poses,
    find_second_class,
)
from lazyvol.kernels.screening.measured import Measured, to_model
from lazyvol.kernels.screening.mixture import (
    Mixture,
    contrast_variance,
    expected_contrast,
    weight_folds,
)
from lazyvol.kernels.screening.products import Products
from lazyvol.kernels.screening.reasons import Reason, reasons_of
from lazyvol.kernels.screening.reference import References
from lazyvol.kernels.screening.residual import Residual, frequencies_beside, residual
from lazyvol.kernels.screening.steps import Each, none_kept, once
from lazyvol.kernels.screening.table import ANGLES, COLUMNS, SHIFTS

Array = np.ndarray[Any, np.dtype[Any]]

#: rounds of estimating references, each without the particles that look inconsistent
ROUNDS = 3
#: imagined particles of the mixture's prior: for all rotations together, for all shifts together,
#: for each other hypothesis
POSE_PRIOR, HYPOTHESIS_PRIOR = {ROTATED: 5.0, SHIFTED: 1.0}, 1.0
#: least Wiener gain of the reference at a frequency that is used
LEAST_GAIN = 0.02
#: standard errors by which particles must contain the references estimated from other particles
CONFIRMED = 3.0
#: norm, as a part of the median, below which a spectrum is that of a constant volume
FLAT = 1e-4
WEDGE_UNCLEAR = (
    "screen: the measured frequencies of the particles are not as stated, or differ and were not "
    "found, so that no second class was searched for; pass wedge= and orientations= as they were "
    "measured"
)


@dataclass(frozen=True)
class Evidence:
    """Input of the caller: spectra of templates, a mask on the coarse grid.

    ``find_wedges``: search for the frequencies that were not measured.
    """

    templates: Array
    mask: Array | None = None
    find_wedges: bool = False


@dataclass(frozen=True)
class _Fit:
    """The hypotheses and mixture of one round.

    Of the last also ``p_values.noise_covariance``, and reasons for particles with ratios above 0.
    """

    hypotheses: Hypotheses
    mixture: Mixture
    covariance: Array = field(default_factory=lambda: np.empty(0))
    reasons: dict[int, Reason] = field(default_factory=dict)


@dataclass(frozen=True)
class _Whitened:
    """Particles' whitened spectra (``data``) at the ``selected`` frequencies.

    ``columns`` are the numbers of the selected frequencies in a spectrum, ``measured`` their
    weights, ``weight`` is the probability that each particle is consistent.
    """

    data: Array
    selected: Array
    columns: Array
    whitening: Array
    measured: Measured
    weight: Array
    band: Band

    @classmethod
    def of(
        cls, spectra: Array, noise_level: Array, weight: Array, measured: Measured,
        references: References, band: Band,
    ) -> "_Whitened":  # fmt: skip
        """Divide spectra by the amplitude of their noise, at frequencies with signal."""
        selected = np.flatnonzero(references.gain > LEAST_GAIN)
        columns = np.concatenate([selected, selected + len(references.noise)])
        whitening = 1 / np.sqrt(np.tile(references.bounded_noise[selected], 2))
        whitening, measured = whitening.astype(np.float32), measured.at(selected)
        data = np.take(spectra, columns, axis=1)  # row-major: 6 times faster products
        for batch, shown in measured.shown(data):
            data[batch] = shown * (whitening / noise_level[batch, None].astype(np.float32))
        return cls(data, selected, columns, whitening, measured, weight, band)

    def of_volumes(self, volumes: Array) -> Array:
        """Whitened spectra of volumes on the coarse grid, in float64."""
        return to_spectra(volumes, self.band)[..., self.columns] * self.whitening

    def products(self, spectra: Array, references: Array) -> Products:
        """Inner products of the particles with (fold, hypothesis, number)."""
        return Products.of(self.data, self.measured, spectra, references)


def screen_spectra(
    spectra: Array, *blocks: Array, evidence: Evidence, band: Band, n_rotations: int,
    second_class: bool, fdr: float, keeping: Callable[..., Each] = none_kept,
) -> Array:  # fmt: skip
    """Return (particle, column) for the spectra of all particles.

    ``blocks`` of weights of the frequencies, (particle or 1, frequency), are steps in one byte
    (``Measured``) or transfer functions; without them all were measured. Particles with numbers
    that are not finite, and constant ones, are NaN and flagged. ``keeping(*inputs)`` returns the
    steps that may be kept of a computation with some inputs.
    """
    spectra, weights = spectra.reshape(len(spectra), -1), [b.reshape(len(b), -1) for b in blocks]
    table = np.full((len(spectra), len(COLUMNS)), np.nan)
    table[:, COLUMNS.index("flagged")] = 1.0
    table[:, COLUMNS.index("best_hypothesis")] = EMPTY
    table[:, COLUMNS.index("wedge")] = wedge_search.NONE
    informative = _is_informative(spectra)
    if np.count_nonzero(informative) >= 2:
        kept = near_one(spectra if informative.all() else spectra[informative])
        of_kept = [w[informative] if len(w) > 1 else w for w in weights]
        each = keeping(kept, *of_kept)

        def fitted() -> dict[str, Array]:
            spectra, measured, code = _measured(kept, of_kept, evidence, band)
            searched = second_class and not (code == wedge_search.UNCLEAR).any()
            fit, noise_level = _run_rounds(
                spectra, measured, evidence, band, n_rotations, searched, each
            )
            rows = _table(fit, noise_level, band.planar)
            rows[:, COLUMNS.index("measured")] = measured.fractions()
            rows[:, COLUMNS.index("wedge")] = code
            model = {} if fit is None else p_values.model_of(fit.mixture, fit.covariance)
            return {"rows": rows, **model}

        found = once(each, "fit", fitted)
        rows = found["rows"].copy()
        if "mean" in found:
            flag(rows, found, fdr, each)
        table[informative] = rows
    return table


def _measured(
    spectra: Array, weights: Sequence[Array], evidence: Evidence, band: Band
) -> tuple[Array, Measured, Array]:
    """Return spectra that follow the model of ``measured``, their weights, and codes of wedges."""
    code = np.full(len(spectra), wedge_search.NONE)
    if evidence.find_wedges:
        measured, code = wedge_search.find(spectra, band)
    elif weights and weights[0].dtype == np.uint8:
        measured = Measured(weights[0])
    elif weights:
        spectra, measured = to_model(spectra, weights[0], band)
    else:
        return spectra, Measured.everywhere(len(band.index)), code
    if weights:
        code[:] = wedge_search.GIVEN
        if wedge_search.fills_gaps(spectra, measured, band):
            code[:] = wedge_search.UNCLEAR
    if (code == wedge_search.UNCLEAR).any():
        warnings.warn(WEDGE_UNCLEAR, RuntimeWarning, stacklevel=2)
    return spectra, measured, code


def _is_informative(spectra: Array) -> Array:
    """Return True for each spectrum that is finite and not that of a constant volume."""
    power = np.einsum("kn,kn->k", spectra, spectra, dtype=np.float64)
    finite = np.isfinite(power)
    typical = np.median(power[finite]) if finite.any() else 0.0
    informative: Array = finite & (power > FLAT**2 * typical)
    return informative


def _run_rounds(
    spectra: Array, measured: Measured, evidence: Evidence, band: Band, n_rotations: int,
    second_class: bool, each: Each,
) -> tuple[_Fit | None, Array]:  # fmt: skip
    """Return the fit of the last round, None if particles share no signal, and noise levels."""
    weight = noise_level = np.ones(len(spectra))
    spread = in_plane if band.planar else rotations
    grid = Poses.grid(spread(n_rotations) if n_rotations else np.empty((0, 3, 3)), band)

    def fitted(number: int) -> tuple[_Fit | None, Array]:
        return _fit_round(
            number, spectra, weight, noise_level, measured, evidence, band, grid, second_class, each
        )

    def weighed(number: int) -> dict[str, Array]:
        fit, levels = fitted(number)
        found = np.empty(0) if fit is None else _reference_weight(fit.mixture.probability[:, 0])
        return {"weight": found, "noise level": levels}

    for found in each("rounds", ROUNDS - 1, weighed):
        weight, noise_level = found["weight"], found["noise level"]
        if not weight.size:
            return None, noise_level
    return fitted(ROUNDS - 1)


def _fit_round(
    number: int, spectra: Array, weight: Array, noise_level: Array, measured: Measured,
    evidence: Evidence, band: Band, grid: Poses, second_class: bool, each: Each,
) -> tuple[_Fit | None, Array]:  # fmt: skip
    """Return the fit of one round, None if particles share no signal, and noise levels."""
    folds = reference.cross_validation_folds(len(spectra))
    references = reference.estimate(spectra, weight, noise_level, folds, measured, band)
    if number == 0:
        noise_level = reference.noise_levels(spectra, references.noise, measured)
        references = reference.estimate(spectra, weight, noise_level, folds, measured, band)
    if not references.signal.any():
        return None, noise_level
    whitened = _Whitened.of(spectra, noise_level, weight, measured, references, band)
    hypotheses, products = _compare(whitened, references, evidence, grid, each)
    rest = _residual(whitened, hypotheses, references)
    fit = _fit_mixture(hypotheses, products, rest, weight, noise_level)
    if fit is None:
        return None, noise_level
    fit = _with_misalignments(fit, whitened)
    if second_class and number > 0:
        fit = _with_second_class(fit, whitened, references, each)
    if number == ROUNDS - 1:
        fit = _with_covariance(fit, whitened, references, each)
        fit = _with_reasons(fit, whitened, references, each)
    return fit, noise_level


def _compare(
    whitened: _Whitened, references: References, evidence: Evidence, grid: Poses, each: Each
) -> tuple[Hypotheses, Products]:
    """Return the hypotheses from references and the grid of poses, and their products."""
    band, selected, whitening = whitened.band, whitened.selected, whitened.whitening
    volumes = _masked_references(whitened, references, evidence.mask)
    distinct = distinct_poses(volumes[1:3], grid, whitening, selected, band, each)
    templates = _scaled_templates(whitened, evidence.templates, volumes[0])
    of_all_and_folds = np.delete(volumes, (1, 2), axis=0)
    return compare(
        whitened.data, of_all_and_folds, distinct, templates, whitening, selected,
        whitened.measured, band, each,
    )  # fmt: skip


def _residual(whitened: _Whitened, hypotheses: Hypotheses, references: References) -> Residual:
    """Return what particles hold besides the references."""
    selected = whitened.selected
    return residual(
        whitened.data, whitened.measured, hypotheses.references, hypotheses.derivatives,
        references.signal[selected] / references.bounded_noise[selected], whitened.weight,
        frequencies_beside(selected, references.coverage, whitened.band),
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
    spectra = whitened.of_volumes(fold_volumes).astype(np.float32)
    products, weight = whitened.products(spectra[:, None], spectra), whitened.weight
    overlap, energy = float(weight @ products.t[:, 0]), float(weight @ products.q[:, 0])
    return max(overlap, 0.0) ** 2 / max(energy, 1e-300)


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
    hypotheses: Hypotheses, products: Products, rest: Residual, weight: Array, noise_level: Array
) -> _Fit | None:
    """Scale hypotheses to the contrast of the particles and fit the mixture.

    Return None if particles do not contain the references estimated from the other particles.
    """
    t, q = products.t[:, 0], products.q[:, 0]
    contrast = expected_contrast(t, q, weight, noise_level)
    overlap = (weight * contrast * t).sum()
    energy = (weight * contrast**2 * q).sum()
    if overlap < CONFIRMED * np.sqrt(energy):
        return None
    strength = float(overlap / energy)
    hypotheses.spectra *= np.float32(strength)
    hypotheses.references *= np.float32(strength)
    hypotheses.derivatives *= np.float32(strength)
    products = products.scaled(strength)
    t, q = products.t[:, 0], products.q[:, 0]
    variance = contrast_variance(t / contrast, q, weight, contrast)
    prior = np.full(len(hypotheses.kind) + 1, HYPOTHESIS_PRIOR)
    for kind, particles in POSE_PRIOR.items():
        of_kind = np.flatnonzero(hypotheses.kind == kind)
        prior[of_kind] = particles / max(1, len(of_kind))
    prior[0] = 0.0
    return _Fit(hypotheses, Mixture.fit(products, rest, contrast, variance, 0 * contrast, prior))


def _with_misalignments(fit: _Fit, whitened: _Whitened) -> _Fit:
    """Return the fit with small misalignments as part of the first hypothesis."""
    hypotheses, mixture = fit.hypotheses, fit.mixture
    allowance = misalignment.allowance(
        whitened.data, whitened.measured, hypotheses.references, hypotheses.derivatives,
        mixture.contrast, mixture.probability[:, 0],
    )  # fmt: skip
    return _Fit(hypotheses, mixture.refitted(mixture.products, allowance, mixture.prior))


def _with_second_class(fit: _Fit, whitened: _Whitened, references: References, each: Each) -> _Fit:
    """Return the fit with a second class of particles as a hypothesis, if there is one."""
    hypotheses, mixture = fit.hypotheses, fit.mixture
    data, contrast = whitened.data, mixture.contrast
    even = data if (contrast == 1).all() else data / contrast.astype(np.float32)[:, None]
    selected = whitened.selected
    snr = np.tile(references.signal[selected] / references.bounded_noise[selected], 2)
    weights = mixture.weights[weight_folds(len(data))]

    def search() -> dict[str, Array]:
        means = find_second_class(
            even, hypotheses.references, mixture.logs, weights, snr, whitened.measured,
            mixture.contrast_variance,
        )  # fmt: skip
        return {} if means is None else {"means": means}

    means = once(each, "second class", search).get("means")
    if means is None:
        return fit
    extended = Hypotheses(
        np.r_[hypotheses.kind, SECOND_CLASS],
        hypotheses.poses,
        np.concatenate([hypotheses.spectra, means.mean(0, keepdims=True)]),
        hypotheses.references,
        hypotheses.derivatives,
        hypotheses.reference,
        means,
    )
    of_class = whitened.products(means[:, None], hypotheses.references)
    products = Products.joined([mixture.products, of_class])
    prior = np.r_[mixture.prior, HYPOTHESIS_PRIOR]
    return _Fit(extended, mixture.refitted(products, mixture.allowance, prior))


def _reference_weight(consistent: Array) -> Array:
    """Return the weight of each particle in the next references, from its probability.

    Only particles below 0.5 lose weight: weighting all particles by their fit to a reference
    would reinforce the noise in it.
    """
    return np.where(consistent < 0.5, consistent, 1.0)


def _with_covariance(fit: _Fit, whitened: _Whitened, references: References, each: Each) -> _Fit:
    """Return the fit with the covariance that p-values are simulated from."""
    covariance = once(each, "covariance", lambda: {"noise": p_values.noise_covariance(
        fit.hypotheses.spectra, fit.mixture.products.q, references.noise, references.coverage,
        whitened.whitening, whitened.columns, whitened.band,
    )})  # fmt: skip
    return _Fit(fit.hypotheses, fit.mixture, covariance["noise"])


def _with_reasons(fit: _Fit, whitened: _Whitened, references: References, each: Each) -> _Fit:
    """Return the fit with reasons for the particles that an alternative explains better."""
    selected = whitened.selected
    snr = references.signal[selected] / references.bounded_noise[selected]
    phase = 2 * np.pi * whitened.band.frequency[selected] * np.abs(whitened.band.spacing)
    reasons = reasons_of(
        np.flatnonzero(fit.mixture.ratios > 0), whitened.data, whitened.measured, fit.hypotheses,
        fit.mixture, snr, phase, each,
    )  # fmt: skip
    return _Fit(fit.hypotheses, fit.mixture, fit.covariance, reasons)


def _table(fit: _Fit | None, noise_level: Array, planar: bool) -> Array:
    """Return (particle, column); without a shared signal ratios are 0 and p-values 1.

    Else p-values and flags are missing, and the best hypothesis is the best alternative.
    """
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
    column["probability"][:] = 1 - mixture.probability[:, 0]
    products = mixture.products
    column["contrast"][:] = products.t[:, 0] / np.maximum(products.q[:, 0], 1e-300)
    _add_best_hypothesis(fit, column, planar)
    return table


def _add_best_hypothesis(fit: _Fit, column: dict[str, Array], planar: bool) -> None:
    """Fill in the best hypothesis of each particle, and the best pose if that explains it."""
    column["best_hypothesis"][:] = CONSISTENT
    for k, reason in fit.reasons.items():
        column["best_hypothesis"][k] = reason.kind
        if reason.kind in (ROTATED, SHIFTED):
            angles = _euler_angles(reason.rotation[None, ::-1, ::-1], planar)[:, 0]
            pose = zip((*ANGLES, *SHIFTS), (*angles, *reason.shift), strict=True)
            for name, value in pose:
                column[name][k] = value


def _euler_angles(matrices_xyz: Array, planar: bool) -> Array:
    """Return rot, tilt and psi in degrees; for images rot alone, as scipy warns at tilt 0."""
    rotation = Rotation.from_matrix(matrices_xyz)
    if not planar:
        return np.asarray(rotation.as_euler("ZYZ", degrees=True, suppress_warnings=True)).T
    rot = rotation.as_rotvec(degrees=True)[:, 2]
    return np.stack([rot, np.zeros_like(rot), np.zeros_like(rot)])
