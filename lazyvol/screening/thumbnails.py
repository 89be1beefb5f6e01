"""Small low-passed volumes of some particles, for the report: chosen, read again, made coarse."""

from dataclasses import dataclass
from math import ceil

import numpy as np
import xarray as xr

from lazyvol.ops import filters, stats
from lazyvol.screening.volumes import shortest_side
from lazyvol.stack import STACK, spacing, spatial_dims

#: voxels along a side of a thumbnail, and voxels of all thumbnails, each a byte in the report
MAX_SIDE, MAX_VOXELS = 32, 12 * 2**20


@dataclass(frozen=True)
class Thumbnails:
    """Low-passed volumes on a coarse grid: ``particles`` over k, and ``references`` by name.

    ``positions`` are those of the particles along k of the stack, ascending; ``shortest`` is the
    shortest wavelength that they hold.
    """

    positions: tuple[int, ...]
    particles: xr.DataArray
    references: dict[str, xr.DataArray]
    shortest: float


def thumbnails(
    stack: xr.DataArray,
    table: xr.Dataset,
    volumes: xr.Dataset,
    templates: xr.DataArray | None,
    length: float,
    memory: int | None = None,
) -> Thumbnails:
    """Compute thumbnails of some particles, of averages, of the second class and of templates.

    The particles are read once more, and those of the second class for its average. Thumbnails
    take a sixteenth of ``memory`` or less.
    """
    step = coarse_step(stack)
    finest = max(2 * step[d] * abs(spacing(stack, d)) for d in step)
    coarsest = max(finest, shortest_side(stack) / 4)
    shortest = float(np.clip(length or finest, finest, coarsest))
    voxels = int(np.prod([ceil(stack.sizes[d] / step[d]) for d in step]))
    most = MAX_VOXELS if memory is None else min(MAX_VOXELS, memory // 64)
    positions = chosen(table, max(1, most // voxels))
    plain = stack.drop_vars([n for n, c in stack.coords.items() if c.dims == (STACK,)])
    references = {n: volumes[n] for n in ("average", "kept_average") if n in volumes}
    members = np.flatnonzero(in_second_class(table))
    if members.size:
        references["second_class"] = stats.mean(plain.isel({STACK: members}), STACK)
    references |= {} if templates is None else template_volumes(templates)
    return Thumbnails(
        tuple(int(p) for p in positions),
        coarse(plain.isel({STACK: positions}), shortest).compute(),
        {n: coarse(v, shortest).compute() for n, v in references.items()},
        shortest,
    )


def in_second_class(table: xr.Dataset) -> np.ndarray:
    """Return True for flagged particles that the second class explains best."""
    return np.asarray((table["best_hypothesis"].values == "second_class") & table["flagged"].values)


def template_volumes(templates: xr.DataArray) -> dict[str, xr.DataArray]:
    """Return templates as volumes under the names of their hypotheses."""
    lead = [d for d in templates.dims if d not in spatial_dims(templates)]
    if not lead:
        return {"template_0": templates}
    return {f"template_{n}": templates.isel({lead[0]: n}, drop=True)
            for n in range(templates.sizes[lead[0]])}  # fmt: skip


def coarse_step(stack: xr.DataArray) -> dict[str, int]:
    """Return the distance between voxels of a thumbnail along each spatial dim, in voxels."""
    return {d: ceil(stack.sizes[d] / MAX_SIDE) for d in spatial_dims(stack)}


def coarse(stack: xr.DataArray, shortest: float) -> xr.DataArray:
    """Return volumes low-passed and sampled on the coarse grid, which holds voxel n // 2."""
    step = coarse_step(stack)
    sampled = {d: slice((stack.sizes[d] // 2) % s, None, s) for d, s in step.items()}
    return filters.bandpass(stack, shortest).isel(sampled)


def chosen(table: xr.Dataset, most: int) -> np.ndarray:
    """Return the positions of the particles to show, ascending; all if there are at most ``most``.

    Three fifths are the least consistent particles, a fifth those at the threshold of flags, and a
    fifth is evenly spread over the ranking.

    Examples
    --------
    >>> columns = {"llr": ("k", np.arange(100.0)), "ncc": ("k", np.zeros(100))}
    >>> chosen(xr.Dataset({**columns, "flagged": ("k", np.arange(100) >= 70)}), 10).tolist()
    [0, 69, 70, 94, 95, 96, 97, 98, 99]
    """
    order = np.array(ranking(table))
    if len(order) <= most:
        return np.arange(len(order))
    fifth = most // 5
    border, half = int(table["flagged"].values.sum()), ceil(fifth / 2)
    spread = np.linspace(0, len(order) - 1, fifth).round().astype(int)
    near = order[max(0, border - half) : border + fifth - half]
    return np.unique(np.concatenate([order[: most - 2 * fifth], near, order[spread]]))


def ranking(scores: xr.Dataset) -> tuple[int, ...]:
    """Return positions along k from the worst to the best particle, those without a score first.

    Examples
    --------
    >>> import xarray as xr
    >>> columns = {"llr": ("k", [-3.0, 5.0, -3.0]), "ncc": ("k", [0.2, 0.1, 0.1])}
    >>> ranking(xr.Dataset(columns))
    (1, 2, 0)
    """
    llr, ncc = (scores[name].values.astype(np.float64) for name in ("llr", "ncc"))
    badness = np.where(np.isfinite(llr), llr, np.inf)
    return tuple(int(i) for i in np.lexsort((ncc, -badness)))
