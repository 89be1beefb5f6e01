"""Screening stacks of 1, 3 and 12 GB in 1 GiB: the memory of the whole process tree, and time.

    python bench/bench_screen.py [--sizes 1 3 12] [--memory 1GiB] [--folder DIR]

The peak is the resident memory of the command and its children, sampled every 10 ms. The baseline
of interpreter, imports and compiler is that of screening 20 particles of 16^3.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from side_by_side import table

import lazyvol as lv
from lazyvol.plan.budget import parse_bytes

BOX = 128


def make(path: Path, n: int, box: int) -> None:
    """Write a stack of noisy cylinders, one in ten tilted."""
    if path.exists():
        return
    stack = lv.synthetic.particles(
        (box,) * 3, n, sigma=4.0, tilted=0.1, radius=0.1 * box, length=0.5 * box, seed=1
    )
    lv.save(stack, path, memory="1GiB")


def monitored(command: list[str]) -> tuple[float, int]:
    """Run a command; return seconds and peak resident bytes, children included."""
    start, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    root, done = psutil.Process(process.pid), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            try:
                processes = [root, *root.children(recursive=True)]
                peak = max(peak, sum(p.memory_info().rss for p in processes))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(errors.decode())
    return time.perf_counter() - start, peak


def screening(path: Path, out: Path, memory: str) -> tuple[float, int]:
    """Screen a stack by the command line and delete the results; return seconds and peak."""
    command = [sys.executable, "-m", "lazyvol.cli", "screen", str(path), "--out", str(out)]
    measured = monitored([*command, "--memory", memory, "--workers", "2", "--overwrite"])
    shutil.rmtree(out)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 3, 12])
    parser.add_argument("--memory", default="1GiB")
    parser.add_argument("--folder", default=str(Path(tempfile.gettempdir()) / "lazyvol-bench"))
    args = parser.parse_args()
    folder = Path(args.folder)
    folder.mkdir(parents=True, exist_ok=True)
    tiny = folder / "tiny.zarr"
    make(tiny, 20, 16)
    screening(tiny, folder / "screened", args.memory)
    _, baseline = screening(tiny, folder / "screened", args.memory)
    rows = []
    for size in args.sizes:
        n = round(size * 1e9 / (4 * BOX**3))
        path = folder / f"cylinders-{size:g}.zarr"
        make(path, n, BOX)
        seconds, peak = screening(path, folder / "screened", args.memory)
        above = peak - baseline
        rows.append([
            f"{size:g} GB", f"{n} x {BOX}^3", f"{seconds:.0f}", f"{2 * size / seconds:.2f}",
            f"{peak / 2**20:.0f}", f"{above / 2**20:.0f}",
            f"{above / parse_bytes(args.memory):.2f}",
        ])  # fmt: skip
    print(f"interpreter, libraries and compiled kernels: {baseline / 2**20:.0f} MiB\n")
    header = ["stack", "particles", "seconds", "GB/s over both passes", "peak, MiB",
              "above the interpreter, MiB", "of the budget"]  # fmt: skip
    print(table(header, rows))


if __name__ == "__main__":
    main()
