"""Averages and alignments: particles of known pose under noise, and real ones."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.kernels.geometry import rotation_grids
from lazyvol.kernels.registration import rotational_correlation
from lazyvol.plan.graph.lazy_array import source_array
from tests.cases import UNIT
from tests.paths import DATA
from tests.sources import READS, CountingSource, elements_read
from tests.strategies import FEW, chunked, chunkings, values

REGISTRATION = lv.registration

FOLDER = DATA / "cryoet_warp_70s"
#: centres, heights and widths of the blobs of a body without symmetry, in voxels of a box of 32
BLOBS = [
    ((0, 0, 0), 1.0, 3.0), ((6, 0, 2), 1.0, 2.0), ((-2, 7, 0), 1.0, 2.0), ((-3, -4, 5), 0.8, 2.0),
    ((3, -5, -5), 0.7, 1.5),
]  # fmt: skip


def body(shape=(32, 32, 32), step=(1.0, 1.0, 1.0), rotation=None, shift=(0.0, 0.0, 0.0)):
    """The body by its formula as a particle that ``shift`` and then ``rotation`` bring to it."""
    matrix = np.eye(3) if rotation is None else rotation.as_matrix()[::-1, ::-1]
    places = [(np.arange(n) - n // 2) * s for n, s in zip(shape, step, strict=True)]
    at = (np.stack(np.meshgrid(*places, indexing="ij"), -1) + shift) @ matrix.T
    return sum(h * np.exp(-((at - c) ** 2).sum(-1) / 2 / w**2) for c, h, w in BLOBS)


def posed(k, noise, seed=0, **options):
    """Noisy particles of known poses, (array, rotations, shifts)."""
    rng = np.random.default_rng(seed)
    rotations = Rotation.from_rotvec(rng.normal(size=(k, 3)) * 2)
    shifts = rng.uniform(-2, 2, (k, 3))
    poses = zip(rotations, shifts, strict=True)
    made = np.stack([body(**options, rotation=r, shift=s) for r, s in poses])
    made += noise * made.std() * rng.normal(size=made.shape)
    return made.astype(np.float32), rotations, shifts


def degrees(found, rotations):
    """Angles between rotations that were found and the true ones."""
    own = Rotation.from_euler("ZYZ", found.rotations.values, degrees=True)
    return np.rad2deg((own * rotations.inv()).magnitude())


def refuse(*args, **kwargs):
    raise AssertionError("building computed something")


# averages --------------------------------------------------------------------------------------


def test_voxels_that_are_not_there_do_not_count():
    a = np.ones((3, 4, 5, 6))
    a[0, 1, 2, 3] = np.nan
    a[1] = 4.0
    moves = xr.DataArray([[0.0, 0, 0], [0, 0, 2], [0, 0, 0]], dims=("k", "axis"))
    found = REGISTRATION.average(lv.as_stack(a), moves, weights=[1.0, 2.0, 0.0])
    np.testing.assert_array_equal(found.weight[0, 0], [1, 1, 3, 3, 3, 3])
    np.testing.assert_array_equal(found.average[0, 0], [1, 1, 3, 3, 3, 3])
    assert (float(found.weight[1, 2, 3]), float(found.average[1, 2, 3])) == (2, 4)
    none = REGISTRATION.average(lv.as_stack(a), weights=[0.0, np.nan, 0.0])
    assert np.isnan(none.average).all()
    assert not none.weight.any()


def test_missing_wedges_of_turned_particles_are_made_good():
    _, rotations, shifts = posed(30, 0.0)
    full = np.stack([body(rotation=r, shift=s) for r, s in zip(rotations, shifts, strict=True)])
    stack = lv.as_stack(full)
    wedge = lv.synthetic.wedge(stack.isel(k=0), (-50, 50)).compute()
    cut = np.fft.ifftn(np.fft.fftn(full, axes=(1, 2, 3)) * wedge.values, axes=(1, 2, 3)).real
    moves = xr.DataArray(shifts, dims=("k", "axis"))
    errors = []
    for options in ({}, {"wedge": (-50, 50)}, {"wedge": wedge}):
        found = REGISTRATION.average(lv.as_stack(cut), moves, rotations, **options).average
        inner = (slice(6, -6),) * 3
        scale = np.vdot(found.values[inner], body()[inner]) / np.vdot(body()[inner], body()[inner])
        errors.append((abs(found - body())[inner].max().item(), scale))
    assert errors[0][1] < 0.7
    assert 0.93 < errors[1][1] < 1.05
    assert errors[1][0] < errors[0][0] / 3
    assert errors[1] == pytest.approx(errors[2])


def test_a_wedge_turns_with_its_particle():
    """What one particle did not measure is nearly empty: little is blown up to be made good of
    (9 times the power, turned the other way 33 times)."""
    rotation = Rotation.from_rotvec([0.9, 0.2, -0.4])
    rough = np.random.default_rng(0).normal(size=(33, 32, 30))
    wedge = lv.synthetic.wedge(rough.shape, (-50, 50)).compute()
    stack = lv.as_stack(np.fft.ifftn(np.fft.fftn(rough) * wedge.values).real[None])
    plain, found = (
        REGISTRATION.average(stack, rotations=rotation, wedge=w).average for w in (None, wedge)
    )
    assert float((found**2).sum()) < 15 * float((plain**2).sum())


@given(grid=chunkings(), data=st.data())
@FEW
def test_an_average_is_the_mean_of_what_was_placed(grid, data):
    order = data.draw(st.sampled_from([1, 3]))
    array = values("float64")
    stack = chunked(array, grid)
    moves = xr.DataArray(np.random.default_rng(1).normal(size=(7, 3)) * 3, dims=("k", "axis"))
    placed = REGISTRATION.shift(stack, moves, order=order, fill=np.nan)
    found = REGISTRATION.average(stack, moves, order=order)
    with dask.config.set(scheduler="sync"):
        expected = placed.mean("k", skipna=True).values
        np.testing.assert_allclose(found.average.values, expected, atol=1e-12)


# alignment -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned():
    """Noisy particles, their poses, and what alignment made of them, in two rounds of halves."""
    made, rotations, shifts = posed(8, 1.0)
    stack = lv.as_stack(da.from_array(made, chunks=(3, 16, 32, 32)), voxel_size=4.0, unit=UNIT)
    stack = stack.assign_coords(half=("k", [2, 2, 1, 1, 2, 1, 2, 1]))
    reference = lv.as_stack(body(), voxel_size=4.0, unit=UNIT)
    with dask.config.set(scheduler=refuse):
        found = REGISTRATION.align(
            stack, reference, 25.0, max_shift=16.0, iterations=2, halves=True
        )
        assert lv.explain(found).passes == 0  # of stores; there are none
    return stack, found.compute(), rotations, shifts


def test_poses_of_noisy_particles_are_found(aligned):
    _, found, rotations, shifts = aligned
    assert degrees(found, rotations).max() < 3
    assert np.abs(found.shifts / 4 - shifts).max() < 0.25
    assert found.rotations.dims == ("k", "angle")
    assert found.shifts.axis.values.tolist() == ["z", "y", "x"]
    assert (found.shifts.attrs["units"], found.rotations.attrs["units"]) == (UNIT, "degree")
    assert float(found.ncc.min()) > 0.3


def test_the_average_of_an_alignment_is_that_of_its_poses(aligned):
    stack, found, _, _ = aligned
    again = REGISTRATION.average(stack, found.shifts, found.rotations).average.compute()
    np.testing.assert_allclose(found.average, again, atol=1e-5)
    for name, half in (("first", 1), ("second", 2)):
        own = stack.half.values == half
        again = REGISTRATION.average(
            stack[own], found.shifts[own], found.rotations[own]
        ).average.compute()
        np.testing.assert_allclose(found[name], again, atol=1e-5)
    halves = lv.scores.fsc(found["first"].fillna(0), found["second"].fillna(0))
    assert float(halves[1:4].min()) > 0.7


def test_each_round_reads_every_particle_once():
    made, _, _ = posed(6, 0.5, shape=(12, 12, 12))
    token = "aligned"
    source = CountingSource(made, (2, 6, 12, 12), token)
    stack = lv.as_stack(source_array(source, ((2, 2, 2), (6, 6), (12,), (12,))))
    found = REGISTRATION.align(
        stack, stack.isel(k=0).compute(), 60.0, finest=20.0, resolution=4.0, iterations=2
    )
    told = lv.explain(found)
    READS[token].clear()
    found.compute(scheduler="sync")
    assert elements_read(token) == 2 * made.size
    assert told.passes == 2
    assert told.tasks <= 2 * 3 + 4  # of blocks, and of references


@pytest.mark.parametrize("wedge", [None, (-60.0, 60.0), "mask"])
def test_voxels_that_are_no_cubes_and_wedges(wedge):
    """Out of the measured frequencies alone; what is missing does not pull."""
    step, shape = (1.5, 1.0, 1.2), (22, 32, 27)
    made, rotations, shifts = posed(4, 0.3, shape=shape, step=step)
    stack = lv.as_stack(made, voxel_size=step)
    reference = lv.as_stack(body(shape, step), voxel_size=step)
    if wedge is not None:
        mask = lv.synthetic.wedge(reference).compute()
        made = np.fft.ifftn(np.fft.fftn(made, axes=(1, 2, 3)) * mask.values, axes=(1, 2, 3)).real
        stack = stack.copy(data=made.astype(np.float32))
        wedge = mask if wedge == "mask" else wedge
    found = REGISTRATION.align(stack, reference, 20.0, finest=3.0, max_shift=4.0, wedge=wedge)
    assert degrees(found, rotations).max() < 2.5
    assert np.abs(found.shifts - shifts).max() < 0.2
    if wedge is not None:
        unaware = REGISTRATION.align(stack, reference, 20.0, finest=3.0, max_shift=4.0)
        assert (found.ncc > unaware.ncc).all()


def test_without_noise_poses_are_exact():
    made, rotations, shifts = posed(3, 0.0)
    reference = lv.as_stack(body())
    found = REGISTRATION.align(lv.as_stack(made), reference, 25.0, max_shift=4.0)
    assert degrees(found, rotations).max() < 0.1
    assert np.abs(found.shifts - shifts).max() < 0.01
    assert float(found.ncc.min()) > 0.999
    given_poses = REGISTRATION.align(
        lv.as_stack(made), reference, 4.0, finest=1.0, max_shift=1.0, rotations=rotations,
        shifts=xr.DataArray(shifts + 0.4, dims=("k", "axis")),
    )  # fmt: skip
    assert degrees(given_poses, rotations).max() < 0.1
    assert np.abs(given_poses.shifts - shifts).max() < 0.01


def test_rotations_to_try_are_those_given():
    made, rotations, _ = posed(4, 0.2)
    reference = lv.as_stack(body())
    found = REGISTRATION.align(lv.as_stack(made), reference, rotations, finest=None)
    assert degrees(found, rotations).max() < 1e-6
    near = Rotation.from_rotvec([0.0, 0.05, 0.05]) * rotations
    found = REGISTRATION.align(lv.as_stack(made), reference, near, finest=1.0)
    assert degrees(found, rotations).max() < 1.5


def test_a_search_walks_as_far_as_it_goes_uphill():
    made, rotations, _ = posed(3, 0.1)
    reference = lv.as_stack(body())
    near = Rotation.from_rotvec([0.3, -0.2, 0.2]) * rotations  # 24 degrees
    found = REGISTRATION.align(
        lv.as_stack(made), reference, 4.0, finest=3.9, rotations=near, max_shift=4.0
    )
    assert degrees(found, rotations).max() < 1.5


def test_each_half_is_held_against_its_own_average():
    """Odd particles are of another body: after a round their half knows it."""
    stack = lv.as_stack(np.stack([body(), body()[::-1]] * 2))
    options = {"finest": None, "halves": True, "max_shift": 0.0}
    found = [
        REGISTRATION.align(stack, stack.isel(k=0), Rotation.identity(), iterations=n, **options)
        for n in (1, 2)
    ]
    assert float(found[0].ncc[1::2].max()) < 0.9
    assert float(found[1].ncc.min()) > 0.98
    np.testing.assert_allclose(found[0]["second"], body()[::-1], atol=1e-12)


def test_a_cylinder_is_brought_upright_by_its_axis_alone():
    rod = lv.synthetic.cylinder((24, 24, 24), radius=4, length=16, soft=2).compute()
    rng = np.random.default_rng(0)
    rotations = Rotation.from_rotvec(rng.normal(size=(6, 3)) * 2)
    stack = REGISTRATION.rotate(rod.expand_dims(k=6).copy(), rotations)
    stack = stack + (0.3 * rng.normal(size=stack.shape)).astype(np.float32)
    found = REGISTRATION.align(stack, rod, symmetry="cylinder", finest=3.0, max_shift=3.0)
    own = Rotation.from_euler("ZYZ", found.rotations.values, degrees=True) * rotations
    lean = np.rad2deg(np.arccos(np.abs(own.as_matrix()[:, 2, 2]).clip(0, 1)))
    assert lean.max() < 3
    upright = np.array([0.0, 0.0, 0.0, 1.0])
    assert (
        len(rotation_grids.neighbours(upright, 5.0)),
        len(rotation_grids.neighbours(upright, 5.0, np.inf)),
    ) == (15, 5)
    assert len(rotation_grids.uniform(20.0, np.inf)) < len(rotation_grids.uniform(20.0)) / 10
    assert len(rotation_grids.uniform(20.0, 6)) == pytest.approx(
        len(rotation_grids.uniform(20.0)) / 6, rel=0.05
    )


def test_what_has_no_pose_has_nan_and_is_left_out():
    made, rotations, _ = posed(3, 0.2)
    made[1] = 3.0
    made[2, 4:6, 3, 2] = np.nan
    found = REGISTRATION.align(lv.as_stack(made), lv.as_stack(body()), rotations, finest=None)
    assert np.isnan(found.rotations[1]).all()
    assert np.isnan(found.ncc[1])
    assert not np.isnan(found.ncc[[0, 2]]).any()
    inner = found.average[8:-8, 8:-8, 8:-8]
    assert not np.isnan(inner).any()


def test_a_mask_keeps_its_surroundings_out():
    made, rotations, _ = posed(3, 0.1)
    reference = body()
    reference[:3] += 4.0  # something else, near the border
    mask = lv.synthetic.sphere((32, 32, 32), radius=11, soft=3).compute()
    found = REGISTRATION.align(
        lv.as_stack(made), lv.as_stack(reference), rotations, finest=None, mask=mask
    )
    without = REGISTRATION.align(lv.as_stack(made), lv.as_stack(reference), rotations, finest=None)
    assert float(found.ncc.min()) > 0.9 > float(without.ncc.max())


def test_the_reference_turns_as_its_spectrum_does():
    """About its surroundings: were they not 0, a box would turn with it."""
    rotation = Rotation.from_rotvec([0.5, -1.0, 0.8])
    matrix = rotation_grids.zyx_matrices(rotation.as_quat()[None])
    some = rotational_correlation.Frequencies.up_to((32, 32, 32), (1, 1, 1), [0.1, 0.35])[-1]
    reference = rotational_correlation.ReferenceSpectrum.from_volume(body() + 5.0, (1, 1, 1), 0.35)
    own = rotational_correlation.spectrum_at(body(rotation=rotation), some)
    read = reference.rotated(matrix, some)[0]
    both = np.vdot(read, own).real / np.linalg.norm(read) / np.linalg.norm(own)
    assert both > 0.9998
    twice = some.multiplicity
    product, slope, bend, power = reference.correlation_sums(
        matrix, some, np.conj(own) * twice, twice
    )
    assert product[0] == pytest.approx((twice * (read * np.conj(own)).real).sum(), rel=1e-4)
    assert power[0] == pytest.approx((twice * abs(read) ** 2).sum(), rel=1e-4)
    for axis in range(3):
        waves = np.exp(2j * np.pi * 0.01 * np.array([1, 0, -1])[:, None] * some.cycles[:, axis])
        high, middle, low = (twice * (waves * read * np.conj(own)).real).sum(1)
        assert slope[0, axis] == pytest.approx(
            (high - low) / 0.02, rel=1e-2, abs=abs(middle) * 1e-2
        )
        assert bend[0, axis, axis] == pytest.approx((high - 2 * middle + low) / 1e-4, rel=1e-2)


def test_coarse_shifts_are_where_the_sum_over_frequencies_is_highest():
    shape, step = (10, 12, 9), (1.5, 1.0, 2.0)
    some = rotational_correlation.Frequencies.up_to(shape, step, [0.2])[0]
    window = rotational_correlation.ShiftWindow.within(shape, step, some, 4.0)
    rng = np.random.default_rng(0)
    cross = (
        rng.normal(size=(3, len(some.index))) + 1j * rng.normal(size=(3, len(some.index)))
    ).astype("c8")
    cross[:, some.index[:, 2] == 0] = 1.0  # there both of a pair are listed
    heights, found = window.peaks(cross)
    moves = window.shifts * window.voxel
    assert np.linalg.norm(moves, axis=1).max() <= 4.0
    waves = np.exp(2j * np.pi * moves @ some.cycles.T)
    expected = ((waves[None] * cross[:, None]).real * some.multiplicity).sum(-1)
    np.testing.assert_allclose(heights, expected.max(1), rtol=1e-5)
    np.testing.assert_array_equal(found, window.shifts[expected.argmax(1)])


# real particles --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ribosomes():
    if not FOLDER.is_dir():
        pytest.skip("the real particles are not here")
    rows = (line.split() for line in (FOLDER / "particles.star").read_text().splitlines())
    angles = [[float(v) for v in r[5:8]] for r in rows if r and r[0].startswith("Unt_")]
    loaded = {n: lv.open(FOLDER / f"subtomos_{n}.mrc").compute() for n in ("unaligned", "aligned")}
    return loaded["unaligned"], loaded["aligned"], np.array(angles)


def test_angles_of_relion_bring_particles_to_the_reference(ribosomes):
    unaligned, theirs, angles = ribosomes
    ours = REGISTRATION.rotate(unaligned, xr.DataArray(angles, dims=("k", "angle")))
    assert float(lv.scores.ncc(ours, theirs).mean()) > 0.9
    back = REGISTRATION.rotate(unaligned, Rotation.from_euler("ZYZ", angles, degrees=True).inv())
    assert abs(float(lv.scores.ncc(back, theirs).mean())) < 0.1


def test_turned_ribosomes_are_turned_back(ribosomes):
    """The average of 20, turned and shifted, with the noise of half a particle's own."""
    _, theirs, _ = ribosomes
    reference = lv.stats.mean(theirs)
    rng = np.random.default_rng(5)
    rotations = Rotation.from_rotvec(rng.normal(size=(4, 3)) * 2)
    moves = xr.DataArray(rng.uniform(-24, 24, (4, 3)), dims=("k", "axis"))
    copies = REGISTRATION.rotate(reference.expand_dims(k=4).copy(), rotations.inv())
    copies = REGISTRATION.shift(copies, -moves)
    noise = (theirs - reference).values[:4, ::-1, :, ::-1] * 0.5
    found = REGISTRATION.align(
        copies + noise, reference, 20.0, finest=4.0, max_shift=48.0, resolution=40.0,
        mask=lv.synthetic.sphere(reference, radius=160, soft=36).compute(),
    )  # fmt: skip
    assert np.median(degrees(found, rotations)) < 5
    assert float(np.abs(found.shifts - moves).median()) < 6
