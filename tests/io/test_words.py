"""STAR and CSV text restores every table, or writing names the value that it refuses."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import lazyvol as lv
from lazyvol.errors import FormatError, LabelError
from lazyvol.io import commas, star
from tests.strategies import PHASES

MANY = settings(deadline=None, derandomize=True, max_examples=150, phases=PHASES)

#: texts that look like something else, somewhere
ODD = (
    *("", " ", "a b", "001", "1e5", "nan", "inf", "-Infinity", "True", "False", "NaT", "12", "-0"),
    *("1_000", "+5", "data_", "data_x", "DATA_x", "loop_", "LOOP_", "stop_", "save_x", "global_"),
    *(
        "_x",
        "#",
        "# c",
        "a#b",
        '5"# b',
        "5'# b",
        ";",
        ";a",
        "'",
        '"',
        "''",
        '""',
        "it's",
        '5"',
        "'a",
        '"a',
        "a'b c",
    ),
    *('a"b c', '"a" b', "'a' b", "$x", "[x]", "?", ".", "2024-05-01", "2024-05-01T12:00:00"),
    *("=1+1", "+1", "-1", "@a", "'=a", "''=a", "'a", "\t=a", " =a", "=", "-", "a,b", "\uff1da"),
    *("3@job@2/s.mrcs", "a\u00a0b", "\u2028x", "\x1c", "\x85", "\ufeffx", "\u0663", "é\U0001f9ec"),
    *("x" * 5000, "99999999999999999999", "9223372036854775808", "١٢", "a\tb", "k [nm]"),
)
#: what a field that a spreadsheet takes for a formula begins with
FORMULA = tuple("=+-@\t\r\n")
TEXT = st.one_of(
    st.sampled_from(ODD),
    st.text(st.sampled_from("ab_#;'\"=+-@, \t01.eT:$[]?"), max_size=6),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=6),
)
TIMES = st.integers(-(2**62), 2**62).map(lambda n: np.datetime64(n, "ns"))
KINDS = st.sampled_from(
    [
        *[(TEXT, str)] * 4,
        (st.floats(), np.float64),
        (st.floats(width=32), np.float32),
        (st.integers(-(2**63), 2**63 - 1), np.int64),
        (st.integers(0, 2**64 - 1), np.uint64),
        (st.booleans(), bool),
        (TIMES | st.just(np.datetime64("NaT", "ns")), "M8[ns]"),
        (st.integers(-(10**10), 10**10).map(lambda n: np.datetime64(n, "s")), "M8[s]"),
    ]
)


@st.composite
def tables(draw) -> dict[str, np.ndarray]:
    """Draw columns of equal length."""
    count = draw(st.integers(1, 5))
    found = {}
    for n in range(draw(st.integers(1, 4))):
        values, dtype = draw(KINDS)
        column = draw(st.lists(values, min_size=count, max_size=count))
        found[f"c{n}"] = np.array(column, dtype)
    return found


def check_equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Check names, types and values of columns; integers and floats may be wider."""
    assert list(found) == list(expected)
    for name, values in expected.items():
        kinds = {found[name].dtype.kind, values.dtype.kind}
        assert len(kinds) == 1 or kinds == {"i", "u"}
        np.testing.assert_array_equal(found[name], values)


def fits_star(column: np.ndarray) -> bool:
    """Return True if every text fits on one line in one kind of quotes."""
    white = " \t\r\f\v#"
    texts = column.tolist() if column.dtype.kind == "U" else []
    return not any(
        set(t) & set("\n\r") or all(any(q + w in t for w in white) for q in "'\"") for t in texts
    )


