"""Particle lists: syntax, conventions, the stacks that they name, and writing."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

import lazyvol as lv
from lazyvol.errors import (
    FormatError,
    LabelError,
    LimitExceeded,
    SourceNotFoundError,
    TargetExistsError,
    TruncatedError,
)
from lazyvol.io import star, words
from tests.paths import DATA
from tests.strategies import MORE

SHAPE = (5, 7, 11)


def real(path: str) -> Path:
    found = DATA / path
    if not found.exists():
        pytest.skip(f"{path} is not here")
    return found


# text ------------------------------------------------------------------------------------------

TEXT = """
# version 30001

data_general
_rlnTomoSubTomosAre2DStacks   1
_title  'a "quoted" text'

data_particles

loop_
_rlnAngleRot #1
_rlnImageName #2
_rlnTomoName #3
_score
 1.5   000001@a.mrcs  0012   3
-2.25  2@"b c".mrcs   12    -4
# between rows
 1e3   'c d.mrc'      13     5
"""


def test_blocks_columns_and_quotes(tmp_path):
    path = tmp_path / "a.star"
    path.write_text(TEXT.replace('2@"b c".mrcs', "2@b.mrcs").replace("\n", "\r\n"))
    general, particles = star.read(path)
    assert (general.name, general.loop, particles.name, len(particles)) == (
        "general", False, "particles", 3,
    )  # fmt: skip
    assert general.columns["title"][0] == 'a "quoted" text'
    assert general.columns["rlnTomoSubTomosAre2DStacks"].dtype == np.int64
    columns = particles.columns
    assert columns["rlnAngleRot"].tolist() == [1.5, -2.25, 1000.0]
    assert columns["rlnImageName"].tolist() == ["000001@a.mrcs", "2@b.mrcs", "c d.mrc"]
    assert columns["rlnTomoName"].tolist() == ["0012", "12", "13"]
    assert columns["score"].dtype == np.int64


WORDS = st.text(
    st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters='"'), max_size=9
)


@given(
    st.lists(st.tuples(st.floats(), st.integers(-(2**62), 2**62), WORDS), min_size=1, max_size=9)
)
@MORE
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    numbers, counts, words = map(list, zip(*rows, strict=True))
    words = [w.strip() + "x" for w in words]
    content = {"a": np.array(numbers), "b": np.array(counts), "c": np.array(words)}
    path = tmp_path_factory.mktemp("star") / "a.star"
    path.write_bytes(star.text([("particles", content)]).encode())
    found = star.read(path)[0].columns
    np.testing.assert_array_equal(found["a"].astype(float), content["a"])
    np.testing.assert_array_equal(found["b"], content["b"])
    assert found["c"].astype(str).tolist() == words


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have a block data_NAME, found none"),
        (b"loop_\n_a\n1\n", r"must be STAR.*expected block header \(data_\)"),
        (b"data_\nloop_\n_a\n_b\n1 2\n1\n", "Wrong number of values in loop"),
        (b"data_\nloop_\n_a\n_a\n1 2\n", "must be STAR.*_a"),
        (b"data_\n_a 1 2\n", "must be STAR"),
        (b"data_\n_a\n;text\n;\n", "text must be one line"),
        (b"data_\n\xff\xfe", "it must be text in UTF-8"),
    ],
)
def test_text_that_is_no_star_is_refused(tmp_path, content, message):
    path = tmp_path / "a.star"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        star.read(path)


def test_long_texts_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.star"
    path.write_text("data_\nloop_\n_a\n" + "b\n" * 1000 + "c" * 10_000 + "\n")
    monkeypatch.setattr(words, "MAX_TEXT", 10**7)
    with pytest.raises(LimitExceeded, match="texts of up to 10000 characters"):
        lv.io.particles(path)
    monkeypatch.setattr(star, "MAX_STAR", 1000)
    with pytest.raises(LimitExceeded, match="text may have 1000 bytes"):
        star.read(path)


ROWS = {
    "default_pipeline": [1, 31, 74, 48, 72], "empty_loop": [0], "one_loop": [16],
    "postprocess": [1, 49, 49], "run_it025_sampling_3D": [1, 192], "rln3.1_data_style": [1, 2, 2],
    "loop_single_quote": [2], "basic_double_quote": [1],
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_files_of_other_programs_are_read(name):
    path = real("star_tbl/starfile_tests") / f"{name}.star"
    assert [len(b) for b in star.read(path)] == ROWS[name]


# conventions -----------------------------------------------------------------------------------


def about(axis: str, degrees: float) -> np.ndarray:
    """Return the matrix of a right-handed rotation of vectors (x, y, z)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    if axis == "z":
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    if axis == "y":
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


