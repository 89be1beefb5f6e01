"""The visitor's window as messages to Python: keys that are pressed on the page, and its size."""

from collections.abc import Callable
from typing import Any

import param
from panel.custom import JSComponent

#: keys that step, jump and change the contrast
KEYS = (
    "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", "[",
    "]", "f",
)  # fmt: skip


class Window(JSComponent):  # type: ignore[misc]
    """An invisible component that sends keys of the page, but not those typed into an input.

    On a page ``alone``, that of a server, it also sends the size of the window, and opens the page
    in dark colours where the visitor's system has these.
    """

    alone = param.Boolean(default=False)

    _esm = f"""
    const KEYS = new Set({list(KEYS)!r});
    function follow(model) {{
      const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
      if (dark && !location.search.includes("theme=")) {{
        location.search = "?theme=dark";
        return;
      }}
      const send = () => model.send_msg({{ width: innerWidth, height: innerHeight }});
      let waiting = 0;
      window.addEventListener("resize", () => {{
        clearTimeout(waiting);
        waiting = setTimeout(send, 200);
      }});
      send();
    }}
    export function render({{ model }}) {{
      const typed = (target) => target.closest && target.closest("input, textarea, select");
      document.addEventListener("keydown", (event) => {{
        const target = event.composedPath()[0] || event.target;
        if (!KEYS.has(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
        if (typed(target)) return;
        event.preventDefault();
        model.send_msg({{ key: event.key, shift: event.shiftKey }});
      }});
      document.addEventListener("click", (event) => {{ // Panel's box hears no click on its text
        const box = event.composedPath()[0].previousElementSibling;
        if (box && box.type === "checkbox") box.click();
      }});
      if (model.alone) follow(model);
      const box = document.createElement("div");
      box.className = "lazyvol-keys";
      return box;
    }}
    """

    def __init__(
        self, pressed: Callable[[str, bool], None], resized: Callable[[int, int], None],
        **params: Any,
    ) -> None:  # fmt: skip
        super().__init__(width=0, height=0, margin=0, **params)
        self._pressed, self._resized = pressed, resized

    def _handle_msg(self, message: Any) -> None:
        if not isinstance(message, dict):
            return
        if message.get("key") in KEYS:
            self._pressed(message["key"], bool(message.get("shift")))
        width, height = message.get("width"), message.get("height")
        if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
            self._resized(width, height)