@given(tables())
@MANY
def test_star_gives_any_table_back_or_refuses_it_by_name(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("star") / "a.star"
    if not all(map(fits_star, table.values())):
        with pytest.raises(LabelError, match=r"c\d, row \d: text in a \.star file must"):
            star.text([("particles", table)])
        return
    path.write_bytes((star.text([("particles", table)]) + star.text([("b", table)])).encode())
    for block in star.read(path):
        check_equal(dict(block.columns), table)


@given(tables())
@MANY
def test_commas_give_any_table_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    content = commas.text(table)
    path.write_bytes(content.encode())
    check_equal(commas.read(str(path)), table)
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert [len(row) for row in rows] == [len(table)] * (1 + len(table["c0"]))
    for n, column in enumerate(table.values()):
        if column.dtype.kind == "U":  # no field that a spreadsheet takes for a formula
            assert not any(row[n][:1] in FORMULA for row in rows[1:])


@pytest.mark.parametrize("suffix", ["star", "csv"])
@pytest.mark.parametrize("word", ODD)
def test_a_column_of_one_odd_text_is_that_text(word, suffix, tmp_path):
    table = xr.Dataset(coords={"who": ("k", [word])})
    if suffix == "star" and not fits_star(table.who.values):
        return
    lv.save(table, tmp_path / f"a.{suffix}")
    found = lv.io.particles(tmp_path / f"a.{suffix}")
    assert found.who.values.tolist() == [word]
    if suffix == "csv":
        content = (tmp_path / "a.csv").read_bytes().decode()
        field = list(csv.reader(io.StringIO(content, newline="")))[1][1]
        assert field[:1] not in FORMULA


@pytest.mark.parametrize("suffix", ["star", "csv"])
def test_what_is_no_value_of_a_table_is_refused_by_name(suffix, tmp_path):
    for values, message in (
        (np.array([1j]), "complex"), (np.array([np.timedelta64(1, "s")]), "timedelta"),
        (np.array([1, "a"], object), "of one type"), (np.array([None, "a"], object), "of one type"),
        (np.array(["\ud800"]), "must be Unicode"), (np.array([b"a"]), "text, real numbers"),
    ):  # fmt: skip
        table = xr.Dataset(coords={"odd": ("k", values)})
        with pytest.raises(LabelError, match=f"odd.*{message}"):
            lv.save(table, tmp_path / f"a.{suffix}")
    assert not list(tmp_path.iterdir())


def read(folder: Path, content: str) -> list[star.Block]:
    path = folder / "a.star"
    path.write_text(content)
    return star.read(path)


def test_a_bare_row_may_begin_with_data(tmp_path):
    """RELION writes micrographs with such names without quotes."""
    found = read(
        tmp_path, "data_m\nloop_\n_a\n_b #2\ndata_1.mrc 2\n'data_2' 3 # c\n\ndata_n\n_c 1\n"
    )
    assert [b.name for b in found] == ["m", "n"]
    assert found[0].columns["a"].tolist() == ["data_1.mrc", "data_2"]
    assert found[0].columns["b"].tolist() == [2, 3]
    found = read(tmp_path, "data_\nloop_\n_a\n'data_1'\n\ndata_n\nloop_\n_b\n2\ndata_o # c\n_c 1")
    assert [b.name for b in found] == ["", "n", "o"]
    assert found[0].columns["a"].tolist() == ["data_1"]


def test_a_bare_value_may_begin_with_data_anywhere_in_its_row(tmp_path):
    rows = "1 data_1.mrc 2\n3 DATA_2 data_3 # data_4\ndata_5 data_6\tdata_7\n'data_8 data_9' b 4\n"
    pairs = "_c data_10.mrc\n_d 'of data_11'\n"
    found = read(tmp_path, f"data_m\nloop_\n_a\n_b\n_c\n{rows}\ndata_n\n{pairs}")
    assert [b.name for b in found] == ["m", "n"]
    assert found[0].columns["a"].tolist() == ["1", "3", "data_5", "data_8 data_9"]
    assert found[0].columns["b"].tolist() == ["data_1.mrc", "DATA_2", "data_6", "b"]
    assert found[0].columns["c"].tolist() == ["2", "data_3", "data_7", "4"]
    assert [found[1].columns[n].tolist() for n in "cd"] == [["data_10.mrc"], ["of data_11"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data_\nloop_\n_a\ndata_1.mrc\nb\n", "must be STAR"),
        ("data_\nloop_\n_a\nb\ndata_1.mrc\n", "'data_1.mrc' may be a value"),
        ("data_\nloop_\n_a\n_b\n1 2\ndata_1 2 3\n", "Wrong number of values in loop"),
        ("data_ x\n", "must be STAR"),
        ("data_\nloop_\n_a\n_b\n1 2\n_c 3\n", "must have one loop or single values"),
        ("data_\nloop_\n_a\n_b\n1 2\nloop_\n_c\n3\n", "has 2 loops"),
        ("data_\nloop_\n_a\n1\nloop_\n", "must be STAR"),
        ("data_\n_a\n_b 1\n", "must be STAR"),
        ("data_\nb 1\n", "must be STAR"),
        ("data_\nloop_\n_a\n_b\n1 'x y\n", "unterminated 'string'"),
        ("data_\nloop_\n_a\n_b\n1 # 2\n", "Wrong number of values in loop"),
        ("data_\nloop_\n_a\n_A\n1 2\n", "must be STAR"),
        ("data_x\n_a 1\ndata_x\n_b 1\n", "must be STAR"),
        ("data_\nsave_x\n_a 1\nsave_\n", "1 frames"),
    ],
)
def test_lines_that_may_mean_two_things_are_refused(content, message, tmp_path):
    with pytest.raises(FormatError, match=message):
        read(tmp_path, content)


def test_words_outside_ascii_need_no_quotes(tmp_path):
    found = read(tmp_path, "data_\u00e9\nloop_\n_\u00b5m\n_b\nd\u00e9j\u00e0\\n 'a \U0001f9ec'\n")
    assert found[0].name == "\u00e9"
    assert {n: c.tolist() for n, c in found[0].columns.items()} == {
        "\u00b5m": ["d\u00e9j\u00e0\\n"], "b": ["a \U0001f9ec"],
    }  # fmt: skip


def test_names_of_relion_are_names(tmp_path):
    found = read(tmp_path, "data_\nloop_\n_rlnMicrographName\n_rlnOpticsGroup\n12 1\n1e5 2\n")
    assert found[0].columns["rlnMicrographName"].tolist() == ["12", "1e5"]
    assert found[0].columns["rlnOpticsGroup"].tolist() == [1, 2]


def test_whole_numbers_are_not_rounded(tmp_path):
    found = read(tmp_path, f"data_\nloop_\n_a\n_b\n{2**64 - 1} {2**64}\n1 {10**30}\n")
    assert found[0].columns["a"].tolist() == [2**64 - 1, 1]
    assert found[0].columns["b"].tolist() == [str(2**64), str(10**30)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must begin with names"), ("a,a\n1,2\n", "must begin with names"),
        ("a,b\n1\n", "row 1: 2 values are expected here, found 1"),
        ('a\n"x\n', "row 1: a quote must be closed"), ('a\n"x"y\n', "row 1: a quote must be"),
    ],
)  # fmt: skip
def test_tables_of_commas_that_are_none(content, message, tmp_path):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(FormatError, match=message):
        lv.io.particles(tmp_path / "a.csv")


def test_tables_of_commas_from_elsewhere(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfwho,n\r\n"a ""b""",1\r\n\r\nc,2')
    found = commas.read(str(tmp_path / "a.csv"))
    assert found["who"].tolist() == ['a "b"', "c"]
    assert found["n"].tolist() == [1, 2]
