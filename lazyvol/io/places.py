"""Read the files of a zarr store in buckets, archives and memory, through zarr-python.

All byte ranges of one object are requested together, in the event loop of zarr. A local folder
(`lazyvol.io.safe_folder`) is read in the calling thread instead, at half the CPU time per 32^3
chunk.
"""

import os
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qs, urlsplit

import numpy as np

from lazyvol.arguments.rules import show_value
from lazyvol.errors import (
    LazyvolError,
    OptionError,
    SourceNotFoundError,
    StoreError,
)
from lazyvol.io import safe_folder, store_objects
from lazyvol.io.safe_folder import (
    JsonFile,
    LocalFile,
    SafeFolder,
    Stored,
    parse_json,
)
from lazyvol.io.zarr.adapter import wait_for
from lazyvol.io.zarr.codecs import Bytes

T = TypeVar("T")
Part = TypeVar("Part", bound=Stored)

ARCHIVES = (".zip", ".ozx")
#: words in the names of secret options, which must not enter graphs and logs
SECRET = ("secret", "token", "password", "access_key", "account_key", "sas", "credential")
#: ranges of one object with a smaller gap are read as one
MAX_GAP = 1 << 20
#: largest request in bytes: longer ranges are read in parts, concurrently
REQUEST_BYTES = 16 << 20
#: parts of one object that are requested together
FETCHED_BYTES, FETCHED_PARTS = 64 << 20, 4096
NO_BYTES = np.empty(0, np.uint8)


def is_place(source: object) -> bool:
    """Return True for URLs, archives and objects of zarr or icechunk."""
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source)
        return "://" in text or text.lower().endswith(ARCHIVES)
    return bool(store_objects.packages(source) & {"zarr", "icechunk"})


