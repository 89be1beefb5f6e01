"""Particle lists of other programs as facts along k: RELION, STOPGAP, Dynamo, EM motive lists.

Whoever wrote the list, the facts are the same:

* ``rot``, ``tilt``, ``psi`` in degrees are RELION's Euler angles: R = Rz(rot) Ry(tilt) Rz(psi)
  takes the particle to the reference, ``scipy``'s ``Rotation.from_euler("ZYZ", ...)``, of vectors
  (x, y, z); its inverse takes the reference to the particle (Heymann, Chagoyen and Belnap, J.
  Struct. Biol. 151, 2005). Dynamo's are extrinsic zxz (tdrot, tilt, narot) of the same rotation,
  those of STOPGAP and of EM lists extrinsic zxz (phi, theta, psi) of its inverse.
* ``coordinate_x/y/z`` is where the box was cut, in voxels of the tomogram; ``centred_x/y/z`` the
  same from the tomogram's centre in angstrom (RELION 5).
* ``shift_x/y/z`` is the translation that brings the particle to the middle of its box: RELION's
  origin. The particle lies at coordinate - shift; lists that add their shifts have it negated.
* ``score``, ``class``, ``half`` (1 or 2), ``tomogram``, ``optics_group``.

All other columns keep their names.
"""

import os
import re
from collections.abc import Mapping
from pathlib import PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lazyvol.errors import FormatError, LabelError
from lazyvol.io import commas, em, star
from lazyvol.io.rows import columns
from lazyvol.plan.recipes.base import Array
from lazyvol.stack import SPATIAL, STACK

if TYPE_CHECKING:
    from scipy.spatial.transform import Rotation

ANGLES = ("rot", "tilt", "psi")
#: name of a fact by RELION's label; of several that are there the first counts
RELION = {
    "rlnAngleRot": "rot", "rlnAngleTilt": "tilt", "rlnAnglePsi": "psi",
    "rlnCoordinateX": "coordinate_x", "rlnCoordinateY": "coordinate_y",
    "rlnCoordinateZ": "coordinate_z", "rlnCenteredCoordinateXAngst": "centred_x",
    "rlnCenteredCoordinateYAngst": "centred_y", "rlnCenteredCoordinateZAngst": "centred_z",
    "rlnOriginXAngst": "shift_x", "rlnOriginYAngst": "shift_y", "rlnOriginZAngst": "shift_z",
    "rlnOriginX": "shift_x", "rlnOriginY": "shift_y", "rlnOriginZ": "shift_z",
    "rlnTomoName": "tomogram",  "rlnClassNumber": "class",
    "rlnRandomSubset": "half", "rlnOpticsGroup": "optics_group",
    "rlnAutopickFigureOfMerit": "score",
}  # fmt: skip
STOPGAP = {
    "orig_x": "coordinate_x", "orig_y": "coordinate_y", "orig_z": "coordinate_z",
    "x_shift": "shift_x", "y_shift": "shift_y", "z_shift": "shift_z", "phi": "phi", "psi": "psi",
    "the": "theta", "class": "class", "halfset": "half", "tomo_num": "tomogram", "score": "score",
}  # fmt: skip
#: columns of a Dynamo table from the first; the others are left out
DYNAMO = {
    0: "tag", 3: "shift_x", 4: "shift_y", 5: "shift_z", 6: "tdrot", 7: "tilt", 8: "narot",
    9: "score", 19: "tomogram", 21: "class", 23: "coordinate_x", 24: "coordinate_y",
    25: "coordinate_z",
}  # fmt: skip
#: rows of an EM motive list; the others are left out
MOTIVE = {
    0: "score", 3: "tag", 4: "tomogram", 5: "object", 7: "coordinate_x", 8: "coordinate_y",
    9: "coordinate_z", 10: "shift_x", 11: "shift_y", 12: "shift_z", 16: "phi", 17: "psi",
    18: "theta", 19: "class",
}  # fmt: skip
#: names of dims, which no fact may have
TAKEN = (STACK, *SPATIAL, "frame")
#: label of what counts the particles, where it is saved
INDEX = "lazyvol_k"
COUNTED = ("tag", "class", "tomogram", "object")
#: attribute that holds the table of optics groups
OPTICS = "optics"
#: name of a column of commas with its unit
TITLED = re.compile(r"(.+) \[([^\[\]]+)\]")

