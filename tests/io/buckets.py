"""Places for test stores: an S3 bucket on loopback, an archive, memory, a web server."""

import logging
import os
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import obstore
from obstore.store import from_url
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

#: credentials of the server on loopback, which takes any
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "user",
    "AWS_SECRET_ACCESS_KEY": "do-not-tell",
    "AWS_REGION": "us-east-1",
}


class Bucket:
    """A bucket ``stack`` of an S3 server in a thread of this process."""

    def __init__(self, endpoint: str) -> None:
        self.options: dict[str, Any] = {"endpoint": endpoint}
        request = urllib.request.Request(f"{endpoint}/stack", method="PUT")
        urllib.request.urlopen(request).close()
        self.store = from_url("s3://stack", client_options={"allow_http": True}, **self.options)

    def put(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data)

    def delete(self, key: str) -> None:
        obstore.delete(self.store, key)

    def upload(self, folder: Path, name: str) -> str:
        """Copy a store, and return its URL."""
        for path in files_of(folder):
            self.put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://stack/{name}"


@contextmanager
def bucket_server() -> Iterator[Bucket]:
    """An S3 server on loopback; credentials are in the environment meanwhile."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = dict(os.environ)
    os.environ.update(CREDENTIALS)
    try:
        host, port = server.get_host_and_port()
        yield Bucket(f"http://{host}:{port}")
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.stop()


@contextmanager
def web_server(folder: Path, status: int = 200) -> Iterator[str]:
    """Serve a folder on loopback; any status but 200 answers every request."""

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if status != 200:
                self.send_error(status)
                return
            self.get_range()

        def get_range(self) -> None:
            path = Path(self.translate_path(self.path))
            if not path.is_file():
                self.send_error(404)
                return
            data = path.read_bytes()
            asked = self.headers.get("Range", "").removeprefix("bytes=")
            start, _, stop = asked.partition("-")
            begin = int(start) if start else max(0, len(data) - int(stop or len(data)))
            end = min(len(data), int(stop) + 1 if start and stop else len(data))
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
            self.send_header("Content-Length", str(end - begin))
            self.end_headers()
            self.wfile.write(data[begin:end])

        def do_HEAD(self) -> None:
            path = Path(self.translate_path(self.path))
            self.send_response(200 if path.is_file() else 404)
            self.send_header("Content-Length", str(path.stat().st_size if path.is_file() else 0))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the output of tests clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def archived(folder: Path, path: Path) -> Path:
    """A zip archive of a store."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in files_of(folder):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def in_memory(folder: Path) -> MemoryStore:
    """A store of zarr in memory that holds a copy of a folder."""
    store = MemoryStore()
    for file in files_of(folder):
        data = default_buffer_prototype().buffer.from_bytes(file.read_bytes())
        sync(store.set(file.relative_to(folder).as_posix(), data))
    return store