A, B, C = 25.0, 70.0, -130.0
#: the same orientation, reference to particle, as each program turns the reference
TURNS = {
    "relion": about("z", -C) @ about("y", -B) @ about("z", -A),  # passive: the inverse
    "stopgap": about("z", C) @ about("x", B) @ about("z", A),  # phi, theta, psi one after another
    "em": about("z", C) @ about("x", B) @ about("z", A),
    "dynamo": (about("z", C) @ about("x", B) @ about("z", A)).T,
}
ROW = f"9 1 1 0.5 -1 2 {A} {B} {C} 0.25 0 0 0 0 0 0 0 0 0 3 0 2 0 100 200 300"


def listed(folder: Path, program: str) -> Path:
    """Write a list of one particle with angles A, B, C in the convention of a program."""
    if program == "dynamo":
        path = folder / "a.tbl"
        path.write_text(ROW + "\n")
    elif program == "em":
        row = np.zeros(20, "<f4")
        row[[0, 3, 4, 7, 8, 9, 10, 11, 12, 19]] = 0.25, 9, 3, 100, 200, 300, 0.5, -1, 2, 2
        row[[16, 18, 17]] = A, B, C
        path = em_file(folder / "a.em", row.reshape(1, 1, 20))
    else:
        relion = {
            "rlnCoordinateX": 100, "rlnCoordinateY": 200, "rlnCoordinateZ": 300,
            "rlnOriginX": -0.5, "rlnOriginY": 1, "rlnOriginZ": -2, "rlnAngleRot": A,
            "rlnAngleTilt": B, "rlnAnglePsi": C, "rlnTomoName": 3, "rlnClassNumber": 2,
            "rlnAutopickFigureOfMerit": 0.25,
        }  # fmt: skip
        stopgap = {
            "motl_idx": 1, "tomo_num": 3, "halfset": "B", "orig_x": 100, "orig_y": 200,
            "orig_z": 300, "score": 0.25, "x_shift": 0.5, "y_shift": -1, "z_shift": 2, "phi": A,
            "psi": C, "the": B, "class": 2,
        }  # fmt: skip
        path = folder / f"{program}.star"
        row = {"relion": relion, "stopgap": stopgap}[program]
        path.write_text(star.text([("", {n: np.array([v]) for n, v in row.items()})]))
    return path


def em_file(path: Path, values: np.ndarray) -> Path:
    """Write an EM file."""
    kinds = {"i1": 1, "i2": 2, "i4": 4, "f4": 5, "f8": 9}
    machine = 6 if values.dtype.str[0] in "<|=" else 3
    order = "<" if machine == 6 else ">"
    lengths = np.array(values.shape[::-1], f"{order}i4").tobytes()
    head = bytes([machine, 0, 0, kinds[values.dtype.str[1:]]]) + lengths
    path.write_bytes(head + bytes(512 - len(head)) + values.tobytes())
    return path


@pytest.mark.parametrize("program", TURNS)
def test_every_program_means_its_own_turn(program, tmp_path):
    found = lv.io.particles(listed(tmp_path, program))
    angles = [found[n].item() for n in ("rot", "tilt", "psi")]
    back = Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix()
    np.testing.assert_allclose(back, TURNS[program], atol=1e-6)
    assert [found[f"coordinate_{d}"].item() for d in "xyz"] == [100, 200, 300]
    assert [found[f"shift_{d}"].item() for d in "xyz"] == [-0.5, 1, -2]
    tomogram = "3" if program == "relion" else 3  # rlnTomoName is a name
    assert (found["class"].item(), found.tomogram.item(), found.score.item()) == (2, tomogram, 0.25)
    assert found.shift_x.attrs["units"] == found.coordinate_x.attrs["units"] == "voxel"
    assert found.rot.attrs["units"] == "degree"
    if program == "stopgap":
        assert found.half.item() == 2


