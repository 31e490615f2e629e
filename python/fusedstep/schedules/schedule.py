"""The base of all schedules: functions of the step that can be checked, printed, multiplied and drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from inspect import get_annotations
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeAlias, cast, get_args, get_origin

from ..extras import imported
from ..formula.hyperparameters import (
    COUNT,
    COUNT_OR_0,
    NONNEGATIVE,
    PORTION,
    PROPER_FRACTION,
    REAL,
    Interval,
    checked_number,
    is_fixed,
)
from ..stateful import Loading, Loads, Stateful, collect, states

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..formula.hyperparameters import Scheduled

Part: TypeAlias = Callable[[int], float]
"""A schedule, or any other function of the step t = 1, 2, …"""

Value = Annotated[float, REAL]
Count = Annotated[int, COUNT]
CountOr0 = Annotated[int, COUNT_OR_0]
Counts = Annotated[tuple[int, ...], COUNT]
Size = Annotated[float, NONNEGATIVE]
Fraction = Annotated[float, PORTION]
ProperFraction = Annotated[float, PROPER_FRACTION]


class Schedule(Loads):
    """A hyperparameter as a function of the step t = 1, 2, …: the first step gets ``schedule(1)``.

    The fields `steps`, `every` and `after` count steps of the optimizer; to count epochs, multiply by the
    steps of an epoch, or see `PerEpoch`. A schedule prints as the call that makes it. Schedules that depend
    on the step alone are equal if their fields are. A part of a schedule is any callable of t. ``a * b`` is
    the product of two schedules, or of one with a number or any other callable.

    Constructors raise TypeError or ValueError, naming the field, for an invalid number or callable.
    """

    def __post_init__(self) -> None:
        numbers = number_fields(type(self))
        for field in fields(self):  # type: ignore[arg-type]  # every schedule is a dataclass
            value = getattr(self, field.name, None)
            if field.init and field.name in numbers and value is not field.default:
                number = numbers[field.name].checked(self._label(field.name), value)
                object.__setattr__(self, field.name, number)

    def __call__(self, t: int) -> float:
        """The value at step `t`."""
        raise NotImplementedError

    @property
    def is_fixed(self) -> bool:
        """Whether the value depends on the step alone, so that a step may ask for those of later ones.

        So it is for the schedules of this package, unless they or their parts observe something. Any other
        callable may have an attribute ``is_fixed = True`` that says so; a subclass has to say it for itself.
        """
        of_this_package = type(self).__module__.rpartition(".")[0] == __package__
        return of_this_package and all(map(is_fixed, filter(callable, self._values().values())))

    def from_zero(self, t: int) -> float:
        """The value for callers that count steps from 0: torch's LambdaLR, or optax."""
        return self(t + 1)

    def __mul__(self, other: Scheduled) -> Chained:
        return Chained((self, as_part(other)))

    def __rmul__(self, other: Scheduled) -> Chained:
        return Chained((as_part(other), self))

    def plot(self, steps: int, axes: Axes | None = None) -> Axes:
        """Draw the values of steps 1 to `steps`, in `axes` or a new figure (``axes.figure``).

        Needs matplotlib: ``pip install "fusedstep[control]"``.
        """
        if axes is None:
            figure = imported("matplotlib.figure", "control").Figure(figsize=(6, 3), layout="constrained")
            axes = cast("Axes", figure.add_subplot(xlabel="step"))
        axes.plot(range(1, steps + 1), [self(t) for t in range(1, steps + 1)], label=repr(self))
        return axes

    def state_dict(self) -> dict[str, Any]:
        """The state of its parts, such as a `Plateau`; empty for functions of the step alone."""
        return states(self._stateful())

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        collect(f"state of {type(self).__name__}", self._stateful(), state_dict, loading)

    def _label(self, name: str) -> str:
        return f"{name} of {type(self).__name__}"

    def _stateful(self) -> dict[str, Stateful]:
        """The parts that have a state, by the field's name and their position in the field."""
        return {
            name: part
            for name, part in self._values().items()
            if isinstance(part, Stateful) and part.state_dict()
        }

    def _values(self) -> dict[str, Any]:
        """The values of the fields, of a tuple each, by the field's name and their position in the field."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]  # every schedule is a dataclass
        return {
            f"{name}.{i}": part
            for name, value in values.items()
            for i, part in enumerate(value if isinstance(value, tuple) else (value,))
        }


class Number(NamedTuple):
    """The values that a field may have: one number, several, or also None."""

    kind: type
    interval: Interval
    several: bool
    optional: bool

    def checked(self, label: str, value: Any) -> Any:
        """`value` as a number of this kind, or a tuple of them."""
        if self.several:
            if not isinstance(value, Iterable):
                raise TypeError(f"{label} must be a sequence of numbers, got {value!r}")
            return tuple(self.kind(checked_number(label, item, self.interval)) for item in value)
        if value is None and self.optional:
            return None
        return self.kind(checked_number(label, value, self.interval))


def number_fields(schedule: type) -> dict[str, Number]:
    """The fields of a schedule that are numbers."""
    found = {}
    for cls in reversed(schedule.__mro__):
        for name, hint in get_annotations(cls, eval_str=True).items():
            if metadata := getattr(hint, "__metadata__", ()):
                kinds = get_args(hint.__origin__) or (hint.__origin__,)
                found[name] = Number(
                    kinds[0],
                    metadata[-1],
                    several=get_origin(hint.__origin__) is tuple,
                    optional=NoneType in kinds,
                )
    return found


@dataclass(frozen=True)
class Constant(Schedule):
    """The same value at each step."""

    value: Value

    def __call__(self, t: int) -> float:
        return self.value


@dataclass(frozen=True)
class Chained(Schedule):
    """The product of its parts: what ``a * b`` makes, and what torch calls ChainedScheduler."""

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", checked_parts(self, self.parts))

    def __call__(self, t: int) -> float:
        product = 1.0
        for part in self.parts:
            product *= part(t)
        return product


def as_part(value: Scheduled) -> Part:
    """`value` as a part of a schedule."""
    return value if callable(value) else Constant(value)


def checked_parts(schedule: Schedule, parts: Any) -> tuple[Part, ...]:
    """Return `parts` as a tuple; raise an error if one of them cannot be called, or there is none."""
    if not isinstance(parts, Iterable):
        raise TypeError(f"parts of {type(schedule).__name__} must be a sequence, got {parts!r}")
    found = tuple(parts)
    if not found:
        raise ValueError(f"{type(schedule).__name__} needs at least one part")
    for part in found:
        checked_part(schedule, part)
    return found


def checked_part(schedule: Schedule, part: Any) -> None:
    """Raise TypeError if `part` cannot be called."""
    if not callable(part):
        raise TypeError(f"a part of {type(schedule).__name__} must be a function of the step, got {part!r}")
