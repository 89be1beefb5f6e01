"""Work beside the page: one thread that runs the latest request and forgets those before it."""

import threading
from collections.abc import Callable
from typing import Any


class Latest:
    """A thread that computes what was asked for last.

    A request that waits is replaced by a newer one, so that a slider dragged over a hundred slices
    computes the few that are reached in time.
    """

    def __init__(self) -> None:
        self._request: Callable[[], Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._busy = False
        threading.Thread(target=self._run, name="lazyvol-explorer", daemon=True).start()

    def submit(self, request: Callable[[], Any]) -> None:
        """Run ``request`` next, in place of one that still waits."""
        with self._changed:
            self._request = request
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread after the request that it runs."""
        with self._changed:
            self._closed, self._request = True, None
            self._changed.notify_all()

    def wait(self, timeout: float = 60.0) -> bool:
        """Wait until nothing runs or waits; return False after ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._request is None and not self._busy, timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._request is not None or self._closed)
                if self._closed:
                    return
                request, self._request, self._busy = self._request, None, True
            try:
                if request is not None:
                    request()
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
