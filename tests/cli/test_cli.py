"""The command line: a command for every public operation, and the commands on files."""

import csv
import importlib
import os
import pkgutil
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import default_client

import lazyvol as lv
import lazyvol.ops
from lazyvol.cli import main, make_app
from lazyvol.cli.demo import area_under_curve
from lazyvol.cli.docs import description, parameter_texts
from lazyvol.cli.operations import command_name, operations, parse
from lazyvol.cli.options import Running, running
from lazyvol.cli.screen import angles_of, opened_wedge
from lazyvol.errors import LabelError, OptionError, TruncatedError
from lazyvol.io import open as open_stack
from lazyvol.io.particle_lists import ANGLES
from lazyvol.io.save_result import save
from lazyvol.io.tables import csv_text
from lazyvol.plan import regions
from lazyvol.plan.graph.lazy_array import source_array
from lazyvol.screening import screen
from lazyvol.summary import TIMES
from tests.oracles import required
from tests.paths import DATA, ROOT
from tests.plan.clusters import status_of
from tests.sources import CountingSource

SHAPE = (10, 5, 7, 11)
#: files of a screening of a plain stack
WRITTEN = {
    "report.html", "run.json", "scores.csv", "fsc.csv", "kept.star", "flagged.star", "average.mrc",
    "variance.mrc", "mask.mrc", "kept_average.mrc", "kept_half1.mrc", "kept_half2.mrc",
}  # fmt: skip


