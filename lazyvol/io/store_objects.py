"""Open stores of zarr: archives, buckets, web servers, and other schemes by fsspec.

The coroutines are requests, which `lazyvol.io.places` runs in the event loop of zarr.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np

from lazyvol.errors import FormatError, StoreError
from lazyvol.io.safe_folder import ABSENT_FILE
from lazyvol.io.zarr.adapter import wait_for
from lazyvol.io.zarr.codecs import Bytes

Buffer = bytes | memoryview

#: schemes that obstore reads; fsspec reads others
OBJECT_SCHEMES = frozenset({"s3", "s3a", "gs", "az", "adl", "abfs", "abfss", "http", "https"})


@cache
def open_store(root: str, options: tuple[tuple[str, Any], ...], process: int) -> Any:
    """Open the zarr store of a URL or an archive, once per process."""
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

    settings = dict(options)
    client: Any = settings.pop("client_options", None) or {}
    endpoint = settings.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or root
    if str(endpoint).startswith("http://"):
        client = {"allow_http": True, **client}
    settings.setdefault("retry_config", {"max_retries": 3, "retry_timeout": timedelta(seconds=30)})
    return ObjectStore(from_url(root, client_options=client, **settings))


def _fsspec(root: str, options: tuple[tuple[str, Any], ...]) -> Any:
    try:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(root, storage_options=dict(options))
    except ImportError as error:
        raise StoreError(
            f"{root}: this scheme needs fsspec and its driver; install them with: "
            f"pip install lazyvol[remote], and the package named here: {error}"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error message, or the class of the error."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def packages(source: object) -> set[str]:
    """Return the packages of the class of an object and of its bases."""
    return {kind.__module__.partition(".")[0] for kind in type(source).__mro__}


async def get_ranges(store: Any, key: str, requests: Sequence[Any]) -> list[Bytes | None]:
    from zarr.buffer.cpu import buffer_prototype

    gets = (store.get(key, buffer_prototype, request) for request in requests)
    buffers = await asyncio.gather(*gets)
    return [None if b is None else np.frombuffer(b.as_numpy_array(), np.uint8) for b in buffers]


async def put(put: Callable[..., Coroutine[Any, Any, None]], key: str, data: Buffer) -> None:
    from zarr.buffer.cpu import Buffer as ZarrBuffer

    await put(key, ZarrBuffer.from_array_like(np.frombuffer(data, np.uint8)))


async def copy(store: Any, key: str, new: str) -> None:
    from zarr.buffer.cpu import buffer_prototype

    if packages(store.store if hasattr(store, "store") else store) & {"obstore"}:
        from obstore import copy_async

        await copy_async(store.store, key, new)
    else:
        await store.set(new, await store.get(key, buffer_prototype))


async def delete(store: Any, keys: Sequence[str]) -> None:
    await asyncio.gather(*(store.delete(key) for key in keys))


async def keys(store: Any, prefix: str) -> list[str]:
    return [key async for key in store.list_prefix(prefix)]


async def sizes(store: Any, names: Sequence[str]) -> list[str]:
    async def size(name: str) -> str:
        try:
            return str(await store.getsize(name))
        except FileNotFoundError:
            return ABSENT_FILE

    return list(await asyncio.gather(*map(size, names)))


async def names(store: Any, folder: str, max_names: int) -> list[str]:
    names = []
    async for name in store.list_dir(folder):
        names.append(name)
        if len(names) > max_names:
            break
    return names
