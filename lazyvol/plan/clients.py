"""The client of a cluster on which lazy results are computed, if there is one."""

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import dask

if TYPE_CHECKING:
    from distributed import Client


def current_client() -> "Client | None":
    """Return the default ``distributed.Client``, if there is one."""
    if "distributed" not in sys.modules:
        return None
    from distributed import default_client

    try:
        return default_client()
    except ValueError:
        return None


def computing_client() -> "Client | None":
    """Return the client on which dask computes now; None for this process, and in its tasks."""
    if "distributed" not in sys.modules:
        return None
    from distributed import Client

    from lazyvol.plan.on_cluster import in_task

    scheduler = dask.config.get("scheduler", None)
    chosen = scheduler in (None, "dask.distributed", "distributed")
    client = current_client() if chosen else scheduler
    usable = isinstance(client, Client) and not client.asynchronous and not in_task()
    return client if usable else None


def resilient_scheduler() -> Callable[..., Any] | None:
    """Return a scheduler for ``compute`` that outlives workers of any client; None for threads."""
    client = computing_client()
    if client is None:
        return None
    from lazyvol.plan.on_cluster import compute

    return partial(compute, client)
