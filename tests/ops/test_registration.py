"""Shifts and rotations: found on noisy particles of known pose, applied exactly, averaged."""

import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr
from scipy.spatial.transform import Rotation
from skimage.registration import phase_cross_correlation

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.geometry import rotation_grids, splines
from lazyvol.plan.graph.lazy_array import source_array
from tests.cases import VOLUME, VOXEL
from tests.rows.registration import turned
from tests.sources import READS, CountingSource, elements_read
from tests.strategies import chunked, labelled, values

REGISTRATION = lv.registration


def moved(v, voxels):
    return np.fft.ifftn(ndi.fourier_shift(np.fft.fftn(v), voxels)).real


def noisy_copies(k, noise, seed=1, shape=(20, 24, 22)):
    """Copies of a smooth volume that true shifts bring back to it."""
    rng = np.random.default_rng(seed)
    still = ndi.gaussian_filter(rng.normal(size=shape), 2)
    true = rng.uniform(-4, 4, (k, 3))
    made = np.stack([moved(still, -t) for t in true])
    return still, made + noise * still.std() * rng.normal(size=made.shape), true


# shifts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("weighting", "normalization"), [("none", None), ("phase", "phase")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shifts_are_those_of_skimage(weighting, normalization, dtype):
    still, made, _ = noisy_copies(5, 0.1)
    made, still = made.astype(dtype), still.astype(dtype)
    found = REGISTRATION.shifts(labelled(made), labelled(still[None])[0], weighting=weighting)
    expected = [
        phase_cross_correlation(still, v, upsample_factor=10, normalization=normalization)[0]
        for v in made
    ]
    np.testing.assert_allclose(found.values / VOXEL, expected, atol=1e-6)


def test_whitening_fails_where_there_is_noise():
    still, made, true = noisy_copies(20, 4.0)
    reference = labelled(still[None])[0]
    plain, white = (
        np.abs(REGISTRATION.shifts(labelled(made), reference, weighting=w) / VOXEL - true)
        for w in ("none", "phase")
    )
    assert float(plain.median()) < 0.2
    assert float(white.median()) > 2 * float(plain.median())
    assert float(plain.max()) < 1.0 < float(white.max())


def test_a_particle_is_taken_out_of_the_average_it_is_held_against():
    _, made, _ = noisy_copies(4, 30.0)
    inside = REGISTRATION.shifts(labelled(made), leave_one_out=False)
    left_out = REGISTRATION.shifts(labelled(made))
    assert not inside.any()  # noise has found itself
    assert (abs(left_out).sum("axis") > 1).all()
    average = lv.stats.mean(labelled(made))
    again = REGISTRATION.shifts(labelled(made), average, leave_one_out=True)
    np.testing.assert_allclose(again, left_out)


@pytest.mark.parametrize("upsample", [1, 10])
def test_masked_shifts_are_those_of_skimage(upsample):
    still, made, true = noisy_copies(3, 0.1)
    flags = np.ones(still.shape, bool)
    flags[:, 9:14, :8] = False  # something else lies there
    made[:, ~flags] += 3.0
    mask = labelled(flags[None])[0].drop_vars("score")
    found = REGISTRATION.shifts(
        labelled(made), labelled(still[None])[0], mask=mask, upsample=upsample
    )
    if upsample == 1:
        expected = [
            phase_cross_correlation(still, v, reference_mask=flags, moving_mask=flags)[0]
            for v in made
        ]
        np.testing.assert_array_equal(found / VOXEL, expected)
    error = np.abs(found / VOXEL - true)
    assert float(error.max()) < (0.8 if upsample == 1 else 0.25)


def test_each_particle_may_have_its_own_mask_and_reference_its_own():
    still, made, true = noisy_copies(3, 0.0)
    own = np.random.default_rng(2).random(made.shape) > 0.1
    made[~own] = np.nan
    found = REGISTRATION.shifts(
        labelled(made),
        labelled(still[None])[0],
        mask=labelled(own),
        upsample=10,
        reference_mask=labelled(np.ones((1, *still.shape), bool))[0],
    )
    assert np.abs(found / VOXEL - true).max() < 0.3
    assert np.isnan(REGISTRATION.shifts(labelled(made), labelled(still[None])[0])).all()


