"""Images (y, x) and stacks of images in operations and plots, and the forms of sizes."""

import numpy as np
import pytest
import scipy.ndimage as ndi
import xarray as xr

import lazyvol as lv
from lazyvol import plots
from lazyvol.cli.operations import operations
from lazyvol.errors import LabelError, OptionError
from tests.rows.images import ALIKE, IMAGE


def images(k=3, dtype=np.float64):
    a = np.random.default_rng(3).normal(size=(k, 12, 17)).astype(dtype)
    return lv.as_stack(a, dims=("k", *IMAGE), voxel_size=(2.0, 1.5), unit="angstrom")


def each(result):
    return result.data_vars if isinstance(result, xr.Dataset) else {"": result}


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ALIKE)
def test_images_are_volumes_of_one_slice(name, lazy):
    s = images()
    s = s.chunk(k=2, y=5, x=17) if lazy and "k" in s.dims else s
    results = each(ALIKE[name](s).compute())
    volumes = each(ALIKE[name](s.compute().expand_dims(z=1, axis=s.ndim - 2)).compute())
    assert results.keys() == volumes.keys()
    for key, values in results.items():
        expected = volumes[key].squeeze("z") if "z" in volumes[key].dims else volumes[key]
        assert values.dims == expected.dims
        np.testing.assert_allclose(values.values, expected.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ALIKE)
