"""Several files as one stack, and recognition of the format under a path."""

import gzip
import os
import pickle
import shutil
from functools import partial
from importlib import import_module

import numpy as np
import pytest
import tifffile

from lazyvol.errors import FormatError, LabelError, LimitExceeded, OptionError, SourceNotFoundError
from lazyvol.io.files import natural_key
from lazyvol.io.probe import probe
from lazyvol.plan.regions import whole
from tests.allocations import least_peak
from tests.io.reader_cases import check_source, mrc_bytes, values

SHAPE = (5, 7, 11)


@pytest.fixture
def volumes(tmp_path):
    """Write twelve volumes into a folder; return it and their values in natural order."""
    arrays = [values(SHAPE, seed=n) for n in range(1, 13)]
    for n, array in enumerate(arrays, 1):
        (tmp_path / f"img{n}.mrc").write_bytes(mrc_bytes(array))
    (tmp_path / "notes.txt").write_text("not a volume")
    (tmp_path / ".img0.mrc").write_bytes(b"hidden")
    (tmp_path / "more").mkdir()
    return tmp_path, np.stack(arrays)


def test_names_are_sorted_by_their_numbers():
    names = ["b1", "a10", "a2", "a", "a02", "a1b10", "a1b9", "10", "9", "²"]
    expected = ["9", "10", "a", "a1b9", "a1b10", "a02", "a2", "a10", "b1", "²"]
    assert sorted(names, key=natural_key) == expected


def test_a_folder_and_a_pattern_are_the_same_stack(volumes):
    folder, expected = volumes
    names = [f"img{n}.mrc" for n in range(1, 13)]
    for source in (folder, str(folder), f"{folder}/img*.mrc", f"{folder}/**/*.mrc"):
        opened = probe(source)
        assert opened.dims == ("k", "z", "y", "x")
        assert opened.name == folder.name or "**" in str(source)
        assert opened.source.chunks == (1, 1, 7, 11)
        assert opened.coords["file"][0] == "k"
        assert opened.coords["file"][1].tolist() == names
    check_source(opened.source, expected)


def test_a_list_keeps_its_order(volumes):
    folder, expected = volumes
    paths = [folder / f"img{n}.mrc" for n in (10, 2, 7)]
    opened = probe(paths)
    assert opened.coords["file"][1].tolist() == [path.name for path in paths]
    check_source(opened.source, expected[[9, 1, 6]])
    one = probe(paths[:1])
    assert one.dims == ("k", "z", "y", "x")
    check_source(one.source, expected[[9]])
    assert one.source.token != probe(paths[1:2]).source.token
    assert probe(paths).source.token == opened.source.token
    assert probe(paths[::-1]).source.token != opened.source.token


def test_only_the_files_of_a_region_are_read(volumes):
    folder, expected = volumes
    source = probe(folder).source
    for n in (1, 2, 3, 12):
        (folder / f"img{n}.mrc").unlink()
    region = (slice(3, 11), slice(1, 4), slice(0, 7), slice(2, 5))
    np.testing.assert_array_equal(source.read(region), expected[region])
    with pytest.raises(SourceNotFoundError, match=r"img12\.mrc"):
        source.read((slice(11, 12), *region[1:]))


def test_peak_and_bytes_of_a_stack(volumes):
    folder, expected = volumes
    source = probe(folder).source
    region = (slice(2, 9), slice(0, 5), slice(0, 7), slice(0, 11))
    assert source.stored_bytes(region) == expected[region].nbytes
    assert source.peak_bytes(region) == expected[region].nbytes
    peak = least_peak(partial(source.read, region))
    assert peak < source.peak_bytes(region) + 32 * 1024


def test_a_large_stack_stays_small(tmp_path):
    content = mrc_bytes(values((2, 3, 4)))
    for n in range(500):
        (tmp_path / f"particle_{n:06d}.mrc").write_bytes(content)
    source = probe(tmp_path).source
    assert len(pickle.dumps(source)) < 500 * 200


def test_planes_become_a_volume(tmp_path):
    array = values((4, 5, 6)).astype("u2")
    for n, plane in enumerate(array):
        tifffile.imwrite(tmp_path / f"plane_{n}.tif", plane)
    opened = probe(tmp_path)
    assert opened.dims == ("z", "y", "x")
    assert opened.source.chunks == (1, 5, 6)
    check_source(opened.source, array)


