"""NIfTI files: values of nibabel, and false headers."""

import gzip
import struct
import sys

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lazyvol.errors import (
    FormatError,
    TruncatedError,
)
from lazyvol.io import hdf5, nifti
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source, values

SHAPE = (5, 7, 11)
FILES = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FILES
@given(
    version=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]),
    dtype=st.sampled_from(["u1", "i2", "f4", "f8", ">i2"]),
    shape=st.sampled_from([(4, 5), (4, 5, 6), (4, 5, 6, 3), (4, 5, 6, 1, 2), (4, 5, 6, 3, 2)]),
    scaled=st.booleans(),
    packed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_nifti_as_nibabel_reads_it(tmp_path, version, dtype, shape, scaled, packed, seed):
    image = version(values(shape, seed=seed).astype(dtype), np.diag([-2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units("micron")
    if scaled:
        image.header.set_slope_inter(0.5, 7.25)
    path = tmp_path / ("a.nii.gz" if packed else "a.nii")
    image.to_filename(path)
    opened = nifti.probe(path)
    expected = np.asanyarray(nibabel.load(path).dataobj).T
    if shape[3:] == (1, 2):
        expected = expected[:, 0]
    dims = {2: "yx", 3: "zyx", 4: ("k", "z", "y", "x")}.get(len(shape))
    if len(shape) == 5:
        dims = ("channel", "z", "y", "x")
        if shape[3] > 1:
            dims, expected = ("k", *dims), expected.swapaxes(0, 1)
    assert opened.dims == tuple(dims)
    assert opened.unit == "micrometer"
    assert opened.voxel_size == {
        d: v for d, v in {"x": 2.0, "y": 3.0, "z": 4.0}.items() if d in dims
    }
    assert opened.name == "a"
    check_source(opened.source, expected, tries=3, seed=seed)


def nifti_header(**fields) -> bytes:
    """Return a NIfTI-1 file of (4, 5, 6) int16 with the given fields."""
    image = nibabel.Nifti1Image(values((4, 5, 6), 1), np.eye(4))
    for name, value in fields.items():
        image.header[name] = value
    head = bytes(image.header.binaryblock) + bytes(4)
    return head + values((4, 5, 6), 1).tobytes("F")


def test_a_nifti_header_as_written_by_hand(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_header(vox_offset=352))
    opened = nifti.probe(path)
    assert opened.unit == "voxel"
    assert not opened.voxel_size
    check_source(opened.source, values((4, 5, 6), 1).T)


def test_big_endian_nifti(tmp_path):
    image = nibabel.Nifti1Image(values((4, 5, 6), 1), np.eye(4))
    image.header["vox_offset"] = 352
    head = bytes(image.header.as_byteswapped(">").binaryblock) + bytes(4)
    (tmp_path / "a.nii").write_bytes(head + values((4, 5, 6), 1).astype(">i2").tobytes("F"))
    check_source(nifti.probe(tmp_path / "a.nii").source, values((4, 5, 6), 1).T)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"vox_offset": 0}, FormatError),
        ({"vox_offset": np.nan}, FormatError),
        ({"vox_offset": 1e30}, FormatError),
        ({"vox_offset": 353}, TruncatedError),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, TruncatedError),
        ({"dim": [3, 4, -5, 6, 1, 1, 1, 1]}, FormatError),
        ({"dim": [0] * 8}, FormatError),
        ({"dim": [7, 4, 5, 6, 1, 1, 1, 1]}, FormatError),
        ({"dim": [3, 4, 5, 5, 1, 1, 1, 1]}, FormatError),
        ({"datatype": 99}, FormatError),
        ({"datatype": 128}, FormatError),
        ({"datatype": 32}, FormatError),
        ({"scl_slope": 2.0, "scl_inter": np.inf}, FormatError),
        ({"magic": b"ni1"}, FormatError),
    ],
)
def test_niftis_that_lie(tmp_path, fields, error):
    content = nifti_header(**{"vox_offset": 352, **fields})
    for name, data in (("a.nii", content), ("a.nii.gz", gzip.compress(content))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises((error, TruncatedError)):  # noqa: PT012
            opened = nifti.probe(tmp_path / name)
            opened.source.read(whole(opened.source.shape))


@pytest.mark.parametrize("cut", [0, 3, 4, 347, 348, 351, 400, 591])
def test_niftis_cut_short(tmp_path, cut):
    (tmp_path / "a.nii").write_bytes(nifti_header(vox_offset=352)[:cut])
    with pytest.raises(FormatError):
        nifti.probe(tmp_path / "a.nii")


@pytest.mark.parametrize(("module", "reader"), [("h5py", hdf5), ("nibabel", nifti)])
def test_libraries_of_the_extra(tmp_path, monkeypatch, module, reader):
    (tmp_path / "a").write_bytes(bytes(1000))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FormatError, match=r'needs \w+; pip install "lazyvol\[formats\]"'):
        reader.probe(tmp_path / "a")


def test_a_scale_that_overflows_is_infinite(tmp_path):
    path = tmp_path / "a.nii"
    image = nibabel.Nifti1Image(np.full((2, 3, 4), 1e300), np.eye(4))
    image.header.set_slope_inter(1e30, 0)
    image.to_filename(path)
    head = bytearray(path.read_bytes())
    head[112:116] = struct.pack("<f", 1e30)
    head[352:] = np.full((2, 3, 4), 1e300).tobytes()
    path.write_bytes(head)
    source = nifti.probe(path).source
    assert np.isposinf(source.read(whole((4, 3, 2)))).all()
