"""Saving: labels and values of a result into a store, one task per shard."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import lru_cache, partial
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.errors import LabelError, OptionError, TargetExistsError
from lazyvol.io import losses, rows
from lazyvol.io.atomic import require_free
from lazyvol.io.export import write_mrc, write_npy, write_tiff
from lazyvol.io.inputs import sources_of
from lazyvol.io.losses import warn_of_losses
from lazyvol.io.particle_lists import OPTICS, star_text, units
from lazyvol.io.places import ARCHIVES, is_place
from lazyvol.io.positions import spacing_and_origin, told_by_spacing
from lazyvol.io.text_files import csv_text, write_text
from lazyvol.io.zarr.create import Beside, Variable, create, create_group
from lazyvol.io.zarr.shard_shape import shard_grid
from lazyvol.io.zarr.writer import Target, TargetGroup
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget, sampled_cost
from lazyvol.plan.explain import budget_for, explain
from lazyvol.plan.graph.lazy_array import recipe_of, refit
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Region
from lazyvol.plan.write import plan_token, write
from lazyvol.stack import SPATIAL, require_stack, unit_of

#: bytes of a coordinate beyond which it is stored as an array of its own
LARGE = 1 << 20
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
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Computes a result and writes it; the final name appears when everything is written.

    ``.zarr`` writes OME-Zarr 0.5 in shards, each written whole by one task and closed by
    checksums, of any size; a Dataset becomes a group. ``.npy``, ``.mrc`` and ``.tif`` write one
    array that fits in memory. ``.csv`` and ``.star`` list what is along one dim, scores, flags
    and facts, a row for each particle; STAR under RELION's labels (see ``lazyvol.io.particles``).
    Where a format has no place for a label, a `LossWarning` names it: TIFF keeps all; MRC dims,
    lengths and the name; NPY nothing but values.

    Parameters
    ----------
    obj
        DataArray or Dataset, lazy or not.
    path
        Where to; its suffix says the format. A URL (``s3://``, ``gs://``, ``az://``, with
        ``lazyvol[remote]``) or a writable store of zarr takes a zarr store: its root document is
        put last, so that nothing can be opened there until all is.
    resume
        Go on with a ``.zarr`` that was interrupted: shards that are complete stay. Refused where
        the interrupted result was another one (operation, parameters, input, versions).
    overwrite
        Replace what is stored under ``path``.
    progress
        Show a bar on standard error.
    memory
        Bytes, or text like ``"2GiB"``, that the run may take: tasks are cut to fit.
    storage_options
        Options of the store behind a URL, as for ``lazyvol.open``.

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
    target: Any = path
    if is_place(path):
        suffix = require_store(path)
    else:
        refuse_options(path, storage_options)
        target = os.fspath(path)
        suffix = os.path.splitext(target)[1].lower()
    budget = budget_for(memory, None)
    refuse_own_input(target, _sources(obj))
    if budget.memory is not None:
        explain(obj, memory=memory)
    if (suffix in TABLES or suffix in EXPORTS) and not resume:
        require_free(target, overwrite)
    if suffix in TABLES and not resume:
        kept = {*units("voxel"), *([OPTICS] if suffix == ".star" else [])}
        warn_of_losses(target, rows.lost(obj, rows.columns(obj, target)[1], kept), stacklevel=3)
        write_text(target, TABLES[suffix](_computed(obj, budget), target), overwrite=overwrite)
        return
    done: dict[str, Any] = {}
    arrays = {name: _refitted(a, budget, done) for name, a in _arrays(obj).items()}
    if suffix == ".zarr":
        group = _shared(obj) if isinstance(obj, xr.Dataset) else None
        run = {"overwrite": overwrite, "resume": resume, "storage_options": storage_options}
        _store(arrays, target, group, budget, run, progress=progress)
    elif suffix in EXPORTS and len(arrays) == 1 and not resume:
        warn_of_losses(target, losses.of_set(obj), stacklevel=3)
        EXPORTS[suffix](arrays[next(iter(arrays))], target, overwrite)
    else:
        raise LabelError(
            f"results are saved as .zarr, single arrays also as {', '.join(EXPORTS)}, what is "
            f"along one dim as {', '.join(TABLES)} (neither can be resumed); got {target!r} for "
            f"{len(arrays)} arrays{' with resume=True' if resume else ''}"
        )


def require_store(path: Any) -> str:
    """Return the suffix of a store that is written elsewhere; refuse archives and tables."""
    text = os.fspath(path) if isinstance(path, str | PathLike) else ""
    suffix = os.path.splitext(text)[1].lower()
    if suffix in (*ARCHIVES, *TABLES, *EXPORTS):
        raise LabelError(
            f"save: path must be a folder, a file, or the URL of a zarr store, got {text!r}; save "
            "to a local folder or file, and copy or pack that"
        )
    return ".zarr"


def refuse_options(path: Any, storage_options: Mapping[str, Any] | None) -> None:
    """Refuse options of a store for a path that is no URL."""
    if storage_options:
        raise OptionError(
            f"save: storage_options must be those of a URL, got {path!r:.200}; leave them out"
        )


def refuse_own_input(path: Any, sources: Iterable[Any]) -> None:
    """Refuse a path whose writing would replace, or lie inside, what a result is computed from."""
    if is_place(path):
        _refuse_own_place(str(path).rstrip("/"), sources)
        return
    target = os.path.realpath(path)
    real = lru_cache(os.path.realpath)  # a stack has thousands of files in few folders
    for place in dict.fromkeys(p for s in sources for p in getattr(s, "paths", ())):
        folder, name = os.path.split(place)
        own = real(place) if os.path.islink(place) else os.path.join(real(folder), name)
        if own == target or within(own, target) or within(target, own):
            raise _own_input(path, place)


def _refuse_own_place(url: str, sources: Iterable[Any]) -> None:
    for place in dict.fromkeys(p for s in sources for p in getattr(s, "paths", ())):
        if place == url or place.startswith(f"{url}/") or url.startswith(f"{place}/"):
            raise _own_input(url, place)


def _own_input(path: Any, place: str) -> TargetExistsError:
    return TargetExistsError(
        f"save: path must not be where the input of the result lies, got {path!r} for a result "
        f"that is computed from {place}; choose another name, and replace the input when the "
        "result is saved"
    )


def within(path: str, folder: str) -> bool:
    """Whether a real path lies below a real folder."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _sources(obj: xr.DataArray | xr.Dataset) -> list[Any]:
    """Stored data that a lazy result and its lazy coordinates are computed from."""
    found = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name="lazyvol:values")
    return list(sources_of(v.data for v in found.variables.values() if v.chunks is not None))


