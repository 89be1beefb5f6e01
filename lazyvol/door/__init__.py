"""The one door of public operations: what they are given is labelled, checked or refused in words.

Plain arrays get labels: the first of an operation those of ``as_stack``, a mask or another array of
the shape of that stack, of its last dims or of a volume in it the labels of the stack. What a
``numpy.ma`` array masks does not count where the operation has an option ``mask`` that says which
voxels count, and is NaN elsewhere. Options are held to the types that operations declare, numbers
to finite ones. Stacks must hold real numbers, unless the operation is right for complex ones.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, overload

from lazyvol.door.gate import Gate, Marks

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
def operation(function: Any = None, **marks: Any) -> Any:
    """Make a function a public operation: what it is given goes through the door.

    Parameters
    ----------
    complex
        Whether results are right for complex numbers; they are refused otherwise.
    dims
        Dims of a plain array for a parameter, one tuple for each number of axes it may have.
    siblings
        Parameters that take an array with lengths and labels of its own.
    unbounded
        Options whose numbers may be NaN or infinite.
    counts
        Option that says which voxels of the first stack count.
    """
    if function is None:
        return lambda function: _through(function, Marks(**marks))
    return _through(function, Marks())


def _through(function: Any, marks: Marks) -> Any:
    gate = Gate(function, marks)
    admitted = gate.admitted

    def opened(*args: Any, **kwargs: Any) -> Any:
        return function(*(taken := admitted(args, kwargs))[0], **taken[1])

    # doctest looks for examples in functions whose globals are those of the module
    made = FunctionType(opened.__code__, function.__globals__, closure=opened.__closure__)
    made.__dict__["gate"] = gate
    return wraps(function)(made)