def test_no_shift_is_longer_than_asked():
    rng = np.random.default_rng(3)
    made = labelled(rng.normal(size=(9, 8, 10, 12)))
    for options in ({}, {"mask": labelled(np.ones((1, 8, 10, 12), bool))[0]}):
        found = REGISTRATION.shifts(made, made.isel(k=0), max_shift=5.0, **options)
        length = np.sqrt((found**2).sum("axis"))
        assert 2.0 < float(length.max()) <= 5.0 + 1e-9
    assert not REGISTRATION.shifts(made, made.isel(k=0), max_shift=0.0).any()


def test_a_constant_particle_has_no_shift_and_becomes_nothing():
    still, made, _ = noisy_copies(3, 0.1)
    made[1] = 7.0
    stack = labelled(made)
    found = REGISTRATION.shifts(stack, labelled(still[None])[0])
    assert np.isnan(found[1]).all()
    assert not np.isnan(found[[0, 2]]).any()
    for order in (1, "fourier"):
        assert np.isnan(REGISTRATION.shift(stack, found, order=order)[1]).all()
    average = REGISTRATION.average(stack, found)
    assert float(average.weight.max()) == 2
    np.testing.assert_allclose(
        average.average, REGISTRATION.average(stack[[0, 2]], found[[0, 2]]).average
    )


def test_shifts_that_are_found_are_applied_in_one_graph_and_found_once():
    still, made, true = noisy_copies(6, 0.05)
    token = "shifted"
    source = CountingSource(made, (2, *still.shape), token)
    stack = labelled(source_array(source, ((2, 2, 2), *((n,) for n in still.shape))))
    with dask.config.set(scheduler=refuse):
        found = REGISTRATION.shifts(stack, labelled(still[None])[0])
        average = REGISTRATION.average(stack, found).average
        told = lv.explain(average)
    assert told.passes == 2
    READS[token].clear()
    error = average.compute(scheduler="sync") - still
    assert elements_read(token) == 2 * made.size
    inner = error[5:-5, 5:-5, 5:-5]
    assert float(abs(inner).max()) < 0.2 * still.std()
    assert np.abs(found / VOXEL - true).max() < 0.1


def refuse(*args, **kwargs):
    raise AssertionError("building computed something")


# moving and turning ----------------------------------------------------------------------------

MODES = {m: m for m in splines.FILTER_BOUNDARY} | {"wrap": "grid-wrap"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(40, 37, 43), (1, 2, 3)])
def test_every_border_is_that_of_scipy(mode, order, shape):
    if mode == "reflect" and order == 3 and shape == (1, 2, 3):
        pytest.skip("scipy's filter is wrong by 1e-3 on short lines: see below")
    a = np.random.default_rng(0).normal(size=(1, *shape))
    scipys = {"order": order, "mode": MODES[mode], "cval": 2.0}
    move = (2.3, -1.7, 0.9)
    stack = labelled(a)
    found = REGISTRATION.shift(stack, move, order=order, mode=mode, fill=2.0)
    expected = ndi.shift(a[0], np.array(move) / VOXEL, **scipys)
    np.testing.assert_allclose(found[0], expected, atol=1e-12)
    rotation = Rotation.from_rotvec([0.3, 0.5, -0.2])
    found = REGISTRATION.rotate(stack, rotation, order=order, mode=mode, fill=2.0)
    tolerance = 1e-6 if mode == "nearest" else 1e-11  # scipy's: it ends what it continues
    np.testing.assert_allclose(found[0], turned(a[0], rotation, **scipys), atol=tolerance)


@pytest.mark.parametrize("mode", splines.FILTER_BOUNDARY)
@pytest.mark.parametrize("n", [2, 3, 5, 50])
def test_splines_go_through_their_samples(mode, n):
    """scipy's filter misses them by 1e-3 where lines of 3 are reflected."""
    a = np.random.default_rng(0).normal(size=(n, n, n))
    found = a.copy()
    splines.prefilter(found, mode)
    for axis in range(3):
        beyond = "mirror" if mode == "constant" else "reflect" if mode == "nearest" else mode
        before, after = (splines.boundary_indices(np.arange(n) + d, n, beyond) for d in (-1, 1))
        found = (np.take(found, before, axis) + 4 * found + np.take(found, after, axis)) / 6
    np.testing.assert_allclose(found, a, atol=1e-13)


