"""The page of one visitor: widgets, figures and the table of particles, linked to each other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import LinearColorMapper

from lazyvol.explorer.activity import Activity, Work
from lazyvol.explorer.averages import Average, refine
from lazyvol.explorer.background import Latest
from lazyvol.explorer.figures import MARGIN, PALETTES, PlaneFigure, pixels_per_unit, pixels_to_fit
from lazyvol.explorer.particles import Particles
from lazyvol.explorer.planes import REDUCTIONS, Compute, Planes, shown_on_screen
from lazyvol.explorer.table import WIDTH as TABLE_WIDTH
from lazyvol.explorer.table import ParticleTable, show_text, text_pane
from lazyvol.explorer.views import FILTERS, VALUES, Views
from lazyvol.explorer.window import Window
from lazyvol.plan.execution import computing_client
from lazyvol.plots.canvas import colour_dim, contrast_limits
from lazyvol.stack import STACK, spacing, spatial_dims, unit_of
from lazyvol.summary import StackSummary, unit_symbol

#: names of the views that running averages add
AVERAGE, VARIANCE = "average so far", "variance so far"
#: the percentiles of the values on the screen between which contrast runs
PERCENTILES = (1.0, 99.0)
#: pixels of the widgets, of two in a row, and beside them
WIDTH, HALF, SIDES = 290, 135, 24
#: ground of Panel's dark pages, and the arrows of their menus, which are black otherwise
DARK_GROUND = "#121212"
LIGHT_ARROW = """select.bk-input { background-image: url('data:image/svg+xml;utf8,<svg viewBox=
"0 0 25 20" xmlns="http://www.w3.org/2000/svg"><path d="M 0,0 25,0 12.5,20 Z" fill="white"/></svg>')
!important }""".replace("\n", "")
#: seconds after which planes that are still computed give way to others
PATIENCE = 1.0

#: a point, and the planes of the view and of the overlay through it, by the dim they are across
Shown: TypeAlias = tuple[dict[str, int], dict[str, xr.DataArray], dict[str, xr.DataArray | None]]


@dataclass(frozen=True)
class Contents:
    """The contents of a page: views, masks or labels over them, particles and a title."""

    views: Views
    overlay: Planes | None
    particles: Particles | None
    title: str


class Page:
    """The widgets of one visitor, and the figures that follow them.

    ``layout`` is the page as a viewable of Panel. Planes are computed in a thread of the page; what
    a slider passes over without a stop is not computed.
    """

    def __init__(self, contents: Contents) -> None:
        self.contents = contents
        self.array = contents.views.array
        self.worker = Latest()
        self._document = pn.state.curdoc
        self._quiet = False
        self._averager = Latest()
        self._work: Work | None = None
        self.mapper = LinearColorMapper(palette=PALETTES["grey"], low=0.0, high=1.0)
        self._make_widgets()
        self.table = None if contents.particles is None else ParticleTable(
            contents.particles, lambda: self.index[STACK], lambda k: self.move({STACK: k}),
            dark=self._is_dark,
        )  # fmt: skip
        self.figures = {
            normal: PlaneFigure(
                self.array,
                normal,
                pixels_per_unit(self.array),
                self.mapper,
                self.move,
                DARK_GROUND if self._is_dark else None,
            )
            for normal in contents.views.planes(VALUES, 0.0).normals
        }
        for plane in self.figures.values():  # a title that comes later is not always drawn
            plane.show_point(self.index)
        self._make_panes()
        if self._is_served and self._is_dark:
            self._document.theme = "dark_minimal"
        self._watch()
        if not self._is_served:  # else when the window tells its size: earlier changes are lost
            self.refresh()

    # widgets --------------------------------------------------------------------------------

    def _make_widgets(self) -> None:
        array, colour = self.array, colour_dim(self.array)
        self.sliders = {
            str(d): pn.widgets.IntSlider(
                label=str(d), start=0, end=max(1, n - 1), value=n // 2 if d in spatial_dims(array)
                else 0, disabled=n < 2, width=WIDTH,
            )
            for d, n in array.sizes.items() if d != colour
        }  # fmt: skip
        self.active = next(iter(self.sliders))
        self.view = pn.widgets.Select(label="view", options=self.contents.views.names, width=WIDTH)
        dim = spatial_dims(array)[-1]
        voxel, unit = abs(spacing(array, dim)), unit_symbol(unit_of(array, dim))
        self.sigma = pn.widgets.FloatInput(
            label=f"sigma of filters ({unit})", value=2 * voxel, start=voxel / 2, end=50 * voxel,
            step=voxel / 2, width=WIDTH, visible=set(FILTERS) <= set(self.view.options),
        )  # fmt: skip
        is_volume = len(spatial_dims(array)) == 3
        self.reduction = pn.widgets.Select(
            label="plane", options=list(REDUCTIONS), width=HALF, visible=is_volume
        )
        self.thickness = pn.widgets.IntInput(
            label="slices",
            value=5,
            start=1,
            end=200,
            width=HALF,
            disabled=True,
            visible=is_volume,
        )
        self.palette = pn.widgets.Select(
            label="colours", options=list(PALETTES), width=WIDTH, visible=colour is None
        )
        for menu in (self.view, self.reduction, self.palette):
            menu.stylesheets = [LIGHT_ARROW] if self._is_dark else []
        self.follow = pn.widgets.Checkbox(label="contrast from what is shown", value=True)
        self.contrast = pn.widgets.RangeSlider(
            label="contrast", start=0.0, end=1.0, value=(0.0, 1.0), step=0.001, width=WIDTH
        )
        self.overlay = pn.widgets.Checkbox(
            label="mask or labels", value=True, visible=self.contents.overlay is not None
        )
        self.start = pn.widgets.Button(
            label="Average particles", color="primary", width=HALF, visible=self._has_particles
        )
        self.averaged = text_pane("")
        self.activity = Activity(self._on_page, WIDTH)
        self.window = Window(
            lambda key, shift: self._on_page(partial(self.press, key, shift)),
            lambda width, height: self._on_page(partial(self.resize, width, height)),
            alone=self._is_served,
        )

    def _make_panes(self) -> None:
        self.panes = [pn.pane.Bokeh(f.model, margin=4) for f in self.figures.values()]
        controls = pn.Column(
            text_pane(self.contents.title, "20px"),
            text_pane(self._facts()),
            *self.sliders.values(), self.view, self.sigma, pn.Row(self.reduction, self.thickness),
            self.palette, self.contrast, self.follow, self.overlay,
            pn.Row(self.start, self.activity.button), self.averaged, self.activity.layout,
            text_pane(self._help(), "11px"), *self._dashboard(), self.window, width=WIDTH + SIDES,
        )  # fmt: skip
        self.layout = pn.Row(controls, self._quadrants())

    def _quadrants(self) -> Any:
        """Return the planes, which share axes in their rows and columns, and the table."""
        table = [] if self.table is None else [self.table.layout]
        if len(self.panes) == 1:
            return pn.Column(*self.panes, *table)
        across = dict(zip(self.figures, self.panes, strict=True))
        return pn.GridBox(across["z"], across["x"], across["y"], *table, ncols=2)

    @property
    def _is_served(self) -> bool:
        """True on a page of a server, False in a notebook."""
        return self._document is not None and self._document.session_context is not None

    @property
    def _is_dark(self) -> bool:
        return bool(pn.config.theme == "dark")

    @property
    def _has_particles(self) -> bool:
        return STACK in self.array.dims and self.array.dtype.kind != "c"

    def _facts(self) -> str:
        facts = StackSummary.of(self.array, self.contents.title).facts()
        return "\n".join(f"{name}: {text}" for name, text in list(facts.items())[1:])

    def _help(self) -> str:
        """Return the keys that act on this page."""
        flags = "    F: flag or unflag" if self.table is not None else ""
        along = {"z": "↑ ↓: along z", STACK: f"Page Up, Page Down: along {STACK}"}
        steps = "    ".join(text for dim, text in along.items() if dim in self.sliders)
        keys = "← →: step along the dim used last, by 10 with Shift"
        lines = [
            f"click: move the point{flags}",
            keys,
            steps,
            "Home, End: first, last    [ ]: contrast",
        ]
        return "\n".join(filter(None, lines))

    def _dashboard(self) -> list[Any]:
        client = computing_client()
        link = None if client is None else client.dashboard_link
        if not link:
            return []
        text = f'<a href="{link}" target="_blank" rel="noopener">dask dashboard</a>'
        return [pn.pane.HTML(text)]

    def _watch(self) -> None:
        for dim, slider in self.sliders.items():
            slider.param.watch(partial(self._slid, dim), "value")
        for widget in (self.view, self.sigma, self.reduction, self.thickness, self.overlay):
            widget.param.watch(lambda _: self.refresh(), "value")
        self.palette.param.watch(self._coloured, "value")
        self.contrast.param.watch(self._contrasted, "value")
        self.follow.param.watch(lambda _: self.refresh(), "value")
        self.start.on_click(lambda _: self.average())

    # actions --------------------------------------------------------------------------------

    @property
    def index(self) -> dict[str, int]:
        """The point that is shown: one index per dim."""
        return {dim: int(slider.value) for dim, slider in self.sliders.items()}

    def move(self, index: Mapping[str, int]) -> None:
        """Show another point; dims that ``index`` lacks stay."""
        self._quiet = True
        for dim, value in index.items():
            self.sliders[dim].value = int(np.clip(value, 0, self.array.sizes[dim] - 1))
        self._quiet = False
        self.refresh()

    def resize(self, width: int, height: int) -> None:
        """Fit the planes, and the table beside them, into a window; show the planes."""
        beside = 0 if self.table is None else TABLE_WIDTH + SIDES
        room = width - WIDTH - SIDES - 16
        scale = pixels_to_fit(self.array, room, height - SIDES, beside)
        for plane in self.figures.values():
            plane.resize(scale)
        if self.table is not None and len(self.figures) == 3:
            left = self.figures["y"].model
            self.table.resize(room - left.frame_width - MARGIN, left.frame_height + MARGIN)
        self.refresh()

    def press(self, key: str, shift: bool = False) -> None:
        """Act on a key, as listed on the page."""
        along = {"ArrowUp": "z", "ArrowDown": "z", "PageUp": STACK, "PageDown": STACK}
        dim = along.get(key, self.active)
        dim = self.active = dim if dim in self.sliders else self.active
        n, step = self.array.sizes[dim], 10 if shift else 1
        steps = {"ArrowRight": step, "ArrowUp": step, "PageDown": step}
        steps |= {"ArrowLeft": -step, "ArrowDown": -step, "PageUp": -step}
        if key in steps:
            self.move({dim: self.index[dim] + steps[key]})
        elif key in ("Home", "End"):
            self.move({dim: 0 if key == "Home" else n - 1})
        elif key in "[]":
            self._scale_contrast(1.25 if key == "[" else 0.8)
        elif key == "f" and self.table is not None:
            self.table.toggle_flag()

    def average(self) -> None:
        """Average all particles that are not flagged; both views are refined after every block."""
        flagged = [] if self.table is None else self.table.particles.flagged
        self.start.disabled = True
        self._averager.submit(partial(self._run_average, flagged))

    def _run_average(self, flagged: list[int]) -> None:
        with self.activity.running("the average of particles") as work:
            for average in refine(self.array, flagged, partial(work.compute, counted=False)):
                self._on_page(partial(self._show_average, average))
                work.tell(average.count, average.total)
        self._on_page(lambda: self.start.param.update(disabled=False))

    def _show_average(self, average: Average) -> None:
        views = self.contents.views
        views.add(AVERAGE, average.mean)
        views.add(VARIANCE, average.variance)
        show_text(self.averaged, f"{average.count} of {average.total} particles averaged")
        if AVERAGE not in self.view.options:
            self.view.options = views.names
            self.view.value = AVERAGE
        if self.view.value in (AVERAGE, VARIANCE):
            self.refresh()

    def close(self) -> None:
        """End the threads of the page."""
        self.activity.stop()
        self.worker.close()
        self._averager.close()

    # events ---------------------------------------------------------------------------------

    def _slid(self, dim: str, _: Any) -> None:
        if not self._quiet:
            self.active = dim
            self.refresh()

    def _coloured(self, event: Any) -> None:
        self._on_page(lambda: self.mapper.update(palette=PALETTES[event.new]))
        self._push()

    def _contrasted(self, event: Any) -> None:
        if not self._quiet:
            self.follow.value = False
            self._on_page(partial(self._recontrast, event.new))

    def _scale_contrast(self, factor: float) -> None:
        """Make the range of contrast wider or narrower around its middle."""
        low, high = self.mapper.low, self.mapper.high
        middle, half = (low + high) / 2, (high - low) / 2 * factor
        self.follow.value = False
        self._recontrast((middle - half, middle + half))

    def _recontrast(self, limits: tuple[float, float]) -> None:
        """Show the planes between other limits; colours are scaled in Python, grey in the page."""
        self._set_contrast(limits)
        self._push()
        if colour_dim(self.array):
            self.refresh()

    # drawing --------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Compute and show the planes through the current point."""
        self.sigma.disabled = self.view.value not in FILTERS
        self.thickness.disabled = self.reduction.value == "slice"
        if self._work is not None and self._work.seconds > PATIENCE:
            self._work.stopped = True
        planes = partial(
            self._planes, self.view.value, float(self.sigma.value or self.sigma.start), self.index,
            int(self.thickness.value or 1), self.reduction.value, bool(self.overlay.value),
        )  # fmt: skip
        self.worker.submit(partial(self._compute_and_show, self.view.value, planes))

    def _compute_and_show(self, view: str, planes: Callable[[Compute], Shown]) -> None:
        with self.activity.running(view) as self._work:
            shown = planes(self._work.compute)
            self._on_page(partial(self._show, *shown))

    def _planes(
        self, view: str, sigma: float, index: dict[str, int], thickness: int, reduction: str,
        with_overlay: bool, compute: Compute,
    ) -> Shown:  # fmt: skip
        planes = self.contents.views.planes(view, sigma)
        shown = {
            normal: shown_on_screen(planes.plane(normal, index, thickness, reduction, compute))
            for normal in self.figures
        }
        overlay: dict[str, xr.DataArray | None] = dict.fromkeys(self.figures)
        if with_overlay and self.contents.overlay is not None:
            read = partial(self.contents.overlay.plane, compute=compute)
            overlay = {n: read(n, index) for n in self.figures}
        return index, shown, overlay

    def _show(
        self, index: dict[str, int], planes: Mapping[str, xr.DataArray],
        overlay: Mapping[str, xr.DataArray | None],
    ) -> None:  # fmt: skip
        if self.follow.value or self.mapper.high <= self.mapper.low:
            self._set_contrast(self._limits(planes))
        for normal, plane_figure in self.figures.items():
            plane_figure.show(planes[normal], (self.mapper.low, self.mapper.high))
            plane_figure.show_overlay(overlay[normal])
            plane_figure.show_point(index)
        self._push()

    def _limits(self, planes: Mapping[str, xr.DataArray]) -> tuple[float, float]:
        """Return percentiles of the values that are shown; 0 and 255 for colours in bytes."""
        if colour_dim(self.array) and self.array.dtype == np.uint8:
            return 0.0, 255.0
        values = np.concatenate([p.values.ravel() for p in planes.values()])
        return contrast_limits(values, *PERCENTILES)

    def _set_contrast(self, limits: tuple[float, float]) -> None:
        low, high = float(limits[0]), float(limits[1])
        self.mapper.low, self.mapper.high = low, high
        self._quiet = True
        margin = 0.5 * (high - low)
        self.contrast.param.update(
            start=min(self.contrast.start, low - margin) if not self.follow.value else low - margin,
            end=max(self.contrast.end, high + margin) if not self.follow.value else high + margin,
            value=(low, high), step=max((high - low) / 500, 1e-12),
        )  # fmt: skip
        self._quiet = False

    def _on_page(self, action: Callable[[], None]) -> None:
        """Run an action that changes figures: in the thread of the page, which holds its lock."""
        if self._is_served:
            self._document.add_next_tick_callback(action)
        else:
            action()

    def _push(self) -> None:
        """Send changed figures to a notebook; a server sends them by itself."""
        if not self._is_served:
            pn.io.push_notebook(*self.panes)
