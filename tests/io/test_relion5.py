"""Lists of RELION 5: optimisation sets, orientations of boxes, stacks of unequal frames."""

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import xarray as xr

import lazyvol as lv
from lazyvol.errors import FormatError, LabelError, SourceNotFoundError
from lazyvol.io import star
from tests.io.test_particle_lists import real

COUNTS = (3, 1, 4)


def frames_file(path: Path, count: int, seed: int, dtype: str = "f4", size: int = 5) -> np.ndarray:
    """Write a stack of frames with mrcfile, and return its values."""
    values = (np.random.default_rng(seed).normal(size=(count, size, 6)) * 9).astype(dtype)
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.set_image_stack()
        file.voxel_size = 4.0
    return values


def write(folder: Path, **columns: object) -> Path:
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [4.0]}
    names = [f"{n}.mrcs" for n in range(len(COUNTS))]
    particles = {"rlnTomoParticleName": ["TS_1/1", "TS_1/2", "TS_2/1"], "rlnImageName": names}
    general = {"rlnTomoSubTomosAre2DStacks": 1}
    blocks = {"general": general, "optics": optics, "particles": {**particles, **columns}}
    (folder / "particles.star").write_text(star.text(blocks.items()))
    return folder / "particles.star"


@pytest.fixture
def ragged(tmp_path):
    """A list of three stacks of 3, 1 and 4 frames, and their values."""
    stacks = [frames_file(tmp_path / f"{n}.mrcs", c, n) for n, c in enumerate(COUNTS)]
    return write(tmp_path), stacks


def test_stacks_of_unequal_frames_are_ragged(ragged):
    path, stacks = ragged
    found = lv.open(path)
    assert found["values"].dims == ("obs", "y", "x")
    assert found["values"].chunks is not None
    np.testing.assert_array_equal(found["values"], np.concatenate(stacks))
    assert found.row_size.values.tolist() == [*COUNTS]
    assert found.particle.values.tolist() == ["TS_1/1", "TS_1/2", "TS_2/1"]
    assert (float(found.x[1]), found.x.attrs["units"]) == (4.0, "angstrom")
    assert found.attrs["tables"]["general"] == {"rlnTomoSubTomosAre2DStacks": 1}
    for n, stack in enumerate(stacks):
        np.testing.assert_array_equal(lv.masks.frame(found, n), stack)
    padded = lv.masks.pad(found, dim="frame")
    assert padded.dims == ("k", "frame", "y", "x")
    assert padded.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(padded[0, :3], stacks[0])
    assert np.isnan(padded[0, 3]).all()


def test_any_region_of_ragged_frames(ragged):
    path, stacks = ragged
    values, whole = lv.open(path)["values"], np.concatenate(stacks)
    for start in range(len(whole)):
        for stop in range(start, len(whole) + 1):
            part = (slice(start, stop), slice(1, 4), slice(0, None, 2))
            np.testing.assert_array_equal(values[part], whole[part])


def test_ragged_frames_are_saved_and_opened_again(ragged, tmp_path):
    lv.save(lv.open(ragged[0]), tmp_path / "a.zarr")
    xr.testing.assert_identical(lv.open(tmp_path / "a.zarr").load(), lv.open(ragged[0]).load())


def test_frames_that_are_not_alike_are_named_by_row(ragged):
    path, _ = ragged
    for options in ({"dtype": "i2"}, {"size": 4}):
        frames_file(path.parent / "1.mrcs", 2, 0, **options)
        with pytest.raises(LabelError, match=r"row 1 .*float32.*row 2 \(1\.mrcs\)"):
            lv.open(path)
    frames_file(path.parent / "1.mrcs", 2, 0)
    with pytest.raises(LabelError, match="without dims"):
        lv.open(path, dims=("k", "frame", "y", "x"))


def test_equal_frames_stay_an_array(tmp_path):
    for n in range(3):
        frames_file(tmp_path / f"{n}.mrcs", 4, n)
    assert lv.open(write(tmp_path)).dims == ("k", "frame", "y", "x")


def test_orientations_of_boxes_and_their_names(tmp_path):
    columns = {f"rlnTomoSubtomogram{a}": [1.5, 2.0, 3.0] for a in ("Rot", "Tilt", "Psi")}
    centred = {f"rlnCenteredCoordinate{d}Angst": [1.0, 2.0, -3.0] for d in "XYZ"}
    path = write(tmp_path, **columns, **centred)
    found = lv.io.particles(path)
    for name in ("subtomogram_rot", "subtomogram_tilt", "subtomogram_psi"):
        assert found[name].attrs["units"] == "degree"
        assert found[name].values.tolist() == [1.5, 2.0, 3.0]
    assert found.centred_z.attrs["units"] == "angstrom"
    lv.save(found, tmp_path / "again.star")
    assert (tmp_path / "again.star").read_text() == path.read_text()


def test_an_optimisation_set_leads_to_particles_and_tomograms():
    path = real("cryoet_warp_70s/optimisation_set.star")
    found, direct = lv.io.particles(path), lv.io.particles(path.parent / "particles.star")
    xr.testing.assert_equal(found, direct)
    tomograms = found.attrs["tables"]["global"]
    assert tomograms["rlnTomoName"] == ["Unt_083.tomostar", "Unt_050.tomostar"]
    assert tomograms["rlnTomoHand"] == [-1.0, -1.0]
    assert found.attrs["optics"] == direct.attrs["optics"]
    stack = lv.open(path)
    assert stack.dims == ("k", "frame", "y", "x")
    assert stack.shape == (20, 37, 32, 32)
    np.testing.assert_array_equal(stack[3], lv.open(path.parent / "particles.star")[3])


def test_optimisation_sets_with_missing_files_are_refused(tmp_path):
    path = tmp_path / "set.star"
    path.write_text("data_\n\n_rlnTomoParticlesFile gone.star\n")
    with pytest.raises(SourceNotFoundError, match=r"gone\.star"):
        lv.open(path)
    path.write_text("data_\n\n_rlnTomoParticlesFile set.star\n")
    with pytest.raises(FormatError, match="loop of particles"):
        lv.io.particles(path)
