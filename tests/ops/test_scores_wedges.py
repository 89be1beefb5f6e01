"""scores.screen on subtomograms, each with a missing wedge in its own orientation."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.screening import fourier_coefficients, measured, wedge_search
from tests import subtomograms
from tests.paths import DATA

TILTS = (-60.0, 60.0)
WEDGES = ("none", "given", "found", "unclear")
WARP = DATA / "cryoet_warp_70s"


def screened(particles, **options):
    return lv.scores.screen(lv.as_stack(particles.values), **options)


def transfer(signal, rng):
    """Change a signal by a transfer function of +-30 % defocus, in boxes of 12 angstrom voxels."""
    axes = np.meshgrid(*[np.fft.fftfreq(n, 12.0) for n in signal.shape], indexing="ij")
    phase = np.pi * 0.0197 * 25_000 * rng.uniform(0.7, 1.3) * sum(f**2 for f in axes)
    return 5 * np.fft.ifftn(np.fft.fftn(signal) * np.sin(phase + 0.07)).real


NOTHING_WRONG = {
    "strong signal": {"n": 60, "sigma": 0.3},
    "weak signal": {"n": 60, "sigma": 1.5},
    "twenty": {"n": 20, "sigma": 0.5},
    # 2 of 960 were flagged over 12 draws: a limit of 1 % needs 100 particles
    "misaligned": {"n": 100, "sigma": 0.5, "degrees": 8.0, "voxels": 1.0},
    "contrast, noise and offset": {
        "n": 60, "sigma": 0.7, "contrast": 0.3, "level": 0.3, "offset": 3.0
    },
    "defocus": {"n": 60, "sigma": 0.5, "image": transfer},
    "coloured, interpolated linearly": {"n": 60, "sigma": 0.7, "colour": 0.7, "order": 1},
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING_WRONG)
@pytest.mark.parametrize("way", ["told", "found"])
def test_nothing_is_flagged_where_nothing_is_wrong(name, way):
    """Without weights, 45 of 150 particles with a strong signal were a second class."""
    options = dict(NOTHING_WRONG[name])
    particles = subtomograms.particles(options.pop("n"), options.pop("sigma"), 11, **options)
    told = {"wedge": TILTS, "orientations": particles.angles} if way == "told" else {}
    result = screened(particles, angles=40.0, **told)
    assert result.flagged.mean() <= 0.01
    code = WEDGES.index("given" if told else "found")
    assert (result.wedge.values == code).all()
    assert result.wedge.attrs["flag_meanings"].split() == [*WEDGES]
    np.testing.assert_allclose(result.measured, 0.7, atol=0.06)
    if name in ("strong signal", "weak signal", "contrast, noise and offset"):
        assert scipy.stats.kstest(result.p_value, "uniform").pvalue > 0.005


def test_duplicates_are_not_flagged():
    particles = subtomograms.particles(60, 0.7, 5)
    particles.values[:6] = particles.values[-6:]
    assert not screened(particles, angles=40.0).flagged.any()


REASONS = {
    "rotated": {"rotated"}, "shifted": {"shifted"}, "flipped": {"rotated", "second_class"},
    "noise": {"empty"}, "species": {"second_class", "unlike"}, "gold": {"extra_density"},
    "neighbour": {"extra_density"}, "membrane": {"extra_density"},
}  # fmt: skip


@pytest.mark.parametrize("wrong", REASONS)
def test_what_is_wrong_is_found_through_wedges(wrong):
    particles = subtomograms.particles(100, 0.8, 7, wrong=wrong, part=0.15)
    result, bad = screened(particles, angles=40.0), particles.wrong
    area = scipy.stats.mannwhitneyu(result.llr[bad], result.llr[~bad]).statistic
    assert area > 0.98 * bad.sum() * (~bad).sum()
    flagged = result.flagged.values
    assert (flagged & bad).sum() >= 0.8 * bad.sum()
    assert (flagged & ~bad).sum() <= 1
    names = np.array(result.best_hypothesis.attrs["flag_meanings"].split())
    reasons = names[result.best_hypothesis.values[flagged & bad]]
    assert np.isin(reasons, list(REASONS[wrong])).mean() >= 0.8


@pytest.mark.parametrize(("wrong", "seed"), [("species", 2), ("membrane", 1)])
def test_few_particles_have_the_right_reason(wrong, seed):
    """Nine are no class of their own; a rotated average explains most of another species.

    Two of the membranes were a second class while this held the particles themselves.
    """
    particles = subtomograms.particles(60, 1.0, seed, wrong=wrong, part=0.15)
    best = screened(particles).best_hypothesis
    names = np.array(best.attrs["flag_meanings"].split())[best.values[particles.wrong]]
    assert np.isin(names, list(REASONS[wrong])).sum() >= 8


def test_power_that_no_wedge_explains_is_reported_and_no_second_class_is_searched_for():
    """Each particle lacks four sectors about an axis of its own."""
    rng, x = np.random.default_rng(0), np.empty((40, 24, 24, 24), np.float32)
    axes = np.stack(np.meshgrid(*[np.fft.fftfreq(24)] * 3, indexing="ij"), -1)
    for k, rotation in enumerate(Rotation.random(40, random_state=1).as_matrix()):
        _, across, along = np.moveaxis(axes @ rotation, -1, 0)
        kept = np.cos(8 * np.arctan2(across, along)) >= 0
        volume = subtomograms.gaussians(24) + rng.normal(size=(24, 24, 24))
        x[k] = np.fft.ifftn(np.fft.fftn(volume) * kept).real
    with pytest.warns(RuntimeWarning, match="no second class was searched for"):
        result = lv.scores.screen(lv.as_stack(x), angles=60.0)
    assert (result.wedge == WEDGES.index("unclear")).any()
    assert not (result.best_hypothesis == 4).any()


def test_a_wedge_in_another_convention_is_noticed():
    particles = subtomograms.particles(30, 1.0, 4)
    inverse = Rotation.from_euler("ZYZ", particles.angles, degrees=True).inv()
    with pytest.warns(RuntimeWarning, match="not as stated"):
        result = screened(particles, wedge=TILTS, orientations=inverse, angles=60.0)
    assert (result.wedge == WEDGES.index("unclear")).all()


# measured frequencies --------------------------------------------------------------------------


def band_of(box):
    return fourier_coefficients.band_of((box,) * 3, (1.0,) * 3, 10**6)


def test_weights_of_a_tilt_range_are_those_of_rotated_noise():
    """The power of noise that was measured in a wedge and rotated, by brute force."""
    box, band = 22, band_of(22)
    rotation = Rotation.from_euler("ZYZ", [33.0, 64.0, -118.0], degrees=True)
    rng, power = np.random.default_rng(2), 0.0
    for _ in range(60):
        noise = np.fft.fftn(rng.normal(size=(box,) * 3)) * subtomograms.measured_mask(
            box, (-40, 60)
        )
        turned = subtomograms.rotated(np.fft.ifftn(noise).real, rotation.as_matrix()[::-1, ::-1])
        power = power + abs(np.fft.fftn(turned)[tuple((band.index % box).T)]) ** 2
    angles = rotation.as_euler("ZYZ", degrees=True)[:, None]
    weights = measured.tilt_weights(*angles, tilts=(-40.0, 60.0), band=band)[0] / measured.STEPS
    outside, inside = power[weights == 0].mean(), power[weights == 1].mean()
    assert outside < 0.2 * inside
    partly = (weights > 0.4) & (weights < 0.6)
    assert 0.35 < power[partly].mean() / inside < 0.75
    inverse = rotation.inv().as_euler("ZYZ", degrees=True)[:, None]
    wrong = measured.tilt_weights(*inverse, tilts=(-40.0, 60.0), band=band)[0]
    assert power[wrong == 0].mean() > 0.5 * power[wrong > 0].mean()


def test_orientations_come_from_an_argument_or_from_the_stack():
    particles = subtomograms.particles(30, 1.0, 6)
    named = {a: ("k", particles.angles[:, n]) for n, a in enumerate(("rot", "tilt", "psi"))}
    stack = lv.as_stack(particles.values)
    table = xr.DataArray(particles.angles, dims=("k", "angle"))
    results = [
        lv.scores.screen(s, wedge=TILTS, orientations=o, angles=60.0)
        for s, o in ((stack.assign_coords(named), None), (stack, table), (stack, particles.angles))
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result.llr, results[0].llr)
    with pytest.warns(RuntimeWarning, match="not as stated"):
        lv.scores.screen(stack, wedge=TILTS, angles=60.0)  # unrotated


def masks_of(particles, box):
    """Return a mask of each particle's frequencies, (k, z, y, x), frequency 0 first."""
    matrices = Rotation.from_euler("ZYZ", particles.angles, degrees=True).as_matrix()
    axes = np.stack(np.meshgrid(*[np.fft.fftfreq(box)] * 3, indexing="ij"), -1)
    turned = np.einsum("zyxa,kab->kzyxb", axes, matrices[:, ::-1, ::-1])
    return (abs(turned[..., 0]) <= np.tan(np.pi / 3) * abs(turned[..., 2]) + 1e-9).astype("f4")


