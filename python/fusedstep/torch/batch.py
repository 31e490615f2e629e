"""The parameters of a step that share a kernel and its coefficients, with their state in torch's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import _core, average
from ..hyperparameters import At
from ..kernel import Kernel
from ..optimizer import Optimizer
from ..plan import Row, row

State: TypeAlias = dict[str, Any]
"""What an optimizer keeps for a parameter."""

STEPS = "step"


@dataclass(frozen=True)
class Form:
    """How the state of a rule lies in ``state[p]``."""

    rule: type[Optimizer]
    names: Mapping[str, str]
    """The keys of slots and scalars that have not the rule's own names."""
    counted: bool
    """Whether steps are counted. If not, state that is there is of an earlier step."""
    state_dtype: torch.dtype | None
    steps_rows: Callable[[Mapping[str, Any]], bool]
    """Whether, with these hyperparameters, a sparse gradient leaves alone what it has no elements for."""

    def key(self, name: str) -> str:
        """The key of a slot or scalar."""
        return self.names.get(name, name)

    def kept_as(self, p: Tensor) -> torch.dtype:
        """What the state of `p` is kept as."""
        if self.state_dtype is None:
            return p.dtype
        return self.state_dtype.to_complex() if p.is_complex() else self.state_dtype


@dataclass(frozen=True)
class Batch:
    """Parameters whose step has one row of coefficients: what it depends on, and the tensors."""

    form: Form
    h: Mapping[str, Any]
    kernel: Kernel
    steps: int
    """Done before this one."""
    scalars: Mapping[str, float]
    parameters: list[Tensor]
    gradients: list[Tensor]
    state: Mapping[str, list[Tensor]]
    """For each key of the parameters' state their tensors."""

    @property
    def slots(self) -> list[list[Tensor]]:
        """The tensors of each state slot of the kernel."""
        return [self.state[self.form.key(slot)] for slot in self.kernel.slots]

    @property
    def averages(self) -> list[Tensor] | None:
        """The averages of the weights, if they are kept."""
        return self.state.get(average.SLOT)

    def row(self, loss: float | None, scale: float) -> tuple[Row, dict[str, float]]:
        """The coefficients, and the scalars after the step."""
        h = at(self.h, self.kernel, self.scalars)
        averaged = self.averages is not None
        return row(self.form.rule, h, self.steps + 1, loss=loss, scale=scale, averaged=averaged)

    def numbers_after(self, scalars: Mapping[str, float]) -> list[tuple[list[Tensor], float]]:
        """The tensors of one element that the step changes, and what to."""
        after = [(self.state[self.form.key(name)], value) for name, value in scalars.items()]
        return [*after, (self.state[STEPS], self.steps + 1)] if self.form.counted else after


def at(h: Mapping[str, Any], kernel: Kernel, scalars: Mapping[str, float]) -> At:
    """The hyperparameters and scalars as a rule takes them; torch does not know those of the next step."""
    return At(**h, **scalars, kernel=kernel, before=scalars, next=h.__getitem__)


def gather(
    plan: _core.TensorPlan,
    form: Form,
    h: Mapping[str, Any],
    parameters: list[Tensor],
    states: dict[Tensor, State],
) -> tuple[list[Batch], list[tuple[Tensor, State]]]:
    """The batches of those parameters that have a gradient, and the state that they lacked so far.

    `h` are the hyperparameters of all of them.
    """
    kernel = form.rule.choose_kernel(SimpleNamespace(**h))
    slots = [*kernel.slots, *([average.SLOT] if h["ema"] != 0 else [])]
    scalars = [*([STEPS] if form.counted else []), *form.rule.scalars]
    keys, number_keys = list(map(form.key, slots)), list(map(form.key, scalars))
    found = plan.gather(parameters, states, keys, number_keys)
    # The lists are read once: each reading makes new ones.
    parameters, gradients = found.parameters, found.gradients
    state = dict(zip((*keys, *number_keys), (*found.state, *found.numbers), strict=True))
    values, lacking = dict(zip(scalars, found.values, strict=True)), found.lacking
    if not parameters:
        return [], []

    new = []
    initial = form.rule.initial(h) if lacking else {}
    for i in lacking:
        p = parameters[i]
        complete = _completed(form, slots, initial, p, states.get(p, {}))
        new.append((p, complete))
        for key, column in state.items():
            column[i] = complete[key]
        for name in scalars:
            values[name][i] = float(complete[form.key(name)])
    if not form.counted:
        values[STEPS] = [1.0] * len(parameters)
        for i in lacking:
            values[STEPS][i] = 0.0

    def batch(numbers: dict[str, float], members: list[int] | None) -> Batch:
        def part(column: list[Any]) -> list[Any]:
            return column if members is None else [column[i] for i in members]

        steps = int(numbers.pop(STEPS))
        columns = {key: part(column) for key, column in state.items()}
        return Batch(form, h, kernel, steps, numbers, part(parameters), part(gradients), columns)

    if all(len(set(column)) == 1 for column in values.values()):
        return [batch({name: column[0] for name, column in values.items()}, None)], new
    alike: dict[tuple[float, ...], list[int]] = {}
    for i, numbers in enumerate(zip(*values.values(), strict=True)):
        alike.setdefault(numbers, []).append(i)
    return [
        batch(dict(zip(values, numbers, strict=True)), members) for numbers, members in alike.items()
    ], new


def _completed(
    form: Form, slots: Sequence[str], initial: Mapping[str, float], p: Tensor, state: State
) -> State:
    """The state of `p`, with what it lacks at the first value."""
    complete = dict(state)
    if form.counted and STEPS not in state:
        complete[STEPS] = torch.zeros((), dtype=torch.float32)
    for name, value in form.rule.scalars.items():
        complete.setdefault(form.key(name), torch.tensor(value, dtype=torch.float32))
    for slot in slots:
        if form.key(slot) not in state:
            complete[form.key(slot)] = _first(form, slot, initial, p)
    return complete


def _first(form: Form, slot: str, initial: Mapping[str, float], p: Tensor) -> Tensor:
    dtype = form.kept_as(p)
    if slot == average.SLOT:
        return p.detach().to(dtype, copy=True)
    value = initial.get(slot, 0.0)
    if p.is_complex():
        return torch.full_like(p, complex(value, value), dtype=dtype, requires_grad=False)
    return torch.full_like(p, value, dtype=dtype, requires_grad=False)
