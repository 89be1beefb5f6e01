"""Queries of a cluster that tests share."""

from http.client import HTTPConnection

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
