"""The report of a screening: complete, self-contained, safe to open, correct text."""

import base64
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

import lazyvol as lv
from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.plan.explain import explain
from lazyvol.screening.report import Run, ScreenResult, resolution, write_report
from lazyvol.screening.report.markup import join, table, tag
from lazyvol.screening.report.page import report_html
from lazyvol.screening.report.result import ranking
from lazyvol.screening.report.words import caveats, findings, headlines
from lazyvol.screening.run import flagging, table_of
from lazyvol.summary import TIMES, StackSummary

PAYLOAD = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"
SHAPE = (9, 11, 13)
N, BAD = 60, 5

#: elements without an end tag
VOID = {"meta", "img", "source"}


class Page(HTMLParser):
    """Elements and texts of a page; asserts that tags nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert not self._open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self._open.append(name)

    def handle_endtag(self, name):
        assert self._open.pop() == name

    def handle_data(self, text):
        if "style" not in self._open:
            self.texts.append(text)

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for element, attributes in self.elements if element == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def stack() -> xr.DataArray:
    """Return particles, the first ``BAD`` of which have no signal."""
    rng = np.random.default_rng(0)
    signal = rng.normal(size=SHAPE)
    values = signal + rng.normal(size=(N, *SHAPE))
    values[:BAD] = rng.normal(size=(BAD, *SHAPE))
    particles = lv.as_stack(values.astype(np.float32), voxel_size=(4.0, 4.0, 5.0), unit="angstrom")
    return particles.assign_coords(file=("k", [f"tomo{n}.mrc" for n in range(N)]))


@pytest.fixture(scope="module")
def result() -> ScreenResult:
    particles = stack()
    halves = lv.scores.halves(particles)
    scored = table_of(lv.scores.screen(particles, average=halves.average))
    order = ranking(scored)
    best, worst = order[::-1][:4], order[:4]
    shown = particles.drop_vars("file").isel(k=[*best, *worst])
    plans = {n: explain(particles.chunk()) for n in ("1 averages", "2 scores")}
    return ScreenResult(
        source=StackSummary.of(particles, "particles.zarr"), average=halves.average,
        variance=halves.variance, scores=scored,
        flagging=flagging(scored, 0.05, int(np.prod(SHAPE))),
        fsc=lv.scores.fsc(halves["first"], halves["second"]), half_sizes=(30, 30),
        halves_by="parity",
        examples=xr.Dataset({"along_z": shown.mean("z"), "along_y": shown.mean("y")}),
        best=best, worst=worst,
        run=Run(plans, {"1 averages": 1.5, "2 scores": 2.5, "total": 4.5}, 2**28, 2**30,
                "2026-01-02 03:04", "lazyvol screen particles.zarr", versions={"python": "3"}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(result) -> Page:
    return Page(report_html(result))


def test_particles_without_signal_are_flagged(result):
    assert set(result.flagged) == set(range(BAD))


def test_the_page_links_to_the_scores_only(page, result):
    addresses = [v for _, a in page.elements for n, v in a.items() if n in ("src", "srcset")]
    assert addresses
    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    assert [a["href"] for a in page.all("a")] == ["scores.csv"]
    html = report_html(result)
    assert "http:" not in html
    assert "https:" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_runs_no_script_and_forbids_requests(page):
    names = {n for n, _ in page.elements}
    assert not names & {"script", "iframe", "object", "embed", "link", "base", "form"}
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_every_image_is_a_png_with_an_alternative_text(page):
    images = page.all("img")
    assert len(images) >= 3 + 3 + 3 + 2 + 4 + 16
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"))
        assert imread(BytesIO(data)).ndim == 3
        assert image["alt"]


def test_names_are_escaped_everywhere(result):
    files = [PAYLOAD] * N
    hostile = replace(
        result,
        source=replace(result.source, name=PAYLOAD, unit=PAYLOAD, dtype=PAYLOAD),
        scores=result.scores.assign_coords({"file": ("k", files), PAYLOAD: ("k", files)}),
        run=replace(result.run, command=PAYLOAD, started=PAYLOAD, versions={PAYLOAD: PAYLOAD},
                    plans={PAYLOAD: result.run.plans["1 averages"]},
                    seconds={PAYLOAD: 1.0, "total": 1.0}),
    )  # fmt: skip
    for volume in (hostile.average, hostile.variance, hostile.examples):
        for d in ("z", "y", "x"):
            volume[d].attrs["units"] = PAYLOAD
    try:
        html = report_html(hostile)
    finally:
        for volume in (result.average, result.variance, result.examples):
            for d in ("z", "y", "x"):
                volume[d].attrs["units"] = "angstrom"
    hostile_page = Page(html)
    assert not {n for n, _ in hostile_page.elements} & {"script"}
    assert not [a for a in hostile_page.all("img") if "onerror" in a]
    assert "<script" not in html
    assert hostile_page.text.count("alert('x')") > BAD


def test_images_have_physical_proportions(page):
    shapes = [a["style"] for a in page.all("img") if "aspect-ratio" in a.get("style", "")]
    assert shapes[:3] == ["aspect-ratio:65/44", "aspect-ratio:65/36", "aspect-ratio:44/36"]


def test_rows_grow_upwards_in_images(result):
    volume = xr.zeros_like(result.average)
    volume[:, -1, 0] = 1.0
    page = Page(report_html(replace(result, average=volume)))
    first = next(a for a in page.all("img") if a["alt"] == "average, slice across z")
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    pixels = imread(BytesIO(data))[..., 0]
    assert pixels.shape == SHAPE[1:]
    assert pixels[0, 0] == pixels.max() > pixels[-1, -1]


def test_headlines_and_findings_hold_the_numbers(result, page):
    assert dict(headlines(result))["particles"] == "60"
    assert "5 of 60 particles (8.3%)" in findings(result)[0]
    shape = TIMES.join(map(str, (N, *SHAPE)))
    for words in ("5 of 60 particles", f"{shape} (k, z, y, x)", f"{TIMES.join('445')} Å", "float32",
                  "at most 5%", "1.5 s", "tomo3.mrc", "lazyvol screen particles.zarr"):  # fmt: skip
        assert words in page.text


def test_the_table_holds_the_flagged_and_links_to_all_scores(page, result):
    assert page.text.count(".mrc") == BAD
    many = result.scores.assign(flagged=("k", np.ones(N, bool)))
    longer = Page(report_html(replace(result, scores=many)))
    assert longer.text.count(".mrc") == 50
    assert "10 more are flagged" in longer.text


def test_no_flagged_particle_is_stated(result):
    none = replace(
        result,
        scores=result.scores.assign(flagged=("k", np.zeros(N, bool))),
        flagging=replace(result.flagging, threshold=np.nan),
    )
    assert "None of 60 particles is flagged" in findings(none)[0]
    assert dict(headlines(none))["llr threshold of flags"] == "none"
    assert "None." in Page(report_html(none)).text


def test_small_sets_come_with_caveats(result):
    assert ["30 particles" in c for c in caveats(result)] == [True]
    few = replace(result, scores=result.scores.isel(k=slice(0, 20)), half_sizes=(10, 10))
    assert len(caveats(few)) == 2
    assert not caveats(replace(result, half_sizes=(500, 500)))


def test_lost_scores_are_stated(result):
    lost = result.scores["llr"].copy()
    lost[7] = np.nan
    warnings = caveats(replace(result, scores=result.scores.assign(llr=lost), half_sizes=(99, 99)))
    assert "1 particles have no score" in warnings[0]


def curve(values: list[float]) -> xr.DataArray:
    frequency = xr.Variable("frequency", np.arange(len(values)) / 40, {"units": "1/angstrom"})
    return xr.DataArray(values, {"frequency": frequency}, ["frequency"], name="fsc")


@pytest.mark.parametrize(
    ("values", "length", "words"),
    [
        ([1, 0.9, 0.143 + 0.1, 0.143 - 0.1], 16.0, "below 0.143 at 16 Å"),
        ([1, 0.9, 0.8, 0.7], 0.0, "up to the Nyquist limit of 10 Å"),
        ([-1, 0.9, 0.143 + 0.1, 0.143 - 0.1], 16.0, "below 0.143 at 16 Å"),
        ([-1, 0.0, 0.8, 0.7], np.inf, "below 0.143 at every length"),
        ([1, np.nan, 0.9, 0.1], 40 / (2 + 0.757 / 0.8), "below 0.143 at 13.6 Å"),
    ],
)
def test_resolution_is_the_first_crossing_in_physical_units(result, values, length, words):
    assert resolution(curve(values)) == pytest.approx(length)
    assert words in findings(replace(result, fsc=curve(values)))[1]


def test_a_report_gets_its_name_when_it_is_complete(result, tmp_path):
    target = tmp_path / "report.html"
    write_report(target, result)
    assert target.read_text("utf-8").startswith('<!doctype html>\n<html lang="en">')
    assert target.read_text("utf-8").endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_leaves_nothing(result, tmp_path):
    with pytest.raises(StoreError, match=r"report\.html: it could not be written"):
        write_report(tmp_path / "missing" / "report.html", result)
    assert not list(tmp_path.iterdir())


def test_a_report_is_not_replaced_by_default(result, tmp_path):
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(TargetExistsError, match=r"report\.html"):
        write_report(tmp_path / "report.html", result)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>", tag("i", "&")) == "<p>&lt;b&gt;<i>&amp;</i></p>"
    assert tag("a", "x", href='"><b>') == '<a href="&quot;&gt;&lt;b&gt;">x</a>'
    assert join("<", tag("br")) == "&lt;<br>"
    assert "<td>&lt;</td>" in table(("h",), [("<",)])


def browser() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no chromium to take a screenshot with")
    return path


def screenshot(page: Path, target: Path, profile: Path, *options: str) -> np.ndarray:
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--hide-scrollbars", f"--user-data-dir={profile}", f"--screenshot={target}", *options,
    ]  # fmt: skip
    subprocess.run([browser(), *flags, page.as_uri()], check=True, capture_output=True, timeout=120)
    return imread(target)[..., :3]


@pytest.mark.parametrize(("scheme", "light"), [(1, True), (0, False)])
def test_the_page_shows_in_a_browser(result, tmp_path, scheme, light):
    page = tmp_path / "report.html"
    write_report(page, result)
    image = screenshot(
        page, tmp_path / "screenshot.png", tmp_path / "profile", "--window-size=390,7000",
        f"--blink-settings=preferredColorScheme={scheme}",
    )  # fmt: skip
    assert image.shape == (7000, 390, 3)
    assert (image[0, 0].mean() > 0.5) == light
    background = np.abs(image - image[0, 0]).max(-1) < 0.02
    assert 0.2 < background.mean() < 0.95
    assert background[:, -3:].all(), "the page is wider than a phone"
