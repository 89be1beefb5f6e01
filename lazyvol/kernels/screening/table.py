"""The table of results, (particle, column): its columns, and a fold that takes it apart."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: columns of the table, and the Euler angles that rotate the reference into the particle
RESULTS = (
    "llr", "p_value", "flagged", "probability", "contrast", "noise", "best_hypothesis", "measured",
    "wedge",
)  # fmt: skip
ANGLES = ("rot", "tilt", "psi")
COLUMNS = (*RESULTS, *ANGLES)


def start(shape: tuple[int, ...]) -> dict[str, Array]:
    """Return an empty table."""
    return {"table": np.zeros((*shape, len(COLUMNS)))}


def update(state: dict[str, Array], axes: tuple[int, ...], block: Array) -> None:
    """Add the whole table to the state."""
    state["table"] += np.moveaxis(block, axes[0], -1)


def combine(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """Add two tables."""
    return {"table": a["table"] + b["table"]}


def finish(state: dict[str, Array], *, planar: bool = False) -> dict[str, Array]:
    """Return the columns by name, Euler angles as one array; for images rot alone."""
    columns = {name: state["table"][..., n] for n, name in enumerate(COLUMNS)}
    angles = [columns.pop(name) for name in ANGLES]
    return {**columns, "angles": angles[0] if planar else np.stack(angles, axis=-1)}
