"""Random fields and elastic deformations: statistics, halos, and real EM slices."""

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import scipy.ndimage as ndi
import scipy.signal
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from lazyvol.kernels.synthetic import elastic, gaussian_field
from lazyvol.plan.graph.lazy_array import source_array
from tests.oracles import VOXEL
from tests.paths import DATA
from tests.rows.synthetic import displacement, smoothing_matrix, warped, white
from tests.sources import READS, CountingSource, elements_read
from tests.strategies import MORE, SHAPE, chunked, chunkings, values

#: settings of slow tests
FEW = settings(MORE, max_examples=12)

synthetic = lv.synthetic


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def spans(n: int) -> st.SearchStrategy[slice]:
    ends = st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted)
    return ends.map(lambda pair: slice(*pair))


def expected_correlation(lags: np.ndarray, sigma: float) -> np.ndarray:
    """Correlation of white noise smoothed by a Gaussian."""
    return np.exp(-((lags / max(sigma, 1e-9)) ** 2) / 4)


# the field -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.2, 1.7, 2.4, 2.59])
def test_short_correlations_are_exact(sigma):
    taps = gaussian_field.taps(sigma)
    assert taps.step == 1
    weights = taps.weights[0]
    correlation = np.correlate(weights, weights, "full")[len(weights) - 1 :]
    np.testing.assert_allclose(
        correlation, expected_correlation(np.arange(len(correlation)), sigma), atol=2e-5
    )
    assert correlation[0] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("sigma", [2.6, 3.3, 3.89, 5.1, 5.19, 7.0, 33.3, 250.0, 9000.0])
def test_long_correlations_do_not_depend_on_the_position(sigma):
    taps = gaussian_field.taps(sigma)
    assert 2 <= taps.step <= gaussian_field.MAX_STEP
    assert taps.count <= 26
    n = min(3000, 6 * round(sigma))
    voxels = np.unique(np.linspace(0, n - 1, 200).astype(int))
    matrix = np.zeros((len(voxels), taps.noise_span(0, n).stop + taps.before))
    for row, i in enumerate(voxels):
        first = taps.noise_span(i, i + 1).start + taps.before
        matrix[row, first : first + taps.count] = taps.weights[i % taps.step]
    np.testing.assert_allclose(
        matrix @ matrix.T, expected_correlation(voxels[:, None] - voxels, sigma), atol=3e-6, rtol=0
    )


@pytest.mark.parametrize("length", [0.8, 2.0, 5.0, 30.0])
def test_neighbours_correlate_in_every_direction(length):
    field = synthetic.correlated_noise(
        (500, 9, 8, 11), {"z": length, "y": 2 * length, "x": 3 * length}, voxel_size=VOXEL, seed=1
    ).values.astype("f8")
    n = len(field)
    for lag in ((1, 0, 0), (0, 2, 0), (0, 0, 3), (2, 1, 3), (8, 7, 10)):
        pairs = field[:, 0, 0, 0] * field[(slice(None), *lag)]
        expected = np.prod(
            [
                np.exp(-((g * v / (m * length)) ** 2) / 2)
                for g, v, m in zip(lag, VOXEL, (1, 2, 3), strict=True)
            ]
        )
        assert abs(pairs.mean() - expected) < 4.5 * np.sqrt((1 + expected**2) / n)


def test_borders_have_the_statistics_of_the_interior():
    field = synthetic.correlated_noise((2000, 5, 6, 7), 4.0, seed=2).values.astype("f8")
    spread = 4.5 * np.sqrt(2 / 2000)
    assert np.abs(field.var(0) - 1).max() < spread
    assert np.abs(field.mean(0)).max() < 4.5 / np.sqrt(2000)


