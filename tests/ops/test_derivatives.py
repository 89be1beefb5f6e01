"""Derivatives beyond the rows: accuracy, borders, NaN, plans and errors."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from scipy import ndimage as ndi
from skimage.feature import hessian_matrix, hessian_matrix_eigvals
from skimage.feature import structure_tensor as skimage_tensor

import lazyvol as lv
from lazyvol.errors import LabelError, OptionError
from tests.paths import DATA
from tests.rows.derivatives import curvatures, derived, eigenvalues, frangi, smooth_curvatures
from tests.strategies import FEW, SHAPE, chunked, chunkings, labelled, stored, values

VESSELS = DATA / "vessels"
SPACING = {"z": 1.50009, "y": 0.878906, "x": 0.878906}
ELEMENTS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
MODES = ("reflect", "mirror", "nearest", "constant", "wrap")
SOME = settings(FEW, max_examples=12)
OPERATIONS = [getattr(lv.derivatives, name) for name in lv.derivatives.__all__]
BY_SIGMA = [op for op in OPERATIONS if not op.__name__.startswith("structure")]


def with_sigma(op):
    """Return the options that an operation requires."""
    return {"sigma": 3.0} if op.__name__.startswith("structure") else {}


# differences -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 2, 5), (4, 3, 2), (2, 7, 600), (1, 2, 1)])
def test_short_axes_are_those_of_numpy(shape):
    a = np.random.default_rng(1).standard_normal((2, *shape))
    dims = tuple(d for d, n in zip("zyx", shape, strict=True) if n > 1)
    axes = [1 + "zyx".index(d) for d in dims]
    stack = labelled(a)
    np.testing.assert_allclose(
        lv.derivatives.hessian(stack, dim=dims), curvatures(a, axes), rtol=0, atol=1e-14
    )


def test_positions_may_run_backwards():
    a = values("float64")
    stack = labelled(a).isel(y=slice(None, None, -1))
    turned = lv.derivatives.gradient(stack).isel(y=slice(None, None, -1))
    np.testing.assert_allclose(turned, lv.derivatives.gradient(labelled(a)), atol=1e-14)
    smoothed = lv.derivatives.hessian(stack, sigma=3.0).isel(y=slice(None, None, -1))
    np.testing.assert_allclose(smoothed, lv.derivatives.hessian(labelled(a), sigma=3.0), atol=1e-14)


def test_a_ramp_far_from_zero_keeps_its_digits():
    """Arithmetic in float32 would lose a curvature of 1 in values of 1e6."""
    y, x = np.mgrid[:9, :9, :9][1:].astype("float32")
    stack = lv.as_stack(1e6 + 1000 * x + 0.5 * y**2)
    result = lv.derivatives.hessian(stack)[4, 4, 4].values
    np.testing.assert_allclose(result, np.diag([0, 1, 0]), atol=0.05)
    np.testing.assert_allclose(
        lv.derivatives.hessian_eigenvalues(stack).values,
        eigenvalues(curvatures_of_one(stack.values.astype("f8"))), atol=1e-6,
    )  # fmt: skip


def curvatures_of_one(a):
    first = np.gradient(a)
    return np.stack([np.stack(np.gradient(g), -1) for g in first], -2)


def test_skimage_has_the_same_eigenvalues():
    a = ndi.gaussian_filter(np.random.default_rng(3).standard_normal((17, 19, 23)), 1.5)
    theirs = hessian_matrix_eigvals(hessian_matrix(a, sigma=1e-3, use_gaussian_derivatives=False))
    ours = lv.derivatives.hessian_eigenvalues(lv.as_stack(a))
    np.testing.assert_allclose(ours, np.moveaxis(theirs, 0, -1), atol=1e-15)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint16", "int64", ">f4", ">f8", ">i2", "float16"]
)
def test_any_dtype_is_read(dtype):
    a = (values("float32") > 1) if dtype == "bool" else values("float16").astype(dtype)
    result = lv.derivatives.hessian(labelled(a))
    expected_type = a.dtype.newbyteorder("=") if a.dtype.kind == "f" else np.float64
    assert result.dtype.newbyteorder("=") == expected_type
    expected = curvatures(a)
    atol = 4 * np.finfo(result.dtype).eps * np.abs(expected).max()
    np.testing.assert_allclose(result.values.astype("f8"), expected, rtol=0, atol=atol)


def test_any_layout_is_read():
    a = values("float32", (7, 10, 22, 26))[:, ::2, ::2, ::-2]
    turned = np.asfortranarray(a)
    for op in OPERATIONS:
        expected = op(labelled(a.copy()), **with_sigma(op))
        for layout in (a, turned):
            np.testing.assert_array_equal(op(labelled(layout), **with_sigma(op)), expected)


# scales ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@given(grid=chunkings(SHAPE))
@SOME
def test_any_border_is_that_of_scipy_under_any_chunking(mode, grid):
    """Halos are 6, 9 and 12 voxels, axes 5, 11 and 13."""
    a = values("float64")
    result = lv.derivatives.hessian(chunked(a, grid), sigma=4.5, mode=mode)
    expected = smooth_curvatures(a, 4.5, mode=mode)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-14)


def test_a_scale_for_each_dim():
    a = values("float64")
    result = lv.derivatives.laplacian(labelled(a), sigma={"z": 3.0, "y": 2.0, "x": 1.5})
    plain = sum(derived(a[0], (1.0,) * 3, 2 * np.eye(3, dtype=int)[n]) for n in range(3))
    assert result.shape == a.shape
    volume = lv.derivatives.laplacian(lv.as_stack(a[0]), sigma=1.0)
    np.testing.assert_allclose(volume, plain, atol=1e-13)


def test_a_wide_scale_differentiates_a_parabola():
    """Second derivatives of a parabola are exact for any voxel size."""
    z, y, x = np.meshgrid(
        *(np.arange(n) * h for n, h in ((40, 2.0), (48, 1.5), (60, 1.0))), indexing="ij"
    )
    stack = lv.as_stack(2 * x**2 + 3 * x * y - z**2, voxel_size=(2.0, 1.5, 1.0))
    result = lv.derivatives.hessian(stack, sigma=4.0)[20, 24, 30]
    np.testing.assert_allclose(result, [[-2, 0, 0], [0, 0, 3], [0, 3, 4]], atol=1e-11)


def test_a_large_plane_is_made_in_tiles():
    a = np.random.default_rng(0).standard_normal((3, 300, 260)).astype("f4")
    result = lv.derivatives.gradient_magnitude(lv.as_stack(a), sigma=1.0)
    slopes = [derived(a, (1.0,) * 3, np.eye(3, dtype=int)[n]) for n in range(3)]
    np.testing.assert_allclose(result, np.linalg.norm(slopes, axis=0), atol=1e-6)
    tensor = lv.derivatives.structure_tensor_eigenvalues(lv.as_stack(a), sigma=1.0)
    parts = lv.derivatives.structure_tensor_eigenvalues(
        lv.as_stack(da.from_array(a, chunks=(3, 70, 90))), sigma=1.0
    )
    np.testing.assert_allclose(tensor, parts, atol=1e-6)


# NaN -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [None, 1.0])
@pytest.mark.parametrize("op", BY_SIGMA)
def test_nan_spreads_no_further_than_the_derivatives_reach(op, sigma):
    a = np.random.default_rng(4).standard_normal((21, 21, 21)).astype("f4")
    options = {"c": 1.0} if op is lv.derivatives.vesselness else {}
    clean = op(lv.as_stack(a), sigma=sigma, **options)
    a[10, 10, 10] = np.nan
    arrays_with_nan = op(lv.as_stack(a), sigma=sigma, **options)
    reach = 4 if sigma else 2
    near = np.zeros(a.shape, bool)
    near[(slice(10 - reach, 11 + reach),) * 3] = True
    new = arrays_with_nan.dims[3:]
    changed = np.isnan(arrays_with_nan).any(new)
    assert changed.values.any()
    assert not changed.values[~near].any()
    xr.testing.assert_equal(arrays_with_nan.where(~changed), clean.where(~changed))


def test_nan_is_left_out_of_the_largest_norm():
    a = np.random.default_rng(4).standard_normal((1, 15, 15, 15)).astype("f4")
    a[0, 3, 3, 3] = np.nan
    result = lv.derivatives.vesselness(lv.as_stack(a))
    assert 0 < float(np.isnan(result).mean()) < 0.1
    assert float(result.max()) > 0


# structure tensor ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["reflect", "mirror", "nearest", "constant"])
@given(grid=chunkings(SHAPE))
@FEW
def test_products_are_continued_under_any_chunking(mode, grid):
    a = values("float64")
    result = lv.derivatives.structure_tensor(
        chunked(a, grid), sigma=4.0, inner={"y": 2.0, "x": 1.5}, dim=("y", "x"), mode=mode
    )
    scale, steps = (0, 0, 1.0, 1.0), (2.0, 1.5)
    orders = ((0, 0, 1, 0), (0, 0, 0, 1))
    slopes = [derived(a, scale, o, mode=mode) / h for o, h in zip(orders, steps, strict=True)]
    for i, j in np.ndindex(2, 2):
        expected = ndi.gaussian_filter(slopes[i] * slopes[j], (0, 0, 2.0, 4 / 1.5), mode=mode)
        np.testing.assert_allclose(result[..., i, j], expected, rtol=0, atol=1e-14)


def test_skimage_has_the_same_tensor_where_sobel_is_exact():
    """The gradient of a parabola is linear, so Sobel's filter gives it times 32."""
    rng = np.random.default_rng(5)
    z, y, x = np.mgrid[:30, :31, :32].astype(float)
    p = rng.standard_normal(6)
    a = p[0] * z**2 + p[1] * z * y + p[2] * z * x + p[3] * y**2 + p[4] * y * x + p[5] * x**2
    theirs = skimage_tensor(a / 1e3, sigma=1.5)
    ours = lv.derivatives.structure_tensor(lv.as_stack(a / 1e3), sigma=1.5)
    inner = (slice(8, -8),) * 3
    for field, (i, j) in zip(theirs, ELEMENTS, strict=True):
        np.testing.assert_allclose(ours[inner][..., i, j], field[inner] / 32**2, rtol=1e-9)


