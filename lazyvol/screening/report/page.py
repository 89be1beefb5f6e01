"""The report of a screening as one self-contained HTML file."""

import os
from importlib.resources import files

import numpy as np

from lazyvol import plots
from lazyvol.io.text_files import write_text
from lazyvol.plan.budget import show_bytes
from lazyvol.plots.canvas import contrast_limits
from lazyvol.screening.report import words
from lazyvol.screening.report.markup import Html, facts, join, paragraphs, table, tag
from lazyvol.screening.report.pictures import chart, charts, plane_image, ramp, row
from lazyvol.screening.report.result import ScreenResult
from lazyvol.stack import spatial_dims

#: content security policy: embedded images and styles only, no requests, no scripts
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

#: most flagged particles in the table of the page; scores.csv lists all
MAX_ROWS = 50


def write_report(
    path: str | os.PathLike[str], result: ScreenResult, *, overwrite: bool = False
) -> None:
    """Write the report of a screening as one HTML file.

    The file contains its images and styles, links to ``scores.csv`` in the same folder only, and
    runs no script. It gets its name when it is complete.

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
    style = Html(files("lazyvol.screening.report").joinpath("report.css").read_text("utf-8"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"Screening of {result.source.name}"),
        tag("style", style),
    )
    parts = (opening, volumes, particle_scores, half_sets, examples, flagged_table, plan, method)
    body = tag("body", tag("main", *(part(result) for part in parts)))
    return tag("html", head, body, lang="en")


def opening(result: ScreenResult) -> Html:
    """Return the title, the findings as figures and sentences, and the input."""
    source = result.source
    return join(
        tag("p", f"lazyvol screen · {result.run.started}", class_="kicker"),
        tag("h1", source.name),
        tag("div", *(_tile(n, v) for n, v in words.headlines(result)), class_="tiles"),
        paragraphs(*words.findings(result)),
        *(tag("p", c, class_="caveat") for c in words.caveats(result)),
        tag("h2", "Input"),
        facts(source.facts()),
    )


def _tile(name: str, value: str) -> Html:
    return tag("div", tag("strong", value), tag("span", name))


def volumes(result: ScreenResult) -> Html:
    """Return orthogonal slices of average and variance, and projections of the average."""
    return join(
        tag("h2", "Average and variance"),
        tag("p", words.volume_note(result)),
        tag("h3", "Average, central slices"),
        _slices(result, "average", "gray"),
        tag("h3", "Variance, central slices"),
        _slices(result, "variance", "magma"),
        tag("h3", "Average, mean along each axis"),
        _projections(result),
    )


def _slices(result: ScreenResult, name: str, cmap: str) -> Html:
    volume = result.average if name == "average" else result.variance
    dims = spatial_dims(volume)
    planes = {d: volume.isel({d: volume.sizes[d] // 2}, drop=True) for d in dims}
    limits = contrast_limits(np.concatenate([p.values.ravel() for p in planes.values()]))
    images = (
        plane_image(
            plane, words.slice_caption(volume, d), cmap=cmap, limits=limits,
            bar=words.bar(volume), alt=f"{name}, slice across {d}",
        )
        for d, plane in planes.items()
    )  # fmt: skip
    return join(row(*images), ramp(cmap, limits))


def _projections(result: ScreenResult) -> Html:
    volume = result.average
    planes = {d: volume.mean(d) for d in spatial_dims(volume)}
    images = (
        plane_image(p, f"mean along {d}", bar=words.bar(volume), alt=f"average, mean along {d}")
        for d, p in planes.items()
    )
    return row(*images)


def particle_scores(result: ScreenResult) -> Html:
    """Return histograms of llr and ncc, and llr by particle."""
    values, flagged = result.scores["llr"], result.scores["flagged"]
    threshold, plain = result.flagging.threshold, result.scores["ncc"]
    return join(
        tag("h2", "Scores of all particles"),
        paragraphs(*words.score_notes(result)),
        charts(
            chart(
                lambda ax: plots.histogram(values, flagged=flagged, threshold=threshold, ax=ax),
                words.histogram_caption(result),
                "Histogram of the log-likelihood ratios",
            ),
            chart(
                lambda ax: plots.scores(values, flagged=flagged, threshold=threshold, ax=ax),
                "Log-likelihood ratio by position along k; drifts in the data show as structure.",
                "Log-likelihood ratios by particle",
            ),
            chart(
                lambda ax: plots.histogram(plain, flagged=flagged, ax=ax),
                "Plain correlation (ncc) of the same particles.",
                "Histogram of the plain correlations",
            ),
        ),
    )


def half_sets(result: ScreenResult) -> Html:
    """Return the Fourier shell correlation of the half-set averages."""
    return join(
        tag("h2", "Half-set Fourier shell correlation"),
        paragraphs(*words.half_notes(result)),
        charts(
            chart(
                lambda ax: plots.fsc(result.fsc, ax=ax),
                words.fsc_caption(result),
                "Fourier shell correlation of the half-set averages",
            )
        ),
    )


def examples(result: ScreenResult) -> Html:
    """Return projections of the best and the worst particles along two axes."""
    return join(
        tag("h2", "Best and worst particles"),
        tag("p", words.example_note(result)),
        tag("h3", "Worst"),
        tag("div", *(_particle(result, k) for k in result.worst), class_="particles"),
        tag("h3", "Best"),
        tag("div", *(_particle(result, k) for k in result.best), class_="particles"),
    )


def _particle(result: ScreenResult, position: int) -> Html:
    shown = result.examples.isel(k=result.shown.index(position), drop=True)
    images = [
        plane_image(shown[name], "", alt=f"particle {position}, mean {name.replace('_', ' ')}")
        for name in ("along_z", "along_y")
    ]
    return tag("figure", row(*images), tag("figcaption", words.particle(result, position)))


def flagged_table(result: ScreenResult) -> Html:
    """Return the table of flagged particles, the least consistent first."""
    flagged = result.flagged
    if not flagged:
        return join(tag("h2", "Flagged particles"), tag("p", "None. ", _all_scores()))
    more = len(flagged) - MAX_ROWS
    note = f"The {MAX_ROWS} least consistent; {more:,} more are flagged. " if more > 0 else ""
    header, rows = words.score_table(result, flagged[:MAX_ROWS])
    return join(tag("h2", "Flagged particles"), tag("p", note, _all_scores()), table(header, rows))


def _all_scores() -> Html:
    return join("Scores of all particles: ", tag("a", "scores.csv", href="scores.csv"), ".")


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
        paragraphs(*words.method(result)),
        facts(words.run_facts(result)),
        tag("pre", tag("code", command)) if command else Html(),
    )
