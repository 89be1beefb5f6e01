"""Every row of the table takes no more memory than its plan."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracles import ORACLES
from tests.paths import ROOT

#: memory of any run in addition to its blocks: buffers of interpreter and allocator
NOISE = 6 * 2**20


#: glibc maps allocations above a threshold, and returns them when they are freed. It raises the
#: threshold to the largest one freed so far; smaller ones then stay in a heap that cannot shrink
#: (62 MiB more for masks.threshold/mask after masks.var). A fixed threshold avoids that
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


@pytest.fixture(scope="module")
def measured(request):
    """Measure the rows that were selected: all of them take minutes."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the highest memory of a process can be reset on Linux alone")
    rows = [
        item.callspec.params["name"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec")
    ]
    command = [sys.executable, "-m", "tests.plan.memory_of_rows", *rows]
    process = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, check=False, env=os.environ | ALLOCATOR
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ORACLES)
def test_memory_is_within_the_plan(measured, name):
    used, planned = measured[name]
    excess = (used - planned - NOISE) / 1e6
    assert used <= planned + NOISE, f"{excess:.1f} MB above the plan: raise scratch= of its verb"
