"""Time several ways to one result in turn, and the memory of each in a process of its own."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Way = Callable[[], Any]
RUNS = 5


def threads(work: Callable[[int], Any], count: int = 2) -> None:
    """``work(0)`` ... ``work(count - 1)`` at once."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def timed(ways: Mapping[str, Way], runs: int = RUNS) -> dict[str, float]:
    """Median seconds of each way: one warm-up, then all in turn, so drift meets all alike."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def resident() -> int:
    """Bytes of memory this process holds now."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_of(way: Way) -> int:
    """Most bytes this process gains while ``way`` runs, seen every 2 ms."""
    before, most, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        way()
    finally:
        done.set()
        watcher.join()
    return most - before


def peaks(script: str, names: list[str], *args: str) -> dict[str, int]:
    """Peak memory of each way, run once in a fresh process as ``script --peak NAME``."""
    found = {}
    for name in names:
        command = [sys.executable, script, "--peak", name, *args]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[name] = int(json.loads(out.splitlines()[-1]))
    return found


def table(header: list[str], rows: list[list[str]]) -> str:
    """A markdown table."""
    lines = ["| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
