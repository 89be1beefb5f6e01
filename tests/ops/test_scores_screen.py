"""scores.screen: misaligned particles are found, others are not, and p-values are calibrated."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import dask
import numpy as np
import pytest
import scipy.ndimage as ndi
import scipy.stats
import xarray as xr
from hypothesis import given
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import solids
from lazyvol.kernels.screening import screen as kernel
from lazyvol.plan.graph.lazy_array import source_array
from tests.paths import DATA, ROOT
from tests.sources import CountingSource, elements_read
from tests.strategies import FEW, chunked, chunkings

BOX = (18, 17, 19)
PLAIN = {"mse", "rmse", "cosine", "ncc"}
RESULTS = {
    "llr", "p_value", "flagged", "probability", "contrast", "noise", "best_hypothesis", "measured",
    "wedge",
}  # fmt: skip


def rod(along, shape=BOX, radius=3.2, half=6.0, step=(1.0, 1.0, 1.0)) -> np.ndarray:
    out, centre = np.zeros(shape), tuple(float(n // 2) for n in shape)
    unit = np.asarray(along, float) / np.linalg.norm(along)
    solids.add_cylinder(out, (0.0, 0.0, 0.0), centre, step, unit, radius, half, 1.0, 1.0)
    return out


def ball(radius=4.6, shape=BOX) -> np.ndarray:
    out, centre = np.zeros(shape), tuple(float(n // 2) for n in shape)
    solids.add_ball(out, (0.0, 0.0, 0.0), centre, (1.0, 1.0, 1.0), radius, 1.0)
    return out


@cache
def particles(kind: str, n: int, sigma: float, part: float, seed: int, colour: float = 0.0):
    """Noisy rods along z, a part of them another object, and a bool per particle for these."""
    rng = np.random.default_rng(seed)
    wrong = np.zeros(n, bool)
    wrong[rng.permutation(n)[: round(part * n)]] = True
    noise = rng.normal(size=(n, *BOX))
    if colour:
        noise = ndi.gaussian_filter(noise, (0, colour, colour, colour))
    x = noise * (sigma / noise.std())
    x[~wrong] += rod((1, 0, 0))
    for k in np.flatnonzero(wrong):
        if kind == "lying":
            x[k] += rod((0, 1, 0) if rng.random() < 0.5 else (0, 0, 1))
        elif kind == "tilted":
            tilt, turn = np.radians(rng.uniform(60, 90)), rng.uniform(0, 2 * np.pi)
            x[k] += rod((np.cos(tilt), np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn)))
        elif kind == "ball":
            x[k] += ball()
    x = x.astype(np.float32)
    x.setflags(write=False)
    return x, wrong


def area(score: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve."""
    return scipy.stats.mannwhitneyu(score[wrong], score[~wrong]).statistic / (
        wrong.sum() * (~wrong).sum()
    )


def screened(x: np.ndarray, **options) -> xr.Dataset:
    return lv.scores.screen(lv.as_stack(x), **options)


# detection -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sigma", "least"),
    [("lying", 3.0, 0.985), ("tilted", 3.0, 0.975), ("nothing", 3.0, 0.98), ("ball", 1.5, 0.985)],
)
def test_misaligned_particles_are_found(kind, sigma, least):
    x, wrong = particles(kind, 240, sigma, 0.1, 1)
    result = screened(x)
    best = max(area(-result.ncc.values, wrong), area(-smooth_ncc(x), wrong))
    auc = area(result.llr.values, wrong)
    assert auc >= max(least, best)
    flagged = result.flagged.values
    assert (flagged & ~wrong).sum() <= 0.15 * flagged.sum() + 1
    assert (flagged & wrong).sum() >= 0.6 * wrong.sum()


def smooth_ncc(x: np.ndarray) -> np.ndarray:
    return lv.scores.ncc(lv.as_stack(ndi.gaussian_filter(x, (0, 1.5, 1.5, 1.5)))).values


def test_the_best_hypothesis_is_the_true_one():
    names = (
        "consistent", "empty", "rotated", "shifted", "second_class", "extra_density", "unlike",
    )  # fmt: skip
    for kind, name in (("lying", "rotated"), ("nothing", "empty"), ("ball", "second_class")):
        x, wrong = particles(kind, 240, 1.5, 0.1, 1)
        result = screened(x)
        best = result.best_hypothesis
        assert best.attrs["flag_meanings"].split() == [*names]
        code = best.attrs["flag_values"][names.index(name)]
        assert (best.values[wrong] == code).mean() > 0.8
        assert (best.values[~wrong] == 0).mean() > 0.97
        known = np.isfinite(result.angles.values).all(1)
        assert (known == np.isin(best.values, (2, 3))).all()


