"""Everything that one operation is given, checked parameter by parameter."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import xarray as xr

from lazyvol.door.arrays import Names, Operand, parted
from lazyvol.door.rules import NO, TYPE, Rule, rule_of
from lazyvol.door.words import shown
from lazyvol.errors import LabelError, OptionError
from lazyvol.same_grid import require_same_grid, require_same_labels
from lazyvol.stack import Dims, require_mask
from lazyvol.voxels import is_masked


@dataclass(frozen=True)
class Marks:
    """What an operation says of itself; see ``operation``."""

    complex: bool = False
    dims: Mapping[str, Sequence[Names]] = field(default_factory=dict)
    siblings: Sequence[str] = ()
    unbounded: Sequence[str] = ()
    counts: str | None = "mask"


@dataclass(frozen=True)
class Parameter:
    """A parameter of an operation: an array, an option, or either; ``is_dim`` names dims."""

    name: str
    default: Any
    rule: Rule | None
    operand: Operand | None
    is_dim: bool


class Gate:
    """Checks for one operation, made of its signature when it is first called."""

    def __init__(self, function: Callable[..., Any], marks: Marks) -> None:
        self.function, self.marks = function, marks
        self.name = function.__name__

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """Parameters by name, in their order."""
        hints = get_type_hints(self.function)
        signature = inspect.signature(self.function).parameters
        return {name: self._parameter(p, hints[name]) for name, p in signature.items()}

    @cached_property
    def places(self) -> tuple[Parameter, ...]:
        """Parameters that may be given by place."""
        signature = inspect.signature(self.function).parameters
        by_place = inspect.Parameter.POSITIONAL_OR_KEYWORD
        return tuple(self.parameters[n] for n, p in signature.items() if p.kind is by_place)

    @cached_property
    def first(self) -> str:
        """The parameter of the first stack."""
        return next((n for n, p in self.parameters.items() if p.operand is not None), "")

    def _parameter(self, parameter: inspect.Parameter, hint: Any) -> Parameter:
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        rest = tuple(k for k in kinds if k is not xr.DataArray)
        name, finite = parameter.name, parameter.name not in self.marks.unbounded
        rule = rule_of(Union[rest], finite=finite) if rest else None  # noqa: UP007
        rule = TYPE if name == "dtype" else rule
        operand = self._operand(name, rule) if len(rest) < len(kinds) else None
        is_dim = hint == Dims or name == "dim"
        return Parameter(name, parameter.default, rule, operand, is_dim)

    def _operand(self, name: str, rule: Rule | None) -> Operand:
        named = tuple(self.marks.dims.get(name, ()))
        others = f" or {rule.words}" if rule else ""
        sibling = name in self.marks.siblings
        return Operand(f"{self.name}: {name}", others, self.marks.complex, named, sibling)

    def admitted(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Sequence[Any], dict[str, Any]]:
        """Arguments as the operation takes them; Python itself refuses missing and unknown ones."""
        places = self.places
        if len(args) > len(places) or not self.parameters.keys() >= kwargs.keys():
            return args, kwargs
        given = dict(zip((p.name for p in places), args, strict=False))
        if given.keys() & kwargs.keys():
            return args, kwargs
        return (), self._checked(given | kwargs)

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        first, masked = None, None
        if self.first in given:
            first, masked = self._first(self.parameters[self.first], given[self.first])
            given[self.first] = first
        stack = first if isinstance(first, xr.DataArray) else None
        for name, value in given.items():
            parameter = self.parameters[name]
            if name != self.first and value is not parameter.default:
                given[name] = self._value(parameter, value, stack)
        if masked is not None and stack is not None:
            option = str(self.marks.counts)
            given[option] = _counted(stack, masked, given.get(option))
        return given

    def _first(self, parameter: Parameter, value: Any) -> tuple[Any, Any]:
        """The first stack, and where it is masked if an option of the operation leaves that out."""
        masked = None
        counts = self.marks.counts
        if counts in self.parameters and counts != parameter.name and _is_masked(value):
            value, masked = parted(value)
        return self._value(parameter, value, None), masked

    def _value(self, parameter: Parameter, value: Any, stack: xr.DataArray | None) -> Any:
        """One argument as the operation takes it."""
        operand, rule = parameter.operand, parameter.rule
        if operand is not None and isinstance(value, xr.DataArray):
            return _beside(operand, operand.readable(value), stack)
        found = NO if rule is None else rule.admit(value)
        if found is not NO:
            return found
        if operand is not None:
            return _beside(operand, operand.labelled(value, stack), stack)
        if parameter.is_dim:
            found = self._dims(parameter, value, stack)
        if found is NO:
            raise OptionError(
                f"{self.name}: {parameter.name} must be {rule.words if rule else 'given'}, got "
                f"{shown(value)}; see help({self.function.__module__}.{self.name})"
            )
        return found

    def _dims(self, parameter: Parameter, value: Any, stack: xr.DataArray | None) -> Any:
        """Names of dims in a set; numbers of axes are refused with the names they would have."""
        several = isinstance(value, set | frozenset)
        if several and all(isinstance(d, str) for d in value):
            return tuple(sorted(value))
        if stack is None:
            return NO
        own = tuple(map(str, stack.dims))
        axes = [a for a in _axes(value) if -len(own) <= a < len(own)]
        names = "".join(f", axis {a} is {own[a]!r}" for a in axes)
        raise LabelError(
            f"{self.name}: {parameter.name} must name dims of the stack, got {shown(value)}; the "
            f"stack has {own}{names}"
        )


def _axes(value: Any) -> list[int]:
    """Whole numbers that someone took for axes."""
    numbers = np.ravel(value).tolist() if isinstance(value, np.ndarray | np.generic) else value
    numbers = numbers if isinstance(numbers, list | tuple) else [numbers]
    return [n for n in numbers if isinstance(n, int) and not isinstance(n, bool)]


def _is_masked(value: Any) -> bool:
    return is_masked(value.data if isinstance(value, xr.DataArray) else value)


def _beside(operand: Operand, array: xr.DataArray, stack: xr.DataArray | None) -> xr.DataArray:
    """An array beside a stack, whose labels agree with those of the stack."""
    if stack is not None and not operand.sibling:
        try:
            require_same_labels(stack, array)
        except LabelError as fault:
            raise LabelError(f"{operand.what} must fit the stack: {fault}") from fault
    return array


def _counted(stack: xr.DataArray, masked: Any, given: xr.DataArray | None) -> xr.DataArray | None:
    """Where a stack counts that was masked, and that someone gave another mask for."""
    own = xr.DataArray(~masked, dims=stack.dims)
    if given is None:
        return own
    require_mask(given)
    require_same_grid(stack, given)
    return (given & own).transpose(*(d for d in stack.dims))
