"""Damaged particle lists give a LazyvolError or a table; cut ones lose the end."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import FormatError, LazyvolError
from tests.io.mutations import mutants
from tests.io.test_particle_lists import ROW, em_file
from tests.io.test_selections import TEXT

ROUNDS = 300
CSV = 'tag,who,n\n1,"a b",0.5\n2,"c,d",1.5\n3,"=e",2.5\n'


@pytest.fixture
def lists(tmp_path) -> dict[str, bytes]:
    """Return a valid list per format."""
    motive = em_file(tmp_path / "seed.em", np.ones((1, 9, 20), "<f4")).read_bytes()
    return {
        "a.star": TEXT.encode(), "a.csv": CSV.encode(), "a.tbl": f"{ROW}\n{ROW}\n".encode(),
        "a.em": motive,
    }  # fmt: skip


def fault_of(path: Path) -> str | None:
    """Return the message of a LazyvolError that reading a list raises."""
    try:
        lv.io.particles(path)
    except LazyvolError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["a.star", "a.csv", "a.tbl", "a.em"])
def test_damage_is_an_error_of_the_tree(name, lists, tmp_path, capfd):
    content, path = lists[name], tmp_path / name
    read = 0
    for mutant in mutants(content, min(600, len(content)), ROUNDS):
        path.write_bytes(mutant)
        fault = fault_of(path)
        read += fault is None
        assert fault is None or (str(path) in fault and "\n" not in fault)
    assert 0 < read < ROUNDS
    assert capfd.readouterr() == ("", "")


def first_rows(whole: xr.Dataset, cut: xr.Dataset) -> bool:
    """Return True if a table has the first rows of another, up to the last value that was cut."""
    count = max(0, cut.sizes["k"] - 1)
    return all(
        cut[n].values[:count].astype(whole[n].dtype).tolist() == whole[n].values[:count].tolist()
        for n in cut.coords
    )


@pytest.mark.parametrize("name", ["a.star", "a.csv", "a.tbl"])
def test_a_cut_list_has_the_first_rows_or_is_refused(name, lists, tmp_path):
    path = tmp_path / name
    path.write_bytes(lists[name])
    whole = lv.io.particles(path)
    for length in range(len(lists[name])):
        path.write_bytes(lists[name][:length])
        try:
            cut = lv.io.particles(path)
        except FormatError:
            continue
        if set(cut.coords) == set(whole.coords):  # the names are not cut
            assert first_rows(whole, cut)


def test_deep_and_wide_content_ends(tmp_path):
    path = tmp_path / "a.star"
    for content in ("data_\nsave_x\n" * 20_000, "data_a\nloop_\n" + "_a\n" * 20_000, "'" * 10**6,
                    "data_\nloop_\n_a\n'" + "' '" * 10**5, "data_\n" + "#" * 10**6):  # fmt: skip
        path.write_text(content)
        with pytest.raises(LazyvolError):
            lv.io.particles(path)
