"""Values whose squares leave the range of float64: a result is right, or refused with the cure."""

import dask.array as da
import numpy as np
import pytest

import lazyvol as lv
from lazyvol.errors import RangeError

RNG = np.random.default_rng(5)
A = RNG.standard_normal((5, 3, 4, 7)) + 0.5
B = RNG.standard_normal((3, 4, 7)) + 0.3
MASK = RNG.random((3, 4, 7)) > 0.3
CHUNKS = (2, 3, 4, 3)
LABELS = lv.as_stack(1 + (A[0] > 0.5))


def stack_of(values):
    return lv.as_stack(da.from_array(values, chunks=CHUNKS))


def wide(values):
    """Return values in the widest float of the platform, whose exponents hold all squares."""
    if np.finfo(np.longdouble).maxexp < 4 * np.finfo(np.float64).maxexp:
        pytest.skip("long doubles are no wider than float64 here")
    return np.asarray(values, np.longdouble)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-155])
@pytest.mark.parametrize("dim", ["k", ("z", "y", "x"), None])
def test_roots_of_sums_of_small_squares_are_exact(scale, dim):
    values, axes = wide(A * scale), {"k": 0, None: None}.get(dim, (1, 2, 3))
    for mask in (None, MASK | (np.arange(5) < 2)[:, None, None, None]):
        where = True if mask is None else mask
        given = None if mask is None else lv.as_stack(mask)
        expected = {
            "std": values.std(axes, where=where),
            "norm": np.sqrt((values**2).sum(axes, where=where)),
        }
        for name, right in expected.items():
            got = getattr(lv.stats, name)(stack_of(A * scale), dim, mask=given)
            np.testing.assert_allclose(got, right.astype(float), rtol=1e-11, err_msg=name)


def test_voxels_of_all_sizes_in_one_stack_are_exact():
    """The tails of Gaussians: a voxel is exact, whatever the others of its block are."""
    tails = A * np.exp(-np.abs(RNG.standard_normal(A.shape[1:])) * 300)
    np.testing.assert_allclose(
        lv.stats.std(stack_of(tails)), wide(tails).std(0).astype(float), rtol=1e-11
    )
    growing = A * np.array([1e-250, 1e-180, 1e-120, 1.0, 1e-300])[:, None, None, None]
    for order in (growing, growing[::-1]):
        np.testing.assert_allclose(lv.stats.std(stack_of(order)), order.std(0), rtol=1e-12)


@pytest.mark.parametrize(
    "op", [lv.intensity.unit_norm, lv.intensity.gaussian_stretch, lv.derivatives.vesselness]
)
@pytest.mark.parametrize("scale", [2.0**-900, 2.0**-540])
def test_results_without_a_unit_do_not_depend_on_the_scale(op, scale):
    np.testing.assert_allclose(op(stack_of(A * scale)), op(stack_of(A)), rtol=1e-11)


@pytest.mark.parametrize(
    ("x", "y"), [(1e-300, 1e-300), (1e-200, 1.0), (1e200, 1e-200), (1e200, 1e200), (1e-155, 1e-150)]
)
@pytest.mark.parametrize("against", ["volume", "average"])
def test_scores_of_any_scale_are_exact(x, y, against):
    a, b = wide(A * x).reshape(5, -1), wide(B * y).reshape(1, -1)
    for mask in (None, MASK):
        kept = slice(None) if mask is None else MASK.ravel()
        p, q = a[:, kept], b[:, kept] if against == "volume" else (a.sum(0) - a)[:, kept] / 4
        p0, q0 = p - p.mean(1, keepdims=True), q - q.mean(1, keepdims=True)
        mse = ((p - q) ** 2).mean(1)
        expected = {
            "rmse": np.sqrt(mse),
            "ncc": (p0 * q0).sum(1) / np.sqrt((p0**2).sum(1) * (q0**2).sum(1)),
            "cosine": (p * q).sum(1) / np.sqrt((p**2).sum(1) * (q**2).sum(1)),
        }
        given = None if mask is None else lv.as_stack(mask)
        reference = lv.as_stack(B * y) if against == "volume" else "average"
        got = lv.scores.compare(stack_of(A * x), reference, metrics=tuple(expected), mask=given)
        for name, right in expected.items():
            np.testing.assert_allclose(got[name], right.astype(float), rtol=1e-10, err_msg=name)