def test_planes_in_colour_become_a_volume(tmp_path):
    array = values((4, 5, 6, 3)).astype("u1")
    for n, plane in enumerate(array):
        tifffile.imwrite(tmp_path / f"plane_{n}.tif", plane, photometric="rgb")
    opened = probe(tmp_path)
    assert opened.dims == ("channel", "z", "y", "x")
    assert opened.coords["file"][0] == "z"
    check_source(opened.source, array.transpose(3, 0, 1, 2))


def test_image_stacks_become_frames(tmp_path):
    arrays = [values(SHAPE, seed=n) for n in range(3)]
    for n, array in enumerate(arrays):
        (tmp_path / f"{n}.mrcs").write_bytes(mrc_bytes(array, group=0))
    opened = probe(tmp_path)
    assert opened.dims == ("k", "frame", "y", "x")
    check_source(opened.source, np.stack(arrays))


def test_volume_stacks_are_not_stacked_again(tmp_path):
    for n in range(2):
        content = mrc_bytes(values((3, *SHAPE)), group=401)
        (tmp_path / f"{n}.mrc").write_bytes(content)
    with pytest.raises(LabelError, match="one volume each"):
        probe(tmp_path)


@pytest.mark.parametrize(
    ("other", "fact"),
    [
        (mrc_bytes(values((5, 7, 12))), r"shape \(5, 7, 11\).*shape \(5, 7, 12\)"),
        (mrc_bytes(values(SHAPE, 1), mode=1), "dtype float32.*dtype int16"),
        (mrc_bytes(values((2, *SHAPE)), group=401), "dims"),
        (mrc_bytes(values(SHAPE), cell=(11.0, 7.0, 5.0)), "spacing"),
    ],
)
def test_files_that_differ_are_named(volumes, other, fact):
    folder, _ = volumes
    (folder / "img7.mrc").write_bytes(other)
    with pytest.raises(LabelError, match=fact) as caught:
        probe(folder)
    assert "img1.mrc" in str(caught.value)
    assert "img7.mrc" in str(caught.value)


def test_spacing_may_be_rounded_and_positions_may_differ(tmp_path):
    for n, size in enumerate((2.0, 2.0001)):
        facts = {"cell": (11 * size, 7 * size, 5 * size), "origin": (n, 2.0, 3.0)}
        (tmp_path / f"{n}.mrc").write_bytes(mrc_bytes(values(SHAPE), **facts))
    opened = probe(tmp_path)
    assert opened.voxel_size == {"x": 2.0, "y": 2.0, "z": 2.0}
    assert not opened.origin
    assert opened.coords["origin_x"][0] == "k"
    assert opened.coords["origin_x"][1].tolist() == [0.0, 1.0]
    assert opened.coords["origin_z"][1].tolist() == [3.0, 3.0]
    shutil.copy(tmp_path / "0.mrc", tmp_path / "1.mrc")
    opened = probe(tmp_path)
    assert opened.origin == {"x": 0.0, "y": 2.0, "z": 3.0}
    assert set(opened.coords) == {"file"}


def test_repairs_name_the_file(volumes):
    folder, expected = volumes
    (folder / "img7.mrc").write_bytes(mrc_bytes(expected[6]) + b"more")
    with pytest.raises(FormatError, match=r"img7\.mrc"):
        probe(folder)
    opened = probe(folder, permissive=True)
    assert len(opened.attrs["repairs"]) == 1
    assert "img7.mrc" in opened.attrs["repairs"][0]
    check_source(opened.source, expected, tries=2)


def test_names_that_repeat_keep_their_folder(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "v.mrc").write_bytes(mrc_bytes(values(SHAPE)))
    opened = probe(f"{tmp_path}/*/v.mrc")
    assert opened.coords["file"][1].tolist() == [os.path.join(n, "v.mrc") for n in "ab"]


