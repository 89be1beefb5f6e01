"""Read and write a stack in a folder, an archive and a bucket of an S3 server on loopback.

``python bench/bench_places.py [--side N]``: 8 volumes of float32 noise in shards of one block, by
one process with two threads; the server (moto, in Python) shares the cores.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import dask
import numpy as np

import lazyvol as lv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.io.buckets import archived, bucket_server

RUNS = 5


def seconds(function):
    """Return the median wall time of a call, after one call to warm up."""
    function()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=160)
    side = parser.parse_args().side
    values = np.random.default_rng(0).normal(size=(8, side, side, side)).astype(np.float32)
    stack, megabytes = lv.as_stack(values), values.nbytes / 1e6
    print("| place | read, MB/s | write, MB/s |\n| --- | --- | --- |")
    with (
        tempfile.TemporaryDirectory() as folder,
        bucket_server() as bucket,
        dask.config.set(num_workers=2),
    ):
        os.environ["AWS_ENDPOINT_URL"] = bucket.options["endpoint"]
        path = Path(folder) / "stack.zarr"
        for name, target in (("folder", path), ("bucket", "s3://stack/stack.zarr")):
            write = seconds(lambda target=target: lv.save(stack, target, overwrite=True))
            read = seconds(lambda target=target: lv.open(target).compute())
            print(f"| {name} | {megabytes / read:.0f} | {megabytes / write:.0f} |")
        archive = archived(path, Path(folder) / "stack.zarr.zip")
        read = seconds(lambda: lv.open(archive).compute())
        print(f"| archive | {megabytes / read:.0f} |  |")


if __name__ == "__main__":
    main()