Facts = dict[str, Array]


def particles(path: str | os.PathLike[str]) -> xr.Dataset:
    """Facts of the particles in a list, along k, without their images.

    Parameters
    ----------
    path
        A STAR file of RELION (3.0 to 5) or STOPGAP (.star), a Dynamo table (.tbl), a motive
        list in EM format (.em), or a table that was saved as .csv. See
        `lazyvol.io.particle_lists` for what the facts mean.

    Returns
    -------
    xarray.Dataset
        Coordinates on k: ``stack.assign_coords(found.coords)`` gives them to a stack.

    Raises
    ------
    FormatError
        The file is no particle list.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> row = "7 1 1 0.5 -1 2 90 30 -90 0.2 0 0 0 0 0 0 0 0 0 3 0 1 0 100 200 300"
    >>> with TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.tbl").write_text(row)
    ...     found = particles(f"{folder}/a.tbl")
    >>> found.shift_x.item(), found.tomogram.item(), found.tilt.item().__round__(9)
    (-0.5, 3, 30.0)
    """
    where = os.fspath(path)
    suffix = PurePath(where).suffix.lower()
    if suffix == ".star":
        block, optics = particle_block(star.read(where), where)
        return dataset(*facts_of(block, optics), optics)
    if suffix == ".tbl":
        return dataset(*_dynamo(where))
    if suffix == ".em":
        return dataset(*_motive(where))
    if suffix == ".csv":
        return _table(where)
    raise FormatError(f"{where}: particle lists are .star, .tbl, .em and .csv files; convert it")


def _table(where: str) -> xr.Dataset:
    """Facts of a table of commas as `lazyvol.save` writes it, units in brackets behind a name."""
    found, said = Facts(), dict[str, str]()
    for label, values in commas.read(where).items():
        titled = TITLED.fullmatch(label)
        known = titled is not None and titled[1] in units("voxel")
        name, unit = (titled[1], titled[2]) if titled and known else (label, "")
        name = f"list_{name}" if name in TAKEN and name != STACK else name
        found[name] = values
        said |= {name: unit} if unit else {}
    if STACK in found and np.array_equal(found[STACK], np.arange(len(found[STACK]))):
        del found[STACK]
    return dataset(found, "voxel", said=said)


def particle_block(blocks: list[star.Block], where: str) -> tuple[star.Block, star.Block | None]:
    """The block that lists particles, and that of optics groups."""
    optics = next((b for b in blocks if b.name == OPTICS), None)
    loops = [b for b in blocks if b.loop and b is not optics]
    if not loops:
        raise FormatError(
            f"{where}: a particle list has a loop of particles, found the blocks "
            f"{[b.name for b in blocks]}"
        )
    return next((b for b in loops if b.name == "particles"), max(loops, key=len)), optics


def facts_of(block: star.Block, optics: star.Block | None) -> tuple[Facts, str]:
    """Facts of the particles in a block, and the unit of their shifts."""
    if {"motl_idx", "the"} <= set(block.columns):
        return _stopgap(block.columns), "voxel"
    found = {_fact(label, block.columns): values for label, values in block.columns.items()}
    if "rlnCoordinateZ" in block.columns and "rlnMicrographName" in block.columns:
        found.setdefault("tomogram", block.columns["rlnMicrographName"])
    if "rlnOriginXAngst" in block.columns:
        return found, "angstrom"
    sizes = pixel_sizes(block, optics)
    if sizes is None:
        return found, "voxel"
    for label in ("rlnOriginX", "rlnOriginY", "rlnOriginZ"):
        if label in block.columns:
            found[_fact(label, block.columns)] = block.columns[label] * sizes
    return found, "angstrom"


