"""The explorer in a browser: no errors or foreign requests; keys, the table, and averages."""

import logging
from collections.abc import Iterator

import dask.array as da
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from tests.browser import Browser

#: bokeh's own tables call what pandas 3.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")

SHAPE = (6, 7, 9, 11)
A = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
NAME = "<img src=x onerror='window.hit = 1'>"
#: all text that is shown, in the components of Panel too, separated by bars
SHOWN = """(() => {
  const texts = [], visit = (node) => {
    if (node.shadowRoot) visit(node.shadowRoot);
    for (const child of node.childNodes) {
      if (['STYLE', 'SCRIPT'].includes(child.nodeName)) continue;
    if (child.nodeType === 3) texts.push(child.textContent); else visit(child);
    }
  };
  visit(document.body);
  return texts.join('|');
})()"""
#: the first element on the screen with a text that a selector picks, in any component
FIND = """((selector, text) => { const visit = (node) => {
  for (const e of node.querySelectorAll(selector)) {
    if (e.isConnected && e.checkVisibility() && e.textContent.trim() === text) return e;
  }
  for (const e of node.querySelectorAll('*')) {
    const found = e.shadowRoot && visit(e.shadowRoot);
    if (found) return found;
  }
  return null;
}; return visit(document) })"""
#: the pixels of all figures
PIXELS = """(() => {
  const canvases = [], visit = (node) => {
    canvases.push(...node.querySelectorAll('canvas'));
    for (const e of node.querySelectorAll('*')) if (e.shadowRoot) visit(e.shadowRoot);
  };
  visit(document);
  return canvases.map((c) => c.toDataURL()).join();
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Browser]:
    """A page with a stack and a table whose texts hold markup; its server reports no error."""
    reports, faults = logging.Handler(), []
    reports.emit = lambda record: faults.append(record.getMessage())
    logging.getLogger("tornado.application").addHandler(reports)
    browser = Browser(tmp_path_factory.mktemp("browser"))
    stack = lv.as_stack(da.from_array(A, chunks=(2, 7, 9, 11)), voxel_size=2.0, unit="angstrom")
    scores = ("k", np.arange(6.0))
    table = xr.Dataset({"score": scores, NAME: scores, "note": ("k", [NAME] * 6)})
    server = lv.explore(stack, {NAME: stack}, particles=table, title=NAME).show(open_browser=False)
    try:
        browser.open(server.url, width=1280, height=1000)
        browser.wait(f"{SHOWN}.includes('shape: 6') && {SHOWN}.includes('score')")
        browser.wait(f"{FIND}('.lazyvol-keys', '')")  # it hears keys
        yield browser
    finally:
        browser.close()
        server.stop()
        logging.getLogger("tornado.application").removeHandler(reports)
    assert faults == []


def test_there_are_no_errors_and_no_foreign_requests(page):
    assert [p for p in page.problems if "WebGL" not in p] == []
    local = ("http://localhost:", "ws://localhost:", "data:", "blob:")
    assert [u for u in page.requests if not u.startswith(local)] == []


def test_names_with_markup_stay_text(page):
    assert NAME in page.run(SHOWN)
    assert page.run("window.hit === undefined")


def test_keys_step_along_z(page):
    page.press("ArrowUp")
    page.wait(f"{SHOWN}.includes('z: |4|')")
    page.press("ArrowDown")
    page.wait(f"{SHOWN}.includes('z: |3|')")


def test_the_planes_change_with_the_point_and_the_contrast(page):
    shown = {page.run(PIXELS)}
    for key, text in (("Home", "z: |0|"), ("]", "contrast"), ("End", "z: |6|"), ("[", "contrast")):
        page.press(key)
        page.wait(f"{SHOWN}.includes('{text}')")
        before, waits = len(shown), 0
        while len(shown) == before and waits < 600:
            shown.add(page.run(PIXELS))
            waits += 1
        assert len(shown) == before + 1, key


def test_a_click_on_a_row_shows_the_particle_and_the_table_is_exported(page):
    page.run(f"{FIND}('.tabulator-cell', '4').click()")
    page.wait(f"{SHOWN}.includes('k: |4|')")
    page.press("PageUp")
    page.wait(f"{SHOWN}.includes('k: |3|')")
    page.run(f"{FIND}('a', 'Export .csv').click()")
    assert page.downloaded("particles.csv").count("\n") == 7


def test_a_click_on_the_text_of_a_box_ticks_it(page):
    text = f"{FIND}('span, div', 'contrast from what is shown')"
    ticked = page.run(f"{text}.previousElementSibling.checked")
    for expected in (not ticked, ticked):
        page.run(f"{text}.click()")
        page.wait(f"{text}.previousElementSibling.checked === {str(expected).lower()}")


def test_f_flags_the_particle_and_averages_leave_it_out(page):
    page.press("f")
    page.wait(f"{SHOWN}.includes('1 of 6 flagged')")
    page.run(f"{FIND}('button', 'Average particles').click()")
    page.wait(f"{SHOWN}.includes('average so far')")
    assert [p for p in page.problems if "WebGL" not in p] == []
