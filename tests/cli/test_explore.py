"""The command ``explore`` in a process of its own, which serves on loopback until interrupted."""

import re
import signal
import subprocess
import sys
from functools import partial
from urllib.request import urlopen

import numpy as np
import psutil

import lazyvol as lv


def test_the_page_is_served_on_loopback_until_ctrl_c(tmp_path):
    stack = lv.as_stack(np.zeros((3, 4, 5, 6), np.float32))
    lv.save(stack, tmp_path / "a.zarr")
    lv.save(lv.filters.gaussian(stack, 1.0), tmp_path / "b.zarr")
    command = [sys.executable, "-m", "lazyvol.cli", "explore", str(tmp_path / "a.zarr"),
               str(tmp_path / "b.zarr"), "--no-browser"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        url = re.search(r"http://localhost:(\d+)/", line)
        assert url, line + process.stderr.read()
        with urlopen(url[0]) as answer:
            assert b"bokeh" in answer.read().lower()
        listening = [
            c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"
        ]
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        process.send_signal(signal.SIGINT)
        errors = process.communicate(timeout=300)[1]
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_wrong_inputs_are_one_line(tmp_path):
    lv.save(lv.as_stack(np.zeros((4, 5, 6), np.float32)), tmp_path / "a.zarr")
    lv.save(lv.as_stack(np.zeros((4, 5, 7), np.float32)), tmp_path / "b.zarr")
    command = [sys.executable, "-m", "lazyvol.cli", "explore", str(tmp_path / "a.zarr"),
               str(tmp_path / "b.zarr"), "--no-browser"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "same length along 'x'" in done.stderr
