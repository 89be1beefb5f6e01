"""A store holds exactly what was written: every change is noticed on reading or by `verify`."""

import json
import shutil
from collections import Counter
from contextlib import suppress
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


class Mutator:
    """Changes one or two files of a store, and puts them back."""

    KINDS = (
        "flip", "flip", "flip", "cut", "grow", "remove", "swap", "copy", "older", "older array",
        "manifest", "json", "index",
    )  # fmt: skip

    def __init__(self, store: Path, older: Path, seed: int) -> None:
        self.older, self.rng = older, np.random.default_rng(seed)
        self.store, self.kept = store, {file: file.read_bytes() for file in files_of(store)}
        self.shards = shard_files(store)
        self.documents = [f for f in self.kept if f.name == "zarr.json"]
        self.manifests = [f for f in self.kept if f.name == manifest.NAME]
        meta = json.loads((store / "stack/0/zarr.json").read_text())
        inner = meta["codecs"][0]["configuration"]["chunk_shape"]
        outer = meta["chunk_grid"]["configuration"]["chunk_shape"]
        self.per_shard = int(np.prod([o // i for o, i in zip(outer, inner, strict=True)]))

    def mutate(self) -> tuple[str, dict[Path, bytes | None]]:
        """Change files; return what was done, and the files that differ now."""
        kind = str(self.rng.choice(self.KINDS))
        changed = {f: c for f, c in self._changes(kind).items() if c != self.kept[f]}
        for file, content in changed.items():
            file.unlink() if content is None else file.write_bytes(content)
        return f"{kind} {' '.join(map(str, changed))}", changed

    def restore(self, changed: dict[Path, bytes | None]) -> None:
        for file in changed:
            file.write_bytes(self.kept[file])

    def _changes(self, kind: str) -> dict[Path, bytes | None]:
        rng = self.rng
        file = self._any(list(self.kept))
        content = self.kept[file]
        match kind:
            case "flip":
                at, bit = rng.integers(len(content)), rng.integers(8)
                return {file: content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]}
            case "cut":
                return {file: content[: rng.integers(len(content))]}
            case "grow":
                return {file: content + bytes(rng.integers(1, 9))}
            case "remove":
                return {file: None}
            case "swap" | "copy" | "manifest":
                files = self.manifests if kind == "manifest" else self.shards
                one, two = (files[i] for i in rng.choice(len(files), 2, replace=False))
                copied = {one: self.kept[two]}
                return copied if kind == "copy" else copied | {two: self.kept[one]}
            case "older":
                return {file: self._older(file)}
            case "older array":
                folder = self._any(self.manifests).parent
                inside = [f for f in self.kept if f.is_relative_to(folder)]
                parts = [[f for f in inside if (f in self.shards) == n] for n in (True, False)]
                return {f: self._older(f) for f in self._any([*parts, inside])}
            case "json":
                file = self._any(self.documents)
                old, new = self._any(list(EDITS.items()))
                return {file: self.kept[file].decode().replace(old, new, 1).encode()}
        file = self._any([f for f in self.shards if f.is_relative_to(self.store / "stack")][:4])
        return {file: index_exchanged(self.kept[file], self.per_shard, rng)}

    def _any(self, values: list):
        return values[self.rng.integers(len(values))]

    def _older(self, file: Path) -> bytes:
        return (self.older / file.relative_to(self.store)).read_bytes()


def check_mutations(tmp_path: Path, count: int, seed: int) -> Counter[str]:
    """Mutate a store: `verify` must notice, and reading must refuse or give the right values.

    Return the number of mutations by kind, and of those whose values could be read.
    """
    lv.save(data_set(1), tmp_path / "older.zarr")
    right, path = data_set(), tmp_path / "d.zarr"
    mutator, outcome = Mutator(path, tmp_path / "older.zarr", seed), Counter[str]()
    while outcome.total() - outcome["read"] < count:
        done, changed = mutator.mutate()
        if not changed:
            continue
        outcome[done.partition(" /")[0]] += 1
        with suppress(errors.LazyvolError):
            assert not lv.verify(path).ok, done
        try:
            got = lv.open(path).compute()
        except errors.LazyvolError:
            pass
        else:
            assert got.identical(right), done
            outcome["read"] += 1
        mutator.restore(changed)
    assert lv.verify(path).ok
    return outcome


def test_no_mutation_is_accepted(store, tmp_path):
    check_mutations(tmp_path, 120, seed=0)


@pytest.mark.parametrize("part", ["ncc", "stack", "score"])
def test_an_array_of_an_older_store_is_refused(part, store, tmp_path):
    lv.save(data_set(1), tmp_path / "older.zarr")
    shutil.copytree(tmp_path / "older.zarr" / part, store / part, dirs_exist_ok=True)
    with pytest.raises(errors.ChecksumError, match="of one run"):
        lv.open(store)
    assert not lv.verify(store).ok
    lv.open(store, permissive=True)


@pytest.mark.campaign
def test_ten_thousand_mutations(store, tmp_path):
    print(check_mutations(tmp_path, 10_000, seed=1))


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
