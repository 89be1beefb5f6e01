"""Sources of the documentation: names that exist, and every lesson listed.

``python notebooks/site/build.py`` checks the rest, with warnings as errors.
"""

import re

import pytest

import lazyvol as lv
from tests.paths import ROOT

PAGES = sorted([ROOT / "README.md", *ROOT.glob("notebooks/site/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_names_in_pages_are_public(page):
    text = page.read_text("utf-8")
    functions = set(re.findall(r"\blv\.(\w+)\b(?!\.)", text)) - {"save"}
    assert functions <= {*dir(lv), "filters", "stats"}, functions
    for topic, name in set(re.findall(r"\blv\.(\w+)\.(\w+)\b", text)):
        assert hasattr(getattr(lv, topic), name), f"{page.name}: lv.{topic}.{name}"


def test_every_lesson_is_listed():
    lessons = {path.name for path in ROOT.glob("notebooks/*.ipynb")}
    readme = (ROOT / "notebooks/README.md").read_text("utf-8")
    assert lessons == set(re.findall(r"\((\w+\.ipynb)\)", readme))


def test_lessons_that_pages_name_are_there():
    for page in PAGES:
        for name in re.findall(r"lessons/(\w+\.ipynb)", page.read_text("utf-8")):
            assert (ROOT / "notebooks" / name).is_file(), f"{page.name}: {name}"
