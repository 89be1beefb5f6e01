"""Save a stack as a RELION list: MRC files of its particles in a folder, and a STAR file.

The list ``name.star`` names the files of the folder ``name`` beside it: ``000001.mrc`` and so on
for volumes, ``000001.mrcs`` for stacks of frames (the 2-D stacks of RELION 5), and one stack
``images.mrcs`` for images. RELION starts relative names at the current folder, so that is where
they start if the list is below it, and otherwise at the folder of the list.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard
from uuid import uuid4

import numpy as np
import xarray as xr

from lazyvol.errors import TargetExistsError
from lazyvol.io.atomic import replace_folder, store_errors, sync_folder
from lazyvol.io.axes import convert_length, parse_unit
from lazyvol.io.export import Blocks, whole_array
from lazyvol.io.mrc.writer import mrc_header, write_mrc
from lazyvol.io.particle_lists import OPTICS, OTHER_BLOCKS
from lazyvol.io.zarr.layout import Variable
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import Grid, Index, Region, boxes, uniform_chunks
from lazyvol.stack import SPATIAL, STACK

#: dims of the particle in a file, by those of the stack
FORMS = {
    (STACK, "z", "y", "x"): ("z", "y", "x"),
    (STACK, "frame", "y", "x"): (STACK, "y", "x"),
    (STACK, "y", "x"): ("y", "x"),
}
#: all files that a folder of particles may hold
OUR_FILES = re.compile(r"(\d{6,}|images)\.mrcs?")
IMAGE_STACK = "images.mrcs"
IMAGE_NAME = "rlnImageName"
#: relative; as for the files of one stack
SAME_SIZE = 1e-3
#: optics of a stack without its own: RELION refuses a group without voltage and aberration
USUAL_OPTICS: Mapping[str, list[Any]] = {
    "rlnOpticsGroup": [1], "rlnOpticsGroupName": ["opticsGroup1"], "rlnVoltage": [300.0],
    "rlnSphericalAberration": [2.7], "rlnAmplitudeContrast": [0.1],
}  # fmt: skip


def is_image_stack(obj: Any) -> TypeGuard[xr.DataArray]:
    """Return True for an array of particles: volumes, images, or stacks of frames along k."""
    return isinstance(obj, xr.DataArray) and obj.dims in FORMS


@dataclass
class ParticleFiles:
    """The files of the particles of a stack; a sink that takes whole particles."""

    target: str
    temporary: str
    listed_folder: str
    variable: Variable
    grid: Grid

    @property
    def form(self) -> tuple[str, ...]:
        """Return the dims of a particle in its file."""
        return FORMS[self.variable.dims]

    def name(self, number: int) -> str:
        """Return the file name of a particle, counted from 0."""
        return f"{number + 1:06d}.mrc{'s' if STACK in self.form else ''}"

    @property
    def names(self) -> list[str]:
        """Return the names of all particles in the list."""
        numbers = range(self.variable.shape[0])
        if self.form == ("y", "x"):
            return [f"{n + 1:06d}@{self.listed_folder}/{IMAGE_STACK}" for n in numbers]
        return [f"{self.listed_folder}/{self.name(n)}" for n in numbers]

    def write(self, region: Region, block: Array) -> None:
        """Write the particles of a region, a file each."""
        for number, particle in enumerate(block, region[0].start):
            self._write_file(self.name(number), self.form, particle.shape, whole_array(particle))

    def write_stack(self, blocks: Blocks) -> None:
        """Write the one file of a stack of images."""
        self._write_file(IMAGE_STACK, self.variable.dims, self.variable.shape, blocks)

    def _write_file(
        self, name: str, dims: tuple[str, ...], shape: tuple[int, ...], blocks: Blocks
    ) -> None:
        """Write and sync a file of the folder, which nobody reads before it is complete."""
        header = mrc_header(self.target, replace(self.variable, shape=shape, dims=dims))
        path = f"{self.temporary}/{name}"
        with store_errors(path), open(path, "wb") as file:
            write_mrc(file, *header, shape, blocks)
            file.flush()
            os.fsync(file.fileno())

    def has(self, region: Region) -> bool:
        """Return False: a file in the folder may be incomplete."""
        return False

    def file_of(self, region: Region) -> str:
        """Return the path of the first particle of a region, for messages."""
        return f"{self.target}/{self.name(region[0].start)}"

    def missing(self) -> list[Index]:
        """Return the indices of all regions: a list of particles is not resumed."""
        return [index for index, _ in boxes(self.grid)]

    @contextmanager
    def published(self) -> Iterator[None]:
        """Make a folder that replaces the target when the context ends without an error."""
        with store_errors(self.target):
            os.mkdir(self.temporary)
        former = f"{self.temporary}-former"
        try:
            yield
            sync_folder(self.temporary)
            replace_folder(self.temporary, self.target, former)
            shutil.rmtree(former, ignore_errors=True)
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)

    def table(self, stack: xr.DataArray) -> xr.Dataset:
        """Return the facts of the particles with the names of their files, and the optics."""
        facts = {str(n): c.variable for n, c in stack.coords.items() if c.dims == (STACK,)}
        facts[IMAGE_NAME] = xr.Variable(STACK, np.array(self.names, dtype=str))
        attrs = {OTHER_BLOCKS: self._other_blocks(stack.attrs.get(OTHER_BLOCKS, {}))}
        optics = self._optics(stack.attrs.get(OPTICS))
        if optics:
            attrs[OPTICS] = optics
            first = optics.get("rlnOpticsGroup", [1])[0]
            facts.setdefault("optics_group", xr.Variable(STACK, np.full(len(self.names), first)))
        return xr.Dataset(coords=facts, attrs=attrs)

    def _other_blocks(self, blocks: Mapping[str, Any]) -> dict[str, Any]:
        """Return the blocks of the list; ``general`` marks particles of RELION 5 as 2-D stacks."""
        if self.form == (STACK, "y", "x") or "general" in blocks:
            flag = {"rlnTomoSubTomosAre2DStacks": int(STACK in self.form)}
            return {**blocks, "general": {**blocks.get("general", {}), **flag}}
        return dict(blocks)

    def _optics(self, stored: Mapping[str, list[Any]] | None) -> dict[str, list[Any]]:
        """Return optics groups with the pixel size of the stack, or none if it is unknown."""
        pixel = self._pixel_size()
        if pixel is None:
            return dict(stored or {})
        groups = dict(stored or USUAL_OPTICS)
        count = len(next(iter(groups.values())))
        sizes = groups.get("rlnImagePixelSize", [pixel])
        if np.ptp(sizes) <= SAME_SIZE * pixel:  # otherwise the stack has no common size
            groups["rlnImagePixelSize"] = [pixel] * count
        groups["rlnImageSize"] = [self.variable.shape[-1]] * count
        groups["rlnImageDimensionality"] = [3 if "z" in self.form else 2] * count
        return groups

    def _pixel_size(self) -> float | None:
        """Return the voxel size in angstrom; None if it is unknown or differs between the axes."""
        parsed = parse_unit(self.variable.unit)
        sizes = [self.variable.voxel_size.get(d, np.nan) for d in SPATIAL if d in self.form]
        if parsed is None or not np.ptp(sizes) <= SAME_SIZE * max(sizes):
            return None
        unit, factor = parsed
        return float(f"{convert_length(factor * sizes[0], unit, 'angstrom'):.7g}")


def plan_files(
    stack: xr.DataArray, variable: Variable, path: str, at_once: int, overwrite: bool
) -> ParticleFiles:
    """Return the files of a stack for the list ``path``; tasks write ``at_once`` particles.

    Raises
    ------
    LabelError
        MRC has no mode for the dtype, or positions decrease.
    TargetExistsError
        The folder of the particles exists and ``overwrite`` is False, or it holds other files.
    """
    mrc_header(path, replace(variable, shape=stack.shape[1:], dims=FORMS[variable.dims]))
    target = os.path.splitext(os.path.abspath(path))[0]
    require_our_folder(target, overwrite)
    here = Path.cwd() if Path(target).is_relative_to(Path.cwd()) else Path(target).parent
    grid = (uniform_chunks(stack.shape[0], at_once), *((n,) for n in stack.shape[1:]))
    return ParticleFiles(
        target,
        f"{target}.lazyvol-tmp-{uuid4().hex}",
        Path(target).relative_to(here).as_posix(),
        replace(variable, coords={}, attrs={}, large_coords={}),
        grid,
    )


def require_our_folder(folder: str, overwrite: bool) -> None:
    """Raise TargetExistsError if a folder is there and must stay, or holds files of others."""
    if not os.path.lexists(folder):
        return
    if not overwrite or not os.path.isdir(folder):
        raise TargetExistsError(
            f"{folder}: something is stored where the particles of the list belong; choose another "
            "name, or pass overwrite=True to replace a folder of particles"
        )
    others = [name for name in os.listdir(folder) if not OUR_FILES.fullmatch(name)]
    if others:
        raise TargetExistsError(
            f"{folder}: a folder to replace must hold particles alone, found {others[:3]}; choose "
            "another name"
        )
