"""Every lesson runs from beginning to end, in a temporary folder."""

import pytest

from tests.paths import DATA, ROOT

nbformat = pytest.importorskip("nbformat", reason="lessons run with nbclient: .[test] has it")
nbclient = pytest.importorskip("nbclient", reason="lessons run with nbclient: .[test] has it")
pytest.importorskip("ipykernel", reason="lessons run in an ipykernel: .[test] has it")

LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_a_lesson_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LAZYVOL_DATA", str(DATA))
    lesson = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(lesson, timeout=300, kernel_name="python3", resources=folder).execute()
