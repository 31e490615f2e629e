"""The shares of torch's tensors: parameters of a group with the same kernel and the same count of steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import _core
from .._core import Changes
from ..engine.step import Turned, Work
from ..formula.at import At
from ..formula.coefficients import Measured
from ..formula.kernel import Arithmetic, Array, Kernel
from ..formula.slots import AVERAGE
from .distributed import totals
from .form import Form, State
from .memory import copy_into
from .settings import Settings

Members = list[int] | None
"""Positions among the parameters that were looked up together; None means all."""

Alike = tuple[list[float], Members]
"""The count of steps, and the scalars of a rule, that these parameters have in common."""

LATER = 2
"""The number of any step but the first, for rules that do not count further."""


class Group:
    """The parameters of a group that have a gradient and the same kernel, with their state.

    It is kept from step to step; each step looks all of them up again.
    """

    def __init__(self, plan: _core.TorchPlan, form: Form, kernel: Kernel, averaged: bool) -> None:
        self.form = form
        self.kernel = kernel
        self.averaged = averaged
        self.h: Mapping[str, Any] = {}
        self.new: dict[Tensor, State] = {}
        """The state of parameters that lacked some; the optimizer adopts it once the step cannot fail."""
        self._known: dict[Tensor, State] = {}
        self._keys = [form.key(slot) for slot in kernel.operands] + ([AVERAGE] if averaged else [])
        self.found = _core.TorchParameters(plan, kernel.names, self._keys, form.scalar_keys, averaged)

    def look(
        self,
        h: Mapping[str, Any],
        parameters: list[Tensor],
        states: dict[Tensor, State],
        room: MutableMapping[Tensor, Tensor],
    ) -> list[Batch]:
        """Look up the parameters, and divide them by all that their coefficients depend on.

        `h` are their hyperparameters, `room` holds the tensors for directions.
        """
        self.h = h
        self.new = {}
        self._known = seen = states
        if self.kernel.turns:
            seen = {p: _with_room(self.form, self.kernel, p, states.get(p, {}), room) for p in parameters}
        alike = self.found.look(parameters, seen, self.form.shared)
        if alike is None:
            lacking = self.found.lacking()
            self._complete(lacking, seen)
            alike = self.found.alike(self.form.shared) if self.form.counted else self._by_novelty(lacking)
        return [Batch(self, scalars, members) for scalars, members in alike]

    def _complete(self, lacking: Sequence[int], seen: Mapping[Tensor, State]) -> None:
        """Make the state that some parameters lack."""
        found = self.found.parameters()
        for i in lacking:
            p = found[i]
            self.new[p] = state = self.form.completed(self.h, self.kernel, p, self._known.get(p, {}))
            whole = {**seen.get(p, {}), **state}
            scalars = [whole[key] for key in self.form.scalar_keys]
            self.found.complete(i, [whole[key] for key in self._keys], scalars)

    def follows(self, settings: Settings) -> bool:
        """Take other hyperparameters; return False, and take none, if they choose another kernel or state."""
        if settings.of_matrices or settings.kernel is not self.kernel or settings.averaged != self.averaged:
            return False
        self.h = settings.h
        return True

    def release(self) -> None:
        """Let the tensors of a step go that has not come to its end."""
        self.new = {}
        self.found.release()

    def state(self, p: Tensor) -> State:
        """The state of a parameter, including the state that this step adds."""
        return self.new.get(p) or self._known.get(p, {})

    def _by_novelty(self, new: Sequence[int]) -> list[Alike]:
        """Parameters whose steps are not counted, divided into those at their first step and all others."""
        old = sorted(set(range(len(self.found))).difference(new))
        divided: list[Alike] = [([0.0], [*new]), ([], old)]
        return [(steps, members) for steps, members in divided if members]


class Batch:
    """Parameters that share their coefficients at a step."""

    owners: Callable[[], list[Tensor]]
    """The parameters themselves, even if other tensors are stepped in their place; set where the step's
    coefficients depend on them."""

    t: int

    def __init__(self, group: Group, scalars: Sequence[float], members: Members) -> None:
        """Take what `begin` takes, and the positions of the parameters in the group."""
        self.group = group
        self.rule = group.form.rule
        self.kernel = group.kernel
        self.averaged = group.averaged
        self.found = group.found
        self.members = members
        self._scalars: dict[str, float] = {}
        self.begin(scalars)

    def begin(self, scalars: Sequence[float]) -> None:
        """Begin another step of the same parameters: the first of `scalars` are the count and the scalars.

        Where steps are not counted, an empty list stands for a step that is not the first.
        """
        self._begun = scalars
        self.t = int(scalars[0]) + 1 if scalars else LATER
        if names := self.rule.scalars:
            self._scalars = dict(zip(names, scalars[1:], strict=False))

    @property
    def slots(self) -> int:
        """The number of state tensors of a parameter, including the average of its weights."""
        return len(self.kernel.operands) + self.averaged

    @property
    def steps_rows(self) -> bool:
        """Whether a sparse gradient steps only the rows that it has."""
        return self.group.form.steps_rows(self.group.h)

    @property
    def small_keys(self) -> list[str]:
        """The keys of state that has a number for each row or column."""
        return [self.group.form.key(name) for name in self.kernel.small]

    def part(self, members: Members) -> Batch:
        """A batch of some of the parameters."""
        return Batch(self.group, self._begun, members)

    def at(self) -> At:
        h, kernel, scalars = self.group.h, self.kernel, self._scalars
        also = {"kernel": kernel, "sweep": kernel.sweeps[-1], "before": scalars, "next": h}
        return At({**h, **scalars, **also})

    def advance(self) -> None:
        self.t += 1

    @torch.no_grad()
    def turn(self, arithmetic: Arithmetic, h: At) -> Turned:
        turned: Turned = []
        kernel, form = self.kernel, self.group.form
        directions = self.found.state(kernel.operands.index(kernel.room), self.members)
        for p, o in zip(self.owners(), directions, strict=True):
            state = self.group.state(p)
            small = {name: state[form.key(name)] for name in kernel.small}
            for name, tensor in small.items():
                shape = kernel.slots[name].shape(tuple(o.shape))
                if tuple(tensor.shape) != shape:
                    raise ValueError(f"state {name!r} has shape {tuple(tensor.shape)}, here {shape}")
            dtype = kept_direction(form, kernel, p, state)
            o.copy_(o.to(dtype))  # rounded to its dtype, even if the plan has a wider copy
            wide = _wide(o)
            arrays = {name: _wide(tensor).numpy() for name, tensor in small.items()}
            after = kernel.turn(arithmetic, h, self.t, **{kernel.room: wide.numpy()}, **arrays)
            o.copy_(wide.to(dtype))
            turned.append((state, after))
        return turned

    def measured(self, positions: Sequence[int], sums: Array) -> Measured:
        sizes = np.array(self.found.sizes(self.members), np.float64)
        sizes, *of_all = totals(self.owners(), np.column_stack([sizes, sums])).T
        shared = self.group.form.shared
        numbers = {
            name: np.array(self.found.values(shared + k, self.members))
            for k, name in enumerate(self.rule.numbers)
        }
        return Measured(sizes, of_all, numbers)

    def collect(self, work: Work, changes: Changes) -> None:
        form, found, members = self.group.form, self.found, self.members
        if form.counted:
            found.fill(changes, 0, members, float(self.t))
        for k, name in enumerate(self.rule.scalars, start=form.counted):
            if name in work.scalars:
                found.fill(changes, k, members, work.scalars[name])
        for k, name in enumerate(self.rule.numbers, start=form.shared):
            if name in work.tensors:
                found.assign(changes, k, members, work.tensors[name].tolist())
        for state, slots in work.turned:
            for name, value in slots.items():
                tensor = state[form.key(name)]
                copy_into(changes, tensor, torch.from_numpy(value).to(tensor.dtype))


def kept_direction(form: Form, kernel: Kernel, p: Tensor, state: State) -> torch.dtype:
    """The dtype that a direction is rounded to: that of the rest of the state."""
    kept = [state[form.key(slot)] for slot in kernel.operands if form.key(slot) in state]
    dtype: torch.dtype = kept[0].dtype if kept else form.dtypes(p, kernel.slots)[kernel.room]
    return dtype


def _with_room(
    form: Form, kernel: Kernel, p: Tensor, state: State, room: MutableMapping[Tensor, Tensor]
) -> State:
    """The state, with a tensor added for the direction, which is not state itself."""
    dtype = kept_direction(form, kernel, p, state)
    o = room.get(p)
    if o is None or o.dtype != dtype or o.shape != p.shape or o.stride() != p.stride():
        room[p] = o = torch.empty_like(p, dtype=dtype, requires_grad=False)
    return {**state, kernel.room: o}


def _wide(tensor: Tensor) -> Tensor:
    """A tensor in a dtype that NumPy has."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
