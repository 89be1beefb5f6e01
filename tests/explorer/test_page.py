"""The page of the explorer: what its figures hold after sliders, keys, clicks and averages."""

import threading
import time

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from bokeh.events import Tap

import lazyvol as lv
from lazyvol.errors import LabelError
from lazyvol.explorer.activity import Stopped, Work
from lazyvol.explorer.page import AVERAGE, VARIANCE, Page

#: bokeh's own tables call what pandas 3.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")

SHAPE = (6, 7, 9, 11)
A = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
MASK = A[0] > 1


@pytest.fixture
def page():
    stack = lv.as_stack(da.from_array(A, chunks=(2, 7, 9, 11)), voxel_size=2.0, unit="angstrom")
    table = xr.Dataset({"score": ("k", np.arange(6.0)), "flagged": ("k", [False] * 5 + [True])})
    explorer = lv.explore(stack, lv.filters.gaussian(stack, 1.0).rename("smooth"), overlay=MASK,
                          particles=table, title="<b>stack</b>")  # fmt: skip
    made = Page(explorer.contents)
    settle(made)
    yield made
    made.close()


def settle(page: Page) -> None:
    """Wait until what was asked for is shown."""
    assert page._averager.wait()
    assert page.worker.wait()


def image(page: Page, normal: str):
    return page.figures[normal].source.data["image"][0]


def test_the_planes_through_the_middle_are_shown_first(page):
    assert page.index == {"k": 0, "z": 3, "y": 4, "x": 5}
    assert np.array_equal(image(page, "z"), A[0, 3])
    assert np.array_equal(image(page, "y"), A[0, :, 4])
    assert np.array_equal(image(page, "x"), A[0, :, :, 5].T)
    assert page.figures["z"].model.title.text == "z = 6 Å"


def test_sliders_show_other_planes(page):
    page.sliders["k"].value = 2
    page.sliders["z"].value = 0
    settle(page)
    assert np.array_equal(image(page, "z"), A[2, 0])
    assert page.active == "z"


def test_keys_step_along_the_dim_used_last(page):
    page.press("PageDown")
    page.press("ArrowUp")
    page.sliders["x"].value = 7
    page.press("ArrowRight")
    page.press("ArrowLeft", True)
    assert page.index == {"k": 1, "z": 4, "y": 4, "x": 0}
    page.press("End")
    settle(page)
    assert page.index["x"] == 10
    assert np.array_equal(image(page, "x"), A[1, :, :, 10].T)


def test_a_click_moves_the_point(page):
    page.figures["z"]._tapped(Tap(page.figures["z"].model, x=8.4, y=2.2))
    settle(page)
    assert page.index == {"k": 0, "z": 3, "y": 1, "x": 4}
    assert np.array_equal(image(page, "y"), A[0, :, 1])
    page.figures["z"]._tapped(Tap(page.figures["z"].model, x=-50.0, y=2.2))
    assert page.index["x"] == 4


def test_views_and_thick_planes(page):
    page.view.value = "smooth"
    settle(page)
    smooth = lv.filters.gaussian(lv.as_stack(A, voxel_size=2.0, unit="angstrom"), 1.0)
    assert np.allclose(image(page, "z"), smooth.values[0, 3], atol=1e-6)
    page.view.value, page.reduction.value, page.thickness.value = "values", "mean", 3
    settle(page)
    assert np.allclose(image(page, "z"), A[0, 2:5].mean(0), atol=1e-6)


def test_contrast_follows_what_is_shown_until_it_is_set(page):
    shown = np.concatenate([image(page, n).ravel() for n in "zyx"])
    assert np.allclose((page.mapper.low, page.mapper.high), np.percentile(shown, (1, 99)))
    page.contrast.value = (-0.5, 0.5)
    page.sliders["k"].value = 3
    settle(page)
    assert (page.mapper.low, page.mapper.high) == (-0.5, 0.5)
    page.press("]")
    assert page.mapper.high == pytest.approx(0.4)
    page.follow.value = True
    settle(page)
    assert page.mapper.high > 0.6


def test_the_mask_covers_its_voxels(page):
    alpha = page.figures["z"].overlay.data["image"][0].view(np.uint8).reshape(9, 11, 4)[..., 3]
    assert np.array_equal(alpha > 0, MASK[3])
    page.overlay.value = False
    settle(page)
    assert page.figures["z"].overlay.data["image"] == []


def test_flagged_particles_are_left_out_of_the_average(page):
    page.move({"k": 1})
    page.press("f")
    assert page.contents.particles.flagged == [1, 5]
    assert page.table.count.object == "2 of 6 flagged"
    page.average()
    settle(page)
    kept = A[[0, 2, 3, 4]]
    assert page.view.value == AVERAGE
    assert np.allclose(image(page, "z"), kept.mean(0)[3], atol=1e-6)
    page.view.value = VARIANCE
    settle(page)
    assert np.allclose(image(page, "z"), kept.var(0)[3], atol=1e-6)


def test_a_fault_of_the_data_is_told_on_the_page(page):
    def broken(block):
        raise lv.errors.ChecksumError("chunk 3 is damaged")

    values = page.array.data.map_blocks(broken, dtype=np.float32, meta=np.empty((0,) * 4, "f4"))
    page.contents.views.add("broken", page.array.copy(data=values))
    page.view.options = page.contents.views.names
    page.view.value = "broken"
    settle(page)
    assert page.activity.message.object == "ChecksumError: chunk 3 is damaged"