def test_whole_voxels_and_quarter_turns_lose_nothing():
    a = values("float32", (2, 6, 7, 7))
    stack = lv.as_stack(a, voxel_size=(3.0, 2.0, 2.0))
    found = REGISTRATION.shift(stack, {"z": -3.0, "x": 4.0})
    np.testing.assert_array_equal(found[:, :-1, :, 2:], a[:, 1:, :, :-2])
    assert not found[:, -1].any()
    for order in (1, 3):
        turns_of = [REGISTRATION.rotate(stack, 90.0 * n, order=order) for n in (1, 2, 4)]
        for n, once in zip((1, 2, 4), turns_of, strict=True):
            expected = np.rot90(a, n, axes=(3, 2))  # from x towards y
            np.testing.assert_allclose(once, expected, atol=1e-5)


def test_float32_is_as_exact_as_float64():
    a = values("float32", (3, 9, 10, 11))
    for op in (
        lambda s: REGISTRATION.shift(s, {"y": 0.7}),
        lambda s: REGISTRATION.rotate(s, (10.0, 20.0, 30.0)),
        lambda s: REGISTRATION.average(s, rotations=25.0).average,
    ):
        found, exact = op(lv.as_stack(a)), op(lv.as_stack(a.astype("f8")))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, exact.astype("f4"))


