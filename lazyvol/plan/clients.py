"""The client of a cluster on which lazy results are computed, if there is one."""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dask

if TYPE_CHECKING:
    from distributed import Client


def computing_client() -> "Client | None":
    """Return the client on which dask computes now; None for this process, and in its tasks.

    As in dask, ``dask.config.set(scheduler=…)`` has precedence, then the client whose ``with``
    block or ``as_current`` is entered, then the client that was opened last.
    """
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    from lazyvol.plan.on_cluster import in_task

    scheduler = dask.config.get("scheduler", None)
    if scheduler in (None, "dask.distributed", "distributed"):
        scheduler = _default_client()
    usable = isinstance(scheduler, Client) and not scheduler.asynchronous and not in_task()
    return scheduler if usable else None


def _default_client() -> "Client | None":
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def resilient_scheduler(
    told: Callable[[int, int], None] | None = None,
) -> Callable[..., Any] | None:
    """Return a scheduler for ``compute`` that outlives workers of any client; None for threads.

    ``told`` is called with the numbers of blocks that are done and of all while it waits; what it
    raises ends the run, and the tasks that have not begun.
    """
    client = computing_client()
    if client is None:
        return None
    from lazyvol.plan.on_cluster import compute

    return partial(compute, client, told=told)
