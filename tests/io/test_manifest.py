"""A store holds exactly what was written: every change is noticed on reading or by `verify`."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import lazyvol as lv
from lazyvol import errors
from lazyvol.io.zarr import manifest
from lazyvol.io.zarr.codecs import crc32c
from lazyvol.io.zarr.reader import probe
from lazyvol.plan.regions import whole
from tests.io.buckets import archived, bucket_server, files_of, in_memory
from tests.io.store_cases import SHAPE, saved, shard_files
from tests.io.zarr_cases import LAYOUTS, numbers, stored

#: incompressible values: all chunks have one length, so that exchanged shards look alike
NOISE = np.random.default_rng(7).integers(0, 256, SHAPE).astype("u1")


#: words in metadata and what they are replaced by
EDITS = {
    "little": "big", "lz4": "zstd", '"lazyvol"': '"lazyvox"', "k": "q", "1": "2",
    "score": "scare", "float32": "int32", "data_set": "dataset", "float64": "int64",
}  # fmt: skip


def data_set(seed: int = 0) -> xr.Dataset:
    """An image and scores, with coordinates in the record and in an array of their own."""
    rng = np.random.default_rng(seed)
    stack = lv.as_stack(rng.normal(size=SHAPE).astype("f4"), voxel_size=2.0, unit="angstrom")
    stack = stack.assign_coords(score=("k", rng.normal(size=5)), half=("k", list("ababa")))
    return xr.Dataset({"stack": stack, "ncc": ("k", rng.normal(size=5))}, attrs={"title": "t"})


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr("lazyvol.io.zarr.shard_shape.SPACE_EDGE", 6)
    monkeypatch.setattr("lazyvol.io.save_plan.BLOCK", 5000)
    monkeypatch.setattr("lazyvol.io.saved_labels.LARGE_COORD_BYTES", 32)


@pytest.fixture
def store(tmp_path, small_shards):
    lv.save(data_set(), tmp_path / "d.zarr")
    return tmp_path / "d.zarr"


def index_exchanged(content: bytes, per_shard: int, rng) -> bytes:
    """Exchange two entries of the index of a shard, and mend its checksum."""
    entries = np.frombuffer(content[-16 * per_shard - 4 : -4], "<u8").reshape(-1, 2).copy()
    first, second = rng.choice(per_shard, 2, replace=False)
    entries[[first, second]] = entries[[second, first]]
    raw = entries.tobytes()
    return content[: -len(raw) - 4] + raw + crc32c(raw).to_bytes(4, "little")


def mutate(store: Path, older: Path, rng: np.random.Generator) -> str:
    """Change one file of a store, or exchange two; return what was done."""
    files = files_of(store)
    file = files[rng.integers(len(files))]
    shards = shard_files(store)
    kind = rng.choice(
        ["flip", "flip", "flip", "cut", "grow", "remove", "swap", "copy", "older", "json", "index"]
    )
    content = file.read_bytes()
    if kind == "flip":
        position, bit = rng.integers(len(content)), rng.integers(8)
        file.write_bytes(
            content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]
        )
    elif kind == "cut":
        file.write_bytes(content[: rng.integers(len(content))])
    elif kind == "grow":
        file.write_bytes(content + bytes(rng.integers(1, 9)))
    elif kind == "remove":
        file.unlink()
    elif kind in ("swap", "copy"):
        one, two = (shards[i] for i in rng.choice(len(shards), 2, replace=False))
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        if kind == "swap":
            two.write_bytes(first)
        return f"{kind} {one} {two}"
    elif kind == "older":
        shutil.copyfile(older / file.relative_to(store), file)
    elif kind == "json":
        documents = [f for f in files if f.name == "zarr.json"]
        file = documents[rng.integers(len(documents))]
        text = file.read_text()
        old, new = list(EDITS.items())[rng.integers(len(EDITS))]
        file.write_text(text.replace(old, new, 1))
    else:
        file = [f for f in shards if "stack" in str(f)][rng.integers(4)]
        meta = json.loads((store / "stack/0/zarr.json").read_text())
        inner = meta["codecs"][0]["configuration"]["chunk_shape"]
        outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
        per_shard = int(np.prod([o // i for o, i in zip(outer, inner, strict=True)]))
        file.write_bytes(index_exchanged(file.read_bytes(), per_shard, rng))
    return f"{kind} {file}"


def content_of(store: Path) -> dict[Path, bytes]:
    return {path.relative_to(store): path.read_bytes() for path in files_of(store)}


def check_mutations(tmp_path: Path, count: int, seed: int) -> None:
    """Mutate a store: `verify` must notice, and reading must refuse or give the right values."""
    lv.save(data_set(1), tmp_path / "older.zarr")
    kept = content_of(tmp_path / "d.zarr")
    right, rng = data_set(), np.random.default_rng(seed)
    for _ in range(count):
        done = mutate(tmp_path / "d.zarr", tmp_path / "older.zarr", rng)
        now = content_of(tmp_path / "d.zarr")
        if now != kept:
            try:
                found = not lv.verify(tmp_path / "d.zarr").ok
            except errors.LazyvolError:
                found = True
            assert found, done
            try:
                got = lv.open(tmp_path / "d.zarr").compute()
            except errors.LazyvolError:
                pass
            else:
                xr.testing.assert_identical(got, right), done
        for name, content in kept.items():
            if now.get(name) != content:
                (tmp_path / "d.zarr" / name).write_bytes(content)
    assert lv.verify(tmp_path / "d.zarr").ok


def test_no_mutation_is_accepted(store, tmp_path):
    check_mutations(tmp_path, 400, seed=0)


@pytest.mark.campaign
def test_ten_thousand_mutations(store, tmp_path):
    check_mutations(tmp_path, 10_000, seed=1)


def test_shards_that_look_alike_are_told_apart(tmp_path):
    saved(tmp_path / "a", NOISE, max_shard_bytes=400)
    files = shard_files(tmp_path / "a")
    assert len({f.stat().st_size for f in files[:4]}) == 1
    first, second = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(second)
    files[1].write_bytes(first)
    with pytest.raises(errors.ChecksumError, match=r"that of the manifest .*permissive=True"):
        probe(tmp_path / "a").source.read(whole(SHAPE))
    found = lv.verify(tmp_path / "a").faults
    assert [f.kind for f in found] == ["swapped", "swapped"]
    assert str(files[1]) in found[0].detail
    assert probe(tmp_path / "a", permissive=True).source.read(whole(SHAPE)).shape == SHAPE


def test_faults_are_named(store, tmp_path):
    lv.save(data_set(1), tmp_path / "older.zarr")
    files = [f for f in shard_files(store) if "stack/0" in str(f)]
    assert lv.verify(store).ok
    files[0].unlink()
    shutil.copyfile(tmp_path / "older.zarr" / files[1].relative_to(store), files[1])
    files[2].write_bytes(files[2].read_bytes()[:-7])
    document = store / "stack/0/zarr.json"
    document.write_text(document.read_text().replace('"node_type"', ' "node_type"'))
    found = {fault.path: fault.kind for fault in lv.verify(store).faults}
    kinds = {files[0]: "missing", files[1]: "stale", files[2]: "damaged", document: "damaged"}
    assert found == {str(path): kind for path, kind in kinds.items()}
    assert "stale" in str(lv.verify(store))


@pytest.mark.parametrize("kind", ["zip", "bucket", "memory", "part"])
def test_stores_elsewhere_are_verified_too(kind, store, tmp_path):
    shard = next(f for f in shard_files(store) if "stack/0" in str(f))
    good = store.rename(tmp_path / "good.zarr")
    bad = shutil.copytree(good, tmp_path / "bad.zarr")
    broken = bad / shard.relative_to(store)
    other = shard_files(bad / "stack/0")[1]
    shutil.copyfile(other, broken)

    def check(places, **options):
        assert lv.verify(places[0], **options).ok
        assert [f.kind for f in lv.verify(places[1], **options).faults] == ["swapped"]
        opened = lv.open(places[1], **options)
        stack = opened if kind == "part" else opened["stack"]
        with pytest.raises(errors.ChecksumError):
            stack.compute()

    if kind == "bucket":
        with bucket_server() as server:
            check([server.upload(p, p.name) for p in (good, bad)], storage_options=server.options)
    elif kind == "zip":
        check([archived(p, p.with_suffix(".zip")) for p in (good, bad)])
    elif kind == "memory":
        check([in_memory(good), in_memory(bad)])
    else:
        check([good / "stack", bad / "stack"])


def test_a_store_without_its_manifest_is_refused(store):
    (store / "stack/0" / manifest.NAME).unlink()
    with pytest.raises(errors.ChecksumError, match=r"manifest, it is absent.*permissive=True"):
        lv.open(store)
    assert [f.kind for f in lv.verify(store).faults] == ["missing"]
    xr.testing.assert_identical(lv.open(store, permissive=True).compute(), data_set())


def test_stores_of_others_are_decoded(tmp_path):
    path = stored(tmp_path / "a", numbers(SHAPE), **LAYOUTS["v3 blosc"])
    found = lv.verify(path)
    assert found.ok
    assert found.unlisted == 1
    chunk = next(p for p in files_of(path) if p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    assert [f.kind for f in lv.verify(path).faults] == ["damaged"]
    with pytest.raises(errors.FormatError):
        lv.verify(path / "c")


def test_other_programs_ignore_seals_and_manifests(tmp_path):
    values = numbers(SHAPE)
    saved(tmp_path / "a.zarr", values)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][...], values)
    assert "0" in dict(group.members())


def test_a_manifest_of_many_files_is_small_and_read_by_the_page(tmp_path):
    rng = np.random.default_rng(0)
    head = manifest.Manifest("plan", (100, 200), (2, 4), 1, (2, 3))
    checksums = rng.integers(0, 2**32, (20_000, 2, 4), dtype="u4")
    rows = (manifest.Row(n, c) for n, c in enumerate(checksums))
    (tmp_path / manifest.NAME).write_bytes(b"".join(manifest.encode(head, rows)))
    assert (tmp_path / manifest.NAME).stat().st_size < 20_000 * 41
    place = lv.io.zarr.verify.place_of_store(tmp_path, None)
    head = manifest.load(place, "")
    for index in [(0, 0), (99, 199), (57, 3)]:
        row = head.row(place, "", "stamp", index)
        assert row.length == index[0] * 200 + index[1]
        np.testing.assert_array_equal(row.checksums, checksums[row.length])
    assert [r.length for r in head.rows(place, "")] == list(range(20_000))