def path_text(path: object, subject: str) -> str:
    """Return a path as text; raise OptionError for anything else."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if isinstance(text, str) and text and "\0" not in text:
        return text
    raise OptionError(f"{subject} must be a path, got {show_value(path)}; name a file or a folder")


def place_of(source: Any, options: Mapping[str, Any] | None = None) -> "ZarrPlace":
    """Return the place of a URL, an archive, or a zarr store, array or group object.

    Raises
    ------
    OptionError
        An option is a secret, or the store knows no such option.
    StoreError
        The package for the scheme is not installed, or the store refuses the URL.
    SourceNotFoundError
        The archive does not exist.
    """
    options = dict(options or {})
    refuse_secrets(options, "storage_options")
    if isinstance(source, str | os.PathLike):
        text = os.fspath(source).rstrip("/")
        user, _, host = text.partition("://")[2].partition("/")[0].rpartition("@")
        if ":" in user:
            refuse_secrets({f"a password for {host}": ""}, "a URL")
        signed = {f"a token in {n}": "" for n in parse_qs(urlsplit(text).query) if is_signature(n)}
        refuse_secrets(signed, "a URL")
        if "://" not in text:
            if not os.path.isfile(text):
                raise SourceNotFoundError(f"{text}: nothing is stored here; check the path")
            text = os.path.realpath(text)
        place = ZarrPlace(text, tuple(sorted(options.items())))
        place.connect()
        return place
    if type(source).__name__ == "ZipStore":
        return place_of(source.path)
    store, prefix = source, ""
    if hasattr(source, "store") and hasattr(source, "path"):  # an array or a group
        store, prefix = source.store, f"{source.path}/" if source.path else ""
        store = getattr(store, "store", store) if type(store).__name__ == "StorePath" else store
    refuse_secrets(_settings(store), "a store object")
    return ZarrPlace(f"{store}", store=store, prefix=prefix)


def refuse_secrets(options: Mapping[str, Any], subject: str) -> None:
    """Raise OptionError if an option is a secret."""
    secrets = [name for name in options if any(word in name.lower() for word in SECRET)]
    if secrets:
        raise OptionError(
            f"open: {subject} must hold no secrets, got {', '.join(secrets)}; set them in "
            "the environment of every process, e.g. AWS_SECRET_ACCESS_KEY"
        )


def is_signature(name: str) -> bool:
    """Return True if a parameter of a URL signs it, so that its readers could use it again."""
    return name.lower() == "sig" or any(word in name.lower() for word in (*SECRET, "signature"))


def _settings(store: Any) -> Mapping[str, Any]:
    """Return the options that a store object of obstore or fsspec takes to other processes."""
    bucket, filesystem = getattr(store, "store", None), getattr(store, "fs", None)
    settings: Mapping[str, Any] = getattr(bucket, "config", None) or {}
    return settings or getattr(filesystem, "storage_options", {})


#: words by which icechunk refuses keys other than those of zarr, and says that a node is absent
ABSENT_IN_ICECHUNK = ("invalid zarr key", "node not found")


@dataclass
class ZarrPlace:
    """A zarr store at a URL with options, or the object ``store``.

    ``root`` is the URL or path, ``prefix`` the folder in the store that keys are relative to.
    Every process opens the store itself, with the credentials in its environment.
    """

    #: names that are listed at most, to count absent chunks: 1,000 per request
    max_names: ClassVar[int] = 10_000
    #: the chunks of an object are fetched together and held
    reads_in_place: ClassVar[bool] = False
    #: objects of an array whose sizes are taken when it is opened, each by a request
    max_stamped: ClassVar[int] = 64

    root: str
    options: tuple[tuple[str, Any], ...] = ()
    store: Any = None
    prefix: str = ""

    def connect(self) -> Any:
        """Return the store object of zarr, one per process."""
        if self.store is not None:
            return self.store
        with _refusals(self.root, "open"):
            return store_objects.open_store(self.root, self.options, os.getpid())

    @property
    def is_icechunk(self) -> bool:
        """Return True for a session of icechunk, which takes the keys of zarr alone."""
        return "icechunk" in store_objects.packages(self.connect())

    def path(self, key: str) -> str:
        """Return the path of ``key`` for messages."""
        return f"{self.root}/{self.prefix}{key}".rstrip("/") if key or self.prefix else self.root

    def above(self) -> "ZarrPlace | None":
        """Return the parent folder; None if it cannot be read."""
        if self.prefix:
            head = self.prefix.rstrip("/").rpartition("/")[0]
            return ZarrPlace(self.root, self.options, self.store, f"{head}/" if head else "")
        scheme, mark, rest = self.root.partition("://")
        if self.store is not None or not mark or rest.count("/") < 2:
            return None
        return ZarrPlace(f"{scheme}://{rest.rpartition('/')[0]}", self.options)

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return (self.prefix or self.root).rstrip("/").rpartition("/")[2]

    @property
    def lists(self) -> bool:
        """Return True if the store can list names; web servers cannot."""
        return bool(self.connect().supports_listing) and not self.root.startswith("http")

    def fresh(self) -> "ZarrPlace":
        """Return the place itself."""
        return self

    def open(self, key: str, first: tuple[str, int]) -> "RemoteObject | None":
        """Open an object and read its ``first`` bytes; return None if it is absent.

        ``first`` is ``("all", max_length)`` for a whole object, ``("head", n)`` or ``("tail", n)``
        for the end with the index of a shard.
        """
        from zarr.abc.store import SuffixByteRequest

        kind, length = first
        if kind == "tail":
            data = self._get_or_empty(key, SuffixByteRequest(length))
        else:
            data = self._head(key, length + (kind == "all"))
        if data is None:
            return None
        if kind == "all":
            return RemoteObject(self, key, data.size, held=[(0, data)])
        return RemoteObject(self, key, first=data)

    def _head(self, key: str, length: int) -> Bytes | None:
        """Return the first bytes of an object; None if it is absent."""
        from zarr.abc.store import RangeByteRequest

        return self._get_or_empty(key, RangeByteRequest(0, length))

    def _get_or_empty(self, key: str, request: Any) -> Bytes | None:
        """Return the bytes of a request; no bytes for an empty object, which stores refuse."""
        try:
            return self._get(key, [request])[0]
        except StoreError:
            if self.versions([key]) == ["0"]:
                return NO_BYTES
            raise

    def _document(self, key: str) -> Bytes | None:
        """Return metadata, at most one byte more than is allowed; None if they are absent.

        icechunk holds them in memory and fails for a range that ends beyond them.
        """
        if self.is_icechunk:
            return self._get(key, [None])[0]
        return self._head(key, safe_folder.MAX_JSON + 1)

    def fetch(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[Bytes | None]:
        """Return ranges (start, stop) of an object, requested together; None if it is absent."""
        from zarr.abc.store import RangeByteRequest

        return self._get(key, [RangeByteRequest(start, stop) for start, stop in ranges])

    def whole(self, key: str) -> bytes | None:
        """Return all bytes of a small object; None if it is absent."""
        (data,) = self._get(key, [None])
        return None if data is None else data.tobytes()

    def _get(self, key: str, requests: Sequence[Any]) -> list[Bytes | None]:
        try:
            return self._run(
                store_objects.get_ranges(self.connect(), self.prefix + key, requests), key
            )
        except StoreError as error:
            if any(words in str(error) for words in ABSENT_IN_ICECHUNK):
                return [None] * len(requests)
            raise

    def put(self, key: str, data: store_objects.Buffer) -> None:
        """Write an object as a whole; replace an existing one."""
        self._run(store_objects.put(self.connect().set, self.prefix + key, data), key, "write")

    def create(self, key: str, data: store_objects.Buffer) -> None:
        """Write an object unless it exists."""
        create = self.connect().set_if_not_exists
        self._run(store_objects.put(create, self.prefix + key, data), key, "write")

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects that exist, at once."""
        names = [self.prefix + key for key in keys]
        self._run(store_objects.delete(self.connect(), names), keys[0] if keys else "", "remove")

    def clear(self) -> None:
        """Remove all objects of the place."""
        self._run(self.connect().delete_dir(self.prefix.rstrip("/")), "", "clear")

    def copy_to(self, other: "ZarrPlace", key: str) -> None:
        """Copy an object to a place in this store, in buckets without moving its bytes."""
        self._run(
            store_objects.copy(self.connect(), self.prefix + key, other.prefix + key), key, "write"
        )

    def keys(self) -> list[str]:
        """Return the keys of all objects."""
        found = self._run(store_objects.keys(self.connect(), self.prefix), "")
        return [key.removeprefix(self.prefix) for key in found]

    def below(self, folder: str) -> "ZarrPlace":
        """Return the place of a folder."""
        return ZarrPlace(self.root, self.options, self.store, f"{self.prefix}{folder}/")

    def is_occupied(self) -> bool:
        """Return True if any object is stored."""
        folder = self.prefix.rstrip("/")
        return bool(self.lists and self._run(store_objects.names(self.connect(), folder, 0), ""))

    def json(self, key: str) -> JsonFile | None:
        """Return a file that holds a JSON object; None if it is absent."""
        data = self._document(key)
        if data is None:
            return None
        return parse_json(data.tobytes(), _digest(data), self.path(key))

    def names(self, key: str) -> list[str]:
        """Return the names in a folder, sorted; [] if the store cannot list."""
        if not self.lists:
            return []
        folder = (self.prefix + key).rstrip("/")
        names = self._run(store_objects.names(self.connect(), folder, self.max_names), key)
        return sorted(name.rstrip("/") for name in names)

    def stamp(self, key: str) -> str:
        """Return the hash of the content of an object; "" if it is absent."""
        data = self._document(key)
        return "" if data is None else _digest(data)

    def versions(self, keys: Sequence[str]) -> list[str]:
        """Return the sizes of objects, requested together, or `ABSENT_FILE`."""
        names = [self.prefix + key for key in keys]
        return self._run(store_objects.sizes(self.connect(), names), keys[0] if keys else "")

    def _run(self, request: Coroutine[Any, Any, T], key: str, verb: str = "read") -> T:
        with _refusals(self.path(key), verb, (LazyvolError, FileNotFoundError)):
            return wait_for(request)


