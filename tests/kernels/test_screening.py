"""Kernels of scores.screen: spectra, rotations, hypotheses, likelihoods and p-values."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening import (
    fourier_coefficients,
    fourier_rotation,
    hypotheses,
    measured,
    mixture,
    p_values,
    reference,
    residual,
)
from lazyvol.kernels.screening import screen as kernel
from lazyvol.kernels.screening.products import Products


@pytest.mark.parametrize(("agreement", "confirmed"), [(0.0, False), (1.0, True)])
def test_references_that_the_particles_do_not_contain_give_no_fit(agreement, confirmed):
    kinds = np.array([hypotheses.CONSISTENT, hypotheses.EMPTY])
    spectra = np.zeros((2, 7), np.float32)
    known = hypotheses.Hypotheses(
        kinds, hypotheses.Poses(np.eye(3)[None], np.zeros((1, 3))), spectra, spectra[:1],
        spectra[:1], None,
    )  # fmt: skip
    t = 3 * np.random.default_rng(0).normal(size=(50, 2)) + 9 * agreement
    q = np.full((50, 2), 9.0)
    ones = np.ones(50)
    rest = residual.Residual(ones, ones[:7], ones, ones, ones, 1.0, ones, 5.0, ones)
    found = kernel._fit_mixture(known, Products(t, q, q), rest, ones, ones)
    assert (found is not None) == confirmed


def test_spectra_match_the_full_fft():
    shape, step = (7, 10, 13), (2.0, 1.5, 1.0)
    band = fourier_coefficients.band_of(shape, step, 10**6)
    x = np.random.default_rng(0).normal(size=(2, *shape)) + 30
    window = np.einsum("i,j,k->ijk", *band.tapers)
    state = fourier_coefficients.start((2,), band=band)
    for z in (slice(0, 3), slice(3, 7)):
        for y in (slice(0, 9), slice(9, 10)):
            positions = np.arange(7)[z], np.arange(10)[y], np.arange(13)
            fourier_coefficients.update(state, (1, 2, 3), x[:, z, y], *positions, band=band)
    coefficients = fourier_coefficients.finish(state, band=band, dtype=np.dtype("f8"))["spectra"]
    level = (x * window).sum((1, 2, 3)) / window.sum()
    full = np.fft.fftn((x - level[:, None, None, None]) * window, axes=(1, 2, 3))
    at = band.index
    phase = np.exp(2j * np.pi * (at * (np.array(shape) // 2) / shape).sum(1))
    expected = full[:, at[:, 0], at[:, 1], at[:, 2]] * phase * np.sqrt(2 / np.prod(shape))
    np.testing.assert_allclose(fourier_coefficients.to_complex(coefficients), expected, atol=2e-4)
    again = fourier_coefficients.to_spectra(
        fourier_coefficients.to_volumes(coefficients, band), band
    )
    np.testing.assert_allclose(again, coefficients, atol=1e-9)


def test_rotations_are_evenly_spread():
    turns = fourier_rotation.rotations(500)
    np.testing.assert_allclose(
        turns @ turns.transpose(0, 2, 1), np.tile(np.eye(3), (500, 1, 1)), atol=1e-9
    )
    np.testing.assert_allclose(np.linalg.det(turns), 1)
    apart = np.degrees(np.arccos(np.clip((np.einsum("aij,bij->ab", turns, turns) - 1) / 2, -1, 1)))
    np.fill_diagonal(apart, 999)
    nearest = apart.min(1)
    assert nearest.min() > 20
    assert nearest.max() < 40


@pytest.mark.parametrize("step", [(1.0, 1.0, 1.0), (1.6, 1.0, -1.3)])
def test_a_rotated_spectrum_is_that_of_the_rotated_object(step):
    shape = tuple(int(26 / abs(d)) for d in step)
    rotation = Rotation.from_rotvec([0.3, 0.9, -0.5]).as_matrix()

    def gaussian(matrix):
        axes = [(np.arange(n) - n // 2) * d for n, d in zip(shape, step, strict=True)]
        place = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ matrix
        return np.exp(-0.5 * ((place - (1, -2, 0.5)) / (1.5, 2.0, 3.0)) ** 2).prod(-1)

    band = fourier_coefficients.band_of(shape, step, 10**6)
    positions = [np.arange(n) for n in shape]
    state = fourier_coefficients.start((2,), band=band)
    objects = np.stack([gaussian(np.eye(3)), gaussian(rotation)])
    fourier_coefficients.update(state, (1, 2, 3), objects, *positions, band=band)
    coefficients = fourier_coefficients.finish(state, band=band, dtype=np.dtype("f8"))["spectra"]
    volumes = fourier_coefficients.to_volumes(coefficients[:1], band)
    volumes = reference.masked(volumes, np.ones(band.coarse_shape), band)
    selected, whitening = np.arange(len(band.index)), np.full(band.size, 0.5)
    rotated = fourier_rotation.RotatedSpectra(volumes, band, selected, whitening)
    interpolated = 2 * rotated.at(rotation)
    assert np.linalg.norm(interpolated[0] - coefficients[1]) < 0.08 * np.linalg.norm(
        coefficients[1]
    )
    assert np.linalg.norm(coefficients[0] - coefficients[1]) > 0.4 * np.linalg.norm(coefficients[1])


def test_equivalent_hypotheses_are_merged():
    angles = np.radians([0, 5, 90, 93, 180, 45])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert sorted(hypotheses.distinct(rows @ rows.T)) in ([1, 3, 4], [2, 3, 4])
    assert len(hypotheses.distinct(np.zeros((3, 3)))) == 0


def test_the_likelihood_integrates_over_contrasts():
    t, q, contrast, variance = 2.3, 3.1, 0.8, 0.2

    def density(a):
        return scipy.stats.norm.pdf(a, contrast, contrast * np.sqrt(variance)) * np.exp(
            a * t - a * a * q / 2
        )

    expected = np.log(scipy.integrate.quad(density, -20, 20)[0])
    logs = mixture.log_likelihood(np.array(t), np.array(q), contrast, variance)
    assert logs == pytest.approx(expected)
    assert mixture.log_likelihood(np.array(t), np.array(q), 1.0, 0.0) == pytest.approx(t - q / 2)


def test_mixture_weights_are_recovered():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 4000, p=(0.7, 0.2, 0.1))
    x = rng.normal(size=(4000, 3)) + 2 * np.eye(3)[truth]
    weights, probability = mixture.fit_weights(2 * x - 2, np.zeros(3), np.arange(4000) % 5)
    np.testing.assert_allclose(weights, np.tile((0.7, 0.2, 0.1), (5, 1)), atol=0.03)
    np.testing.assert_allclose(probability.sum(1), 1)


def test_mixture_weights_of_a_fold_come_from_the_other_folds():
    rng = np.random.default_rng(0)
    logs, prior, folds = 2 * rng.normal(size=(60, 7)), np.full(7, 0.3), np.arange(60) % 4
    weights, probability = mixture.fit_weights(logs, prior, folds)
    changed = logs.copy()
    changed[folds == 2] = 50 * np.eye(7)[3]
    again, _ = mixture.fit_weights(changed, prior, folds)
    np.testing.assert_allclose(again[2], weights[2], rtol=1e-3)  # rounds end by their change
    assert again[1, 3] > weights[1, 3] + 0.1
    joint = np.exp(logs[folds == 2]) * weights[2]
    np.testing.assert_allclose(probability[folds == 2], joint / joint.sum(1, keepdims=True))


def spectra(x, band):
    state = fourier_coefficients.start((len(x),), band=band)
    fourier_coefficients.update(state, (1, 2, 3), x, *(np.arange(n) for n in band.shape), band=band)
    return fourier_coefficients.finish(state, band=band, dtype=np.dtype("f4"))["spectra"]


def test_the_covariance_of_tapered_noise_is_known():
    """Objects near the faces of the box meet less noise, and its frequencies are correlated."""
    shape, rng = (33, 7, 7), np.random.default_rng(3)
    band = fourier_coefficients.band_of(shape, (1.0, 1.0, 1.0), 10**6)
    noise = spectra(rng.normal(size=(20_000, *shape)).astype(np.float32), band).astype(np.float64)
    objects = np.zeros((3, *shape))
    objects[0, :4], objects[1, 9:25], objects[2, 27:] = 1, 1, 1
    rows = spectra(objects, band)
    expected = np.cov(rows.astype(np.float64) @ noise.T)
    tapered = reference.tapered(rows, band).astype(np.float64)
    tolerance = 0.03 * np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(tapered @ tapered.T - expected) < tolerance).all()
    plain = (rows @ rows.T).astype(np.float64)
    assert not (abs(plain * band.tapered_power - expected) < tolerance).all()


def tubes(box, n, wrong, seed):
    """Return tubes along z, the first ``wrong`` of them tilted by 60 to 90 degrees, and an rng."""
    rng, along = np.random.default_rng(seed), np.tile([1.0, 0.0, 0.0], (n, 1))
    tilt, about = np.radians(rng.uniform(60, 90, wrong)), rng.uniform(0, 2 * np.pi, wrong)
    along[:wrong, 0] = np.cos(tilt)
    along[:wrong, 1:] = (np.sin(tilt) * np.stack([np.cos(about), np.sin(about)])).T
    position = np.stack(np.indices((box,) * 3), -1) - box // 2
    height = np.einsum("zyxa,ka->kzyx", position, along)
    radius, size = np.sqrt(np.maximum((position**2).sum(-1) - height**2, 0)), box / 14
    return (radius > 1.2 * size) & (radius < 3.2 * size) & (abs(height) < 5 * size), rng


@pytest.mark.parametrize(("box", "sigma", "wedge"), [(18, 4.0, False), (16, 3.0, True)])
def test_p_values_of_consistent_particles_stay_uniform_next_to_misaligned_ones(box, sigma, wedge):
    """Without corrections small ones were twice as frequent, with a missing wedge four times."""
    band = fourier_coefficients.band_of((box,) * 3, (1.0,) * 3, 10**6)
    z, _, x = np.meshgrid(*[np.fft.fftfreq(box)] * 3, indexing="ij")
    kept = (abs(z) < 1.7 * abs(x)) | (not wedge) | ((z == 0) & (x == 0))
    weights = kept[tuple((band.index % box).T)][None].astype(np.float32)
    evidence = kernel.Evidence(np.empty((0, band.size), np.float32))
    p, flagged = [], []
    for seed in range(3):
        shapes, rng = tubes(box, 200, 20, seed)
        particles = shapes + sigma * rng.normal(size=shapes.shape)
        full = np.fft.fftn(particles, axes=(1, 2, 3))
        particles = np.fft.ifftn(full * kept, axes=(1, 2, 3)).real
        table = kernel.screen_spectra(
            spectra(particles, band), weights, evidence=evidence, band=band, n_rotations=440,
            second_class=True, fdr=0.05,
        )  # fmt: skip
        p.append(table[20:, kernel.COLUMNS.index("p_value")])
        flagged.append(table[:20, kernel.COLUMNS.index("flagged")])
    assert np.mean(flagged) > 0.7
    levels = np.array([0.01, 0.05, 0.1, 0.5])
    small = (np.concatenate(p) < levels[:, None]).mean(1) / levels
    assert (small < [2.2, 1.4, 1.3, 1.1]).all(), small
    assert (small > [0.1, 0.6, 0.7, 0.9]).all(), small


def test_a_consistent_particle_of_low_contrast_is_not_flagged():
    """Its llr is far below that of misaligned ones."""
    band = fourier_coefficients.band_of((14,) * 3, (1.0,) * 3, 10**6)
    shapes, rng = tubes(14, 200, 20, 0)
    strong = shapes.astype(np.float32)
    strong[100] *= 0.6
    table = kernel.screen_spectra(
        spectra(strong + rng.normal(size=shapes.shape), band),
        evidence=kernel.Evidence(np.empty((0, band.size), np.float32)), band=band,
        n_rotations=440, second_class=True, fdr=0.05,
    )  # fmt: skip
    llr, flagged = (table[:, kernel.COLUMNS.index(n)] for n in ("llr", "flagged"))
    assert flagged[:20].all()
    assert llr[100] < 0
    assert not flagged[100]


@pytest.mark.parametrize("excess", [1.0, 0.6])
def test_p_values_match_plain_simulation(excess):
    """Two particles, measured at other frequencies, with mixture weights of their own."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5, 40)) * 0.5
    rows[1] = 0
    noise = np.full(40, excess)
    noise[20:] = 1
    shown = np.ones((2, 40))
    shown[1, ::3] = 0
    shares = np.array([[0.1, 0.3, 0.2, 0.35, 0.05], [0.4, 0.05, 0.05, 0.4, 0.1]])
    drawn, levels = 200_000, np.array([0.05, 0.5, 0.95, 0.999])
    basis = np.eye(5)
    basis[1:, 0] = -1
    for mask, share in zip(shown, shares, strict=True):
        gram = (rows * mask) @ rows.T
        contrast = 1 + np.sqrt(0.05) * rng.normal(size=(drawn, 1))
        t = contrast * gram[0] + rng.normal(size=(drawn, 40)) * np.sqrt(noise) * mask @ rows.T
        weights = np.r_[0.9, 0.1 * share][None]
        logs = mixture.log_likelihood(t, np.diag(gram), 1.0, 0.05)
        logs = np.c_[logs, logs[:, 0] + residual.evidence(rng.normal(size=drawn), 4.0)]
        ratios = mixture.log_ratio(logs, weights)[:, 0]
        covariance = basis @ ((rows * noise * mask) @ rows.T) @ basis.T
        deviation = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        null = p_values.Null(
            np.tile(gram[0], (7, 1)), np.tile(deviation, (7, 1)),
            covariance / np.outer(deviation, deviation),
        )  # fmt: skip
        tested = np.r_[np.quantile(ratios, levels), 20.0, 40.0, 60.0]
        model = np.tile(np.diag(gram), (7, 1)), np.tile(share, (7, 1)), np.ones(7), 0.05, 4.0
        p = p_values.simulated(tested, null, *model, draws=16_000)
        np.testing.assert_allclose(p[:3], 1 - levels[:3], rtol=0.1)
        np.testing.assert_allclose(p[3], 1 - levels[3], rtol=0.3)
        assert 0 < p[5] <= p[4] < 1e-8