def test_a_field_is_white_noise_convolved_with_a_gaussian():
    """The coarse white noise is placed on the fine grid and convolved by FFT."""
    shape, sigmas = (40, 37, 50), (3.0, 8.0, 15.0)
    matrices, places = zip(*map(smoothing_matrix, shape, sigmas), strict=True)
    steps = [max(1, int(d / 1.3)) for d in sigmas]
    noise = white(places, 0, 5, 3)
    spread = np.zeros([n * s for n, s in zip(noise.shape, steps, strict=True)])
    spread[tuple(slice(None, None, s) for s in steps)] = noise
    kernels = [np.exp(-0.5 * (np.arange(-6 * int(d), 6 * int(d) + 1) / d) ** 2) for d in sigmas]
    kernel = np.einsum("a,b,c->abc", *(k / np.linalg.norm(k) for k in kernels))
    smooth = scipy.signal.fftconvolve(spread, kernel * np.sqrt(np.prod(steps)), mode="same")
    low = [-p.start * s for p, s in zip(places, steps, strict=True)]
    inner = [slice(i, i + n) for i, n in zip(low, shape, strict=True)]
    lengths = dict(zip("zyx", np.sqrt(2) * np.array(sigmas), strict=True))
    field = synthetic.correlated_noise(shape, lengths, seed=5, dtype="float64").values
    np.testing.assert_allclose(field, smooth[tuple(inner)], atol=2e-4)
    assert len(matrices) == 3


@given(st.data(), st.sampled_from([SHAPE, (2, 3, *SHAPE[1:]), (5, 300), (700,)]))
@MORE
def test_any_region_is_equal_to_the_bit(data, shape):
    sigma = st.sampled_from([0.0, 0.6, 2.0, 2.7, 9.0, 400.0])
    sigmas = tuple(data.draw(sigma) for _ in range(3))
    field = gaussian_field.Field(sigmas, data.draw(st.integers(0, 2**32 - 1)), 3)
    dtype = np.dtype(data.draw(st.sampled_from(["f2", "f4", "f8"])))
    options = {"shape": shape, "field": field, "scale": 1.5, "dtype": dtype}
    everything = gaussian_field.field_region(whole(shape), **options)
    for _ in range(4):
        region = tuple(data.draw(spans(n)) for n in shape)
        part = gaussian_field.field_region(region, **options)
        assert part.dtype == dtype
        np.testing.assert_array_equal(part, everything[region])


def test_tiles_do_not_change_a_field(monkeypatch):
    field, shape = gaussian_field.Field((2.0, 3.0, 9.0), 4, 3), (20, 31, 33)
    options = {"shape": shape, "field": field, "scale": 1.0, "dtype": np.dtype("f4")}
    everything = gaussian_field.field_region(whole(shape), **options)
    monkeypatch.setattr(gaussian_field, "RING_VOXELS", 33 * 20 * 4)
    np.testing.assert_array_equal(gaussian_field.field_region(whole(shape), **options), everything)


def test_a_crop_is_smaller_noise_and_volumes_are_independent():
    large = synthetic.correlated_noise((4, 9, 10, 11), 5.0, seed=2).values
    small = synthetic.correlated_noise((2, 5, 6, 7), 5.0, seed=2)
    np.testing.assert_array_equal(large[:2, :5, :6, :7], small)
    many = synthetic.correlated_noise((1000, 3, 3, 3), 3.0, seed=3).values[:, 1, 1, 1]
    assert abs(np.corrcoef(many[1:], many[:-1])[0, 1]) < 4.5 / np.sqrt(1000)
    plain = synthetic.noise((1000, 3, 3, 3), seed=3).values[:, 1, 1, 1]
    assert abs(np.corrcoef(many, plain)[0, 1]) < 4.5 / np.sqrt(1000)


def test_a_length_of_zero_is_white():
    field = synthetic.correlated_noise((30, 40, 50), 0.0, seed=4).values
    assert abs(np.corrcoef(field[..., 1:].ravel(), field[..., :-1].ravel())[0, 1]) < 0.02
    assert field.std() == pytest.approx(1, abs=0.02)


# elastic ---------------------------------------------------------------------------------------