def test_images_and_colours_have_one_figure():
    colours = np.random.default_rng(2).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    explorer = lv.explore(lv.as_stack(colours, dims=("y", "x", "channel")))
    made = Page(explorer.contents)
    settle(made)
    assert list(made.figures) == ["z"]
    pixels = image(made, "z").view(np.uint8).reshape(8, 9, 4)
    assert np.array_equal(pixels[..., :3], colours)
    assert not any(w.visible for w in (made.palette, made.sigma, made.reduction, made.thickness))
    for low in (20.0, 50.0):
        made.contrast.value = (low, low + 51.0)
        settle(made)
        pixels = image(made, "z").view(np.uint8).reshape(8, 9, 4)
        assert np.allclose(pixels[..., :3], np.clip((colours - low) * 5.0, 0, 255))
    made.close()


def test_a_notebook_gets_the_page_and_a_terminal_one_line(page):
    explorer = lv.explore(lv.as_stack(A), title="stack")
    assert repr(explorer).startswith("Explorer of 'stack': 6 x 7 x 9 x 11 (k, z, y, x)")
    bundle = explorer._repr_mimebundle_()
    assert any("html" in kind for kind in (bundle[0] if isinstance(bundle, tuple) else bundle))


def test_a_picture_shows_the_planes_of_a_view():
    stack = lv.as_stack(da.from_array(A, chunks=(2, 7, 9, 11)), voxel_size=2.0, unit="angstrom")
    explorer = lv.explore(stack, lv.filters.gaussian(stack, 1.0).rename("smooth"))
    planes = explorer.figure("smooth", k=2, z=4.0).axes
    expected = lv.filters.gaussian(A[2], 0.5)
    assert [ax.get_title() for ax in planes] == ["z = 4 Å", "y = 8 Å", "x = 10 Å"]
    for ax, plane in zip(planes, (expected[2], expected[:, 4], expected[:, :, 5]), strict=True):
        np.testing.assert_allclose(np.ma.getdata(ax.images[0].get_array()), plane, rtol=1e-5)
    with pytest.raises(LabelError, match="view must be one of values, smooth, Gaussian"):
        explorer.figure("smoth")
    with pytest.raises(LabelError, match=r"dims must be of .* got j"):
        explorer.figure(j=1)


def test_slow_results_show_their_progress_until_they_are_stopped(page):
    proceed, ran = threading.Event(), []

    def slow(block):
        ran.append(1)
        if len(ran) > 1:
            proceed.wait(60)
        return block

    lazy = page.array.data.rechunk((1, 1, 9, 11))
    values = lazy.map_blocks(slow, dtype=np.float32, meta=np.empty((0,) * 4, "f4"))
    page.contents.views.add("<slow>", page.array.copy(data=values))
    page.view.options = page.contents.views.names
    before = image(page, "z")
    page.view.value = "<slow>"
    until = time.monotonic() + 60
    while not page.activity.bar.visible and time.monotonic() < until:
        time.sleep(0.02)
    assert page.activity.caption.object.startswith("computing &lt;slow&gt; … ")
    assert 0 < page.activity.bar.value < 100
    page.activity.button.clicks += 1
    assert page._work.stopped
    proceed.set()
    settle(page)
    assert image(page, "z") is before
    assert (page.activity.bar.visible, page.activity.caption.object) == (False, "")
    assert page.activity.button.disabled


def test_a_window_is_filled(page):
    page.resize(1920, 1080)
    large = {normal: figure.model.frame_width for normal, figure in page.figures.items()}
    assert large["z"] == large["y"]
    page.resize(1280, 1080)
    assert page.figures["z"].model.frame_width < large["z"]
    assert 1280 - 290 - large["x"] < page.table.rows.width + large["z"] < 1280
    page.resize(200, 200)
    assert page.figures["z"].model.frame_width == 240


RAN, PROCEED = [], threading.Event()


def slow_block(block):
    RAN.append(1)
    assert PROCEED.wait(20)
    return block


@pytest.mark.parametrize("place", ["threads", "cluster"])
def test_a_stop_ends_a_plane_between_its_tasks(client, place):
    """A plane of eight tasks: those that have not begun when it is stopped never run."""
    RAN.clear()
    PROCEED.clear()
    told: list[int] = []
    work = Work("slow", lambda: told.append(work.total))

    def stop() -> None:
        until = time.monotonic() + 20
        while not (RAN and told) and time.monotonic() < until:
            time.sleep(0.01)
        work.stopped = True
        if place == "threads":  # a cluster gives up tasks that it waits for
            PROCEED.set()

    if place == "threads":
        told.append(0)
    stopper = threading.Thread(target=stop)
    stopper.start()
    blocks = da.zeros(8, chunks=1).map_blocks(slow_block, dtype=float, meta=np.empty(0))
    with client.as_current() if place == "cluster" else dask.config.set(num_workers=2):
        with pytest.raises(Stopped):
            work.compute(xr.DataArray(blocks))
        PROCEED.set()
    stopper.join()
    assert told[-1] >= 8
    assert len(RAN) < 8
