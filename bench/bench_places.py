"""Read and write a stack in a folder, an archive and a bucket of an S3 server on loopback.

``python bench/bench_places.py [--side N]``: 8 volumes of float32 noise in shards of one block, by
one process with two threads; the server (moto, in Python) shares the cores.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import dask
import numpy as np
from side_by_side import Way, table, timed

import lazyvol as lv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.io.buckets import archived, bucket_server


def rate(megabytes: float, way: Way) -> str:
    """Return the megabytes per second of a call."""
    return f"{megabytes / timed({'': way})['']:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=160)
    side = parser.parse_args().side
    values = np.random.default_rng(0).normal(size=(8, side, side, side)).astype(np.float32)
    stack, megabytes = lv.as_stack(values), values.nbytes / 1e6
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        bucket_server() as bucket,
        dask.config.set(num_workers=2),
    ):
        os.environ["AWS_ENDPOINT_URL"] = bucket.options["endpoint"]
        path = Path(folder) / "stack.zarr"
        for name, target in (("folder", path), ("bucket", "s3://stack/stack.zarr")):
            written = rate(megabytes, lambda target=target: lv.save(stack, target, overwrite=True))
            rows.append([name, rate(megabytes, lambda t=target: lv.open(t).compute()), written])
        archive = archived(path, Path(folder) / "stack.zarr.zip")
        rows.append(["archive", rate(megabytes, lambda: lv.open(archive).compute()), ""])
    print(table(["place", "read, MB/s", "write, MB/s"], rows))


if __name__ == "__main__":
    main()
