"""Make the pictures of the README by chromium: ``python -m notebooks.site.pictures``."""

from pathlib import Path
from tempfile import TemporaryDirectory

import lazyvol as lv
from lazyvol.screening import screen
from tests.browser import Browser
from tests.explorer.test_browser import SHOWN

HERE = Path(__file__).resolve().parent
#: seconds are few: a hundred and sixty cylinders in strong noise, one in ten tilted
CYLINDERS = {"radius": 40.0, "length": 200.0, "soft": 10.0, "voxel_size": 5.0, "unit": "angstrom"}
#: selects the view of the average, in the components of Panel
SELECT = """(() => {
  const visit = (node) => {
    if (node.shadowRoot) visit(node.shadowRoot);
    for (const child of node.children ?? []) visit(child);
    if (node.nodeName !== 'SELECT' || ![...node.options].some(o => o.value === 'average')) return;
    node.value = 'average';
    node.dispatchEvent(new Event('change'));
  };
  visit(document.body);
})()"""


def draw(folder: Path) -> None:
    """Write the pictures of the explorer and of the report."""
    particles = lv.synthetic.particles(
        (48, 48, 48), 160, sigma=8.0, tilted=0.1, seed=1, **CYLINDERS
    )
    lv.save(particles, folder / "particles.zarr")
    stack = lv.open(folder / "particles.zarr").drop_vars(["tilted", "tilt"])
    result = screen(stack, folder / "screened")
    scores = result.scores[["ncc", "llr", "p_value", "flagged"]]
    explorer = lv.explore(stack, {"average": result.volumes["average"]}, particles=scores)
    server = explorer.show(open_browser=False)
    browser = Browser(folder)
    try:
        browser.open(server.url, width=1280, height=1000)
        browser.wait(f"{SHOWN}.includes('shape: ') && {SHOWN}.includes('llr')")
        browser.run(SELECT)
        browser.run("new Promise(done => setTimeout(done, 5000))")
        browser.screenshot(HERE / "explorer.png")
        browser.open(folder / "screened" / "report.html", width=1280, height=1300)
        browser.run("new Promise(done => setTimeout(done, 1000))")
        browser.screenshot(HERE / "report.png")
    finally:
        browser.close()
        server.stop()


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        draw(Path(name))