@contextmanager
def _refusals(
    path: str, verb: str, passing: tuple[type[Exception], ...] = (LazyvolError,)
) -> Iterator[None]:
    """Turn errors of stores, whose libraries share no base class, into StoreError."""
    try:
        yield
    except passing:
        raise
    except Exception as error:
        reason = store_objects.first_line(error)
        raise StoreError(
            f"{path}: the store refused to {verb} it: {reason}; check the URL, the options, the "
            "network, and the credentials in the environment (a public bucket takes "
            "storage_options={'skip_signature': True})"
        ) from error


@dataclass
class RemoteObject:
    """An object of a store that is read in parts.

    ``size`` is None if asking for it costs a request, ``first`` holds the part with the index of
    a shard, and ``held`` the ranges that were fetched last, with their offsets.
    """

    place: ZarrPlace
    key: str
    size: int | None = None
    first: Bytes = field(default_factory=lambda: NO_BYTES)
    held: list[tuple[int, Bytes]] = field(default_factory=list)

    def __enter__(self) -> "RemoteObject":
        return self

    def __exit__(self, *error: object) -> None:
        self.held = []

    def edge(self, length: int, at_start: bool) -> Bytes:
        """Return the first or last bytes, which were read when the object was opened."""
        return self.first

    def fetched(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts, of which those that fit the memory are requested together."""
        batch, length = list[Part](), 0
        for part in parts:
            batch.append(part)
            length += part.length
            if length >= FETCHED_BYTES or len(batch) >= FETCHED_PARTS:
                yield from self._fetch(batch)
                batch, length = [], 0
        yield from self._fetch(batch)

    def _fetch(self, parts: list[Part]) -> list[Part]:
        """Read parts together and hold their bytes instead of those of earlier ones."""
        if self.size is not None or not parts:
            return parts
        ranges = [(part.offset, part.length) for part in parts]
        try:
            self.held = self._parts(list(join_ranges(ranges)))
        except StoreError:  # stores refuse ranges beyond the end, which a damaged index gives
            (version,) = self.place.versions([self.key])
            end = int(version) if version.isdecimal() else 0
            if all(offset + length <= end for offset, length in ranges):
                raise
            clipped = [(o, min(n, end - o)) for o, n in ranges if o < end]
            self.held = self._parts(list(join_ranges(clipped)))
        return parts

    def take(self, offset: int, length: int, max_length: int) -> Bytes:
        """Return a fetched range, shorter if the object ends."""
        for start, data in reversed(self.held):
            if start <= offset < start + max(1, data.size):
                return data[offset - start : offset - start + length]
        return NO_BYTES

    def fill(self, offset: int, target: Bytes) -> int:
        """Copy a fetched range into ``target``; return the number of bytes."""
        data = self.take(offset, target.size, target.size)
        target[: data.size] = data
        return data.size

    def _parts(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, Bytes]]:
        """Read ranges (offset, length) with their offsets; parts of long ones concurrently."""
        pieces = [
            (n, begin, min(begin + REQUEST_BYTES, offset + length))
            for n, (offset, length) in enumerate(ranges)
            for begin in range(offset, offset + length, REQUEST_BYTES)
        ]
        fetched = self.place.fetch(self.key, [(begin, end) for _, begin, end in pieces])
        parts: list[list[Bytes]] = [[] for _ in ranges]
        for (n, _, _), data in zip(pieces, fetched, strict=True):
            if data is not None:
                parts[n].append(data)
        return [
            (offset, data[0] if len(data) == 1 else np.concatenate([*data, NO_BYTES]))
            for (offset, _), data in zip(ranges, parts, strict=True)
        ]


#: storage of the files of a zarr store; keys are relative to it and separated by ``/``
Place = SafeFolder | ZarrPlace
OpenObject = LocalFile | RemoteObject


def join_ranges(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join ranges (offset, length) whose gap costs less than a request."""
    start, end = 0, 0
    for offset, length in sorted(ranges):
        if end and offset <= end + MAX_GAP:
            end = max(end, offset + length)
            continue
        if end:
            yield start, end - start
        start, end = offset, offset + length
    if end:
        yield start, end - start


def _digest(raw: Bytes) -> str:
    return blake2b(raw.data, digest_size=16).hexdigest()
