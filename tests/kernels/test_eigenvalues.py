"""Eigenvalues in closed form, beside those of LAPACK, where digits are easily lost."""

import numpy as np
import pytest

from lazyvol.kernels.derivatives import eigenvalues, vesselness

ELEMENTS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def solved(kernel, matrices):
    """Eigenvalues of many matrices by a kernel on rows, decreasing."""
    size = matrices.shape[-1]
    found = np.empty(matrices.shape[:-1])
    for start in range(0, len(matrices), eigenvalues.WIDTH):
        part = matrices[start : start + eigenvalues.WIDTH]
        s = np.full(6 * eigenvalues.STRIDE, 7.0)
        for row, (i, j) in enumerate(ELEMENTS):
            if size == 3 or row >= 3:
                own = part[:, i, j] if size == 3 else part[:, i - 1, j - 1]
                s[row * eigenvalues.STRIDE :][: len(part)] = own
        kernel(s, len(part))
        for c in range(size):
            found[start : start + len(part), c] = s[c * eigenvalues.STRIDE :][: len(part)]
    return found


def matrices(kind, n=4000):
    """Symmetric matrices that are hard in one way."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((n, 3, 3))
    noise = noise + noise.transpose(0, 2, 1)
    turns = np.linalg.qr(rng.standard_normal((n, 3, 3)))[0]
    near = 10.0 ** rng.uniform(-18, 0, n)
    one = np.ones(n)

    def of(*spectrum):
        made = np.einsum("nij,jn,nkj->nik", turns, np.stack(spectrum), turns)
        return (made + made.transpose(0, 2, 1)) / 2

    return {
        "noise": lambda: noise,
        "two nearly equal above": lambda: of(one + near, one, -rng.random(n)),
        "two nearly equal below": lambda: of(3 * one, one, one - near),
        "three nearly equal": lambda: 5 * np.eye(3) + noise * near[:, None, None],
        "two equal": lambda: of(one, one, rng.standard_normal(n)),
        "rank one": lambda: of(one, 0 * one, 0 * one),
        "opposite": lambda: of(one, 0 * one, -one),
        "diagonal": lambda: np.eye(3) * rng.standard_normal((n, 1, 3)),
        "small integers": lambda: np.rint(noise),
        "one voxel": lambda: np.eye(3) * [[[4.0, 0.0, 0.0]]] * np.ones((n, 1, 1)),
    }[kind]()


KINDS = [
    "noise", "two nearly equal above", "two nearly equal below", "three nearly equal", "two equal",
    "rank one", "opposite", "diagonal", "small integers", "one voxel",
]  # fmt: skip


def worst(found, given):
    norm = np.abs(given).max((1, 2), keepdims=True)
    norm[norm == 0] = 1
    expected = np.linalg.eigvalsh(given / norm)[:, ::-1]
    return np.abs(found / norm[:, :, 0] - expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e-160, 1e-100, 1e100, 1e160, 1e300])
def test_exact_eigenvalues_are_those_of_lapack(kind, scale):
    given = matrices(kind, 1000 if scale != 1 else 4000) * scale
    found = solved(eigenvalues.eigenvalues_3x3_float64, given)
    assert worst(found, given) < 2e-14
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e38])
def test_rough_eigenvalues_are_good_enough_for_float32(kind, scale):
    given = matrices(kind) * scale
    found = solved(eigenvalues.eigenvalues_3x3_float32, given)
    assert worst(found, given) < 4e-8
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_eigenvalues_in_a_plane_are_those_of_lapack(kind, scale):
    given = matrices(kind)[:, :2, :2] * scale
    assert worst(solved(eigenvalues.eigenvalues_2x2, given), given) < 2e-15


def test_subnormal_matrices_have_eigenvalues():
    given = np.rint(matrices("noise") * 3) * 5e-324
    np.testing.assert_allclose(
        solved(eigenvalues.eigenvalues_3x3_float64, given),
        np.linalg.eigvalsh(given * 2.0**1000)[:, ::-1] * 2.0**-1000,
        atol=2e-323,
    )


@pytest.mark.parametrize(
    "kernel", [eigenvalues.eigenvalues_3x3_float32, eigenvalues.eigenvalues_3x3_float64]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_is_not_finite_has_nan(kernel, bad):
    for i, j in ELEMENTS:
        given = matrices("noise", 20)
        given[7, i, j] = given[7, j, i] = bad
        found = solved(kernel, given)
        assert np.isnan(found[7]).all()
        assert np.isfinite(np.delete(found, 7, 0)).all()


def test_zero_matrices_have_zero():
    for kernel in (eigenvalues.eigenvalues_3x3_float32, eigenvalues.eigenvalues_3x3_float64):
        np.testing.assert_allclose(solved(kernel, np.zeros((9, 3, 3))), 0, atol=1e-80)


def test_risen_is_one_less_exp():
    x = np.concatenate([10.0 ** np.linspace(-300, 3, 2000), np.linspace(0, 800, 2001), [np.inf]])
    found = np.array([vesselness.one_minus_exp(v) for v in x])
    np.testing.assert_allclose(found, -np.expm1(-x), rtol=1e-15)
    assert np.isnan(vesselness.one_minus_exp(np.nan))
