"""Places other than a local folder that hold the files of a zarr store: buckets, archives, memory.

Any store that zarr-python opens is a place. Objects are read in byte ranges, all ranges of one
object at once, through zarr's event loop; a local folder (`lazyvol.io.safe_folder`) is read in the
calling thread instead, at half the CPU time per 32^3 chunk.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from lazyvol.errors import (
    FormatError,
    LazyvolError,
    LimitExceeded,
    OptionError,
    SourceNotFoundError,
    StoreError,
)
from lazyvol.io.buffers import Bytes
from lazyvol.io.safe_folder import MAX_JSON, Json, Place, Stored, parsed

T = TypeVar("T")
Buffer = bytes | memoryview

#: schemes that obstore serves; others go to fsspec
OBJECT_SCHEMES = frozenset({"s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "http", "https"})
ARCHIVES = (".zip", ".ozx")
#: parts of the names of options that are secrets: sources travel in graphs and logs
SECRET = ("secret", "token", "password", "access_key", "account_key", "sas", "credential")
#: names of chunks that are counted: a request lists 1,000
MAX_NAMES = 10_000
#: ranges of one object that are closer to each other are read as one
GAP = 1 << 20
#: most bytes of one request: longer ranges are read in parts, side by side
REQUEST = 16 << 20
NOTHING = np.empty(0, np.uint8)


def is_place(source: object) -> bool:
    """Return True if ``source`` is no path of a local folder or file but a place of this module."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return "://" in text or text.lower().endswith(ARCHIVES)
    modules = {kind.__module__.partition(".")[0] for kind in type(source).__mro__}
    return bool(modules & {"zarr", "icechunk"})


def place_of(source: Any, options: Mapping[str, Any] | None = None) -> "Elsewhere":
    """Return the place of a URL, an archive, or a store, array or group of zarr.

    Raises
    ------
    OptionError
        An option is a secret, or the store knows no such option.
    StoreError
        The package for the scheme is not installed, or the store refuses the URL.
    SourceNotFoundError
        There is no such archive.
    """
    options = dict(options or {})
    secrets = [name for name in options if any(word in name.lower() for word in SECRET)]
    if secrets:
        raise OptionError(
            f"open: storage_options must hold no secrets, got {', '.join(secrets)}; set them in "
            "the environment of every process, e.g. AWS_SECRET_ACCESS_KEY"
        )
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source).rstrip("/")
        if "://" not in text:
            if not os.path.isfile(text):
                raise SourceNotFoundError(f"{text}: nothing is stored here; check the path")
            text = os.path.realpath(text)
        place = Elsewhere(text, tuple(sorted(options.items())))
        place.connect()
        return place
    if type(source).__name__ == "ZipStore":
        return place_of(source.path)
    if hasattr(source, "store") and hasattr(source, "path"):  # an array or a group
        held = source.store
        held = getattr(held, "store", held) if type(held).__name__ == "StorePath" else held
        return Elsewhere(f"{held}", given=held, prefix=f"{source.path}/" if source.path else "")
    return Elsewhere(f"{source}", given=source)


