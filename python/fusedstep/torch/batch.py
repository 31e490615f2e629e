"""The parameters of a step that share a kernel and its coefficients, with their state in torch's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

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


class Form(NamedTuple):
    """How the state of a rule lies in ``state[p]``."""

    rule: type[Optimizer]
    names: Mapping[str, str]
    """The keys of slots and scalars that have not the rule's own names."""
    counted: bool
    """Whether steps are counted. If not, state that is there is of an earlier step."""
    scalar_dtype: torch.dtype
    state_dtype: torch.dtype | None
    steps_rows: Callable[[Mapping[str, Any]], bool]
    """Whether, with these hyperparameters, a sparse gradient leaves alone what it has no elements for."""

    def key(self, name: str) -> str:
        """The key of a slot or scalar."""
        return self.names.get(name, name)

    @property
    def number_keys(self) -> list[str]:
        """The keys of what is one number for a parameter: the count of its steps, and the scalars."""
        return [*([STEPS] if self.counted else []), *map(self.key, self.rule.scalars)]

    def kept_as(self, p: Tensor) -> torch.dtype:
        """What the state of `p` is kept as."""
        if self.state_dtype is None:
            return p.dtype
        return self.state_dtype.to_complex() if p.is_complex() else self.state_dtype


class Batch(NamedTuple):
    """Parameters whose step has one row of coefficients, with what these depend on."""

    form: Form
    h: Mapping[str, Any]
    kernel: Kernel
    steps: int
    """Done before this one."""
    scalars: Mapping[str, float]
    found: _core.Gathered
    """All parameters of the group that have a gradient."""
    members: list[int] | None
    """Which of them; None: all."""

    @property
    def slots(self) -> int:
        """How many tensors of state a parameter has, the average of its weights included."""
        return len(self.kernel.slots) + self.averaged

    @property
    def averaged(self) -> bool:
        """Whether the weights are averaged."""
        return bool(self.h["ema"] != 0)

    def row(self, loss: float | None, scale: float) -> tuple[Row, dict[str, float]]:
        """The coefficients, and the scalars after the step."""
        h = At(**self.h, **self.scalars, kernel=self.kernel, before=self.scalars, next=self.h.__getitem__)
        return row(self.form.rule, h, self.steps + 1, loss=loss, scale=scale, averaged=self.averaged)

    def advance(self, scalars: Mapping[str, float]) -> None:
        """Count the step, and set the scalars that it has led to."""
        count = [self.steps + 1.0] if self.form.counted else []
        for k, value in enumerate([*count, *scalars.values()]):
            self.found.fill(k, self.members, value)


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
    kernel, averaged = form.rule.choose_kernel(SimpleNamespace(**h)), bool(h["ema"] != 0)
    keys, number_keys = list(map(form.key, _slots(kernel, averaged))), form.number_keys
    found = _core.Gathered(plan, parameters, states, keys, number_keys, averaged)
    new = []
    if lacking := found.lacking():
        all_parameters = found.parameters()
        for i in lacking:
            p = all_parameters[i]
            state = completed(form, h, p, states.get(p, {}))
            found.complete(i, [state[key] for key in keys], [state[key] for key in number_keys])
            new.append((p, state))
    alike = found.alike() if form.counted else _by_novelty(len(found), lacking)
    batches = [
        Batch(form, h, kernel, int(steps), dict(zip(form.rule.scalars, scalars, strict=True)), found, members)
        for (steps, *scalars), members in alike
    ]
    return batches, new


def _by_novelty(size: int, new: list[int]) -> list[tuple[list[float], list[int] | None]]:
    """Parameters whose steps are not counted: those that begin, and those that go on."""
    old = sorted(set(range(size)).difference(new))
    return [([steps], members) for steps, members in ((0.0, new), (1.0, old)) if members]


def completed(form: Form, h: Mapping[str, Any], p: Tensor, state: State) -> State:
    """The state of `p`, with what it lacks at the first value."""
    complete, initial = dict(state), form.rule.initial(h)
    if form.counted and STEPS not in state:
        complete[STEPS] = torch.zeros((), dtype=torch.float32)
    for name, value in form.rule.scalars.items():
        complete.setdefault(form.key(name), torch.tensor(value, dtype=form.scalar_dtype))
    kernel = form.rule.choose_kernel(SimpleNamespace(**h))
    for slot in _slots(kernel, bool(h["ema"] != 0)):
        if form.key(slot) not in state:
            complete[form.key(slot)] = _first(form, slot, initial, p)
    return complete


def _slots(kernel: Kernel, averaged: bool) -> list[str]:
    return [*kernel.slots, average.SLOT] if averaged else list(kernel.slots)


def _first(form: Form, slot: str, initial: Mapping[str, float], p: Tensor) -> Tensor:
    dtype = form.kept_as(p)
    if slot == average.SLOT:
        return p.detach().to(dtype, copy=True)
    value = initial.get(slot, 0.0)
    if p.is_complex():
        return torch.full_like(p, complex(value, value), dtype=dtype, requires_grad=False)
    return torch.full_like(p, value, dtype=dtype, requires_grad=False)
