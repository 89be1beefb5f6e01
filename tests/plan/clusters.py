"""Queries of a cluster, and kills of its workers, that tests share."""

import hashlib
import os
import random
import signal
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Self

from distributed import Client


def status_of(client: Client, path: str) -> int:
    """Return the HTTP status of a page of the scheduler."""
    port = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.http_server.port)
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def hashes(path: Path) -> dict[str, str]:
    """Return the checksum of every file below a store."""
    files = [p for p in sorted(path.rglob("*")) if p.is_file()]
    return {str(p.relative_to(path)): hashlib.blake2b(p.read_bytes()).hexdigest() for p in files}


class Killer(threading.Thread):
    """Kills connected workers in turn while a store is written, and notes files written twice.

    One dies after each two files of the store, or every ``pause`` seconds; the first within these.
    """

    def __init__(self, client: Client, path: Path, pause: float | None = None) -> None:
        super().__init__(daemon=True)
        self.client, self.pause, self.kills = client, pause, 0
        self.folder = Path(f"{path}.lazyvol-tmp")
        self.written: dict[str, int] = {}
        self.rewritten: set[str] = set()
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()

    def run(self) -> None:
        killed = (time.monotonic() - random.uniform(0, self.pause or 0), 0)
        while not self.ended.wait(0.01 if self.pause is None else 0.1):
            with suppress(FileNotFoundError):  # the store is published
                for path in self.folder.glob("*/store/**/c/**/*"):
                    self._note(path)
            now = (time.monotonic(), len(self.written))
            files, seconds = now[1] - killed[1], now[0] - killed[0]
            is_due = files >= 2 if self.pause is None else seconds >= self.pause
            if is_due and self._kill():
                killed, self.kills = now, self.kills + 1

    def _note(self, path: Path) -> None:
        number = path.stat().st_ino if path.is_file() else None
        if number is not None and self.written.setdefault(str(path), number) != number:
            self.rewritten.add(str(path))

    def _kill(self) -> bool:
        """Kill a worker that is connected; return False if there is none."""
        known = self.client.cluster.scheduler.workers
        nannies = list(self.client.cluster.workers.values())
        pids = [n.pid for n in nannies if n.pid and n.worker_address in known]
        with suppress(ProcessLookupError, IndexError):
            os.kill(pids[self.kills % max(1, len(pids))], signal.SIGKILL)
            return True
        return False
