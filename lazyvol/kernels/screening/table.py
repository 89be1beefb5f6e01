"""The table of results, (particle, column): its columns, and a fold that takes it apart."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

#: columns of the table, then the Euler angles and the shift in voxels that bring the reference into
#: the particle: it is rotated first
RESULTS = (
    "llr", "p_value", "flagged", "probability", "contrast", "noise", "best_hypothesis", "measured",
    "wedge",
)  # fmt: skip
ANGLES = ("rot", "tilt", "psi")
SHIFTS = ("shift_z", "shift_y", "shift_x")
COLUMNS = (*RESULTS, *ANGLES, *SHIFTS)


def start(shape: tuple[int, ...]) -> dict[str, Array]:
    """Return an empty table."""
    return {"table": np.zeros((*shape, len(COLUMNS)))}


def update(state: dict[str, Array], axes: tuple[int, ...], block: Array) -> None:
    """Add the whole table to the state."""
    state["table"] += np.moveaxis(block, axes[0], -1)


def combine(a: dict[str, Array], b: dict[str, Array]) -> dict[str, Array]:
    """Add two tables."""
    return {"table": a["table"] + b["table"]}


def finish(
    state: dict[str, Array], *, steps: tuple[float, ...], planar: bool = False
) -> dict[str, Array]:
    """Return the columns by name, Euler angles and shifts as one array each.

    Shifts are multiplied by ``steps``, the lengths of a voxel along each axis. Images have the
    angle rot alone, and shifts along y and x.
    """
    columns = {name: state["table"][..., n] for n, name in enumerate(COLUMNS)}
    angles = [columns.pop(name) for name in ANGLES]
    shifts = np.stack([columns.pop(name) for name in SHIFTS], axis=-1) * steps
    if planar:
        return {**columns, "angles": angles[0], "shifts": shifts[..., 1:]}
    return {**columns, "angles": np.stack(angles, axis=-1), "shifts": shifts}
