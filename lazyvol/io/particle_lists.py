"""Read particle lists of RELION, STOPGAP, Dynamo and EM motive lists as coordinates on k.

Columns have one set of names and conventions for all programs:

* ``rot``, ``tilt``, ``psi`` in degrees are the Euler angles of RELION: R = Rz(rot) Ry(tilt)
  Rz(psi) rotates the particle onto the reference, for vectors (x, y, z), in scipy
  ``Rotation.from_euler("ZYZ", ...)``; its inverse rotates the reference onto the particle
  (Heymann, Chagoyen and Belnap, J. Struct. Biol. 151, 2005). Dynamo stores this rotation as
  extrinsic zxz angles (tdrot, tilt, narot), STOPGAP and EM lists its inverse as extrinsic zxz
  angles (phi, theta, psi).
* ``coordinate_x/y/z`` is the centre of the extracted box in voxels of the tomogram;
  ``centred_x/y/z`` is that position relative to the centre of the tomogram, in angstrom
  (RELION 5).
* ``shift_x/y/z`` is the translation that moves the particle to the centre of its box, the origin
  of RELION. The particle is at coordinate - shift; shifts of programs that add them are negated.
* ``subtomogram_rot/tilt/psi`` is the orientation of the extracted box in the tomogram, in degrees
  (RELION 5); where it is present, ``rot``, ``tilt`` and ``psi`` are relative to this box.
* ``score``, ``class``, ``half`` (1 or 2), ``tomogram``, ``particle`` (its name), ``optics_group``.

All other columns keep their names.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lazyvol.errors import FormatError, SourceNotFoundError
from lazyvol.io import commas, em, star
from lazyvol.io.places import path_text
from lazyvol.plan.recipes.base import Array
from lazyvol.plan.regions import whole
from lazyvol.stack import SPATIAL, STACK

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

ANGLES = ("rot", "tilt", "psi")
#: name of a column by RELION label; of several labels in a file the first counts
RELION = {
    "rlnAngleRot": "rot", "rlnAngleTilt": "tilt", "rlnAnglePsi": "psi",
    "rlnCoordinateX": "coordinate_x", "rlnCoordinateY": "coordinate_y",
    "rlnCoordinateZ": "coordinate_z", "rlnCenteredCoordinateXAngst": "centred_x",
    "rlnCenteredCoordinateYAngst": "centred_y", "rlnCenteredCoordinateZAngst": "centred_z",
    "rlnOriginXAngst": "shift_x", "rlnOriginYAngst": "shift_y", "rlnOriginZAngst": "shift_z",
    "rlnOriginX": "shift_x", "rlnOriginY": "shift_y", "rlnOriginZ": "shift_z",
    "rlnTomoName": "tomogram", "rlnClassNumber": "class",
    "rlnRandomSubset": "half", "rlnOpticsGroup": "optics_group",
    "rlnAutopickFigureOfMerit": "score", "rlnTomoParticleName": "particle",
    "rlnTomoSubtomogramRot": "subtomogram_rot", "rlnTomoSubtomogramTilt": "subtomogram_tilt",
    "rlnTomoSubtomogramPsi": "subtomogram_psi",
}  # fmt: skip
STOPGAP = {
    "orig_x": "coordinate_x", "orig_y": "coordinate_y", "orig_z": "coordinate_z",
    "x_shift": "shift_x", "y_shift": "shift_y", "z_shift": "shift_z", "phi": "phi", "psi": "psi",
    "the": "theta", "class": "class", "halfset": "half", "tomo_num": "tomogram", "score": "score",
}  # fmt: skip
#: names of the columns of a Dynamo table, by number from 0; others are left out
DYNAMO = {
    0: "tag", 3: "shift_x", 4: "shift_y", 5: "shift_z", 6: "tdrot", 7: "tilt", 8: "narot",
    9: "score", 19: "tomogram", 21: "class", 23: "coordinate_x", 24: "coordinate_y",
    25: "coordinate_z",
}  # fmt: skip
#: names of the rows of an EM motive list, by number from 0; others are left out
MOTIVE = {
    0: "score", 3: "tag", 4: "tomogram", 5: "object", 7: "coordinate_x", 8: "coordinate_y",
    9: "coordinate_z", 10: "shift_x", 11: "shift_y", 12: "shift_z", 16: "phi", 17: "psi",
    18: "theta", 19: "class",
}  # fmt: skip
#: names of dims, which a column may not have
DIM_NAMES = (STACK, *SPATIAL, "frame")
#: STAR label of the coordinate ``k``
INDEX_LABEL = "lazyvol_k"
INTEGER_COLUMNS = ("tag", "class", "tomogram", "object")
#: attributes that hold the table of optics groups, and all other blocks of a STAR file by name
OPTICS, OTHER_BLOCKS = "optics", "tables"
#: labels of an optimisation set of RELION 5
PARTICLES_FILE, TOMOGRAMS_FILE = "rlnTomoParticlesFile", "rlnTomoTomogramsFile"
#: relative paths are searched in this many parent folders: those of RELION start at the project
#: folder, and its lists are one or two folders below it
PARENTS = 4
#: header of a CSV column with its unit
NAME_WITH_UNIT = re.compile(r"(.+) \[([^\[\]]+)\]")

Columns = dict[str, Array]


@dataclass(frozen=True)
class StarList:
    """The particles of the STAR file ``path``, and all blocks of the file in their order.

    ``tomograms`` is the table of tomograms that an optimisation set names beside the particles.
    """

    path: str
    blocks: tuple[star.Block, ...]
    particles: star.Block
    tomograms: star.Block | None = None

    @property
    def optics(self) -> star.Block | None:
        """Return the block of optics groups."""
        return next((b for b in self.blocks if b.name == OPTICS), None)

    @property
    def attrs(self) -> dict[str, Any]:
        """Return the blocks other than the particles as attributes of plain values."""
        others = [b for b in self.blocks if b is not self.particles and b.name != OPTICS]
        others += [self.tomograms] if self.tomograms else []
        attrs = {OPTICS: self.optics.plain} if self.optics else {}
        return attrs | ({OTHER_BLOCKS: {b.name: b.plain for b in others}} if others else {})


def particles(path: str | os.PathLike[str]) -> xr.Dataset:
    """Coordinates, angles and other columns of a particle list along k, without the images.

    Parameters
    ----------
    path
        A STAR file of RELION (3.0 to 5, also an optimisation set) or STOPGAP (.star), a Dynamo
        table (.tbl), a motive list in EM format (.em), or a table that ``lazyvol.save`` wrote as
        .csv.
        ``help(lazyvol.io.particle_lists)`` defines the columns and their units.

    Returns
    -------
    xarray.Dataset
        One coordinate on k per column, in memory, with its unit in ``attrs["units"]``. The
        attributes ``optics`` and ``tables`` hold the optics groups and all other blocks of a STAR
        file by name, ``tables["global"]`` the tomograms of an optimisation set.
        ``stack.assign_coords(listed.coords)`` assigns them to a stack.

    Raises
    ------
    SourceNotFoundError
        The file does not exist.
    FormatError
        The file is not a particle list of one of these formats.
    LimitExceeded
        The file is larger than 256 MiB.

    References
    ----------
    Heymann, Chagoyen and Belnap, J. Struct. Biol. 151, 196 (2005): conventions of Euler angles.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> row = "7 1 1 0.5 -1 2 90 30 -90 0.2 0 0 0 0 0 0 0 0 0 3 0 1 0 100 200 300"
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.tbl").write_text(row)
    ...     listed = particles(f"{folder}/a.tbl")
    >>> listed.shift_x.item(), listed.tomogram.item(), listed.tilt.item().__round__(9)
    (-0.5, 3, 30.0)
    """
    where = path_text(path, "particles: path")
    suffix = PurePath(where).suffix.lower()
    if suffix == ".star":
        found = star_list(where)
        columns, shift_unit = particle_columns(found.particles, found.optics)
        return as_dataset(columns, shift_unit, attrs=found.attrs)
    if suffix == ".tbl":
        return as_dataset(*_dynamo(where))
    if suffix == ".em":
        return as_dataset(*_motive_list(where))
    if suffix == ".csv":
        return _csv(where)
    raise FormatError(f"{where}: particle lists are .star, .tbl, .em and .csv files; convert it")


def _csv(where: str) -> xr.Dataset:
    """Return the columns of a CSV table of `lazyvol.save`, which may have units in brackets."""
    columns, units = Columns(), dict[str, str]()
    for header, values in commas.read(where).items():
        match = NAME_WITH_UNIT.fullmatch(header)
        has_unit = match is not None and match[1] in standard_units("voxel")
        name, unit = (match[1], match[2]) if match and has_unit else (header, "")
        name = f"list_{name}" if name in DIM_NAMES and name != STACK else name
        columns[name] = values
        units |= {name: unit} if unit else {}
    if STACK in columns and np.array_equal(columns[STACK], np.arange(len(columns[STACK]))):
        del columns[STACK]
    return as_dataset(columns, "voxel", units=units)


def star_list(where: str) -> StarList:
    """Return the particles of a STAR file; an optimisation set leads to the files that it names.

    Raises
    ------
    FormatError
        No block lists particles.
    SourceNotFoundError
        A file that an optimisation set names does not exist.
    """
    blocks, tomograms = star.read(where), None
    named = next((b.plain for b in blocks if not b.loop and PARTICLES_FILE in b.words), {})
    if TOMOGRAMS_FILE in named:
        tables = star.read(find_file(named[TOMOGRAMS_FILE], where, where))
        tomograms = next((b for b in tables if b.name == "global"), None)
    if named:
        where = find_file(named[PARTICLES_FILE], where, where)
        blocks = star.read(where)
    loops = [b for b in blocks if b.loop and b.name != OPTICS]
    if not loops:
        raise FormatError(
            f"{where}: a particle list must have a loop of particles, found the blocks "
            f"{[b.name for b in blocks]}"
        )
    longest = max(loops, key=len)
    particles = next((b for b in loops if b.name == "particles"), longest)
    return StarList(where, tuple(blocks), particles, tomograms)


def particle_columns(block: star.Block, optics: star.Block | None) -> tuple[Columns, str]:
    """Return the columns of a block by their names in lazyvol, and the unit of the shifts."""
    if {"motl_idx", "the"} <= set(block.columns):
        return _stopgap(block.columns), "voxel"
    columns = {_column_name(label, block.columns): v for label, v in block.columns.items()}
    if "rlnCoordinateZ" in block.columns and "rlnMicrographName" in block.columns:
        columns.setdefault("tomogram", block.columns["rlnMicrographName"])
    if "rlnOriginXAngst" in block.columns:
        return columns, "angstrom"
    sizes = pixel_sizes(block, optics)
    if sizes is None:
        return columns, "voxel"
    for label in ("rlnOriginX", "rlnOriginY", "rlnOriginZ"):
        if label in block.columns:
            columns[_column_name(label, block.columns)] = block.columns[label] * sizes
    return columns, "angstrom"


def _column_name(label: str, columns: Mapping[str, Array]) -> str:
    """Return the lazyvol name of a RELION label; the label where another label has that name."""
    name = RELION.get(label)
    if label == INDEX_LABEL:
        return STACK
    if name is None:
        return f"list_{label}" if label in DIM_NAMES else label
    synonyms = [synonym for synonym, its_name in RELION.items() if its_name == name]
    first = next(synonym for synonym in synonyms if synonym in columns)
    return name if first == label and name not in columns else label


def pixel_sizes(block: star.Block, optics: star.Block | None) -> Array | None:
    """Return angstrom per pixel for every particle; None if the file lacks it."""
    columns = block.columns
    if optics is not None and len(optics) and "rlnImagePixelSize" in optics.columns:
        groups = optics.columns.get("rlnOpticsGroup", np.arange(1, len(optics) + 1))
        sizes = dict(
            zip(groups.tolist(), optics.columns["rlnImagePixelSize"].tolist(), strict=True)
        )
        group_of = columns.get("rlnOpticsGroup", np.full(len(block), groups[0]))
        pixels = np.array([sizes.get(g, np.nan) for g in group_of.tolist()], np.float64)
        return pixels if np.isfinite(pixels).all() else None
    if "rlnPixelSize" in columns:
        return columns["rlnPixelSize"].astype(np.float64)
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(columns):
        microns = columns["rlnDetectorPixelSize"].astype(np.float64)
        return np.asarray(1e4 * microns / columns["rlnMagnification"])
    return None


def _stopgap(table: Mapping[str, Array]) -> Columns:
    columns = {STOPGAP.get(label, label): values for label, values in table.items()}
    if "half" in columns and columns["half"].dtype.kind == "U":
        columns["half"] = np.where(columns["half"] == "B", 2, 1)
    return _with_relion_angles(_negate_shifts(columns), _inverse_rotation(columns))


def lines_of(where: str) -> list[str]:
    """Return the lines of a text file that are not empty."""
    return [line for line in star.text_of(where).split("\n") if line.strip()]


def _dynamo(where: str) -> tuple[Columns, str]:
    rows = [line.split() for line in lines_of(where)]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or min(lengths) < 26:
        raise FormatError(
            f"{where}: a Dynamo table must have 26 columns or more in every row, found "
            f"{sorted(lengths)[:5]}"
        )
    try:
        table = np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise FormatError(f"{where}: a Dynamo table must hold numbers, but: {error}") from error
    columns = _to_integers({name: table[:, n] for n, name in DYNAMO.items()})
    rotation = _rotation(columns, "tdrot", "tilt", "narot")
    return _with_relion_angles(_negate_shifts(columns), rotation), "voxel"


def motive_table(where: str) -> Array:
    """Return the values of a motive list, a row per particle."""
    source = em.probe(where).source
    if len(source.shape) != 2 or source.shape[1] != 20:
        raise FormatError(
            f"{where}: a motive list must have 20 values per particle, found an array of "
            f"{source.shape}"
        )
    return source.read(whole(source.shape))


def _motive_list(where: str) -> tuple[Columns, str]:
    table = motive_table(where).astype(np.float64)
    columns = _to_integers({name: table[:, n] for n, name in MOTIVE.items()})
    return _with_relion_angles(_negate_shifts(columns), _inverse_rotation(columns)), "voxel"


def _inverse_rotation(columns: Columns) -> "Rotation":
    """Return the inverse of the rotation that takes the reference onto the particle."""
    return _rotation(columns, "phi", "theta", "psi").inv()


def _rotation(columns: Columns, *names: str) -> "Rotation":
    """Return the rotation of extrinsic zxz angles."""
    from scipy.spatial.transform import Rotation  # takes 0.4 s to import

    angles = np.stack([columns[name] for name in names], -1)
    return Rotation.from_euler("zxz", angles, degrees=True)


def _negate_shifts(columns: Columns) -> Columns:
    """Return shifts that a program adds to coordinates as RELION subtracts them."""
    return {n: 0.0 - v if n.startswith("shift_") else v for n, v in columns.items()}


def _with_relion_angles(columns: Columns, rotation: "Rotation") -> Columns:
    """Replace phi, theta, psi by RELION angles; where tilt is 0, psi is 0."""
    angles = rotation.as_euler("ZYZ", degrees=True, suppress_warnings=True)
    kept = {n: v for n, v in columns.items() if n not in ("phi", "psi", "theta")}
    return kept | dict(zip(ANGLES, np.atleast_2d(angles).T, strict=True))


def _to_integers(columns: Columns) -> Columns:
    """Round the columns of counts and labels to integers where floats represent all of them."""
    for name in INTEGER_COLUMNS:
        if name in columns and (np.abs(columns[name]) < 2.0**53).all():
            columns[name] = np.rint(columns[name]).astype(np.int64)
    return columns


def standard_units(shift_unit: str) -> dict[str, str]:
    """Return the unit of every column that has one."""
    lengths = (("coordinate", "voxel"), ("centred", "angstrom"), ("shift", shift_unit))
    units = {f"{quantity}_{d}": unit for d in "xyz" for quantity, unit in lengths}
    return units | dict.fromkeys((*ANGLES, *(f"subtomogram_{a}" for a in ANGLES)), "degree")


def as_dataset(
    columns: Columns,
    shift_unit: str,
    *,
    units: Mapping[str, str] = MappingProxyType({}),
    attrs: Mapping[str, Any] = MappingProxyType({}),
) -> xr.Dataset:
    """Return columns as coordinates on k; ``units`` replaces standard units."""
    return xr.Dataset(coords=coordinates_on_k(columns, shift_unit, units), attrs=attrs)


def coordinates_on_k(
    columns: Columns, shift_unit: str, units: Mapping[str, str] = MappingProxyType({})
) -> dict[str, tuple[str, Array, dict[str, str]]]:
    """Return columns as coordinates on k with their units; ``units`` replaces standard units."""
    known = standard_units(shift_unit) | dict(units)
    return {n: (STACK, v, {"units": known[n]} if n in known else {}) for n, v in columns.items()}


def nearest(file: str, path: str) -> Path | None:
    """Return the path of a listed file, the nearest to the list ``path``; None if it is absent."""
    start = Path(os.path.abspath(path)).parent
    paths = (folder / file for folder in (start, *start.parents[:PARENTS], Path.cwd()))
    return next((found for found in paths if file and found.is_file()), None)


def find_file(file: str, path: str, row: str) -> str:
    """Return the nearest path of a listed file; raise SourceNotFoundError if there is none."""
    found = nearest(file, path)
    if found is None:
        start = Path(os.path.abspath(path)).parent
        raise SourceNotFoundError(
            f"{row}: the list names {file!r}, which is not in {start}, nor in the {PARENTS} "
            "folders above it; move the list to the folder of its project, or read the columns "
            "without images with lazyvol.io.particles"
        )
    return str(found)
