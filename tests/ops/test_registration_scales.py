"""Registration and scores depend neither on the unit of the values nor on their offset."""

import numpy as np
import pytest
from scipy import ndimage as ndi

import lazyvol as lv

R = lv.registration
SHAPE = (12, 14, 16)
FACTORS = (1e-12, 1e-6, 1e9, 1e15)
SHIFTS = np.array([[1.0, 2.0, -1.0], [-2.0, 0.0, 3.0], [0.0, -3.0, 1.0]])
MASK = lv.as_stack(np.ones(SHAPE, bool))
MASK[:2] = MASK[:, -2:] = False


def particles(rng):
    reference = ndi.gaussian_filter(rng.normal(size=SHAPE), 1.5, mode="wrap") * 10
    shifted = [np.roll(reference, m.astype(int), (0, 1, 2)) for m in SHIFTS]
    noise = rng.normal(0, 0.05, (4, *SHAPE))
    return np.stack(shifted) + noise[1:], reference + noise[0]


STACK, REFERENCE = particles(np.random.default_rng(0))
OPS = {
    "shifts": lambda s, r: R.shifts(s, r),
    "average": lambda s, _: R.shifts(s),
    "phase": lambda s, r: R.shifts(s, r, weighting="phase"),
    "mask": lambda s, r: R.shifts(s, r, mask=MASK),
    "ncc": lambda s, r: lv.scores.ncc(s, r),
    "ncc/average": lambda s, _: lv.scores.ncc(s),
    "correlation": lambda s, r: lv.scores.correlation(s, r).to_array(),
    "fsc": lambda s, r: lv.scores.fsc(s[0], r)[1:],  # shell 0 is the offset
}


def labelled(values, factor, offset, dtype):
    return lv.as_stack((values * factor + offset).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", OPS)
def test_factors_and_offsets_change_nothing(op, dtype):
    expected = OPS[op](labelled(STACK, 1, 0, dtype), labelled(REFERENCE, 1, 0, dtype)).values
    if op in ("shifts", "mask"):
        np.testing.assert_allclose(expected, -SHIFTS, atol=0.21)
    assert np.isfinite(expected).all()
    for factor, offset in (*((f, 0.0) for f in FACTORS), (1.0, 100.0), (1e9, -1e11), (1e-12, 1e-9)):
        if offset and dtype == "float32" and op in ("phase", "fsc"):
            continue  # weak frequencies are below the rounding of the offset
        stack = labelled(STACK, factor, offset, dtype)
        for reference_scale in ((factor, offset), (1.0, 0.0)):
            result = OPS[op](stack, labelled(REFERENCE, *reference_scale, dtype))
            np.testing.assert_allclose(result, expected, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("factor", FACTORS)
def test_poses_do_not_depend_on_a_factor(factor, dtype):
    result, expected = (
        R.align(labelled(STACK, f, 0, dtype), labelled(REFERENCE, f, 0, dtype), 90.0, finest=45.0)
        for f in (factor, 1.0)
    )
    for name in ("rotations", "shifts", "ncc"):
        np.testing.assert_allclose(result[name], expected[name], atol=0.01)  # degrees
        assert np.isfinite(result[name]).all()
    np.testing.assert_allclose(result.average / factor, expected.average, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e15 / 3, -1e-12 / 7])
@pytest.mark.parametrize("mask", [None, MASK])
def test_constants_have_no_shift(value, mask):
    stack = lv.as_stack(np.concatenate([STACK[:1], np.full((1, *SHAPE), value)]))
    result = R.shifts(stack, lv.as_stack(REFERENCE), mask=mask)
    assert np.isnan(result[1]).all()
    assert np.isfinite(result[0]).all()
    result = R.align(stack, lv.as_stack(REFERENCE), 90.0, finest=None)
    assert np.isnan(result.shifts[1]).all()
    assert np.isnan(lv.scores.ncc(stack, lv.as_stack(REFERENCE))[1])