def test_a_part_of_the_tensor_is_made_alone():
    lazy = lv.derivatives.structure_tensor(chunked(values("float32"), (3, 2, 4, 7)), sigma=3.0)
    whole = lazy.compute()
    xr.testing.assert_equal(lazy.sel(axis="y", axis_other="x").compute(), whole[..., 1, 2])
    xr.testing.assert_equal(lazy.isel(axis=slice(1, 3), z=2).compute(), whole[:, 2, :, :, 1:])
    solved = lv.derivatives.structure_tensor_eigenvalues(
        chunked(values("float32"), (3, 2, 4, 7)), sigma=3.0
    )
    xr.testing.assert_equal(solved[..., -1].compute(), solved.compute()[..., -1])


# vesselness ------------------------------------------------------------------------------------


def tube(radius=2.0, sign=1.0):
    y, x = np.mgrid[:24, :32, :32][1:] - 16.0
    return lv.as_stack(sign * np.exp(-(y**2 + x**2) / (2 * radius**2)), voxel_size=0.5, unit="um")


def test_vesselness_of_a_tube_depends_on_contrast_and_scale():
    options = {"sigma": (0.5, 1.0, 2.0), "c": 0.2}
    bright = lv.derivatives.vesselness(tube(), **options)
    dark = lv.derivatives.vesselness(tube(sign=-1.0), bright=False, **options)
    np.testing.assert_allclose(bright, dark, atol=1e-15)
    centre = bright.isel(y=16, x=16)
    assert (centre > 0.5).all()
    assert float(lv.derivatives.vesselness(tube(), bright=False, **options)[:, 16, 16].max()) == 0
    scales = [lv.derivatives.vesselness(tube(), **options | {"sigma": s}) for s in (0.5, 1.0, 2.0)]
    np.testing.assert_allclose(
        bright, np.maximum.reduce([s.values for s in scales]), rtol=0, atol=1e-15
    )