def values() -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.normal(size=SHAPE[1:]) + rng.normal(size=SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A folder with a stack, a volume and a mask."""
    folder = tmp_path_factory.mktemp("files")
    stack = lv.as_stack(values(), voxel_size=2.0, unit="angstrom", name="density")
    save(stack.assign_coords(tomogram=("k", [f"t{n}" for n in range(10)])), folder / "stack.zarr")
    save(stack.isel(k=0, drop=True), folder / "volume.zarr")
    save(stack.isel(k=0, drop=True) > 0, folder / "mask.zarr")
    save(lv.masks.select(stack, stack.isel(k=0, drop=True) > 0), folder / "ragged.zarr")
    labels = lv.masks.label(stack.isel(k=0, drop=True) > 0)
    save(labels, folder / "labels.zarr")
    save(lv.measure.table(labels, labels)["count"] > 2, folder / "kept.zarr")
    np.save(folder / "stack.npy", values())
    matrix = lv.clustering.distances(stack)
    save(matrix, folder / "matrix.zarr")
    save(lv.clustering.linkage(matrix), folder / "tree.zarr")
    save(xr.DataArray(np.eye(11) + 0.1, dims=("x", "channel")), folder / "mixing.zarr")
    save(xr.DataArray(np.eye(3), dims=("axis", "axis_other")), folder / "affine.zarr")
    save(xr.DataArray(np.ones((3, 5)), dims=("axis", "point")), folder / "positions.zarr")
    np.save(folder / "points.npy", np.random.default_rng(1).uniform(0, 5, (20, 3)))
    return folder


#: arguments of operations besides their first stack, where the row's ``also`` has none
REST = {
    ("clustering", "clusters"): ["--n", "3"],
    ("clustering", "components"): ["--n", "2"],
    ("clustering", "distances"): ["--metric", "ncc"],
    ("density", "block_mean"): ["--size", "2", "--partial", "trim"],
    ("density", "blocks"): ["--size", "z=5,x=4", "--partial", "keep"],
    ("density", "local"): ["--size", "3", "--mode", "reflect"],
    ("density", "points"): ["--like", "volume.zarr", "--method", "linear"],
    ("derivatives", "structure_tensor"): ["--sigma", "4"],
    ("derivatives", "structure_tensor_eigenvalues"): ["--sigma", "z=4,y=4,x=6"],
    ("filters", "bandpass"): ["--shortest", "5", "--longest", "12"],
    ("filters", "convolve"): ["volume.zarr"],
    ("filters", "correlate"): ["volume.zarr", "--mode", "wrap"],
    ("filters", "gaussian"): ["--sigma", "z=3,y=2"],
    **{
        ("filters", name): ["--size", "3"]
        for name in (
            "black_tophat",
            "grey_closing",
            "grey_dilation",
            "grey_erosion",
            "grey_opening",
            "maximum",
            "morphological_gradient",
            "morphological_laplace",
            "white_tophat",
        )
    },
    ("filters", "median"): ["--size", "z=3,x=2", "--mode", "nearest"],
    ("filters", "minimum"): ["--size", "3"],
    ("filters", "percentile"): ["--q", "40", "--size", "3"],
    ("filters", "rank"): ["--number", "2", "--size", "3"],
    ("filters", "reconstruct"): ["stack.zarr"],
    ("filters", "uniform"): ["--size", "y=4"],
    ("fourier", "shift"): ["1,0,2"],
    ("masks", "apply"): ["mask.zarr", "--fill", "mean"],
    ("masks", "box"): ["--size", "z=4,x=6", "--soft", "2"],
    ("masks", "cylinder"): ["--radius", "3", "--length", "6"],
    ("masks", "dilate"): ["--radius", "2.5"],
    ("masks", "frame"): ["--k", "2"],
    ("masks", "mean"): ["mask.zarr"],
    ("masks", "open"): ["--size", "y=3,x=3"],
    ("masks", "pad"): ["--fill", "-1"],
    ("masks", "propagate"): ["mask.zarr"],
    ("masks", "select"): ["mask.zarr"],
    ("masks", "sphere"): ["--radius", "4"],
    ("masks", "sum"): ["mask.zarr"],
    ("masks", "threshold"): ["--method", "0.5"],
    ("masks", "var"): ["mask.zarr", "--dim", "z,y"],
    ("measure", "select"): ["kept.zarr"],
    ("measure", "table"): ["labels.zarr", "--what", "count,median"],
    ("projections", "slab"): ["--dim", "z", "--start", "2", "--stop", "6"],
    ("registration", "align"): [
        "volume.zarr",
        "--angles",
        "60",
        "--finest",
        "30",
        "--resolution",
        "6",
        "--max-shift",
        "2",
    ],
    ("registration", "rotate"): ["10,20,30"],
    ("registration", "shift"): ["1,0,2"],
    ("scores", "correlation"): ["volume.zarr"],
    ("scores", "fsc"): ["volume.zarr"],
    ("stats", "quantile"): ["--q", "0.25,0.5"],
    ("synthetic", "correlated_noise"): ["--length", "5"],
    ("synthetic", "elastic"): ["--alpha", "5", "--sigma", "3"],
    ("synthetic", "grid_lines"): ["--spacing", "6", "--thickness", "1"],
    ("synthetic", "membrane"): ["--thickness", "4", "--radius", "5"],
    ("synthetic", "box"): ["--size", "z=4,y=4,x=6"],
    ("synthetic", "circle"): ["--radius", "4"],
    ("synthetic", "cylinder"): ["--radius", "3", "--length", "6", "--axis", "z=1,x=0.5"],
    ("synthetic", "particles"): ["--n", "4", "--sigma", "1", "--tilt", "20,30"],
    ("synthetic", "sphere"): ["--radius", "3", "--centre", "z=4"],
    ("transform", "affine"): ["affine.zarr", "--offset", "2"],
    ("transform", "map_coordinates"): ["positions.zarr"],
    ("unmixing", "mix"): ["mixing.zarr"],
    ("unmixing", "unmix"): ["mixing.zarr"],
}
#: operations whose first input is a volume
VOLUMES = {("scores", "fsc"), *(key for key in REST if key[0] == "synthetic")}
#: operations whose first input is neither a volume nor a stack
OTHERS = {
    ("clustering", "clusters"): "tree.zarr/tree",
    ("clustering", "condensed"): "matrix.zarr",
    ("clustering", "linkage"): "matrix.zarr",
    ("density", "points"): "points.npy",
    ("masks", "frame"): "ragged.zarr",
    ("masks", "pad"): "ragged.zarr",
    ("measure", "select"): "labels.zarr",
    **{
        ("masks", name): "mask.zarr"
        for name in (
            "close",
            "dilate",
            "distance_transform",
            "erode",
            "fill_holes",
            "label",
            "open",
            "propagate",
            "remove_small_objects",
        )
    },
}


def run(tokens: list[str], capsys) -> tuple[int, str, str]:
    code = main(tokens)
    out, err = capsys.readouterr()
    return code, out, err


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def public() -> set[tuple[str, str]]:
    """Return every public operation, without help of the command line."""
    names = set()
    for info in pkgutil.iter_modules(lazyvol.ops.__path__):
        module = importlib.import_module(f"lazyvol.ops.{info.name}")
        names |= {(info.name, name) for name in getattr(module, "__all__", ())}
    return names


def test_every_public_operation_has_a_command():
    app = make_app()
    assert public() == set(operations())
    for topic, name in public():
        assert callable(app[topic][command_name(name)].default_command)


@pytest.mark.parametrize("key", sorted(public()), ids=".".join)
def test_every_operation_runs_and_saves_its_result(key, files, tmp_path, capsys):
    first = OTHERS.get(key, "volume.zarr" if key in VOLUMES else "stack.zarr")
    also = required(".".join(key)).items()
    named = [t for name, value in also for t in (f"--{name.replace('_', '-')}", str(value))]
    rest = [str(files / t) if t.endswith(".zarr") else t for t in REST.get(key, named)]
    out = tmp_path / "out.zarr"
    code, text, err = run([*key, str(files / first), *rest, "--out", str(out)], capsys)
    assert (code, err) == (0, "")
    assert text.startswith("Plan\n")
    assert text.endswith(f"wrote       {out}\n")
    assert out.is_dir()


@pytest.mark.parametrize("key", sorted(public()), ids=".".join)
def test_every_operation_has_help(key, capsys):
    code, text, _ = run([*key, "--help"], capsys)
    assert code == 0
    function = operations()[key].function
    first = description(function).split("\n\n")[0].split()
    assert " ".join(first[:6]) in " ".join(text.split())
    assert "``" not in text


def test_the_result_is_that_of_the_function(files, tmp_path, capsys):
    out = tmp_path / "var.npy"
    run(["stats", "var", str(files / "stack.npy"), str(out), "--ddof", "1"], capsys)
    np.testing.assert_allclose(np.load(out), values().var(0, ddof=1), rtol=1e-6)


def test_dims_masks_and_lists_are_parsed(files, tmp_path, capsys):
    stack, mask = files / "stack.zarr", files / "mask.zarr"
    out = tmp_path / "mean.npy"
    result = run(
        ["stats", "mean", str(stack), str(out), "--dim", "z,y,x", "--mask", str(mask)], capsys
    )
    assert result[0] == 0
    inside = np.where(values()[0] > 0, values(), np.nan)
    np.testing.assert_allclose(np.load(out), np.nanmean(inside, (1, 2, 3)), rtol=1e-5)
    table = tmp_path / "scores.csv"
    run(["scores", "compare", str(stack), str(table), "--metrics", "ncc"], capsys)
    assert next(csv.reader(table.read_text().splitlines())) == ["k", "tomogram", "ncc"]


def test_a_part_of_a_file_is_saved_in_another_type(files, tmp_path, capsys):
    out, stack = tmp_path / "part.npy", values()
    words = ["convert", str(files / "stack.npy"), str(out), "--dtype", "float64", "--overwrite"]
    for select, part in (
        ("k=1", stack[1]),
        ("k=-1,z=1:3", stack[-1, 1:3]),
        ("x=:2", stack[..., :2]),
    ):
        assert run([*words, "--select", select], capsys)[0] == 0
        assert np.load(out).dtype == np.float64
        np.testing.assert_array_equal(np.load(out), part)


def test_positions_in_a_plain_file_have_the_dims_of_plain_arrays(files, tmp_path, capsys):
    positions = np.array([[1.5, 0, 2], [1, 1.5, 0.5], [2, 0, 1]])
    np.save(tmp_path / "positions.npy", positions)
    tokens = ["transform", "map-coordinates", str(files / "volume.zarr")]
    tokens += [str(tmp_path / "positions.npy"), str(tmp_path / "out.zarr")]
    assert run(tokens, capsys)[0] == 0
    expected = lv.transform.map_coordinates(lv.open(files / "volume.zarr"), positions)
    np.testing.assert_array_equal(lv.open(tmp_path / "out.zarr"), expected)


def test_a_matrix_in_a_plain_file_is_a_plain_array(files, tmp_path, capsys):
    matrix = np.eye(lv.open(files / "volume.zarr").sizes["x"]) + 0.1
    np.save(tmp_path / "matrix.npy", matrix)
    tokens = ["unmixing", "unmix", str(files / "volume.zarr"), str(tmp_path / "matrix.npy")]
    assert run([*tokens, str(tmp_path / "out.zarr")], capsys)[0] == 0
    expected = lv.unmixing.unmix(lv.open(files / "volume.zarr"), matrix)
    np.testing.assert_array_equal(lv.open(tmp_path / "out.zarr"), expected)


def test_against_takes_a_file(files, tmp_path, capsys):
    out = tmp_path / "ncc.csv"
    reference = str(files / "volume.zarr")
    run(["scores", "ncc", str(files / "stack.zarr"), str(out), "--against", reference], capsys)
    assert float(rows(out)[0]["ncc"]) == pytest.approx(1)


def test_a_table_is_not_resumed_and_not_replaced_by_default(files, tmp_path, capsys):
    out = tmp_path / "ncc.csv"
    out.write_text("mine")
    tokens = ["scores", "ncc", str(files / "stack.npy"), str(out)]
    assert "TargetExistsError" in run(tokens, capsys)[2]
    assert out.read_text() == "mine"
    assert "only .zarr can be resumed" in run([*tokens, "--resume"], capsys)[2]
    assert run([*tokens, "--overwrite"], capsys)[0] == 0
    assert len(rows(out)) == 10


def test_a_table_holds_one_dim(files, tmp_path, capsys):
    code, _, err = run(["stats", "var", str(files / "stack.npy"), str(tmp_path / "v.csv")], capsys)
    assert code == 2
    assert "must have values along one dim" in err


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), ("1.5", 1.5), ("z,y", ("z", "y")), ("z=1.5,y=2", {"z": 1.5, "y": 2}),
     ("all", None), ("None", None), ("reflect", "reflect"), ("2,", (2,)), ("1e-3", 1e-3)],
)  # fmt: skip
def test_values_from_text(text, value):
    assert parse(text) == value


def test_info_prints_facts_and_reads_no_voxel(tmp_path, capsys):
    path = tmp_path / "stack.npy"
    np.save(path, values())
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\xff\xff\x7f")
    code, text, _ = run(["info", str(path)], capsys)
    assert code == 0
    assert f"{TIMES.join(map(str, SHAPE))} (k, z, y, x)" in text
    assert "float32" in text
    assert "15 KiB" in text


def test_info_reads_metadata_only(files, capsys, monkeypatch):
    monkeypatch.setattr("lazyvol.plan.recipes.leaves.Stored.fetch", refuse)
    assert run(["info", str(files / "stack.zarr")], capsys)[0] == 0


def test_info_warns_of_absent_chunks(tmp_path, capsys):
    group = zarr.create_group(tmp_path / "a.zarr")
    array = group.create_array("a", shape=(4, 6, 6), chunks=(1, 6, 6), dtype="u1")
    array[1] = 7
    for options in ([], ["--dims", "k,y,x"]):
        code, text, _ = run(["info", str(tmp_path / "a.zarr"), *options], capsys)
        assert (code, text.count("note ")) == (0, 1)
        assert "3 of 4 chunks are absent" in text


def test_convert_keeps_values_and_labels(files, tmp_path, capsys):
    out = tmp_path / "copy.zarr"
    assert run(["convert", str(files / "stack.zarr"), str(out)], capsys)[0] == 0
    copy, original = open_stack(out), open_stack(files / "stack.zarr")
    xr.testing.assert_identical(copy.compute(), original.compute())


def refuse(*args, **kwargs):
    raise AssertionError("a voxel was read")


def test_explain_prints_the_plan_reads_and_writes_nothing(files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lazyvol.plan.recipes.leaves.Stored.fetch", refuse)
    code, text, _ = run(
        ["explain", str(files / "stack.zarr"), "stats", "var", "--dim", "k", "--memory", "256MiB"],
        capsys,
    )
    assert code == 0
    assert "passes      1" in text
    assert "of 256 MiB" in text
    assert not list(tmp_path.iterdir())


def test_every_operation_has_explain(files, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lazyvol.plan.recipes.leaves.Stored.fetch", refuse)
    out = tmp_path / "v.npy"
    code, text, _ = run(["stats", "var", str(files / "stack.zarr"), str(out), "--explain"], capsys)
    assert (code, text.startswith("Plan")) == (0, True)
    assert not out.exists()


def test_inputs_stand_first_and_words_take_hyphens_and_underscores(files, tmp_path, capsys):
    results = []
    for n, words in enumerate((["hessian-eigenvalues"], ["hessian_eigenvalues"])):
        out = tmp_path / f"{n}.npy"
        tokens = ["derivatives", *words, str(files / "stack.npy"), str(out), "--sigma", "1"]
        assert run(tokens, capsys)[0] == 0
        results.append(np.load(out))
    assert np.array_equal(*results)
    shift, out = ["registration", "shifts", str(files / "stack.npy")], tmp_path / "shifts.csv"
    assert run([*shift, str(out), "--max_shift", "2"], capsys)[0] == 0
    assert run([*shift, str(out), "--max-shift=2", "--overwrite"], capsys)[0] == 0


def test_explain_takes_two_inputs_and_screen(files, capsys):
    volume = str(files / "volume.zarr")
    assert run(["explain", volume, "scores", "fsc", volume], capsys)[0] == 0
    _, text, _ = run(["explain", str(files / "stack.zarr"), "screen"], capsys)
    assert "1 averages" in text
    assert "2 scores" in text


def test_explain_refuses_unknown_operations(files, capsys):
    code, _, err = run(["explain", str(files / "stack.zarr"), "stats", "vr"], capsys)
    assert code == 2
    assert "an operation must be a topic and a name" in err
    assert run(["explain", str(files / "stack.zarr"), "stats"], capsys)[0] == 2


def test_screen_writes_its_files_and_prints_the_report(files, tmp_path, capsys):
    out = tmp_path / "screened"
    tokens = ["screen", str(files / "stack.zarr"), "--out", str(out), "--memory", "256MiB"]
    code, text, err = run(tokens, capsys)
    assert (code, err) == (0, "")
    assert text.startswith("1 averages\nPlan")
    assert f"report      {(out / 'report.html').as_uri()}" in text
    assert {p.name for p in out.iterdir()} == WRITTEN
    np.testing.assert_allclose(open_stack(out / "average.mrc"), values().mean(0), rtol=1e-5)
    np.testing.assert_allclose(open_stack(out / "variance.mrc"), values().var(0), rtol=1e-4)
    assert [r["tomogram"] for r in rows(out / "scores.csv")] == [f"t{n}" for n in range(10)]
    report = (out / "report.html").read_text("utf-8")
    assert f"lazyvol screen {files / 'stack.zarr'}" in report
    code, _, err = run(tokens, capsys)
    assert code == 1
    assert "already holds average.mrc" in err
    assert run([*tokens, "--overwrite"], capsys)[0] == 0


def test_scores_are_against_the_average_of_the_others(tmp_path):
    result = screen(lv.as_stack(values()), tmp_path)
    for n in (0, 7):
        others = np.delete(values().astype(np.float64), n, 0).mean(0).ravel()
        one = values()[n].astype(np.float64).ravel()
        assert result.scores.ncc[n] == pytest.approx(np.corrcoef(one, others)[0, 1], rel=1e-5)
        assert result.scores.mse[n] == pytest.approx(((one - others) ** 2).mean(), rel=1e-5)


def test_columns_are_coordinates_and_results_of_particles(tmp_path):
    """An angle does not overwrite a coordinate of the particles."""
    stack = lv.synthetic.particles((12, 12, 12), 40, sigma=0.5, tilted=0.2, radius=2, seed=1)
    result = screen(stack, tmp_path, wedge=(-80.0, 80.0), angles=60.0)
    table = rows(tmp_path / "scores.csv")
    np.testing.assert_allclose([float(r["tilt"]) for r in table], stack.tilt)
    assert {r["best_hypothesis"] for r in table} <= {
        "consistent", "empty", "rotated", "shifted", "second_class", "extra_density", "unlike"
    }  # fmt: skip
    rotated = [r["best_hypothesis"] == "rotated" for r in table]
    assert any(rotated)
    for name in ("rot", "tilt", "psi"):
        known = np.isfinite([float(r[f"angles_{name}"]) for r in table])
        assert known.tolist() == rotated
    assert [r["flagged"] == "True" for r in table] == result.scores.flagged.values.tolist()
    assert result.flagging.threshold == min(
        float(r["llr"]) for r in table if r["flagged"] == "True"
    )


def test_screen_takes_wedges_and_orientations(files, tmp_path, capsys):
    angles = np.random.default_rng(0).uniform(-90, 90, (10, 3))
    listed = xr.Dataset(coords={n: ("k", a) for n, a in zip(ANGLES, angles.T, strict=True)})
    save(listed, tmp_path / "poses.star")
    stack, poses = str(files / "stack.zarr"), str(tmp_path / "poses.star")
    wedged = ["--wedge", "-60", "60", "--orientations", poses, "--no-second-class"]
    assert run(["screen", stack, "--out", str(tmp_path / "a"), *wedged], capsys)[0] == 0
    assert {r["wedge"] for r in rows(tmp_path / "a" / "scores.csv")} <= {"given", "unclear"}
    report = (tmp_path / "a" / "report.html").read_text("utf-8")
    assert f"--wedge -60 60 --no-second-class --orientations {poses}" in report
    assert run(["screen", stack, "--out", str(tmp_path / "b"), "--wedge", "none"], capsys)[0] == 0
    assert {r["wedge"] for r in rows(tmp_path / "b" / "scores.csv")} == {"none"}


def test_wedges_are_words_of_the_command():
    assert opened_wedge(["auto"]) == "auto"
    assert opened_wedge(["none"]) is None
    assert opened_wedge(["-60", "54.5"]) == (-60.0, 54.5)
    for words in (["60"], ["1", "2", "3"], ["a", "b"]):
        with pytest.raises(OptionError, match="must be two tilts in degrees"):
            opened_wedge(words)


def test_orientations_must_have_angles(tmp_path):
    save(xr.Dataset({"score": ("k", [0.5, 0.25])}), tmp_path / "list.csv")
    with pytest.raises(LabelError, match="got no rot, tilt, psi"):
        angles_of(str(tmp_path / "list.csv"))


def test_a_screening_keeps_the_budget_of_its_context(tmp_path):
    with lv.limited("300MiB", workers=1):
        result = screen(lv.as_stack(values()).chunk(k=2), tmp_path)
    assert result.run.memory == 300 * 2**20
    assert {p.memory for p in result.run.plans.values()} == {300 * 2**20}
    assert {p.workers for p in result.run.plans.values()} == {1}


def test_a_screening_uses_the_coordinate_half(tmp_path):
    half = np.array([1, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    result = screen(lv.as_stack(values()).assign_coords(half=("k", half)), tmp_path)
    assert result.half_sets.sizes == (3, 7)
    first, second = values()[:3].mean(0), values()[3:].mean(0)
    expected = lv.scores.fsc(lv.as_stack(first), lv.as_stack(second))
    np.testing.assert_allclose(result.fsc["all"], expected, rtol=1e-4)


def test_a_constant_particle_is_flagged_and_reported(tmp_path):
    changed = values()
    changed[4] = 0.0
    result = screen(lv.as_stack(changed), tmp_path)
    assert bool(result.scores.flagged[4])
    assert "particles have no score" in (tmp_path / "report.html").read_text("utf-8")


def test_particles_with_nan_are_named(tmp_path):
    changed = values()
    changed[3], changed[7, 0, 0, 0] = np.nan, np.nan
    with pytest.raises(LabelError, match=r"2 of 10 particles with some, at k = 3, 7, and 385 NaN"):
        screen(lv.as_stack(changed), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


class Failing(CountingSource):
    """A source that cannot be read."""

    def read(self, region, out=None):
        raise TruncatedError("particles.mrc ends early")


def test_a_failing_read_leaves_states_alone(tmp_path):
    grid = (regions.uniform_chunks(SHAPE[0], 2), *((n,) for n in SHAPE[1:]))
    stack = lv.as_stack(source_array(Failing(values(), SHAPE, "failing"), grid))
    with pytest.raises(TruncatedError):
        screen(stack, tmp_path / "out")
    left = [p.name for p in (tmp_path / "out").iterdir()]
    assert left == [".lazyvol-tmp"]  # the states from which the run can continue
    screen(lv.as_stack(values()), tmp_path / "out", overwrite=True)
    assert ".lazyvol-tmp" not in [p.name for p in (tmp_path / "out").iterdir()]


def test_progress_goes_to_stderr_on_request(files, tmp_path, capsys):
    tokens = ["stats", "mean", str(files / "stack.zarr")]
    assert run([*tokens, str(tmp_path / "a.zarr")], capsys)[2] == ""
    assert "100%" in run([*tokens, str(tmp_path / "b.zarr"), "--progress"], capsys)[2]


def test_a_cluster_runs_a_command_and_its_dashboard_is_printed(files, tmp_path, capsys):
    out = tmp_path / "mean.npy"
    code, text, _ = run(
        ["stats", "mean", str(files / "stack.zarr"), str(out), "--dashboard", "--workers", "2"],
        capsys,
    )
    assert code == 0
    assert "dashboard   http://127.0.0.1:" in text
    np.testing.assert_allclose(np.load(out), values().mean(0), rtol=1e-5)


def test_a_dashboard_has_the_requested_threads(capsys):
    with running(Running(workers=3, dashboard=True)):
        client = default_client()
        (worker,) = client.scheduler_info()["workers"].values()
        assert worker["nthreads"] == 3
        assert status_of(client, "/status") == 200
    assert "dashboard   http://127.0.0.1:" in capsys.readouterr().out


def test_the_demo_finds_the_tilted_particles(tmp_path, capsys):
    code, text, _ = run(["demo", "--size", "small", "--out", str(tmp_path / "new")], capsys)
    assert code == 0
    match = re.search(r"12 of 120 are tilted: precision (\S+), recall 1.000, AUC 1.0000", text)
    assert match is not None
    assert float(match[1]) >= 12 / 14  # one in twenty of the flagged may be consistent
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"particles.zarr", *WRITTEN}


def test_area_under_the_curve_counts_pairs():
    good, bad = np.array([0.9, 0.8, 0.3]), np.array([0.1, 0.8])
    pairs = [(g > b) + (g == b) / 2 for g in good for b in bad]
    assert area_under_curve(good, bad) == pytest.approx(np.mean(pairs))


def test_a_table_has_labels_and_coordinates():
    scored = xr.Dataset({"ncc": ("k", [0.5, 0.25])}, {"k": [4, 7], "file": ("k", ["a,b", "c"])})
    assert csv_text(scored) == 'k,file,ncc\n4,"a,b",0.5\n7,c,0.25\n'
    assert csv_text(xr.Dataset({"mean": 1.5})) == "row,mean\n0,1.5\n"


def test_parameter_texts_come_from_the_function_and_its_module():
    texts = parameter_texts(lv.stats.var, lv.stats)
    assert texts["skipna"].startswith("Leave NaN")
    assert parameter_texts(lv.scores.compare, lv.scores)["metrics"] == (
        "Any of mse, rmse, cosine, ncc, bce."
    )


def command(*tokens: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "lazyvol.cli", *tokens], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, cwd=Path(lazyvol.__file__).parents[1],
        # a shell starts background jobs with interrupts ignored, and child processes inherit that
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def test_the_command_runs_as_a_process(files):
    process = command("info", str(files / "stack.zarr"))
    out, err = process.communicate(timeout=600)
    assert (process.returncode, err) == (0, "")
    assert "float32" in out


def test_a_terminal_shows_progress(files, tmp_path):
    primary, terminal = pty.openpty()
    words = ["stats", "mean", str(files / "stack.zarr"), str(tmp_path / "mean.npy")]
    process = subprocess.Popen([sys.executable, "-m", "lazyvol.cli", *words], stderr=terminal,
                               stdout=subprocess.DEVNULL, cwd=ROOT)  # fmt: skip
    os.close(terminal)
    text = b""
    with suppress(OSError):  # the other end is closed
        while part := os.read(primary, 4096):
            text += part
    os.close(primary)
    assert process.wait(60) == 0
    line = re.sub(r"\x1b\[[0-9;?]*\w", "", text.decode())
    assert re.search(r"100% [\d.]+ .?B/s 0:00:\d\d in all\s*$", line), line


def test_ctrl_c_ends_with_130_and_no_result(tmp_path):
    target = tmp_path / "noise.zarr"
    process = command("synthetic", "noise", "400x100x100x100", str(target), "--workers", "1")
    while not (line := process.stdout.readline()).startswith("Plan"):
        assert line
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 130
    assert err.strip().startswith("lazyvol: interrupted")
    assert not target.exists()


@pytest.mark.skipif(not DATA.is_dir(), reason="no shared/data beside the checkout")
@pytest.mark.parametrize("name", ["subtomos_aligned.mrc", "subtomos_unaligned.mrc"])
def test_real_ribosomes_are_screened(name, tmp_path, capsys):
    path = DATA / "cryoet_warp_70s" / name
    assert run(["screen", str(path), "--out", str(tmp_path)], capsys)[0] == 0
    scores = [float(row["ncc"]) for row in rows(tmp_path / "scores.csv")]
    assert len(scores) == 20
    assert (np.median(scores) > 0.025) == (name == "subtomos_aligned.mrc")