def _fact(label: str, columns: Mapping[str, Array]) -> str:
    """Name of the fact in a column: that of RELION's first label, else the label's own."""
    name = RELION.get(label)
    if label == INDEX:
        return STACK
    if name is None:
        return f"list_{label}" if label in TAKEN else label
    rivals = [other for other, own in RELION.items() if own == name and other in columns]
    return name if rivals[0] == label and name not in columns else label


def pixel_sizes(block: star.Block, optics: star.Block | None) -> Array | None:
    """Angstrom per pixel of every particle's image, where the file says."""
    columns = block.columns
    if optics is not None and len(optics) and "rlnImagePixelSize" in optics.columns:
        groups = optics.columns.get("rlnOpticsGroup", np.arange(1, len(optics) + 1))
        sizes = dict(
            zip(groups.tolist(), optics.columns["rlnImagePixelSize"].tolist(), strict=True)
        )
        mine = columns.get("rlnOpticsGroup", np.full(len(block), groups[0]))
        found = np.array([sizes.get(g, np.nan) for g in mine.tolist()], np.float64)
        return found if np.isfinite(found).all() else None
    if "rlnPixelSize" in columns:
        return columns["rlnPixelSize"].astype(np.float64)
    if {"rlnDetectorPixelSize", "rlnMagnification"} <= set(columns):
        microns = columns["rlnDetectorPixelSize"].astype(np.float64)
        return np.asarray(1e4 * microns / columns["rlnMagnification"])
    return None


def _stopgap(columns: Mapping[str, Array]) -> Facts:
    found = {STOPGAP.get(label, label): values for label, values in columns.items()}
    if "half" in found and found["half"].dtype.kind == "U":
        found["half"] = np.where(found["half"] == "B", 2, 1)
    return _turned(_negated(found), _inverse(found))


def _dynamo(where: str) -> tuple[Facts, str]:
    rows = [line.split() for line in star.text_of(where).split("\n") if line.strip()]
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or min(lengths) < 26:
        raise FormatError(
            f"{where}: a Dynamo table has 26 columns or more in every row, found "
            f"{sorted(lengths)[:5]}"
        )
    try:
        table = np.array([[float(word) for word in row] for row in rows])
    except ValueError as error:
        raise FormatError(f"{where}: a Dynamo table holds numbers, but: {error}") from error
    found = _counted({name: table[:, n] for n, name in DYNAMO.items()})
    return _turned(_negated(found), _rotation(found, "tdrot", "tilt", "narot")), "voxel"


def _motive(where: str) -> tuple[Facts, str]:
    opened = em.probe(where)
    if opened.dims != ("y", "x") or opened.source.shape[1] != 20:
        raise FormatError(
            f"{where}: a motive list has 20 values for each particle, found an array of "
            f"{opened.source.shape}"
        )
    rows = opened.source.shape[0]
    table = opened.source.read((slice(0, rows), slice(0, 20))).astype(np.float64)
    found = _counted({name: table[:, n] for n, name in MOTIVE.items()})
    return _turned(_negated(found), _inverse(found)), "voxel"


def _inverse(found: Facts) -> "Rotation":
    """Rotation to the reference from angles that turn the reference to the particle."""
    return _rotation(found, "phi", "theta", "psi").inv()


def _rotation(found: Facts, *names: str) -> "Rotation":
    """Rotation by extrinsic zxz angles; scipy's are imported here, for that takes 0.4 s."""
    from scipy.spatial.transform import Rotation

    angles = np.stack([found.pop(name) for name in names], -1)
    return Rotation.from_euler("zxz", angles, degrees=True)


def _negated(found: Facts) -> Facts:
    """Shifts that were added to coordinates as those that are subtracted."""
    return {n: 0.0 - v if n.startswith("shift_") else v for n, v in found.items()}


def _turned(found: Facts, rotation: "Rotation") -> Facts:
    """Facts with RELION's angles; of a tilt of 0 the whole turn is in ``rot``."""
    angles = rotation.as_euler("ZYZ", degrees=True, suppress_warnings=True)
    kept = {n: v for n, v in found.items() if n not in ("phi", "psi", "theta")}
    return kept | dict(zip(ANGLES, np.atleast_2d(angles).T, strict=True))


