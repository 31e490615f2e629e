"""The one order of a step, for NumPy's arrays, rows of tables and torch's tensors alike.

1. The norm of all gradients, if clipping or skipping asks for it.
2. The coefficients of each share: hyperparameters at this step, the rule's scalars, the prologue.
3. Directions, where a kernel has two sweeps: the first one fills them, NumPy turns whole matrices.
4. What the rule measures of its tensors, and the coefficients that follow from it.
5. `commit`: small state takes its new values. Everything that can fail comes before.
6. `run`: the pass over memory that moves the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from ..formula import average
from ..formula.at import At
from ..formula.coefficients import Adapted, Measured, StepCoefficients
from ..formula.kernel import Arithmetic, Array, Kernel
from ..formula.rule import Rule
from .options import StepOptions

Turned = list[tuple[Any, dict[str, Array]]]
"""Tensors with the new values of their slots that are smaller than they are."""


class Plan(Protocol):
    """The tensors of a step: where their memory is, and the passes over it, share by share."""

    arithmetic: ClassVar[Arithmetic]

    @property
    def sweeps(self) -> int:
        """How many passes a step makes over the tensors at the most; what has fewer has the last ones."""

    def norm(self) -> tuple[float, bool]:
        """The 2-norm of the gradients, and whether all their elements are finite."""

    def measure(
        self, sweep: int, coefficients: Sequence[StepCoefficients | None], /
    ) -> Sequence[tuple[Sequence[int], Array]]:
        """For each share the positions of the tensors that are measured, and the sums over each of them."""

    def run(
        self, sweep: int, coefficients: Sequence[StepCoefficients | None], zero_gradients: bool, /
    ) -> None:
        """Do one sweep; the last one ends the step."""


class Share(Protocol):
    """Tensors that have their coefficients in common at a step."""

    rule: type[Rule]
    kernel: Kernel
    averaged: bool
    """Whether an average of the weights is kept."""
    t: int
    """The number of this step."""

    def at(self) -> At:
        """The hyperparameters at this step, and the scalars before it."""

    def turn(self, arithmetic: Arithmetic, h: At) -> Turned:
        """Make directions of what the first sweep left in their room."""

    def measured(self, positions: Sequence[int], sums: Array) -> Measured:
        """What the coefficients of the measured tensors depend on."""

    def keep(self, work: Work) -> None:
        """Give the small state its new values."""


class Work:
    """What a step does to a share: its coefficients, and what its small state will be."""

    __slots__ = (
        "average",
        "h",
        "own",
        "positions",
        "prologue",
        "rule",
        "scalars",
        "share",
        "tensors",
        "turned",
    )

    def __init__(self, share: Share, scale: float, clip_value: float, loss: float | None) -> None:
        rule, h = share.rule, share.at()
        self.share = share
        self.h = h
        self.scalars = rule.advance(h, share.t, loss)
        vars(h).update(self.scalars)
        takes = rule.takes
        decay = 0.0 if "weight_decay" in takes else h.weight_decay
        self.prologue = {
            "scale": -scale if h.maximize else scale,
            "clip": clip_value,
            "keep": 1 - h.lr * decay,
            "l2": 0.0 if "l2" in takes else h.l2,
            "l1": 0.0 if "l1" in takes else h.l1,
        }
        self.rule = rule.coefficients(h, share.t)
        self.average = average.coefficients(h.ema) if share.averaged else None
        self.own: dict[str, Array] | None = None
        self.positions: Sequence[int] = ()
        self.tensors: dict[str, Array] = {}
        """The numbers of the tensors at `positions`, after the step."""
        self.turned: Turned = []

    def of_last_sweep(self) -> StepCoefficients:
        """The coefficients of the sweep that moves the parameters."""
        return self.prologue, self.rule, self.average, self.own

    def of_sweep_before(self, back: int) -> StepCoefficients | None:
        """Those of the sweep so many before the last, in which nothing decays; None if there is none."""
        sweeps = self.share.kernel.sweeps
        if back >= len(sweeps):
            return None
        h = At({**vars(self.h), "sweep": sweeps[-1 - back]})
        rule = self.share.rule.coefficients(h, self.share.t)
        return {**self.prologue, "keep": 1.0}, rule, None, None

    def adapt(self, positions: Sequence[int], sums: Array) -> None:
        """Take the sums over the share's tensors, and have the rule make coefficients of them."""
        measured = self.share.measured(positions, sums)
        with np.errstate(all="ignore"):
            found: Adapted = self.share.rule.adapt(self.h, self.share.t, measured)
        self.own = found.own
        self.positions, self.tensors = positions, dict(found.numbers)
        self.scalars |= found.scalars


class Step:
    """A step of all shares. Up to `commit` it may fail, and nothing that anyone sees has been written."""

    def __init__(self, plan: Plan, options: StepOptions) -> None:
        """Take the norm; with it, `skipped` says whether the step shall not be done."""
        self._plan = plan
        self._options = options
        self.norm, self.skipped = options.look(plan)

    def prepare(self, shares: Sequence[Share], loss: float | None) -> None:
        """Find out everything that the last sweep needs, and what small state will be after the step."""
        plan, options = self._plan, self._options
        scale = options.scale_at(self.norm)
        self._works = works = [Work(share, scale, options.clip_value, loss) for share in shares]
        self._last = last = plan.sweeps - 1
        for sweep in range(last):
            plan.run(sweep, [work.of_sweep_before(last - sweep) for work in works], False)
            for work in works:
                if work.share.kernel.turns:
                    work.turned = work.share.turn(plan.arithmetic, work.h)
        for work in works:
            if work.share.kernel.measures:
                self._measure()
                break

    def _measure(self) -> None:
        found = self._plan.measure(self._last, [work.of_last_sweep() for work in self._works])
        for work, (positions, sums) in zip(self._works, found, strict=True):
            if len(positions):
                work.adapt(positions, sums)

    def commit(self) -> None:
        """Keep the small state. From here on nothing fails."""
        for work in self._works:
            work.share.keep(work)

    def run(self) -> None:
        """Do the last sweep, and set the gradients to 0 if that is asked for."""
        coefficients = [work.of_last_sweep() for work in self._works]
        self._plan.run(self._last, coefficients, self._options.zero_grad)