def test_origins_are_in_angstrom_where_the_pixel_size_is_known(tmp_path):
    path = tmp_path / "a.star"
    columns = {
        "rlnOriginX": np.array([1.0, 2.0]), "rlnMagnification": np.array([10000.0, 10000.0]),
        "rlnDetectorPixelSize": np.array([3.0, 3.0]),
    }  # fmt: skip
    path.write_text(star.text([("", columns)]))
    found = lv.io.particles(path)
    np.testing.assert_allclose(found.shift_x, [3.0, 6.0])
    assert found.shift_x.attrs["units"] == "angstrom"


@pytest.mark.parametrize(
    ("file", "count", "facts"),
    [
        ("star_tbl/relion_3.1_optics2.star", 3, {"optics_group": [1, 2, 2], "half": [2, 2, 2]}),
        ("star_tbl/relion_3.0.star", 3, {"rlnPixelSize": [5.364] * 3}),
        ("star_tbl/relion_with_optics_group.star", 60, {}),
        ("star_tbl/warp2_particles_matching.star", 1218, {"tomogram": None}),
        ("star_tbl/dynamo_b4_motl.tbl", 1343, {"score": None}),
        ("cryoet_em_format/motl_ribosome.em", 50, {"tomogram": [126] * 50}),
        ("cryoet_em_format/au_1.em", 64, {"tomogram": [160] * 64}),
        ("particles_2d/rln_proj_64_centered.star", 4, {}),
    ],
)
def test_real_lists_are_read(file, count, facts):
    found = lv.io.particles(real(file))
    assert found.sizes == {"k": count}
    for name, values in facts.items():
        assert name in found.coords
        if values is not None:
            assert found[name].values.tolist() == values
    if "coordinate_z" in found.coords:
        rotation = Rotation.from_euler(
            "ZYZ", np.stack([found[n] for n in ("rot", "tilt", "psi")], -1)
        )
        assert len(rotation) == count
        assert (found.coordinate_x > 0).all()


def test_what_is_no_list_is_refused(tmp_path):
    (tmp_path / "a.tbl").write_text("1 2 3\n")
    (tmp_path / "b.tbl").write_text(" ".join(["1"] * 25 + ["x"]) + "\n")
    (tmp_path / "a.star").write_text("data_general\n_a 1\n")
    (tmp_path / "a.txt").write_text("")
    em_file(tmp_path / "a.em", np.zeros((4, 4, 4), "<f4"))
    for name, message in (
        ("a.tbl", "26 columns or more"), ("b.tbl", "hold numbers"), ("a.star", "loop of particles"),
        ("a.em", "20 values per particle"), ("a.txt", "particle lists are .star, .tbl"),
    ):  # fmt: skip
        with pytest.raises(FormatError, match=message):
            lv.io.particles(tmp_path / name)
    with pytest.raises(SourceNotFoundError):
        lv.io.particles(tmp_path / "none.star")


# stacks ----------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path):
    """A RELION project: volumes and a stack of images in one folder, lists in another."""
    values = np.random.default_rng(0).normal(size=(6, *SHAPE)).astype("f4")
    (tmp_path / "Extract").mkdir()
    (tmp_path / "Refine" / "job1").mkdir(parents=True)
    for n, volume in enumerate(values):
        lv.save(lv.as_stack(volume), tmp_path / "Extract" / f"p{n}.mrc")
    images = lv.as_stack(values[:, 0], dims=("k", "y", "x"))
    lv.save(images, tmp_path / "Extract" / "images.mrc")
    return tmp_path, values


def write(folder: Path, names: list[str], **columns: object) -> Path:
    path = folder / "a.star"
    optics = {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [2.5, 2.5]}
    found = {"rlnImageName": names, "rlnOpticsGroup": [1 + n % 2 for n in range(len(names))]}
    path.write_text(star.text([("optics", optics), ("particles", found | columns)]))
    return path


