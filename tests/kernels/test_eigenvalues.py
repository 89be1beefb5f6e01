"""Closed-form eigenvalues against LAPACK for matrices that easily lose digits."""

import numpy as np
import pytest

from lazyvol.kernels.derivatives import eigenvalues, vesselness

ELEMENTS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


def solved(kernel, matrices):
    """Return eigenvalues of many matrices from a kernel on rows, in decreasing order."""
    size = matrices.shape[-1]
    result = np.empty(matrices.shape[:-1])
    for start in range(0, len(matrices), eigenvalues.WIDTH):
        part = matrices[start : start + eigenvalues.WIDTH]
        s = np.full(6 * eigenvalues.STRIDE, 7.0)
        for row, (i, j) in enumerate(ELEMENTS):
            if size == 3 or row >= 3:
                element = part[:, i, j] if size == 3 else part[:, i - 1, j - 1]
                s[row * eigenvalues.STRIDE :][: len(part)] = element
        kernel(s, len(part))
        for c in range(size):
            result[start : start + len(part), c] = s[c * eigenvalues.STRIDE :][: len(part)]
    return result


def matrices(kind, n=4000):
    """Return symmetric matrices that are hard for closed forms, by kind."""
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((n, 3, 3))
    noise = noise + noise.transpose(0, 2, 1)
    rotations = np.linalg.qr(rng.standard_normal((n, 3, 3)))[0]
    near = 10.0 ** rng.uniform(-18, 0, n)
    ones = np.ones(n)

    def of(*spectrum):
        matrix = np.einsum("nij,jn,nkj->nik", rotations, np.stack(spectrum), rotations)
        return (matrix + matrix.transpose(0, 2, 1)) / 2

    return {
        "noise": lambda: noise,
        "two nearly equal above": lambda: of(ones + near, ones, -rng.random(n)),
        "two nearly equal below": lambda: of(3 * ones, ones, ones - near),
        "three nearly equal": lambda: 5 * np.eye(3) + noise * near[:, None, None],
        "two equal": lambda: of(ones, ones, rng.standard_normal(n)),
        "rank one": lambda: of(ones, 0 * ones, 0 * ones),
        "opposite": lambda: of(ones, 0 * ones, -ones),
        "diagonal": lambda: np.eye(3) * rng.standard_normal((n, 1, 3)),
        "small integers": lambda: np.rint(noise),
        "one voxel": lambda: np.eye(3) * [[[4.0, 0.0, 0.0]]] * np.ones((n, 1, 1)),
    }[kind]()


KINDS = [
    "noise", "two nearly equal above", "two nearly equal below", "three nearly equal", "two equal",
    "rank one", "opposite", "diagonal", "small integers", "one voxel",
]  # fmt: skip


def largest_error(result, matrix):
    """Return the largest error of eigenvalues relative to the largest element."""
    norm = np.abs(matrix).max((1, 2), keepdims=True)
    norm[norm == 0] = 1
    expected = np.linalg.eigvalsh(matrix / norm)[:, ::-1]
    return np.abs(result / norm[:, :, 0] - expected).max()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e-160, 1e-100, 1e100, 1e160, 1e300])
def test_float64_eigenvalues_are_those_of_lapack(kind, scale):
    matrix = matrices(kind, 1000 if scale != 1 else 4000) * scale
    result = solved(eigenvalues.eigenvalues_3x3_float64, matrix)
    assert largest_error(result, matrix) < 2e-14
    assert (np.diff(result) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-38, 1e38])
def test_float32_eigenvalues_have_the_precision_of_float32(kind, scale):
    matrix = matrices(kind) * scale
    result = solved(eigenvalues.eigenvalues_3x3_float32, matrix)
    assert largest_error(result, matrix) < 4e-8
    assert (np.diff(result) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
def test_eigenvalues_in_a_plane_are_those_of_lapack(kind, scale):
    matrix = matrices(kind)[:, :2, :2] * scale
    assert largest_error(solved(eigenvalues.eigenvalues_2x2, matrix), matrix) < 2e-15


def test_subnormal_matrices_have_eigenvalues():
    matrix = np.rint(matrices("noise") * 3) * 5e-324
    np.testing.assert_allclose(
        solved(eigenvalues.eigenvalues_3x3_float64, matrix),
        np.linalg.eigvalsh(matrix * 2.0**1000)[:, ::-1] * 2.0**-1000,
        atol=2e-323,
    )


@pytest.mark.parametrize(
    "kernel", [eigenvalues.eigenvalues_3x3_float32, eigenvalues.eigenvalues_3x3_float64]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_matrices_with_nan_or_infinity_give_nan(kernel, bad):
    for i, j in ELEMENTS:
        matrix = matrices("noise", 20)
        matrix[7, i, j] = matrix[7, j, i] = bad
        result = solved(kernel, matrix)
        assert np.isnan(result[7]).all()
        assert np.isfinite(np.delete(result, 7, 0)).all()


def test_eigenvalues_of_zero_matrices_are_zero():
    for kernel in (eigenvalues.eigenvalues_3x3_float32, eigenvalues.eigenvalues_3x3_float64):
        np.testing.assert_allclose(solved(kernel, np.zeros((9, 3, 3))), 0, atol=1e-80)


def test_one_minus_exp_is_that_of_numpy():
    x = np.concatenate([10.0 ** np.linspace(-300, 3, 2000), np.linspace(0, 800, 2001), [np.inf]])
    result = np.array([vesselness.one_minus_exp(v) for v in x])
    np.testing.assert_allclose(result, -np.expm1(-x), rtol=1e-15)
    assert np.isnan(vesselness.one_minus_exp(np.nan))
