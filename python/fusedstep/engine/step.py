"""The order of a step, which is the same for NumPy arrays, rows of tables and torch tensors.

1. `Step` is made: it finds the norm of all gradients, if clipping or skipping needs it.
2. `prepare` computes the coefficients of each share, from the hyperparameters at this step, the rule's
   scalars and the options.
3. Where a kernel has two sweeps, `prepare` runs the first, and NumPy turns its results into directions.
4. Where a rule measures its tensors, `prepare` has them summed, and the rule makes coefficients of the sums.
5. `collect` says what else changes: the small state, which is one number for a group, a tensor, a row or a
   column.
6. `run` does the last sweep, the pass over memory that moves the parameters, and writes these changes. It is
   one call into C++: whatever fails has failed before, and an interrupt comes before it or after it.

`Plan` has the memory of all tensors, `Share` has the tensors that one kernel steps, `Work` has what a step
computes for a share, and `Step` goes through the order above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar, Protocol

import numpy as np

from .._core import Changes
from ..formula import average
from ..formula.at import At
from ..formula.coefficients import Adapted, Measured, StepCoefficients
from ..formula.kernel import Arithmetic, Array, Kernel
from ..formula.rule import Rule
from .options import DONE, StepOptions

Turned = list[tuple[Any, dict[str, Array]]]
"""For each turned tensor, the new values of those of its slots that are smaller than the tensor."""


class Plan(Protocol):
    """The tensors of a step: it knows their memory, and makes the passes over it, share by share."""

    arithmetic: ClassVar[Arithmetic]

    @property
    def sweeps(self) -> int:
        """The largest number of sweeps of any kernel; a kernel with fewer takes part in the last ones."""

    def norm(self) -> tuple[float, bool]:
        """Return the 2-norm of the gradients, and whether all their elements are finite."""

    def measure(
        self, sweep: int, coefficients: Sequence[StepCoefficients | None], /
    ) -> Sequence[tuple[Sequence[int], Array]]:
        """Return for each share the positions of its measured tensors, and the sums over each of them."""

    def run(
        self,
        sweep: int,
        coefficients: Sequence[StepCoefficients | None],
        zero_gradients: bool,
        changes: Changes | None = None,
        /,
    ) -> None:
        """Do one sweep; the last one ends the step, and writes the changes with what it does."""

    def release(self) -> None:
        """Forget the gradients of a step."""


class Share(Protocol):
    """Tensors that one kernel steps with the same coefficients, except those that depend on measured sums."""

    rule: type[Rule]
    kernel: Kernel
    averaged: bool
    """Whether an average of the weights is kept."""
    t: int
    """The number of this step."""

    def at(self) -> At:
        """Return the hyperparameters at this step, and the scalars before it."""

    def turn(self, arithmetic: Arithmetic, h: At) -> Turned:
        """Turn what the first sweep left in each tensor's room into a direction."""

    def measured(self, positions: Sequence[int], sums: Array) -> Measured:
        """Collect what the coefficients of the measured tensors depend on: sizes, sums and state."""

    def collect(self, work: Work, changes: Changes) -> None:
        """Add the new values of the small state, which `work` has, to the changes."""


class Work:
    """The results of a step for one share: the coefficients, and the new values of the small state."""

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
        if self.scalars:
            vars(h).update(self.scalars)
        # The prologue leaves out those of weight_decay, l2 and l1 that the rule itself applies.
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
        """The state that is one number for each tensor at `positions`, after the step."""
        self.turned: Turned = []

    def of_last_sweep(self) -> StepCoefficients:
        """Return the coefficients of the last sweep, which moves the parameters."""
        return self.prologue, self.rule, self.average, self.own

    def of_sweep_before(self, back: int) -> StepCoefficients | None:
        """Return the coefficients, if any, of the sweep `back` before the last; no weight decays in it."""
        sweeps = self.share.kernel.sweeps
        if back >= len(sweeps):
            return None
        h = At({**vars(self.h), "sweep": sweeps[-1 - back]})
        rule = self.share.rule.coefficients(h, self.share.t)
        return {**self.prologue, "keep": 1.0}, rule, None, None

    def adapt(self, positions: Sequence[int], sums: Array) -> None:
        """Take the sums over the share's tensors; the rule makes coefficients and new state of them."""
        measured = self.share.measured(positions, sums)
        with np.errstate(all="ignore"):
            found: Adapted = self.share.rule.adapt(self.h, self.share.t, measured)
        self.own = found.own
        self.positions, self.tensors = positions, dict(found.numbers)
        self.scalars |= found.scalars


