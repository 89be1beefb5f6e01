"""Files of a screening: volumes, curves, particle lists and the report."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr

from lazyvol.errors import StoreError, TargetExistsError
from lazyvol.io.axes import parse_unit
from lazyvol.io.save_result import save
from lazyvol.io.tables import csv_text, write_text
from lazyvol.io.zarr.run_plan import RunPlan
from lazyvol.screening.lists import NAMES, SUFFIXES, write_lists
from lazyvol.screening.report import write_report
from lazyvol.screening.result import ScreenResult
from lazyvol.screening.results_run import RECORD, REPORT
from lazyvol.stack import spacing, spatial_dims, unit_of

VOLUMES = ("average", "variance", "mask", "kept_average", "kept_half1", "kept_half2")
LISTS = tuple(f"{name}{suffix}" for name in NAMES for suffix in SUFFIXES)
#: all files that a screening may write
FILES = (*(f"{name}.mrc" for name in VOLUMES), "scores.csv", "fsc.csv", *LISTS, RECORD, REPORT)


def results_folder(
    out: str | os.PathLike[str], overwrite: bool, particles: str | os.PathLike[str] | None = None
) -> Path:
    """Return the folder for results, created if missing.

    Raise TargetExistsError if it holds results and ``overwrite`` is False, or if a result would
    replace the input's list ``particles``.
    """
    folder = Path(out)
    if particles is not None and Path(particles).resolve() in {
        (folder / name).resolve() for name in FILES
    }:
        raise TargetExistsError(
            f"screen: particles must not be a result in the folder of the results, got "
            f"{os.fspath(particles)} for {folder}; choose another folder"
        )
    present = [n for n in FILES if (folder / n).exists()]
    if present and not overwrite:
        raise TargetExistsError(
            f"{folder} already holds {', '.join(present)}; choose another folder or pass "
            f"overwrite=True"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"folder {folder} cannot be created: {error.strerror}") from error
    return folder


def write_results(
    folder: Path, result: ScreenResult, *, overwrite: bool, plan: RunPlan | None = None
) -> ScreenResult:
    """Write all files of a screening, the report last; return the result with their names.

    ``plan`` is the record of its run.
    """
    for name, volume in result.volumes.items():
        save(for_mrc(volume), folder / f"{name}.mrc", overwrite=overwrite)
    texts = {"scores.csv": csv_text(result.scores), "fsc.csv": csv_text(result.fsc)}
    texts |= {} if plan is None else {RECORD: plan.encode().decode()}
    for name, text in texts.items():
        write_text(folder / name, text, overwrite=overwrite)
    lists = write_lists(folder, result.scores, result.particle_list, overwrite=overwrite)
    write_report(folder / REPORT, result, overwrite=overwrite)
    written = [folder / f"{name}.mrc" for name in result.volumes] + [folder / n for n in texts]
    files = (*map(str, written), *lists, str(folder / REPORT))
    for path in (folder / name for name in FILES):
        if str(path) not in files:  # of an earlier run, which the report would contradict
            path.unlink(missing_ok=True)
    return replace(result, files=files)


def for_mrc(volume: xr.DataArray) -> xr.DataArray:
    """Return a volume as an MRC file holds it: float32, ascending positions in a length."""
    dims = spatial_dims(volume)
    descending = [d for d in dims if spacing(volume, d) < 0]
    turned = volume.isel({d: slice(None, None, -1) for d in descending}).drop_attrs(deep=False)
    if parse_unit(unit_of(volume, dims[-1])) is None:
        turned = turned.drop_vars([d for d in dims if d in turned.coords])
    return turned.astype(np.float32).reset_coords(drop=True)
