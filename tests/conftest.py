"""Fixtures of all tests."""

from collections.abc import Iterator

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the lessons first: at the end one of two workers would wait for them, 2 minutes."""
    items.sort(key=lambda item: "test_notebooks" not in item.nodeid)


@pytest.fixture(scope="session")
def client() -> Iterator[object]:
    """Return a client of a cluster with two threads in this process, on loopback alone."""
    from distributed import Client

    with Client(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
        set_as_default=False,
    ) as connected:  # fmt: skip
        yield connected
