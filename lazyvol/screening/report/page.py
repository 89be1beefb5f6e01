"""The report of a screening as one self-contained HTML file."""

import os
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

import numpy as np
import xarray as xr

from lazyvol import plots
from lazyvol.io.tables import write_text
from lazyvol.plan.budget import show_bytes
from lazyvol.plots.canvas import contrast_limits
from lazyvol.screening.report import words
from lazyvol.screening.report.data import page_json
from lazyvol.screening.report.explorer import explorer
from lazyvol.screening.report.markup import Html, facts, join, paragraphs, table, tag
from lazyvol.screening.report.pictures import chart, plane_image, ramp, row
from lazyvol.screening.result import ScreenResult
from lazyvol.screening.volumes import low_passed, resolution
from lazyvol.stack import spatial_dims

#: content security policy: embedded images and styles, this script alone, no requests
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'"


def write_report(
    path: str | os.PathLike[str], result: ScreenResult, *, overwrite: bool = False
) -> None:
    """Write the report of a screening as one HTML file.

    The file contains its images, styles, data and script, and makes no requests. It gets its name
    when it is complete.

    Parameters
    ----------
    path
        HTML file to write.
    result
        Result of ``screening.screen``.
    overwrite
        Replace an existing file.

    Raises
    ------
    TargetExistsError
        If the file exists and ``overwrite`` is False.
    StoreError
        If the file cannot be written.
    """
    write_text(path, "<!doctype html>\n" + report_html(result), overwrite=overwrite)


def report_html(result: ScreenResult) -> Html:
    """Return the page as markup."""
    folder = files("lazyvol.screening.report")
    style, script = (folder.joinpath(f"report.{k}").read_text("utf-8") for k in ("css", "js"))
    digest = b64encode(sha256(script.encode("utf-8")).digest()).decode("ascii")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY.format(digest)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Screening of {result.source.name}"),
        tag("style", Html(style)),
    )
    beside = (tag("section", part(result)) for part in (correlations, plan))
    pair = tag("div", *beside, class_="pair")
    body = tag(
        "body",
        tag("main", opening(result), explorer(result), volumes(result), pair, method(result)),
        tag("script", Html(page_json(result)), type="application/json", id="data"),
        tag("script", Html(script)),
    )
    return tag("html", head, body, lang="en")


def opening(result: ScreenResult) -> Html:
    """Return the title, the findings as figures and sentences, and the input."""
    source = result.source
    theme = tag("button", "light / dark", type="button", id="theme")
    return join(
        tag("p", f"lazyvol screen · {result.run.started}", theme, class_="kicker"),
        tag("h1", source.name),
        tag("div", *(_tile(n, v) for n, v in words.headlines(result)), class_="tiles"),
        paragraphs(*words.findings(result)),
        *(tag("p", c, class_="caveat") for c in words.caveats(result)),
        tag("details", tag("summary", "Input"), facts(source.facts())),
    )


def _tile(name: str, value: str) -> Html:
    return tag("div", tag("strong", value), tag("span", name))


def volumes(result: ScreenResult) -> Html:
    """Return slices of the averages with and without the flagged particles, and the variance."""
    length = resolution(result.fsc["all"])
    shown = {n: low_passed(result.volumes[n], length) for n in ("average", "kept_average")
             if n in result.volumes}  # fmt: skip
    limits = contrast_limits(np.concatenate([p.values.ravel() for v in shown.values()
                                             for p in _planes(v).values()]))  # fmt: skip
    panels = [_panel(words.VOLUMES[n], v, "gray", limits) for n, v in shown.items()]
    variance = result.volumes["variance"]
    spread = contrast_limits(np.concatenate([p.values.ravel() for p in _planes(variance).values()]))
    panels.append(_panel(words.VOLUMES["variance"], variance, "magma", spread))
    return join(
        tag("h2", "Averages and variance"),
        tag("p", words.volume_note(result)),
        tag("div", *panels, class_="panels"),
    )


def _panel(title: str, volume: xr.DataArray, cmap: str, limits: tuple[float, float]) -> Html:
    """Return a titled row of the central slices of a volume, with a colour bar."""
    images = (
        plane_image(
            plane, words.slice_caption(volume, d), cmap=cmap, limits=limits,
            bar=words.bar(volume), alt=f"{title}, slice across {d}",
        )
        for d, plane in _planes(volume).items()
    )  # fmt: skip
    return tag("div", tag("h3", title), row(*images), ramp(cmap, limits))


def _planes(volume: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return the central slice across each spatial dim."""
    return {d: volume.isel({d: volume.sizes[d] // 2}, drop=True) for d in spatial_dims(volume)}


def correlations(result: ScreenResult) -> Html:
    """Return the Fourier shell correlations of the half-set averages."""
    curves = result.fsc.rename({n: words.CURVES[str(n)] for n in result.fsc})
    figure = chart(
        lambda ax: plots.fsc(curves, ax=ax), words.fsc_caption(result),
        "Fourier shell correlations of the half-set averages",
    )  # fmt: skip
    return join(
        tag("h2", "Half-set Fourier shell correlation"),
        paragraphs(*words.half_notes(result)),
        figure,
    )


def plan(result: ScreenResult) -> Html:
    """Return the planned and the measured cost of the run."""
    run = result.run
    header = ("", "reads", "tasks", "projected peak", "time")
    rows: list[tuple[object, ...]] = [
        (
            name, show_bytes(p.bytes_read), f"{p.tasks:,}", show_bytes(p.peak_bytes),
            f"{run.seconds[name]:.1f} s",
        )
        for name, p in run.plans.items()
    ]  # fmt: skip
    unplanned = [n for n in run.seconds if n not in run.plans and n != "total"]
    rows += [(name, "", "", "", f"{run.seconds[name]:.1f} s") for name in unplanned]
    text = join(*(join(tag("h3", name), tag("pre", str(p))) for name, p in run.plans.items()))
    return join(
        tag("h2", "Plan and cost"),
        tag("p", words.cost_note(result)),
        table(header, rows),
        tag("details", tag("summary", "Full plans"), text),
    )


def method(result: ScreenResult) -> Html:
    """Return definitions, versions and the command line."""
    command = result.run.command
    return join(
        tag("h2", "Method"),
        tag("div", paragraphs(*words.method(result)), class_="prose"),
        facts(words.run_facts(result)),
        tag("pre", tag("code", command)) if command else Html(),
    )
