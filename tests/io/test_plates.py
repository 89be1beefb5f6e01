"""Plates of OME-Zarr: fields along k, and the labels of images that others wrote."""

import json

import numpy as np
import pytest
import zarr

import lazyvol as lv
from lazyvol.errors import FormatError, LabelError
from tests.paths import DATA

AXES = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
OMERO = {"channels": [{"label": "DAPI", "color": "0000FF"}, {"label": "GFP"}]}


def image_attributes(letters: str, version: str, *, step: float = 0.5) -> dict:
    """Return the attributes of an image: micrometres, and minutes along t."""
    units = {"time": {"unit": "minute"}, "space": {"unit": "micrometer"}}
    axes = [{"name": a, "type": AXES[a], **units.get(AXES[a], {})} for a in letters]
    scale = [{"t": step, "c": 1.0}.get(a, 2.0) for a in letters]
    steps = [{"type": "scale", "scale": scale}]
    image = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    if version == "0.4":
        return {"multiscales": [{**image, "version": version}], "omero": OMERO}
    return {"ome": {"version": version, "multiscales": [image], "omero": OMERO}}


def write_plate(path, array: np.ndarray, letters: str, version: str = "0.5") -> None:
    """Write fields (well, field, ...) of the wells A1, A2, B1, ... of two columns."""
    options = {"zarr_format": 2 if version == "0.4" else 3}
    wells = [f"{'ABC'[n // 2]}/{n % 2 + 1}" for n in range(len(array))]
    plate = {"wells": [{"path": w, "rowIndex": 0, "columnIndex": 0} for w in wells]}
    nest = (lambda a: a) if version == "0.4" else lambda a: {"ome": {"version": version, **a}}
    zarr.create_group(path, attributes=nest({"plate": plate}), **options)
    for well, fields in zip(wells, array, strict=True):
        images = {"images": [{"path": str(n)} for n in range(len(fields))]}
        zarr.create_group(f"{path}/{well}", attributes=nest({"well": images}), **options)
        for n, values in enumerate(fields):
            where = f"{path}/{well}/{n}"
            zarr.create_group(where, attributes=image_attributes(letters, version), **options)
            zarr.create_array(f"{where}/0", data=values, chunks=values.shape, **options)


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 99, shape).astype("u2")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_fields_of_wells_are_a_stack(tmp_path, version):
    array = numbers(3, 2, 1, 2, 3, 5, 7)
    write_plate(tmp_path / "a.zarr", array, "tczyx", version)
    stack = lv.open(tmp_path / "a.zarr")
    assert (stack.dims, stack.name) == (("k", "channel", "z", "y", "x"), "a")
    assert stack.well.values.tolist() == ["A1", "A1", "A2", "A2", "B1", "B1"]
    assert stack.field.values.tolist() == ["0", "1"] * 3
    assert stack.channel.values.tolist() == ["DAPI", "GFP"]
    assert (float(stack.z[1]), stack.z.attrs["units"]) == (2.0, "micrometer")
    np.testing.assert_array_equal(stack, array.reshape(6, 2, 3, 5, 7))
    wells = stack.set_index(k=["well", "field"]).sel(well="A2", channel="GFP")
    np.testing.assert_array_equal(wells, array[1, :, 0, 1])
    assert lv.open(tmp_path / "a.zarr/A/2/1").dims == ("k", "channel", "z", "y", "x")


def test_time_points_of_a_plate_are_frames(tmp_path):
    array = numbers(2, 1, 4, 5, 7)
    write_plate(tmp_path / "a.zarr", array, "tyx")
    stack = lv.open(tmp_path / "a.zarr")
    assert stack.dims == ("k", "frame", "y", "x")
    np.testing.assert_array_equal(stack, array[:, 0])


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_image_keeps_its_channels_and_times(tmp_path, version):
    write_plate(tmp_path / "a.zarr", numbers(1, 1, 3, 2, 5, 7), "tcyx", version)
    image = lv.open(tmp_path / "a.zarr/A/1/0")
    assert image.time.values.tolist() == [0.0, 30.0, 60.0]
    assert image.channel.values.tolist() == ["DAPI", "GFP"]
    assert lv.open(tmp_path / "a.zarr/A/1/0/0").channel.values.tolist() == ["DAPI", "GFP"]


def test_plates_that_lack_an_image_are_refused(tmp_path):
    write_plate(tmp_path / "a.zarr", numbers(2, 1, 5, 7), "yx")
    file = tmp_path / "a.zarr/A/2/zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["ome"]["well"]["images"] = [{"path": "9"}]
    file.write_text(json.dumps(content))
    with pytest.raises(FormatError, match="lists '9', which is not there"):
        lv.open(tmp_path / "a.zarr")
    for images in ([], None, [{}], [{"path": "../../x"}]):
        content["attributes"]["ome"]["well"]["images"] = images
        file.write_text(json.dumps(content))
        if images == []:
            assert lv.open(tmp_path / "a.zarr").sizes["k"] == 1
            continue
        with pytest.raises(FormatError, match=r"must list paths|path must lead"):
            lv.open(tmp_path / "a.zarr")


def test_images_of_a_plate_are_alike(tmp_path):
    write_plate(tmp_path / "a.zarr", numbers(2, 1, 5, 7), "yx")
    zarr.create_array(tmp_path / "a.zarr/A/2/0/0", data=numbers(5, 8), overwrite=True)
    with pytest.raises(LabelError, match="must be alike"):
        lv.open(tmp_path / "a.zarr")


@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")
def test_a_real_plate():
    with pytest.warns(UserWarning, match="absent"):
        stack = lv.open(DATA / "ome_zarr/ome-zarr-examples_valid/plate-01.zarr")
    assert stack.well.values.tolist() == ["A1", "A2", "B1", "B2"]
