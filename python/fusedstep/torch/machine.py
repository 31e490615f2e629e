"""What an optimizer of torch's tensors keeps between its steps, besides its state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .._core import Busy
from ..engine.step import AHEAD, forecast, is_foreseeable
from ..formula.kernel import Kernel
from .batch import Batch, Group
from .distributed import is_distributed
from .form import Form, State
from .labels import labels_of
from .lending import Loan
from .plan import TorchPlan
from .settings import Settings

GroupsOf: TypeAlias = list[tuple[dict[str, Any], list[Tensor]]]
"""Groups in torch's form, each with those of its parameters that are to be stepped."""

SettingsOf: TypeAlias = Callable[[dict[str, Any]], Settings]


class Machine:
    """The lock, the plan and what the last step has found; it is neither copied nor pickled."""

    def __init__(self) -> None:
        self.plan = TorchPlan()
        self.busy = Busy()
        self.changes = self.busy.changes
        self.form: Form | None = None
        self._room: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        """The tensors in which the directions of matrices are computed."""
        self._groups: list[Group] = []
        self._loan: Loan | None = None
        """The tensors of the last step, if the next one may take them again."""

    def taken_again(self, groups: GroupsOf, settings_of: SettingsOf) -> Loan | None:
        """The tensors that the plan has taken again, if they are to be stepped alike; else None.

        The plan then has their coefficients too, if these depend on the hyperparameters and on t alone: also
        those of steps to come, if no hyperparameter is new. Where a scheduler sets one at each step, they
        would not be used.
        """
        loan = self._loan
        if loan is None:
            return None
        batches = loan.batches
        scalars, changed = self.plan.found_again()
        foreseeable = all(map(is_foreseeable, batches))
        for k in changed:
            if not batches[k].group.follows(settings_of(groups[k][0])):
                return None
            foreseeable &= self.plan.remember_entries(k, groups[k][0])
        for k, (batch, own) in enumerate(zip(batches, scalars, strict=False)):
            batch.begin(own)
            if foreseeable:
                self._forecast(k, batch, settled=not changed)
        return loan

    def _forecast(self, k: int, batch: Batch, *, settled: bool) -> None:
        t, counted = batch.t, batch.group.form.counted
        steps = AHEAD if counted and settled else 1
        self.plan.forecast(k, t if counted else 0, forecast(batch, steps))
        batch.t = t

    def taken(
        self,
        groups: GroupsOf,
        states: dict[Tensor, State],
        settings_of: SettingsOf,
        form: Form,
        all_groups: Sequence[dict[str, Any]],
    ) -> Loan | None:
        """The tensors of the parameters that have a gradient, with their state; None if there are none.

        `all_groups` are those of the optimizer, by which errors name the parameters.
        """
        self._loan = None
        batches: list[Batch] = []
        k = 0
        for entries, parameters in groups:
            settings = settings_of(entries)
            for kernel, alike in settings.by_kernel(parameters):
                if kernel.turns:
                    _check_whole(alike, all_groups)
                group = self._group(k, form, kernel, settings.averaged)
                batches += group.look(settings.h, alike, states, self._room)
                k += 1
        if not batches:
            return None
        loan = Loan(batches, partial(labels_of, all_groups))
        loan.take(self.plan)
        if len(batches) == len(groups) and loan.is_plain:
            self.plan.remember([batch.found for batch in batches], form.counted, form.shared)
            for k, (entries, _) in enumerate(groups):
                self.plan.remember_entries(k, entries)
            self._loan = loan
        return loan

    def _group(self, k: int, form: Form, kernel: Kernel, averaged: bool) -> Group:
        """The k-th group of a step. It knows what that of the last step has found, if that was alike."""
        if k < len(self._groups):
            group = self._groups[k]
            if group.form is form and group.kernel is kernel and group.averaged == averaged:
                return group
            del self._groups[k:]
        group = Group(self.plan, form, kernel, averaged)
        self._groups.append(group)
        return group

    def release(self) -> None:
        """Let the tensors of a step go that has not come to its end."""
        self.plan.release()
        for group in self._groups:
            group.release()


def _check_whole(parameters: Iterable[Tensor], groups: Sequence[dict[str, Any]]) -> None:
    """Raise RuntimeError if a direction would be computed from a part of a matrix."""
    for p in parameters:
        if p.grad is not None and is_distributed(p):
            raise RuntimeError(f"{labels_of(groups)[p]} is a DTensor; this rule needs whole matrices")
