"""Errors of the command line: one line that names options, an exit code, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import xarray as xr

import lazyvol as lv
from lazyvol.cli import main
from lazyvol.cli.docs import shell_words

USAGE, FAILURE = 2, 1


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a stack, a volume, a set, a colour image and a broken file."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).normal(size=(4, 5, 7, 11)).astype("f4")
    stack = lv.as_stack(values, voxel_size=2.0, unit="angstrom", name="density")
    np.save("s.npy", values)
    np.save("colours.npy", np.zeros((9, 8, 3), "f4"))
    lv.save(stack, "s.zarr")
    lv.save(stack[0], "v.zarr")
    lv.save(xr.Dataset({"a": stack, "b": stack}), "set.zarr")
    Path("text.mrc").write_text("hello")
    return tmp_path


def refused(tokens: str, capsys) -> tuple[int, str]:
    """Run a command; return its exit code and its one line on standard error."""
    code = main(tokens.split())
    err = capsys.readouterr().err
    assert err.startswith("lazyvol: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert len(err) < 360
    return code, err


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("stats var s.npy out.mrc 0.5", "too many arguments: 0.5"),
        ("stats quantile s.npy 0.5", "the command is lazyvol stats quantile STACK OUT --q Q"),
        ("filters gaussian s.npy out.npy", "filters gaussian: --sigma SIGMA must be given"),
        ("stats quantile s.npy out.mrc --q abc", "see lazyvol stats quantile --help"),
        ("stats quantile s.npy out.mrc --q 2", "--q "),
        ("stats var", "stats var: STACK must be given; the command is lazyvol stats var STACK OUT"),
        ("stats var s.npy", "stats var: OUT must be given"),
        ("stats var s.npy o.npy extra more", "too many arguments: extra more"),
        ("stats var s.npy o.npy --colour red", "Unknown option: --colour"),
        ("stats var s.npy o.npy --ddof x", "--ddof"),
        ("stats var s.npy o.npy --ddof", "--ddof"),
        ("stats vr s.npy o.npy", "got 'vr'; did you mean lazyvol stats var?"),
        ("nothing", "the command must be one that lazyvol --help lists"),
        ("mean s.npy o.npy", "did you mean lazyvol masks mean or projections mean or stats mean?"),
        ("sceen s.npy", "did you mean lazyvol screen?"),
        ("stats average s.npy o.npy", "did you mean lazyvol registration average?"),
        ("filters gaussian s.npy o.npy --sigm 3", "write --sigma instead of --sigm,"),
        ("explain stats var s.npy", "write lazyvol explain FILE stats var"),
        ("masks threshold s.npy o.mrc", "got bool; convert it, e.g. with --dtype float32"),
        ("masks threshold s.npy o.mrc --dtype text", "--dtype must be a type of numbers"),
        ("convert set.zarr o.zarr --dtype int8", "--dtype must be left out"),
        ("plots slices s.zarr o.png", "got ('k', 'z', 'y', 'x'); select along the other dims, e.g. "
         "with --select k=0"),
        ("convert s.npy o.npy --select t=1", "--select must give indices along k, z, y, x, got"),
        ("convert s.npy o.npy --select k=1:2:3", "write DIM=INDEX or DIM=FROM:TO"),
        ("convert s.npy o.npy --select k=4", "--select must be from 0 to 3 along k, got 4"),
        ("stats var s.npy out.zarr --dim q", "LabelError: var: --dim must name dims"),
        ("stats var s.npy out.zarr --memory lots", "--memory must be a number of bytes"),
        ("stats var s.npy out.zarr --workers 0", "--workers must be 1 or more, got 0"),
        ("stats var s.npy out.xyz", "--out must end in one of .zarr, .npy, .mrc"),
        ("stats var s.npy .", "--out must end in one of"),
        ("convert s.npy out", "--out must end in one of"),
        ("convert set.zarr out.mrc", "got 'out.mrc' for 2 arrays"),
        ("stats describe s.npy out.mrc", "for one array also in .npy, .mrc"),
        ("stats var s.npy out.csv", "a table must have values along one dim"),
        ("stats var set.zarr out.npy", "set.zarr with the arrays a, b; name one, e.g. set.zarr/a"),
        ("filters gaussian s.npy out.npy --sigma abc", "gaussian: --sigma must be a finite number"),
        ("masks sphere 4x4x4 out.npy --radius -3", "--radius must be a finite number of 0 or more"),
        ("info s.npy b", "too many arguments: b"),
        ("info", "info: PATH must be given"),
        ("info colours.npy", "name every axis with --dims, e.g."),
        ("info s.npy --dims y,x", "--dims must name each of its 4 axes (k, z, y, x) once"),
        ("info set.zarr --dims y,x", "--dims must name the axes of one array"),
        ("explain s.npy stats", "an operation must be a topic and a name, got 'stats "),
        ("explain s.npy stats vr", "choose from count, describe"),
        ("explain s.npy stats var --colour", "Unknown option: --colour"),
        ("explain s.npy screen --dims a", "--dims must name each"),
        ("screen v.zarr --out out", "screen: stack must have the dims"),
        ("screen s.npy --out out --fdr 2", "screen: --fdr must be between 0 and 1"),
        ("screen s.npy --out out --wedge 1", "--wedge must be two tilts in degrees"),
        ("screen s.npy", "screen: --out OUT must be given"),
        ("demo --size big", "--size"),
        ("stats var s.npy o.npy --ddof 1.5", "--ddof: must be a whole number, got 1.5"),
        ("stats var s.npy o.npy --ddof x", 'Invalid value for --ddof: unable to convert "x"'),
        ("stats var s.npy o.npy --workers 1.5", "--workers: must be a whole number"),
        ("registration align s.npy other o.zarr --angles 90", "reference must be 'average'"),
        ("masks box 4x4x4 o.npy --size 3 --centre z=1,z=2", "--centre must name each dim once"),
        (f"masks sphere 4x4x4 o.npy --radius 1 --centre {'1,' * 5000}", "got 5000 values (1, 1"),
        (f"masks sphere 4x4x4 o.npy --radius {'a' * 10_000}", "--radius"),
        (f"stats var s.npy o.npy --ddof {'a' * 10_000}", "--ddof"),
        (f"stats var s.npy o.npy --dim {'a' * 10_000}", "--dim"),
        (f"stats var {'9' * 5000} o.npy", "var: stack must be a labelled array, got inf"),
    ],
)  # fmt: skip
def test_a_wrong_command_ends_with_2(tokens, message, folder, capsys):
    before = {p.name for p in folder.iterdir()}
    code, err = refused(tokens, capsys)
    assert (code, message in err) == (USAGE, True), err
    assert {p.name for p in folder.iterdir()} - before <= {"out"}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("info nowhere.mrc", "SourceNotFoundError: nowhere.mrc: no such file"),
        ("stats var nowhere.mrc out.zarr", "SourceNotFoundError"),
        ("masks apply s.npy nowhere.mrc out.npy", "SourceNotFoundError"),
        (f"stats var {'n' * 400} out.zarr", "no such file"),
        ("stats var s.npy out.npy --mask nowhere.zarr", "--mask nowhere.zarr: no such file"),
        ("stats var s.npy out.npy --mask text.mrc", "TruncatedError: --mask "),
        ("info text.mrc", "TruncatedError"),
        ("convert s.npy s.npy", "path must not be that of an input of the result"),
        ("convert s.npy s.zarr", "pass --overwrite"),
        ("stats var s.npy none/out.npy", "StoreError"),
        ("stats var s.npy none/out.tif", "StoreError"),
        ("stats mean s.npy none/out.csv --dim z,y,x", "StoreError"),
        ("stats var s.npy s.npy/out.zarr", "path must not be that of an input of the result"),
        ("stats var s.npy text.mrc/out.zarr", "StoreError"),
        ("stats var s.npy out.zarr --memory 1B", "BudgetError"),
        ("stats var s.npy out.zarr --scheduler nowhere.json", "no scheduler"),
        ("screen s.npy --out s.npy", "StoreError"),
    ],
)  # fmt: skip
def test_a_failure_ends_with_1(tokens, message, folder, capsys):
    code, err = refused(tokens, capsys)
    assert (code, message in err) == (FAILURE, True), err


def test_a_bug_is_one_line_too(folder, capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("lazyvol.cli.results.save", broken)
    assert refused("stats var s.npy out.npy", capsys) == (
        FAILURE,
        "lazyvol: RuntimeError: two lines\n",
    )
    monkeypatch.setattr("lazyvol.cli.results.save", lambda *_, **__: [0] * 10**18)
    assert "MemoryError: out of memory" in refused("stats var s.npy out.npy", capsys)[1]


def test_losses_of_a_file_format_are_one_line(folder, capsys):
    assert main(["convert", "s.zarr", "out.npy"]) == 0
    err = capsys.readouterr().err
    assert err.startswith("lazyvol: warning: out.npy: this format cannot hold voxel size")
    assert err.count("\n") == 1
    assert main(["stats", "mean", "s.zarr", "m.npy", "--dim", "z"]) == 0
    assert "open it with --dims k,y,x" in capsys.readouterr().err


def test_axes_are_named_on_the_command_line(folder, capsys):
    assert main(["convert", "colours.npy", "out.zarr", "--dims", "y,x,channel"]) == 0
    assert lv.open("out.zarr").dims == ("y", "x", "channel")
    assert main(["stats", "mean", "colours.npy", "mean.tif", "--dims", "y,x,k", "--dim", "k"]) == 0
    assert tifffile.imread("mean.tif").shape == (9, 8)
    assert main(["explain", "colours.npy", "stats", "mean", "--dims", "y,x,k"]) == 0
    assert main(["info", "colours.npy", "--dims", "y, x, k"]) == 0
    assert "(y, x, k)" in capsys.readouterr().out


def test_info_prints_every_array_of_a_set(folder, capsys):
    assert main(["info", "set.zarr"]) == 0
    text = capsys.readouterr().out
    assert "set.zarr/a" in text
    assert "set.zarr/b" in text


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("pass overwrite=True", "pass --overwrite"),
        ("with dims=('k', 'y')", "with --dims k,y"),
        ("name them with dims=", "name them with --dims"),
        ("op: max_shift must be above 0", "op: --max-shift must be above 0"),
        ("a/dims=1.npy: x", "a/dims=1.npy: x"),
        ("dims of a stack", "dims of a stack"),
        ("got max_shift=-1.5", "got --max-shift -1.5"),
    ],
)
def test_parameters_become_options(message, expected):
    assert shell_words(message, {"dims", "overwrite", "max_shift"}) == expected


def piped(*tokens: str) -> tuple[int, str]:
    """Run a command whose output pipe is closed; return its exit code and standard error."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "lazyvol.cli", *tokens]
    env = os.environ | {"PYTHONPATH": str(Path(lv.__file__).parents[1])}
    try:
        done = subprocess.run(
            command, stdout=writes, stderr=subprocess.PIPE, text=True, env=env, check=False
        )
    finally:
        os.close(writes)
    return done.returncode, done.stderr


@pytest.mark.parametrize("tokens", [("info", "s.npy"), ("--help",)])
def test_a_broken_pipe_is_quiet(tokens, folder):
    assert piped(*tokens) == (141, "")


def test_a_closed_output_is_no_error(folder):
    env = os.environ | {"PYTHONPATH": str(Path(lv.__file__).parents[1])}
    command = f"{sys.executable} -m lazyvol.cli convert s.npy out.npy >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], env=env, check=False).returncode == 0
    np.testing.assert_array_equal(np.load("out.npy"), np.load("s.npy"))
