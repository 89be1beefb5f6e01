"""Saving: labels and values of a result into a store, one task per shard."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError
from lazyvol.io import losses, rows
from lazyvol.io.atomic import require_free
from lazyvol.io.export import write_mrc, write_npy, write_tiff
from lazyvol.io.lists import OPTICS, star_text, units
from lazyvol.io.losses import warn_of_losses
from lazyvol.io.shardgrid import shard_grid
from lazyvol.io.store import Variable, create, create_group
from lazyvol.io.tables import csv_text, write_text
from lazyvol.io.target import Target, TargetGroup
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget, sampled_cost
from lazyvol.plan.explain import budget_for, explain
from lazyvol.plan.lazy import recipe_of, refit
from lazyvol.plan.recipe import Array
from lazyvol.plan.regions import Region
from lazyvol.plan.writing import plan_token, write
from lazyvol.stack import SPATIAL, require_stack, spacing, unit_of

#: attribute that keeps the units of coordinates other than positions
COORDINATE_UNITS = "coordinate_units"
#: smallest shard a tight budget may ask for
LEAST = 2**20


def save(
    obj: xr.DataArray | xr.Dataset,
    path: str | PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    memory: int | float | str | None = None,
) -> None:
    """Computes a result and writes it; the final name appears when everything is written.

    ``.zarr`` writes OME-Zarr 0.5 in shards, each written whole by one task and closed by
    checksums, of any size; a Dataset becomes a group. ``.npy``, ``.mrc`` and ``.tif`` write one
    array that fits in memory. ``.csv`` and ``.star`` list what is along one dim, scores, flags
    and facts, a row for each particle; STAR under RELION's labels (see ``lazyvol.io.particles``).
    Where a format has no place for a label, a `LossWarning` names it: TIFF keeps all but
    coordinates of several dims; MRC dims, lengths and the name; NPY nothing but values.

    Parameters
    ----------
    obj
        DataArray or Dataset, lazy or not.
    path
        Where to; its suffix says the format.
    resume
        Go on with a ``.zarr`` that was interrupted: shards that are complete stay. Refused where
        the interrupted result was another one (operation, parameters, input, versions).
    overwrite
        Replace what is stored under ``path``.
    progress
        Show a bar on standard error.
    memory
        Bytes, or text like ``"2GiB"``, that the run may take: tasks are cut to fit.

    Raises
    ------
    TargetExistsError
        Something is there and ``overwrite`` is not set.
    BudgetError
        No cut fits ``memory``.
    StoreError
        The system refuses to write (disk full, permissions); nothing has the final name.

    Examples
    --------
    >>> import numpy as np, tempfile, lazyvol as lv
    >>> folder = tempfile.TemporaryDirectory()
    >>> stack = lv.as_stack(np.ones((2, 3, 4, 5)), voxel_size=2.0, unit="nanometer")
    >>> lv.save(lv.stats.mean(stack), f"{folder.name}/mean.zarr")
    >>> lv.open(f"{folder.name}/mean.zarr").z.values
    array([0., 2., 4.])
    >>> folder.cleanup()
    """
    path = os.fspath(path)
    suffix = os.path.splitext(path)[1].lower()
    budget = budget_for(memory, None)
    if budget.memory is not None:
        explain(obj, memory=memory)
    if (suffix in TABLES or suffix in EXPORTS) and not resume:
        require_free(path, overwrite)
    if suffix in TABLES and not resume:
        kept = {*units("voxel"), *([OPTICS] if suffix == ".star" else [])}
        warn_of_losses(path, rows.lost(obj, rows.columns(obj, path)[1], kept))
        write_text(path, TABLES[suffix](_computed(obj, budget), path), overwrite=overwrite)
        return
    done: dict[str, Any] = {}
    arrays = {name: _refitted(a, budget, done) for name, a in _arrays(obj).items()}
    if suffix == ".zarr":
        group = _shared(obj) if isinstance(obj, xr.Dataset) else None
        _store(arrays, path, group, budget, overwrite=overwrite, resume=resume, progress=progress)
    elif suffix in EXPORTS and len(arrays) == 1 and not resume:
        warn_of_losses(path, losses.of_set(obj))
        EXPORTS[suffix](arrays[next(iter(arrays))], path, overwrite)
    else:
        raise LabelError(
            f"results are saved as .zarr, single arrays also as {', '.join(EXPORTS)}, what is "
            f"along one dim as {', '.join(TABLES)} (neither can be resumed); got {path!r} for "
            f"{len(arrays)} arrays{' with resume=True' if resume else ''}"
        )


def _store(
    arrays: Mapping[str, xr.DataArray],
    path: str,
    group: Variable | None,
    budget: Budget,
    *,
    overwrite: bool,
    resume: bool,
    progress: bool,
) -> None:
    """Write arrays as one store: a group with what all share, or the lone array."""
    specs = {name: _variable(a) for name, a in arrays.items()}
    most = min((_shard_bytes(a, budget) for a in arrays.values()), default=BLOCK)
    values = [a.data for a in arrays.values()]
    options: dict[str, Any] = {
        "overwrite": overwrite,
        "max_shard_bytes": most,
        "token": plan_token(values, most, group is not None),
        "resume": resume,
    }
    target: Target | TargetGroup
    if group is not None:
        target = create_group(path, specs, shared=group, **options)
        sinks = list(target.variables.values())
    else:
        target = create(path, next(iter(specs.values())), **options)
        sinks = [target]
    write(values, sinks, resume=resume, progress=progress)
    target.publish()


def _arrays(obj: xr.DataArray | xr.Dataset) -> dict[str, xr.DataArray]:
    if isinstance(obj, xr.Dataset):
        return {str(name): require_stack(a) for name, a in obj.items()}
    return {"": require_stack(obj)}


def _shared(found: xr.Dataset) -> Variable:
    """Coordinates of a data set that no variable has, and its attributes, as those of an array
    of nothing else."""
    owned = {name for array in found.values() for name in array.coords}
    coords = {name: c.variable for name, c in found.coords.items() if name not in owned}
    dims = tuple(dict.fromkeys(d for c in coords.values() for d in c.dims))
    nothing = np.broadcast_to(np.int8(0), tuple(found.sizes[d] for d in dims))
    return _variable(xr.DataArray(nothing, coords, dims, attrs=found.attrs))


def _refitted(array: xr.DataArray, budget: Budget, done: dict[str, Any]) -> xr.DataArray:
    if budget.memory is None:
        return array
    return array.copy(data=refit(array.data, budget, done))


def _shard_bytes(array: xr.DataArray, budget: Budget) -> int:
    """Bytes of a shard, halved until the task that makes one fits its share of the budget."""
    limit, bytes_ = budget.per_task, BLOCK
    recipe = recipe_of(array.data)
    while limit is not None and bytes_ > LEAST:
        _, shards = shard_grid(array.shape, array.dtype, None, bytes_)
        grid = tuple(regions.cover(n, s) for n, s in zip(array.shape, shards, strict=True))
        if sampled_cost(recipe, grid)[1] + bytes_ <= limit:
            break
        bytes_ //= 2
    return bytes_


def _variable(array: xr.DataArray) -> Variable:
    """Labels of an array as the store writes them."""
    dims = tuple(str(d) for d in array.dims)
    sizes, origin = _positions(array)
    units = {unit_of(array, d) for d in sizes}
    if len(units) > 1:
        raise LabelError(
            f"positions are stored in one unit, got {sorted(units)}; convert the coordinates"
        )
    attrs: dict[str, object] = {str(n): v for n, v in array.attrs.items()}
    coords = {}
    for name, coord in array.coords.items():
        if coord.ndim == 0:
            attrs.setdefault(str(name), coord.values[()])
        elif coord.ndim == 1 and name not in sizes:
            coords[str(name)] = (str(coord.dims[0]), np.asarray(coord.values))
    known = {n: array.coords[n].attrs["units"] for n in coords if "units" in array.coords[n].attrs}
    if known:
        attrs[COORDINATE_UNITS] = known
    name = None if array.name is None else str(array.name)
    return Variable(
        array.shape, array.dtype, dims, sizes, units.pop() if units else "voxel", origin, coords,
        attrs, name,
    )  # fmt: skip


def _positions(array: xr.DataArray) -> tuple[dict[str, float], dict[str, float]]:
    """Voxel size and origin of the spatial dims whose positions are regular and known."""
    sizes, origin = {}, {}
    for d in (d for d in SPATIAL if d in array.dims and d in array.coords):
        if array.sizes[d] == 0:
            continue
        try:
            step = spacing(array, d)
        except LabelError:
            continue
        if unit_of(array, d) != "voxel" or step != 1.0 or float(array[d][0]) != 0.0:
            sizes[d], origin[d] = step, float(array[d][0])
    return sizes, {d: o for d, o in origin.items() if o}


def _computed(obj: xr.DataArray | xr.Dataset, budget: Budget) -> xr.DataArray | xr.Dataset:
    """What goes into a table, in memory; its coordinates stay also where it has no variables."""
    done: dict[str, Any] = {}
    if isinstance(obj, xr.DataArray):
        return _refitted(obj, budget, done).compute()
    return obj.assign({name: _refitted(a, budget, done) for name, a in obj.items()}).compute()


def _blocks(array: xr.DataArray) -> Iterator[tuple[Region, Array]]:
    """Blocks of an array one after the other, each computed when it is asked for."""
    grid = array.chunks or tuple((n,) for n in array.shape)
    for _, region in regions.boxes(grid):
        yield region, np.asarray(array.data[region])


def _npy(array: xr.DataArray, path: str, overwrite: bool) -> None:
    warn_of_losses(path, losses.of_npy(array, _variable(array), path))
    blocks = partial(_blocks, array)
    write_npy(path, array.shape, array.dtype, blocks, overwrite=overwrite)


def _mrc(array: xr.DataArray, path: str, overwrite: bool) -> None:
    spec = _variable(array)
    warn_of_losses(path, losses.of_mrc(array, spec))
    write_mrc(
        path, array.shape, array.dtype, partial(_blocks, array), dims=spec.dims,
        voxel_size=spec.voxel_size, unit=spec.unit, origin=spec.origin, name=spec.name,
        overwrite=overwrite,
    )  # fmt: skip


def _tiff(array: xr.DataArray, path: str, overwrite: bool) -> None:
    spec = _variable(array)
    warn_of_losses(path, losses.of_many_dims(array))
    write_tiff(
        path, array.values, dims=spec.dims, voxel_size=spec.voxel_size, unit=spec.unit,
        labels=spec.labels, overwrite=overwrite,
    )  # fmt: skip


TABLES = {".csv": csv_text, ".star": star_text}
EXPORTS = {".npy": _npy, ".mrc": _mrc, ".map": _mrc, ".tif": _tiff, ".tiff": _tiff}
