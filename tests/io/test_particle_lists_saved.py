"""Particle lists saved as STAR, CSV and zarr are restored; lists of 0 and 1 particles."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import FormatError, LabelError, LossWarning, SourceNotFoundError
from lazyvol.io import star
from tests.io.test_particle_lists import TURNS, listed, real

REAL = (
    *("star_tbl/relion_3.1_optics2.star", "star_tbl/relion_3.0.star"),
    *("star_tbl/relion_with_optics_group.star", "star_tbl/warp2_particles_matching.star"),
    *("star_tbl/dynamo_b4_motl.tbl", "cryoet_em_format/motl_ribosome.em"),
    "particles_2d/rln_proj_64_centered.star",
)


def check_saved(found: xr.Dataset, folder: Path) -> None:
    """Check that every format restores the list."""
    lv.save(found, folder / "again.star")
    xr.testing.assert_identical(lv.io.particles(folder / "again.star"), found)
    lv.save(found.drop_attrs(deep=False), folder / "again.csv")
    xr.testing.assert_identical(lv.io.particles(folder / "again.csv"), found.drop_attrs(deep=False))
    lv.save(found, folder / "again.zarr")
    xr.testing.assert_identical(lv.open(folder / "again.zarr").load(), found)


@pytest.mark.parametrize("program", TURNS)
def test_a_list_of_any_program_comes_back(program, tmp_path):
    check_saved(lv.io.particles(listed(tmp_path, program)), tmp_path)


@pytest.mark.parametrize("file", REAL)
def test_real_lists_come_back(file, tmp_path):
    check_saved(lv.io.particles(real(file)), tmp_path)


def relion(folder: Path, **columns: object) -> Path:
    path = folder / "a.star"
    path.write_text(star.text([("particles", columns)]))
    return path


@pytest.mark.parametrize("count", [0, 1])
def test_lists_of_none_and_of_one(count, tmp_path):
    columns = {
        "rlnMicrographName": np.array(["12", "b"])[:count], "rlnOriginXAngst": [1.5, 2.0][:count],
        "rlnAngleRot": [10.0, 20.0][:count],
    }  # fmt: skip
    found = lv.io.particles(relion(tmp_path, **columns))
    assert found.sizes == {"k": count}
    assert found.rlnMicrographName.dtype.kind == "U"
    check_saved(found, tmp_path)
    if not count:
        with pytest.raises(FormatError, match="must name images"):
            lv.open(tmp_path / "a.star")


def test_no_stopgap_particles_are_a_list_of_none(tmp_path):
    names = ("motl_idx", "tomo_num", "halfset", "x_shift", "phi", "psi", "the")
    found = lv.io.particles(relion(tmp_path, **{n: np.array([], float) for n in names}))
    assert found.sizes == {"k": 0}
    assert {"rot", "tilt", "psi", "shift_x"} <= set(found.coords)


def test_shifts_in_angstrom_count_before_those_in_pixels(tmp_path):
    columns = {"rlnOriginX": [1.0], "rlnOriginXAngst": [2.5]}
    for names in (columns, dict(reversed(columns.items()))):
        found = lv.io.particles(relion(tmp_path, **names))
        assert (found.shift_x.item(), found.shift_x.attrs["units"]) == (2.5, "angstrom")
        assert found.rlnOriginX.item() == 1.0


def test_a_fact_of_ours_counts_before_one_of_the_same_name(tmp_path):
    found = lv.io.particles(relion(tmp_path, rlnTomoName=["a"], tomogram=[3]))
    assert (found.tomogram.item(), found.rlnTomoName.item()) == (3, "a")


@pytest.mark.parametrize("suffix", ["star", "csv"])
def test_shifts_over_an_axis_are_columns(suffix, tmp_path):
    values = np.arange(6.0).reshape(2, 3)
    shift = xr.DataArray(
        values, {"axis": ["z", "y", "x"]}, ("k", "axis"), "shift", {"units": "angstrom"}
    )
    table = xr.Dataset({"shift": shift, "ncc": ("k", [0.5, 0.25])})
    path = tmp_path / f"a.{suffix}"
    for saved in (table, table.chunk(k=1), table.transpose("axis", "k")):
        lv.save(saved, path, overwrite=True)
        found = lv.io.particles(path)
        for n, dim in enumerate("zyx"):
            assert found[f"shift_{dim}"].values.tolist() == values[:, n].tolist()
            assert found[f"shift_{dim}"].attrs["units"] == "angstrom"
        assert found.ncc.values.tolist() == [0.5, 0.25]
    lv.save(shift.rename("turn").drop_attrs(), path, overwrite=True)
    assert set(lv.io.particles(path).coords) == {"turn_z", "turn_y", "turn_x"}


@pytest.mark.parametrize("suffix", ["star", "csv"])
def test_what_has_no_place_in_a_table_is_named(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    table = xr.Dataset({"ncc": ("k", [0.5, 0.25])})
    for name, odd in (("curve", ("k", "frequency")), ("curve", ("q",)), ("mean", ())):
        bad = table.assign({name: (odd, np.zeros((2,) * len(odd)))})
        with pytest.raises(LabelError, match=f"along one dim.*got '{name}' with dims"):
            lv.save(bad, path)
    twice = table.assign(a=xr.DataArray([[1.0], [2.0]], {"axis": ["x"]}, ("k", "axis")))
    with pytest.raises(LabelError, match="got 'a_x' twice"):
        lv.save(twice.assign(a_x=("k", [1, 2])), path)
    assert not list(tmp_path.iterdir())
    noted = table.assign_coords(run=7).assign_attrs(method="x")
    noted["ncc"].attrs["units"] = "furlong"
    words = "coordinates run; attributes method; units of ncc"
    with pytest.warns(LossWarning, match=words) as told:
        lv.save(noted, path)
    assert told[0].filename == __file__
    assert lv.io.particles(path).ncc.values.tolist() == [0.5, 0.25]


@pytest.mark.parametrize(
    ("name", "unit"),
    [("rot", "radian"), ("coordinate_x", "angstrom"), ("shift_x", "nanometer")],
)
def test_facts_in_another_unit_than_relions_are_refused(name, unit, tmp_path):
    table = xr.Dataset(coords={name: ("k", [1.0], {"units": unit})})
    with pytest.raises(LabelError, match=f"must .*be in .*got .*{unit}"):
        lv.save(table, tmp_path / "a.star")
    lv.save(table, tmp_path / "a.csv")
    assert lv.io.particles(tmp_path / "a.csv")[name].attrs["units"] == unit


def test_shifts_of_two_units_are_refused(tmp_path):
    shifts = {
        n: ("k", [1.0], {"units": u}) for n, u in (("shift_x", "voxel"), ("shift_y", "angstrom"))
    }
    with pytest.raises(LabelError, match="all be in voxel or all in angstrom"):
        lv.save(xr.Dataset(coords=shifts), tmp_path / "a.star")


@pytest.fixture
def project(tmp_path) -> Path:
    """Two stacks of images in folders whose names have an ``@``, and an image of another size."""
    rng = np.random.default_rng(0)
    for folder in ("job@2", "a@b"):
        (tmp_path / folder).mkdir()
        images = lv.as_stack(rng.normal(size=(3, 5, 7)).astype("f4"), dims=("k", "y", "x"))
        lv.save(images, tmp_path / folder / "s.mrc")
        lv.save(images[0], tmp_path / folder / "1.mrc")
    lv.save(images[0, :4], tmp_path / "small.mrc")
    return tmp_path


def test_the_number_stands_before_the_first_at(project):
    names = ["3@job@2/s.mrc", "000001@a@b/s.mrc", "job@2/1.mrc", "a@b/1.mrc"]
    found = lv.open(relion(project, rlnImageName=names))
    stacks = [lv.open(project / folder / "s.mrc").values for folder in ("job@2", "a@b")]
    expected = [stacks[0][2], stacks[1][0], stacks[0][0], stacks[1][0]]
    np.testing.assert_array_equal(found, expected)


def test_images_that_do_not_fit_are_named_by_row(project):
    names = ["1@job@2/s.mrc", "2@job@2/s.mrc", "small.mrc"]
    with pytest.raises(LabelError, match=r"row 1 .*shape \(5, 7\).*row 3 \(small\.mrc\).*\(4, 7\)"):
        lv.open(relion(project, rlnImageName=names))
    with pytest.raises(FormatError, match=r"row 2 \(9@job@2/s\.mrc\): the number .* from 1 to 3"):
        lv.open(relion(project, rlnImageName=["1@job@2/s.mrc", "9@job@2/s.mrc"]))
    with pytest.raises(SourceNotFoundError, match=r"row 1 \(\).*''"):
        lv.open(relion(project, rlnImageName=[""]))


@pytest.mark.parametrize("suffix", ["star", "csv"])
def test_labels_of_the_rows_come_back(suffix, tmp_path):
    table = xr.Dataset({"ncc": ("k", [0.5, 0.25])}, {"k": [4, 7]})
    lv.save(table, tmp_path / f"a.{suffix}")
    found = lv.io.particles(tmp_path / f"a.{suffix}")
    xr.testing.assert_identical(found, table.set_coords("ncc"))


def test_names_of_columns_may_be_odd(tmp_path):
    names = ("=a", "b,c", 'd"', "e [nm]", "-", "'=f")
    table = xr.Dataset(coords={name: ("k", [n, 2 * n]) for n, name in enumerate(names)})
    lv.save(table, tmp_path / "a.csv")
    xr.testing.assert_identical(lv.io.particles(tmp_path / "a.csv"), table)
