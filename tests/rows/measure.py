"""Rows of the measure topic, with oracles by scipy and scikit-image."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage as ndi
import xarray as xr
from skimage.measure import regionprops_table

import lazyvol as lv
from tests.cases import STACKED, UNIT, VOLUME, VOXEL, Array, Case, wide

#: labels that do not occur in every particle, far apart
NUMBERS = np.array([0, 3, 4, 1_000_000_007])


def labels_of(shape: tuple[int, ...]) -> Array:
    """Return labels of small boxes, others in each particle; the second one has none."""
    rng = np.random.default_rng(11)
    coarse = rng.integers(0, len(NUMBERS), (shape[0], *(-(-n // 3) for n in shape[1:])))
    numbers = NUMBERS[coarse]
    numbers[1:2] = 0
    for axis in (1, 2, 3):
        numbers = numbers.repeat(3, axis)
    return numbers[tuple(slice(0, n) for n in shape)]


def labels(s: xr.DataArray) -> xr.DataArray:
    return lv.as_stack(labels_of(s.transpose(*STACKED).shape), voxel_size=VOXEL, unit=UNIT)


def by_scipy(a: Array, names: Mapping[str, Any]) -> dict[str, Array]:
    """Return functions of scipy for every label of every particle, one after the other."""
    columns = {name: [] for name in names}
    for v, numbers in zip(a, labels_of(a.shape), strict=True):
        present = np.unique(numbers[numbers > 0])
        for name, function in names.items():
            values = v if name in ("min", "max") else wide(v)
            columns[name] += list(function(values, numbers, present)) if len(present) else []
    return {name: np.array(values) for name, values in columns.items()}


def counts(values: Array, numbers: Array, present: Array) -> Array:
    return np.array([(numbers == n).sum() for n in present])


STATISTICS = {
    "count": counts, "sum": ndi.sum_labels, "mean": ndi.mean, "var": ndi.variance,
    "std": ndi.standard_deviation, "min": ndi.minimum, "max": ndi.maximum, "median": ndi.median,
}  # fmt: skip
POSITIONS = {"center_of_mass": ndi.center_of_mass}


def positions(a: Array) -> dict[str, Array]:
    """Return centres and extremes in the unit of the coordinates."""
    columns = {name: v * VOXEL for name, v in by_scipy(a, POSITIONS).items()}
    shapes = {"centroid": [], "minimum_position": [], "maximum_position": []}
    for v, numbers in zip(wide(a), labels_of(a.shape), strict=True):
        compact = np.unique(numbers, return_inverse=True)[1].reshape(v.shape)
        table = regionprops_table(compact, properties=("centroid",), spacing=VOXEL)
        shapes["centroid"] += list(np.stack([table[f"centroid-{n}"] for n in range(3)], -1))
        for n in np.unique(numbers[numbers > 0]):
            inside = np.where(numbers == n, v, np.nan)
            for name, place in (("minimum", np.nanargmin), ("maximum", np.nanargmax)):
                index = np.unravel_index(place(inside), v.shape)
                shapes[f"{name}_position"].append(index * np.array(VOXEL))
    return columns | {name: np.array(v) for name, v in shapes.items()}


#: of the first particle two objects are kept, of the third one; the table lacks the others
KEPT = xr.DataArray(
    [True, True, False, True], dims="obs",
    coords={"label": ("obs", [1, 3, 1, 2]), "frame": ("obs", [0, 0, 2, 2])},
)  # fmt: skip


def kept(a: Array) -> Array:
    numbers, result = a.astype(np.int32), np.zeros(a.shape, np.int32)
    for label, frame in ((1, 0), (3, 0), (2, 2)):
        result[frame] += np.where(numbers[frame] == label, label, 0).astype(np.int32)
    return result


MEASURE = {
    "measure.table": Case(
        lambda s: lv.measure.table(s, labels(s), what=tuple(STATISTICS))[list(STATISTICS)],
        lambda a: by_scipy(a, STATISTICS), ("obs",),
        power={n: {"count": None, "var": 2}.get(n, 1) for n in STATISTICS},
        dtype=dict.fromkeys(STATISTICS, "float") | {"count": "int64", "min": "same", "max": "same"},
        ulps=16,  # of scipy
    ),
    "measure.table/positions": Case(
        lambda s: lv.measure.table(
            s, labels(s),
            what=("centroid", "center_of_mass", "minimum_position", "maximum_position"),
        ).drop_vars("row_size"),
        positions, ("obs", "axis"), power=UNIT, dtype="float64", ulps=1e6, moved=VOLUME,
    ),
    "measure.select": Case(
        lambda s: lv.measure.select(s.astype("int32"), KEPT), kept, power=None, dtype="int32",
        ulps=0,
    ),
}  # fmt: skip
