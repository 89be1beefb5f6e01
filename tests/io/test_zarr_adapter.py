"""Codecs, metadata and private names of zarr-python, for every allowed version of it."""

import ast
import json
import pickle
import tracemalloc
import warnings

import numcodecs
import numpy as np
import pytest
import zarr
from fsspec.asyn import AsyncFileSystem
from numcodecs import (
    CRC32,
    AsType,
    BitRound,
    Delta,
    FixedScaleOffset,
    Quantize,
    Shuffle,
    Zlib,
    Zstd,
)
from obstore.store import S3Store
from zarr.codecs import TransposeCodec
from zarr.codecs import numcodecs as v3
from zarr.storage import FsspecStore, ObjectStore

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.zarr.adapter import open_document, wait_for
from lazyvol.io.zarr.metadata import array_meta
from lazyvol.io.zarr.reader import probe
from lazyvol.plan.regions import whole
from tests.io.reader_cases import check_source
from tests.io.zarr_cases import LAYOUTS, SHAPE, files_of, numbers, plain_v2, plain_v3, stored
from tests.paths import ROOT

#: chains that zarr decodes: filters of v2, and codecs of numcodecs in v3
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # they are not in the specification of v3
    RARE = {
        "v2 delta and shuffle": {"filters": [Delta("<i4"), Shuffle(4)], "compressors": Zlib()},
        "v2 checksum": {"filters": [CRC32()], "compressors": None},
        "v2 other dtype": {"filters": [AsType("<u2", "<i4")], "compressors": Zstd()},
        "v2 fortran": {"filters": [Delta("<i4")], "order": "F"},
        "v3 delta": {"filters": [v3.Delta(dtype="<i4")]},
        "v3 other dtype": {
            "filters": [v3.FixedScaleOffset(offset=0, scale=1, dtype="<i4", astype="<u2")]
        },
        "v3 transposed delta": {
            "filters": [TransposeCodec(order=(2, 0, 3, 1)), v3.Delta(dtype="<i4")]
        },
        "v3 shuffle": {"compressors": [v3.Shuffle(elementsize=4), v3.Zlib(level=1)]},
        "v3 lzma": {"compressors": [v3.LZMA()]},
        "v3 checksum": {"compressors": [v3.LZ4(), v3.Adler32()]},
        "v3 delta in shards": {"filters": [v3.Delta(dtype="<i4")], "shards": (4, 6, 12, 13)},
    }
#: codecs that lose digits
LOSSY = {
    "v2 quantized": {"filters": [Quantize(2, "<f4")], "compressors": Zlib()},
    "v2 rounded": {"filters": [BitRound(8)], "compressors": Zstd()},
    "v2 scaled": {
        "filters": [FixedScaleOffset(offset=0, scale=100, dtype="<f4", astype="<i2")],
        "compressors": Zstd(),
    },
}
any_codec = pytest.mark.filterwarnings("ignore:Numcodecs codecs")


def options(name, chains):
    return {**chains[name], **({"zarr_format": 2} if name.startswith("v2") else {})}


@any_codec
@pytest.mark.parametrize("name", RARE)
def test_codecs_that_only_zarr_knows_give_its_values(name, tmp_path):
    values = numbers(SHAPE)
    path = stored(tmp_path / "a", values, **options(name, RARE))
    check_source(probe(path).source, values, tries=4)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_filters_give_the_values_of_zarr(name, tmp_path):
    values = np.random.default_rng(0).normal(size=SHAPE).astype("f4")
    path = stored(tmp_path / "a", values, **options(name, LOSSY))
    expected = zarr.open_array(path, mode="r")[...]
    assert (expected != values).any()
    check_source(probe(path).source, expected, tries=4)


@any_codec
@pytest.mark.parametrize("name", RARE)
def test_damage_under_a_codec_of_zarr_is_an_error(name, tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **options(name, RARE))
    file = files_of(path)[0]
    content = file.read_bytes()
    for length in (0, 3, len(content) - 1):
        file.write_bytes(content[:length])
        with pytest.raises((errors.TruncatedError, errors.ChecksumError)) as caught:
            probe(path).source.read(whole(SHAPE))
        assert str(file) in str(caught.value)