@dataclass
class Elsewhere:
    """A store of zarr, by its URL and options, or given as an object.

    ``root`` is the URL or path, ``prefix`` the folder in the store that keys are relative to.
    Processes connect for themselves, with credentials of their own environment.
    """

    root: str
    options: tuple[tuple[str, Any], ...] = ()
    given: Any = None
    prefix: str = ""

    def connect(self) -> Any:
        """Return zarr's store, one per process."""
        if self.given is not None:
            return self.given
        try:
            return _connected(self.root, self.options, os.getpid())
        except LazyvolError:
            raise
        except Exception as error:  # libraries of stores share no base class
            raise StoreError(
                f"{self.root}: the store refused to open it: {_first_line(error)}; check the URL, "
                "the options and the credentials"
            ) from error

    def path(self, key: str) -> str:
        """Return the name of ``key`` in messages."""
        return f"{self.root}/{self.prefix}{key}".rstrip("/") if key or self.prefix else self.root

    def above(self) -> "Place | None":
        """Return the folder that holds this one; None where there is none to read."""
        if self.prefix:
            head = self.prefix.rstrip("/").rpartition("/")[0]
            return Elsewhere(self.root, self.options, self.given, f"{head}/" if head else "")
        scheme, mark, rest = self.root.partition("://")
        if self.given is not None or not mark or rest.count("/") < 2:
            return None
        return Elsewhere(f"{scheme}://{rest.rpartition('/')[0]}", self.options)

    @property
    def name(self) -> str:
        """Last part of its path."""
        return (self.prefix or self.root).rstrip("/").rpartition("/")[2]

    @property
    def max_names(self) -> int:
        """Largest number of names of chunks that are counted when a store is opened."""
        return MAX_NAMES

    @property
    def reads_in_place(self) -> bool:
        """Chunks of an object are fetched together, and held."""
        return False

    @property
    def lists(self) -> bool:
        """Return True if the store can tell the names that it holds; web servers cannot."""
        return bool(self.connect().supports_listing) and not self.root.startswith("http")

    def fresh(self) -> "Place":
        """Return the place itself."""
        return self

    def open(self, key: str, first: tuple[str, int]) -> "Stored | None":
        """Return an object whose ``first`` bytes are read; None where there is none.

        ``first`` is ``("all", most)`` for an object of ``most`` bytes or fewer, ``("head", n)`` or
        ``("tail", n)`` for the end at which the index of a shard stands.
        """
        remote = Remote(self, key)
        return remote if remote.start(*first) else None

    def fetch(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Bytes | None]:
        """Return ranges (start, stop) of an object, asked for at once; None where it is absent."""
        from zarr.abc.store import RangeByteRequest

        store = self.connect()
        requests = [RangeByteRequest(start, stop) for start, stop in ranges]
        return self._run(_fetched(store, self.prefix + key, requests), key)

    def whole(self, key: str) -> bytes | None:
        """Return all bytes of a small object; None where there is none."""
        store = self.connect()
        found = self._run(_fetched(store, self.prefix + key, [None]), key)[0]
        return None if found is None else found.tobytes()

    def tail(self, key: str, length: int) -> Bytes | None:
        """Return the last bytes of an object; None where there is none."""
        from zarr.abc.store import SuffixByteRequest

        store = self.connect()
        requests = [SuffixByteRequest(length)]
        return self._run(_fetched(store, self.prefix + key, requests), key)[0]

    def put(self, key: str, data: Buffer) -> None:
        """Store an object as a whole, in place of what is there."""
        store = self.connect()
        self._run(_put(store, self.prefix + key, data), key, "write")

    def create(self, key: str, data: Buffer) -> None:
        """Store an object unless there is one."""
        store = self.connect()
        self._run(_put(store, self.prefix + key, data, only_new=True), key, "write")

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are absent are left out."""
        store = self.connect()
        for key in keys:
            self._run(store.delete(self.prefix + key), key, "remove")

    def clear(self) -> None:
        """Remove all objects of the place."""
        self._run(self.connect().delete_dir(self.prefix.rstrip("/")), "", "clear")

    def is_occupied(self) -> bool:
        """Return True if any object is stored."""
        return bool(
            self.lists and self._run(_listed(self.connect(), self.prefix.rstrip("/"), 0), "")
        )

    def json(self, key: str) -> Json | None:
        """Return the content of a JSON file that holds an object; None where there is no file."""
        raw = self.whole(key)
        if raw is None:
            return None
        if len(raw) > MAX_JSON:
            raise LimitExceeded(
                f"{self.path(key)}: metadata must have at most {MAX_JSON} bytes, got {len(raw)}"
            )
        return Json(parsed(raw, self.path(key)), raw, blake2b(raw, digest_size=16).hexdigest())

    def names(self, key: str) -> list[str]:
        """Return names in folder ``key``, sorted; none where the store cannot list."""
        if not self.lists:
            return []
        folder = (self.prefix + key).rstrip("/")
        found = self._run(_listed(self.connect(), folder, self.max_names), key)
        return sorted(name.rstrip("/") for name in found)

    def identity(self, key: str) -> str:
        """Return a mark that an object which was rewritten does not have; "" where it is absent.

        The content's own mark where the store tells one (ETag or time), else its bytes.
        """
        raw = self.whole(key)
        return "" if raw is None else blake2b(raw, digest_size=16).hexdigest()

    def ages(self, keys: Sequence[str]) -> list[str]:
        """Return sizes of objects, asked for at once; "absent" where there are none."""
        store = self.connect()
        names = [self.prefix + key for key in keys]
        return self._run(_sizes(store, names), keys[0] if keys else "")

    def _run(self, request: Coroutine[Any, Any, T], key: str, verb: str = "read") -> T:
        try:
            return wait_for(request)
        except (LazyvolError, FileNotFoundError):
            raise
        except Exception as error:  # libraries of stores share no base class
            raise StoreError(
                f"{self.path(key)}: the store refused to {verb} it: {_first_line(error)}; check "
                "the URL, the network, and the credentials in the environment (a public bucket "
                "takes storage_options={'skip_signature': True})"
            ) from error


@dataclass
class Remote:
    """One object of a store, of which the ranges that were fetched are held."""

    place: Elsewhere
    key: str
    size: int | None = None
    _held: list[tuple[int, Bytes]] = field(default_factory=list)
    _edge: Bytes = field(default_factory=lambda: NOTHING)

    def start(self, kind: str, length: int) -> bool:
        """Read the first bytes that are needed; return False if the object is absent."""
        if kind == "tail":
            found = self._ends(lambda: self.place.tail(self.key, length))
        else:
            stop = length + (kind == "all")
            found = self._ends(lambda: self.place.fetch(self.key, [(0, stop)])[0])
        if found is None:
            return False
        self._edge = found
        if kind == "all":
            self.size = found.size
            self._held = [(0, found)]
        return True

    def _ends(self, request: Callable[[], Bytes | None]) -> Bytes | None:
        """Return the bytes of a request; none of an object that is empty, which stores refuse."""
        try:
            return request()
        except StoreError:
            if self.place.ages([self.key]) == ["0"]:
                return NOTHING
            raise

    def __enter__(self) -> "Stored":
        return self

    def __exit__(self, *error: object) -> None:
        self._held = []

    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or last bytes, read when the object was opened."""
        return self._edge

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read ranges (offset, length), all at once, and hold them instead of those before."""
        if self.size is not None:
            return
        try:
            self._held = self._parts(list(_joined(ranges)))
        except StoreError:  # stores refuse ranges beyond the end: those of a damaged index
            (age,) = self.place.ages([self.key])
            end = int(age) if age.isdecimal() else 0
            if all(offset + length <= end for offset, length in ranges):
                raise
            clipped = [(o, min(n, end - o)) for o, n in ranges if o < end]
            self._held = self._parts(list(_joined(clipped)))

    def take(self, offset: int, length: int, most: int) -> Bytes:
        """Return a range that was fetched, shorter where the object ends."""
        for start, data in reversed(self._held):
            if start <= offset < start + max(1, data.size):
                return data[offset - start : offset - start + length]
        return NOTHING

    def fill(self, offset: int, target: Bytes) -> int:
        """Copy a range that was fetched into ``target``; return how many bytes there were."""
        found = self.take(offset, target.size, target.size)
        target[: found.size] = found
        return found.size

    def _parts(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, Bytes]]:
        """Return ranges (offset, length) by their offsets; long ones are read side by side."""
        cuts = [
            (n, begin, min(begin + REQUEST, offset + length))
            for n, (offset, length) in enumerate(ranges)
            for begin in range(offset, offset + length, REQUEST)
        ]
        found = self.place.fetch(self.key, [(begin, end) for _, begin, end in cuts])
        parts: list[list[Bytes]] = [[] for _ in ranges]
        for (n, _, _), data in zip(cuts, found, strict=True):
            if data is not None:
                parts[n].append(data)
        return [
            (offset, data[0] if len(data) == 1 else np.concatenate([*data, NOTHING]))
            for (offset, _), data in zip(ranges, parts, strict=True)
        ]


def _joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join ranges (offset, length) whose gap costs less than a request."""
    at, end = 0, 0
    for offset, length in sorted(ranges):
        if end and offset <= end + GAP:
            end = max(end, offset + length)
            continue
        if end:
            yield at, end - at
        at, end = offset, offset + length
    if end:
        yield at, end - at