def _store(
    arrays: Mapping[str, xr.DataArray],
    path: Any,
    shared: xr.DataArray | None,
    budget: Budget,
    run: Mapping[str, Any],
    *,
    progress: bool,
) -> None:
    """Write arrays as one store: a group with what all share, or the lone array."""
    # a shard for elsewhere is encoded in memory, and handed over whole
    held = 3 if is_place(path) else 1
    specs = {name: _variable(a) for name, a in arrays.items()}
    most = min((_shard_bytes(a, budget, held) for a in arrays.values()), default=BLOCK)
    told = [*arrays.values(), *([] if shared is None else [shared])]
    values = [a.data for a in arrays.values()] + [v for a in told for v in _values_aside(a, budget)]
    token = plan_token(values, most, shared is not None)
    options: dict[str, Any] = {**run, "max_shard_bytes": most, "token": token}
    target: Target | TargetGroup
    if shared is not None:
        target = create_group(path, specs, shared=_variable(shared), **options)
        sinks = list(target.variables.values())
        aside = [each for t in sinks for each in t.aside] + list(target.aside)
    else:
        target = create(path, next(iter(specs.values())), **options)
        sinks, aside = [target], list(target.aside)
    write(values, [*sinks, *aside], resume=run["resume"], progress=progress)
    target.publish()


def _arrays(obj: xr.DataArray | xr.Dataset) -> dict[str, xr.DataArray]:
    if isinstance(obj, xr.Dataset):
        return {_text(name): require_stack(a) for name, a in obj.items()}
    return {"": require_stack(obj)}


def _shared(found: xr.Dataset) -> xr.DataArray:
    """An array of nothing but the coordinates that no variable has, and the attributes."""
    owned = {name for array in found.values() for name in array.coords}
    coords = {name: c.variable for name, c in found.coords.items() if name not in owned}
    dims = tuple(dict.fromkeys(d for c in coords.values() for d in c.dims))
    nothing = np.broadcast_to(np.int8(0), tuple(found.sizes[d] for d in dims))
    return xr.DataArray(nothing, coords, dims, attrs=found.attrs)


def _refitted(array: xr.DataArray, budget: Budget, done: dict[str, Any]) -> xr.DataArray:
    if budget.memory is None:
        return array
    return array.copy(data=refit(array.data, budget, done))