def test_one_image_is_the_first_of_a_stack(name):
    s = images()
    one = each(ALIKE[name](s.isel(k=0)).compute())
    for key, values in one.items():
        many = each(ALIKE[name](s.isel(k=[0])).compute())[key]
        expected = many.isel(k=0) if "k" in many.dims else many
        np.testing.assert_allclose(values.values, expected.values, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dims", [("k", *IMAGE), (*IMAGE, "channel"), ("t", *IMAGE)])
def test_defaults_are_the_spatial_dims_present(dims):
    a = np.random.default_rng(3).normal(size=(4, 5, 6))
    result = lv.intensity.center(lv.as_stack(a, dims=dims))
    axes = tuple(dims.index(d) for d in IMAGE)
    np.testing.assert_allclose(result.values, a - a.mean(axes, keepdims=True), atol=1e-14)
    norm = lv.stats.norm(lv.as_stack(a, dims=dims))
    np.testing.assert_allclose(norm.values, np.sqrt((a**2).sum(axes)), rtol=1e-14)


def test_missing_dims_are_refused_by_name():
    with pytest.raises(LabelError, match=r"got \('z', 'y', 'x'\)"):
        lv.intensity.center(images(), dim=("z", "y", "x"))
    with pytest.raises(LabelError, match="must name dims"):
        lv.intensity.center(lv.as_stack(np.ones(4)))
    with pytest.raises(LabelError, match="name one of"):
        lv.projections.mean(images())
    with pytest.raises(LabelError, match=r"expand_dims\(z=1\)"):
        lv.synthetic.particles((8, 8), 4, sigma=1.0)


@pytest.mark.parametrize("of", [tuple, list, np.array])
def test_sizes_are_in_the_order_of_the_spatial_dims(of):
    v = lv.as_stack(np.random.default_rng(0).normal(size=(2, 7, 9, 10)), voxel_size=(2, 1, 1))
    result = lv.filters.gaussian(v, of((2.0, 2.0, 1.0)))
    np.testing.assert_allclose(result, ndi.gaussian_filter(v.values, (0, 1, 2, 1)), atol=1e-12)
    i = images()
    expected = ndi.uniform_filter(i.values, (1, 3, 5))
    np.testing.assert_allclose(lv.filters.uniform(i, of((3, 5))), expected, atol=1e-12)
    shares = (i.values[:, :, :16] > 0).reshape(3, 4, 3, 4, 4).mean((2, 4))
    blocks = lv.density.blocks(i > 0, of((3, 4)), partial="trim")
    np.testing.assert_allclose(blocks, shares)
    slopes = lv.derivatives.gradient(i, sigma=of((2.0, 1.5))).sel(axis="y")
    expected = ndi.gaussian_filter(i.values, (0, 1, 1), order=(0, 1, 0)) / 2.0
    np.testing.assert_allclose(slopes, expected, atol=1e-2)
    box = lv.masks.box((9, 11), size=of((3, 5)), centre=of((2, 3)))
    flags = np.zeros((9, 11), bool)
    flags[1:4, 1:6] = True
    np.testing.assert_array_equal(box, flags)


@pytest.mark.parametrize("size", [(3,), (3, 5, 3), [3] * 4, np.ones(5, int)])
def test_other_lengths_are_refused(size):
    for refused in (
        lambda: lv.filters.uniform(images(), size),
        lambda: lv.filters.gaussian(images(), size),
        lambda: lv.density.blocks(images(), size),
        lambda: lv.masks.dilate(images() > 0, size=size),
        lambda: lv.masks.box((9, 9), size=size),
        lambda: lv.masks.sphere((9, 9), radius=2, centre=size),
        lambda: lv.derivatives.gradient(images(), sigma=size),
        lambda: lv.synthetic.elastic(images(), size, 2.0),
        lambda: lv.synthetic.grid_lines((9, 9), size, 1.0),
        lambda: lv.as_stack(np.ones((9, 9)), voxel_size=size),
    ):
        with pytest.raises((LabelError, OptionError), match=r"one for each of .*'y', 'x'"):
            refused()


@pytest.mark.parametrize("lazy", [False, True])
def test_shifts_and_angles_are_rows_of_particles(lazy):
    s = images().chunk(k=1) if lazy else images()
    rows = np.array([[2.0, 0.0], [0.0, -3.0], [-4.0, 1.5]])
    moved = lv.registration.shift(s, rows)
    for result, image, row in zip(moved.values, s.values, rows, strict=True):
        whole = ndi.shift(image, row / (2.0, 1.5), order=3, mode="grid-constant")
        np.testing.assert_allclose(result, whole, atol=1e-12)
    one = lv.registration.shift(s, xr.DataArray(rows, dims=("k", "axis")))
    np.testing.assert_array_equal(one, moved)
    angles = np.array([10.0, 0.0, -35.0])
    rotated = lv.registration.rotate(s, angles)
    for n, angle in enumerate(angles):
        alone = lv.registration.rotate(s.isel(k=n), float(angle))
        np.testing.assert_allclose(rotated.isel(k=n), alone, atol=1e-12)
    mean = lv.registration.average(s, rows)["average"]
    whole = lv.registration.average(s, xr.DataArray(rows, dims=("k", "axis")))["average"]
    np.testing.assert_array_equal(mean, whole)


@pytest.mark.parametrize("rows", [np.ones((2, 2)), np.ones((3, 3)), np.ones(3), [["a", "b"]]])
def test_rows_of_other_shapes_are_refused(rows):
    with pytest.raises(LabelError, match="shifts must"):
        lv.registration.shift(images(), rows)


@pytest.mark.parametrize("angles", [np.ones(2), np.ones((3, 3)), ["a"], (0.0, 30.0, 0.0, 1.0)])
def test_angles_of_other_shapes_are_refused(angles):
    with pytest.raises(LabelError, match="rotations"):
        lv.registration.rotate(images(), angles)


def colours():
    a = np.random.default_rng(0).integers(0, 255, (12, 17, 3)).astype(np.uint8)
    return lv.as_stack(a, dims=(*IMAGE, "channel"))


def assert_upright(ax, rgb):
    """Assert that the first row of a colour image is drawn at the top."""
    (image,) = ax.images
    assert image.origin == "lower"  # the first row of the array is at the lower end of the axis
    from_top = image.get_array() if ax.yaxis_inverted() else image.get_array()[::-1]
    np.testing.assert_allclose(from_top, rgb.values / 255)


def test_every_plot_draws_images():
    s = images()
    one, rgb = s.isel(k=0), colours()
    shown = plots.slices(one)
    np.testing.assert_array_equal(shown.images[0].get_array(), one.values)
    assert len(plots.slices(s).images) == 3
    assert len(plots.montage(s).images) == 3
    (ax,) = plots.orthogonal(one)
    np.testing.assert_array_equal(ax.images[0].get_array(), one.values)
    along = plots.projection(s).images[0].get_array()
    np.testing.assert_allclose(along, s.values.mean(0))
    np.testing.assert_array_equal(plots.projection(one).images[0].get_array(), one.values)
    np.testing.assert_array_equal(plots.density(s).images[0].get_array(), s.values[1])
    for draw in (plots.slices, plots.projection, plots.density):
        assert_upright(draw(rgb), rgb)
    (ax,) = plots.orthogonal(rgb)
    assert_upright(ax, rgb)
    with pytest.raises(LabelError, match="left out for an image"):
        plots.slices(one, dim="z")


@pytest.mark.parametrize(
    ("verb", "name", "text", "value"),
    [
        (("filters", "gaussian"), "sigma", "1,2.5,2", (1, 2.5, 2)),
        (("filters", "gaussian"), "sigma", "1.5", 1.5),
        (("filters", "uniform"), "size", "y=3,x=5", {"y": 3, "x": 5}),
        (("masks", "sphere"), "centre", "z=4", {"z": 4}),
        (("registration", "shift"), "shifts", "1.5,-2", (1.5, -2)),
        (("registration", "rotate"), "rotations", "22.5", 22.5),
        (("intensity", "center"), "dim", "spatial", "spatial"),
    ],
)
def test_the_command_line_takes_sizes_as_written(verb, name, text, value):
    arguments = {a.name: a for a in operations()[verb].arguments}
    assert arguments[name].value(text) == value