@pytest.mark.parametrize("dtype", [">f4", ">i2", "float16", "bool"])
def test_any_numbers_in_any_layout(dtype):
    a = (values("float32", (4, 6, 10, 7)) * 3).astype(dtype)
    strided = lv.as_stack(a[::2, :, ::-1, 1:])
    plain = lv.as_stack(np.ascontiguousarray(a[::2, :, ::-1, 1:], np.float64))
    for op in (
        lambda s: REGISTRATION.shift(s, {"y": 0.7}),
        lambda s: REGISTRATION.shift(s, {"y": 0.7}, order="fourier"),
        lambda s: REGISTRATION.rotate(s, 20.0),
        lambda s: REGISTRATION.average(s, rotations=20.0).average,
        lambda s: REGISTRATION.shifts(s, s.isel(k=0)),
        lambda s: REGISTRATION.align(s, s.isel(k=0), Rotation.identity(), finest=None).average,
    ):
        np.testing.assert_allclose(op(strided), op(plain), rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize("shape", [(5, 7, 9), (6, 8, 10)])
def test_phases_there_and_back(shape):
    smooth = ndi.gaussian_filter(
        np.random.default_rng(0).normal(size=(2, *shape)), (0, 1, 1, 1), mode="wrap"
    )
    stack = lv.as_stack(smooth)
    there = REGISTRATION.shift(stack, (1.3, -0.4, 2.2), order="fourier")
    back = REGISTRATION.shift(there, (-1.3, 0.4, -2.2), order="fourier")
    np.testing.assert_allclose(back, smooth, atol=1e-14 if shape[0] % 2 else 5e-3)
    for move in ((0.3, 0, 0), (0, -1.4, 0), (0, 0, 2.6)):
        found = REGISTRATION.shift(stack, move, order="fourier")
        np.testing.assert_allclose(found[1], moved(smooth[1], move), atol=1e-14)
    whole = REGISTRATION.shift(stack, (1, -2, 3), order="fourier")
    np.testing.assert_allclose(whole, np.roll(smooth, (1, -2, 3), (1, 2, 3)), atol=1e-14)


def test_positions_that_run_backwards_turn_the_other_way():
    a = values("float64", (1, 5, 9, 9))
    stack = lv.as_stack(a)
    mirrored = stack.assign_coords(x=-stack.x)
    plain = REGISTRATION.rotate(stack, -30.0, order=1)
    np.testing.assert_allclose(REGISTRATION.rotate(mirrored, 30.0, order=1), plain, atol=1e-12)
    np.testing.assert_allclose(
        REGISTRATION.shift(mirrored, {"x": -1.5}), REGISTRATION.shift(stack, {"x": 1.5})
    )
    reference = mirrored.isel(k=0)
    back = REGISTRATION.shifts(REGISTRATION.shift(mirrored, {"x": -2.0}), reference)
    np.testing.assert_allclose(back, [[0, 0, 2.0]])


def test_rotations_are_said_in_many_ways():
    stack = labelled(values("float64"))
    rotations = Rotation.from_rotvec(np.random.default_rng(0).normal(size=(7, 3)))
    expected = REGISTRATION.rotate(stack, rotations)
    euler = rotations.as_euler("ZYZ", degrees=True)
    table = xr.DataArray(
        euler[:, ::-1], dims=("k", "angle"), coords={"angle": ["psi", "tilt", "rot"]}
    )
    lazily = xr.DataArray(da.from_array(euler, chunks=2), dims=("k", "angle"))
    for said in (table, lazily):
        np.testing.assert_allclose(REGISTRATION.rotate(stack, said), expected, atol=1e-11)
    one = REGISTRATION.rotate(stack, rotations[3])
    np.testing.assert_array_equal(one[3], expected[3])
    np.testing.assert_allclose(REGISTRATION.rotate(stack, tuple(euler[3]))[3], expected[3])
    about = REGISTRATION.rotate(stack, xr.DataArray(np.arange(7) * 20.0, dims="k"))
    np.testing.assert_allclose(about[2], REGISTRATION.rotate(stack, (40.0, 0.0, 0.0))[2])


def test_angles_of_rotations_give_them_back():
    rotations = Rotation.from_rotvec(np.random.default_rng(0).normal(size=(500, 3)) * 3)
    edges = Rotation.from_euler("ZYZ", [[10, 0, 20], [0, 0, 0], [30, 180, 40]], degrees=True)
    for given_rotations in (rotations, edges):
        angles = rotation_grids.to_euler(given_rotations.as_quat())
        again = Rotation.from_euler("ZYZ", angles, degrees=True)
        assert np.max((again * given_rotations.inv()).magnitude()) < 1e-7
        assert ((angles[:, 1] >= 0) & (angles[:, 1] <= 180)).all()


def test_images_turn_and_move_and_are_averaged():
    images = xr.DataArray(values("float32", (4, 21, 30)), dims=("k", "y", "x"))
    angles = xr.DataArray([0.0, 90.0, 180.0, 30.0], dims="k")
    found = REGISTRATION.rotate(images, angles, order=1)
    np.testing.assert_array_equal(found[0], images[0])
    assert REGISTRATION.average(images, rotations=angles).average.shape == (21, 30)
    shifts = REGISTRATION.shifts(images.roll(x=2), images)
    np.testing.assert_allclose(shifts, [[0, -2]] * 4)
    assert shifts.axis.values.tolist() == ["y", "x"]
    with pytest.raises(LabelError, match="about z alone"):
        REGISTRATION.rotate(images, (10, 20, 30))


def test_other_dims_are_left_alone():
    a = values("float32", (3, 2, 6, 7, 8))
    grid = xr.DataArray(da.from_array(a, chunks=(1, 1, 3, 7, 8)), dims=("k", "channel", *VOLUME))
    moves = xr.DataArray(
        np.random.default_rng(0).normal(size=(3, 2, 3)), dims=("k", "channel", "axis")
    )
    shifted = REGISTRATION.shift(grid, moves, order=1)
    np.testing.assert_allclose(shifted[2, 1], ndi.shift(a[2, 1], moves[2, 1], order=1), atol=1e-6)
    average = REGISTRATION.average(grid, moves, rotations=20.0)
    assert average.average.dims == ("channel", *VOLUME)
    single = REGISTRATION.average(grid.isel(channel=1), moves.isel(channel=1), rotations=20.0)
    np.testing.assert_array_equal(average.average[1], single.average)
    found = REGISTRATION.shifts(grid, grid.isel(k=0))
    assert found.dims == ("k", "channel", "axis")
    assert not found[0].any()


# refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s: REGISTRATION.shifts(s, "mean"), "'average', a volume or a stack"),
        (lambda s: REGISTRATION.shifts(s, s.isel(z=0)), "reference must have the dims"),
        (
            lambda s: REGISTRATION.shifts(s, upsample=0),
            "upsample must be a whole",
        ),
        (lambda s: REGISTRATION.shifts(s, upsample=1.5), "a whole number"),
        (lambda s: REGISTRATION.shifts(s, max_shift=-1.0), "length of 0 or more"),
        (lambda s: REGISTRATION.shifts(s, weighting="white"), "'none', 'phase'"),
        (lambda s: REGISTRATION.shifts(s, mask=s), "mask must be boolean"),
        (
            lambda s: REGISTRATION.shifts(s, mask=s > 0, overlap=2.0),
            "overlap must be",
        ),
        (
            lambda s: REGISTRATION.shifts(s, mask=s > 0, weighting="phase"),
            "must be 'none' with a mask",
        ),
        (lambda s: REGISTRATION.shifts(s.isel(k=[0])), "two or more particles"),
        (lambda s: REGISTRATION.shifts(s.isel(k=0)), "without the dim .k."),
        (lambda s: REGISTRATION.shifts(s, s, leave_one_out=True), "leave_one_out=False"),
        (lambda s: REGISTRATION.shifts(s * 1j), "real numbers"),
        (lambda s: REGISTRATION.shift(s, (1, 2)), r"shape \(3,\), a number for each"),
        (lambda s: REGISTRATION.shift(s, {"t": 1.0}), "shifts must name"),
        (lambda s: REGISTRATION.shift(s, {"z": 1.0}, order=2), "one of 1, 3"),
        (lambda s: REGISTRATION.shift(s, {"z": 1.0}, mode="edge"), "mode must be one of"),
        (lambda s: REGISTRATION.shift(s, table(s, 2)), "shifts must have the labels"),
        (
            lambda s: REGISTRATION.shift(s, table(s, 3).rename(k="n")),
            "must have the dim 'axis'",
        ),
        (lambda s: REGISTRATION.shift(s, table(s, 3)[:2]), "lengths 7 and 2"),
        (lambda s: REGISTRATION.shift(s, table(s, 3).assign_attrs(units="nm")), "convert one"),
        (lambda s: REGISTRATION.rotate(s, (1.0, 2.0)), r"rotations must have the shape \(3,\)"),
        (lambda s: REGISTRATION.rotate(s, Rotation.random(3)), "one for each of the 7"),
        (
            lambda s: REGISTRATION.rotate(s.isel(z=0, drop=True).rename(y="z"), 3.0),
            "dims z, y, x or y, x",
        ),
        (lambda s: REGISTRATION.average(s.isel(k=0)), "average: stack must have the dim 'k'"),
        (lambda s: REGISTRATION.average(s, weights=[1.0, 2.0]), "one number for each of the 7"),
        (lambda s: REGISTRATION.average(s, wedge=s.isel(z=0)), "wedge must have the dims"),
        (lambda s: REGISTRATION.average(s.isel(z=0), wedge=(-60, 60)), "wedge"),
        (lambda s: REGISTRATION.align(s.rename(k="n"), s.isel(k=0)), "stack must have the dims"),
        (lambda s: REGISTRATION.align(s.isel(y=0), s.isel(k=0)), "stack must have the dims"),
        (lambda s: REGISTRATION.align(s, s.isel(k=0), 0.5), "from 1 to 180 degrees"),
        (lambda s: REGISTRATION.align(s, s.isel(k=0), finest=0.0), "finest must be a step above 0"),
        (
            lambda s: REGISTRATION.align(s, s.isel(k=0), resolution=1.0),
            "from two voxels",
        ),
        (
            lambda s: REGISTRATION.align(s, s.isel(k=0), symmetry=0),
            "symmetry must be",
        ),
        (
            lambda s: REGISTRATION.align(s, s.isel(k=0), iterations=0),
            "iterations must be",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_when_it_is_built(call, words):
    stack = chunked(values("float32"), (3, 2, 4, 7))
    with dask.config.set(scheduler=refuse), pytest.raises((LabelError, OptionError), match=words):
        call(stack)


def table(stack, n):
    return xr.DataArray(np.zeros((stack.sizes["k"], n)), dims=("k", "axis"))
