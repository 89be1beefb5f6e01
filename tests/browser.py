"""A headless browser that tests drive over its debugging protocol, on loopback alone."""

import asyncio
import json
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tornado.websocket import websocket_connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--remote-debugging-port=0",
)  # fmt: skip
#: seconds until a browser that does not answer fails a test
PATIENCE = 120


class Browser:
    """A page in Chromium: scripts, keys, screenshots, and a list of its errors."""

    def __init__(self, folder: Path) -> None:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        if path is None:
            pytest.skip("no chromium to open a page with")
        self._process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        self._number = 0
        self.problems: list[str] = []
        self.downloads = folder / "downloads"
        self.requests: list[str] = []
        try:
            port = self._port(folder / "profile" / "DevToolsActivePort")
            with urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
                page = next(p for p in json.load(answer) if p["type"] == "page")
            url = page["webSocketDebuggerUrl"]
            self._socket = self._run(lambda: websocket_connect(url, max_message_size=2**28))
        except BaseException:
            self._end()
            raise
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))

    def _port(self, file: Path) -> str:
        for _ in range(10 * PATIENCE):
            if file.exists() and (lines := file.read_text().splitlines()):
                return lines[0]
            time.sleep(0.1)
        raise TimeoutError("chromium does not start")

    def _run(self, start: Callable[[], Any]) -> Any:
        """Run a coroutine function in the loop of the socket, and return its result."""

        async def result() -> Any:
            return await asyncio.wait_for(start(), PATIENCE)

        return self._loop.run_until_complete(result())

    def _receive(self) -> dict[str, Any]:
        """Return the next message, and note requests and errors of the page."""
        message = json.loads(self._run(self._socket.read_message))
        method, content = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown" or (
            method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning")
        ) or method == "Log.entryAdded":  # fmt: skip
            self.problems.append(json.dumps(content))
        if method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])
        return message

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Return the result of a command of the protocol."""
        self._number += 1
        request = json.dumps({"id": self._number, "method": method, "params": params})
        self._run(lambda: self._socket.write_message(request))
        while (message := self._receive()).get("id") != self._number:
            pass
        assert "error" not in message, message
        return message["result"]

    def open(
        self, page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False
    ) -> None:
        """Open a file or an address in a window of some size."""
        self.problems, self.requests = [], []
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, script: str) -> Any:
        """Return the value of an expression of the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True,
                           awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Wait until an expression of the page is true."""
        for _ in range(10 * PATIENCE):
            if self.run(f"Boolean({script})"):
                return
            time.sleep(0.1)
        raise TimeoutError(script)

    def press(self, key: str) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def screenshot(self, target: Path) -> None:
        """Write a picture of the window."""
        answer = self.call("Page.captureScreenshot", format="png")
        target.write_bytes(b64decode(answer["data"]))

    def downloaded(self, name: str) -> str:
        """Return the text of a downloaded file when it is complete, and remove it."""
        file = self.downloads / name
        for _ in range(10 * PATIENCE):
            if file.exists() and not list(self.downloads.glob("*.crdownload")):
                text = file.read_text("utf-8")
                file.unlink()
                return text
            time.sleep(0.1)
        raise TimeoutError(f"{name} is not downloaded")

    def close(self) -> None:
        """End the browser."""

        async def closed() -> None:  # outside its loop tornado would make another, and leave it
            self._socket.close()
            await asyncio.sleep(0.05)

        self._run(closed)
        self._end()

    def _end(self) -> None:
        self._loop.close()
        self._process.terminate()
        self._process.wait(PATIENCE)
