"""The table of particles on the page: a click shows a particle, buttons flag and export."""

from collections.abc import Callable
from functools import partial
from html import escape
from io import BytesIO
from typing import Any

import panel as pn

from lazyvol.explorer.particles import FLAG, FORMATS, PARTICLE, Particles

#: least pixels and rows of the table, pixels of one row and of all above and below the rows
WIDTH, ROWS, ROW, AROUND = 450, 8, 29, 155
#: formatter of columns of truth: a mark where it is true
TICKED = {"type": "tickCross", "crossElement": False, "tickElement": "✓"}
#: legible page numbers on dark ground
DARK_STYLE = ".tabulator-page { color: #eee !important; background: #333 !important }"
#: style of text that is shown as it is, names with markup included
TEXT = {"font-family": "sans-serif", "white-space": "pre-wrap", "overflow-wrap": "anywhere"}


def text_pane(text: str, size: str = "13px") -> Any:
    """Return a pane of plain text: names with markup stay as they are."""
    return pn.pane.HTML(
        escape(text), styles=TEXT | {"font-size": size}, sizing_mode="stretch_width"
    )


def show_text(pane: Any, text: str) -> None:
    """Show another text in a pane of plain text."""
    pane.object = escape(text)


class ParticleTable:
    """The table, its buttons, and the number of flagged particles; ``layout`` holds them.

    Parameters
    ----------
    particles
        The particles, whose flags the table changes.
    current
        Returns the index of the particle that is shown.
    show
        Called with the index of a particle whose row is clicked.
    dark
        Show light text on dark ground.
    """

    def __init__(
        self, particles: Particles, current: Callable[[], int], show: Callable[[int], None],
        *, dark: bool = False,
    ) -> None:  # fmt: skip
        self.particles, self._current, self._show = particles, current, show
        frame = particles.frame()
        ticked = [name for name in frame if frame[name].dtype.kind == "b" and name != FLAG]
        self.rows = pn.widgets.Tabulator(
            frame, titles={name: escape(name) for name in frame}, disabled=True, show_index=False,
            pagination="remote", selectable=1, theme="midnight" if dark else "simple",
            formatters={FLAG: TICKED | {"tickElement": "⚑"}} | dict.fromkeys(ticked, TICKED),
            text_align=dict.fromkeys([FLAG, *ticked], "center"),
            stylesheets=[DARK_STYLE] if dark else [],
        )  # fmt: skip
        self.rows.on_click(self._clicked)
        flag = pn.widgets.Button(label="Flag or unflag", width=120)
        flag.on_click(lambda _: self.toggle_flag())
        self.count = text_pane(self._count_text())
        downloads = [
            pn.widgets.FileDownload(
                callback=partial(self._download, suffix), filename=f"particles{suffix}",
                label=f"Export {suffix}", width=120,
            )
            for suffix in FORMATS
        ]  # fmt: skip
        self.layout = pn.Column(pn.Row(flag, *downloads), self.count, self.rows)
        self.resize(0, 0)

    def resize(self, width: int, height: int) -> None:
        """Fill a part of the page with the table and all that is above."""
        rows = max(ROWS, (height - AROUND) // ROW)
        self.rows.param.update(width=max(WIDTH, width), page_size=rows)

    def toggle_flag(self) -> None:
        """Flag the particle that is shown, or lift its flag."""
        k = self._current()
        self.particles.set_flags([k], not self.particles.flags[k])
        self.rows.patch({FLAG: [(k, bool(self.particles.flags[k]))]}, as_index=False)
        show_text(self.count, self._count_text())

    def _clicked(self, event: Any) -> None:
        self._show(int(self.rows.value[PARTICLE].iloc[event.row]))

    def _download(self, suffix: str) -> BytesIO:
        return BytesIO(self.particles.export(suffix))

    def _count_text(self) -> str:
        return f"{len(self.particles.flagged)} of {self.particles.count} flagged"