def test_c_is_half_of_the_largest_norm_of_each_volume():
    a = np.random.default_rng(6).standard_normal((3, 9, 11, 13)) * [[[[1.0]]], [[[5.0]]], [[[0.0]]]]
    stack = labelled(a)
    result = lv.derivatives.vesselness(stack, sigma=3.0)
    for k, volume in enumerate(stack):
        norm = np.linalg.norm(lv.derivatives.hessian(volume, sigma=3.0), axis=(-2, -1)).max()
        if norm:
            expected = lv.derivatives.vesselness(volume, sigma=3.0, c=9.0 * norm / 2)
            np.testing.assert_allclose(result[k], expected, rtol=0, atol=1e-14)
        else:
            assert (result[k] == 0).all()


def test_vesselness_is_from_0_to_1():
    for scale in (1e-30, 1.0, 1e30):
        a = (np.random.default_rng(7).standard_normal((20, 20, 20)) * scale).astype("f4")
        result = lv.derivatives.vesselness(lv.as_stack(a)).values
        assert 0 == result.min() < result.max() < 1
    assert (lv.derivatives.vesselness(lv.as_stack(np.zeros((5, 5, 5)))) == 0).all()


# plans -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPERATIONS)
def test_a_chain_is_one_task_per_block(op):
    options = with_sigma(op) | ({"c": 1.0} if op is lv.derivatives.vesselness else {})
    stack = stored(values("float32", (2, 40, 40, 40)), (1, 20, 20, 20))
    chain = op(lv.derivatives.gradient_magnitude(stack, sigma=3.0), **options)
    blocks = chain.data.npartitions
    assert len(dask.optimize(chain.data)[0].dask) <= 1.1 * blocks + 1
    assert lv.explain(chain, workers=2).tasks <= 1.1 * blocks


