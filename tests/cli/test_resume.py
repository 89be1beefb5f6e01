"""The command resume, and commands that are interrupted."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import lazyvol as lv
from lazyvol import errors
from lazyvol.cli import main
from lazyvol.io.zarr import local_run
from lazyvol.screening import output
from tests.paths import ROOT


@pytest.fixture
def folder(tmp_path, monkeypatch):
    np.save(tmp_path / "in.npy", np.random.default_rng(1).normal(size=(20, 8, 8, 8)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped(*_, **__):
    raise errors.StoreError("stopped")


def interrupted(monkeypatch, tokens):
    """Run a command that stops when it publishes a store, or writes a report."""
    with monkeypatch.context() as patch:
        patch.setattr(local_run.LocalRun, "publish", stopped)
        patch.setattr(output, "write_report", stopped)
        assert main(tokens) == 1


def test_a_store_is_resumed_by_its_path_from_any_folder(folder, monkeypatch, capsys):
    interrupted(monkeypatch, ["stats", "var", "in.npy", "my out.zarr", "--ddof", "1"])
    (plan,) = folder.glob("my out.zarr.lazyvol-tmp/*/plan.json")
    document = json.loads(plan.read_text())
    assert document["command"] == "lazyvol stats var in.npy 'my out.zarr' --ddof 1"
    assert "in.npy" in document["steps"][0]["input"]
    assert document["steps"][1]["recipe"] == "var"
    assert document["steps"][1]["ddof"] == "1"
    monkeypatch.chdir("/")
    path = str(folder / "my out.zarr")
    assert main(["resume", path]) == 0
    assert "resuming    lazyvol stats var" in capsys.readouterr().out
    np.testing.assert_array_equal(lv.open(path), lv.stats.var(lv.open(folder / "in.npy"), ddof=1))
    assert sorted(p.name for p in folder.iterdir()) == ["in.npy", "my out.zarr"]
    assert main(["resume", path]) == 0
    assert "is complete; there is nothing to resume" in capsys.readouterr().out


def test_a_screening_is_resumed_by_its_folder(folder, monkeypatch, capsys):
    interrupted(monkeypatch, ["screen", "in.npy", "--out", "out"])
    assert main(["screen", "in.npy", "--out", "out"]) == 1
    assert "continue it by --resume" in capsys.readouterr().err
    for text in ("resuming    lazyvol screen", "is complete; there is nothing to resume"):
        assert main(["resume", "out"]) == 0
        assert text in capsys.readouterr().out
    assert json.loads((folder / "out/run.json").read_text())["command"].startswith("lazyvol screen")
    assert not (folder / "out" / local_run.SUFFIX).exists()


def test_a_program_resumes_a_command_by_its_path(folder, monkeypatch, capsys):
    interrupted(monkeypatch, ["stats", "var", "in.npy", "out.zarr"])
    monkeypatch.chdir("/")
    path = folder / "out.zarr"
    (folder / "in.npy").rename(folder / "moved.npy")
    with pytest.raises(errors.SourceNotFoundError, match=r"inputs of lazyvol stats var .*in\.npy"):
        lv.resume(path)
    np.save(folder / "in.npy", np.zeros((20, 8, 8, 8)))
    with pytest.raises(errors.TargetExistsError, match="version of input was"):
        lv.resume(path)
    (folder / "moved.npy").rename(folder / "in.npy")
    (plan,) = folder.glob("out.zarr.lazyvol-tmp/*/plan.json")
    content = plan.read_text()
    plan.write_text(content.replace("stats var", "stats var --odd"))
    with pytest.raises(errors.OptionError, match=r"must be one .* got lazyvol stats var --odd"):
        lv.resume(path)
    plan.write_text(content)
    assert lv.resume(path)
    assert not lv.resume(path)
    np.testing.assert_array_equal(lv.open(path), lv.stats.var(lv.open(folder / "in.npy")))
    assert os.getcwd() == "/"


def test_an_input_that_differs_is_named(folder, monkeypatch, capsys):
    interrupted(monkeypatch, ["stats", "var", "in.npy", "out.zarr"])
    np.save("in.npy", np.zeros((20, 8, 8, 8)))
    assert main(["resume", "out.zarr"]) == 1
    assert "version of input was" in capsys.readouterr().err


def test_what_cannot_be_resumed_is_refused(folder, monkeypatch, capsys):
    assert main(["resume", "out.zarr"]) == 1
    assert "no interrupted run was writing out.zarr" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(local_run.LocalRun, "publish", stopped)
        with pytest.raises(errors.StoreError):
            lv.save(lv.stats.var(lv.open("in.npy")), "out.zarr")
    assert main(["resume", "out.zarr"]) == 2
    message = capsys.readouterr().err
    assert "a Python program was writing ('in.npy', var)" in message.replace(f"{folder}/", "")
    shutil.rmtree("out.zarr.lazyvol-tmp")
    (folder / "work").mkdir()
    monkeypatch.chdir("work")
    interrupted(monkeypatch, ["stats", "var", "../in.npy", "../out.zarr"])
    monkeypatch.chdir("..")
    (folder / "work").rmdir()
    assert main(["resume", "out.zarr"]) == 1
    assert "which is gone" in capsys.readouterr().err


SLOW = """
import os, sys, time
from lazyvol.cli import run
from lazyvol.plan.reductions.fold import BoundFold
def slow(self, *args):
    os.write(1, b"tile\\n")
    time.sleep(600)
BoundFold._update = slow
sys.argv = ["lazyvol", "stats", "var", "in.npy", "out.zarr"]
run()
"""


def test_an_interrupted_command_ends_at_once_and_names_the_remedy(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    with process:
        while process.stdout.readline() != "tile\n":
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        message = process.stderr.read()
    assert "lazyvol: interrupted; what" in message
    assert f"by --resume, or by: lazyvol resume {folder / 'out.zarr'}" in message
