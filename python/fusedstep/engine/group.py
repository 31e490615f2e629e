"""Groups of parameters that share hyperparameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from .._core import Changes
from ..closed import Closed
from ..formula.hyperparameters import Hyperparameter
from ..formula.kernel import Kernel
from ..formula.rule import Rule


class Group(Closed, Mapping[str, Any]):
    """Parameters that share hyperparameters. ``group["lr"]`` reads one, ``group["lr"] = 3e-4`` sets it."""

    kernel: Kernel
    averaged: bool
    """Whether an average of the weights is kept."""
    scalars: dict[str, float]
    """The state that is one number for the group."""

    def __init__(self, rule: type[Rule], params: Any, values: dict[str, Any]) -> None:
        self._rule = rule
        self._params = params
        self._fields: dict[str, Hyperparameter] = rule._fields
        unknown = [name for name in values if name not in self._fields]
        if unknown:
            raise TypeError(f"no hyperparameter {unknown[0]!r}; there are {', '.join(self._fields)}")
        self._values = {
            name: field.checked(values.get(name, field.default)) for name, field in self._fields.items()
        }
        self._scheduled = dict.fromkeys(name for name, value in self._values.items() if callable(value))
        """The names of those that have ever been schedules. Names are only added, and before the schedules
        are, so that a step in another thread does not take a schedule for a number."""
        self.scalars = dict(rule.scalars)
        self.kernel, self._matrix_kernel, self.averaged = self._structure(self._values)

    def __getitem__(self, name: str) -> Any:
        return self._params if name == "params" else self._values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        changes = Changes()
        self.collect_set({name: value}, changes)
        changes.write()

    def collect_set(self, values: Mapping[str, Any], changes: Changes) -> None:
        """Check new values of hyperparameters, and add them to the changes."""
        new = {name: self.check(name, value) for name, value in values.items()}
        changes.update(self._scheduled, {name: None for name, value in new.items() if callable(value)})
        changes.update(self._values, new)

    def __iter__(self) -> Iterator[str]:
        return iter(("params", *self._values))

    def __len__(self) -> int:
        return 1 + len(self._values)

    def __repr__(self) -> str:
        return f"Group({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    __eq__ = object.__eq__  # that of Mapping would compare arrays
    __hash__ = object.__hash__

    def _no_attribute(self, name: str) -> str:
        return f"a group has no attribute {name!r}: set hyperparameters as in group['lr'] = 3e-4"

    def kernel_of(self, p: np.ndarray[Any, Any]) -> Kernel:
        """Return the kernel that steps parameter `p`."""
        of_matrices = self._matrix_kernel
        return of_matrices if of_matrices and of_matrices.fits(p.ndim) else self.kernel

    @property
    def scheduled(self) -> bool:
        """Whether a hyperparameter has ever been a schedule."""
        return bool(self._scheduled)

    @property
    def entries(self) -> dict[str, Any]:
        """The dictionary that holds the hyperparameters: always the same one, to look at."""
        return self._values

    def hyperparameters(self) -> Iterable[tuple[str, Any]]:
        """The names and values of the hyperparameters, without ``"params"``."""
        return self._values.items()

    def check(self, name: str, value: Any) -> Any:
        """Return what setting `name` to `value` would store; raise an error if it cannot be set."""
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

    def _structure(self, values: dict[str, Any]) -> tuple[Kernel, Kernel | None, bool]:
        """Return what determines the slots: the kernels, and whether the weights are averaged."""
        h = SimpleNamespace(**values)
        return self._rule.choose_kernel(h), self._rule.choose_matrix_kernel(h), values["ema"] != 0

    def at(self, t: int) -> dict[str, Any]:
        """Return the hyperparameters (schedules evaluated) and scalars at step `t`, as fields for `At`."""
        values = {
            **self._values,
            **self.scalars,
            "kernel": self.kernel,
            "sweep": self.kernel.sweeps[-1],
            "before": self.scalars,
            "next": {},
        }
        for name in list(self._scheduled):
            values[name] = self.value(name, t)
        for name in self._rule.looks_ahead:
            values["next"][name] = self.value(name, t + 1)
        return values

    def value(self, name: str, t: int) -> Any:
        """Return the hyperparameter at step `t`: the value of its schedule, if it has one."""
        value = self._values[name]
        if not callable(value):
            return value
        number = value(t)
        if callable(number):
            raise TypeError(f"{name}({t}) must be a number, got {number!r}")
        return self._fields[name].checked(number, f"{name}({t})")