def test_content_comes_before_the_suffix(tmp_path):
    array = values(SHAPE)
    np.save(tmp_path / "a.npy", array)
    shutil.move(tmp_path / "a.npy", tmp_path / "a.mrc")
    tifffile.imwrite(tmp_path / "b.dat", array, photometric="minisblack")
    (tmp_path / "c").write_bytes(mrc_bytes(array))
    for name in ("a.mrc", "b.dat", "c"):
        check_source(probe(tmp_path / name).source, array, tries=2)


def test_links_are_followed(volumes):
    folder, expected = volumes
    (folder / "more/link.mrc").symlink_to(folder / "img3.mrc")
    check_source(probe(folder / "more/link.mrc").source, expected[2], tries=2)
    (folder / "more/dangling.mrc").symlink_to(folder / "nothing.mrc")
    with pytest.raises(SourceNotFoundError):
        probe(folder / "more/dangling.mrc")


def test_what_is_missing_is_told_with_what_looks_like_it(volumes):
    folder, _ = volumes
    with pytest.raises(SourceNotFoundError, match=r"did you mean img12\.mrc"):
        probe(folder / "img12.mcr")
    with pytest.raises(SourceNotFoundError, match="check the path"):
        probe(folder / "something else")
    with pytest.raises(SourceNotFoundError, match=r"the folder .*nowhere does not exist"):
        probe(folder / "nowhere/img1.mrc")
    with pytest.raises(SourceNotFoundError, match="no file matches"):
        probe(f"{folder}/vol*.mrc")
    with pytest.raises(SourceNotFoundError, match=r"no zarr store and no file of \.mrc"):
        probe(folder / "more")
    with pytest.raises(SourceNotFoundError, match="must not be empty"):
        probe([])
    with pytest.raises(SourceNotFoundError):
        probe(f"{folder}/img1.mrc/inside.mrc")
    with pytest.raises(OptionError, match="must be a path"):
        probe("with\0null")


def test_pipes_and_devices_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mrc")
    with pytest.raises(FormatError, match="regular file"):
        probe(tmp_path / "pipe.mrc")
    with pytest.raises(FormatError, match="regular file"):
        probe("/dev/zero")


def test_signs_of_a_pattern_in_a_name(tmp_path):
    (tmp_path / "a[1].mrc").write_bytes(mrc_bytes(values(SHAPE)))
    check_source(probe(tmp_path / "a[1].mrc").source, values(SHAPE), tries=2)


def test_unknown_content(tmp_path):
    for name, content in (("a", b""), ("a.png", b"\x89PNG\r\n"), ("a.gz", b"\x1f\x8b")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError):
            probe(tmp_path / name)


def test_only_some_formats_are_read_packed(tmp_path):
    np.save(tmp_path / "a.npy", values(SHAPE))
    packed = gzip.compress((tmp_path / "a.npy").read_bytes())
    (tmp_path / "a.npy.gz").write_bytes(packed)
    with pytest.raises(FormatError, match="MRC and NIfTI also in gzip"):
        probe(tmp_path / "a.npy.gz")


def test_files_are_counted(volumes, monkeypatch):
    monkeypatch.setattr(import_module("lazyvol.io.probe"), "MAX_FILES", 5)
    with pytest.raises(LimitExceeded, match="5 files"):
        probe(volumes[0])


@pytest.mark.parametrize("mark", ["zarr.json", ".zgroup", ".zarray", ".zattrs"])
def test_zarr_stores_go_to_their_reader(tmp_path, monkeypatch, mark):
    (tmp_path / mark).touch()
    calls = []

    def zarr_probe(path, *, permissive, missing, storage_options):
        calls.append((path, permissive))
        return "opened"

    monkeypatch.setattr("lazyvol.io.zarr.reader.probe", zarr_probe)
    assert probe(tmp_path, permissive=True) == "opened"
    assert calls == [(tmp_path, True)]


def test_stacks_of_packed_files(tmp_path):
    arrays = [values(SHAPE, seed=n) for n in range(3)]
    for n, array in enumerate(arrays):
        (tmp_path / f"{n}.map.gz").write_bytes(gzip.compress(mrc_bytes(array, axes=(3, 1, 2))))
    source = probe(tmp_path).source
    check_source(source, np.stack(arrays), tries=4)
    assert source.peak_bytes(whole(source.shape)) >= source.shape[0] * arrays[0].nbytes