def test_volumes_come_in_the_order_of_the_list(project):
    folder, values = project
    order = [4, 1, 1, 5]
    path = write(
        folder / "Refine" / "job1", [f"Extract/p{n}.mrc" for n in order],
        rlnAngleRot=[1.0, 2.0, 3.0, 4.0], rlnRandomSubset=[1, 2, 2, 1],
    )  # fmt: skip
    stack = lv.open(path, chunks=1)
    assert (stack.dims, stack.shape) == (("k", "z", "y", "x"), (4, *SHAPE))
    np.testing.assert_array_equal(stack, values[order])
    np.testing.assert_array_equal(stack[2, 1:3, ::2, 4], values[1, 1:3, ::2, 4])
    assert stack.half.values.tolist() == [1, 2, 2, 1]
    assert stack.rot.attrs["units"] == "degree"
    assert (float(stack.x[1]), stack.x.attrs["units"]) == (2.5, "angstrom")
    assert stack.attrs["optics"]["rlnOpticsGroup"] == [1, 2]
    halves = lv.scores.halves(stack)
    np.testing.assert_allclose(halves.first, values[[4, 5]].mean(0), atol=1e-6)


@pytest.mark.parametrize("names", [["3@images.mrc", "000001@images.mrc"], ["2@images.mrc"]])
def test_sections_of_a_stack_are_images(project, names):
    folder, values = project
    stack = lv.open(write(folder / "Extract", names))
    assert stack.dims == ("k", "y", "x")
    np.testing.assert_array_equal(stack, values[[int(n.split("@")[0]) - 1 for n in names], 0])
    np.testing.assert_array_equal(
        lv.open(folder / "Extract" / "a.star")[:, 2:5, 3], stack[:, 2:5, 3]
    )


def test_a_list_of_one_volume_is_a_stack_of_one(project):
    folder, values = project
    stack = lv.open(write(folder / "Extract", ["p3.mrc"]))
    np.testing.assert_array_equal(stack, values[[3]])


def test_columns_that_are_called_like_dims_are_facts_of_another_name(project):
    folder, _ = project
    path = write(folder / "Extract", ["p0.mrc", "p1.mrc"], x=[1.0, 2.0], k=[3, 4])
    stack = lv.open(path)
    assert stack.list_x.values.tolist() == [1.0, 2.0]
    assert stack.list_k.values.tolist() == [3, 4]


def test_lists_that_cannot_be_opened_say_why(project):
    folder, _ = project
    with pytest.raises(
        SourceNotFoundError,
        match=r"row 2 \(gone\.mrc\): the list names 'gone\.mrc', which is not in",
    ):
        lv.open(write(folder, ["Extract/p0.mrc", "gone.mrc"]))
    with pytest.raises(FormatError, match="section from 1 to 6"):
        lv.open(write(folder, ["7@Extract/images.mrc"]))
    with pytest.raises(FormatError, match="section from 1 to 6"):
        lv.open(write(folder, ["x@Extract/images.mrc"]))
    (folder / "b.star").write_text("data_\nloop_\n_rlnAngleRot\n1\n")
    with pytest.raises(
        FormatError, match=r"read the columns without images with lazyvol\.io\.particles"
    ):
        lv.open(folder / "b.star")


@pytest.mark.parametrize("name", ["empiar_10076_7", "rln_proj_64_centered"])
def test_real_stacks_are_opened_by_their_lists(name):
    stack = lv.open(real(f"particles_2d/{name}.star"))
    images = next(p for p in (DATA / "particles_2d").glob(f"{name}.mrc*"))
    assert stack.dims == ("k", "y", "x")
    np.testing.assert_array_equal(stack.values, lv.open(images).values)
    size = {"empiar_10076_7": 1.31, "rln_proj_64_centered": 1.0}[name]
    assert float(stack.x[1]) == pytest.approx(size, rel=1e-4)


# out -------------------------------------------------------------------------------------------


def test_scores_flags_and_poses_go_out_and_come_back(project):
    folder, _ = project
    angles = {"rlnAngleRot": [1.5, -2.25, 0.1], "rlnAngleTilt": [10.0, 20.0, 30.0]}
    path = write(
        folder, [f"Extract/p{n}.mrc" for n in range(3)], rlnOriginXAngst=[0.5, 0.0, -1.5],
        rlnRandomSubset=[1, 2, 1], rlnTomoName=["TS 1", "TS_2", "TS_2"], **angles,
    )  # fmt: skip
    found = lv.scores.compare(lv.open(path), metrics=("ncc", "mse"))
    found["flagged"] = found.ncc < 0
    out = folder / "out.star"
    lv.save(found, out)
    text = out.read_text()
    assert "_rlnAngleRot" in text
    assert "_rlnOriginXAngst" in text
    again = lv.io.particles(out)
    source = lv.io.particles(path)
    for name, values in source.coords.items():
        xr.testing.assert_identical(again[name].variable, values.variable)
    assert again.attrs == source.attrs
    assert set(again.attrs["optics"]) == {"rlnOpticsGroup", "rlnImagePixelSize"}
    np.testing.assert_array_equal(again.ncc, found.ncc.values.astype("f8"))
    assert again.flagged.values.tolist() == [int(v) for v in found.flagged]
    np.testing.assert_array_equal(lv.open(out).values, lv.open(path).values)


