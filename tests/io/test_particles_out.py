"""Particles saved for other programs: RELION lists with images, .mrcs, EM and NIfTI files."""

import os
import struct
from pathlib import Path

import mrcfile
import nibabel
import numpy as np
import pytest
import xarray as xr
from gemmi import cif

import lazyvol as lv
from lazyvol.errors import (
    LabelError,
    LossWarning,
    MissingChunkError,
    StoreError,
    TargetExistsError,
)
from lazyvol.io import atomic

SHAPE = (5, 4, 6, 7)


def stack_of(shape=SHAPE, dims=("k", "z", "y", "x"), **facts) -> xr.DataArray:
    """Return a lazy stack with a voxel size of 2.5 angstrom, and facts along k."""
    values = np.random.default_rng(0).normal(size=shape).astype("f4")
    stack = lv.as_stack(values, dims=dims, voxel_size=2.5, unit="angstrom")
    return stack.chunk(k=2).assign_coords({n: ("k", v) for n, v in facts.items()})


def column(path: Path, tag: str) -> list[str]:
    """Return a column of a STAR file, read by gemmi, without quotes."""
    return [cif.as_string(v) for b in cif.read(str(path)) for v in b.find_values(tag)]


# lists -----------------------------------------------------------------------------------------


def test_volumes_are_a_file_each_and_a_list(tmp_path):
    stack = stack_of(half=[1, 2, 1, 2, 1], tomogram=["a b", "c", "c", "c", "d"])
    lv.save(stack, tmp_path / "p.star")
    names = column(tmp_path / "p.star", "_rlnImageName")
    assert names == [f"p/{n:06d}.mrc" for n in range(1, 6)]
    for name, volume in zip(names, stack.values, strict=True):
        with mrcfile.open(tmp_path / name) as opened:
            assert mrcfile.validate(tmp_path / name)
            np.testing.assert_array_equal(opened.data, volume)
            assert opened.is_volume()
            assert float(opened.voxel_size.x) == 2.5
    optics = {
        "ImagePixelSize": "2.5", "ImageSize": "7", "ImageDimensionality": "3", "Voltage": "300.0",
        "SphericalAberration": "2.7",
    }  # fmt: skip
    for label, word in optics.items():
        assert column(tmp_path / "p.star", f"_rln{label}") == [word]
    assert column(tmp_path / "p.star", "_rlnOpticsGroup") == ["1"] * 6
    assert column(tmp_path / "p.star", "_rlnTomoName") == ["a b", "c", "c", "c", "d"]
    found = lv.open(tmp_path / "p.star")
    assert found.half.values.tolist() == [1, 2, 1, 2, 1]
    np.testing.assert_array_equal(found, stack)
    assert (float(found.x[1]), found.x.attrs["units"]) == (2.5, "angstrom")


def test_images_are_one_stack(tmp_path):
    stack = stack_of((5, 6, 7), ("k", "y", "x"))
    lv.save(stack, tmp_path / "p.star")
    assert os.listdir(tmp_path / "p") == ["images.mrcs"]
    assert column(tmp_path / "p.star", "_rlnImageName")[4] == "000005@p/images.mrcs"
    assert column(tmp_path / "p.star", "_rlnImageDimensionality") == ["2"]
    with mrcfile.open(tmp_path / "p/images.mrcs") as opened:
        assert opened.is_image_stack()
        np.testing.assert_array_equal(opened.data, stack)
    np.testing.assert_array_equal(lv.open(tmp_path / "p.star"), stack)


def test_frames_are_the_stacks_of_relion_5(tmp_path):
    stack = stack_of((3, 4, 6, 7), ("k", "frame", "y", "x"))
    lv.save(stack, tmp_path / "p.star")
    assert column(tmp_path / "p.star", "_rlnTomoSubTomosAre2DStacks") == ["1"]
    assert column(tmp_path / "p.star", "_rlnImageName")[0] == "p/000001.mrcs"
    with mrcfile.open(tmp_path / "p/000002.mrcs") as opened:
        assert opened.is_image_stack()
        np.testing.assert_array_equal(opened.data, stack[1])
    found = lv.open(tmp_path / "p.star")
    assert found.dims == stack.dims
    np.testing.assert_array_equal(found, stack)


def test_optics_columns_and_blocks_of_the_input_stay(tmp_path):
    lv.save(stack_of(), tmp_path / "a.star")
    text = (tmp_path / "a.star").read_text()
    head = (
        "data_general\n\n_rlnTomoSubTomosAre2DStacks 0\n_x 'a b'\n\ndata_more\nloop_\n_u\n1\n2\n\n"
    )
    (tmp_path / "a.star").write_text(head + text.replace("300.0", "200.0"))
    lv.save(lv.open(tmp_path / "a.star").isel(k=[4, 0]), tmp_path / "b.star")
    found = lv.io.particles(tmp_path / "b.star").attrs
    assert found["optics"]["rlnVoltage"] == [200.0]
    assert found["tables"] == {
        "general": {"rlnTomoSubTomosAre2DStacks": 0, "x": "a b"}, "more": {"u": [1, 2]},
    }  # fmt: skip


