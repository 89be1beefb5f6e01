"""Time every public operation and its oracle from the table of the tests.

    python bench/bench_ops.py [--shape 24 96 96 96] [--runs 5] [--only PREFIX ...]

Stacks are dask-backed float32 in chunks of whole volumes, on two threads. Oracles are numpy and
scipy on one thread, in float64 where necessary. Both are warm and run in turn in one process;
milliseconds are medians, and the range is that of the quotient over the rounds. A quotient below 1
is in bold.
"""

import argparse
import statistics
import sys
import warnings
from pathlib import Path

import dask
import dask.array as da
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from side_by_side import RUNS, each_time, table

import lazyvol as lv
from tests.oracles import ORACLES, UNIT, VOXEL


def ratios(shape: tuple[int, ...], runs: int, names: list[str]) -> list[list[str]]:
    """Return milliseconds of lazyvol and of the oracle, their quotient, and its range."""
    array = np.random.default_rng(0).normal(2.0, 1.0, shape).astype(np.float32)
    chunks = (max(1, shape[0] // 4), *shape[1:])
    stack = lv.as_stack(da.from_array(array, chunks=chunks), voxel_size=VOXEL, unit=UNIT)
    rows = []
    for name in names:
        case = ORACLES[name]
        ways = {
            "ours": lambda case=case: dask.compute(case.op(stack)),
            "oracle": lambda case=case: case.oracle(array),
        }
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            seconds = each_time(ways, runs)
        ours, oracle = (statistics.median(seconds[way]) for way in ways)
        quotients = [b / a for a, b in zip(seconds["ours"], seconds["oracle"], strict=True)]
        quotient = f"{oracle / ours:.2f}"
        rows.append([
            name, f"{1e3 * ours:.1f}", f"{1e3 * oracle:.1f}",
            quotient if oracle >= ours else f"**{quotient}**",
            f"{min(quotients):.2f} to {max(quotients):.2f}",
        ])  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--shape", type=int, nargs=4, default=(24, 96, 96, 96))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--only", nargs="*", default=[""])
    args = parser.parse_args()
    dask.config.set(scheduler="threads", num_workers=2)
    names = [n for n in ORACLES if n.startswith(tuple(args.only))]
    header = ["operation", "lazyvol, ms", "oracle, ms", "oracle, times as long", "range"]
    print(table(header, ratios(tuple(args.shape), args.runs, names)))


if __name__ == "__main__":
    main()