def _shard_bytes(array: xr.DataArray, budget: Budget, held: int = 1) -> int:
    """Bytes of a shard, halved until the task that makes one fits its share of the budget."""
    bytes_, recipe = BLOCK, recipe_of(array.data)
    while budget.memory is not None and bytes_ > LEAST:
        _, shards = shard_grid(array.shape, array.dtype, None, bytes_)
        grid = tuple(regions.uniform_chunks(n, s) for n, s in zip(array.shape, shards, strict=True))
        limit = budget.per_task_of(regions.count(grid)) or 0
        if sampled_cost(recipe, grid)[1] + held * bytes_ <= limit:
            break
        bytes_ //= 2
    return bytes_


def _variable(array: xr.DataArray, *, aside: bool = True) -> Variable:
    """Labels of an array as files hold them, large coordinates ``aside`` of the metadata."""
    sizes, origin = spacing_and_origin(array)
    units = {unit_of(array, d) for d in sizes}
    if len(units) > 1:
        raise LabelError(
            f"positions are stored in one unit, got {sorted(units)}; convert the coordinates"
        )
    unit = units.pop() if units else "voxel"
    told = told_by_spacing(array, sizes, unit, origin)
    named = {_text(name): coord for name, coord in array.coords.items() if name not in told}
    large = _large(array) if aside else {}
    dims = tuple(_text(d) for d in array.dims)
    return Variable(
        shape=array.shape,
        dtype=array.dtype,
        dims=dims,
        voxel_size=sizes,
        unit=unit,
        origin=origin,
        coords={n: (_along(c), np.asarray(c.values), c.attrs) for n, c in named.items()
                if n not in large},
        attrs=dict(array.attrs),
        name=None if array.name is None else _text(array.name),
        bare=tuple(d for d in SPATIAL if d in dims and d not in array.coords),
        aside={n: Beside(c.shape, c.dtype, tuple(map(_text, c.dims)), c.attrs)
               for n, c in large.items()},
    )  # fmt: skip


def _large(array: xr.DataArray) -> dict[str, xr.DataArray]:
    """Coordinates of numbers or times that are too large for the metadata."""
    return {
        str(name): coord
        for name, coord in array.coords.items()
        if coord.nbytes > LARGE and coord.dtype.kind in "biufmM" and name not in SPATIAL
    }


def _values_aside(array: xr.DataArray, budget: Budget) -> list[Any]:
    """Values of the large coordinates, times as whole numbers."""
    found = [coord.data for coord in _large(array).values()]
    whole = [v.astype(np.int64) if v.dtype.kind in "mM" else v for v in found]
    return whole if budget.memory is None else [refit(v, budget) for v in whole]


def _along(coord: xr.DataArray) -> str | tuple[str, ...]:
    """The dim of a coordinate, or its dims where it has none or several."""
    dims = tuple(_text(d) for d in coord.dims)
    return dims[0] if len(dims) == 1 else dims


def _text(name: Hashable) -> str:
    """A name, which has to be text to come back as it was."""
    if not isinstance(name, str):
        raise LabelError(f"save: a name must be text, got {name!r}; rename it")
    return name


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


def _rising(array: xr.DataArray, path: str) -> Variable:
    """Labels of an array, whose positions must not decrease: MRC has no place for that."""
    spec = _variable(array)
    falling = [d for d, size in spec.voxel_size.items() if size < 0]
    if falling:
        raise LabelError(
            f"save: positions must increase in {path}, those along {falling} decrease; turn the "
            f"axes by isel({falling[0]}=slice(None, None, -1)), or save a .zarr or .tif"
        )
    return spec


def _mrc(array: xr.DataArray, path: str, overwrite: bool) -> None:
    spec = _rising(array, path)
    warn_of_losses(path, losses.of_mrc(array, spec))
    write_mrc(
        path, array.shape, array.dtype, partial(_blocks, array), dims=spec.dims,
        voxel_size=spec.voxel_size, unit=spec.unit, origin=spec.origin, name=spec.name,
        overwrite=overwrite,
    )  # fmt: skip


def _tiff(array: xr.DataArray, path: str, overwrite: bool) -> None:
    spec = _variable(array, aside=False)
    write_tiff(
        path, array.values, dims=spec.dims, voxel_size=spec.voxel_size, unit=spec.unit,
        labels=spec.labels, overwrite=overwrite,
    )  # fmt: skip


TABLES = {".csv": csv_text, ".star": star_text}
EXPORTS = {".npy": _npy, ".mrc": _mrc, ".map": _mrc, ".tif": _tiff, ".tiff": _tiff}