def test_a_slice_reads_a_slab():
    a = values("float32", (1, 60, 20, 20))
    lazy = lv.derivatives.hessian_eigenvalues(stored(a, (1, 4, 20, 20)))
    whole, slab = lv.explain(lazy), lv.explain(lazy.isel(z=30))
    assert slab.bytes_read <= whole.bytes_read / 8
    np.testing.assert_array_equal(
        lazy.isel(z=30), lv.derivatives.hessian_eigenvalues(labelled(a)).isel(z=30)
    )


def test_images_and_lines_have_derivatives():
    a = values("float64", (1, 1, 11, 13))[0, 0]
    image = lv.as_stack(a, dims=("y", "x"), voxel_size=(2.0, 1.5))
    slopes = np.gradient(a, 2.0, 1.5)
    expected = np.stack([np.stack(np.gradient(g, 2.0, 1.5), -1) for g in slopes], -2)
    np.testing.assert_allclose(lv.derivatives.hessian(image), expected, atol=1e-14)
    line = lv.as_stack(a[0], dims=("x",), voxel_size=1.5)
    expected = np.gradient(np.gradient(a[0], 1.5), 1.5)
    for op in (lv.derivatives.laplacian, lv.derivatives.hessian_eigenvalues):
        np.testing.assert_allclose(np.ravel(op(line)), expected, atol=1e-14)


# errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0.0}, "positive"),
        ({"sigma": -1.0}, "positive"),
        ({"sigma": np.nan}, "finite"),
        ({"sigma": {"z": 3.0}}, "one for each"),
        ({"sigma": {"z": 3.0, "y": 3.0, "k": 3.0}}, "sigma must name"),
        ({"sigma": 1.0}, "0.333"),
        ({"sigma": "wide"}, "number"),
        ({"sigma": 3.0, "mode": "periodic"}, "mode must be one of"),
        ({"sigma": 3.0, "truncate": 0.0}, "truncate"),
        ({"sigma": 3.0, "fill": np.inf}, "fill"),
        ({"mode": "nearest"}, "without a sigma"),
        ({"dim": "channel"}, "channel"),
        ({"dim": ()}, "one to three"),
        ({"dim": ("k", "z", "y", "x")}, "one to three"),
    ],
)
def test_invalid_options_are_refused(options, words):
    with pytest.raises((LabelError, OptionError), match=words):
        lv.derivatives.gradient(labelled(values("float32")), **options)


def test_volumes_that_have_no_derivatives_are_refused():
    stack = labelled(values("float32"))
    gradient = lv.derivatives.gradient
    with pytest.raises(LabelError, match="two voxels or more"):
        gradient(stack.isel(z=slice(0, 1)))
    with pytest.raises(LabelError, match="one unit"):
        gradient(stack.assign_coords(z=("z", stack.z.values, {"units": "nm"})))
    with pytest.raises(LabelError, match="must have equal steps"):
        gradient(stack.assign_coords(y=("y", stack.y.values**2, stack.y.attrs)))
    with pytest.raises(LabelError, match="real"):
        gradient(stack.astype(complex))
    with pytest.raises(LabelError, match="as_stack"):
        gradient(2.0)


def test_measures_refuse_their_own_options():
    stack = labelled(values("float32"))
    with pytest.raises(LabelError, match="wrap"):
        lv.derivatives.structure_tensor(stack, sigma=3.0, mode="wrap")
    with pytest.raises((LabelError, OptionError), match="sigma"):
        lv.derivatives.structure_tensor(stack, sigma=None)
    for options in ({"alpha": 0.0}, {"beta": -1.0}, {"c": 0.0}, {"c": np.nan}):
        with pytest.raises((LabelError, OptionError), match=r"positive|finite"):
            lv.derivatives.vesselness(stack, **options)
    with pytest.raises(LabelError, match="two dims or three"):
        lv.derivatives.vesselness(stack, dim="x")
    with pytest.raises((LabelError, OptionError), match="positive"):
        lv.derivatives.vesselness(stack, sigma=(3.0, -1.0))


# real data -------------------------------------------------------------------------------------


def picture(name):
    tifffile = pytest.importorskip("tifffile")
    if not VESSELS.is_dir():
        pytest.skip("shared/data is not beside the checkout")
    return lv.as_stack(tifffile.imread(VESSELS / name), voxel_size=SPACING, unit="mm")


