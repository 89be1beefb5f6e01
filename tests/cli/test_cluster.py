"""Recipes of clusters: directives and options against other programs' own, and runs of them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

import lazyvol as lv
from lazyvol.cli import main
from lazyvol.plan.budget import parse_bytes

SCRIPTS = ("slurm", "pbs", "ssh")
#: programs of a queue, in a few lines: each starts the workers on this machine
STARTERS = {
    "srun": 'n=${1#--ntasks=}; shift 2; for ((i = 0; i < n; i++)); do "$@" & done; wait',
    "pbsdsh": 'shift; "$@" & "$@" & wait',
    "ssh": 'shift; exec "$@"',
}


def recipe(kind: str, capsys, *options: str) -> str:
    assert main(["cluster", "recipe", kind, *options]) == 0
    return capsys.readouterr().out


def worker_options(words: list[str]) -> dict[str, object]:
    """Return options as dask's own command reads them."""
    context = dask_worker.main.make_context("dask worker", words)
    return {n: context.params[n] for n in ("nthreads", "memory_limit", "nanny", "death_timeout")}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_are_bash_and_their_commands_are_dask_s(kind, capsys):
    text = recipe(kind, capsys, "--workers", "2", "--threads", "3", "--memory", "5GiB")
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    joined = text.replace("\\\n", " ").replace("$threads", "3").replace("$memory", "5GiB")
    (worker,) = re.findall(r"dask worker (.*)", joined)
    expected = {"nthreads": 3, "memory_limit": "5GiB", "nanny": True, "death_timeout": "60"}
    assert worker_options(shlex.split(worker)) == expected
    (scheduler,) = re.findall(r"dask scheduler (.*) &", joined)
    context = dask_scheduler.main.make_context("dask scheduler", shlex.split(scheduler))
    assert context.params["protocol"] == "tls"


def test_directives_and_workers_are_those_of_dask_jobqueue(capsys):
    jobqueue = pytest.importorskip("dask_jobqueue", reason="dask-jobqueue writes the other scripts")
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    options = {"cores": 8, "processes": 1, "memory": "32GiB", "walltime": "02:00:00"}
    options["scheduler_options"] = loopback
    with jobqueue.SLURMCluster(**options) as slurm, jobqueue.PBSCluster(**options) as pbs:
        theirs = {"slurm": slurm.job_script(), "pbs": pbs.job_script()}
    ours = {kind: recipe(kind, capsys, "--workers", "1") for kind in theirs}

    names = "t|time|walltime|cpus-per-task|mem-per-cpu|select"
    directives = rf"#(?:SBATCH|PBS) (?:-l )?-{{0,2}}({names})[= ](.*)"
    (their_slurm, our_slurm), (their_pbs, our_pbs) = (
        [dict(re.findall(directives, part[kind])) for part in (theirs, ours)]
        for kind in ("slurm", "pbs")
    )
    assert our_slurm["cpus-per-task"] == their_slurm["cpus-per-task"] == "8"
    assert our_slurm["time"] == their_slurm["t"]
    assert our_pbs["walltime"] == their_pbs["walltime"]
    assert our_pbs["select"].split(":")[:2] == their_pbs["select"].split(":")[:2]
    (gigabytes,) = re.findall(r"#SBATCH --mem=(\d+)G", theirs["slurm"])  # SLURM's are of 2^30
    requested = 8 * int(our_slurm["mem-per-cpu"].rstrip("M"))
    assert int(gigabytes) * 1024 * 1.09 < requested < int(gigabytes) * 1024 * 1.11

    for kind, script in theirs.items():
        (words,) = re.findall(r"dask_worker \S+ (.*)", script)
        joined = ours[kind].replace("\\\n", " ").replace("$threads", "8")
        (own,) = re.findall(r"dask worker (.*)", joined.replace("$memory", "32GiB"))
        their_options, our_options = (
            worker_options(shlex.split(words)),
            worker_options(shlex.split(own)),
        )
        assert parse_bytes(str(their_options.pop("memory_limit"))) == 32 * 2**30
        assert our_options.pop("memory_limit") == "32GiB"
        assert our_options == their_options


def test_the_manifest_selects_its_own_pods(capsys):
    parts = list(yaml.safe_load_all(recipe("kubernetes", capsys, "--workers", "7")))
    kinds = [part["kind"] for part in parts]
    assert kinds == ["ConfigMap", "Service", "Deployment", "Deployment", "Job"]
    _, service, scheduler, workers, job = parts
    for deployment in (scheduler, workers):
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == scheduler["spec"]["selector"]["matchLabels"]
    assert workers["spec"]["replicas"] == 7
    (container,) = workers["spec"]["template"]["spec"]["containers"]
    assert container["command"][2] == f"tls://{service['metadata']['name']}:8786"
    assert worker_options(container["command"][2:])["memory_limit"] == "32GiB"
    assert (
        job["spec"]["template"]["spec"]["containers"][0]["command"][-1] == container["command"][2]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--workers", "0"], "--workers must be 1 or more, got 0"), (["--memory", "much"], "memory")],
)
def test_impossible_clusters_are_refused(options, message, capsys):
    assert main(["cluster", "recipe", "slurm", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.campaign
@pytest.mark.parametrize("kind", SCRIPTS)
def test_scripts_run_on_programs_that_stand_in_for_a_queue(kind, tmp_path, capsys):
    text = recipe(kind, capsys, "--workers", "2", "--threads", "1", "--memory", "1GiB")
    path = 'export PATH="$PATH"'
    (tmp_path / "job.sh").write_text(text.replace(path, f'{path} PYTHONPATH="$PYTHONPATH"'))
    for name, body in STARTERS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    shape = {"radius": 4.0, "length": 12.0}
    lv.save(
        lv.synthetic.particles((16, 16, 16), 60, sigma=2.0, **shape), tmp_path / "particles.zarr"
    )
    tools = [str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]
    here = {"SLURM_SUBMIT_DIR": tmp_path, "PBS_O_WORKDIR": tmp_path, "PYTHONPATH": os.getcwd()}
    job = {"SLURM_JOB_ID": "7", "PBS_JOBID": "7", "PATH": os.pathsep.join(tools)}
    environment = {**os.environ, **{n: str(p) for n, p in here.items()}, **job}
    assert shutil.which("openssl")
    done = subprocess.run(
        ["bash", "job.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "scheduler   tls://" in done.stdout
    assert (tmp_path / "screened" / "report.html").exists()