def test_masks_in_every_layout_are_the_same_weights():
    particles, box = subtomograms.particles(30, 1.0, 6), 24
    mask = masks_of(particles, box)
    whole = lv.as_stack(mask)
    centred = lv.as_stack(np.fft.fftshift(mask, (1, 2, 3))).assign_attrs(layout="centred")
    half = lv.as_stack(mask[..., : box // 2 + 1])
    half_centred = lv.as_stack(np.fft.fftshift(mask[..., : box // 2 + 1], (1, 2)))
    half_centred = half_centred.assign_attrs(layout="centred")
    results = [
        screened(particles, wedge=w, angles=60.0)
        for w in (whole, centred, half, half_centred, half.chunk(k=7))
    ]
    assert (results[0].wedge == WEDGES.index("given")).all()
    for result in results[1:]:
        np.testing.assert_allclose(result.llr, results[0].llr, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_weights_multiply_the_noise_as_the_particles_show(power):
    """A transfer function changed the signal alone, was applied to images again, or masks all."""
    rng, box, n = np.random.default_rng(1), 20, 60
    radius = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(box)] * 3, indexing="ij")))
    defocus = rng.uniform(20, 30, (n, 1, 1, 1))
    weights = np.abs(np.sin(0.2 + defocus * radius**2)).astype(np.float32)
    signal = np.fft.fftn(subtomograms.gaussians(box))
    noise = np.fft.fftn(rng.normal(size=(n, *(box,) * 3)), axes=(1, 2, 3))
    x = np.fft.ifftn(weights * signal + weights ** (power / 2) * noise, axes=(1, 2, 3)).real
    band = band_of(box)
    values = weights[(slice(None), *(band.index % box).T)]
    state = fourier_coefficients.start((n,), band=band)
    positions = [np.arange(box)] * 3
    fourier_coefficients.update(state, (1, 2, 3), x.astype("f4"), *positions, band=band)
    spectra = fourier_coefficients.finish(state, band=band, dtype=np.dtype("f4"))["spectra"]
    assert measured._noise_exponent(spectra, values, band) == power
    result = lv.scores.screen(lv.as_stack(x.astype("f4")), wedge=lv.as_stack(weights), angles=60.0)
    assert not result.flagged.any()


def test_refusals():
    stack = lv.as_stack(np.random.default_rng(0).normal(size=(6, 8, 8, 8)))
    mask = lv.as_stack(np.ones((8, 8, 8)))
    for options, message in [
        ({"wedge": TILTS, "orientations": np.full((6, 3), np.nan)}, "orientations must be finite"),
        ({"wedge": TILTS, "orientations": np.zeros((5, 3))}, "shape"),
        ({"wedge": mask, "orientations": np.zeros((6, 3))}, "orientations must be None"),
        ({"wedge": mask.isel(x=slice(3))}, "same length along 'x'"),
        ({"wedge": mask.assign_attrs(layout="shifted")}, "'fft' or 'centred'"),
        ({"wedge": "found"}, "auto"),
    ]:
        with pytest.raises((LabelError, lv.errors.OptionError), match=message):
            lv.scores.screen(stack, **options)


# wedges found in the particles -----------------------------------------------------------------


def spectra_of(x):
    band = band_of(x.shape[-1])
    state = fourier_coefficients.start((len(x),), band=band)
    positions = [np.arange(n) for n in band.shape]
    fourier_coefficients.update(state, (1, 2, 3), x, *positions, band=band)
    return fourier_coefficients.finish(state, band=band, dtype=np.dtype("f4"))["spectra"], band


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_wedges_are_found_where_they_are(sigma):
    particles = subtomograms.particles(30, sigma, 8)
    spectra, band = spectra_of(particles.values)
    found, code = wedge_search.find(spectra, band)
    assert (code == wedge_search.FOUND).all()
    true = measured.tilt_weights(*particles.angles.T, tilts=TILTS, band=band)
    assert ((found.steps > 0) == (true > 0)).mean() > 0.95


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_no_wedge_is_found_where_none_is_missing(colour):
    rng = np.random.default_rng(3)
    x = subtomograms.ndi.gaussian_filter(rng.normal(size=(40, 20, 20, 20)), (0, *(colour,) * 3))
    spectra, band = spectra_of((x / x.std() + subtomograms.gaussians(20)).astype(np.float32))
    found, code = wedge_search.find(spectra, band)
    assert (code == wedge_search.NONE).all()
    assert found.is_common


@pytest.mark.parametrize(("colour", "searches"), [(0.0, 1), (1.5, 2)])
def test_strong_frequencies_are_searched_apart_only_where_others_are_weak(colour, searches):
    noise = np.random.default_rng(4).normal(size=(10, 20, 20, 20))
    noise = subtomograms.ndi.gaussian_filter(noise, (0, *(colour,) * 3))
    sets = wedge_search._usable(*spectra_of(noise.astype(np.float32)))
    assert len(sets) == searches
    assert all(np.isin(s, sets[0]).all() for s in sets)


# real particles --------------------------------------------------------------------------------


@pytest.mark.skipif(not WARP.is_dir(), reason="shared/data is not beside the checkout")
def test_wedges_of_real_ribosomes_are_those_of_their_angles():
    """Angles of RELION, in the convention of this package: power in the wedge is 0.1, not 0.9."""
    stack = lv.open(WARP / "subtomos_aligned.mrc").compute()
    rows = (line.split() for line in (WARP / "particles.star").read_text().splitlines())
    angles = np.array([[float(v) for v in r[5:8]] for r in rows if r and r[0].startswith("Unt_")])
    spectra, band = spectra_of(stack.values)
    power = wedge_search.relative_power(spectra, band)
    weights = measured.tilt_weights(*angles.T, tilts=TILTS, band=band)
    assert power[weights == 0].mean() < 0.15 * power[weights == measured.STEPS].mean()
    found, code = wedge_search.find(spectra, band)
    assert (code == wedge_search.FOUND).all()
    assert ((found.steps > 0) == (weights > 0)).mean() > 0.85
