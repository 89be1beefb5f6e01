"""What scores.screen is made of: spectra, rotations, hypotheses, likelihoods, p-values."""

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
from scipy.spatial.transform import Rotation

from lazyvol.kernels.screening import (
    fourier_coefficients,
    fourier_rotation,
    hypotheses,
    mixture,
    reference,
)
from lazyvol.kernels.screening import screen as kernel


@pytest.mark.parametrize(("agreement", "told"), [(0.0, False), (1.0, True)])
def test_references_that_the_particles_do_not_hold_tell_nothing(agreement, told):
    kinds = np.array([hypotheses.RIGHT, hypotheses.EMPTY])
    rows = np.zeros((2, 7), np.float32)
    made = hypotheses.Rivals(kinds, np.tile(np.eye(3), (2, 1, 1)), rows, rows[:1])
    t = 3 * np.random.default_rng(0).normal(size=(50, 2)) + 9 * agreement
    q = np.full((50, 2), 9.0)
    assert (kernel._judge(made, t, q, np.ones(50), np.ones(50)) is not None) == told


def test_spectra_are_those_of_the_whole_fft():
    shape, step = (7, 10, 13), (2.0, 1.5, 1.0)
    band = fourier_coefficients.band_of(shape, step, 10**6)
    x = np.random.default_rng(0).normal(size=(2, *shape)) + 30
    window = np.einsum("i,j,k->ijk", *band.fades)
    state = fourier_coefficients.start((2,), band=band)
    for z in (slice(0, 3), slice(3, 7)):
        for y in (slice(0, 9), slice(9, 10)):
            places = np.arange(7)[z], np.arange(10)[y], np.arange(13)
            fourier_coefficients.update(state, (1, 2, 3), x[:, z, y], *places, band=band)
    rows = fourier_coefficients.finish(state, band=band, dtype=np.dtype("f8"))["rows"]
    level = (x * window).sum((1, 2, 3)) / window.sum()
    whole = np.fft.fftn((x - level[:, None, None, None]) * window, axes=(1, 2, 3))
    at = band.index
    turn = np.exp(2j * np.pi * (at * (np.array(shape) // 2) / shape).sum(1))
    expected = whole[:, at[:, 0], at[:, 1], at[:, 2]] * turn * np.sqrt(2 / np.prod(shape))
    np.testing.assert_allclose(fourier_coefficients.complexes(rows), expected, atol=2e-4)
    again = fourier_coefficients.rows_of(fourier_coefficients.volumes(rows, band), band)
    np.testing.assert_allclose(again, rows, atol=1e-9)


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
def test_a_turned_spectrum_is_that_of_the_turned_object(step):
    shape = tuple(int(26 / abs(d)) for d in step)
    turn = Rotation.from_rotvec([0.3, 0.9, -0.5]).as_matrix()

    def gaussian(matrix):
        axes = [(np.arange(n) - n // 2) * d for n, d in zip(shape, step, strict=True)]
        place = np.stack(np.meshgrid(*axes, indexing="ij"), -1) @ matrix
        return np.exp(-0.5 * ((place - (1, -2, 0.5)) / (1.5, 2.0, 3.0)) ** 2).prod(-1)

    band = fourier_coefficients.band_of(shape, step, 10**6)
    places = [np.arange(n) for n in shape]
    state = fourier_coefficients.start((2,), band=band)
    both = np.stack([gaussian(np.eye(3)), gaussian(turn)])
    fourier_coefficients.update(state, (1, 2, 3), both, *places, band=band)
    rows = fourier_coefficients.finish(state, band=band, dtype=np.dtype("f8"))["rows"]
    solid = reference.standing(
        fourier_coefficients.volumes(rows[:1], band), np.ones(band.cube), band
    )
    kept, white = np.arange(len(band.index)), np.full(band.size, 0.5)
    found = 2 * fourier_rotation.Turned(solid, band, kept, white).rows(turn)
    assert np.linalg.norm(found[0] - rows[1]) < 0.08 * np.linalg.norm(rows[1])
    assert np.linalg.norm(rows[0] - rows[1]) > 0.4 * np.linalg.norm(rows[1])


def test_hypotheses_that_look_alike_are_one():
    angles = np.radians([0, 5, 90, 93, 180, 45])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    assert sorted(hypotheses.distinct(rows @ rows.T)) in ([1, 3, 4], [2, 3, 4])
    assert len(hypotheses.distinct(np.zeros((3, 3)))) == 0


def test_a_likelihood_is_the_integral_over_contrasts():
    t, q, level, spread = 2.3, 3.1, 0.8, 0.2

    def density(a):
        return scipy.stats.norm.pdf(a, level, level * np.sqrt(spread)) * np.exp(
            a * t - a * a * q / 2
        )

    expected = np.log(scipy.integrate.quad(density, -20, 20)[0])
    assert mixture.likelihood(np.array(t), np.array(q), level, spread) == pytest.approx(expected)
    assert mixture.likelihood(np.array(t), np.array(q), 1.0, 0.0) == pytest.approx(t - q / 2)


def test_shares_of_hypotheses_are_recovered():
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 4000, p=(0.7, 0.2, 0.1))
    x = rng.normal(size=(4000, 3)) + 2 * np.eye(3)[truth]
    share, found = mixture.shares(2 * x - 2, np.zeros(3), np.arange(4000) % 5)
    np.testing.assert_allclose(share, np.tile((0.7, 0.2, 0.1), (5, 1)), atol=0.03)
    np.testing.assert_allclose(found.sum(1), 1)


def test_shares_of_a_fold_are_those_of_the_others():
    rng = np.random.default_rng(0)
    logs, prior, folds = 2 * rng.normal(size=(60, 7)), np.full(7, 0.3), np.arange(60) % 4
    share, found = mixture.shares(logs, prior, folds)
    changed = logs.copy()
    changed[folds == 2] = 50 * np.eye(7)[3]
    again, _ = mixture.shares(changed, prior, folds)
    np.testing.assert_allclose(again[2], share[2])
    assert again[1, 3] > share[1, 3] + 0.1
    likely = np.exp(logs[folds == 2]) * share[2]
    np.testing.assert_allclose(found[folds == 2], likely / likely.sum(1, keepdims=True))


def spectra(x, band):
    state = fourier_coefficients.start((len(x),), band=band)
    fourier_coefficients.update(state, (1, 2, 3), x, *(np.arange(n) for n in band.shape), band=band)
    return fourier_coefficients.finish(state, band=band, dtype=np.dtype("f4"))["rows"]


def test_what_fading_leaves_of_noise_is_known():
    """Rows that reach the faces of the box meet less noise there, and it is not independent."""
    shape, rng = (33, 7, 7), np.random.default_rng(3)
    band = fourier_coefficients.band_of(shape, (1.0, 1.0, 1.0), 10**6)
    seen = spectra(rng.normal(size=(20_000, *shape)).astype(np.float32), band).astype(np.float64)
    objects = np.zeros((3, *shape))
    objects[0, :4], objects[1, 9:25], objects[2, 27:] = 1, 1, 1
    rows = spectra(objects, band)
    expected = np.cov(rows.astype(np.float64) @ seen.T)
    faded = reference.faded(rows, band).astype(np.float64)
    tolerance = 0.03 * np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert (abs(faded @ faded.T - expected) < tolerance).all()
    plain = (rows @ rows.T).astype(np.float64)
    assert not (abs(plain * band.left - expected) < tolerance).all()


def tubes(box, n, wrong, seed):
    """Tubes along z, the first ones tilted by 60 to 90 degrees."""
    rng, along = np.random.default_rng(seed), np.tile([1.0, 0.0, 0.0], (n, 1))
    tilt, about = np.radians(rng.uniform(60, 90, wrong)), rng.uniform(0, 2 * np.pi, wrong)
    along[:wrong, 0] = np.cos(tilt)
    along[:wrong, 1:] = (np.sin(tilt) * np.stack([np.cos(about), np.sin(about)])).T
    place = np.stack(np.indices((box,) * 3), -1) - box // 2
    height = np.einsum("zyxa,ka->kzyx", place, along)
    away, size = np.sqrt(np.maximum((place**2).sum(-1) - height**2, 0)), box / 14
    return (away > 1.2 * size) & (away < 3.2 * size) & (abs(height) < 5 * size), rng


@pytest.mark.parametrize(("box", "sigma", "wedge"), [(18, 4.0, False), (16, 3.0, True)])
def test_p_values_of_right_particles_are_not_too_small_beside_wrong_ones(box, sigma, wedge):
    """Small ones were twice as many as they may be, with a missing wedge four times."""
    band = fourier_coefficients.band_of((box,) * 3, (1.0,) * 3, 10**6)
    z, _, x = np.meshgrid(*[np.fft.fftfreq(box)] * 3, indexing="ij")
    kept = (abs(z) < 1.7 * abs(x)) | (not wedge) | ((z == 0) & (x == 0))
    measured = kept[tuple((band.index % box).T)]
    given = kernel.Given(np.empty((0, band.size), np.float32), measured=measured)
    p, found = [], []
    for seed in range(8):
        shapes, rng = tubes(box, 200, 20, seed)
        seen = shapes + sigma * rng.normal(size=shapes.shape)
        seen = np.fft.ifftn(np.fft.fftn(seen, axes=(1, 2, 3)) * kept, axes=(1, 2, 3)).real
        table = kernel.screened(
            spectra(seen, band), given, band=band, turns=440, other=True, rate=0.05
        )  # fmt: skip
        p.append(table[20:, kernel.COLUMNS.index("p_value")])
        found.append(table[:20, kernel.COLUMNS.index("flagged")])
    assert np.mean(found) > 0.7
    levels = np.array([0.005, 0.01, 0.05, 0.1, 0.5])
    small = (np.concatenate(p) < levels[:, None]).mean(1) / levels
    assert (small < [1.6, 1.5, 1.2, 1.2, 1.06]).all(), small
    assert (small > [0.4, 0.5, 0.8, 0.85, 0.94]).all(), small


def test_a_right_particle_of_little_contrast_is_not_flagged():
    """Its llr is far below that of wrong ones, though few right ones have one as high."""
    band = fourier_coefficients.band_of((14,) * 3, (1.0,) * 3, 10**6)
    shapes, rng = tubes(14, 200, 20, 0)
    strong = shapes.astype(np.float32)
    strong[100] *= 0.6
    table = kernel.screened(
        spectra(strong + rng.normal(size=shapes.shape), band),
        kernel.Given(np.empty((0, band.size), np.float32)),
        band=band, turns=440, other=True, rate=0.05,
    )  # fmt: skip
    llr, p, flagged = (table[:, kernel.COLUMNS.index(n)] for n in ("llr", "p_value", "flagged"))
    assert flagged[:20].all()
    assert llr[100] < 0
    assert p[100] < 0.05 * 21 / 200  # by its p-value alone it would be
    assert not flagged[100]


@pytest.mark.parametrize("excess", [1.0, 0.6])
def test_p_values_are_those_of_plain_simulation(excess):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(5, 40)) * 0.5
    rows[1] = 0
    noise = np.full(40, excess)
    noise[20:] = 1
    gram, covariance = rows @ rows.T, (rows * noise) @ rows.T
    share = np.array([[0.9, 0.01, 0.03, 0.02, 0.04], [0.8, 0.1, 0.01, 0.01, 0.08]])
    drawn = 200_000
    contrast = 1 + np.sqrt(0.05) * rng.normal(size=(drawn, 1))
    t = contrast * gram[0] + rng.normal(size=(drawn, 40)) * np.sqrt(noise) @ rows.T
    every = mixture.ratio(mixture.likelihood(t, np.diag(gram), 1.0, 0.05), share)
    levels, due = np.array([0.05, 0.5, 0.95, 0.999]), np.array([0.95, 0.5, 0.05, 0.001])
    asked, folds = np.quantile(every, levels, axis=0), np.repeat([0, 1], 4)
    facts = gram, np.diag(gram), covariance, share, np.ones(9), 0.05
    p = mixture.p_values(asked.T.ravel(), folds, *facts, draws=100_000)
    np.testing.assert_allclose(p.reshape(2, 4)[:, :3], np.tile(due[:3], (2, 1)), rtol=0.06)
    np.testing.assert_allclose(p[3::4], due[3], rtol=0.3)
    beyond = np.array([20.0, 40.0, 60.0])
    far = mixture.p_values(beyond, np.zeros(3, int), *facts)
    assert 0 < far[1] <= far[0] < 1e-8


def test_the_rule_of_benjamini_and_hochberg():
    p = np.random.default_rng(2).random(200) ** 3
    expected = scipy.stats.false_discovery_control(p) <= 0.1
    np.testing.assert_array_equal(mixture.rejected(p, 0.1), expected)
    assert not mixture.rejected(np.array([0.5, 0.9]), 0.05).any()
    assert mixture.rejected(np.empty(0), 0.05).size == 0
