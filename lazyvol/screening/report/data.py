"""The data of the interactive part of a report, as JSON that a page can hold."""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io.tables import star_text, table_columns
from lazyvol.screening.lists import star_table
from lazyvol.screening.result import ScreenResult
from lazyvol.screening.thumbnails import coarse_step, in_second_class
from lazyvol.stack import STACK, spacing, spatial_dims
from lazyvol.summary import unit_symbol

#: columns that the page shows first
FIRST = ("flagged", "best_hypothesis", "llr", "p_value", "probability", "ncc", "contrast", "noise",
         "angles_rot", "angles_tilt", "angles_psi", "shifts_z", "shifts_y", "shifts_x", "wedge",
         "measured")  # fmt: skip
#: significant digits of numbers in the page
DIGITS = 7
#: columns of text or integers with at most this many values divide particles into groups
MOST_GROUPS = 500


def page_json(result: ScreenResult) -> str:
    """Return scores, thumbnails and labels as JSON without markup."""
    text = json.dumps(page_data(result), separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c")


def page_data(result: ScreenResult) -> dict[str, Any]:
    """Return scores, thumbnails and labels as plain values."""
    shown, volume = result.thumbnails, result.thumbnails.particles
    dims, step = spatial_dims(volume), coarse_step(result.volumes["average"])
    members = np.flatnonzero(in_second_class(result.scores))
    label_of, head = star_labels(result.scores)
    return {
        "columns": [
            {"name": name, "label": label_of.get(name, name), "values": plain_values(values)}
            for name, values in page_columns(result.scores).items()
        ],
        "starHead": head,
        "groups": group_columns(result.scores),
        "unit": unit_symbol(result.source.unit),
        "shape": [volume.sizes[d] for d in dims],
        "spacing": [spacing(volume, d) for d in dims],
        "centre": [result.volumes.sizes[d] // 2 // step[d] for d in dims],
        "kept": sum(result.half_sets.kept),
        "members": members.tolist(),
        "particles": {str(k): encoded(volume.values[n]) for n, k in enumerate(shown.positions)},
        "references": {name: encoded(v.values) for name, v in shown.references.items()},
    }


def page_columns(table: xr.Dataset) -> dict[str, np.ndarray]:
    """Return the columns of the page: the index, results by importance, facts about particles."""
    indexed = star_table(table)
    columns = table_columns(indexed, "report")[1]
    ours = [n for n in columns if n not in indexed.coords]
    first = [*(n for n in FIRST if n in columns), *(n for n in ours if n not in FIRST)]
    names = [*first, *(n for n in columns if n not in first)]
    return {STACK: indexed[STACK].values} | {n: columns[n].values for n in names}


def plain_values(values: np.ndarray) -> list[Any]:
    """Return values for JSON: numbers that are not finite as None, other objects as text."""
    if values.dtype.kind == "f":
        return [float(f"{v:.{DIGITS}g}") if isfinite(v) else None for v in values.tolist()]
    if values.dtype.kind in "biu":
        return list(values.tolist())
    texts = values.astype(str) if values.dtype.kind == "M" else values
    return [str(v) for v in texts.tolist()]


def star_labels(table: xr.Dataset) -> tuple[dict[str, str], str]:
    """Return the STAR label of each column, and the blocks of a STAR file before the particles."""
    one_row = star_table(table).isel({STACK: slice(0, 1)})
    columns = table_columns(one_row, "report")[1]
    try:
        head, _, body = star_text(one_row).partition("data_particles\n")
    except LabelError:  # a unit or a name that RELION has no label for
        return {}, ""
    labels = re.findall(r"^_(\S+) #\d+$", body, re.MULTILINE)
    return dict(zip((STACK, *columns), labels, strict=True)), head


def group_columns(table: xr.Dataset) -> list[str]:
    """Return the facts that divide particles into groups, such as tomograms."""
    names = []
    for name, coord in star_table(table).coords.items():
        if coord.dims == (STACK,) and name != STACK and coord.dtype.kind in "UOTiu":
            count = len(set(coord.values.tolist()))
            if 1 < count <= min(MOST_GROUPS, coord.size // 2):
                names.append(str(name))
    return sorted(names, key=lambda n: "tomo" not in n.lower())


def encoded(volume: np.ndarray) -> Sequence[Any]:
    """Return the lowest and highest value of a volume, and its voxels in 8 bits as base64."""
    values = np.nan_to_num(np.asarray(volume, np.float64))
    low, high = float(values.min()), float(values.max())
    levels = np.rint((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    return [low, high, b64encode(levels.tobytes()).decode("ascii")]
