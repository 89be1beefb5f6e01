"""The parts of zarr-python that lazyvol uses: its event loop, its metadata and its rare codecs.

zarr opens stores, and checks and interprets the metadata of arrays. Chunks are found, verified and
decoded by `lazyvol.io.zarr.chunks` in the calling thread; only codecs that
`lazyvol.io.zarr.codecs` does not bound are decoded by zarr, one chunk at a time.

Private names of zarr, which no other module uses:

``zarr.core.sync.sync``
    Runs a coroutine in the event loop of zarr, from any thread. The methods of stores are
    coroutines, and no public function waits for one.
"""

import json
import warnings
from collections.abc import Coroutine, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")


def wait_for(request: Coroutine[Any, Any, T]) -> T:
    """Run a request in the event loop of zarr and return its result."""
    from zarr.core.sync import sync

    return sync(request)


def open_document(document: Mapping[str, Any]) -> Any:
    """Return the array of a metadata document, as `zarr.open_array` does; nothing is read.

    Any error of zarr is passed on; a fill value beyond the range of the dtype is one.
    """
    import zarr
    from zarr.storage import MemoryStore, StorePath

    with warnings.catch_warnings(), np.errstate(over="raise"):
        warnings.simplefilter("ignore")  # zarr warns of codecs that are not in the specification
        return zarr.Array.from_dict(StorePath(MemoryStore()), dict(document))


def document_of(array: Any) -> dict[str, Any]:
    """Return the metadata document of an array."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of texts of equal length
        document: dict[str, Any] = array.metadata.to_dict()
    return document


def decode_chunk(document: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Return the values of the only chunk of an array, from its stored bytes."""
    import zarr
    from zarr.buffer.cpu import Buffer
    from zarr.storage import MemoryStore, StorePath

    metadata = _metadata(document)
    key = metadata.encode_chunk_key((0,) * len(metadata.shape))
    store = MemoryStore({key: Buffer.from_array_like(data)})
    array = zarr.Array(zarr.AsyncArray(metadata, StorePath(store)))
    with np.errstate(all="ignore"):
        return np.asarray(array[...])


@lru_cache(maxsize=64)
def _metadata(document: str) -> Any:
    return open_document(json.loads(document)).metadata