def test_groups_of_different_pixel_sizes_keep_theirs(tmp_path):
    optics = {"rlnOpticsGroup": [1, 2], "rlnImagePixelSize": [2.5, 3.5], "rlnImageSize": [9, 9]}
    stack = stack_of(optics_group=[1, 2, 1, 2, 1]).assign_attrs(optics=optics)
    lv.save(stack, tmp_path / "p.star")
    assert column(tmp_path / "p.star", "_rlnImagePixelSize") == ["2.5", "3.5"]
    assert column(tmp_path / "p.star", "_rlnImageSize") == ["7", "7"]
    assert column(tmp_path / "p.star", "_rlnOpticsGroup") == ["1", "2", "1", "2", "1", "2", "1"]


def test_refused_forms_are_refused_without_a_warning(tmp_path):
    noted = stack_of().assign_attrs(method="x")
    for name in ("a.em", "a.mrcs"):
        with pytest.raises(LabelError):
            lv.save(noted, tmp_path / name)
    with pytest.raises(LabelError):
        lv.save(noted.astype("f2"), tmp_path / "a.nii")


def test_sizes_that_relion_has_no_form_for_are_left_to_the_headers(tmp_path):
    for n, stack in enumerate((
        lv.as_stack(np.zeros(SHAPE, "f4")),
        lv.as_stack(
            np.zeros(SHAPE, "f4"), voxel_size={"z": 2, "y": 1, "x": 1}, unit="nanometer"
        ),
    )):  # fmt: skip
        lv.save(stack, tmp_path / f"{n}.star")
        assert column(tmp_path / f"{n}.star", "_rlnImagePixelSize") == []
        found = lv.open(tmp_path / f"{n}.star")
        for d in "zyx":
            np.testing.assert_allclose(found[d], stack[d], rtol=1e-6)


def test_names_start_at_the_project_that_holds_the_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("job")
    lv.save(stack_of(), "job/p.star")
    assert column(Path("job/p.star"), "_rlnImageName")[0] == "job/p/000001.mrc"
    monkeypatch.chdir("/")
    assert lv.open(tmp_path / "job/p.star").shape == SHAPE


def test_a_list_of_images_is_replaced_as_a_whole(tmp_path):
    lv.save(stack_of(), tmp_path / "p.star")
    with pytest.raises(TargetExistsError):
        lv.save(stack_of(), tmp_path / "p.star")
    lv.save(stack_of()[:2] + 1, tmp_path / "p.star", overwrite=True)
    assert sorted(os.listdir(tmp_path / "p")) == ["000001.mrc", "000002.mrc"]
    assert sorted(os.listdir(tmp_path)) == ["p", "p.star"]
    (tmp_path / "p/notes.txt").write_text("mine")
    with pytest.raises(TargetExistsError, match="particles alone"):
        lv.save(stack_of(), tmp_path / "p.star", overwrite=True)
    assert (tmp_path / "p/000001.mrc").exists()
    (tmp_path / "p/notes.txt").unlink()
    with pytest.raises(TargetExistsError, match="input of the result"):
        lv.save(lv.open(tmp_path / "p") + 1, tmp_path / "p.star", overwrite=True)


def test_particles_stay_if_the_new_ones_cannot_take_their_name(tmp_path, monkeypatch):
    lv.save(stack_of(), tmp_path / "p.star")
    rename, calls = os.rename, []

    def stopped(source, destination):
        calls.append(source)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        rename(source, destination)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(StoreError, match="Input/output error"):
        lv.save(stack_of() + 1, tmp_path / "p.star", overwrite=True)
    np.testing.assert_array_equal(lv.open(tmp_path / "p.star"), stack_of())
    assert sorted(os.listdir(tmp_path)) == ["p", "p.star"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.astype("f8"), "astype"), (lambda s: s[:, ::-1], "positions must increase"),
        (lambda s: s.assign_coords({"a b": ("k", np.zeros(5))}), "without spaces"),
        (lambda s: s.assign_coords(c=("k", np.zeros(5, complex))), "complex"),
    ],
)  # fmt: skip
def test_refused_stacks_leave_nothing(change, message, tmp_path):
    with pytest.raises(LabelError, match=message):
        lv.save(change(stack_of()), tmp_path / "p.star")
    assert not list(tmp_path.iterdir())


def test_a_task_that_fails_leaves_nothing(tmp_path):
    def fail(block):
        raise MissingChunkError("chunk 5 is absent")

    stack = stack_of()
    broken = stack.copy(data=stack.data.map_blocks(fail, dtype="f4", meta=np.zeros((0,) * 4, "f4")))
    with pytest.raises(MissingChunkError, match="chunk 5"):
        lv.save(broken, tmp_path / "p.star")
    assert not list(tmp_path.iterdir())


def test_labels_that_a_list_cannot_hold_are_named(tmp_path):
    stack = stack_of().assign_attrs(method="x").assign_coords(run=3)
    with pytest.warns(LossWarning, match="coordinates run; attributes method") as told:
        lv.save(stack, tmp_path / "p.star")
    assert told[0].filename == __file__