def test_a_bomb_before_a_filter_is_not_unpacked(tmp_path):
    filters = [{"id": "delta", "dtype": "<f4"}]
    path = plain_v2(tmp_path / "a", filters=filters, compressor={"id": "zlib", "level": 1})
    (path / "0").write_bytes(Zlib().encode(np.zeros(4_000_000, "u1")))
    source = probe(path).source
    tracemalloc.start()
    with pytest.raises(errors.ChecksumError, match="bytes"):
        source.read((slice(0, 4),))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({"data_type": "string", "codecs": [{"name": "vlen-utf8"}], "fill_value": ""}, "String"),
        (
            {
                "data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 8}},
                "fill_value": "",
            },
            "<U2",
        ),
        ({"data_type": "complex64", "fill_value": [0, 0]}, "complex64"),
        (
            {
                "data_type": {
                    "name": "numpy.datetime64",
                    "configuration": {"unit": "s", "scale_factor": 1},
                }
            },
            "datetime64",
        ),
    ],
)
def test_arrays_of_text_and_times_are_refused_by_their_dtype(fields, dtype, tmp_path):
    with pytest.raises(errors.FormatError, match=rf"dtype must be one of bool.*{dtype}"):
        probe(plain_v3(tmp_path / "a", **fields))


def test_a_record_is_refused_by_its_dtype(tmp_path):
    with pytest.raises(errors.FormatError, match="dtype must be one of bool"):
        probe(plain_v2(tmp_path / "a", dtype=[["a", "<f4"], ["b", "<i4"]], fill_value=None))


def test_the_reason_of_zarr_is_given(tmp_path):
    with pytest.raises(errors.FormatError, match=r"zarr must be able .*nonesuch"):
        probe(plain_v3(tmp_path / "a", codecs=[{"name": "nonesuch"}]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_metadata_are_those_of_zarr(layout, tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS[layout])
    array = zarr.open_array(path, mode="r")
    meta = probe(path).source.meta
    assert (meta.shape, meta.inner) == (array.shape, array.chunks)
    assert meta.files == (array.shards or array.chunks)
    assert meta.native == array.dtype.newbyteorder("=")
    for index in ((0, 0, 0, 0), (1, 20, 300, 7)):
        assert meta.key(index) == array.metadata.encode_chunk_key(index)


def test_metadata_hold_no_objects_of_zarr(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS["v2 delta"])
    packed = pickle.dumps(probe(path).source)
    assert b"zarr.core" not in packed
    assert b"numcodecs" not in packed
    assert len(packed) < 2500


def test_an_array_without_axes_has_one_chunk(tmp_path):
    document = json.loads((plain_v3(tmp_path / "a") / "zarr.json").read_text())
    grid = {"name": "regular", "configuration": {"chunk_shape": []}}
    meta = array_meta({**document, "shape": [], "chunk_grid": grid}, "a")
    assert (meta.shape, meta.inner, meta.key(())) == ((), (), "c")


def test_a_document_is_opened_without_reading_a_store():
    document = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<f4", "fill_value": 0}
    array = open_document({**document, "order": "C", "filters": None, "compressor": None})
    assert (array.shape, array.chunks, array.dtype) == ((4,), (2,), np.dtype("f4"))


def test_a_coroutine_runs_in_the_loop_of_zarr():
    async def answer():
        return 42

    assert wait_for(answer()) == 42


def test_private_names_of_zarr_are_in_one_module():
    inside = ROOT / "lazyvol" / "io" / "zarr" / "adapter.py"
    names = {}
    for path in (ROOT / "lazyvol").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("zarr.core"):
                names.setdefault(path, []).extend(f"{node.module}.{n.name}" for n in node.names)
    assert list(names) == [inside]
    text = ast.get_docstring(ast.parse(inside.read_text(encoding="utf-8")))
    assert all(f"``{name}``" in text for name in names[inside])


def test_versions_of_the_libraries_are_those_that_are_allowed():
    assert (3, 1, 6) <= tuple(map(int, zarr.__version__.split(".")[:3])) < (4,)
    assert tuple(map(int, numcodecs.__version__.split(".")[:3])) >= (0, 16, 6)


@pytest.mark.parametrize("kind", ["bucket", "filesystem"])
def test_a_store_object_that_holds_a_secret_is_refused(kind):
    if kind == "bucket":
        bucket = S3Store("stack", access_key_id="user", secret_access_key="do-not-tell")
        store = ObjectStore(bucket)
    else:
        filesystem = AsyncFileSystem(asynchronous=True, token="do-not-tell")
        store = FsspecStore(filesystem, path="a.zarr")
    with pytest.raises(errors.OptionError, match="a store object must hold no secrets") as raised:
        lv.open(store)
    assert "do-not-tell" not in str(raised.value)


def test_an_n5_store_is_refused_by_name(tmp_path):
    (tmp_path / "a.n5").mkdir()
    (tmp_path / "a.n5" / "attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(errors.FormatError, match="N5 store"):
        lv.open(tmp_path / "a.n5")


def test_a_filter_to_another_dtype_than_that_of_the_array_is_an_error(tmp_path):
    filters = [{"id": "astype", "encode_dtype": "<f4", "decode_dtype": "<f8"}]
    with pytest.raises((errors.ChecksumError, errors.TruncatedError)):
        probe(plain_v2(tmp_path / "a", filters=filters)).source.read((slice(0, 4),))
