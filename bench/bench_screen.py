"""Screening stacks of 1, 3 and 12 GB in 1 GiB: the memory of the whole process tree, and time.

    python bench/bench_screen.py [--sizes 1 3 12] [--memory 1GiB] [--folder DIR]

The peak is the resident memory of the command, seen every 10 ms; the interpreter with everything
imported and the kernels' compiler is told apart, as a screening of 20 particles of 16^3.
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
    """A stack of noisy cylinders, one in ten tilted."""
    if path.exists():
        return
    stack = lv.synthetic.particles(
        (box,) * 3, n, sigma=4.0, tilted=0.1, radius=0.1 * box, length=0.5 * box, seed=1
    )
    lv.save(stack, path, memory="1GiB")


def watched(command: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of a command and its children."""
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    root, done = psutil.Process(process.pid), threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.01):
            try:
                family = [root, *root.children(recursive=True)]
                most = max(most, sum(p.memory_info().rss for p in family))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    done.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(errors.decode())
    return time.perf_counter() - start, most


def screening(path: Path, out: Path, memory: str) -> tuple[float, int]:
    """A screening by the command line; its results are removed."""
    command = [sys.executable, "-m", "lazyvol.cli", "screen", str(path), "--out", str(out)]
    found = watched([*command, "--memory", memory, "--workers", "2", "--overwrite"])
    shutil.rmtree(out)
    return found


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
