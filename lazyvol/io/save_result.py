"""Save results: compute the values and write them with their labels, one task per shard."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from os import PathLike
from typing import Any

import numpy as np
import xarray as xr

from lazyvol.arguments import operation
from lazyvol.errors import BudgetError, LabelError, OptionError, TargetExistsError
from lazyvol.io import particle_files
from lazyvol.io.atomic import require_free
from lazyvol.io.inputs import sources_of
from lazyvol.io.particle_lists import OPTICS, OTHER_BLOCKS, standard_units
from lazyvol.io.places import ARCHIVES, is_place, path_text
from lazyvol.io.save_plan import (
    copies_of,
    encoding_bytes,
    explain,
    input_rows,
    largest_shard,
    refitted,
    refitted_arrays,
)
from lazyvol.io.saved_labels import (
    channel_names,
    large_coords,
    shared_labels,
    variable_of,
)
from lazyvol.io.single_files import (
    EXPORTS,
    TIFF,
    blocks_of,
    lost_of_dataset,
    lost_of_particles,
    suffix_of,
    warn_of_losses,
)
from lazyvol.io.tables import (
    csv_text,
    lost_labels,
    star_text,
    table_columns,
    write_text,
    written_last,
)
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.create import create, create_group, run_of
from lazyvol.io.zarr.omero import write_omero
from lazyvol.io.zarr.run_plan import RunPlan, naming_remedy, run_facts
from lazyvol.io.zarr.writer import Target
from lazyvol.plan import regions
from lazyvol.plan.budget import BLOCK, Budget, budget_for, ceil_mib, sampled_cost, show_bytes
from lazyvol.plan.execution import resilient_scheduler
from lazyvol.plan.graph.lazy_array import recipe_of, refit
from lazyvol.plan.write import plan_identity, write
from lazyvol.stack import as_stack


@operation(unchecked=("obj", "path", "memory"))
def save(
    obj: xr.DataArray | xr.Dataset,
    path: str | PathLike[str],
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = False,
    memory: int | float | str | None = None,
    pyramid: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> None:
    """Computes a result and writes it to a file or store that appears when it is complete.

    ``.zarr`` writes OME-Zarr 0.5 of any size, in shards with checksums, one task per shard; a
    Dataset becomes a group. Other suffixes write one array for other programs, block by block
    (TIFF at once): ``.npy``, ``.mrc``, ``.mrcs`` (a stack of images), ``.em``, ``.nii``,
    ``.nii.gz`` and ``.tif``. ``.csv`` and ``.star`` write tables: scores, flags and other values
    along one dim, one row per particle, in ``.star`` under the labels of RELION (see
    ``lazyvol.io.particles``). A stack of images or volumes saved as ``.star`` becomes a list for
    RELION with a file per particle. A `LossWarning` names the labels that a format cannot hold.

    Parameters
    ----------
    obj
        DataArray or Dataset of any dims, lazy or in memory, or an array that ``lazyvol.as_stack``
        labels. Tables need values along one dim, and
        other dims with text labels; of a ragged Dataset the rows are its observations.
    path
        Target file or folder; its suffix selects the format: ``.zarr``, ``.npy``, ``.mrc``,
        ``.map``, ``.mrcs``, ``.em``, ``.nii``, ``.nii.gz``, ``.tif``, ``.tiff``, ``.csv`` or
        ``.star``. A URL (``s3://``, ``gs://``,
        ``az://``, with ``lazyvol[remote]``) or a writable store object of zarr takes a zarr store,
        whose root metadata is written last, so that an incomplete store cannot be opened; a store
        that it replaces stays until then, and is absent while the new objects are copied.
    resume
        Continue an interrupted ``.zarr``: complete shards are kept, and reductions continue from
        their last states. The interrupted run must have had the same operation, parameters, input
        and versions. A complete store of that result is left as it is. See also ``lazyvol.resume``.
    overwrite
        Replace the file or store under ``path``.
    progress
        Show a progress bar on standard error.
    memory
        Memory limit of the run, in bytes or as text such as ``"2GiB"``; tasks are made smaller
        until they fit.
    pyramid
        Write levels of lower resolution too, for viewers of large images: each halves the axes
        that are as fine as the finest, by means of integers of up to 16 bits and floats; masks and
        labels, the other dtypes, keep a voxel of each block. The metadata name channels and
        contrast limits. ``.zarr`` only, of one array.
    storage_options
        Options of the store behind a URL, as for ``lazyvol.open``.

    Returns
    -------
    None

    Raises
    ------
    LabelError
        The suffix is not known or does not hold this object, or a label cannot be written.
    OptionError
        ``storage_options`` is set for a path that is no URL, or holds a secret.
    TargetExistsError
        Something is stored under ``path`` and ``overwrite`` is not set, the result is computed
        from data at ``path``, or ``resume`` finds another result.
    BudgetError
        No division into tasks fits ``memory``, or each that does reads the input too often.
    StoreError
        The operating system or the store refuses to write (disk full, permissions); nothing
        appears under ``path``.

    Notes
    -----
    Types and labels that each format holds:

    * MRC: int8, int16, uint16, float16, float32; dims, voxel size and origin in angstrom, unit,
      name. ``.mrcs``: (k, y, x).
    * EM: int8, int16, int32, float32, float64; (z, y, x) or (y, x); no voxel size.
    * NIfTI: integers, float32, float64; (y, x), (z, y, x) or (k, z, y, x); voxel size and origin
      in micrometres or millimetres.
    * TIFF: integers of 8 to 32 bits, float32, float64; all labels. NPY: all numbers, no labels.
    * ``name.star`` of a stack (k, z, y, x), (k, frame, y, x) or (k, y, x): MRC files in the folder
      ``name``, the facts of the particles, and optics groups with voxel and box size. A stack
      without ``attrs["optics"]`` gets one group with 300 kV, 2.7 mm and 0.1, which RELION requires;
      correct them before a refinement of the CTF.

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
    obj = obj if isinstance(obj, xr.DataArray | xr.Dataset) else as_stack(obj)
    target: Any = path
    if is_place(path):
        suffix = require_store(path)
    else:
        refuse_options(path, storage_options)
        target = path_text(path, "save: path")
        suffix = suffix_of(target)
    budget = budget_for(memory, None)
    sources = _sources(obj)
    refuse_own_input(target, sources)
    if budget.memory is not None:
        explain(obj, path, memory=memory)  # raises BudgetError before anything is written
    if pyramid and (suffix != ".zarr" or isinstance(obj, xr.Dataset)):
        raise LabelError(
            f"save: pyramid=True takes one array and a .zarr store, got {target!r}; save the "
            "variables of a Dataset one by one"
        )
    if (suffix in TABLES or suffix in EXPORTS) and not resume:
        require_free(target, overwrite)
    if suffix == ".star" and particle_files.is_image_stack(obj) and not resume:
        _save_images(obj, target, budget, sources, overwrite=overwrite, progress=progress)
        return
    if suffix in TABLES and not resume:
        kept = {*standard_units("voxel"), *([OPTICS, OTHER_BLOCKS] if suffix == ".star" else [])}
        columns = table_columns(obj, target)[1]
        warn_of_losses(target, lost_labels(obj, columns, kept), stacklevel=4)
        write_text(target, TABLES[suffix](_compute_table(obj, budget), target), overwrite=overwrite)
        return
    arrays = refitted_arrays(obj, budget)
    if suffix == ".zarr":
        shared = shared_labels(obj) if isinstance(obj, xr.Dataset) else None
        _store(
            arrays, target, shared, budget, sources, pyramid=pyramid, progress=progress,
            overwrite=overwrite, resume=resume, storage_options=storage_options,
        )  # fmt: skip
    elif suffix in EXPORTS and len(arrays) == 1 and not resume:
        warn_of_losses(target, lost_of_dataset(obj), stacklevel=4)
        array = arrays[next(iter(arrays))]
        # only TIFF stores large coordinates
        variable = variable_of(array, separate_large=suffix not in TIFF)
        EXPORTS[suffix](array, variable, target, overwrite)
    else:
        raise LabelError(
            f"save: path must end in .zarr, for one array also in {', '.join(EXPORTS)}, for values "
            f"along one dim in {', '.join(TABLES)} (only .zarr can be resumed), got {target!r} for "
            f"{len(arrays)} arrays{' with resume=True' if resume else ''}"
        )


def require_store(path: Any) -> str:
    """Return the suffix of a store that is no local folder; raise LabelError for other formats."""
    text = os.fspath(path) if isinstance(path, str | PathLike) else ""
    suffix = suffix_of(text)
    if suffix in (*ARCHIVES, *TABLES, *EXPORTS):
        raise LabelError(
            f"save: path must be a folder, a file, or the URL of a zarr store, got {text!r}; save "
            "to a local folder or file, and copy or pack that"
        )
    return ".zarr"


def refuse_options(path: Any, storage_options: Mapping[str, Any] | None) -> None:
    """Raise OptionError if options of a store are set for a path that is no URL."""
    if storage_options:
        raise OptionError(
            f"save: storage_options must be those of a URL, got {path!r:.200}; leave them out"
        )


def refuse_own_input(path: Any, sources: Iterable[Any]) -> None:
    """Raise TargetExistsError if writing would replace, or be inside, an input of the result."""
    if is_place(path):
        _refuse_own_url(str(path).rstrip("/"), sources)
        return
    if "\0" in str(path):
        raise OptionError(f"save: path must not hold a null character, got {str(path)!r:.200}")
    target = os.path.realpath(path)
    realpath = lru_cache(os.path.realpath)  # a stack has thousands of files in few folders
    for file in _stored_paths(sources):
        folder, name = os.path.split(file)
        is_link = os.path.islink(file)
        real_file = realpath(file) if is_link else os.path.join(realpath(folder), name)
        if real_file == target or is_below(real_file, target) or is_below(target, real_file):
            raise _own_input_error(path, file)


def _refuse_own_url(url: str, sources: Iterable[Any]) -> None:
    for stored in _stored_paths(sources):
        if stored == url or stored.startswith(f"{url}/") or url.startswith(f"{stored}/"):
            raise _own_input_error(url, stored)


def _stored_paths(sources: Iterable[Any]) -> Iterable[str]:
    """Return the files and URLs of sources, each once."""
    return dict.fromkeys(path for source in sources for path in getattr(source, "paths", ()))


def _own_input_error(path: Any, stored: str) -> TargetExistsError:
    return TargetExistsError(
        f"save: path must not be that of an input of the result, got {path!r} for a result that is "
        f"computed from {stored}; choose another name, and replace the input when the result is "
        "saved"
    )


def is_below(path: str, folder: str) -> bool:
    """Return True if a real path is inside a real folder."""
    return path.startswith(folder.rstrip(os.sep) + os.sep)


def _sources(obj: xr.DataArray | xr.Dataset) -> list[Any]:
    """Return the sources that a lazy result and its lazy coordinates are computed from."""
    data_set = obj if isinstance(obj, xr.Dataset) else obj.to_dataset(name="lazyvol:values")
    return list(sources_of(v.data for v in data_set.variables.values() if v.chunks is not None))


def _store(
    arrays: Mapping[str, xr.DataArray],
    path: Any,
    shared: xr.DataArray | None,
    budget: Budget,
    sources: Iterable[Any],
    *,
    pyramid: bool,
    progress: bool,
    **options: Any,
) -> None:
    """Write arrays as one store: a group with their shared labels, or a single array.

    ``options`` are those of `run_of`.
    """
    copies = copies_of(path, pyramid=pyramid)
    variables = {
        name: replace(variable_of(a), input_rows=input_rows(a)) for name, a in arrays.items()
    }
    max_bytes = largest_shard(arrays.values(), budget, copies)
    labelled = [*arrays.values(), *([] if shared is None else [shared])]
    values: list[Any] = [a.data for a in arrays.values()]
    values += _large_coord_values(labelled, budget)
    token, steps = plan_identity(values, crc32c, shared is not None, pyramid)
    plan = RunPlan(token, tuple(steps), run_facts(budget.workers, budget.memory))
    run = run_of(path, token, **options)
    if run.resume:
        if run.is_finished():
            run.clear()
            return
        values = _divided_as_before(values, run.former(), plan, budget)
    if shared is not None:
        store = create_group(run, plan, variables, variable_of(shared), max_bytes)
    else:
        store = create(run, plan, variables[""], max_bytes, pyramid=pyramid)
    try:
        for array, target in zip(arrays.values(), store.variables.values(), strict=True):
            _require_fit(array, target, budget, copies)
        sinks = [*store.variables.values(), *store.large_coords]
        with naming_remedy(run.path):
            write(values, sinks, resume=run.resume, progress=progress, states=run.states)
        for source in sources:
            if hasattr(source, "check"):
                source.check()
        if pyramid:
            write_omero(store.variables[""], variables[""].dims, channel_names(arrays[""]))
        store.publish()
    finally:
        run.release()


def _divided_as_before(
    values: list[Any], former: RunPlan | None, plan: RunPlan, budget: Budget
) -> list[Any]:
    """Return arrays whose reductions are divided as in the run that is resumed.

    Else the states that its tasks kept would be those of other tasks. If these would not fit the
    budget, arrays are returned as they are.
    """
    before = budget.as_before(former.limits if former and former.token == plan.token else None)
    with suppress(BudgetError):
        built: dict[str, Any] = {}
        return values if before == budget else [refit(v, before, built) for v in values]
    return values


def _require_fit(array: xr.DataArray, target: Target, budget: Budget, copies: int) -> None:
    """Raise BudgetError if a task for a shard of the run that is resumed exceeds the budget."""
    limit = budget.per_task_of(regions.count(target.grid))
    shard_bytes = prod(target.shards) * array.dtype.itemsize
    if limit is None or not target.run.resume:
        return
    needed = sampled_cost(recipe_of(array.data), target.grid)[1]
    needed += encoding_bytes(shard_bytes, copies)
    if needed > limit:
        raise BudgetError(
            f"save: memory must be at least "
            f"{ceil_mib((budget.memory or 0) + (needed - limit) * budget.workers)} to resume a run "
            f"with shards {target.shards}, got {show_bytes(budget.memory or 0)}; raise memory, or "
            "pass overwrite=True without resume"
        )


def _large_coord_values(arrays: Iterable[xr.DataArray], budget: Budget) -> list[Any]:
    """Return the values of the large coordinates of arrays by name, times as integers."""
    coords = {name: c for array in arrays for name, c in large_coords(array).items()}
    values = [coord.data for coord in coords.values()]
    numbers = [v.astype(np.int64) if v.dtype.kind in "mM" else v for v in values]
    return numbers if budget.memory is None else [refit(v, budget) for v in numbers]


def _save_images(
    stack: xr.DataArray,
    path: str,
    budget: Budget,
    sources: Iterable[Any],
    *,
    overwrite: bool,
    progress: bool,
) -> None:
    """Write the particles of a stack to MRC files, then the list that names them."""
    array = refitted(stack, budget, {})
    at_once = _particles_at_once(array, budget)
    files = particle_files.plan_files(array, variable_of(array), path, at_once, overwrite)
    refuse_own_input(files.target, sources)
    warn_of_losses(path, lost_of_particles(stack, files.variable))
    content = star_text(files.table(array).compute(scheduler=resilient_scheduler()), path)
    with written_last(path, content, overwrite), files.published():
        if files.form == ("y", "x"):
            files.write_stack(partial(blocks_of, array))
        else:
            write([array.data], [files], progress=progress)


def _particles_at_once(array: xr.DataArray, budget: Budget) -> int:
    """Return the particles of a task: those of a block, halved until they fit its budget."""
    particle_bytes = max(1, prod(array.shape[1:]) * array.dtype.itemsize)
    in_block = array.chunks[0][0] if array.chunks else array.shape[0]
    count, recipe = max(1, min(in_block, BLOCK // particle_bytes)), recipe_of(array.data)
    while budget.memory is not None and count > 1:
        chunks = regions.uniform_chunks(array.shape[0], count)
        peak = sampled_cost(recipe, (chunks, *((n,) for n in array.shape[1:])))[1]
        if peak <= (budget.per_task_of(len(chunks)) or 0):
            break
        count //= 2
    return count


def _compute_table(obj: xr.DataArray | xr.Dataset, budget: Budget) -> xr.DataArray | xr.Dataset:
    """Compute the variables and coordinates of a table."""
    built: dict[str, Any] = {}
    table = (
        refitted(obj, budget, built)
        if isinstance(obj, xr.DataArray)
        else obj.assign({name: refitted(a, budget, built) for name, a in obj.items()})
    )
    return table.compute(scheduler=resilient_scheduler())


#: writers of tables by suffix
TABLES = {".csv": csv_text, ".star": star_text}
