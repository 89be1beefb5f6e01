"""Averages and alignments of noisy particles of known pose, and of real particles."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration import rotational_correlation
from lazyvol.plan.graph.lazy_array import source_array
from tests.cases import UNIT
from tests.paths import DATA
from tests.sources import READS, CountingSource, elements_read
from tests.strategies import FEW, chunked, chunkings, values

REGISTRATION = lv.registration

FOLDER = DATA / "cryoet_warp_70s"
#: centres, heights and widths of the Gaussians of an asymmetric body, in voxels of a box of 32
BLOBS = [
    ((0, 0, 0), 1.0, 3.0), ((6, 0, 2), 1.0, 2.0), ((-2, 7, 0), 1.0, 2.0), ((-3, -4, 5), 0.8, 2.0),
    ((3, -5, -5), 0.7, 1.5),
]  # fmt: skip


def body(shape=(32, 32, 32), step=(1.0, 1.0, 1.0), rotation=None, shift=(0.0, 0.0, 0.0)):
    """A particle that ``shift`` and then ``rotation`` align to the body, by formula."""
    matrix = np.eye(3) if rotation is None else rotation.as_matrix()[::-1, ::-1]
    places = [(np.arange(n) - n // 2) * s for n, s in zip(shape, step, strict=True)]
    at = (np.stack(np.meshgrid(*places, indexing="ij"), -1) + shift) @ matrix.T
    return sum(h * np.exp(-((at - c) ** 2).sum(-1) / 2 / w**2) for c, h, w in BLOBS)


def posed(k, noise, seed=0, **options):
    """Noisy particles, and the rotations and shifts that align them."""
    rng = np.random.default_rng(seed)
    rotations = Rotation.from_rotvec(rng.normal(size=(k, 3)) * 2)
    shifts = rng.uniform(-2, 2, (k, 3))
    poses = zip(rotations, shifts, strict=True)
    particles = np.stack([body(**options, rotation=r, shift=s) for r, s in poses])
    particles += noise * particles.std() * rng.normal(size=particles.shape)
    return particles.astype(np.float32), rotations, shifts


def without_wedge(particles, mask):
    """Particles without the frequencies where a mask is 0."""
    return np.fft.ifftn(np.fft.fftn(particles, axes=(1, 2, 3)) * mask, axes=(1, 2, 3)).real


def degrees(aligned, rotations):
    """Angles between the rotations of a result and the expected ones."""
    result = Rotation.from_euler("ZYZ", aligned.rotations.values, degrees=True)
    return np.rad2deg((result * rotations.inv()).magnitude())


def refuse(*args, **kwargs):
    raise AssertionError("building computed something")


# averages --------------------------------------------------------------------------------------


def test_missing_voxels_do_not_count():
    a = np.ones((3, 4, 5, 6))
    a[0, 1, 2, 3] = np.nan
    a[1] = 4.0
    shifts = xr.DataArray([[0.0, 0, 0], [0, 0, 2], [0, 0, 0]], dims=("k", "axis"))
    result = REGISTRATION.average(lv.as_stack(a), shifts, weights=[1.0, 2.0, 0.0])
    np.testing.assert_array_equal(result.weight[0, 0], [1, 1, 3, 3, 3, 3])
    np.testing.assert_array_equal(result.average[0, 0], [1, 1, 3, 3, 3, 3])
    assert (float(result.weight[1, 2, 3]), float(result.average[1, 2, 3])) == (2, 4)
    empty = REGISTRATION.average(lv.as_stack(a), weights=[0.0, np.nan, 0.0])
    assert np.isnan(empty.average).all()
    assert not empty.weight.any()


def test_missing_wedges_of_rotated_particles_are_compensated():
    _, rotations, shifts = posed(30, 0.0)
    poses = zip(rotations, shifts, strict=True)
    particles = np.stack([body(rotation=r, shift=s) for r, s in poses])
    wedge = lv.synthetic.wedge(particles.shape[1:], (-50, 50)).compute()
    stack = lv.as_stack(without_wedge(particles, wedge.values))
    moves = xr.DataArray(shifts, dims=("k", "axis"))
    errors = []
    for options in ({}, {"wedge": (-50, 50)}, {"wedge": wedge}):
        average = REGISTRATION.average(stack, moves, rotations, **options).average
        inner = (slice(6, -6),) * 3
        scale = np.vdot(average.values[inner], body()[inner]) / np.vdot(
            body()[inner], body()[inner]
        )
        errors.append((abs(average - body())[inner].max().item(), scale))
    assert errors[0][1] < 0.7
    assert 0.93 < errors[1][1] < 1.05
    assert errors[1][0] < errors[0][0] / 3
    assert errors[1] == pytest.approx(errors[2])


def test_a_wedge_rotates_with_its_particle():
    """Unmeasured frequencies of a single particle are nearly 0, so compensation amplifies little (9
    times the power; 33 times with the inverse rotation)."""
    rotation = Rotation.from_rotvec([0.9, 0.2, -0.4])
    noise = np.random.default_rng(0).normal(size=(33, 32, 30))
    wedge = lv.synthetic.wedge(noise.shape, (-50, 50)).compute()
    stack = lv.as_stack(np.fft.ifftn(np.fft.fftn(noise) * wedge.values).real[None])
    plain, compensated = (
        REGISTRATION.average(stack, rotations=rotation, wedge=w).average for w in (None, wedge)
    )
    assert float((compensated**2).sum()) < 15 * float((plain**2).sum())


def test_particles_that_were_rotated_before_keep_their_wedges():
    """An average of rotated particles, with their orientations, is that of the unrotated ones."""
    _, rotations, _ = posed(12, 0.0)
    wedge = lv.synthetic.wedge(body().shape, (-50, 50)).compute()
    particles = np.stack([body(rotation=r) for r in rotations])
    stack = lv.as_stack(without_wedge(particles, wedge.values))
    turned = REGISTRATION.rotate(stack, rotations)
    inner = (slice(6, -6),) * 3
    errors = [
        abs(result.average.values - body())[inner].max()
        for result in (
            REGISTRATION.average(stack, rotations=rotations, wedge=(-50, 50)),
            REGISTRATION.average(turned, wedge=(-50, 50), orientations=rotations),
            REGISTRATION.average(turned, wedge=wedge, orientations=rotations),
            REGISTRATION.average(turned, wedge=(-50, 50)),
        )
    ]
    assert errors[1] < 1.5 * errors[0]
    assert errors[2] == pytest.approx(errors[1])
    assert errors[3] > 1.5 * errors[1]
    with pytest.raises(LabelError, match="orientations must be None without a wedge"):
        REGISTRATION.average(turned, orientations=rotations)


def test_orientations_rotate_the_wedge_of_an_alignment():
    """The coefficient through the true wedge is larger than through one that was not rotated."""
    _, rotations, _ = posed(2, 0.0)
    wedge = lv.synthetic.wedge(body().shape, (-40, 40)).compute()
    particles = without_wedge(np.stack([body(rotation=r) for r in rotations]), wedge.values)
    turned = REGISTRATION.rotate(lv.as_stack(particles), rotations)
    options = {"angles": 10.0, "rotations": (0.0, 0.0, 0.0), "finest": 5.0, "wedge": (-40, 40)}
    right, wrong = (
        REGISTRATION.align(turned, lv.as_stack(body()), orientations=o, **options)
        for o in (rotations, None)
    )
    assert (right.ncc > wrong.ncc + 0.01).all()


@given(grid=chunkings(), data=st.data())
@FEW
def test_an_average_is_the_mean_of_shifted_particles(grid, data):
    order = data.draw(st.sampled_from([1, 3]))
    array = values("float64")
    stack = chunked(array, grid)
    shifts = xr.DataArray(np.random.default_rng(1).normal(size=(7, 3)) * 3, dims=("k", "axis"))
    shifted = REGISTRATION.shift(stack, shifts, order=order, fill=np.nan)
    average = REGISTRATION.average(stack, shifts, order=order)
    with dask.config.set(scheduler="sync"):
        expected = shifted.mean("k", skipna=True).values
        np.testing.assert_allclose(average.average.values, expected, atol=1e-12)


# alignment -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned():
    """Noisy particles, their alignment in two rounds of half-sets, and the expected poses."""
    particles, rotations, shifts = posed(8, 1.0)
    stack = lv.as_stack(da.from_array(particles, chunks=(3, 16, 32, 32)), voxel_size=4.0, unit=UNIT)
    stack = stack.assign_coords(half=("k", [2, 2, 1, 1, 2, 1, 2, 1]))
    reference = lv.as_stack(body(), voxel_size=4.0, unit=UNIT)
    with dask.config.set(scheduler=refuse):
        result = REGISTRATION.align(
            stack, reference, 25.0, max_shift=16.0, iterations=2, halves=True
        )
        assert lv.explain(result).passes == 0  # over stores: there are none
    return stack, result.compute(), rotations, shifts


def test_poses_of_noisy_particles_are_found(aligned):
    _, result, rotations, shifts = aligned
    assert degrees(result, rotations).max() < 3
    assert np.abs(result.shifts / 4 - shifts).max() < 0.25
    assert result.rotations.dims == ("k", "angle")
    assert result.shifts.axis.values.tolist() == ["z", "y", "x"]
    assert (result.shifts.attrs["units"], result.rotations.attrs["units"]) == (UNIT, "degree")
    assert float(result.ncc.min()) > 0.3


def test_the_average_of_an_alignment_is_that_of_its_poses(aligned):
    stack, result, _, _ = aligned
    expected = REGISTRATION.average(stack, result.shifts, result.rotations).average.compute()
    np.testing.assert_allclose(result.average, expected, atol=1e-5)
    for name, half in (("first", 1), ("second", 2)):
        members = stack.half.values == half
        expected = REGISTRATION.average(
            stack[members], result.shifts[members], result.rotations[members]
        ).average.compute()
        np.testing.assert_allclose(result[name], expected, atol=1e-5)
    halves = lv.scores.fsc(result["first"].fillna(0), result["second"].fillna(0))
    assert float(halves[1:4].min()) > 0.7


def test_each_round_reads_every_particle_once():
    particles, _, _ = posed(6, 0.5, shape=(12, 12, 12))
    token = "aligned"
    source = CountingSource(particles, (2, 6, 12, 12), token)
    stack = lv.as_stack(source_array(source, ((2, 2, 2), (6, 6), (12,), (12,))))
    result = REGISTRATION.align(
        stack, stack.isel(k=0).compute(), 60.0, finest=20.0, resolution=4.0, iterations=2
    )
    plan = lv.explain(result)
    READS[token].clear()
    result.compute(scheduler="sync")
    assert elements_read(token) == 2 * particles.size
    assert plan.passes == 2
    assert plan.tasks <= 2 * 3 + 4  # of blocks, and of references


@pytest.mark.parametrize("wedge", [None, (-60.0, 60.0), "mask"])
def test_anisotropic_voxels_and_wedges(wedge):
    """Unmeasured frequencies have no influence."""
    step, shape = (1.5, 1.0, 1.2), (22, 32, 27)
    particles, rotations, shifts = posed(4, 0.3, shape=shape, step=step)
    stack = lv.as_stack(particles, voxel_size=step)
    reference = lv.as_stack(body(shape, step), voxel_size=step)
    if wedge is not None:
        mask = lv.synthetic.wedge(reference).compute()
        stack = stack.copy(data=without_wedge(particles, mask.values).astype(np.float32))
        wedge = mask if wedge == "mask" else wedge
    result = REGISTRATION.align(stack, reference, 20.0, finest=3.0, max_shift=4.0, wedge=wedge)
    assert degrees(result, rotations).max() < 2.5
    assert np.abs(result.shifts - shifts).max() < 0.2
    if wedge is not None:
        unaware = REGISTRATION.align(stack, reference, 20.0, finest=3.0, max_shift=4.0)
        assert (result.ncc > unaware.ncc).all()


def test_without_noise_poses_are_exact():
    particles, rotations, shifts = posed(3, 0.0)
    reference = lv.as_stack(body())
    result = REGISTRATION.align(lv.as_stack(particles), reference, 25.0, max_shift=4.0)
    assert degrees(result, rotations).max() < 0.1
    assert np.abs(result.shifts - shifts).max() < 0.01
    assert float(result.ncc.min()) > 0.999
    refined = REGISTRATION.align(
        lv.as_stack(particles), reference, 4.0, finest=1.0, max_shift=1.0, rotations=rotations,
        shifts=xr.DataArray(shifts + 0.4, dims=("k", "axis")),
    )  # fmt: skip
    assert degrees(refined, rotations).max() < 0.1
    assert np.abs(refined.shifts - shifts).max() < 0.01


def test_given_rotations_are_tried():
    particles, rotations, _ = posed(4, 0.2)
    reference = lv.as_stack(body())
    result = REGISTRATION.align(lv.as_stack(particles), reference, rotations, finest=None)
    assert degrees(result, rotations).max() < 1e-6
    near = Rotation.from_rotvec([0.0, 0.05, 0.05]) * rotations
    result = REGISTRATION.align(lv.as_stack(particles), reference, near, finest=1.0)
    assert degrees(result, rotations).max() < 1.5


def test_a_search_climbs_beyond_one_step():
    particles, rotations, _ = posed(3, 0.1)
    reference = lv.as_stack(body())
    near = Rotation.from_rotvec([0.3, -0.2, 0.2]) * rotations  # 24 degrees
    result = REGISTRATION.align(
        lv.as_stack(particles), reference, 4.0, finest=3.9, rotations=near, max_shift=4.0
    )
    assert degrees(result, rotations).max() < 1.5


def test_each_half_is_compared_with_its_own_average():
    """Odd particles are of another body, which is the reference of their half after a round."""
    stack = lv.as_stack(np.stack([body(), body()[::-1]] * 2))
    options = {"finest": None, "halves": True, "max_shift": 0.0}
    rounds = [
        REGISTRATION.align(stack, stack.isel(k=0), Rotation.identity(), iterations=n, **options)
        for n in (1, 2)
    ]
    assert float(rounds[0].ncc[1::2].max()) < 0.9
    assert float(rounds[1].ncc.min()) > 0.98
    np.testing.assert_allclose(rounds[0]["second"], body()[::-1], atol=1e-12)


def test_a_cylinder_is_aligned_by_its_axis_alone():
    rod = lv.synthetic.cylinder((24, 24, 24), radius=4, length=16, soft=2).compute()
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(rng.normal(size=(6, 3)) * 2)
    stack = REGISTRATION.rotate(rod.expand_dims(k=6).copy(), rotations)
    stack = stack + (0.3 * rng.normal(size=stack.shape)).astype(np.float32)
    result = REGISTRATION.align(stack, rod, symmetry="cylinder", finest=3.0, max_shift=3.0)
    residual = Rotation.from_euler("ZYZ", result.rotations.values, degrees=True) * rotations
    tilt = np.rad2deg(np.arccos(np.abs(residual.as_matrix()[:, 2, 2]).clip(0, 1)))
    assert tilt.max() < 3
    upright = np.array([0.0, 0.0, 0.0, 1.0])
    assert (
        len(rotation_grids.neighbours(upright, 5.0)),
        len(rotation_grids.neighbours(upright, 5.0, np.inf)),
    ) == (15, 5)
    assert len(rotation_grids.uniform(20.0, np.inf)) < len(rotation_grids.uniform(20.0)) / 10
    assert len(rotation_grids.uniform(20.0, 6)) == pytest.approx(
        len(rotation_grids.uniform(20.0)) / 6, rel=0.05
    )


def test_particles_without_a_pose_are_nan_and_left_out():
    particles, rotations, _ = posed(3, 0.2)
    particles[1] = 3.0
    particles[2, 4:6, 3, 2] = np.nan
    result = REGISTRATION.align(lv.as_stack(particles), lv.as_stack(body()), rotations, finest=None)
    assert np.isnan(result.rotations[1]).all()
    assert np.isnan(result.ncc[1])
    assert not np.isnan(result.ncc[[0, 2]]).any()
    inner = result.average[8:-8, 8:-8, 8:-8]
    assert not np.isnan(inner).any()


def test_a_mask_excludes_its_surroundings():
    particles, rotations, _ = posed(3, 0.1)
    reference = body()
    reference[:3] += 4.0  # another object near the border
    mask = lv.synthetic.sphere((32, 32, 32), radius=11, soft=3).compute()
    masked, without = (
        REGISTRATION.align(
            lv.as_stack(particles), lv.as_stack(reference), rotations, finest=None, mask=m
        )
        for m in (mask, None)
    )
    assert float(masked.ncc.min()) > 0.9 > float(without.ncc.max())


def test_rotated_references_and_their_correlation_sums():
    """The mean of the surroundings is subtracted: otherwise a box rotates with the reference."""
    rotation = Rotation.from_rotvec([0.5, -1.0, 0.8])
    matrix = rotation_grids.zyx_matrices(rotation.as_quat()[None])
    frequencies = rotational_correlation.Frequencies.up_to((32, 32, 32), (1, 1, 1), [0.1, 0.35])[-1]
    reference = rotational_correlation.ReferenceSpectrum.from_volume(body() + 5.0, (1, 1, 1), 0.35)
    particle = rotational_correlation.spectrum_at(body(rotation=rotation), frequencies)
    rotated = reference.rotated(matrix, frequencies)[0]
    norms = np.linalg.norm(rotated) * np.linalg.norm(particle)
    assert np.vdot(rotated, particle).real > 0.9998 * norms
    cross = rotated * np.conj(particle)
    weight = frequencies.multiplicity
    product, gradient, hessian, power = reference.correlation_sums(
        matrix, frequencies, np.conj(particle) * weight, weight
    )
    assert product[0] == pytest.approx((weight * cross.real).sum(), rel=1e-4)
    assert power[0] == pytest.approx((weight * abs(rotated) ** 2).sum(), rel=1e-4)
    for axis in range(3):
        shifts = 0.01 * np.array([1, 0, -1])
        waves = np.exp(2j * np.pi * shifts[:, None] * frequencies.cycles[:, axis])
        high, middle, low = (weight * (waves * cross).real).sum(1)
        assert gradient[0, axis] == pytest.approx(
            (high - low) / 0.02, rel=1e-2, abs=abs(middle) * 1e-2
        )
        assert hessian[0, axis, axis] == pytest.approx((high - 2 * middle + low) / 1e-4, rel=1e-2)


def test_coarse_shifts_are_where_the_sum_over_frequencies_is_highest():
    shape, step = (10, 12, 9), (1.5, 1.0, 2.0)
    frequencies = rotational_correlation.Frequencies.up_to(shape, step, [0.2])[0]
    window = rotational_correlation.ShiftWindow.within(shape, step, frequencies, 4.0)
    rng = np.random.default_rng(0)
    n = len(frequencies.index)
    cross = (rng.normal(size=(3, n)) + 1j * rng.normal(size=(3, n))).astype("c8")
    cross[:, frequencies.index[:, 2] == 0] = 1.0  # both frequencies of a pair are listed there
    heights, shifts = window.peaks(cross)
    lengths = window.shifts * window.voxel
    assert np.linalg.norm(lengths, axis=1).max() <= 4.0
    waves = np.exp(2j * np.pi * lengths @ frequencies.cycles.T)
    expected = ((waves[None] * cross[:, None]).real * frequencies.multiplicity).sum(-1)
    np.testing.assert_allclose(heights, expected.max(1), rtol=1e-5)
    np.testing.assert_array_equal(shifts, window.shifts[expected.argmax(1)])


# real particles --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ribosomes():
    if not FOLDER.is_dir():
        pytest.skip("the real particles are missing")
    rows = (line.split() for line in (FOLDER / "particles.star").read_text().splitlines())
    angles = [[float(v) for v in r[5:8]] for r in rows if r and r[0].startswith("Unt_")]
    loaded = {n: lv.open(FOLDER / f"subtomos_{n}.mrc").compute() for n in ("unaligned", "aligned")}
    return loaded["unaligned"], loaded["aligned"], np.array(angles)


def test_angles_of_relion_align_particles_to_the_reference(ribosomes):
    unaligned, expected, angles = ribosomes
    rotated = REGISTRATION.rotate(unaligned, xr.DataArray(angles, dims=("k", "angle")))
    assert float(lv.scores.ncc(rotated, expected).mean()) > 0.9
    inverse = REGISTRATION.rotate(unaligned, Rotation.from_euler("ZYZ", angles, degrees=True).inv())
    assert abs(float(lv.scores.ncc(inverse, expected).mean())) < 0.1


def test_rotated_ribosomes_are_aligned(ribosomes):
    """The average of 20, rotated and shifted, with noise of half the real amplitude."""
    _, aligned_particles, _ = ribosomes
    reference = lv.stats.mean(aligned_particles)
    rng = np.random.default_rng(5)
    rotations = Rotation.from_rotvec(rng.normal(size=(4, 3)) * 2)
    shifts = xr.DataArray(rng.uniform(-24, 24, (4, 3)), dims=("k", "axis"))
    copies = REGISTRATION.rotate(reference.expand_dims(k=4).copy(), rotations.inv())
    copies = REGISTRATION.shift(copies, -shifts)
    noise = (aligned_particles - reference).values[:4, ::-1, :, ::-1] * 0.5
    result = REGISTRATION.align(
        copies + noise, reference, 20.0, finest=4.0, max_shift=48.0, resolution=40.0,
        mask=lv.synthetic.sphere(reference, radius=160, soft=36).compute(),
    )  # fmt: skip
    assert np.median(degrees(result, rotations)) < 5
    assert float(np.abs(result.shifts - shifts).median()) < 6
