"""The exceptions of lazyvol. Every message states the rule, the offending value, and the remedy."""

import re

#: characters of a message, of a word in a longer one, and of a value in a longer one
MAX_MESSAGE, MAX_WORD, MAX_VALUE = 340, 120, 60


class LazyvolError(Exception):
    """Base class of all exceptions that lazyvol raises on purpose."""


class _Refusal(LazyvolError, ValueError):
    """An argument of a call is refused; values of any length fit into the message."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))


class LabelError(_Refusal):
    """The dims, coordinates, units or options of a stack do not fit the operation."""


class OptionError(_Refusal):
    """The value of an option is outside the range that the operation accepts."""


class RangeError(LazyvolError, ArithmeticError):
    """Values are so large or small that float64 cannot hold the squares that a result needs."""


class FormatError(LazyvolError, ValueError):
    """The content of a file violates its format, or no reader supports it."""


class TruncatedError(FormatError):
    """A file ends before the data that its header announces."""


class ChecksumError(LazyvolError, OSError):
    """Stored bytes do not match their checksum."""


class MissingChunkError(LazyvolError, OSError):
    """A chunk that the metadata of a store lists is missing."""


class UnsafeSourceError(LazyvolError, ValueError):
    """Reading a source would run code, leave the store, or use a codec that is not allowed."""


class LimitExceeded(LazyvolError, ValueError):
    """A size or count in a file exceeds the limit that a reader checks before it allocates."""


class BudgetError(LazyvolError, MemoryError):
    """A computation cannot be divided to fit the memory budget."""


class SourceNotFoundError(LazyvolError, FileNotFoundError):
    """Nothing is stored under a path or pattern."""


class SourceChangedError(LazyvolError, OSError):
    """A source was replaced, rewritten or removed after it was opened."""


class TargetExistsError(LazyvolError, FileExistsError):
    """The target of a save already exists."""


class StoreError(LazyvolError, OSError):
    """The operating system failed to read or write a store (disk full, permissions, I/O error)."""


class ClusterError(LazyvolError, ConnectionError):
    """A cluster cannot be reached, lost its scheduler or workers, or cannot run a task."""


class IncompleteError(LazyvolError, RuntimeError):
    """Some parts of a result could not be computed; the others are stored.

    ``failures`` are pairs of a part, its file and region as text, and the error of its task.
    """

    def __init__(self, message: str, failures: tuple[tuple[str, Exception], ...] = ()) -> None:
        super().__init__(message)
        self.failures = failures


class LossWarning(UserWarning):
    """A file format cannot store part of the metadata; the message lists it."""


def shortened(message: str) -> str:
    """Return a message in one line, in which long words and values are cut if it is long itself.

    Examples
    --------
    >>> shortened("must be a name, got " + 1000 * "10 " + "; pass one")
    'must be a name, got 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 10 ...; pass one'
    """
    message = re.sub(r"\s*\n\s*", " ", message)
    if len(message) > MAX_MESSAGE:
        message = re.sub(rf"\S{{{MAX_WORD},}}", lambda word: _ends(word[0], MAX_WORD), message)
    if len(message) > MAX_MESSAGE:
        message = re.sub(rf"(\bgot [^;]{{{MAX_VALUE}}})[^;]+", r"\1...", message)
    return message if len(message) <= MAX_MESSAGE else _ends(message, MAX_MESSAGE)


def _ends(text: str, size: int) -> str:
    """Return the start and the end of a text, in ``size`` characters."""
    half = (size - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"