def wait_for(request: Coroutine[Any, Any, T]) -> T:
    """Run a request in zarr's event loop; the one use of what zarr does not call public."""
    from zarr.core.sync import sync

    return sync(request)


async def _fetched(store: Any, key: str, requests: Sequence[Any]) -> list[Bytes | None]:
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()
    found = await asyncio.gather(*(store.get(key, prototype, request) for request in requests))
    return [None if f is None else np.frombuffer(f.as_numpy_array(), np.uint8) for f in found]


async def _put(store: Any, key: str, data: Buffer, only_new: bool = False) -> None:
    from zarr.core.buffer import default_buffer_prototype

    array = np.frombuffer(data, np.uint8)
    buffer = default_buffer_prototype().buffer.from_array_like(array)
    await (store.set_if_not_exists if only_new else store.set)(key, buffer)


async def _sizes(store: Any, names: Sequence[str]) -> list[str]:
    async def size(name: str) -> str:
        try:
            return str(await store.getsize(name))
        except FileNotFoundError:
            return "absent"

    return list(await asyncio.gather(*map(size, names)))


async def _listed(store: Any, folder: str, most: int) -> list[str]:
    found = []
    async for name in store.list_dir(folder):
        found.append(name)
        if len(found) > most:
            break
    return found


@cache
def _connected(root: str, options: tuple[tuple[str, Any], ...], process: int) -> Any:
    """Open zarr's store for a URL or an archive, once per process."""
    if "://" not in root:
        return _archive(root)
    scheme = root.partition("://")[0].lower()
    return _bucket(root, options) if scheme in OBJECT_SCHEMES else _fsspec(root, options)