def test_blank_parts_of_a_particle_have_no_scale():
    padded = np.where(np.arange(7) < 3, 0.0, A)
    got = lv.scores.ncc(stack_of(padded * 1e-200), lv.as_stack(B))
    np.testing.assert_allclose(got, lv.scores.ncc(stack_of(padded), lv.as_stack(B)), rtol=1e-11)


REFUSED = {
    "std": lv.stats.std,
    "norm": lv.stats.norm,
    "describe": lv.stats.describe,
    "unit_norm": lv.intensity.unit_norm,
    "standardize": lv.intensity.standardize,
    "contrast_normalise": lv.intensity.contrast_normalise,
    "gaussian_stretch": lv.intensity.gaussian_stretch,
    "table": lambda s: lv.measure.table(s.isel(k=0), LABELS, what=("std",)),
    **{m: lambda s, m=m: lv.clustering.distances(s, metric=m) for m in ("euclidean", "ncc")},
    "components": lambda s: lv.clustering.components(s, 2),
    "components of few voxels": lambda s: lv.clustering.components(s[:, 0, 0, :3], 2),
    "whiten": lv.intensity.whiten,
    "whitening of channels": lambda s: lv.intensity.whitening(s, over=("k", "y", "x")),
    "screen": lv.scores.screen,
}
EXACT_IF_SMALL = tuple(REFUSED)[:7]


@pytest.mark.parametrize("name", REFUSED)
def test_values_whose_squares_are_no_numbers_are_refused(name):
    values = np.tile(A, (3, 2, 2, 1)) if name == "screen" else A
    for scale in (1e200, *(() if name in EXACT_IF_SMALL else (1e-200,))):
        with pytest.raises(RangeError, match=r"^\w+: values must .*; divide the stack by"):
            REFUSED[name](lv.as_stack(values * scale)).compute()


def test_references_that_a_spectrum_cannot_hold_are_refused():
    particle = np.zeros((2, 8, 8, 8), np.float32)
    particle[:, 3:5, 2:4, 3:6] = 1e37
    with pytest.raises(RangeError, match=r"^shifts: reference must .*; divide stack and"):
        lv.registration.shifts(lv.as_stack(particle), lv.as_stack(particle[0]))


@pytest.mark.parametrize("first", [2**53, 2**62, -(2**53) - 8, -(2**63)])
def test_large_whole_numbers_are_compared_exactly(first):
    values = np.arange(8, dtype=np.int64).reshape(2, 2, 2) + np.int64(first)
    for level in (first + 3, first + 4):
        got = lv.masks.threshold(lv.as_stack(values), level)
        np.testing.assert_array_equal(got, values > np.int64(level))
    stack = lv.as_stack(values)
    assert lv.masks.threshold(stack, -1e30).all()
    assert not lv.masks.threshold(stack, np.inf).any()


def test_thresholds_outside_the_type_of_integers():
    unsigned = lv.as_stack(np.array([[[0, 2**63, 2**64 - 1]]], np.uint64))
    result = [lv.masks.threshold(unsigned, level).values.ravel() for level in (-1, 2**63, 2**64)]
    np.testing.assert_array_equal(result, [[True] * 3, [False, False, True], [False] * 3])
    small = lv.as_stack(np.array([[[0, 1, 255]]], np.uint8))
    assert [int(lv.masks.threshold(small, v).sum()) for v in (-0.5, 0.5, 254.9, 300)] == [
        3,
        2,
        1,
        0,
    ]


