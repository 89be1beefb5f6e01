"""Real files compared with other readers: shapes, dims, spacing, units and values."""

import time
import tracemalloc
import warnings
from collections.abc import Iterator
from functools import partial

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile

from lazyvol.errors import (
    FormatError,
    LabelError,
    LazyvolError,
    SourceNotFoundError,
    TruncatedError,
)
from lazyvol.io.probe import probe
from lazyvol.io.region_source import StackedSource
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source
from tests.paths import DATA

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="shared/data is not beside the checkout")

DIMS = {"k": "k", "c": "channel", "f": "frame", "z": "z", "y": "y", "x": "x"}


def mrc(name: str, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """Values by mrcfile, its axes put in order by hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(DATA / name, permissive=True) as file:
            array = np.array(file.data)
    return array if axes is None else array.transpose(axes)


def tiff(name: str, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """Values by tifffile, its axes put in order by hand."""
    array = tifffile.imread(DATA / name)
    return array if axes is None else array.transpose(axes)


def hdf5(name: str, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """Values by h5py, axes put in order by hand."""
    path, _, item = name.partition("::")
    with h5py.File(DATA / path) as file:
        array = file[item][()]
    return array if axes is None else array.transpose(axes)


def nifti(name: str, axes: None) -> np.ndarray:
    """Values by nibabel, x, y, z, t turned round."""
    return np.asanyarray(nibabel.load(DATA / name).dataobj).T


# file (::data set), dims, shape, dtype, unit, spacing of these dims or of all, axes of the oracle
MRC_FILES = """
cryoet_warp_70s/subtomos_aligned.mrc            kzyx 20,32,32,32 f4 angstrom 12 -
cryoet_warp_70s/subtomos_unaligned.mrc          kzyx 20,32,32,32 f4 angstrom 12 -
cryoet_warp_70s/relion_reconstruct_40ptcls.mrc  zyx 32,32,32 f4 angstrom 12.0024 -
cryoet_warp_70s/Unt_050/Unt_050_12.00A_000001.mrcs kyx 37,32,32 f2 angstrom y=12,x=12 -
cryoet_microtubule/beta-tubulin.mrc             zyx 20,20,20 f4 angstrom 5.144 -
emdb_maps/EMD-3197.map                          zyx 20,20,20 f4 angstrom 11.4 -
emdb_maps/emd_3197.map.gz                       zyx 20,20,20 f4 angstrom 11.4 -
emdb_maps/emd_1832.map                          zyx 64,64,64 f4 angstrom 5.7 -
emdb_maps/EMD-3001.map         zyx 73,25,43 f4 angstrom z=0.45875,y=0.3925,x=0.44825 2,0,1
emdb_maps/EMD-3001.map.bz2     zyx 73,25,43 f4 angstrom z=0.45875,y=0.3925,x=0.44825 2,0,1
emdb_maps/5i55_tiny.ccp4       zyx 10,8,6 f4 angstrom z=0.495,y=0.4375,x=0.4908333 0,2,1
emdb_maps/iota_yzx.ccp4.gz     zyx 2,1,4 f4 angstrom z=20,y=22,x=30 1,2,0
mrc_other_software/imod_new-head_int16.mrc      zyx 20,30,40 i2 angstrom 4 -
mrc_other_software/imod_serialem_big_head.mrc   zyx 100,100,100 i2 angstrom 16.84 -
mrc_other_software/HAADFscan_FEI2.mrc           yx 16,16 u2 angstrom 56.79131 -
mrc_other_software/eman2_5MRC.mrc               zyx 20,26,26 f4 angstrom 1 -
mrc_other_software/de_movie_negative_voxel.mrc  zyx 32,4,8 u2 voxel - -
mrc_other_software/fei1_micrograph_rows0-255.mrc yx 256,3710 u2 angstrom 0.8537755 -
masks/t74_vesicle3_bin6.Labels.mrc              zyx 50,100,100 i1 angstrom 1 -
particles_2d/empiar_10076_7.mrc                 zyx 7,320,320 f4 voxel - -
particles_2d/rln_proj_64_centered.mrcs          kyx 4,64,64 f4 angstrom y=1,x=1 -
particles_2d/xmipp_smallStack.mrcs              kyx 4,64,64 f4 angstrom y=1,x=1 -
tilt_stack/tilt_stack.mrc                       zyx 4,240,232 f4 voxel - -
"""
TIFF_FILES = """
cryoet_microtubule/13pf_MT.tif                  zyx 36,206,94 u1 nanometer 1.052 -
fluorescence/image_tzcyx.tif kczyx 4,2,10,77,79 u2 micrometer z=0.38,y=0.21667,x=0.21667 0,2,1,3,4
fluorescence/calcium_imaging.tif                zyx 1000,30,40 u2 voxel - -
fluorescence/stardist_img3d.tif                 zyx 31,61,57 u2 voxel - -
fluorescence/stardist_mask3d.tif                zyx 31,61,57 u2 voxel - -
fluorescence/mini-t1-head.tif                   zyx 32,32,32 u2 millimeter 1.5 -
isbi2012/train-volume.tif                       zyx 30,512,512 u1 voxel - -
isbi2012/train-labels.tif                       zyx 30,512,512 u1 voxel - -
masks/bat-cochlea_sub25.tif                     zyx 29,39,30 u1 voxel - -
masks/3d_monolayer_labels.tiff                  zyx 60,256,256 u2 voxel - -
masks/blobs_3d_fiji_skeleton.tif                zyx 30,32,32 u1 voxel - -
mrc_other_software/eman2_5MRC_fiji.tif          zyx 20,26,26 f4 voxel - -
malformed/tiff/hopper_bigtiff.tif               cyx 3,128,128 u1 voxel - 2,0,1
tiff_variants/BigTIFF.tif                       cyx 3,64,64 u1 voxel - 2,0,1
tiff_variants/int16.tif                         yx 64,64 i2 voxel - -
tiff_variants/int8.tif                          yx 64,64 i1 voxel - -
tiff_variants/gradient-1c-32b-float.tiff        yx 1,256 f4 voxel - -
tiff_variants/gradient-1c-64b-float.tiff        yx 1,256 f8 voxel - -
tiff_variants/gradient-1c-64b.tiff              yx 1,256 u8 voxel - -
tiff_variants/random-fp16.tiff                  yx 16,16 f2 voxel - -
tiff_variants/issue_69_packbits.tiff            yx 45,45 u2 voxel - -
tiff_variants/tiled-gray-i1.tif                 yx 51,37 ? voxel - -
tiff_variants/minisblack-1c-16b.tiff            yx 151,157 u2 voxel - -
tiff_variants/fiji_greenZstack.tif              zyx 10,64,64 u1 voxel - -
tiff_variants/multi-channel-z-series.ome.tif    czyx 3,5,167,439 i1 voxel - -
vessels/aorta.tif                               zyx 34,393,157 f4 voxel - -
"""
HDF5_FILES = """
em_gala/train-image.h5::stack                   zyx 50,100,200 u1 voxel - -
em_gala/train-gt.lzf.h5::stack                  zyx 50,100,200 i4 voxel - -
em_gala/train-p1.lzf.h5::stack                  zyx 50,100,200 f4 voxel - -
fluorescence/example-volume.h5::imaging \
    kczyx 10,2,3,64,64 u1 micrometer z=1,y=0.29258788,x=0.29386463 0,4,1,2,3
fluorescence/sample_ovule.h5::raw     zyx 32,128,128 u1 micrometer z=0.235,y=0.15,x=0.15 -
fluorescence/sample_ovule.h5::/label  zyx 32,128,128 u2 micrometer z=0.235,y=0.15,x=0.15 -
fmri_4d/filtered_func_kzyx.h5::data             kzyx 64,21,64,64 i2 voxel - -
diffraction_4d/kikuchipy_patterns.h5::Scan 1/EBSD/Data/patterns zyx 9,60,60 u1 voxel - -
diffraction_4d/py4DSTEM_size2x3x4x5.h5::datacube_root/datacube/data kzyx 2,3,4,5 f4 voxel - -
"""
NIFTI_FILES = """
fmri_4d/example4d.nii.gz            kzyx 2,24,96,128 i2 millimeter z=2.199999,y=2,x=2 -
fmri_4d/functional.nii              kzyx 20,3,21,17 f8 millimeter z=8,y=4,x=4 -
fmri_4d/small_64D.nii               kzyx 65,10,10,10 i2 millimeter 2 -
fmri_4d/filtered_func_data.nii.gz   kzyx 64,21,64,64 i2 voxel - -
"""


def cases() -> Iterator[tuple[object, ...]]:
    """Return the rows of the tables, each with the reader to compare with."""
    tables = {mrc: MRC_FILES, tiff: TIFF_FILES, hdf5: HDF5_FILES, nifti: NIFTI_FILES}
    for oracle, table in tables.items():
        for line in table.replace("\\\n", "").strip().splitlines():
            name, dims, shape, dtype, unit, sizes, axes = line.rsplit(maxsplit=6)
            expected = partial(oracle, name.rstrip(), numbers(axes))
            labels = tuple(DIMS[letter] for letter in dims)
            yield name.rstrip(), labels, numbers(shape), dtype, unit, spacing(sizes, dims), expected


def numbers(text: str) -> tuple[int, ...] | None:
    """Integers of a table; a dash is None."""
    return None if text == "-" else tuple(int(n) for n in text.split(","))


def spacing(text: str, dims: str) -> dict[str, float]:
    """Spacing per dim; one number is that of all spatial dims."""
    if text == "-":
        return {}
    if "=" not in text:
        return {dim: float(text) for dim in dims if dim in "zyx"}
    return {part[0]: float(part[2:]) for part in text.split(",")}


CASES = list(cases())


@pytest.mark.parametrize(
    ("name", "dims", "shape", "dtype", "unit", "sizes", "oracle"), CASES, ids=[c[0] for c in CASES]
)
def test_real_files(name, dims, shape, dtype, unit, sizes, oracle):
    opened = probe(f"{DATA}/{name}")
    assert opened.dims == dims
    assert opened.source.shape == shape
    assert opened.source.dtype == np.dtype(dtype)
    assert dict(opened.voxel_size) == pytest.approx(sizes, rel=1e-6)
    assert opened.unit == unit
    assert not opened.attrs.get("repairs")
    check_source(opened.source, oracle(), tries=3)


def test_the_only_data_set_needs_no_name():
    for name in ("em_gala/train-gt.lzf.h5", "fluorescence/example-volume.h5"):
        assert probe(DATA / name).source.shape in {(50, 100, 200), (10, 2, 3, 64, 64)}


def test_origins_of_real_maps():
    origin = probe(DATA / "emdb_maps/EMD-3197.map").origin
    assert origin == pytest.approx({"x": -22.8, "y": 0.0, "z": 0.0})
    # nxstart 0 counts columns, here z; nystart -21 rows, here x; nzstart -12 sections, here y
    origin = probe(DATA / "emdb_maps/EMD-3001.map").origin
    assert origin == pytest.approx({"x": -21 * 0.44825, "y": -12 * 0.3925, "z": 0.0}, rel=1e-6)
    origin = probe(DATA / "mrc_other_software/imod_new-head_int16.mrc").origin
    assert origin == {"x": 944.0, "y": 964.0, "z": 90.0}
    attrs = probe(DATA / "emdb_maps/EMD-3001.map").attrs
    assert attrs["cell_angles"] == pytest.approx((90.0, 94.326, 90.0))


def test_twenty_particles_are_one_stack():
    opened = probe(str(DATA / "cryoet_warp_70s/Unt_*/*.mrcs"))
    assert opened.dims == ("k", "frame", "y", "x")
    assert opened.source.shape == (20, 37, 32, 32)
    assert opened.voxel_size == {"x": 12.0, "y": 12.0}
    dim, names = opened.coords["file"]
    assert dim == "k"
    assert names[0] == "Unt_050_12.00A_000001.mrcs"
    assert names[9] == "Unt_050_12.00A_000010.mrcs"
    expected = np.stack([mrc(f"cryoet_warp_70s/{n[:7]}/{n}") for n in names])
    check_source(opened.source, expected, tries=3)


def test_a_folder_of_planes_is_a_volume():
    opened = probe(DATA / "lightsheet_brain")
    assert opened.dims == ("z", "y", "x")
    assert opened.name == "lightsheet_brain"
    names = sorted(path.name for path in (DATA / "lightsheet_brain").glob("*.tif"))
    assert opened.coords["file"][0] == "z"
    assert opened.coords["file"][1].tolist() == names
    expected = np.stack([tiff(f"lightsheet_brain/{name}") for name in names])
    assert opened.source.shape == (48, 193, 271)
    assert isinstance(opened.source, StackedSource)
    check_source(opened.source, expected, tries=3)


def test_folders_of_many_formats_ask_for_a_choice():
    with pytest.raises(FormatError, match=r"5 \.map, 2 \.ccp4"):
        probe(DATA / "emdb_maps")
    with pytest.raises(LabelError, match="alike"):
        probe([DATA / "emdb_maps/EMD-3197.map", DATA / "emdb_maps/emd_1832.map"])
    with pytest.raises(SourceNotFoundError, match="no file of"):
        probe(DATA / "star_tbl")


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("fluorescence/sample_ovule.h5", "/label, /raw; write sample_ovule.h5::name"),
        ("diffraction_4d/kikuchipy_patterns.h5", "/Scan 1/EBSD/Data/patterns"),
        ("fluorescence/sample_ovule.h5::nothing", "it holds /label, /raw"),
        ("diffraction_4d/kikuchipy_patterns.h5::Scan 1/EBSD", "is a group"),
        ("particles_2d/xmipp_smallVolumeStack.stk", "no reader knows"),
    ],
)
def test_what_cannot_be_opened_says_what_to_do(name, error):
    with pytest.raises(LazyvolError, match=error):
        probe(f"{DATA}/{name}")


def test_lzw_needs_a_decoder():
    pytest.importorskip("imagecodecs")
    name = "tiff_variants/predictor-3-gray-f32.tif"
    check_source(probe(DATA / name).source, tiff(name), tries=2)


@pytest.mark.parametrize("name", sorted(p.name for p in (DATA / "tiff_variants").glob("*")))
def test_a_tiff_that_opens_can_be_read(name):
    pytest.importorskip("imagecodecs")
    source = probe(DATA / "tiff_variants" / name).source
    source.read(whole(source.shape))


MALFORMED = sorted(
    path.relative_to(DATA).as_posix()
    for path in (DATA / "malformed").rglob("*")
    if path.is_file() and path.name != "hopper_bigtiff.tif"
)
#: files whose data are fine, and one whose first series is
READABLE = {
    "malformed/mrc_invalid_axes.mrc": 1,
    "malformed/mrc_ispg_float_garbage.mrc": 1,
    "malformed/mrc_no_MAP_string.mrc": 1,
    "malformed/tiff/multipage_out_of_order.tiff": 1,
}
CUT = ("mrc_truncated", "mrc_empty", "oom-", "seek_too_large")


@pytest.mark.parametrize("permissive", [False, True])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_files(name, permissive, capfd, caplog):
    tracemalloc.start()
    begun = time.process_time()
    try:
        if permissive and name in READABLE:
            opened = probe(DATA / name, permissive=True)
            assert len(opened.attrs["repairs"]) == READABLE[name]
            opened.source.read(whole(opened.source.shape))
        else:
            kind = TruncatedError if any(word in name for word in CUT) else LazyvolError
            with pytest.raises(kind, match=name):
                probe(DATA / name, permissive=permissive)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun < 1.0
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("name", [n for n in READABLE if n.endswith(".mrc")])
def test_repaired_files_hold_what_mrcfile_reads(name):
    opened = probe(DATA / name, permissive=True)
    check_source(opened.source, mrc(name), tries=3)