@pytest.mark.parametrize("chunks", [None, (17, 131, 157)])
def test_an_aorta_has_the_vessels_that_vmtk_found(chunks):
    """VMTK smooths recursively; with scipy's Gaussian its formula correlates 0.9900."""
    aorta, theirs = picture("aorta.tif"), picture("aorta_vmtk_frangi_sigma1.tif")
    stack = aorta if chunks is None else aorta.chunk(dict(zip("zyx", chunks, strict=True)))
    ours = lv.derivatives.vesselness(stack, sigma=1.0, c=5.0, mode="nearest")
    assert np.corrcoef(ours.values.ravel(), theirs.values.ravel())[0, 1] > 0.989
    assert abs(float(ours.max()) - float(theirs.max())) < 0.01


def test_an_aorta_has_the_curvatures_of_scipy_and_of_lapack():
    aorta = picture("aorta.tif")[:, 100:160, 40:100]
    a = aorta.values[None].astype("f8")
    steps = tuple(SPACING.values())
    expected = np.empty((*a.shape, 3, 3))
    for i, j in np.ndindex(3, 3):
        order = [0, *(int(n == i) + int(n == j) for n in range(3))]
        field = derived(a, (0, *(1 / h for h in steps)), order)
        expected[..., i, j] = field / (steps[i] * steps[j])
    solved = eigenvalues(expected[0])
    result = lv.derivatives.hessian_eigenvalues(aorta, sigma=1.0)
    np.testing.assert_allclose(result, solved, atol=1e-6 * np.abs(solved).max())
    ridge = lv.derivatives.vesselness(aorta, sigma=1.0, c=5.0)
    np.testing.assert_allclose(ridge, frangi(expected, 0.5, 0.5, 5.0)[0], atol=2e-6)


@pytest.mark.parametrize("name", ["emdb_maps/EMD-3001.map", "isbi2012/train-volume.tif"])
def test_real_volumes_have_the_gradient_of_numpy(name):
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"no {path.name} in shared/data")
    volume = lv.open(path)
    dims = [d for d in volume.dims if d in ("z", "y", "x")]
    volume = volume.isel({d: slice(0, 70) for d in volume.dims})
    steps = [float(volume[d][1] - volume[d][0]) for d in dims]
    axes = [volume.dims.index(d) for d in dims]
    expected = np.gradient(volume.values.astype("f8"), *steps, axis=axes)
    result = lv.derivatives.gradient(volume)
    scale = max(np.abs(g).max() for g in expected)
    np.testing.assert_allclose(result, np.stack(expected, -1), rtol=0, atol=4 * scale * 1.2e-7)


# values beyond the border ----------------------------------------------------------------------

CONSTANT = {
    **{op.__name__: lambda s, f, op=op: op(s, sigma=2.0, mode="constant", fill=f)
       for op in BY_SIGMA},
    "filters.gaussian": lambda s, f: lv.filters.gaussian(s, 2.0, mode="constant", fill=f),
    "filters.maximum": lambda s, f: lv.filters.maximum(s, 3, mode="constant", fill=f),
    "rotate": lambda s, f: lv.registration.rotate(s, 30, fill=f),
    "shift": lambda s, f: lv.registration.shift(s, {"x": 1.5}, fill=f),
    "affine": lambda s, f: lv.transform.affine(s, 0.9 * np.eye(3), mode="constant", fill=f),
}  # fmt: skip
#: operations that compute in floats from the start, so that any fill is a value of their type
IN_FLOATS = {"rotate", "shift", "affine"}


@pytest.mark.parametrize("name", CONSTANT)
def test_a_fill_that_the_type_of_the_stack_holds_is_used_and_others_are_refused(name):
    small = np.random.default_rng(4).integers(0, 2, (4, 5, 6))
    for dtype, fills in {"bool": (7, -3), "uint8": (2.5, -3, 300), "int16": (2.5, 1e9)}.items():
        stack = lv.as_stack(small.astype(dtype))
        expected = CONSTANT[name](lv.as_stack(small.astype("f8")), 1.0)
        np.testing.assert_allclose(CONSTANT[name](stack, 1.0), expected, atol=1e-12)
        for fill in fills:
            if name in IN_FLOATS:
                assert CONSTANT[name](stack, fill).dtype.kind == "f"
                continue
            with pytest.raises(LabelError, match=f"fill must be a value of dtype {dtype}, got"):
                CONSTANT[name](stack, fill)
    with pytest.raises(LabelError, match="fill must be a value of dtype float16"):
        CONSTANT[name](lv.as_stack(small.astype("f2")), 1e9)