ROUNDED = {
    "std": lambda s: lv.stats.std(s, None),
    "center": lv.intensity.center,
    "rescale": lv.intensity.rescale,
    "standardize": lv.intensity.standardize,
    "gaussian_stretch": lv.intensity.gaussian_stretch,
    "display": lv.intensity.display,
    "equalise": lv.intensity.equalise,
    "otsu": lv.masks.threshold,
    "rmse": lambda s: lv.scores.rmse(s, against=s[0]),
    "distances": lv.clustering.distances,
    "table": lambda s: lv.measure.table(s[0], LABELS, what=("min", "median")),
}


@pytest.mark.parametrize("name", ROUNDED)
def test_whole_numbers_that_float64_rounds_are_refused(name):
    steps = RNG.integers(0, 100, A.shape)
    assert ROUNDED[name](lv.as_stack(steps + 2**50)) is not None
    with pytest.raises(RangeError, match=r"^\w+: whole numbers must .*; subtract an offset"):
        ROUNDED[name](lv.as_stack(steps + 2**60)).compute()


def test_whole_numbers_outside_a_mask_are_not_rounded():
    values = RNG.integers(0, 9, A.shape)
    values[:, 0, 0, 0] = np.iinfo(np.int64).min
    inside = values >= 0
    got = lv.stats.std(lv.as_stack(values), None, mask=lv.as_stack(inside))
    np.testing.assert_allclose(got, values.std(where=inside))


def test_infinite_and_missing_values_are_no_matter_of_range():
    values = A.copy()
    values[0, 0, 0, :2] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        got, right = lv.stats.norm(lv.as_stack(values), "k"), np.sqrt((values**2).sum(0))
    np.testing.assert_allclose(got, right)
    marked = np.where(np.isfinite(values), values, 1e300)
    inside = lv.as_stack(np.isfinite(values))
    np.testing.assert_allclose(
        lv.stats.std(lv.as_stack(marked), "k", mask=inside), values.std(0, where=inside.values)
    )


@pytest.mark.parametrize("filtered", [
    lambda s: lv.filters.bandpass(s, 3.0), lambda s: lv.fourier.gaussian(s, 1.0),
    lambda s: lv.fourier.shift(s, (0.4, 0, 1.3)),
    lambda s: lv.registration.shift(s, (0.4, 0, 1.3), order="fourier"),
    lambda s: lv.registration.shift(s, (0.4, 0, 1.3), order=3),
    lambda s: lv.registration.rotate(s, 30.0, order=3),
    lambda s: lv.transform.affine(s, 1.01 * np.eye(3)),
    lambda s: lv.transform.affine(s, 1.01 * np.eye(3), order=5),
    lambda s: lv.transform.map_coordinates(s, np.full((3, 2), 1.3), order=3),
])  # fmt: skip
def test_transforms_of_the_largest_values_are_exact(filtered):
    scale = 2.0**1021
    np.testing.assert_allclose(
        filtered(stack_of(A * scale)) / scale, filtered(stack_of(A)), rtol=1e-9
    )


@pytest.mark.parametrize("op", [lv.stats.mean, lv.stats.sum, lv.intensity.center])
def test_sums_of_values_near_the_largest_float64_are_refused(op):
    with pytest.raises(RangeError, match=rf"^{op.__name__}: values must be at most 1e\+301"):
        op(stack_of(np.abs(A) * 2.0**1020)).compute()
    infinite = A.copy()
    infinite[0, 0, 0, 0] = np.inf
    assert np.isinf(lv.stats.sum(stack_of(infinite), None))


def test_equalised_values_below_the_smallest_normal_number_are_ranked():
    values = A * 2.0**-1065
    result = lv.intensity.equalise(stack_of(values), bins=8).values
    assert np.isfinite(result).all()
    assert result.max() == 1.0
    assert (np.diff(result.ravel()[np.argsort(values, axis=None)]) >= 0).all()
