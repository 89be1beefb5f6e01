"""The benchmarks run, and keep their tables."""

import json
import subprocess
import sys
from doctest import DocTestFinder, DocTestRunner
from importlib.util import module_from_spec, spec_from_file_location

import pytest

from tests.oracles import ORACLES
from tests.paths import ROOT

BENCH = ROOT / "bench"


def loaded():
    spec = spec_from_file_location("bench_main", BENCH / "__main__.py")
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_script_belongs_to_a_suite_and_exists():
    suites = loaded().SUITES
    scripts = {script.name for of_suite in suites.values() for script in of_suite}
    assert all((BENCH / f"{name}.py").is_file() for name in scripts)
    # these compare two trees, or take hours
    apart = {"bench_zarr", "bench_screen", "bench_screening_auc"}
    assert {p.stem for p in BENCH.glob("bench_*.py")} == scripts | apart


def test_examples_of_the_runner():
    module, runner = loaded(), DocTestRunner()
    for example in DocTestFinder().find(module):
        runner.run(example)
    assert runner.tries > 2
    assert not runner.failures


def test_a_quick_suite_writes_its_tables(tmp_path):
    command = [sys.executable, "-m", "bench", "ops", "--quick", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)
    content = json.loads((tmp_path / "ops.json").read_text())
    (table,) = content["tables"]
    named = ("stats.mean", "filters.gaussian/", "measure")
    assert [row[0] for row in table["rows"]] == [n for n in ORACLES if n.startswith(named)]
    assert all(float(row[1]) > 0 for row in table["rows"])
    assert (tmp_path / "ops-0.png").read_bytes().startswith(b"\x89PNG")


def test_unknown_suites_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        loaded().main(["nothing"])
    assert "SUITE must be among ops" in capsys.readouterr().err
