"""Hyperparameters: declared by a rule's annotations, kept in groups, evaluated at a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import get_annotations
from numbers import Real
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from .kernel import Kernel, MatrixKernel

Scheduled: TypeAlias = float | Callable[[int], float]
"""A number, or a callable that gives it for the step t = 1, 2, …"""


@dataclass(frozen=True)
class Interval:
    """The values that a hyperparameter takes; `fixed` ones are set at construction only, to a number."""

    text: str
    holds: Callable[[float], bool]
    fixed: bool = False


TRUTH_VALUES = (bool, np.bool_)
REAL = Interval("(-inf, inf)", math.isfinite)

POSITIVE = Interval("(0, inf)", lambda x: 0 < x < math.inf)
PROPER_FRACTION = Interval("(0, 1)", lambda x: 0 < x < 1)
PORTION = Interval("[0, 1]", lambda x: 0 <= x <= 1)
NONNEGATIVE = Interval("[0, inf)", lambda x: 0 <= x < math.inf)
COUNT = Interval("1, 2, 3, …", lambda x: 1 <= x < 2**53 and x.is_integer())
COUNT_OR_0 = Interval("0, 1, 2, …", lambda x: 0 <= x < 2**53 and x.is_integer())

Nonnegative = Annotated[Scheduled, NONNEGATIVE]
Decay = Annotated[Scheduled, Interval("[0, 1)", lambda x: 0 <= x < 1)]
AtLeastOne = Annotated[Scheduled, Interval("[1, inf)", lambda x: 1 <= x < math.inf)]
Finite = Annotated[Scheduled, REAL]
Nonpositive = Annotated[Scheduled, Interval("(-inf, 0]", lambda x: -math.inf < x <= 0)]
Positive = Annotated[Scheduled, POSITIVE]
Mixture = Annotated[float, Interval("(0, 1)", lambda x: 0 < x < 1, fixed=True)]
Initial = Annotated[float, Interval("[0, inf)", lambda x: 0 <= x < math.inf, fixed=True)]


def checked_number(label: str, value: Any, interval: Interval) -> float:
    """`value` as a float; an error if it is no number, or out of the interval."""
    if not isinstance(value, float) and (isinstance(value, bool) or not isinstance(value, Real)):
        raise TypeError(f"{label} must be a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not interval.holds(number):
        raise ValueError(f"{label} must be in {interval.text}, got {number}")
    return number


def checked_bool(label: str, value: Any) -> bool:
    """`value` as a bool; an error unless it is True or False."""
    if not isinstance(value, TRUTH_VALUES):
        raise TypeError(f"{label} must be True or False, got {value!r}")
    return bool(value)


class Hyperparameter:
    """A field of a rule: its default, its values, and the attribute that reads and sets all groups."""

    def __init__(self, name: str, default: float | bool, interval: Interval | None) -> None:
        self.name = name
        self.default = default
        self.interval = interval  # None: true or false

    def checked(self, value: Any, label: str | None = None) -> Any:
        """`value` as a bool, float or schedule; an error if it is none, or out of range."""
        label = label or self.name
        if self.interval is None:
            return checked_bool(label, value)
        if callable(value) and not self.interval.fixed:
            return value
        return checked_number(label, value, self.interval)

    def __get__(self, optimizer: Any, owner: type) -> Any:
        if optimizer is None:
            return self.default
        first, *others = (group[self.name] for group in optimizer.groups)
        if any(other != first for other in others):
            raise ValueError(f"the groups differ in {self.name}: read it from groups[i][{self.name!r}]")
        return first

    def __set__(self, optimizer: Any, value: Any) -> None:
        for group in optimizer.groups:
            group.check(self.name, value)
        for group in optimizer.groups:
            group[self.name] = value


def declared(cls: type) -> dict[str, Hyperparameter]:
    """The hyperparameters among the annotations of `cls` itself."""
    fields = {}
    for name, hint in get_annotations(cls, eval_str=True).items():
        if hint is bool:
            fields[name] = Hyperparameter(name, vars(cls)[name], None)
        elif metadata := getattr(hint, "__metadata__", ()):
            fields[name] = Hyperparameter(name, vars(cls)[name], metadata[-1])
    return fields


class At(SimpleNamespace):
    """A group's hyperparameters and scalars as numbers at a step, and the kernel that they choose."""

    kernel: Kernel
    before: Mapping[str, float]
    """The scalars before the step."""
    next: Callable[[str], float]
    """Any hyperparameter at the step after this one."""

    def with_kernel(self, kernel: Kernel) -> At:
        """The same for another kernel."""
        return At(**{**vars(self), "kernel": kernel})