def test_benjamini_hochberg_matches_scipy():
    p = np.random.default_rng(2).random(200) ** 3
    expected = scipy.stats.false_discovery_control(p) <= 0.1
    np.testing.assert_array_equal(p_values.benjamini_hochberg(p, 0.1), expected)
    assert not p_values.benjamini_hochberg(np.array([0.5, 0.9]), 0.05).any()
    assert p_values.benjamini_hochberg(np.empty(0), 0.05).size == 0


def test_evidence_integrates_over_additions_of_any_strength():
    def density(raised):
        return scipy.stats.halfnorm.pdf(raised, scale=6.0) * scipy.stats.norm.pdf(score - raised)

    for score in (-2.0, 0.5, 4.0):
        expected = scipy.integrate.quad(density, 0, 60, points=[max(score, 0.0)])[0]
        found = residual.evidence(np.array(score), 6.0)
        assert found == pytest.approx(np.log(expected / scipy.stats.norm.pdf(score)), abs=1e-6)
    assert residual.evidence(np.zeros(1), 1.0) < -100  # one particle cannot show it


def test_residuals_are_standard_normal_but_for_additions():
    """Particles of any contrast, with small misalignments; the first have something else."""
    rng, n, size = np.random.default_rng(0), 600, 300
    rows = rng.normal(size=(7, size)).astype(np.float32)
    coefficients = np.c_[1 + 0.2 * rng.normal(size=n), 0.3 * rng.normal(size=(n, 6))]
    weights = rng.integers(0, 3, (n, size // 2)) * 0.5
    data = coefficients @ rows * np.tile(weights, 2)
    data += np.sqrt(np.tile(weights, 2)) * rng.normal(size=(n, size))
    data[:20] += 1.5 * np.tile(weights[:20], 2) * rng.normal(size=size)
    known, ones = measured.Measured.of(weights), np.ones(n)
    snr = np.full(size // 2, 4.0)
    found = residual.residual(
        data.astype(np.float32),
        known,
        np.stack([rows[0]] * 3),
        np.stack([rows[1:]] * 3),
        snr,
        ones,
        np.arange(size // 2)[:, None],
    )
    assert scipy.stats.kstest(found.score[20:], "norm").pvalue > 0.01
    assert found.score[:20].min() > 3
    assert found.spread > residual.LEAST_SPREAD


def test_fitted_weights_yield_to_the_prior_where_they_explain_nothing_else():
    rng = np.random.default_rng(0)
    logs = np.c_[np.zeros(60), 3 * rng.normal(size=(60, 300)) - 4.5]
    prior = np.r_[0, np.full(300, 1 / 60)]
    weights, probability = mixture.fit_weights(logs, prior, np.arange(60))
    assert weights[:, 0].min() > 0.75
    assert probability[:, 0].mean() > 0.75


def test_residuals_leave_out_frequencies_beside_those_that_were_not_measured():
    band = fourier_coefficients.band_of((9, 9, 9), (1.0,) * 3, 10**6)
    z, _, x = band.index.T
    missing = abs(z) > 2 * abs(x)
    grid = np.zeros((11, 11, 11), bool)
    for sign in (1, -1):
        grid[tuple((sign * band.index + 5).T)] = missing
    touched = scipy.ndimage.binary_dilation(grid)[tuple((band.index + 5).T)]
    for selected, coverage in (
        (np.arange(len(band.index)), np.ones(len(missing))),
        (np.flatnonzero(~missing), ~missing),  # missing in all particles
    ):
        beside = residual.frequencies_beside(selected, coverage, band)
        found = residual.interior((~missing).astype(np.float32)[selected], beside)
        np.testing.assert_array_equal(found, ~touched[selected])
