"""Selected rows of a list keep their bytes, in the format of the list, with new columns behind."""

import re
from pathlib import Path

import numpy as np
import pytest

import lazyvol as lv
from lazyvol.errors import FormatError, LabelError, TargetExistsError
from tests.io.test_particle_lists import em_file, real

TEXT = """# version 50001

data_general

_rlnTomoSubTomosAre2DStacks   1

data_optics

loop_
_rlnOpticsGroup #1
_rlnVoltage #2
_rlnOpticsGroupName #3
1  300.000  "group one"
2  200.0    g2

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_custom #3
_rlnOpticsGroup #4
0012 1.500 'a b' 1
0013 2.50  "it's" 2
0014 3     c     1

data_extra

loop_
_b #1
_a #2
1e-3 x
"""


def rows_of(text: str) -> list[list[str]]:
    """Return the words of the lines without tags and comments, by white space."""
    lines = [line.split() for line in text.splitlines()]
    return [words for words in lines if words and words[0][0] not in "_#"]


def test_a_star_file_keeps_blocks_columns_quotes_and_digits(tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    columns = {"llr": [1.5, -2.0, 0.1], "flagged": [False, True, False]}
    out = tmp_path / "kept.star"
    assert lv.io.write_selection(tmp_path / "a.star", [2, 0], columns, out) == (str(out),)
    written = out.read_text()
    expected = rows_of(TEXT)
    first = expected.index(["0012", "1.500", "'a", "b'", "1"])
    rows = [[*expected[first + 2], "0.1", "False"], [*expected[first], "1.5", "False"]]
    expected[first : first + 3] = rows
    assert rows_of(written) == expected
    tags = re.findall(r"^_(\S+)", written, re.M)
    assert tags == [*re.findall(r"^_(\S+)", TEXT, re.M)[:-2], "llr", "flagged", "b", "a"]
    found = lv.io.particles(out)
    assert found.tomogram.values.tolist() == ["0014", "0012"]
    assert found.attrs["tables"]["general"] == {"rlnTomoSubTomosAre2DStacks": 1}


def test_a_second_selection_replaces_its_columns(tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    lv.io.write_selection(tmp_path / "a.star", [True] * 3, {"llr": [1, 2, 3]}, tmp_path / "b.star")
    lv.io.write_selection(
        tmp_path / "b.star", [False, True, True], {"llr": [4, 5, 6]}, tmp_path / "c.star"
    )
    assert lv.io.particles(tmp_path / "c.star").llr.values.tolist() == [5, 6]
    assert (tmp_path / "c.star").read_text().count("_llr") == 1


@pytest.mark.parametrize("file", ["relion_3.1_optics2.star", "relion_3.0.star",
                                  "warp2_particles_matching.star"])  # fmt: skip
def test_real_star_rows_are_kept_word_by_word(file, tmp_path):
    source = real(f"star_tbl/{file}")
    count = lv.io.particles(source).sizes["k"]
    kept = np.arange(count) % 2 == 0
    lv.io.write_selection(source, kept, {}, tmp_path / "kept.star")
    before, after = (rows_of(p.read_text()) for p in (source, tmp_path / "kept.star"))
    longest = max(map(len, before))
    rows = [row for row in before if len(row) == longest]
    assert [row for row in after if len(row) == longest] == rows[::2]
    assert [r for r in after if len(r) < longest] == [r for r in before if len(r) < longest]


def test_an_optimisation_set_is_followed_to_its_particles(tmp_path):
    source = real("cryoet_warp_70s/optimisation_set.star")
    kept = np.arange(20) < 3
    lv.io.write_selection(source, kept, {"llr": np.zeros(20)}, tmp_path / "kept.star")
    found = lv.io.particles(tmp_path / "kept.star")
    assert found.sizes["k"] == 3
    assert len(found.attrs["optics"]["rlnOpticsGroup"]) == 4


def test_lines_of_a_dynamo_table_are_kept_and_columns_stand_apart(tmp_path):
    source = real("star_tbl/dynamo_b4_motl.tbl")
    lines = source.read_text().splitlines()
    kept = np.zeros(len(lines), bool)
    kept[[3, 8]] = True
    score = np.arange(len(lines)) / 4
    out = tmp_path / "kept.tbl"
    written = lv.io.write_selection(source, kept, {"llr": score}, out)
    assert written == (str(out), str(tmp_path / "kept.csv"))
    assert out.read_text().splitlines() == [lines[3], lines[8]]
    assert (tmp_path / "kept.csv").read_text() == "row,llr\n3,0.75\n8,2.0\n"
    assert lv.io.particles(out).sizes["k"] == 2


@pytest.mark.parametrize("dtype", ["<f4", ">f8"])
def test_rows_of_a_motive_list_keep_type_and_header(dtype, tmp_path):
    values = np.random.default_rng(0).normal(size=(1, 5, 20)).astype(dtype)
    source = em_file(tmp_path / "a.em", values)
    content = bytearray(source.read_bytes())
    content[16:20] = b"note"
    source.write_bytes(content)
    written = lv.io.write_selection(source, [4, 1], {}, tmp_path / "b.em")
    assert written == (str(tmp_path / "b.em"),)
    expected = em_file(tmp_path / "c.em", values[:, [4, 1]]).read_bytes()
    assert (tmp_path / "b.em").read_bytes() == expected[:16] + b"note" + expected[20:]
    assert lv.io.write_selection(source, [False] * 5, {"a": range(5)}, tmp_path / "d.em") == ()
    assert not (tmp_path / "d.em").exists()


def test_rows_of_a_csv_table(tmp_path):
    (tmp_path / "a.csv").write_text('tag,who\n7,"=1+1"\n8,b\n')
    lv.io.write_selection(tmp_path / "a.csv", [0], {"note": ["-x", "y"]}, tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == 'tag,who,note\n7,"\'=1+1","\'-x"\n'


def test_no_rows_are_a_list_of_none(tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    (tmp_path / "a.csv").write_text("tag\n7\n")
    for name, count in (("a.star", 3), ("a.csv", 1)):
        out = tmp_path / f"none{Path(name).suffix}"
        lv.io.write_selection(tmp_path / name, np.zeros(count, bool), {"a": np.ones(count)}, out)
        assert lv.io.particles(out).sizes["k"] == 0


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([True, False], {}, "rows must be 3 flags or numbers from 0 to 2"),
        ([0, 3], {}, "rows must be"), ([-1], {}, "rows must be"), ([0.5], {}, "rows must be"),
        ([0], {"a": [1, 2]}, "one value for each of the 3 rows"),
        ([0], {"a b": [1, 2, 3]}, "names without spaces"),
        ([0], {"a": [1j, 2, 3]}, "complex"),
    ],
)  # fmt: skip
def test_selections_that_do_not_fit_write_nothing(rows, columns, message, tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    with pytest.raises(LabelError, match=message):
        lv.io.write_selection(tmp_path / "a.star", rows, columns, tmp_path / "b.star")
    assert not (tmp_path / "b.star").exists()


def test_targets_of_selections(tmp_path):
    (tmp_path / "a.star").write_text(TEXT)
    (tmp_path / "b.star").write_text("mine")
    with pytest.raises(TargetExistsError):
        lv.io.write_selection(tmp_path / "a.star", [0], {}, tmp_path / "b.star")
    with pytest.raises(LabelError, match=r"must end in \.star"):
        lv.io.write_selection(tmp_path / "a.star", [0], {}, tmp_path / "b.csv")
    with pytest.raises(FormatError, match="particle lists are"):
        lv.io.write_selection(tmp_path / "a.mrc", [0], {}, tmp_path / "b.mrc")
    assert (tmp_path / "b.star").read_text() == "mine"
