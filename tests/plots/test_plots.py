"""Plots: their values, positions and units, and the voxels that they read."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import lazyvol as lv
from lazyvol import plots
from lazyvol.errors import LabelError, OptionError
from lazyvol.plan import regions
from lazyvol.plan.graph.lazy_array import source_array
from lazyvol.plots.canvas import BLUE, RED, contrast_limits, nearest_index, scale_bar_length
from tests.sources import READS, CountingSource, elements_read

SHAPE = (7, 11, 13)
VOLUME = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


def volume() -> xr.DataArray:
    return lv.as_stack(VOLUME, voxel_size=(3.0, 2.0, 1.5), unit="angstrom")


def particles(n: int = 6) -> xr.DataArray:
    values = np.random.default_rng(1).normal(size=(n, *SHAPE))
    return lv.as_stack(values, voxel_size=2.0, unit="nanometer")


def lazy_stack(token: str, n: int = 4) -> xr.DataArray:
    """Return a stack on a source that records reads, one volume per block."""
    values = np.random.default_rng(2).normal(size=(n, *SHAPE))
    READS[token] = []
    grid = (regions.uniform_chunks(n, 1), *((s,) for s in SHAPE))
    return lv.as_stack(source_array(CountingSource(values, (1, *SHAPE), token), grid))


def ncc(n: int = 50) -> xr.DataArray:
    return xr.DataArray(np.random.default_rng(3).normal(0.3, 0.1, n), dims="k", name="ncc")


def curve() -> xr.DataArray:
    frequency = xr.Variable("frequency", np.linspace(0, 0.1, 6), {"units": "1/angstrom"})
    return xr.DataArray(np.linspace(1, 0, 6), {"frequency": frequency}, ["frequency"])


def band() -> xr.Dataset:
    place = xr.Variable("z", np.arange(5) * 50.0, {"units": "nanometer"})
    values = np.linspace(1, 0, 5)
    bounds = {"lower": ("z", values - 0.1), "upper": ("z", values + 0.1)}
    return xr.Dataset({"correlation": ("z", values), **bounds}, {"z": place})


DRAWN = {
    "slices": lambda ax: plots.slices(volume(), n=4, ax=ax),
    "montage": lambda ax: plots.montage(particles(), ax=ax),
    "projection": lambda ax: plots.projection(volume(), ax=ax),
    "density": lambda ax: plots.density(volume(), ax=ax),
    "correlation": lambda ax: plots.correlation(band(), ax=ax),
    "scores": lambda ax: plots.scores(ncc(), ax=ax),
    "histogram": lambda ax: plots.histogram(ncc(), ax=ax),
    "alpha_sweep": lambda ax: plots.alpha_sweep(sweep(), ax=ax),
    "fsc": lambda ax: plots.fsc(curve(), ax=ax),
    "dendrogram": lambda ax: plots.dendrogram(tree(), ax=ax),
}


def tree() -> xr.Dataset:
    return lv.clustering.linkage(lv.clustering.distances(particles()))


def sweep() -> xr.Dataset:
    alpha = np.linspace(0, 1, 5)
    spread = alpha[:, None] + np.random.default_rng(4).normal(size=(5, 9))
    return xr.Dataset({"ncc": (("alpha", "k"), spread), "mse": ("alpha", alpha)}, {"alpha": alpha})


def test_every_public_plot_is_drawn_here():
    assert {*DRAWN, "orthogonal"} == set(plots.__all__)


@pytest.mark.parametrize("name", DRAWN)
def test_a_plot_draws_on_its_own_figure_and_on_given_axes(name):
    ax = DRAWN[name](None)
    assert isinstance(ax, Axes)
    assert isinstance(ax.figure.canvas, FigureCanvasAgg)
    ax.figure.canvas.draw()
    assert np.ptp(np.asarray(ax.figure.canvas.buffer_rgba())[..., :3]) > 100
    assert DRAWN[name](ax) is ax


def test_plots_never_import_pyplot():
    code = (
        "import sys, numpy, lazyvol.screening.report; from lazyvol import as_stack, plots;"
        "plots.slices(as_stack(numpy.eye(3)[None]), n=1);"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def drawn_pixels(ax: Axes) -> np.ndarray:
    """Return the pixels that axes have on their figure, rows downwards."""
    ax.figure.canvas.draw()
    box = ax.get_window_extent().extents.round().astype(int)
    pixels = np.asarray(ax.figure.canvas.buffer_rgba())
    return pixels[len(pixels) - box[3] : len(pixels) - box[1], box[0] : box[2], :3]


@pytest.mark.parametrize("draw", [plots.slices, plots.projection])
def test_colours_are_drawn_as_photographs_and_values_upwards(draw):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:20] = 255
    for array, at_top in ((lv.as_stack(image, dims=("y", "x", "channel")), 255),
                          (lv.as_stack(image[..., 0].astype(float)), 0)):  # fmt: skip
        pixels = drawn_pixels(draw(array))
        assert pixels[len(pixels) // 4, pixels.shape[1] // 2, 0] == at_top
        assert pixels[3 * len(pixels) // 4, pixels.shape[1] // 2, 0] == 255 - at_top


def test_planes_of_a_slab_are_below_each_other():
    panels = plots.orthogonal(lv.as_stack(np.random.default_rng(0).normal(size=(5, 40, 50))))
    panels[0].figure.canvas.draw()
    boxes = [ax.get_window_extent() for ax in panels]
    assert boxes[0].y0 > boxes[1].y1 > boxes[1].y0 > boxes[2].y1
    assert boxes[0].x0 == pytest.approx(boxes[1].x0, abs=2)


def test_long_rows_have_one_caption():
    stack = lv.as_stack(np.random.default_rng(0).normal(size=(45, 4, 4)), dims=("k", "y", "x"))
    captions = [t.get_text() for t in plots.montage(stack, columns=15).texts]
    assert [c for c in captions if c.startswith("k")] == ["k = 0", "k = 15", "k = 30"]


def test_orthogonal_reads_three_slices_of_a_lazy_volume():
    stack = lazy_stack("orthogonal")
    plots.orthogonal(stack.isel(k=2))
    z, y, x = SHAPE
    assert elements_read("orthogonal") == y * x + z * x + z * y


def test_montage_reads_central_slices_only():
    stack = lazy_stack("montage")
    plots.montage(stack.isel(k=[0, 3]))
    assert elements_read("montage") == 2 * SHAPE[1] * SHAPE[2]


def test_slices_reads_the_slices_shown():
    stack = lazy_stack("slices")
    plots.slices(stack.isel(k=0), n=3)
    assert elements_read("slices") == 3 * SHAPE[1] * SHAPE[2]


def test_orthogonal_shows_the_voxels_where_they_are():
    panels = plots.orthogonal(volume(), at={"z": 6.0, "x": 3.0})
    across_z, across_y, across_x = (p.images[0] for p in panels)
    np.testing.assert_array_equal(across_z.get_array(), VOLUME[2])
    np.testing.assert_array_equal(across_y.get_array(), VOLUME[:, 5])
    np.testing.assert_array_equal(across_x.get_array(), VOLUME[:, :, 2])
    assert across_z.get_extent() == [-0.75, 18.75, -1.0, 21.0]
    assert panels[0].get_xlabel() == "x (Å)"
    assert panels[0].get_ylabel() == "y (Å)"
    assert panels[0].get_title() == "z = 6 Å"


def test_orthogonal_draws_on_given_axes():
    first = plots.orthogonal(volume())
    assert plots.orthogonal(volume(), axes=first) == first


def test_projection_is_the_mean_along_its_dim():
    image = plots.projection(volume(), dim="y").images[0]
    np.testing.assert_allclose(image.get_array(), VOLUME.mean(1), rtol=1e-5)


def test_montage_tiles_have_own_contrast_unless_shared():
    stack = particles(3) * xr.DataArray([1.0, 10.0, 100.0], dims="k")
    separate = [i.get_clim() for i in plots.montage(stack).images]
    shared = [i.get_clim() for i in plots.montage(stack, shared=True).images]
    assert separate[0][1] * 50 < separate[2][1]
    assert len(set(shared)) == 1


def test_montage_captions_fit_the_tiles():
    with pytest.raises(LabelError, match="captions must be 6 texts, one per tile, got 1"):
        plots.montage(particles(), captions=["one"])


def test_flagged_scores_are_red_and_the_threshold_is_a_line():
    values = ncc()
    ax = plots.scores(values, flagged=values < 0.25, threshold=0.25)
    kept, marked = ax.collections
    assert tuple(kept.get_facecolor()[0][:3]) == to_rgb(BLUE)
    assert tuple(marked.get_facecolor()[0][:3]) == to_rgb(RED)
    assert len(marked.get_offsets()) == int((values < 0.25).sum())
    assert {0.25} in [set(line.get_ydata()) for line in ax.lines]


def test_histogram_counts_finite_values_and_names_the_number_of_others():
    values = ncc()
    values[3] = np.nan
    ax = plots.histogram(values, flagged=values > 0.4, bins=12)
    assert max(patch.get_y() + patch.get_height() for patch in ax.patches) <= 49
    assert sum(patch.get_height() for patch in ax.patches) == 49
    assert ax.get_xlabel() == "ncc (1 not finite, left out)"


def test_fsc_has_a_scale_of_lengths():
    ax = plots.fsc(curve())
    (top,) = [a for a in ax.figure.axes if a is not ax]
    assert [t.get_text() for t in top.get_xticklabels()] == ["50", "25", "16.7", "12.5", "10"]
    assert top.get_xlabel() == "length (Å)"


def test_fsc_draws_a_curve_for_each_variable():
    ax = plots.fsc(xr.Dataset({"all": curve(), "kept": 0.5 * curve()}))
    drawn = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_allclose(drawn["all"], curve()[1:])
    np.testing.assert_allclose(drawn["kept"], 0.5 * curve()[1:])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["all", "kept"]


def test_several_correlations_have_different_colours():
    ax = plots.correlation(band(), label="as it is")
    assert plots.correlation(band() / 2, label="flipped", ax=ax) is ax
    curves = [line for line in ax.lines if line.get_gid() == "correlation"]
    assert [to_rgb(line.get_color()) for line in curves] == [to_rgb(BLUE), to_rgb(RED)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["as it is", "flipped"]
    assert [tuple(c.get_facecolor()[0][:3]) for c in ax.collections] == [to_rgb(BLUE), to_rgb(RED)]


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: plots.orthogonal(particles()), "array must be a volume"),
        (lambda: plots.slices(volume(), dim="k"), "dim must be one of"),
        (lambda: plots.orthogonal(volume(), at={"q": 1.0}), "dim must be one of"),
        (
            lambda: plots.orthogonal(volume(), at={"z": 99.0}),
            "must be between -1.5 and 19.5 angstrom",
        ),
        (lambda: plots.scores(volume()), "values must have one dim"),
        (lambda: plots.scores(ncc(), flagged=ncc()), "flagged must be boolean"),
        (
            lambda: plots.correlation(xr.Dataset({"r": ("z", [1.0])})),
            "curve must have the variable",
        ),
        (lambda: plots.alpha_sweep(xr.Dataset({"ncc": ("q", [1.0])})), "metrics must have the dim"),
        (lambda: plots.montage(particles(), reduce="sum"), "one of 'slice', 'mean', 'max'"),
    ],
)
def test_messages_of_refusals(draw, message):
    with pytest.raises((LabelError, OptionError), match=message):
        draw()


@pytest.mark.parametrize("values", [np.zeros(5), np.full(5, np.nan), np.array([]), [1, np.inf]])
def test_limits_are_never_equal(values):
    low, high = contrast_limits(values)
    assert low < high
    assert np.isfinite([low, high]).all()


def test_limits_ignore_outliers():
    values = np.r_[np.linspace(0, 1, 1000), 1e6]
    assert contrast_limits(values)[1] < 1.01


@pytest.mark.parametrize(("span", "length"), [(100, 20), (8, 2), (0.4, 0.1), (4200, 1000)])
def test_scale_bars_have_round_lengths(span, length):
    assert scale_bar_length(span) == pytest.approx(length)


def test_the_default_slice_is_at_n_over_2():
    even = lv.as_stack(np.zeros((4, 6, 7)))
    assert [nearest_index(even, d, None) for d in "zyx"] == [2, 3, 3]


def test_constant_and_nan_volumes_draw_without_a_warning():
    for fill in (0.0, np.nan):
        blank = lv.as_stack(np.full(SHAPE, fill))
        for ax in plots.orthogonal(blank):
            ax.figure.canvas.draw()


def test_jupyter_shows_new_figures():
    """The value of a cell is a picture; axes of the user are left to their own figure."""
    for shown in (plots.slices(volume()), plots.orthogonal(volume()), plots.scores(ncc())):
        assert shown._repr_png_().startswith(b"\x89PNG")
    own = Figure().add_subplot()
    assert not hasattr(plots.scores(ncc(), ax=own), "_repr_png_")


def test_cutoffs_of_fsc_are_labelled_beside_the_axes():
    curve = xr.DataArray(np.linspace(1, 0, 9), {"frequency": np.arange(9) / 16}, ["frequency"])
    ax = plots.fsc(curve.to_dataset(name="all particles"))
    ax.figure.canvas.draw()
    labels = [t for t in ax.texts if t.get_text() in ("0.143", "0.5")]
    assert len(labels) == 2
    for label in labels:
        assert ax.bbox.x1 < label.get_window_extent().x0 < ax.figure.bbox.x1
