"""Properties of objects from the state of their volumes: statistics, positions, shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lazyvol.kernels._numba import compiled
from lazyvol.kernels.magnitude import LEAST, require_squares
from lazyvol.kernels.reductions import moments

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: properties that follow from sums alone, by the name that ``moments`` gives them
STATISTICS = ("sum", "mean", "var", "std")
#: places of the products of two axes in a state
PRODUCTS = np.array([[0, 3, 4], [3, 1, 5], [4, 5, 2]])


@dataclass(frozen=True)
class Positions:
    """Position of the first voxel, distance between voxels, and length of the axes of a volume."""

    first: tuple[float, ...]
    step: tuple[float, ...]
    shape: tuple[int, ...]

    def of(self, index: Array) -> Array:
        """Return the positions of (fractional) indices along the last axis."""
        return np.asarray(self.first + index * np.asarray(self.step))


def finish(
    state: State, *, want: Mapping[str, np.dtype[Any]], grid: Positions, skipna: bool
) -> dict[str, Array]:
    """Return properties by name, each with the axes of its state first; NaN of no values."""
    voxels = state["voxels"]
    results: dict[str, Array] = {}
    statistics = {n: dtype for n, dtype in want.items() if n in STATISTICS}
    if statistics:
        sums = {n: state[n] for n in (*moments.PARTS, "count") if n in state}
        if "std" in statistics:
            _require_squares(state)
        results |= moments.finish(sums, want=statistics, n=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in (n for n in want if n not in STATISTICS):
            results[name] = _exact(OTHERS[name](state, grid), want[name])
    incomplete = (state["count"] < voxels) & (not skipna)
    for name in (n for n in results if n in OF_VALUES and want[n].kind == "f"):
        values = results[name]
        results[name] = np.where(_with_axes(incomplete, values.ndim), np.nan, values)
    return results


def _require_squares(state: State) -> None:
    """Raise RangeError if the squares of an object's values have left the range of float64."""
    sums, squares = state["sum"], state["square"]
    lost = np.isfinite(sums) & (sums != 0) & ~((squares > LEAST**2) & (squares < np.inf))
    if lost.any():
        require_squares("table", abs(float(sums[lost][0])))


