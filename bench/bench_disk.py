"""Jobs on stacks larger than their memory limit: time, peak and bytes read, by size.

    python bench/bench_disk.py [--gb 1 4] [--memory 1GiB] [--folder DIR]

Volumes of 100^3 float32 noise, stored without compression, so that bytes read from the store can
be compared with the least that a job needs: each input byte once per pass. Each job is a process of
its own, on two threads; the peak is that of the process besides its imports. The last job is plain
dask, which takes no limit.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from side_by_side import table

import lazyvol as lv

SIDE = 100
JOBS: dict[str, Callable[[xr.DataArray], Any]] = {
    "describe": lv.stats.describe,
    "scores.ncc": lv.scores.ncc,
    "scores.screen": lv.scores.screen,
    "gaussian": lambda s: lv.filters.gaussian(s, 2.0),
    "hessian_eigenvalues": lambda s: lv.derivatives.hessian_eigenvalues(s, sigma=2.0),
    "density.blocks": lambda s: lv.density.blocks(s > 0, 10),
    "equalise": lv.intensity.equalise,
}
#: passes over the input that a job needs: equalise finds the range, counts, then maps
PASSES = {"scores.ncc": 2, "scores.screen": 2, "equalise": 3}


def write(path: Path, gigabytes: float) -> int:
    """Write a stack; return its bytes."""
    n = max(2, round(gigabytes * 1e9 / (4 * SIDE**3)))
    array = zarr.create_array(
        path, shape=(n, *(SIDE,) * 3), chunks=(1, *(SIDE,) * 3), dtype="f4", compressors=None,
        dimension_names=("k", "z", "y", "x"),
    )  # fmt: skip
    random = np.random.default_rng(0)
    for k in range(n):
        array[k] = random.standard_normal((SIDE,) * 3, dtype="f4")
    return 4 * n * SIDE**3


def counters() -> dict[str, int]:
    """Return the bytes that this process has read, by system calls of any kind."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


def measure(job: str, path: str, out: str, memory: str) -> dict[str, float]:
    """Run a job in this process; return seconds, peak MiB and bytes read."""
    before, read = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, counters()["rchar"]
    start, cpu = time.perf_counter(), time.process_time()
    if job == "dask, variance":
        da.to_zarr(da.from_zarr(path).var(0), out, compute=True)
    else:
        with lv.limited(memory=memory, workers=2):
            lv.save(JOBS[job](lv.open(path)), out)
    return {
        "wall": time.perf_counter() - start, "cpu": time.process_time() - cpu,
        "peak": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
        "read": counters()["rchar"] - read,
    }  # fmt: skip


def figures(job: str, path: Path, memory: str) -> dict[str, float]:
    """Return what a process measured that runs one job."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [sys.executable, __file__, "--job", job, "--path", str(path)]
        command += ["--out", f"{folder}/out.zarr", "--memory", memory]
        environment = {**os.environ, "DASK_NUM_WORKERS": "2"}
        out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(out.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, nargs="+", default=[1, 4])
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--folder")
    for name in ("--job", "--path", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.job:
        print(json.dumps(measure(args.job, args.path, args.out, args.memory)))
        return
    rows = []
    for gigabytes in args.gb:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            path = Path(folder) / "in.zarr"
            nbytes = write(path, gigabytes)
            for job in (*JOBS, "dask, variance"):
                f = figures(job, path, args.memory)
                passes = f["read"] / nbytes / PASSES.get(job, 1)
                per_gb = [f"{f[kind] / nbytes * 1e9:.2f}" for kind in ("wall", "cpu")]
                rows.append(
                    [job, f"{nbytes / 1e9:g}", *per_gb, f"{f['peak']:.0f}", f"{passes:.2f}"]
                )
    header = ["job", "GB", "s per GB", "CPU s per GB", "peak, MiB", "read, of the least"]
    print(table(header, rows))


if __name__ == "__main__":
    main()
