"""Measure the peak memory of every row of the table, in one process.

``python -m tests.plan.memory_of_rows [NAMES]``

Prints, as JSON, for each row the bytes that its computation used, and the bytes of its plan, both
without compiled kernels. Linux only: it resets and reads the kernel's high-water mark.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import dask
import xarray as xr

import lazyvol as lv
from lazyvol.plan.budget import RUN_OVERHEAD
from tests.cases import UNIT, VOXEL
from tests.oracles import ORACLES

SMALL = (3, 12, 13, 14)
#: 39 MiB of float32 in one block: large compared with the overhead of every run
LARGE = (20, 80, 79, 81)


def stack_of(shape: tuple[int, ...]) -> xr.DataArray:
    """Return generated noise; it takes no memory before it is computed."""
    noise = lv.synthetic.noise(shape, seed=1)
    return lv.as_stack(noise.data, voxel_size=VOXEL, unit=UNIT)


def status(name: str) -> int:
    """Return one line of this process's status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def peak_of(result: xr.DataArray | xr.Dataset) -> int:
    """Return the additional bytes that computing ``result`` takes at its peak.

    (dask.compute would copy a lone block once more.)
    """
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status("VmRSS")
    dask.persist(result, scheduler="synchronous")
    return status("VmHWM") - before


def smallest_peak(result: xr.DataArray | xr.Dataset, planned: int) -> int:
    """Return the first of up to three measured peaks that is within the plan, or the smallest."""
    least = peak_of(result)
    for _ in range(2):
        if least > planned:
            gc.collect()
            least = min(least, peak_of(result))
    return least


def main(names: list[str]) -> None:
    peaks = {}
    with lv.limited(None, workers=1):
        for name, case in ORACLES.items():
            if names and name not in names:
                continue
            dask.compute(case.op(stack_of(SMALL)), scheduler="synchronous")
            result = case.op(stack_of(LARGE))
            planned = lv.explain(result, workers=1).peak_bytes - RUN_OVERHEAD
            # garbage in cycles is freed at any time, so the smallest of a few runs counts
            peaks[name] = (smallest_peak(result, planned), planned)
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(sys.argv[1:])
