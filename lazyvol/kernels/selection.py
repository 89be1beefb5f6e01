"""Order statistics without sorting what does not fit: the digits of keys, counted top down.

Every value has a key, an unsigned integer of its size that sorts as the value does. A pass counts
one digit of the keys whose higher digits (the *prefix*) are those already found, and so finds the
next digit of the key that stands at a wanted rank. The last pass knows the key, and the next one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from lazyvol.kernels.compiled import compiled
from lazyvol.kernels.counting import flags
from lazyvol.kernels.layout import split

Array = np.ndarray[Any, np.dtype[Any]]
State = dict[str, Array]

#: kept elements that are finished together, and voxels that are sorted together: their
#: temporaries stay in cache and below the memory of a state
SLAB = 2**16
GROUP = 2**20


@dataclass(frozen=True)
class Digit:
    """``width`` bits of a key of ``bits`` bits, above its lowest ``shift``."""

    bits: int
    shift: int
    width: int

    @property
    def first(self) -> bool:
        """Whether no digit stands above this one."""
        return self.shift + self.width == self.bits

    @property
    def last(self) -> bool:
        """Whether no digit stands below this one."""
        return self.shift == 0


def digits(bits: int, widest: int) -> Iterator[Digit]:
    """The digits of a key, top down: as few as ``widest`` allows, of about equal width."""
    passes = ceil(bits / widest)
    shift = bits
    for n in range(passes):
        width = bits // passes + (n < bits % passes)
        shift -= width
        yield Digit(bits, shift, width)


def key_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Unsigned integers of the size of ``dtype``."""
    return np.dtype(f"u{dtype.itemsize}")


def count_dtype(n: int) -> np.dtype[Any]:
    """The smallest integers that count to ``n``."""
    found = next((t for t in ("u1", "u2", "u4") if n <= np.iinfo(t).max), "i8")
    return np.dtype(found)


def start(
    shape: tuple[int, ...], *, digit: Digit, ranks: int, key: np.dtype[Any], count: np.dtype[Any]
) -> State:
    """Empty state; the first digit is counted once, the others for every wanted rank."""
    several = 1 if digit.first else ranks
    state = {"counts": np.zeros((*shape, several, 2**digit.width), count)}
    if digit.first:
        return state | {"nan": np.zeros(shape, bool)}
    state["prefix"] = np.zeros((*shape, ranks), key)
    state["rank"] = np.zeros((*shape, ranks), count)
    if digit.last:
        state["above"] = np.full((*shape, ranks), np.iinfo(key).max, key)
        state["n"] = np.zeros(shape, count)
    return state


def state_bytes(digit: Digit, ranks: int, key: np.dtype[Any], count: np.dtype[Any]) -> int:
    """Bytes of a state per kept element."""
    made = start((), digit=digit, ranks=ranks, key=key, count=count)
    return sum(a.nbytes for a in made.values())  # type: ignore[misc]


def update(
    state: State, axes: Sequence[int], block: Array, *others: Array, digit: Digit, masked: bool
) -> None:
    """Count a digit of a block; ``others`` are a mask where ``masked``, then what the pass before
    found: prefix and rank for every wanted rank and, for the last digit, the count of values."""
    key = key_dtype(block.dtype)
    x = split(block.view(key), axes)
    valid = flags(others[0] if masked else None, block.shape, axes)
    counts = _laid(state["counts"], x)
    how = (valid, masked, block.dtype.kind, *_bits(block.dtype), *_shifts(digit))
    if digit.first:
        _tally_first(x, *_numbers(how), counts, state["nan"].reshape(x.shape[0], x.shape[2]))
        return
    _remember(state, others[masked:])
    prefix = _laid(state["prefix"], x)
    above = _laid(state["above"], x) if digit.last else np.empty((1, 1, 1), key)
    _tally(x, *_numbers(how), prefix, counts, above, digit.last)


def _laid(values: Array, x: Array) -> Array:
    """State of the kept elements of ``x`` (before, reduced, after) as (before, after, ...)."""
    extra = values.ndim - (2 if values.shape[-1:] and values.ndim >= 2 else 1)
    del extra
    return values
