"""The sign of running work on the page: what is computed, the share that is done, a Stop button."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer
from typing import Any

import panel as pn
import xarray as xr

from lazyvol.errors import LazyvolError
from lazyvol.explorer.table import show_text, text_pane
from lazyvol.plan.execution import resilient_scheduler

#: seconds after which work is told, and between two changes of its sign
DELAY, PERIOD = 0.3, 0.2


class Stopped(Exception):
    """Work was given up: by the Stop button, or for a newer request."""


class Work:
    """Work that a visitor waits for: its title, tasks that are done, and whether to give it up."""

    def __init__(self, title: str, changed: Callable[[], None]) -> None:
        self.title, self._changed = title, changed
        self.done = self.total = 0
        self.stopped = False
        self.began = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time since the work began."""
        return time.monotonic() - self.began

    def check(self, *_: Any) -> None:
        """Raise Stopped if the work was given up."""
        if self.stopped:
            raise Stopped

    def tell(self, done: int, total: int) -> None:
        """Tell the share that is done; raise Stopped if the work was given up."""
        self.done, self.total = done, total
        self._changed()
        self.check()

    def compute(self, array: xr.DataArray, *, counted: bool = True) -> xr.DataArray:
        """Compute an array; a stop ends it after the tasks at work, which are told if counted."""
        self.check()
        if scheduler := resilient_scheduler(self.tell if counted else self.check):
            return array.persist(scheduler=scheduler).compute(scheduler="threads")
        started, finished = (self._started, self._finished) if counted else (None, self.check)
        return array.compute(callbacks=[(None, started, None, finished, None)])

    def _started(self, _: Any, state: Any) -> None:
        self.total += len(state["ready"]) + len(state["waiting"])

    def _finished(self, *_: Any) -> None:
        self.tell(self.done + 1, self.total)


class Activity:
    """Computations of one visitor, shown by ``layout`` with a button that stops them.

    Parameters
    ----------
    on_page
        Runs a function in the thread of the page.
    width
        Pixels of the sign.
    """

    def __init__(self, on_page: Callable[[Callable[[], None]], None], width: int) -> None:
        self._on_page = on_page
        self._running: list[Work] = []
        self._shown = 0.0
        self.bar = pn.indicators.Progress(value=0, max=100, width=width, visible=False)
        self.caption, self.message = text_pane(""), text_pane("")
        self.button = pn.widgets.Button(label="Stop", disabled=True, width=(width - 20) // 2)
        self.button.on_click(lambda _: self.stop())

    @property
    def layout(self) -> Any:
        """Return the sign without its button."""
        return pn.Column(self.caption, self.bar, self.message)

    def stop(self) -> None:
        """Give up all that runs; tasks that have begun end first."""
        for work in self._running:
            work.stopped = True

    @contextmanager
    def running(self, title: str) -> Iterator[Work]:
        """Show work while it runs, and errors of data and files when it has failed."""
        work = Work(title, self._changed)
        self._running.append(work)
        timer = Timer(DELAY, self._on_page, [self._show])
        timer.start()
        message = ""
        try:
            yield work
        except Stopped:
            pass
        except (LazyvolError, OSError, MemoryError) as error:
            message = f"{type(error).__name__}: {error}"
        finally:
            timer.cancel()
            self._running.remove(work)
            self._on_page(lambda: self._ended(message))

    def _changed(self) -> None:
        if time.monotonic() - self._shown > PERIOD:
            self._shown = time.monotonic()
            self._on_page(self._show)

    def _ended(self, message: str) -> None:
        show_text(self.message, message)
        self._show()

    def _show(self) -> None:
        slow = [work for work in self._running if work.seconds > 0.9 * DELAY]
        self.bar.visible, self.button.disabled = bool(slow), not slow
        work = slow[-1] if slow else None
        text = "" if work is None else f"computing {work.title} …"
        if work is not None and work.total > 1:
            text += f" {work.done} of {work.total}"
            self.bar.value = round(100 * work.done / work.total)
        elif work is not None:
            self.bar.value = -1
        show_text(self.caption, text)
