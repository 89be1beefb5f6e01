"""Every lesson runs from beginning to end, in a folder of its own."""

import pytest

from tests.paths import ROOT

nbformat = pytest.importorskip("nbformat", reason="lessons run with nbclient: .[test] has it")
nbclient = pytest.importorskip("nbclient", reason="lessons run with nbclient: .[test] has it")
pytest.importorskip("ipykernel", reason="lessons run in an ipykernel: .[test] has it")

HERE = ROOT


@pytest.mark.parametrize("path", sorted(HERE.glob("notebooks/*.ipynb")), ids=lambda p: p.stem)
def test_a_lesson_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LAZYVOL_DATA", str(HERE.parent / "shared" / "data"))
    lesson = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(lesson, timeout=300, kernel_name="python3", resources=folder).execute()
