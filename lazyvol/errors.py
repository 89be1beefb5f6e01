"""The one error tree: every refusal states the rule, the facts with names, and the remedy."""


class LazyvolError(Exception):
    """Base of everything lazyvol refuses on purpose."""


class LabelError(LazyvolError, ValueError):
    """Dims, coordinates, units or options of a stack do not fit the operation."""


class OptionError(LazyvolError, ValueError):
    """The value of an option is outside what the operation accepts."""


class FormatError(LazyvolError, ValueError):
    """A file's content breaks the rules of its format, or no reader knows it."""


class TruncatedError(FormatError):
    """A file ends before the data its header promises."""


class ChecksumError(LazyvolError, OSError):
    """Stored bytes do not match their checksum."""


class MissingChunkError(LazyvolError, OSError):
    """A chunk that the store's metadata promises is absent."""


class UnsafeSourceError(LazyvolError, ValueError):
    """Reading the source would run code, leave the store, or use a codec off the allow-list."""


class LimitExceeded(LazyvolError, ValueError):
    """A size or count in a file is beyond what a reader accepts before it allocates."""


class BudgetError(LazyvolError, MemoryError):
    """A computation cannot be cut to fit the memory it was given."""


class SourceNotFoundError(LazyvolError, FileNotFoundError):
    """Nothing is stored under the given path or pattern."""


class SourceChangedError(LazyvolError, OSError):
    """What was opened was replaced, rewritten or removed since, and is not what it was."""


class TargetExistsError(LazyvolError, FileExistsError):
    """A result would replace something that is already there."""


class StoreError(LazyvolError, OSError):
    """The operating system refused to read or write a store (disk full, permissions, I/O error)."""


class ClusterError(LazyvolError, ConnectionError):
    """No cluster answers, or it refuses."""


class LossWarning(UserWarning):
    """A file format has no place for some of what is saved; the message names all of that."""
