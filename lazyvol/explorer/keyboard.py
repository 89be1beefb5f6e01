"""Keys that are pressed on the page, as messages to Python."""

from collections.abc import Callable
from typing import Any

from panel.custom import JSComponent

#: keys that step, jump and change the contrast
KEYS = (
    "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", "[",
    "]", "f",
)  # fmt: skip


class Keyboard(JSComponent):  # type: ignore[misc]
    """An invisible component that sends keys of the page, but not those typed into an input."""

    _esm = f"""
    const KEYS = new Set({list(KEYS)!r});
    export function render({{ model }}) {{
      const typed = (target) => target.closest && target.closest("input, textarea, select");
      document.addEventListener("keydown", (event) => {{
        const target = event.composedPath()[0] || event.target;
        if (!KEYS.has(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
        if (typed(target)) return;
        event.preventDefault();
        model.send_msg({{ key: event.key, shift: event.shiftKey }});
      }});
      const box = document.createElement("div");
      box.className = "lazyvol-keys";
      return box;
    }}
    """

    def __init__(self, pressed: Callable[[str, bool], None], **params: Any) -> None:
        super().__init__(width=0, height=0, margin=0, **params)
        self._pressed = pressed

    def _handle_msg(self, message: Any) -> None:
        if isinstance(message, dict) and message.get("key") in KEYS:
            self._pressed(message["key"], bool(message.get("shift")))
