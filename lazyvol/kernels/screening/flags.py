"""Flags of inconsistent particles, by their p-values."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lazyvol.kernels.screening import p_values
from lazyvol.kernels.screening.hypotheses import CONSISTENT
from lazyvol.kernels.screening.steps import Each
from lazyvol.kernels.screening.table import ANGLES, COLUMNS

Array = np.ndarray[Any, np.dtype[Any]]


def flag(table: Array, model: Mapping[str, Array], fdr: float, each: Each) -> None:
    """Fill in p-values and flags; likely particles that are not flagged are consistent."""
    column = {name: table[:, n] for n, name in enumerate(COLUMNS)}
    column["p_value"][:] = p_values.p_values(column["llr"], model, each)
    rejected = p_values.benjamini_hochberg(column["p_value"], fdr)
    # an outlier that no alternative explains better is still consistent
    column["flagged"][:] = rejected & (column["llr"] > 0)
    consistent = (column["probability"] < 0.5) & (column["flagged"] == 0)
    column["best_hypothesis"][consistent] = CONSISTENT
    for name in ANGLES:
        column[name][consistent] = np.nan
