"""Open stores of zarr: archives, buckets, web servers, and other schemes by fsspec."""

import os
from datetime import timedelta
from functools import cache
from typing import Any

from lazyvol.errors import FormatError, StoreError
from lazyvol.io.zarr.adapter import wait_for

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
