"""Alignment and screening of stacks of images: rotations about z and shifts in y and x."""

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.screening.fourier_coefficients import band_of
from lazyvol.screening.run import plans
from tests.rows.images import IMAGE

SHAPE = (40, 44)
#: y, x (from voxel n // 2), width and height of the blobs of an object without symmetry
BLOBS = [
    (0, 0, 3.0, 1.0), (5, 2, 2.0, 1.5), (-3, 6, 1.8, 1.2), (-6, -5, 2.2, -0.8), (2, -7, 1.5, 1.0),
]  # fmt: skip


def image(degrees=0.0, shift=(0.0, 0.0), step=(1.0, 1.0)):
    """Return the object in the pose that a shift, then a rotation about z, undoes."""
    y, x = ((np.arange(n) - n // 2) * s for n, s in zip(SHAPE, step, strict=True))
    y, x = y[:, None] + shift[0], x + shift[1]
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    v, u = s * x + c * y, c * x - s * y
    return sum(h * np.exp(-((v - a) ** 2 + (u - b) ** 2) / (2 * r * r)) for a, b, r, h in BLOBS)


def stacked(values, step=(1.0, 1.0)):
    dims = (*("k",) * (np.ndim(values) - 2), *IMAGE)
    stack = lv.as_stack(values, dims=dims, voxel_size=np.abs(step), unit="angstrom")
    attrs = stack.x.attrs
    return stack.assign_coords(x=("x", stack.x.values * np.sign(step[1]), attrs))


def posed(k=24, sigma=0.15, step=(1.0, 1.0), seed=0):
    """Return noisy images, their angles and shifts, and the object."""
    random = np.random.default_rng(seed)
    angles, shifts = random.uniform(-180, 180, k), random.uniform(-3, 3, (k, 2))
    values = np.stack([image(a, s, step) for a, s in zip(angles, shifts, strict=True)])
    noisy = values + sigma * random.normal(size=values.shape)
    return stacked(noisy, step), angles, shifts, stacked(image(step=step), step)


def angle_difference(result, angles, turn=360.0):
    return np.abs((np.asarray(result) - angles + turn / 2) % turn - turn / 2)


@pytest.fixture(scope="module")
def aligned():
    stack, angles, shifts, reference = posed()
    return stack, angles, shifts, reference, lv.registration.align(stack, reference)


@pytest.mark.parametrize("step", [(1.0, 1.0), (1.2, 0.9), (1.0, -1.0)])
def test_poses_of_images_are_recovered(step):
    stack, angles, shifts, reference = posed(step=step)
    alignment = lv.registration.align(stack, reference)
    assert alignment.rotations.dims == ("k",)
    assert alignment.shifts.dims == ("k", "axis")
    assert alignment.axis.values.tolist() == list(IMAGE)
    assert angle_difference(alignment.rotations, angles).max() < 2.0
    assert np.abs(alignment.shifts.values - shifts).max() < 0.3
    assert alignment.ncc.values.min() > 0.85


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunks", [{"k": 1}, {"k": 7, "y": 11}, {"x": 5}])
def test_alignment_of_images_is_the_same_for_any_chunks(aligned, chunks, dtype):
    stack, _, _, reference, whole = aligned
    result = lv.registration.align(stack.astype(dtype).chunk(chunks), reference.chunk())
    assert result.rotations.chunks is not None
    result = result.compute()
    assert angle_difference(result.rotations, whole.rotations.values).max() < 0.05
    np.testing.assert_allclose(result.shifts, whole.shifts, atol=0.01)
    np.testing.assert_allclose(result.average, whole.average, atol=0.01)


def test_poses_of_images_go_back_into_average_and_rotate(aligned):
    stack, _, _, reference, result = aligned
    mean = lv.registration.average(stack, result.shifts, result.rotations)["average"]
    np.testing.assert_allclose(mean, result.average, atol=1e-12)
    assert lv.scores.ncc(mean.fillna(0.0), reference) > 0.97
    moved = lv.registration.shift(stack, result.shifts)
    rotated = lv.registration.rotate(moved, result.rotations)
    assert lv.scores.ncc(rotated, reference).values.min() > 0.8


def test_one_image_is_aligned_as_in_a_stack(aligned):
    stack, _, _, reference, result = aligned
    for one in (stack.isel(k=3), stack.isel(k=3).chunk(y=9)):
        alone = lv.registration.align(one, reference).compute()
        assert alone.rotations.dims == ()
        assert alone.shifts.dims == ("axis",)
        assert alone.average.dims == IMAGE
        for name in ("rotations", "shifts", "ncc"):
            np.testing.assert_array_equal(alone[name], result[name].isel(k=3))
    with pytest.raises(LabelError, match="halves must be False"):
        lv.registration.align(stack.isel(k=3), reference, halves=True)


def test_rounds_and_half_sets_of_images(aligned):
    stack, angles, shifts, reference, _ = aligned
    alignment = lv.registration.align(
        stack.chunk(k=5), reference, iterations=2, halves=True, mask=reference * 0 + 1
    ).compute()
    # poses relative to the average of the stack have one common rotation, that of the average
    off = (alignment.rotations.values - angles + 180.0) % 360.0 - 180.0
    assert np.abs(off - np.median(off)).max() < 2.0
    assert lv.scores.ncc(alignment.first.fillna(0.0), alignment.second.fillna(0.0)) > 0.9
    near = lv.registration.align(
        stack, reference, rotations=angles + 4.0, shifts=shifts + 0.4, max_shift=2.0
    )
    assert angle_difference(near.rotations, angles).max() < 2.0
    assert np.abs(near.shifts.values - shifts).max() < 0.3


def test_symmetric_and_round_images():
    square = sum(image(a) for a in (0.0, 90.0, 180.0, 270.0))
    random = np.random.default_rng(1)
    rotated = [sum(image(a + b) for a in (0.0, 90.0, 180.0, 270.0)) for b in (20.0, 65.0)]
    noisy = stacked(np.stack(rotated) + 0.2 * random.normal(size=(2, *SHAPE)))
    alignment = lv.registration.align(noisy, stacked(square), symmetry=4)
    assert angle_difference(alignment.rotations, [20.0, 65.0], 90.0).max() < 2.0
    alignment = lv.registration.align(noisy, stacked(square), symmetry="cylinder")
    np.testing.assert_array_equal(alignment.rotations, 0.0)


def test_rotations_to_try_and_images_without_a_pose(aligned):
    stack, angles, _, reference, _ = aligned
    tried = Rotation.from_euler("z", np.arange(0, 360, 10)[:, None], degrees=True)
    alignment = lv.registration.align(stack, reference, tried, finest=None)
    assert angle_difference(alignment.rotations, angles).max() < 6.0
    assert angle_difference(alignment.rotations, 0.0, 10.0).max() < 1e-9
    flat = xr.concat([stack.isel(k=[0]), stack.isel(k=[1]) * 0 + 3.0], "k")
    alignment = lv.registration.align(flat, reference)
    np.testing.assert_array_equal(np.isnan(alignment.rotations), [False, True])
    np.testing.assert_array_equal(np.isnan(alignment.shifts), [[False] * 2, [True] * 2])


def test_options_of_volumes_are_refused_for_images(aligned):
    stack, _, _, reference, _ = aligned
    with pytest.raises(LabelError, match="about z alone"):
        lv.registration.align(stack, reference, Rotation.from_euler("y", [[0], [30]], degrees=True))
    for op in (lambda: lv.registration.align(stack, reference, wedge=(-60, 60)),
               lambda: lv.scores.screen(stack, wedge=(-60, 60))):  # fmt: skip
        with pytest.raises(LabelError, match="wedge must be None"):
            op()
    with pytest.raises(LabelError, match=r"mask must have the dims \('y', 'x'\)"):
        lv.scores.screen(stack, mask=xr.DataArray(np.ones((3, *SHAPE)), dims=("z", *IMAGE)))
    with pytest.raises(LabelError, match="of volumes for a screening with a report"):
        plans(stack)


# screening -------------------------------------------------------------------------------------


def mixed(seed, wrong=0.1, sigma=2.0, k=200):
    """Return noisy images, some of them rotated by 60 to 180 degrees, others shifted by 6."""
    random = np.random.default_rng(seed)
    bad = np.zeros(k, bool)
    bad[random.choice(k, round(wrong * k), replace=False)] = True
    values, angles = [], np.zeros(k)
    for n in range(k):
        shift = (0.0, 0.0)
        if bad[n] and n % 2:
            angles[n] = random.choice([-1, 1]) * random.uniform(60, 180)
        elif bad[n]:
            at = random.uniform(0, 2 * np.pi)
            shift = (6 * np.cos(at), 6 * np.sin(at))
        values.append(image(angles[n], shift) + sigma * random.normal(size=SHAPE))
    return stacked(np.array(values, np.float32)), bad, angles


def auc(score, bad):
    return scipy.stats.mannwhitneyu(score[bad], score[~bad]).statistic / (bad.sum() * (~bad).sum())


def test_wrong_images_are_found():
    flags, truth, llr, ncc = [], [], [], []
    for seed in range(4):
        stack, bad, angles = mixed(seed)
        screening = lv.scores.screen(stack)
        flags.append(screening.flagged.values)
        truth.append(bad)
        llr.append(auc(screening.llr.values, bad))
        ncc.append(auc(-screening.ncc.values, bad))
        rotated = (screening.best_hypothesis.values == 2) & (angles != 0)
        # the angle turns the average into the image: against the one that turns it back
        assert (
            np.median(angle_difference(screening.angles.values[rotated], -angles[rotated])) < 25.0
        )
    flags, truth = np.concatenate(flags), np.concatenate(truth)
    assert np.mean(llr) > max(0.95, np.mean(ncc))
    assert (flags & ~truth).sum() <= 0.1 * flags.sum()
    assert (flags & truth).sum() > 0.6 * truth.sum()


def test_right_images_are_not_flagged_and_have_uniform_p_values():
    p, flags = [], []
    for seed in range(4):
        screening = lv.scores.screen(mixed(seed, wrong=0.0, sigma=1.0 + seed)[0])
        p.append(screening.p_value.values)
        flags.append(screening.flagged.values)
    assert np.mean(flags) <= 0.02
    assert scipy.stats.kstest(np.concatenate(p), "uniform").statistic < 0.08
    assert 0.02 < np.mean(np.concatenate(p) < 0.05) < 0.09


@pytest.mark.parametrize("chunks", [{"k": 37, "y": 13}, {"k": 1}])
def test_screening_of_images_is_the_same_in_blocks(chunks):
    stack, _, _ = mixed(0, k=60, sigma=1.0)
    whole = lv.scores.screen(stack)
    screening = lv.scores.screen(stack.chunk(chunks)).compute()
    assert screening.llr.dims == screening.angles.dims == ("k",)
    np.testing.assert_array_equal(screening.flagged, whole.flagged)
    for name in screening:
        np.testing.assert_allclose(screening[name], whole[name], rtol=1e-3, atol=1e-3)
    alone = stack.assign_coords(z=4.0)
    others = {
        "average": lv.stats.mean(stack, "k"), "mask": (stack.isel(k=0) * 0 + 1).assign_coords(z=1),
        "wedge": stack.isel(k=0) * 0 + 1, "templates": stacked(image(180.0, (7.0, 0.0))),
    }  # fmt: skip
    screening = lv.scores.screen(alone, **others)
    assert (screening.flagged == whole.flagged).mean() > 0.95
    assert float(screening.z) == 4.0


def test_the_length_along_z_of_images_does_not_matter():
    for thick in (0.1, 1.0, 50.0):
        band = band_of((1, *SHAPE), (thick, 2.0, 1.5), 10**6)
        assert band.limit == 0.25
        radius = np.hypot(*(band.index[:, 1:] / (80.0, 66.0)).T)
        np.testing.assert_array_equal(band.shell, np.rint(radius * 66.0))
    few = band_of((1, 256, 256), (1.0, 1.0, 1.0), 5000)
    assert few.size == pytest.approx(5000, rel=0.02)