@given(chunkings(), st.sampled_from([1, 3]), st.sampled_from([4.0, 30.0, 120.0]))
@FEW
def test_deformation_does_not_depend_on_chunks(grid, order, alpha):
    """Halos extend beyond chunks and beyond the array."""
    array = values("float32")
    options = {"seed": 3, "order": order}
    expected = synthetic.elastic(chunked(array, SHAPE), alpha, 3.0, **options).values
    deformed = synthetic.elastic(chunked(array, grid), alpha, 3.0, **options)
    if order == 1:
        np.testing.assert_array_equal(deformed.values, expected)
    np.testing.assert_allclose(deformed.values, expected, atol=3e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_float32_is_exact_to_rounding(order):
    array = values("float32")
    stack = lv.as_stack(array, voxel_size=VOXEL)
    deformed = synthetic.elastic(stack, 50.0, 5.0, seed=9, order=order)
    exact = synthetic.elastic(stack.astype("f8"), 50.0, 5.0, seed=9, order=order)
    assert np.abs(deformed - exact).max() < 2e-7 * np.abs(exact).max()


def test_displacements_have_the_documented_deviation():
    """It is that of smoothed uniform noise, and no displacement exceeds the halo."""
    shape, sigma = (24, 60, 60), (2.0, 3.0, 5.0)
    uniform = np.random.default_rng(0).uniform(-1, 1, (60, 90, 90))
    smooth = ndi.gaussian_filter(uniform, sigma, mode="wrap")
    deviation = elastic.standard_deviation(sigma)
    assert deviation == pytest.approx(smooth.std(), rel=0.05)
    moves = displacement(shape, (30.0, 20.0, 10.0), sigma, 0, seed=1)
    for move, alpha in zip(moves, (30.0, 20.0, 10.0), strict=True):
        assert move.std() == pytest.approx(alpha * deviation, rel=0.15)
        assert np.abs(move).max() < min(1, 6 * deviation) * alpha


def test_displacements_are_clipped_at_their_bound(monkeypatch):
    stack = lv.as_stack(values("float64"))
    ramp = stack * 0 + stack.x
    inner = {"x": slice(5, -5)}
    free = (synthetic.elastic(ramp, {"x": 9.0}, 2.0, seed=1) - ramp).isel(inner)
    monkeypatch.setattr("lazyvol.ops.synthetic._fields.MAX_SIGMAS", 0.5)
    cut = (synthetic.elastic(ramp, {"x": 9.0}, 2.0, seed=1) - ramp).isel(inner)
    bound = 0.5 * 9.0 * elastic.standard_deviation((2.0, 2.0, 2.0))
    np.testing.assert_allclose(cut, free.clip(-bound, bound), atol=1e-12)
    assert float(np.abs(free).max()) > 2 * bound


def test_a_strength_of_zero_changes_nothing():
    stack = lv.as_stack(values("float32"))
    for order in (1, 3):
        deformed = synthetic.elastic(stack, 0.0, 3.0, order=order)
        np.testing.assert_allclose(deformed, stack, atol=3e-6)
    np.testing.assert_array_equal(synthetic.elastic(stack, 0.0, 3.0), stack)


def test_every_particle_and_every_slice_has_its_own_field():
    grid = synthetic.grid_lines((1, 40, 40), 8, 2)
    stack = xr.concat([grid] * 3, "k")
    for deformed in (
        synthetic.elastic(stack, 60.0, 4.0),
        synthetic.elastic(stack.transpose("z", "k", ...), 60.0, 4.0, dim=("y", "x")),
    ):
        first, second, third = (deformed.isel(k=k).values for k in range(3))
        assert np.abs(first - second).mean() > 0.02
        assert np.abs(second - third).mean() > 0.02
    volume = synthetic.grid_lines((3, 40, 40), 8, 2)
    sliced = synthetic.elastic(volume, 60.0, 4.0, dim=("y", "x")).values
    assert np.abs(sliced[0] - sliced[1]).mean() > 0.02


@pytest.mark.parametrize("dtype", [">f4", ">i2", "<f2", "?"])
@pytest.mark.parametrize("order", [1, 3])
def test_dtypes_of_files_are_accepted(dtype, order):
    array = values("float32")[:, ::2] > 0.5 if dtype == "?" else values("float32")[:, ::2] * 9
    array = array.astype(dtype)
    deformed = synthetic.elastic(lv.as_stack(array), 30.0, 3.0, order=order)
    exact = synthetic.elastic(lv.as_stack(array.astype("f8")), 30.0, 3.0, order=order)
    native = array.dtype.newbyteorder("=")
    assert deformed.dtype == (native if native.kind == "f" else np.float64)
    tolerance = {"<f2": 4e-2, ">f4": 2e-5}.get(dtype, 1e-12)
    np.testing.assert_allclose(deformed.astype("f8"), exact, atol=tolerance)


def test_nan_spreads_to_interpolated_neighbours_only():
    array = values("float64")
    array[2, 2, 5, 6] = np.nan
    deformed = synthetic.elastic(lv.as_stack(array), 9.0, 3.0).values
    assert 0 < np.isnan(deformed).sum() <= 8 * 4
    assert np.isfinite(deformed[[0, 1, 3]]).all()


def test_a_block_is_one_task_and_reads_its_halo_only():
    READS["elastic"] = []
    array = np.random.default_rng(0).normal(size=(3, 40, 50, 60)).astype("f4")
    grid = ((1,) * 3, (40,), (50,), (60,))
    source = source_array(CountingSource(array, (1, 40, 50, 60), "elastic"), grid)
    deformed = synthetic.elastic(lv.as_stack(source), 20.0, 4.0, seed=1)
    assert not READS["elastic"]
    graph = dict(dask.optimize(deformed.data)[0].dask)
    assert len(graph) <= 1.1 * deformed.data.npartitions + 1
    deformed[1, 20, 5:9, 7:9].compute()
    bound = int(np.ceil(6 * 20 * elastic.standard_deviation((4.0,) * 3))) + 1
    assert elements_read("elastic") <= (2 * bound + 1) * (2 * bound + 4) * (2 * bound + 2)


def isbi() -> xr.DataArray:
    path = DATA / "isbi2012" / "train-volume.tif"
    if not path.exists():
        pytest.skip("the EM stack of ISBI 2012 is missing")
    return lv.open(path, voxel_size={"z": 50.0, "y": 4.0, "x": 4.0}, unit="nanometer")


def test_em_sections_are_deformed_as_by_scipy():
    stack = isbi().isel(z=slice(0, 3), y=slice(0, 200), x=slice(0, 300))
    deformed = synthetic.elastic(stack, 120.0, 24.0, seed=4, dim=("y", "x")).values
    for z in range(3):
        moves = displacement((1, 200, 300), (0, 30.0, 30.0), (0, 6.0, 6.0), z, seed=4)
        expected = warped(stack[z].values, [m[0] for m in moves[1:]], 1)
        np.testing.assert_allclose(deformed[z], expected, atol=1e-10)


def test_em_sections_decorrelate_with_depth_and_by_deformation():
    stack = isbi().isel(z=slice(0, 12))
    plain = lv.scores.profile(stack)
    deformed = lv.scores.profile(
        stack, transform=lambda s: synthetic.elastic(s, 400.0, 24.0, dim=("y", "x"), seed=1)
    )
    flipped = lv.scores.profile(stack, transform="flip")
    noisy = lv.scores.profile(stack, noise=80.0, seed=2)
    first, later = plain.correlation.values[[1, -1]]
    assert plain.correlation[0] == 1
    assert first > 0.2 > 0.05 > abs(later)
    assert abs(flipped.correlation.values).max() < 0.05
    assert 0.4 < noisy.correlation[0] < 0.6
    assert 0.5 < deformed.correlation[0] < 0.8
    assert (plain.lower[1:] < plain.correlation[1:]).all()
    assert (plain.upper[1:] > plain.correlation[1:]).all()


def test_a_profile_reads_the_data_once_and_the_reference_once():
    array = np.random.default_rng(0).normal(size=(20, 30, 40)).astype("f4")
    READS["profile"] = []
    source = source_array(CountingSource(array, (5, 30, 40), "profile"), ((5,) * 4, (30,), (40,)))
    profile = lv.scores.profile(lv.as_stack(source), "last", transform="flip_y", noise=1.0)
    assert not READS["profile"]
    profile.compute()
    assert elements_read("profile") <= array.size + 4 * 30 * 40


@pytest.mark.parametrize(
    ("transform", "slices"),
    [
        (None, np.s_[:]), ("flip", np.s_[:, ::-1, ::-1]), ("flip_y", np.s_[:, ::-1]),
        ("flip_x", np.s_[..., ::-1]), (lambda s: s[::-1], np.s_[::-1]),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("reference", "index"), [("first", 0), ("last", -1)])
def test_options_of_a_profile_select_slices_and_flips(transform, slices, reference, index):
    array = np.random.default_rng(0).normal(size=(4, 9, 11))
    profile = lv.scores.profile(lv.as_stack(array), reference, transform=transform)
    expected = [np.corrcoef(s.ravel(), array[index].ravel())[0, 1] for s in array[slices]]
    np.testing.assert_allclose(profile.correlation, expected, atol=1e-12)


def test_noise_of_a_profile_depends_on_the_position_alone():
    array = values("float32")
    plain = lv.scores.profile(lv.as_stack(array), noise=2.0, seed=1)
    transposed = lv.as_stack(array).transpose("x", "z", "k", "y")
    profile = lv.scores.profile(transposed, noise=2.0, seed=1).transpose("k", "z")
    xr.testing.assert_allclose(profile, plain, atol=1e-6)
    other_seed = lv.scores.profile(lv.as_stack(array), noise=2.0, seed=2)
    assert np.abs(other_seed.correlation - plain.correlation).max() > 0.01


# cost and errors -------------------------------------------------------------------------------


def test_graphs_contain_no_voxels_and_building_computes_none():
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("building computed something")

    stack = synthetic.noise((2000, 200, 200, 200))
    with dask.config.set(scheduler=refuse):
        for array in (
            synthetic.correlated_noise((3000, 3000, 3000), 700.0),
            synthetic.elastic(stack, 30.0, 9.0),
            synthetic.membrane((3000, 3000, 3000), radius=700.0, thickness=9.0),
            synthetic.wedge((3000, 3000, 3000)),
            lv.scores.profile(stack, transform="flip", noise=1.0).correlation,
        ):
            assert isinstance(array.data, da.Array)
            assert len(cloudpickle.dumps(array.data.dask)) < 2 * 10**6


VOLUME = lv.as_stack(np.zeros((4, 5, 6)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: synthetic.correlated_noise((4, 5), -1.0), "length must be a finite number"),
        (lambda: synthetic.correlated_noise((4, 5), {"z": 1.0}), "length must name"),
        (lambda: synthetic.correlated_noise((4, 5), 1.0, seed=-1), "seed must be a whole number"),
        (lambda: synthetic.correlated_noise(VOLUME, 1.0, unit="nm"), "unit must be omitted"),
        (lambda: synthetic.correlated_noise(VOLUME.rename(y="c"), 1.0), "last dims must be"),
        (lambda: synthetic.elastic(VOLUME, 1.0, 1.0, order=2), "order must be one of 1, 3"),
        (lambda: synthetic.elastic(VOLUME, {"k": 1.0}, 1.0), "alpha must name"),
        (lambda: synthetic.elastic(VOLUME, 1.0, np.inf), "sigma must be a finite number"),
        (lambda: synthetic.elastic(VOLUME, 1.0, 1.0, dim="k"), "dim must name dims of the stack"),
        (lambda: synthetic.elastic(VOLUME * 1j, 1.0, 1.0), "real numbers"),
        (lambda: synthetic.membrane((4, 4, 4), thickness=3, leaflet=2), "leaflet must be"),
        (lambda: synthetic.grid_lines((4, 4), 0.0, 1.0), "spacing must be lengths above 0"),
        (lambda: synthetic.wedge((4, 4, 4), (60, -60)), "two rising angles from -90 to 90"),
        (lambda: synthetic.wedge((4, 4, 4), axis="z"), "axis and beam must be two of the dims"),
        (lambda: synthetic.wedge((4, 4, 4), layout="half"), "layout must be one of"),
        (lambda: lv.scores.profile(VOLUME, "middle"), "reference must be 'first', 'last'"),
        (lambda: lv.scores.profile(VOLUME, dim="k"), "dim must name dims of the stack"),
        (lambda: lv.scores.profile(VOLUME, transform="flip_z"), "transform must be a function"),
        (lambda: lv.scores.profile(VOLUME, transform=lambda s: s[1:]), "must keep the shape"),
        (lambda: lv.scores.profile(VOLUME, noise=-1.0), "noise must be a finite number"),
        (lambda: lv.scores.profile(VOLUME[0, 0], dim="x"), "one of two or more spatial dims"),
    ],
)
def test_errors_name_the_rule(make, message):
    with pytest.raises((LabelError, OptionError), match=message):
        make()
