"""The explorer as a page of a server on this machine."""

import asyncio
import threading
import webbrowser
from collections.abc import Callable
from typing import Any

import panel as pn
from tornado.ioloop import IOLoop

from lazyvol.errors import StoreError
from lazyvol.explorer.page import Contents, Page

LOOPBACK = "127.0.0.1"


class ExplorerServer:
    """A running server: ``url`` is the address of its page, ``stop()`` ends it."""

    def __init__(self, contents: Contents, port: int) -> None:
        self.loop = IOLoop.current()
        self._server = _listen(contents, port, self.loop)
        # the page may be opened from this name alone, which bars pages of other sites from it
        self.url = f"http://localhost:{self._server.port}/"

    def run(self) -> None:
        """Serve until ``stop`` is called."""
        self._server.start()
        self.loop.start()

    def stop(self) -> None:
        """End the server; may be called from any thread."""
        self.loop.add_callback(self._stop)

    def _stop(self) -> None:
        self._server.stop()
        self.loop.stop()


def serve(
    contents: Contents, *, port: int, open_browser: bool, started: Callable[[str], None]
) -> None:
    """Serve the page in this thread until interrupted; call ``started`` with its address first."""
    server = ExplorerServer(contents, port)
    started(server.url)
    if open_browser:
        webbrowser.open(server.url)
    server.run()


def serve_in_thread(contents: Contents, *, port: int, open_browser: bool) -> ExplorerServer:
    """Serve the page in a thread of its own; return as soon as it listens."""
    ready = threading.Event()
    outcome: list[Any] = []

    def run() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            outcome.append(ExplorerServer(contents, port))
        except Exception as error:
            outcome.append(error)
            loop.close()
            return
        finally:
            ready.set()
        outcome[0].run()
        loop.close()

    threading.Thread(target=run, name="lazyvol-explorer-server", daemon=True).start()
    ready.wait()
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    server: ExplorerServer = outcome[0]
    if open_browser:
        webbrowser.open(server.url)
    return server


def _listen(contents: Contents, port: int, loop: IOLoop) -> Any:
    """Return a server of one page per visitor on 127.0.0.1 that has not started yet."""

    def page() -> Any:
        visitor = Page(contents)
        pn.state.on_session_destroyed(lambda _: visitor.close())
        return visitor.layout

    try:
        return pn.io.server.get_server(
            {"/": page}, port=port, address=LOOPBACK, title=contents.title, loop=loop
        )
    except OSError as error:
        raise StoreError(
            f"explore: port must be free, got {port} ({error.strerror}); choose another one, or 0"
        ) from error
