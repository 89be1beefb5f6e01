"""The report of a screening: complete, self-contained, safe to open, correct text."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.screening import ScreenResult
from lazyvol.screening.report import write_report
from lazyvol.screening.report.data import page_data
from lazyvol.screening.report.markup import join, table, tag
from lazyvol.screening.report.page import report_html
from lazyvol.screening.report.words import caveats, findings, headlines
from lazyvol.screening.result import HalfSets
from lazyvol.screening.volumes import resolution
from lazyvol.summary import TIMES
from tests.screening import examples
from tests.screening.examples import BAD, SHAPE, N

PAYLOAD = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"

#: elements without an end tag
VOID = {"meta", "img", "input"}


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
        if not {"style", "script"} & set(self._open):
            self.texts.append(text)

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for element, attributes in self.elements if element == name]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def result() -> ScreenResult:
    return examples.result()


@pytest.fixture(scope="module")
def page(result) -> Page:
    return Page(report_html(result))


def test_particles_without_signal_are_flagged(result):
    assert set(result.flagged) == set(range(BAD))


def test_the_page_needs_no_other_file(page, result):
    addresses = [v for _, a in page.elements for n, v in a.items() if n in ("src", "srcset")]
    assert addresses
    assert all(a.startswith("data:image/png;base64,") for a in addresses)
    assert not page.all("a")
    html = report_html(result)
    assert "http:" not in html
    assert "https:" not in html
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_the_page_runs_its_own_script_and_forbids_requests(page, result):
    names = {n for n, _ in page.elements}
    assert not names & {"iframe", "object", "embed", "link", "base", "form"}
    assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    assert [a.get("type") for a in page.all("script")] == ["application/json", None]
    script = report_html(result).rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_the_data_hold_every_score(page, result):
    data = page_data(result)
    columns = {c["name"]: c["values"] for c in data["columns"]}
    assert columns["k"] == list(range(N))
    for name in ("llr", "p_value", "ncc", "probability"):
        assert columns[name] == pytest.approx(result.scores[name].values.tolist(), rel=1e-6)
    assert columns["tomogram"][:4] == ["TS_0", "TS_1", "TS_2", "TS_0"]
    assert columns["best_hypothesis"] == result.scores.best_hypothesis.values.tolist()
    assert data["groups"] == ["tomogram"]
    assert sorted(map(int, data["particles"])) == list(range(N))
    low, high, levels = data["particles"]["7"]
    volume = low + (high - low) / 255 * np.frombuffer(base64.b64decode(levels), np.uint8)
    shown = result.thumbnails.particles.isel(k=7).values
    np.testing.assert_allclose(volume.reshape(SHAPE), shown, atol=(high - low) / 500)


def test_every_image_is_a_png_with_an_alternative_text(page):
    images = page.all("img")
    assert len(images) == 3 * (3 + 1)
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
    html = report_html(hostile)
    hostile_page = Page(html)
    assert not [a for a in hostile_page.all("img") if "onerror" in a]
    assert html.count("<script") == 2
    assert PAYLOAD not in html
    assert hostile_page.text.count("alert('x')") > BAD


def test_images_have_physical_proportions(page):
    shapes = [a["style"] for a in page.all("img") if "aspect-ratio" in a.get("style", "")]
    assert shapes[:3] == ["aspect-ratio:65/44", "aspect-ratio:65/36", "aspect-ratio:44/36"]


def test_rows_grow_upwards_in_images(result):
    volume = xr.zeros_like(result.volumes["variance"])
    volume[:, -1, 0] = 1.0
    page = Page(report_html(replace(result, volumes=result.volumes.assign(variance=volume))))
    first = next(a for a in page.all("img") if a["alt"].startswith("Variance"))
    data = base64.b64decode(first["src"].removeprefix("data:image/png;base64,"))
    pixels = imread(BytesIO(data))[..., :3].sum(-1)
    assert pixels.shape == SHAPE[1:]
    assert pixels[0, 0] == pixels.max() > pixels[-1, -1]


def test_headlines_and_findings_hold_the_numbers(result, page):
    assert dict(headlines(result))["particles"] == "60"
    assert "5 of 60 particles (8.3%)" in findings(result)[0]
    shape = TIMES.join(map(str, (N, *SHAPE)))
    for words in ("5 of 60 particles", f"{shape} (k, z, y, x)", f"{TIMES.join('445')} Å", "float32",
                  "at most 5%", "lazyvol screen particles.zarr"):  # fmt: skip
        assert words in page.text


def test_no_flagged_particle_is_stated(result):
    none = replace(
        result,
        scores=result.scores.assign(flagged=("k", np.zeros(N, bool))),
        flagging=replace(result.flagging, threshold=np.nan),
    )
    assert "None of 60 particles is flagged" in findings(none)[0]
    assert dict(headlines(none))["llr from which particles are flagged"] == "none"
    assert "None of 60" in Page(report_html(none)).text


def test_small_sets_come_with_caveats(result):
    assert ["30 particles" in c for c in caveats(result)] == [True]
    few = replace(result, scores=result.scores.isel(k=slice(0, 20)))
    assert len(caveats(few)) == 2
    assert not caveats(replace(result, half_sets=HalfSets((500, 500), (400, 400), False)))


def test_unclear_wedges_are_stated(result):
    wedge = ("k", ["unclear"] * 3 + ["found"] * (N - 3))
    changed = replace(result, scores=result.scores.assign(wedge=wedge), second_class=False)
    (sentence,) = [c for c in caveats(changed) if "unclear" in c]
    assert "frequencies of 3 particles are unclear" in sentence
    text = Page(report_html(changed)).text
    assert "No second class was searched for" in text
    assert "no second class" in text
    assert "no second class was searched for" in repr(changed)


def test_lost_scores_are_stated(result):
    lost = result.scores["llr"].copy()
    lost[7] = np.nan
    warnings = caveats(replace(result, scores=result.scores.assign(llr=lost)))
    assert "1 particles have no score" in warnings[1]


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
    curves = xr.Dataset({"all": curve(values), "kept": curve(values)})
    assert words in findings(replace(result, fsc=curves))[1]


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