class Group(Mapping[str, Any]):
    """Parameters that share hyperparameters. ``group["lr"]`` reads one, ``group["lr"] = 3e-4`` sets it."""

    def __init__(
        self,
        params: Any,
        values: dict[str, Any],
        fields: dict[str, Hyperparameter],
        choose_kernel: Callable[[SimpleNamespace], Kernel],
        choose_matrix_kernel: Callable[[SimpleNamespace], MatrixKernel | None],
        scalars: dict[str, float],
    ) -> None:
        unknown = [name for name in values if name not in fields]
        if unknown:
            raise TypeError(f"no hyperparameter {unknown[0]!r}; there are {', '.join(fields)}")
        self._params = params
        self._fields = fields
        self._choose_kernel = choose_kernel
        self._choose_matrix_kernel = choose_matrix_kernel
        self._values = {
            name: field.checked(values.get(name, field.default)) for name, field in fields.items()
        }
        self._scheduled = [name for name, value in self._values.items() if callable(value)]
        self.scalars = scalars
        self.kernel, self._matrix_kernel, self.averaged = self._structure(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._params if name == "params" else self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = self.check(name, value)
        self._scheduled = [name for name, value in self._values.items() if callable(value)]

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *self._values))

    def __len__(self) -> int:
        return 1 + len(self._values)

    def __repr__(self) -> str:
        return f"Group({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    __eq__ = object.__eq__  # a mapping's would compare arrays
    __hash__ = object.__hash__

    def kernel_of(self, p: np.ndarray[Any, Any]) -> Kernel:
        """The update of a parameter."""
        of_matrices = self._matrix_kernel
        return of_matrices if of_matrices and of_matrices.takes(p.ndim) else self.kernel

    def hyperparameters(self) -> Iterable[tuple[str, Any]]:
        """Names and values, without the parameters."""
        return self._values.items()

    def check(self, name: str, value: Any) -> Any:
        """What setting `name` to `value` would store; an error if that cannot be done."""
        if name not in self._fields:
            raise KeyError(f"no hyperparameter {name!r}; there are {', '.join(self._fields)}")
        field = self._fields[name]
        value = field.checked(value)
        if field.interval and field.interval.fixed and value != self._values[name]:
            raise ValueError(f"{name} is fixed at construction")
        structure = self.kernel, self._matrix_kernel, self.averaged
        if self._structure({**self._values, name: value}) != structure:
            raise ValueError(f"{name}={value!r} needs other state than this optimizer has: make a new one")
        return value

    def _structure(self, values: dict[str, Any]) -> tuple[Kernel, MatrixKernel | None, bool]:
        """What decides which state there is: the kernels, and whether the weights are averaged."""
        h = SimpleNamespace(**values)
        return self._choose_kernel(h), self._choose_matrix_kernel(h), values["ema"] != 0

    def at(self, t: int) -> At:
        """Every schedule evaluated at step `t`."""
        h = At(
            **self._values,
            **self.scalars,
            kernel=self.kernel,
            before=self.scalars,
            next=lambda name: self.value(name, t + 1),
        )
        for name in self._scheduled:
            setattr(h, name, self.value(name, t))
        return h

    def value(self, name: str, t: int) -> Any:
        """The hyperparameter at step `t`: its schedule's value, if it has one."""
        value = self._values[name]
        if not callable(value):
            return value
        number = value(t)
        if callable(number):
            raise TypeError(f"{name}({t}) must be a number, got {number!r}")
        return self._fields[name].checked(number, f"{name}({t})")
