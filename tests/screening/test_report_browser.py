"""The report in a browser: no errors or requests; sorting, filters, limits, export, the viewer."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.image import imread

import lazyvol as lv
from lazyvol.screening.report import write_report
from lazyvol.screening.thumbnails import thumbnails
from lazyvol.stack import spacing
from tests.browser import Browser
from tests.screening.examples import BAD, SHAPE, N, result, stack
from tests.screening.test_report import PAYLOAD


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A report of particles, five of them without signal."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, result())
    return path


@pytest.fixture
def page(browser, report) -> Browser:
    browser.open(report)
    return browser


def column(page: Browser, number: int) -> list[str]:
    """Return the text of a column of the table, of the rows in view."""
    cells = f"#grid tbody tr[id] td:nth-child({number})"
    return page.run(f"[...document.querySelectorAll('{cells}')].map((c) => c.textContent)")


def click(page: Browser, selector: str) -> None:
    page.run(f"document.querySelector({json.dumps(selector)}).click()")


def enter(page: Browser, name: str, value: object) -> None:
    page.run(
        f"{{ const e = document.getElementById('{name}'); e.value = '{value}';"
        f"for (const t of ['input', 'change']) e.dispatchEvent(new Event(t, {{bubbles: true}})) }}"
    )


def text(page: Browser, name: str) -> str:
    return page.run(f"document.getElementById('{name}').textContent")


def test_the_page_has_no_errors_and_makes_no_requests(page):
    assert page.problems == []
    assert [u for u in page.requests if not u.startswith(("file:", "data:"))] == []
    assert len([u for u in page.requests if u.startswith("file:")]) == 1


def test_all_particles_are_listed_and_sorted_by_any_column(page):
    assert text(page, "rows") == f"{N} particles listed"
    llr = result().scores.llr.values
    worst = [str(k) for k in np.argsort(-llr)[:10]]
    assert column(page, 1)[:10] == worst
    click(page, "#grid th:nth-child(1) button")
    assert column(page, 1)[:3] == [str(N - 1), str(N - 2), str(N - 3)]
    click(page, "#grid th:nth-child(1) button")
    assert column(page, 1)[:3] == ["0", "1", "2"]
    assert page.run("document.querySelector('#grid th').ariaSort") == "ascending"


def test_filters_compare_columns_and_search_texts(page):
    ncc, llr = result().scores.ncc.values, result().scores.llr.values
    enter(page, "filter", "ncc<0.2 llr>0")
    expected = np.flatnonzero((ncc < 0.2) & (llr > 0))
    assert sorted(map(int, column(page, 1))) == expected.tolist()
    enter(page, "filter", "ts_1 flagged=no")
    kept = [k for k in range(N) if k % 3 == 1 and k not in result().flagged]
    assert text(page, "rows") == f"{len(kept)} particles listed"
    enter(page, "filter", "p7.mrc")
    assert column(page, 1) == ["7"]
    enter(page, "filter", "")
    enter(page, "which", "rejected")
    assert sorted(map(int, column(page, 1))) == list(range(BAD))


def test_a_limit_decides_which_particles_are_kept(page):
    assert text(page, "kept").startswith(f"{N - BAD} of {N} kept")
    enter(page, "by", "ncc")
    enter(page, "count", 20)
    assert text(page, "kept").startswith(f"20 of {N} kept")
    ncc = result().scores.ncc.values
    limit = float(page.run("document.getElementById('limit').value"))
    assert limit == pytest.approx(np.sort(ncc)[-20], rel=1e-6)
    enter(page, "limit", float(np.sort(ncc)[-7]) - 1e-4)
    assert text(page, "kept").startswith(f"7 of {N} kept")
    enter(page, "count", 0)
    assert text(page, "kept").startswith(f"0 of {N} kept")
    enter(page, "by", "")
    assert text(page, "kept").startswith(f"{N - BAD} of {N} kept")


def test_lists_are_downloaded_as_csv_and_star(page, tmp_path):
    click(page, "[data-export='kept csv']")
    rows = list(csv.DictReader(io.StringIO(page.downloaded("kept.csv"))))
    assert [int(r["k"]) for r in rows] == list(result().kept)
    assert [float(r["llr"]) for r in rows] == pytest.approx(
        result().scores.llr.values[list(result().kept)], rel=1e-6
    )
    click(page, "[data-export='rejected star']")
    (tmp_path / "rejected.star").write_text(page.downloaded("rejected.star"))
    listed = lv.io.particles(tmp_path / "rejected.star")
    assert listed.k.values.tolist() == list(range(BAD))
    assert listed.tomogram.values.tolist() == [f"TS_{k % 3}" for k in range(BAD)]
    assert (
        listed.best_hypothesis.values.tolist()
        == result().scores.best_hypothesis.values[:BAD].tolist()
    )


def test_formulas_and_markup_in_names_stay_text(browser, tmp_path):
    names = ["=1+1", PAYLOAD, "a \"b\" 'c'", "12", *(["plain"] * (N - 4))]
    hostile = replace(
        result(), scores=result().scores.assign_coords(file=("k", names), tomogram=("k", names))
    )
    write_report(tmp_path / "report.html", hostile)
    browser.open(tmp_path / "report.html")
    assert browser.problems == []
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0
    click(browser, "#grid th:nth-child(1) button")
    click(browser, "#grid th:nth-child(1) button")
    assert PAYLOAD in browser.run("document.getElementById('grid').textContent")
    enter(browser, "by", "ncc")
    enter(browser, "count", N)
    click(browser, "[data-export='kept csv']")
    rows = list(csv.DictReader(io.StringIO(browser.downloaded("kept.csv"))))
    assert [r["file"] for r in rows[:4]] == ["'=1+1", *names[1:4]]
    click(browser, "[data-export='kept star']")
    (tmp_path / "kept.star").write_text(browser.downloaded("kept.star"))
    listed = lv.io.particles(tmp_path / "kept.star")
    assert listed.file.values.tolist() == names


def test_a_column_with_the_name_of_a_chart_is_listed_and_exported(browser, tmp_path):
    places = [f"grid {k}" for k in range(N)]
    named = result().scores.assign_coords(position=("k", places))
    write_report(tmp_path / "report.html", replace(result(), scores=named))
    browser.open(tmp_path / "report.html")
    assert browser.problems == []
    assert browser.run("valuesOf('position')") == places
    click(browser, "[data-export='kept csv']")
    rows = list(csv.DictReader(io.StringIO(browser.downloaded("kept.csv"))))
    assert [r["position"] for r in rows] == places[BAD:]


def test_a_click_and_keys_show_a_particle(page):
    click(page, "#grid tbody tr[id]:nth-of-type(4)")
    third = int(np.argsort(-result().scores.llr.values)[2])
    assert text(page, "particle").startswith(f"k = {third} · flagged")
    page.run("document.getElementById('grid').focus()")
    for key, position in (("ArrowDown", 3), ("ArrowUp", 2), ("End", N - 1), ("Home", 0)):
        page.press(key)
        k = int(np.argsort(-result().scores.llr.values)[position])
        assert text(page, "particle").startswith(f"k = {k} ·")
    assert page.run("document.querySelector('#grid [aria-selected=true] td').textContent") == str(k)


def pixels(page: Browser, name: str) -> np.ndarray:
    """Return the grey levels of a canvas, rows upwards."""
    values, width = page.run(
        f"{{ const c = document.getElementById('{name}'); const d = c.getContext('2d')"
        f".getImageData(0, 0, c.width, c.height).data; [Array.from(d), c.width] }}"
    )
    return np.array(values).reshape(-1, width, 4)[::-1, :, 0]


@pytest.mark.parametrize(("axis", "dim"), list(enumerate("zyx")))
def test_the_viewer_shows_slices_of_the_particle(page, axis, dim):
    click(page, "#grid th:nth-child(1) button")
    click(page, "#grid th:nth-child(1) button")
    click(page, "#grid tbody tr[id]:nth-of-type(9)")
    enter(page, f"at{axis}", 2)
    shown = result().thumbnails.particles.isel({"k": 7, dim: 2}).values
    drawn = pixels(page, f"plane0{axis}")
    assert drawn.shape == shown.shape == tuple(np.delete(SHAPE, axis))
    inside = (drawn > 0) & (drawn < 255)
    assert np.corrcoef(drawn[inside], shown[inside])[0, 1] > 0.999
    enter(page, "thickness", 20)
    whole = result().thumbnails.particles.isel(k=7).mean(dim).values
    drawn = pixels(page, f"plane0{axis}")
    inside = (drawn > 0) & (drawn < 255)
    assert np.corrcoef(drawn[inside], whole[inside])[0, 1] > 0.999


def test_the_viewer_rotates_and_shifts_the_average_as_registration_does(page):
    average = result().thumbnails.references["kept_average"]
    angles = (25.0, 60.0, -40.0)
    # whole voxels: registration interpolates twice, the viewer once
    shift = [n * spacing(average, d) for n, d in zip((1, -2, 1), "zyx", strict=True)]

    def moved(volume):
        turned = lv.registration.rotate(volume, angles, order=1)
        return lv.registration.shift(turned, shift, order=1).values

    expected = moved(average)
    drawn = page.run(
        f"Array.from(posed(decode(data.references.kept_average), {list(angles)}, {shift}))"
    )
    inside = moved(xr.ones_like(average)) > 0.999
    assert inside.sum() > 300
    np.testing.assert_allclose(
        np.array(drawn).reshape(SHAPE)[inside], expected[inside], atol=0.01 * np.ptp(expected)
    )


def test_the_average_beside_a_particle_is_that_of_the_others(page):
    own = result().thumbnails.particles.isel(k=20).values.astype(np.float64)
    average = result().thumbnails.references["kept_average"].values.astype(np.float64)
    count = N - BAD
    expected = (count * average - own) / (count - 1)
    shown = page.run("Array.from(averageFor(20, decode(data.particles[20])))")
    np.testing.assert_allclose(
        np.array(shown).reshape(SHAPE), expected, atol=0.01 * np.ptp(average)
    )


def test_the_second_class_beside_a_particle_is_that_of_the_others(browser, tmp_path):
    hypothesis = np.where(np.arange(N) < 3, "second_class", "empty")
    scores = result().scores.assign(best_hypothesis=("k", hypothesis))
    shown = thumbnails(stack(), scores, result().volumes, None, 0.0)
    write_report(tmp_path / "report.html", replace(result(), scores=scores, thumbnails=shown))
    browser.open(tmp_path / "report.html")
    title, volume = browser.run(
        "{ const own = decode(data.particles[1]);"
        " const [t, v] = alternativeFor(1, own, averageFor(1, own)); [t, Array.from(v)] }"
    )
    assert title == "second class: average of 2 others"
    expected = shown.particles.isel(k=[0, 2]).mean("k").values
    np.testing.assert_allclose(
        np.array(volume).reshape(SHAPE), expected, atol=0.03 * np.ptp(expected)
    )


def test_groups_show_their_share_and_filter_the_table(page):
    lines = page.run("[...document.querySelectorAll('#groups tbody tr')].map((r) => r.innerText)")
    assert len(lines) == 3
    first = lines[0].split("\t")
    assert first[:3] == ["TS_0", "20", "2"]
    click(page, "#groups button")
    assert text(page, "rows") == "20 particles listed"
    click(page, "#clear")
    assert text(page, "rows") == f"{N} particles listed"


def test_the_page_follows_the_colour_scheme_and_its_button(browser, report, tmp_path):
    brightness = []
    for dark in (False, True):
        browser.open(report, dark=dark)
        for _ in range(2):
            browser.screenshot(tmp_path / "shot.png")
            brightness.append(imread(tmp_path / "shot.png")[0, 0, :3].mean())
            click(browser, "#theme")
    assert [b > 0.5 for b in brightness] == [True, False, False, True]


@pytest.mark.parametrize("width", [390, 1280, 1920])
def test_the_page_is_not_wider_than_its_window(browser, report, width):
    browser.open(report, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_twenty_thousand_particles_are_listed(browser, tmp_path):
    n = 20_000
    rows = np.arange(n) % N
    scores = result().scores.isel(k=rows).assign_coords(k=np.arange(n))
    write_report(tmp_path / "report.html", replace(result(), scores=scores))
    browser.open(tmp_path / "report.html")
    assert browser.problems == []
    assert text(browser, "rows") == "20,000 particles listed"
    assert browser.run("document.querySelectorAll('#grid tbody tr').length") < 100
    browser.run("document.getElementById('view').scrollTop = 1e9; new Promise((r) => "
                "requestAnimationFrame(() => setTimeout(r, 50)))")  # fmt: skip
    assert len(column(browser, 1)) > 10
    last = browser.run("[...document.querySelectorAll('#grid tbody tr[id]')].pop().ariaRowIndex")
    assert last == str(n + 1)
