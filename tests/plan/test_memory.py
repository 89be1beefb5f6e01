"""No result takes more memory than its plan said, for every row of the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.oracles import ORACLES
from tests.paths import ROOT

#: what a run of any size moves beside its blocks: buffers of the interpreter and of the allocator
NOISE = 6 * 2**20


#: glibc raises the size from which blocks are mapped, and so returned when they are free, to that
#: of the largest freed so far; smaller ones then stay in a heap that cannot shrink: 62 MiB more
#: for masks.threshold/mask after masks.var. That is the allocator's memory, not the plan's
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


@pytest.fixture(scope="module")
def measured():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the highest memory of a process can be reset on Linux alone")
    command = [sys.executable, "-m", "tests.plan.memory_of_rows"]
    root = ROOT
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, check=False, env=os.environ | ALLOCATOR
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_row_was_measured(measured):
    assert measured.keys() == ORACLES.keys()


@pytest.mark.parametrize("name", ORACLES)
def test_memory_is_what_the_plan_said(measured, name):
    taken, told = measured[name]
    assert taken <= told + NOISE
