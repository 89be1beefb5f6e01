"""The decorator of public operations: it checks all arguments, and labels plain arrays.

The first plain array of a call gets the labels of ``as_stack``. A mask or another array gets those
of the first stack, if it has the shape of that stack, of its last dims or of one volume. Masked
values of a ``numpy.ma`` array become NaN, and masked integers float64; they are left out if the
operation has a ``mask`` option. Options are checked against the types in the signature, and numbers
must be finite. Stacks must hold real numbers, unless the operation is declared to be right for
complex ones.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, wraps
from types import FunctionType, SimpleNamespace, UnionType
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints, overload

import numpy as np
import xarray as xr

from lazyvol.arguments.arrays import ArrayParameter, DimNames, split_masked
from lazyvol.arguments.rules import DTYPE, REFUSED, Rule, rule_of, show_value
from lazyvol.errors import BudgetError, LabelError, OptionError, shortened
from lazyvol.same_grid import require_same_grid, require_same_labels
from lazyvol.stack import Dims, is_masked, require_mask

__all__ = ["operation"]

#: start of a message that names an operation already: this one, or one that it calls
OPERATION_NAME = re.compile(r"(\w+): (\w*)")
#: errors that name the operation that was called
REFUSALS = (LabelError, OptionError, BudgetError)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Declaration:
    """Declarations of an operation beyond its signature; see ``operation``."""

    complex: bool = False
    dims: Mapping[str, Sequence[DimNames]] = field(default_factory=dict)
    siblings: Sequence[str] = ()
    unbounded: Sequence[str] = ()
    counts: str | None = "mask"
    unchecked: Sequence[str] = ()


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
    unchecked: Sequence[str] = ...,
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
    unchecked
        Parameters that the function checks itself.
    """
    if function is None:
        return lambda function: _checked(function, Declaration(**declaration))
    return _checked(function, Declaration())