# single files ----------------------------------------------------------------------------------


def test_mrcs_holds_images_alone(tmp_path):
    images = stack_of((5, 6, 7), ("k", "y", "x"))
    lv.save(images, tmp_path / "a.mrcs")
    with mrcfile.open(tmp_path / "a.mrcs") as opened:
        assert opened.is_image_stack()
        np.testing.assert_array_equal(opened.data, images)
    assert lv.open(tmp_path / "a.mrcs").dims == ("k", "y", "x")
    with pytest.raises(LabelError, match=r"save volumes as \.mrc, or as \.star"):
        lv.save(stack_of(), tmp_path / "b.mrcs")


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("dims", [("z", "y", "x"), ("y", "x")])
def test_em_files_are_what_their_definition_says(dtype, dims, tmp_path):
    shape = SHAPE[-len(dims) :]
    values = (np.random.default_rng(0).normal(size=shape) * 99).astype(dtype)
    volume = lv.as_stack(values, dims=dims).chunk(dict.fromkeys(dims, 3))
    lv.save(volume, tmp_path / "a.em")
    content = (tmp_path / "a.em").read_bytes()
    kind = {"i1": 1, "i2": 2, "i4": 4, "f4": 5, "f8": 9}[dtype]
    assert (content[0], content[3]) == (6, kind)
    assert struct.unpack("<3i", content[4:16]) == (*shape[::-1], 1)[:3]
    found = np.frombuffer(content, np.dtype(dtype).newbyteorder("<"), offset=512)
    np.testing.assert_array_equal(found.reshape(shape), values)
    np.testing.assert_array_equal(lv.open(tmp_path / "a.em"), values)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "f4", "f8", "u8"])
@pytest.mark.parametrize("dims", [("k", "z", "y", "x"), ("z", "y", "x"), ("y", "x")])
@pytest.mark.parametrize("chunk", [2, 50])
def test_nifti_is_what_nibabel_reads(suffix, dtype, dims, chunk, tmp_path):
    shape = SHAPE[-len(dims) :]
    values = (np.random.default_rng(0).random(shape) * 99).astype(dtype)
    stack = lv.as_stack(values, dims=dims, voxel_size=1.35, unit="angstrom")
    stack = stack.assign_coords(x=stack.x + 20.25).chunk(dict.fromkeys(dims, chunk))
    lv.save(stack, tmp_path / f"a{suffix}")
    image = nibabel.load(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, values)
    assert image.get_data_dtype() == np.dtype(dtype)
    assert image.header.get_xyzt_units()[0] == "micron"
    np.testing.assert_allclose(image.header.get_zooms()[: len(dims[-3:])], 1.35e-4, rtol=1e-6)
    np.testing.assert_allclose(image.affine[0, 3], 20.25e-4, rtol=1e-6)
    found = lv.open(tmp_path / f"a{suffix}")
    assert (found.dims, found.dtype) == (stack.dims, stack.dtype)
    np.testing.assert_array_equal(found, values)
    np.testing.assert_allclose(found.x, stack.x * 1e-4, rtol=1e-6)
    assert found.x.attrs["units"] == "micrometer"


def test_nifti_of_unknown_size_in_millimetres_and_long(tmp_path):
    lv.save(lv.as_stack(np.zeros((2, 3, 4), "f4")), tmp_path / "a.nii")
    assert lv.open(tmp_path / "a.nii").x.attrs["units"] == "voxel"
    volume = lv.as_stack(np.zeros((2, 3, 4), "f4"), voxel_size=0.5, unit="millimeter")
    lv.save(volume, tmp_path / "b.nii")
    xr.testing.assert_equal(lv.open(tmp_path / "b.nii").x, volume.x)
    lv.save(lv.as_stack(np.zeros((1, 1, 40_000), "u1")), tmp_path / "c.nii")
    assert isinstance(nibabel.load(tmp_path / "c.nii"), nibabel.Nifti2Image)


@pytest.mark.parametrize(
    ("name", "dims", "dtype", "message"),
    [
        ("a.em", ("k", "z", "y", "x"), "f4", r"dims \(z, y, x\), \(y, x\), got"),
        ("a.em", ("z", "y", "x"), "u2", "int8, int16, int32, float32, float64, got uint16"),
        ("a.nii", ("k", "y", "x"), "f4", "NIfTI files must hold"),
        ("a.nii.gz", ("z", "y", "x"), "f2", "got float16"),
        ("a.nii", ("z", "y", "x"), "?", "got bool"), ("a.mrcs", ("k", "y", "x"), "f8", "astype"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused(name, dims, dtype, message, tmp_path):
    with pytest.raises(LabelError, match=message):
        lv.save(lv.as_stack(np.zeros(SHAPE[-len(dims) :], dtype), dims=dims), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.em", "a.nii"])
def test_lost_labels_are_named(name, tmp_path):
    volume = stack_of()[0].assign_attrs(method="x")
    words = "voxel size and positions.*attributes method" if name == "a.em" else "attributes method"
    with pytest.warns(LossWarning, match=words) as told:
        lv.save(volume, tmp_path / name)
    assert told[0].filename == __file__