@pytest.mark.parametrize("step", [1.0, 2.5])
def test_shifts_move_the_average_into_the_particle(step):
    rng = np.random.default_rng(6)
    body = rod((1, 1, 0), half=3.5)
    x = rng.normal(size=(160, *BOX)) + body
    shifts = {3: (4.0, 0.0, -2.5), 50: (0.0, -3.4, 4.2), 120: (-2.0, 3.0, 3.0)}
    for k, shift in shifts.items():
        x[k] += ndi.shift(body, shift) - body
    result = lv.scores.screen(lv.as_stack(x.astype("f4"), voxel_size=step, unit="nm"))
    assert result.shifts.dims == ("k", "axis")
    assert result.axis.values.tolist() == ["z", "y", "x"]
    assert result.shifts.attrs["units"] == "nm"
    for k, shift in shifts.items():
        assert result.best_hypothesis.values[k] == 3
        np.testing.assert_allclose(result.shifts.values[k] / step, shift, atol=0.6)


def test_angles_rotate_the_average_into_the_particle():
    x, wrong = particles("tilted", 240, 1.5, 0.1, 3)
    result = screened(x, angles=20.0)
    rng = np.random.default_rng(3)
    rng.permutation(240)
    rng.normal(size=(240, *BOX))
    for k in np.flatnonzero(wrong):
        tilt, turn = np.radians(rng.uniform(60, 90)), rng.uniform(0, 2 * np.pi)
        truth = (np.cos(tilt), np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn))
        matrix = Rotation.from_euler("ZYZ", result.angles.values[k], degrees=True).as_matrix()
        along = (matrix @ (0, 0, 1))[::-1]
        assert abs(along @ truth) > np.cos(np.radians(25))


@pytest.mark.parametrize("colour", [0.0, 0.7])
def test_p_values_are_uniform_and_nothing_is_flagged_among_consistent_particles(colour):
    p, flagged = [], []
    for seed in range(3):
        result = screened(particles("none", 240, 3.0, 0.0, 10 + seed, colour)[0])
        p.append(result.p_value.values)
        flagged.append(result.flagged.values)
    assert scipy.stats.kstest(np.concatenate(p), "uniform").pvalue > 0.005
    assert np.concatenate(flagged).mean() <= 0.01


def test_p_values_of_consistent_particles_are_uniform_among_misaligned_ones():
    x, wrong = particles("lying", 240, 3.0, 0.2, 5)
    p = screened(x).p_value.values
    assert scipy.stats.kstest(p[~wrong], "uniform").pvalue > 0.005


def test_three_in_ten_particles_may_be_misaligned():
    x, wrong = particles("lying", 240, 2.5, 0.3, 2)
    result = screened(x)
    assert area(result.llr.values, wrong) > 0.98
    assert result.probability.values.mean() == pytest.approx(0.3, abs=0.06)


def test_scale_and_offset_of_a_particle_do_not_matter():
    x, wrong = particles("lying", 240, 2.5, 0.1, 4)
    rng = np.random.default_rng(0)
    scale, offset = rng.uniform(0.5, 2, (240, 1, 1, 1)), rng.normal(0, 50, (240, 1, 1, 1))
    plain, changed = screened(x), screened((scale * x + offset).astype(np.float32))
    assert area(changed.llr.values, wrong) > area(plain.llr.values, wrong) - 0.01
    np.testing.assert_allclose(
        changed.noise / changed.noise.median(), scale.ravel() / np.median(scale), rtol=0.1
    )


@pytest.mark.parametrize("scale", [1e-36, 1e-21, 1e21, 1e33])
def test_values_of_any_size_give_equal_results(scale):
    stack = lv.synthetic.particles((12, 12, 12), 20, sigma=1.0, tilted=0.1, radius=3).compute()
    ball = lv.synthetic.sphere((12, 12, 12), radius=3.0).compute()
    plain = lv.scores.screen(stack, templates=ball)
    scaled = lv.scores.screen((stack * scale).astype(np.float32), templates=ball * scale)
    for name in RESULTS - {"flagged"}:
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-3, atol=1e-3, err_msg=name)