def test_shifts_in_voxels_are_not_called_angstrom(tmp_path):
    table = xr.Dataset({"shift_x": ("k", [1.0, 2.0], {"units": "voxel"})})
    lv.save(table, tmp_path / "a.star")
    assert "_rlnOriginX #1" in (tmp_path / "a.star").read_text()


def test_tables_of_commas_hold_the_same(tmp_path):
    table = xr.Dataset({"ncc": ("k", [0.5, 0.25])}, {"tomogram": ("k", ["a", "b"])})
    lv.save(table, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "k,tomogram,ncc\n0,a,0.5\n1,b,0.25\n"
    lv.save(table.ncc, tmp_path / "b.csv")
    with pytest.raises(TargetExistsError):
        lv.save(table, tmp_path / "a.csv")
    lv.save(table, tmp_path / "a.csv", overwrite=True)


def test_tables_that_are_none_are_refused(tmp_path):
    volume = lv.as_stack(np.zeros(SHAPE))
    for name in ("a.star", "a.csv"):
        with pytest.raises(LabelError, match="along one dim"):
            lv.save(volume, tmp_path / name)
        with pytest.raises(LabelError, match="path must end in"):
            lv.save(volume[0, 0], tmp_path / name, resume=True)
    with pytest.raises(LabelError, match="without spaces"):
        lv.save(xr.Dataset({"a b": ("k", [1])}), tmp_path / "a.star")


# EM --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">i4", "<f8", "i1"])
def test_em_volumes_are_read(tmp_path, dtype):
    values = (np.random.default_rng(0).normal(size=SHAPE) * 40).astype(dtype)
    found = lv.open(em_file(tmp_path / "a.em", values))
    assert found.dims == ("z", "y", "x")
    assert found.dtype == values.dtype.newbyteorder("=")
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(found[2:4, ::3, 5], values[2:4, ::3, 5])
    assert found.x.attrs["units"] == "voxel"


def test_a_folder_of_em_volumes_is_a_stack(tmp_path):
    values = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype("f4")
    for n, volume in enumerate(values):
        em_file(tmp_path / f"particle_{n}.em", volume)
    np.testing.assert_array_equal(lv.open(tmp_path), values)


def test_damaged_em_files_are_refused(tmp_path):
    path = em_file(tmp_path / "a.em", np.zeros(SHAPE, "<f4"))
    whole = path.read_bytes()
    for content, error, message in (
        (whole[:-1], TruncatedError, "the file has"), (whole[:500], TruncatedError, "512 bytes"),
        (b"\x07" + whole[1:], FormatError, "a machine from 0 to 6"),
        (whole[:3] + b"\x08" + whole[4:], FormatError, "a machine from 0 to 6 and a type"),
        (whole[:4] + bytes(4) + whole[8:], FormatError, "lengths must be 1 or more"),
        (whole[:4] + b"\xff\xff\xff\x7f" * 3 + whole[16:], LimitExceeded, "."),
        (whole + b"x", FormatError, "the file has"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises((error, TruncatedError), match=message):
            lv.open(path)


@pytest.mark.parametrize(
    ("name", "shape", "dtype"),
    [
        ("subtomo_ribosome_t126_b4_s48", (48, 48, 48), "f4"), ("int2", (64, 64), "i2"),
        ("emd_1480_bin4", (42, 42, 42), "f4"), ("motl_ribosome", (50, 20), "f8"),
    ],
)  # fmt: skip
def test_real_em_files_are_read(name, shape, dtype):
    path = real(f"cryoet_em_format/{name}.em")
    found = lv.open(path)
    assert (found.shape, found.dtype) == (shape, np.dtype(dtype))
    raw = np.frombuffer(path.read_bytes(), f"<{dtype}", offset=512).reshape(shape)
    np.testing.assert_array_equal(found, raw)