def _archive(path: str) -> Any:
    from zipfile import BadZipFile

    from zarr.storage import ZipStore

    try:
        return wait_for(ZipStore.open(path, mode="r"))
    except BadZipFile as error:
        raise FormatError(f"{path}: a .zip archive must be one, got {error}") from error


def _bucket(root: str, options: tuple[tuple[str, Any], ...]) -> Any:
    try:
        from obstore.store import from_url
    except ImportError as error:
        raise StoreError(
            f"{root}: buckets and https need obstore; install it with: pip install lazyvol[remote]"
        ) from error
    from zarr.storage import ObjectStore

    chosen = dict(options)
    client: Any = chosen.pop("client_options", None) or {}
    if str(chosen.get("endpoint", root)).startswith("http://"):
        client = {"allow_http": True, **client}
    chosen.setdefault("retry_config", {"max_retries": 3, "retry_timeout": timedelta(seconds=30)})
    return ObjectStore(from_url(root, client_options=client, **chosen))


def _fsspec(root: str, options: tuple[tuple[str, Any], ...]) -> Any:
    try:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(root, storage_options=dict(options))
    except ImportError as error:
        raise StoreError(
            f"{root}: this scheme needs fsspec and its driver; install them with: "
            f"pip install lazyvol[remote], and what the message names: {error}"
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]
