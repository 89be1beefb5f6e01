"""The decorator of public operations: it checks all arguments, and labels plain arrays.

The first plain array of a call gets the labels of ``as_stack``. A mask or another array gets those
of the first stack, if it has the shape of that stack, of its last dims or of one volume. Masked
values of a ``numpy.ma`` array are left out if the operation has a ``mask`` option, else they become
NaN. Options are checked against the types in the signature, and numbers must be finite. Stacks must
hold real numbers, unless the operation is declared to be right for complex ones.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, overload

from lazyvol.door.arguments import ArgumentChecks, Declaration

P = ParamSpec("P")
R = TypeVar("R")

__all__ = ["operation"]


@overload
def operation(function: Callable[P, R]) -> Callable[P, R]: ...
@overload
def operation(
    *,
    complex: bool = ...,
    dims: Mapping[str, Sequence[tuple[str, ...]]] = ...,
    siblings: Sequence[str] = ...,
    unbounded: Sequence[str] = ...,
    counts: str | None = ...,
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def operation(function: Any = None, **declaration: Any) -> Any:
    """Return a public operation: ``function`` behind checks of its arguments.

    Parameters
    ----------
    complex
        True if results are right for complex numbers; they are refused otherwise.
    dims
        By parameter: the dims of a plain array, one tuple for each number of axes it may have.
    siblings
        Parameters that take a second stack with its own lengths and labels.
    unbounded
        Options whose numbers may be NaN or infinite.
    counts
        Option that selects which voxels of the first stack count, by default ``mask``.
    """
    if function is None:
        return lambda function: _checked(function, Declaration(**declaration))
    return _checked(function, Declaration())


def _checked(function: Any, declaration: Declaration) -> Any:
    checks = ArgumentChecks(function, declaration)
    admit = checks.admit

    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*(arguments := admit(args, kwargs))[0], **arguments[1])

    # doctest only finds examples of functions whose globals are those of the module
    wrapper = FunctionType(call.__code__, function.__globals__, closure=call.__closure__)
    wrapper.__dict__["checks"] = checks
    return wraps(function)(wrapper)
