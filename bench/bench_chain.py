"""A chain of operations on a volume larger than the memory limit: read, filtered, written.

    python bench/bench_chain.py [--side 1024] [--memory 1GiB] [--folder DIR]

``vesselness(gaussian(volume))`` of a float32 volume in stored chunks of 128^3, two threads,
compared with the cost of its parts: the kernels on one block in memory, and reading, encoding and
writing the volume. The peak is measured in a process of its own, without the interpreter.
"""

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import zarr
from side_by_side import peak_of, peaks, table

import lazyvol as lv

BLOCK = 256


def write(path: Path, side: int) -> None:
    """Store tubes and noise in chunks of 128^3 with zarr's default compression."""
    if (path / "done").exists():
        return
    stored = zarr.create_array(
        path, shape=(side,) * 3, chunks=(128,) * 3, dtype="f4", overwrite=True
    )
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side]
    tubes = (np.hypot(y % 64 - 32, x % 64 - 32) < 5).astype("f4")
    for z in range(0, side, 128):
        stored[z : z + 128] = tubes + rng.standard_normal((128, side, side), dtype="f4")
    (path / "done").write_text("1")


def chain(volume: Any) -> Any:
    return lv.derivatives.vesselness(lv.filters.gaussian(volume, sigma=1.5), sigma=2.0, c=0.5)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def saved(result: Any, path: Path, memory: str) -> None:
    lv.save(result, path, memory=memory, overwrite=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    parser.add_argument("--peak")
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, out = folder / f"volume-{args.side}.zarr", folder / "out.zarr"
    write(path, args.side)
    volume = lv.open(path)
    if args.peak:
        print(json.dumps(peak_of(lambda: saved(chain(volume), out, args.memory))))
        return
    voxels = args.side**3 / 1e6
    plan = lv.explain(chain(volume), memory=args.memory)
    print(plan)
    block = volume[:BLOCK, :BLOCK, :BLOCK].load()
    chain(block)
    kernels = min(seconds(lambda: chain(block)) for _ in range(5)) / BLOCK**3 * 1e6
    saved(volume, out, args.memory)
    copied = seconds(lambda: saved(volume, out, args.memory)) / voxels
    whole = seconds(lambda: saved(chain(volume), out, args.memory)) / voxels
    result = chain(volume)
    slice_seconds = seconds(lambda: result[args.side // 2].compute())
    peak = peaks(__file__, ["chain"], "--side", str(args.side), "--memory", args.memory,
                 "--folder", args.folder)["chain"]  # fmt: skip
    rows = [
        ["kernels on a block in memory", f"{kernels:.4f}", ""],
        ["read, encode, write", f"{copied:.4f}", ""],
        ["the chain, saved", f"{whole:.4f}", f"{whole / (kernels + copied):.2f}"],
    ]
    print(table(["way", "seconds per Mvoxel", "time / sum of the parts"], rows))
    print(f"tasks {plan.tasks}, projected peak {plan.peak_bytes / 2**20:.0f} MiB, "
          f"measured {peak / 2**20:.0f} MiB; one slice {slice_seconds:.2f} s")  # fmt: skip
    shutil.rmtree(out)


if __name__ == "__main__":
    main()
