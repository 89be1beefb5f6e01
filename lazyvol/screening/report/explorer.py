"""The frame of the interactive part of a report, which ``report.js`` fills from the page's data."""

from lazyvol.screening.report import words
from lazyvol.screening.report.markup import Html, join, tag
from lazyvol.screening.result import ScreenResult
from lazyvol.stack import SPATIAL

VOLUMES = ("particle", "average", "alternative")
#: scores that particles can be kept by
SCORES = {"llr": "llr (low is good)", "ncc": "ncc (high is good)",
          "probability": "probability to be inconsistent"}  # fmt: skip


def explorer(result: ScreenResult) -> Html:
    """Return charts, table, viewer and groups, empty and hidden until the script runs."""
    without_script = tag(
        "noscript", tag("p", "Charts, table and viewer need JavaScript; scores.csv has all scores.")
    )
    parts = (_decision(result), _charts(), tag("div", _table(), _viewer(result), class_="split"),
             _groups())  # fmt: skip
    return join(without_script, tag("section", *parts, id="explorer", hidden=""))


def _decision(result: ScreenResult) -> Html:
    """Return the controls that decide which particles are kept, and buttons that export them."""
    options = [tag("option", words.flags_of_the_run(result), value="")]
    options += [tag("option", text, value=name) for name, text in SCORES.items()]
    exports = [
        tag("button", f"{kept} .{kind}", type="button", data_export=f"{kept} {kind}")
        for kept in ("kept", "rejected")
        for kind in ("star", "csv")
    ]
    return join(
        tag("h2", "Particles"),
        tag("details", tag("summary", "Meaning of the scores"), tag("p", words.score_note(result))),
        tag(
            "div",
            _labelled("Keep by", tag("select", *options, id="by")),
            _labelled("Number kept", tag("input", type="range", min="0", id="count"), "grow"),
            _labelled("Limit", tag("input", type="number", step="any", id="limit")),
            tag("output", id="kept", for_="by count limit"),
            tag("span", "Download", *exports, class_="exports"),
            class_="controls",
        ),
    )


def _labelled(text: str, control: Html, class_: str = "") -> Html:
    return tag("label", tag("span", text), control, class_=class_)


def _charts() -> Html:
    """Return the canvases of the charts, with their legend."""
    charts = {
        "histogram": "Histogram of the log-likelihood ratios of kept and other particles",
        "points": "Log-likelihood ratio by position along k; a click selects a particle",
        "along": "Kept and other particles by position along k",
    }
    legend = tag("p", tag("i", class_="keep"), " kept ", tag("i", class_="reject"), " not kept",
                 class_="legend")  # fmt: skip
    canvases = [
        tag("canvas", id=name, role="img", aria_label=text) for name, text in charts.items()
    ]
    return join(legend, tag("div", *canvases, class_="canvases"))


def _table() -> Html:
    """Return the controls and the frame of the table of all particles."""
    which = {"": "all", "kept": "kept", "rejected": "not kept", "pictures": "with pictures"}
    hint = "best_hypothesis=rotated ncc<0.1 TS_01"
    table = tag(
        "table", tag("colgroup", id="columns"), tag("thead"), tag("tbody"), id="grid", role="grid",
        tabindex="0", aria_label="All particles; arrow keys select", aria_multiselectable="false",
    )  # fmt: skip
    return tag(
        "div",
        tag(
            "div",
            _labelled("Filter", tag("input", type="search", id="filter", placeholder=hint), "grow"),
            _labelled("Show", tag("select", *(tag("option", t, value=v) for v, t in which.items()),
                                  id="which")),
            tag("button", type="button", id="clear", hidden=""),
            tag("output", id="rows"),
            class_="controls",
        ),
        tag("div", table, id="view"),
        class_="list",
    )  # fmt: skip


def _viewer(result: ScreenResult) -> Html:
    """Return the frame of the viewer: three volumes in three planes, with sliders."""
    titles = [tag("h4", name, id=f"title{n}") for n, name in enumerate(VOLUMES)]
    rows = [
        join(
            tag("span", dim),
            *(
                tag("canvas", id=f"plane{n}{axis}", role="img", aria_label=f"{name} across {dim}")
                for n, name in enumerate(VOLUMES)
            ),
        )
        for axis, dim in enumerate(SPATIAL)
    ]
    sliders = [
        tag("label", tag("span", dim), tag("input", type="range", min="0", id=f"at{axis}"),
            tag("output", id=f"place{axis}"))
        for axis, dim in enumerate(SPATIAL)
    ]  # fmt: skip
    thickness = tag("label", tag("span", "slab"),
                    tag("input", type="range", min="0", value="0", id="thickness"),
                    tag("output", id="slices"))  # fmt: skip
    return tag(
        "div",
        tag("p", id="particle", aria_live="polite"),
        tag("div", tag("span"), *titles, *rows, class_="planes"),
        tag("p", words.no_picture(result), id="missing", hidden=""),
        tag("div", *sliders, thickness, class_="sliders"),
        tag("p", words.viewer_note(result), class_="note"),
        class_="viewer",
    )


def _groups() -> Html:
    """Return the frame of the table of groups, such as tomograms."""
    header = ("", "particles", "not kept", "", "", "median ncc", "median llr")
    cells = [tag("th", h, scope="col") for h in header]
    table = tag("table", tag("thead", tag("tr", *cells)), tag("tbody"), id="groups")
    return tag(
        "div",
        tag("h3", "By group"),
        tag("div", _labelled("Group", tag("select", id="group")), class_="controls"),
        tag("div", table, class_="wide"),
        id="breakdown",
    )