def test_different_contrasts_are_not_flagged():
    rng = np.random.default_rng(1)
    contrast = rng.normal(1, 0.35, (240, 1, 1, 1))
    x = (contrast * rod((1, 0, 0)) + 2 * rng.normal(size=(240, *BOX))).astype(np.float32)
    result = screened(x)
    assert result.flagged.values.mean() <= 0.02
    assert np.corrcoef(result.contrast, contrast.ravel())[0, 1] > 0.8


def test_symmetries_are_no_alternative_hypotheses():
    """Rotations of a ball are equivalent: the alternative that is left is an empty particle."""
    rng = np.random.default_rng(2)
    x = (ball() + rng.normal(size=(100, *BOX))).astype(np.float32)
    result = screened(x)
    assert result.flagged.sum() == 0
    assert set(result.best_hypothesis.values) <= {0, 1, 3, 4}


def test_templates_are_alternative_hypotheses():
    rng = np.random.default_rng(4)
    x = rod((1, 0, 0)) + 2.5 * rng.normal(size=(120, *BOX))
    x[:12] += ball() - rod((1, 0, 0))
    models = xr.concat([lv.as_stack(rod((1, 0, 0))), lv.as_stack(7 * ball() + 3)], "model")
    plain = screened(x.astype(np.float32), angles=None, second_class=False)
    result = screened(x.astype(np.float32), angles=None, second_class=False, templates=models)
    wrong = np.arange(120) < 12
    assert area(result.llr.values, wrong) > area(plain.llr.values, wrong) + 0.01
    best = result.best_hypothesis
    assert best.attrs["flag_meanings"].split()[7:] == ["template_0", "template_1"]
    assert (best.values[:12] == 8).mean() > 0.6
    assert not (best.values == 7).any()  # equivalent to the average


def test_a_missing_wedge_is_no_evidence():
    """Frequencies that were not measured are ignored, even if others are twice as strong there.

    Programs that fill wedges reach the strength of the object; what is 8 times as strong leaks
    into the measured frequencies through the taper.
    """
    x, wrong = particles("lying", 200, 1.5, 0.1, 6)
    axes = [np.fft.fftfreq(n) for n in BOX]
    fz, _, fx = np.meshgrid(*axes, indexing="ij")
    tilt = np.degrees(np.arctan2(fz * np.where(fx < 0, -1, 1), np.abs(fx)))
    kept = (np.abs(tilt) <= 60) | ((fz == 0) & (fx == 0))
    wedged = np.fft.ifftn(np.fft.fftn(x, axes=(1, 2, 3)) * kept, axes=(1, 2, 3)).real
    decoy = np.arange(200) % 8 == 0
    wedged[decoy] += 2 * np.fft.ifftn(np.fft.fftn(rod((0, 1, 1))) * ~kept).real
    wedged = wedged.astype(np.float32)
    measured = lv.as_stack(np.fft.fftshift(kept).astype(np.float32))
    measured = measured.assign_attrs(layout="centred")
    plain = lv.as_stack(kept.astype(np.float32))
    for wedge in ((-60.0, 60.0), measured, plain):
        result = screened(wedged, wedge=wedge)
        assert area(result.llr.values, wrong) > 0.97
        assert (result.flagged.values & ~wrong).sum() <= 3
    blind = screened(wedged, wedge=None)
    assert (blind.flagged.values & decoy).sum() > 0.5 * decoy.sum()


def test_a_mask_helps_where_it_is_known():
    x, wrong = particles("tilted", 240, 4.0, 0.1, 8)
    plain = screened(x)
    masked = screened(x, mask=lv.as_stack(ndi.gaussian_filter(rod((1, 0, 0), half=7), 0.7) > 0.1))
    assert area(masked.llr.values, wrong) > area(plain.llr.values, wrong) - 0.01
    corner = lv.as_stack(np.pad(np.ones((4, 4, 4)), [(0, n - 4) for n in BOX]))
    elsewhere = screened(x, mask=corner)
    assert area(elsewhere.llr.values, wrong) < 0.75
    assert float(abs(elsewhere.mse - plain.mse).max()) > 0