class Step:
    """A step of all shares. It may fail until `run`, and has then changed nothing that a user can see."""

    __slots__ = ("_last", "_options", "_plan", "_works", "result")

    def __init__(self, plan: Plan, options: StepOptions) -> None:
        """Find the norm, if needed, and whether the step is skipped; a skipped step ends here."""
        self._plan = plan
        self._options = options
        needs_norm = options.skip_nonfinite or options.clip_norm is not None
        self.result = options.result(plan) if needs_norm else DONE

    def prepare(self, shares: Sequence[Share], loss: float | None) -> None:
        """Compute everything that the last sweep needs, and the new values of the small state.

        Raise ValueError if a coefficient is no number, such as a power that is too large.
        """
        options, norm = self._options, self.result.grad_norm
        scale = options.scale if norm is None else options.scale_at(norm)
        try:
            self._works = works = [Work(share, scale, options.clip_value, loss) for share in shares]
        except ArithmeticError as error:
            raise ValueError(f"these hyperparameters give no finite step: {error}") from error
        self._last = self._plan.sweeps - 1
        if self._last:
            self._turn()
        # One measuring pass over all shares, if the kernel of any share needs sums.
        for work in works:
            if work.share.kernel.measures:
                self._measure()
                break

    def _turn(self) -> None:
        """Do the sweeps before the last, and the turns after them, for kernels that need directions."""
        plan, last = self._plan, self._last
        for sweep in range(last):
            plan.run(sweep, [work.of_sweep_before(last - sweep) for work in self._works], False)
            for work in self._works:
                if work.share.kernel.turns:
                    work.turned = work.share.turn(plan.arithmetic, work.h)

    def _measure(self) -> None:
        found = self._plan.measure(self._last, [work.of_last_sweep() for work in self._works])
        for work, (positions, sums) in zip(self._works, found, strict=True):
            if len(positions):
                work.adapt(positions, sums)

    def run(self, changes: Changes) -> None:
        """Do the last sweep, and write the new small state and the given changes with it.

        The sweep moves the parameters and, with `zero_grad`, sets the gradients to 0.
        """
        for work in self._works:
            work.share.collect(work, changes)
        self._move([work.of_last_sweep() for work in self._works], changes)

    def _move(self, coefficients: Sequence[StepCoefficients], changes: Changes) -> None:
        self._plan.run(self._last, coefficients, self._options.zero_grad, changes)


AHEAD = 32
"""The number of steps whose coefficients are computed at once."""


class Advancing(Share, Protocol):
    """A share that can look at steps to come."""

    def advance(self) -> None:
        """Go on to the next step, with the hyperparameters that it will have if none is set."""


def is_foreseeable(share: Share) -> bool:
    """Whether a share's coefficients depend on t alone, as long as its hyperparameters and schedules stay."""
    rule, kernel = share.rule, share.kernel
    return not (rule.scalars or rule.needs_loss or kernel.measures or kernel.turns)


def forecast(share: Advancing, steps: int) -> list[StepCoefficients]:
    """Return the coefficients of a share's step and those after it, for gradients as they come.

    There are fewer where some cannot be computed; the share has gone on by as many steps.
    """
    found: list[StepCoefficients] = []
    with suppress(Exception):  # which that step itself will raise
        while len(found) < steps:
            found.append(Work(share, 1.0, math.inf, None).of_last_sweep())
            share.advance()
    return found
