"""Time several ways to one result in turn, and measure the memory of each in its own process."""

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
    """Run ``work(0)`` ... ``work(count - 1)`` in parallel."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))


def each_time(ways: Mapping[str, Way], runs: int = RUNS) -> dict[str, list[float]]:
    """Return the seconds of each way in every round, run in turn after a warm-up to share drift."""
    for way in ways.values():
        way()
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def timed(ways: Mapping[str, Way], runs: int = RUNS) -> dict[str, float]:
    """Return the median seconds of each way."""
    return {name: statistics.median(times) for name, times in each_time(ways, runs).items()}


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    with open("/proc/self/statm") as handle:
        return int(handle.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_of(way: Way) -> int:
    """Return the peak growth of resident memory while ``way`` runs, sampled every 2 ms."""
    before, peak, done = resident(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.002):
            peak = max(peak, resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        way()
    finally:
        done.set()
        watcher.join()
    return peak - before


def peaks(script: str, names: list[str], *args: str) -> dict[str, int]:
    """Return the peak memory of each way, run once in a new process as ``script --peak NAME``."""
    by_name = {}
    for name in names:
        command = [sys.executable, script, "--peak", name, *args]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        by_name[name] = int(json.loads(out.splitlines()[-1]))
    return by_name


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    lines = ["| " + " | ".join(r) + " |" for r in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