def _counted(found: Facts) -> Facts:
    """Facts that are whole numbers as such."""
    for name in COUNTED:
        whole = np.rint(found.get(name, np.nan))
        if name in found and np.isfinite(whole).all():
            found[name] = whole.astype(np.int64)
    return found


def units(shift: str) -> dict[str, str]:
    """Unit of each fact that has one."""
    places = {f"{what}_{d}": unit for d in "xyz" for what, unit in (
        ("coordinate", "voxel"), ("centred", "angstrom"), ("shift", shift))}  # fmt: skip
    return places | dict.fromkeys(ANGLES, "degree")


def dataset(
    facts: Facts,
    shift: str,
    optics: star.Block | None = None,
    said: Mapping[str, str] = MappingProxyType({}),
) -> xr.Dataset:
    """Facts as coordinates on k."""
    known = units(shift) | dict(said)
    coords = {n: (STACK, v, {"units": known[n]} if n in known else {}) for n, v in facts.items()}
    attrs = {} if optics is None else {OPTICS: table_of(optics)}
    return xr.Dataset(coords=coords, attrs=attrs)


def table_of(block: star.Block) -> dict[str, list[Any]]:
    """Columns of a block as plain values."""
    return {name: values.tolist() for name, values in block.columns.items()}


def star_text(table: xr.DataArray | xr.Dataset, where: str = "a .star file") -> str:
    """What is along one dim as a RELION STAR file: facts under RELION's labels, others as named.

    Raises
    ------
    LabelError
        A variable has other dims, a fact has another unit than RELION's, a name has white space,
        or a value cannot be written.
    """
    dim, found = columns(table, where)
    if dim in table.coords:
        other = f"list_{dim}" if dim in TAKEN else dim
        found = {INDEX if dim == STACK else other: table[dim], **found}
    shift = _unit_of_shifts(found, where)
    labels = {n: _label(n, a, shift, where) for n, a in found.items()}
    bad = [label for label in labels.values() if not label or set(label) & set(star.WHITE + "\n")]
    if bad or len({*labels.values()}) != len(labels):
        raise LabelError(
            f"{where}: columns must have names of their own, no spaces, got "
            f"{bad or sorted(labels)}; rename them"
        )
    notes = (table.attrs, *(a.attrs for a in found.values()))
    optics = next((n[OPTICS] for n in notes if OPTICS in n), None)
    blocks = [(OPTICS, optics)] if isinstance(optics, Mapping) else []
    return star.text([*blocks, ("particles", {labels[n]: a.values for n, a in found.items()})])


def _unit_of_shifts(found: Mapping[str, xr.DataArray], where: str) -> str:
    """Unit of all shifts, one that RELION has a label for."""
    shifts = [n for n in found if n.startswith("shift_") and n[6:] in ("x", "y", "z")]
    told = {str(found[n].attrs.get("units", "voxel")) for n in shifts} or {"voxel"}
    if len(told) > 1 or not told <= {"voxel", "angstrom"}:
        raise LabelError(
            f"{where}: shifts must all be in voxel or all in angstrom, got {sorted(told)}; "
            "convert them and set attrs['units']"
        )
    return told.pop()


def _label(name: str, values: xr.DataArray, shift: str, where: str) -> str:
    """RELION's label of a fact in RELION's unit; numbers under labels of names keep their own."""
    if name in units(shift):
        own = values.attrs.get("units", units(shift)[name])
        if own != units(shift)[name]:
            raise LabelError(
                f"{where}: {name} must be in {units(shift)[name]}, got {own}; convert it and set "
                "attrs['units'], or rename it"
            )
    labels = [label for label, own in RELION.items() if own == name]
    if name.startswith("shift_") and labels:
        labels = [label for label in labels if label.endswith("Angst") == (shift == "angstrom")]
    label = labels[0] if labels else name
    return name if star.NAMES.fullmatch(label) and values.dtype.kind not in "UOT" else label
