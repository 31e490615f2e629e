"""The parameters of a step that share a kernel and its coefficients, with their state in torch's form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from .. import _core, average
from ..hyperparameters import At
from ..kernel import Array, Kernel, MatrixKernel
from ..optimizer import Optimizer
from ..plan import Adapted, Measured, Row, adapted, row
from .distributed import totals

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
        """The keys of what is one number for a parameter: the count of its steps, scalars and numbers."""
        return [*([STEPS] if self.counted else []), *map(self.key, (*self.rule.scalars, *self.rule.numbers))]

    @property
    def shared(self) -> int:
        """How many of them, the first ones, are alike in parameters that share coefficients."""
        return self.counted + len(self.rule.scalars)

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
    """All parameters of the group with this kernel that have a gradient."""
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

    def at(self) -> At:
        """Hyperparameters and scalars at this step."""
        return At(**self.h, **self.scalars, kernel=self.kernel, before=self.scalars, next=self.h.__getitem__)

    def row(self, h: At, loss: float | None, scale: float) -> tuple[Row, dict[str, float]]:
        """The coefficients, and the scalars after the step."""
        return row(self.form.rule, h, self.steps + 1, loss=loss, scale=scale, averaged=self.averaged)

    def adapted(self, h: At, owners: Sequence[Tensor], sums: Array) -> Adapted:
        """What parameters have of their own; `owners` are the parameters themselves."""
        sizes = np.array(self.found.sizes(self.members), np.float64)
        sizes, *of_all = totals(owners, np.column_stack([sizes, sums])).T
        shared = self.form.shared
        numbers = {
            name: np.array(self.found.values(shared + k, self.members))
            for k, name in enumerate(self.form.rule.numbers)
        }
        return adapted(self.form.rule, h, self.steps + 1, Measured(sizes, of_all, numbers))

    def advance(self, scalars: Mapping[str, float]) -> None:
        """Count the step, and set the scalars that it has led to."""
        count = [self.steps + 1.0] if self.form.counted else []
        for k, value in enumerate([*count, *scalars.values()]):
            self.found.fill(k, self.members, value)

    def assign(self, numbers: Mapping[str, Array]) -> None:
        """Set the numbers that parameters have of their own."""
        for k, name in enumerate(self.form.rule.numbers):
            self.found.assign(self.form.shared + k, self.members, numbers[name].tolist())


def gather(
    plan: _core.TensorPlan,
    form: Form,
    h: Mapping[str, Any],
    kernel: Kernel,
    parameters: list[Tensor],
    states: dict[Tensor, State],
    room: MutableMapping[Tensor, Tensor],
) -> tuple[list[Batch], list[tuple[Tensor, State]]]:
    """The batches of those parameters that have a gradient, and the state that they lacked so far.

    `h` are the hyperparameters of all of them, `kernel` is the update, `room` is for directions.
    """
    averaged = bool(h["ema"] != 0)
    extra = [average.SLOT] if averaged else []
    known = states
    keys, number_keys = [form.key(slot) for slot in (*kernel.slots, *extra)], form.number_keys
    if isinstance(kernel, MatrixKernel):
        states = {p: _with_direction(form, kernel, p, states.get(p, {}), room) for p in parameters}
    found = _core.Gathered(plan, parameters, states, keys, number_keys, averaged)
    new = []
    if lacking := found.lacking():
        all_parameters = found.parameters()
        for i in lacking:
            p = all_parameters[i]
            state = completed(form, h, p, known.get(p, {}))
            whole = {**states.get(p, {}), **state}
            found.complete(i, [whole[key] for key in keys], [whole[key] for key in number_keys])
            new.append((p, state))
    alike = found.alike(form.shared) if form.counted else _by_novelty(len(found), lacking)
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
    for name, value in {**form.rule.scalars, **form.rule.numbers}.items():
        complete.setdefault(form.key(name), torch.tensor(value, dtype=form.scalar_dtype))
    kernel = kernel_of(form.rule, h, p)
    for slot in (*kernel.state, average.SLOT) if h["ema"] != 0 else kernel.state:
        if form.key(slot) not in state:
            copied = slot in (average.SLOT, *form.rule.copies)
            complete[form.key(slot)] = (
                p.detach().to(form.kept_as(p), copy=True)
                if copied
                else _filled(p, initial.get(slot, 0.0), form.kept_as(p))
            )
    if isinstance(kernel, MatrixKernel):
        for name, shape in kernel.factors(tuple(p.shape)).items():
            complete.setdefault(form.key(name), p.new_zeros(shape, dtype=form.kept_as(p)))
    return complete


def by_kernel(
    rule: type[Optimizer], h: Mapping[str, Any], parameters: list[Tensor]
) -> list[tuple[Kernel, list[Tensor]]]:
    """The parameters that share an update; most rules have one for all."""
    chosen = SimpleNamespace(**h)
    kernel, of_matrices = rule.choose_kernel(chosen), rule.choose_matrix_kernel(chosen)
    if of_matrices is None:
        return [(kernel, parameters)]
    matrices = [p for p in parameters if of_matrices.takes(p.ndim)]
    others = [p for p in parameters if not of_matrices.takes(p.ndim)]
    return [(of_matrices, matrices), (kernel, others)]


def kernel_of(rule: type[Optimizer], h: Mapping[str, Any], p: Tensor) -> Kernel:
    """The update of a parameter."""
    ((kernel, _),) = [pair for pair in by_kernel(rule, h, [p]) if pair[1]]
    return kernel


def _with_direction(
    form: Form, kernel: Kernel, p: Tensor, state: State, room: MutableMapping[Tensor, Tensor]
) -> State:
    """The state, and room for the direction, which is no state."""
    kept = [state[form.key(slot)] for slot in kernel.state if form.key(slot) in state]
    dtype = kept[0].dtype if kept else form.kept_as(p)
    o = room.get(p)
    if o is None or o.dtype != dtype or o.shape != p.shape or o.stride() != p.stride():
        room[p] = o = torch.empty_like(p, dtype=dtype, requires_grad=False)
    return {**state, kernel.slots[-1]: o}


def _filled(p: Tensor, value: float, dtype: torch.dtype) -> Tensor:
    fill = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, fill, dtype=dtype, requires_grad=False)