def test_particles_without_a_common_signal_are_not_judged():
    without_signal = 0
    for seed in range(8):
        result = screened(np.random.default_rng(seed).normal(size=(30, 8, 8, 8)), angles=60.0)
        without_signal += (result.p_value.values == 1).all() and (result.llr.values == 0).all()
        assert not result.flagged.any()
    assert without_signal >= 6  # a reference of noise passes three standard errors by chance
    alike = screened(np.full((5, 8, 8, 8), 3.3, np.float32))
    assert alike.flagged.all()
    assert np.isnan(alike.llr.values).all()


def test_two_particles_are_enough():
    result = screened(np.random.default_rng(1).normal(size=(2, 5, 7, 11)))
    assert not result.flagged.any()


def test_a_particle_with_nan_is_flagged_and_changes_no_other():
    x, _ = particles("lying", 120, 2.0, 0.1, 9)
    broken = x.copy()
    broken[17, 3, 4, 5] = np.nan
    result, clean = screened(broken), screened(np.delete(x, 17, axis=0))
    assert bool(result.flagged[17])
    assert np.isnan(result.llr[17])
    np.testing.assert_allclose(np.delete(result.llr.values, 17), clean.llr.values, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16", "uint8", ">f4"])
def test_dtypes(dtype):
    x, wrong = particles("lying", 120, 2.0, 0.1, 9)
    values = (
        (x * 12 + 128).clip(0, 255) if dtype == "uint8" else x * (100 if dtype == "int16" else 1)
    )
    result = screened(values.astype(dtype))
    assert area(result.llr.values, wrong) > 0.98
    assert result.llr.dtype == result.p_value.dtype == np.float64
    assert result.flagged.dtype == bool


# computation -----------------------------------------------------------------------------------


def small() -> np.ndarray:
    return np.ascontiguousarray(particles("lying", 26, 1.5, 0.15, 3)[0][:, :11, :7, :13])


@given(grid=chunkings((26, 11, 7, 13)))
@FEW
def test_results_do_not_depend_on_chunks(grid):
    plain = lv.as_stack(small())
    whole = lv.scores.screen(plain, angles=70.0)

    def refuse(*args, **kwargs):
        raise AssertionError("building computed something")

    with dask.config.set(scheduler=refuse):
        lazy = lv.scores.screen(plain.copy(data=chunked(small(), grid).data), angles=70.0)
    result = lazy.compute(scheduler="sync")
    np.testing.assert_allclose(result.llr, whole.llr, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(result.best_hypothesis, whole.best_hypothesis)
    assert PLAIN | RESULTS | {"angles", "shifts"} == set(result)


def test_the_stack_is_read_twice_and_hypotheses_are_compared_once(monkeypatch):
    x = small()
    source = CountingSource(x, (2, 11, 7, 13), "screened")
    stack = lv.as_stack(source_array(source, ((2,) * 13, (11,), (7,), (13,))))
    calls = []
    run_rounds = kernel._run_rounds
    monkeypatch.setattr(kernel, "_run_rounds", lambda *a: (calls.append(1), run_rounds(*a))[1])
    result = lv.scores.screen(stack)
    assert lv.explain(result).bytes_read == 2 * x.nbytes
    result = result.compute(scheduler="sync")
    assert elements_read("screened") == 2 * x.size
    assert len(calls) == 1
    known = lv.scores.screen(stack, average=lv.stats.mean(lv.as_stack(x)))
    known = known.compute(scheduler="sync")
    assert elements_read("screened") == 3 * x.size
    for name in result:
        np.testing.assert_allclose(known[name], result[name], rtol=1e-3, atol=1e-4)


def test_a_constant_particle_is_flagged_and_changes_no_other():
    x, _ = particles("lying", 120, 2.0, 0.1, 9)
    flat = x.copy()
    flat[17] = 7.7
    result, clean = screened(flat), screened(np.delete(x, 17, axis=0))
    assert bool(result.flagged[17])
    assert np.isnan(result.llr[17])
    np.testing.assert_allclose(np.delete(result.llr.values, 17), clean.llr.values, rtol=1e-6)


def test_labels():
    x = small()
    stack = lv.as_stack(x, voxel_size=(2.0, 3.0, 1.5), unit="angstrom", name="density")
    stack = stack.assign_coords(tomogram=("k", np.arange(26)), flagged=("k", np.zeros(26)))
    stack = stack.assign_attrs(units="e", handedness="unknown")
    result = lv.scores.screen(stack.transpose("x", "k", "z", "y"))
    for name in RESULTS:
        assert result[name].dims == ("k",)
        assert "units" not in result[name].attrs
        assert result[name].attrs["handedness"] == "unknown"
    assert result.angles.dims == ("k", "angle")
    assert result.angle.values.tolist() == ["rot", "tilt", "psi"]
    assert "tomogram" in result.coords
    assert result.flagged.dtype == bool
    assert result.mse.attrs["units"] == "e^2"


def test_voxels_of_any_size_and_sign():
    step, rng = (1.4, 1.0, -1.2), np.random.default_rng(5)
    shape = (14, 19, 17)
    right, wrong = (rod(a, shape, 3.4, 7.0, step) for a in ((1, 0.4, 0), (0, 0.5, 1)))
    x = 2 * rng.normal(size=(160, *shape)) + right
    x[:16] += wrong - right
    stack = lv.as_stack(x.astype(np.float32), voxel_size=tuple(map(abs, step)), unit="nm")
    stack = stack.assign_coords(x=stack.x[::-1].values)
    result = lv.scores.screen(stack)
    assert area(result.llr.values, np.arange(160) < 16) > 0.98


def test_refusals():
    stack = lv.as_stack(small())
    volume = stack.isel(k=0, drop=True)
    for screened_stack, options, message in [
        (volume, {}, "dims"),
        (stack.isel(k=[0]), {}, "two or more"),
        (stack.isel(z=slice(3)), {}, "4 or more voxels"),
        (stack + 1j, {}, "real"),
        (stack, {"fdr": 1.0}, "fdr"),
        (stack, {"angles": 1.0}, "angles"),
        (stack, {"wedge": (60.0, -60.0)}, "wedge"),
        (stack, {"mask": stack}, "mask"),
        (stack, {"mask": volume * 0}, "not empty"),
        (stack, {"templates": volume.isel(z=slice(4))}, "lengths"),
        (stack, {"templates": volume.where(volume > 0)}, "must be finite"),
        (stack.expand_dims(channel=2), {}, "dims"),
    ]:
        with pytest.raises(LabelError, match=message):
            lv.scores.screen(screened_stack, **options)


MEASURED = """
import ctypes, json, sys
from pathlib import Path
import dask, lazyvol as lv
from lazyvol.plan.budget import RUN_OVERHEAD
from tests.plan.memory_of_rows import peak_of
n, box = map(int, sys.argv[1:])
with lv.limited(None, workers=1):
    def screened(n, box):
        return lv.scores.screen(lv.synthetic.particles((box,) * 3, n, sigma=2.0, seed=1))
    dask.compute(screened(30, 8), scheduler="synchronous")
    result = screened(n, box)
    planned = lv.explain(result, workers=1).peak_bytes - RUN_OVERHEAD
    print(json.dumps([peak_of(result), planned]))
"""


@pytest.mark.parametrize("size", [("400", "20"), ("12", "32")])
def test_memory_stays_below_the_plan(size):
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak memory of a process can be reset on Linux only")
    command = [sys.executable, "-c", MEASURED, *size]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    peak, planned = json.loads(done.stdout.splitlines()[-1])
    assert peak <= planned + 6 * 2**20
    assert planned <= 10 * peak


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")
def test_rotated_real_ribosomes_are_found_better_than_by_correlation():
    """With 20 noisy subtomograms, each with a wedge of its own, only ranks can be expected."""
    stack = lv.open(DATA / "cryoet_warp_70s" / "subtomos_aligned.mrc").compute()
    llr, ncc = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        wrong = np.zeros(20, bool)
        wrong[rng.choice(20, 2, replace=False)] = True
        x = stack.values.copy()
        for k in np.flatnonzero(wrong):
            matrix = Rotation.random(random_state=int(rng.integers(999))).as_matrix()
            x[k] = ndi.affine_transform(x[k], matrix, 16 - matrix @ np.full(3, 16.0), order=1)
        result = lv.scores.screen(stack.copy(data=x))
        llr.append(area(result.llr.values, wrong))
        ncc.append(area(-result.ncc.values, wrong))
    assert np.mean(llr) > 0.9
    assert np.mean(llr) > np.mean(ncc) + 0.1