def _checked(function: Any, declaration: Declaration) -> Any:
    checks = ArgumentChecks(function, declaration)
    admit, named, refusals = checks.admit, checks.named, REFUSALS

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*(arguments := admit(args, kwargs))[0], **arguments[1])
        except refusals as error:
            error.args = (named(str(error)),)
            raise

    # doctest only finds examples of functions whose globals are those of the module
    wrapper = FunctionType(call.__code__, function.__globals__, closure=call.__closure__)
    wrapper.__dict__["checks"] = checks
    return wraps(function)(wrapper)


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation: an array (``array``), an option (``rule``), or either."""

    name: str
    default: Any
    rule: Rule | None
    array: ArrayParameter | None
    names_dims: bool


class ArgumentChecks:
    """The checks of one operation, derived from its signature at its first call."""

    def __init__(self, function: FunctionType, declaration: Declaration) -> None:
        self.function, self.declaration = function, declaration
        self.name = function.__name__

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters by name, in order."""
        unchecked, annotations = self.declaration.unchecked, self.function.__annotations__
        checked = {n: hint for n, hint in annotations.items() if n not in ("return", *unchecked)}
        # the others may name types that are only imported for type checkers
        hints = get_type_hints(SimpleNamespace(__annotations__=checked), self.function.__globals__)
        signature = inspect.signature(self.function).parameters
        return {name: self._parameter(p, hints.get(name)) for name, p in signature.items()}

    @cached_property
    def positional(self) -> tuple[Parameter, ...]:
        """The parameters that may be passed by position."""
        signature = inspect.signature(self.function).parameters
        by_position = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return tuple(self.parameters[n] for n, p in signature.items() if p.kind is by_position)

    @cached_property
    def first_array(self) -> str:
        """The name of the first array parameter."""
        return next((n for n, p in self.parameters.items() if p.array is not None), "")

    def _parameter(self, parameter: inspect.Parameter, hint: Any) -> Parameter:
        if parameter.name in self.declaration.unchecked:
            return Parameter(parameter.name, parameter.default, rule_of(Any), None, False)
        types = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        option_types = tuple(t for t in types if t is not xr.DataArray)
        name, finite = parameter.name, parameter.name not in self.declaration.unbounded
        rule = rule_of(Union[option_types], finite=finite) if option_types else None  # noqa: UP007
        rule = DTYPE if name == "dtype" else rule
        array = self._array_parameter(name, rule) if len(option_types) < len(types) else None
        return Parameter(name, parameter.default, rule, array, hint == Dims or name == "dim")

    def _array_parameter(self, name: str, rule: Rule | None) -> ArrayParameter:
        return ArrayParameter(
            subject=f"{self.name}: {name}",
            alternatives=f" or {rule.singular}" if rule else "",
            complex=self.declaration.complex,
            named=tuple(self.declaration.dims.get(name, ())),
            sibling=name in self.declaration.siblings,
        )

    def named(self, message: str) -> str:
        """Return the message of an error with the name of an operation at its start.

        It is the name of this operation, unless the message names a parameter of an operation that
        this one calls.
        """
        own = message.removeprefix("as_stack: ")  # labels the arrays of other operations
        start = OPERATION_NAME.match(own)
        if start is None:
            return shortened(f"{self.name}: {own}")
        if start[2] in self.parameters:
            own = f"{self.name}: {own[start.start(2) :]}"
        return shortened(own)

    def admit(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Return checked arguments; missing and unknown ones are left for Python to refuse."""
        if len(args) > len(self.positional) or not self.parameters.keys() >= kwargs.keys():
            return args, kwargs
        arguments = dict(zip((p.name for p in self.positional), args, strict=False))
        if arguments.keys() & kwargs.keys():
            return args, kwargs
        return (), self._checked(arguments | kwargs)

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        first, masked = None, None
        if self.first_array in arguments:
            parameter = self.parameters[self.first_array]
            first, masked = self._first(parameter, arguments[self.first_array])
            arguments[self.first_array] = first
        stack = first if isinstance(first, xr.DataArray) else None
        for name, value in arguments.items():
            parameter = self.parameters[name]
            if name != self.first_array and value is not parameter.default:
                arguments[name] = self._value(parameter, value, stack)
        if masked is not None and stack is not None:
            self._add_mask(arguments, stack, masked)
        return arguments

    def _add_mask(self, arguments: dict[str, Any], stack: xr.DataArray, masked: Any) -> None:
        """Add the mask of a ``numpy.ma`` stack to the arguments, joined with a given mask."""
        option = str(self.declaration.counts)
        mask = arguments.get(option)
        is_required = self.parameters[option].default is inspect.Parameter.empty
        if mask is not None and is_required and "dim" in self.parameters:
            arguments.setdefault("dim", mask.dims)  # reduce the dims of the given mask
        arguments[option] = _unmasked(f"{self.name}: {option}", stack, masked, mask)

    def _first(self, parameter: Parameter, value: Any) -> tuple[Any, Any]:
        """Return the first stack, and its ``numpy.ma`` mask if an option can leave that out."""
        masked = None
        option = self.declaration.counts
        if option in self.parameters and option != parameter.name and _is_masked(value):
            value, masked = split_masked(value)
        return self._value(parameter, value, None), masked

    def _value(self, parameter: Parameter, value: Any, stack: xr.DataArray | None) -> Any:
        """Return one argument as the operation takes it, or raise."""
        array, rule = parameter.array, parameter.rule
        if array is not None and isinstance(value, xr.DataArray):
            return _fitting(array, array.readable(value), stack)
        admitted = REFUSED if rule is None else rule.admit(value)
        if admitted is not REFUSED:
            return admitted
        if array is not None:
            return _fitting(array, array.labelled(value, stack), stack)
        if parameter.names_dims:
            admitted = self._dims(parameter, value, stack)
        if admitted is REFUSED:
            raise OptionError(
                f"{self.name}: {parameter.name} must be {rule.singular if rule else 'given'}, got "
                f"{show_value(value)}; see help({self.function.__module__}.{self.name})"
            )
        return admitted

    def _dims(self, parameter: Parameter, value: Any, stack: xr.DataArray | None) -> Any:
        """Return a set of dims as a tuple; refuse axis numbers with the names of those axes."""
        if isinstance(value, set | frozenset) and all(isinstance(d, str) for d in value):
            return tuple(sorted(value))
        if stack is None:
            return REFUSED
        dims = tuple(map(str, stack.dims))
        axes = [a for a in _axis_numbers(value) if -len(dims) <= a < len(dims)]
        names = "".join(f", axis {a} is {dims[a]!r}" for a in dict.fromkeys(axes))
        raise LabelError(
            f"{self.name}: {parameter.name} must name dims of the stack, got {show_value(value)}; "
            f"the stack has {dims}{names}"
        )


def _axis_numbers(value: Any) -> list[int]:
    """Return the whole numbers in ``value``, which were meant as axes."""
    numbers = np.ravel(value).tolist() if isinstance(value, np.ndarray | np.generic) else value
    numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
    return [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]


def _is_masked(value: Any) -> bool:
    return is_masked(value.data if isinstance(value, xr.DataArray) else value)


def _fitting(
    parameter: ArrayParameter, array: xr.DataArray, stack: xr.DataArray | None
) -> xr.DataArray:
    """Return an array; raise LabelError if its labels differ from those of the stack."""
    if stack is not None and not parameter.sibling:
        try:
            require_same_labels(stack, array)
        except LabelError as error:
            raise LabelError(f"{parameter.subject} must fit the stack: {error}") from error
    return array


def _unmasked(
    subject: str, stack: xr.DataArray, masked: Any, mask: xr.DataArray | None
) -> xr.DataArray:
    """Return True where a stack is not masked and ``mask``, if given, is True."""
    valid = xr.DataArray(~masked, dims=stack.dims)
    if mask is None:
        return valid
    require_mask(subject, mask)
    require_same_grid(stack, mask)
    return (mask & valid).transpose(*stack.dims, ...)