def _exact(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return values in their dtype; as integers, NaN is 0, and the ends of the type are kept."""
    if dtype.kind == "f" or values.dtype.kind in "iu":
        return values
    if dtype.kind == "b":
        return np.nan_to_num(values).astype(dtype)
    info = np.iinfo(dtype)
    last = float(info.max)
    last = last if int(last) <= info.max else float(np.nextafter(last, 0))
    return np.nan_to_num(values).clip(info.min, last).astype(dtype)


def _with_axes(values: Array, ndim: int) -> Array:
    """Return values with axes of length 1 at the end."""
    return values.reshape(values.shape + (1,) * (ndim - values.ndim))


def _volume(state: State, grid: Positions) -> Array:
    return np.asarray(state["voxels"] * float(np.prod(np.abs(grid.step))))


def _centroid(state: State, grid: Positions) -> Array:
    return grid.of(_own(state["first"] / state["voxels"][..., None], grid))


def _own(values: Array, grid: Positions) -> Array:
    """Return the axes that a volume has, the last ones of three."""
    return values[..., 3 - len(grid.shape) :]


def _centre_of_mass(state: State, grid: Positions) -> Array:
    total = (state["sum"] + state["sum_rest"])[..., None]
    return grid.of(_own((state["weighted"] + state["weighted_rest"]) / total, grid))


def _box(state: State, grid: Positions) -> Array:
    """Return the first and the last + 1 index along each axis; zeros for a missing object."""
    there = state["voxels"][..., None] > 0
    ends = [np.where(there, state[n], 0) for n in ("box_start", "box_stop")]
    return np.stack([_own(end, grid) for end in ends], -2)


def _minimum(state: State, grid: Positions) -> Array:
    return np.where(state["count"] > 0, state["low"], np.nan)


def _maximum(state: State, grid: Positions) -> Array:
    return np.where(state["count"] > 0, state["high"], np.nan)


def _minimum_position(state: State, grid: Positions) -> Array:
    return _position(state["low_at"], state["count"], grid)


def _maximum_position(state: State, grid: Positions) -> Array:
    return _position(state["high_at"], state["count"], grid)


def _position(place: Array, count: Array, grid: Positions) -> Array:
    there = count > 0
    shape = tuple(max(1, n) for n in grid.shape)
    indices = np.unravel_index(np.where(there, place, 0), shape)
    return np.where(there[..., None], grid.of(np.stack(indices, -1)), np.nan)


def _covariance(state: State, grid: Positions) -> Array:
    """Return the covariance of the positions of an object's voxels.

    Indices are taken from the integer below their mean, by integers modulo 2**64: the sums of
    large indices may leave that range, those of the deviations do not.
    """
    n, first = state["voxels"][..., None], state["first"]
    centre = first // np.maximum(n, 1)
    rest = (first - centre * n) / n
    products = state["second"][..., PRODUCTS]
    moved = centre[..., :, None] * first[..., None, :]
    products = products - moved - np.swapaxes(moved, -1, -2)
    products = products + n[..., None] * centre[..., :, None] * centre[..., None, :]
    covariance = products / n[..., None] - rest[..., :, None] * rest[..., None, :]
    step = np.asarray(grid.step)
    own = 3 - len(grid.shape)
    return np.asarray(covariance[..., own:, own:] * step[:, None] * step)


def _inertia_tensor(state: State, grid: Positions) -> Array:
    """Return the tensor of inertia per voxel: the trace of the covariance minus the covariance."""
    covariance = _covariance(state, grid)
    trace = np.trace(covariance, axis1=-2, axis2=-1)
    return np.asarray(trace[..., None, None] * np.eye(len(grid.shape)) - covariance)


def _inertia_eigenvalues(state: State, grid: Positions) -> Array:
    """Return the eigenvalues of the tensor of inertia, decreasing."""
    tensor = _inertia_tensor(state, grid)
    there = state["voxels"] > 0
    values = np.linalg.eigvalsh(np.where(there[..., None, None], tensor, 0.0))
    return np.where(there[..., None], np.maximum(values[..., ::-1], 0.0), np.nan)


def _principal_axes(state: State, grid: Positions) -> Array:
    """Return unit vectors, the longest extent first; their largest components are positive."""
    there = (state["voxels"] > 0)[..., None, None]
    _, vectors = np.linalg.eigh(np.where(there, _covariance(state, grid), 0.0))
    axes = np.swapaxes(vectors, -1, -2)[..., ::-1, :]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(-1)[..., None], -1)
    return np.where(there, axes * np.where(largest < 0, -1.0, 1.0), np.nan)


def _median(state: State, grid: Positions) -> Array:
    count, filled = state["count"], state["filled"].reshape(-1)
    n = count.shape[-1]
    medians = np.full((len(filled), n), np.nan)
    rows = (len(filled), state["values"].shape[-1])
    values, slots = state["values"].reshape(rows), state["slots"].reshape(rows)
    for row, kept, places, used, counts in zip(
        medians, values, slots, filled.tolist(), count.reshape(-1, n), strict=True
    ):
        _medians(kept[:used], places[:used], np.cumsum(counts) - counts, counts, row)
    return medians.reshape(count.shape)


@compiled
def _medians(values, slots, starts, counts, out):  # type: ignore[no-untyped-def]
    """Sort values by object, and return the median of each."""
    ends = starts.copy()
    by_object = np.empty_like(values)
    for i in range(values.size):
        by_object[ends[slots[i]]] = values[i]
        ends[slots[i]] += 1
    for s in range(counts.size):
        n = counts[s]
        if n > 0:
            part = by_object[starts[s] : starts[s] + n]
            part.sort()
            low, high = np.float64(part[(n - 1) // 2]), np.float64(part[n // 2])
            out[s] = low if low == high else low + (high - low) / 2


OTHERS = {
    "count": lambda state, grid: state["voxels"], "volume": _volume, "centroid": _centroid,
    "center_of_mass": _centre_of_mass, "bbox": _box, "minimum_position": _minimum_position,
    "maximum_position": _maximum_position, "histogram": lambda state, grid: state["bins"],
    "inertia_tensor": _inertia_tensor, "inertia_tensor_eigvals": _inertia_eigenvalues,
    "principal_axes": _principal_axes, "median": _median, "min": _minimum, "max": _maximum,
}  # fmt: skip
#: properties of values, which a NaN among them makes NaN
OF_VALUES = {
    *STATISTICS, "min", "max", "center_of_mass", "minimum_position", "maximum_position", "median",
}  # fmt: skip
