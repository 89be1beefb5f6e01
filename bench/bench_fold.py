"""Time statistics and scores of a stack on disk and of one in memory.

    python bench/bench_fold.py [--gb 4] [--folder DIR]

Two threads each, warm page cache, median of 5, all in turn in one process; peak memory in a process
of its own. LiberTEM is included if it is installed.
"""

import argparse
import json
import tempfile
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import zarr
from side_by_side import peak_of, peaks, table, threads, timed

import lazyvol as lv
from lazyvol.plan.graph.lazy_array import recipe_of
from lazyvol.plan.regions import whole

BOX = (160, 160, 160)
VOLUME = 4 * 160**3


def write(path: Path, gigabytes: float) -> None:
    """Write a stack of noise with one volume per chunk and zarr's default compression."""
    n = round(gigabytes * 1e9 / VOLUME)
    if (path / "done").exists() and int((path / "done").read_text()) == n:
        return
    z = zarr.create_array(path, shape=(n, *BOX), chunks=(1, *BOX), dtype="f4", overwrite=True)
    rng = np.random.default_rng(0)
    for k in range(n):
        z[k] = rng.standard_normal(BOX, dtype="f4")
    (path / "done").write_text(str(n))


def bare_zarr(path: str) -> None:
    """Read and decode everything with zarr alone, 4 volumes at a time, two threads."""
    z = zarr.open_array(path, mode="r")

    def work(thread: int) -> None:
        for k in range(4 * thread, z.shape[0], 8):
            z[k : k + 4]

    threads(work)


def bare_source(stack) -> None:
    """Read and decode everything with lazyvol's reader into reused memory."""
    source = recipe_of(stack.data).source

    def work(thread: int) -> None:
        buffer = np.empty((4, *BOX), np.float32)
        for k in range(4 * thread, source.shape[0], 8):
            n = min(4, source.shape[0] - k)
            source.read((slice(k, k + n), *whole(BOX)), buffer[:n])

    threads(work)


def disk_ways(path: str) -> dict:
    stack = lv.open(path)
    average = lv.stats.mean(stack).compute()
    theirs = da.from_zarr(path)

    def scores() -> None:
        lv.scores.compare(
            stack, average, metrics=("mse", "cosine", "ncc"), leave_one_out=True
        ).compute()

    return {
        "read and decode, zarr": partial(bare_zarr, path),
        "read and decode, lazyvol": partial(bare_source, stack),
        "lazyvol mean + var": lambda: lv.stats.describe(
            stack, statistics=("mean", "var")
        ).compute(),
        "lazyvol describe": lambda: lv.stats.describe(stack).compute(),
        "lazyvol mse + cosine + ncc": scores,
        "dask var": lambda: theirs.var(axis=0).compute(),
    }


def memory_ways(raw: str) -> dict:
    """Half a gigabyte in chunks of 8 volumes; LiberTEM reads these bytes from a raw file."""
    values = np.fromfile(raw, np.float32).reshape(-1, *BOX)
    ours = lv.as_stack(da.from_array(values, chunks=(8, *BOX)))
    plain = lv.as_stack(values)
    theirs = da.from_array(values, chunks=(8, *BOX))
    ways = {
        "lazyvol var, dask-backed": lambda: lv.stats.var(ours).compute(),
        "lazyvol var, numpy-backed": lambda: lv.stats.var(plain),
        "dask var": lambda: theirs.var(axis=0).compute(),
        "numpy var, one thread": lambda: values.var(axis=0),
    }
    return ways | libertem_ways(raw, len(values))


def libertem_ways(raw: str, n: int) -> dict:
    try:
        from libertem.api import Context
        from libertem.executor.inline import InlineJobExecutor
        from libertem.udf.stddev import StdDevUDF
    except ImportError:
        return {}
    ways = {}
    for name, context in (
        ("LiberTEM StdDevUDF, 2 workers", lambda: Context.make_with(cpus=2, gpus=0)),
        ("LiberTEM StdDevUDF, inline", lambda: Context(executor=InlineJobExecutor())),
    ):
        ctx = context()
        data = ctx.load(
            "raw", path=raw, dtype="float32", nav_shape=(n,), sig_shape=(BOX[0], BOX[1] * BOX[2])
        )
        ways[name] = partial(ctx.run_udf, dataset=data, udf=StdDevUDF())
    return ways


def report(title: str, seconds: dict, data_bytes: float, reference: str, memory: dict) -> None:
    rows = [
        [
            name,
            f"{s:.2f}",
            f"{data_bytes / s / 1e9:.2f}",
            f"{s / seconds[reference]:.2f}",
            f"{memory[name] / 2**20:.0f}" if name in memory else "",
        ]
        for name, s in seconds.items()
    ]
    print(f"\n{title}\n")
    header = ["way", "seconds", "GB/s", f"time / {reference}", "peak above start, MiB"]
    print(table(header, rows), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    parser.add_argument("--peak")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, raw = str(folder / f"stack-{args.gb:g}.zarr"), str(folder / "stack.raw")
    if args.peak:
        print(json.dumps(peak_of(disk_ways(path)[args.peak])))
        return
    write(Path(path), args.gb)
    if not Path(raw).exists():
        values = np.random.default_rng(0).standard_normal((32, *BOX), dtype="f4")
        values.tofile(raw)
    ways = disk_ways(path)
    names = [n for n in ways if not n.startswith("read")]
    memory = peaks(__file__, names, "--gb", str(args.gb), "--folder", args.folder)
    data = round(args.gb * 1e9 / VOLUME) * VOLUME
    report(f"{args.gb:g} GB on disk", timed(ways), data, "lazyvol mean + var", memory)
    ways = memory_ways(raw)
    report("0.5 GB in memory", timed(ways), 32 * VOLUME, "lazyvol var, dask-backed", {})


if __name__ == "__main__":
    main()
