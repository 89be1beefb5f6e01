"""Peak memory of every row of the table, in a process of its own.

``python -m tests.plan.memory_of_rows [NAMES]``

Prints, as JSON, for each row the bytes that computing it took beside compiled kernels, and the
bytes its plan said. Linux only: it resets and reads the kernel's own mark of the highest memory.
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
#: 62 MiB of float32 in one block: large beside what every run needs anyway
LARGE = (32, 80, 79, 81)


def stack_of(shape: tuple[int, ...]) -> xr.DataArray:
    """Noise that is made, not held."""
    made = lv.synthetic.noise(shape, seed=1)
    return lv.as_stack(made.data, voxel_size=VOXEL, unit=UNIT)


def status(name: str) -> int:
    """Bytes of one line of this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])
    raise KeyError(name)


def peak_of(found: xr.DataArray | xr.Dataset) -> int:
    """Most bytes that making ``found`` takes beside what this process holds; dask.compute would
    copy a lone block once more."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory starts from here
    before = status("VmRSS")
    dask.persist(found, scheduler="synchronous")
    return status("VmHWM") - before


def least_peak(found: xr.DataArray | xr.Dataset, enough: int) -> int:
    """Least of up to three measured peaks; the first that is no more than ``enough`` will do."""
    least = peak_of(found)
    for _ in range(2):
        if least > enough:
            gc.collect()
            least = min(least, peak_of(found))
    return least


def main(names: list[str]) -> None:
    found = {}
    with lv.limited(None, workers=1):
        for name, case in ORACLES.items():
            if names and not any(name.startswith(n) for n in names):
                continue
            dask.compute(case.op(stack_of(SMALL)), scheduler="synchronous")
            made = case.op(stack_of(LARGE))
            told = lv.explain(made, workers=1).peak_bytes - RUN_OVERHEAD
            # garbage in cycles goes when Python pleases: the least of some runs is the result's
            found[name] = (least_peak(made, told), told)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
