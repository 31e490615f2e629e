"""Rules that replace a schedule by an average. Counterpart of cpp/kernels/rules/schedule_free.hpp."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from .._core import Changes
from ..arrays.memory import check_writeable, set_in
from ..arrays.storage import arithmetic
from ..engine.optimizer import Optimizer
from ..formula import Array, At, Coefficients, Decay, Mixture, Nonnegative, Slot, kernel, power, term

__all__ = ["ScheduleFreeAdamW", "ScheduleFreeSGD"]


class ScheduleFree(Optimizer):
    """The base of the schedule-free rules: the average, and the switch between training and evaluation.

    While training, the parameter is y, the point at which gradients are computed. `eval` changes it to x, the
    average, which is the trained model; `train` changes it back to y. Both are exact up to rounding, and do
    nothing if the parameter is already there. A new optimizer is in training mode.

    warmup_steps: number of steps during which lr grows in proportion to t, default 0. r, weight_lr_power: the
    weight of step t in the average is ``tʳ·(largest lr so far)^weight_lr_power``, default 0 and 2. Raises
    RuntimeError for a step in evaluation mode.
    """

    warmup_steps: Nonnegative = 0.0
    r: Nonnegative = 0.0
    weight_lr_power: Nonnegative = 2.0
    slots: ClassVar = {
        "weight_sum": Slot(of="group"),
        "lr_max": Slot(of="group"),
        "evaluating": Slot(of="group"),
    }
    takes: ClassVar = ("weight_decay",)

    mixture: ClassVar[str]
    """The hyperparameter β of ``y = (1 - β)·z + β·x``."""

    def train(self) -> None:
        """Change the parameters to y, to continue with steps."""
        self.busy.run(self._turn, False)

    def eval(self) -> None:
        """Change the parameters to x, the average, to evaluate or save them."""
        self.busy.run(self._turn, True)

    def _turn(self, evaluating: bool) -> None:
        self.tensors.check_unchanged()
        changes = Changes()
        i = 0
        for group, leaves in zip(self.groups, self.structure.leaves, strict=True):
            for p in leaves:
                if group.scalars["evaluating"] != evaluating:
                    check_writeable(self.tensors.names[i], p)
                    weight = to_z(group[self.mixture], evaluating)
                    set_in(changes, p, _between(p, self.tensors.slots[i]["z"], weight))
                i += 1
            changes.update(group.scalars, {"evaluating": float(evaluating)})
        changes.write()

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        if h.evaluating:
            raise RuntimeError("the parameters are the average: train() before the next step()")
        lr_max = max(h.lr_max, _warmed_up(h, t))
        weight = _weight(h, t, lr_max)
        return {"weight_sum": h.weight_sum + weight, "lr_max": lr_max, "evaluating": 0.0}

    @classmethod
    def averaging(cls, h: At, t: int) -> dict[str, float]:
        """The coefficients that move y and z along the direction of step t."""
        lr, weight = _warmed_up(h, t), _weight(h, t, h.lr_max)
        c = weight / h.weight_sum if h.weight_sum > 0 else 0.0
        ahead = lr * (1 - getattr(h, cls.mixture) * (1 - c))
        return {"decay": h.weight_decay, "c": c, "ahead": ahead, "lr": lr}


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-Free SGD. Defazio et al. 2024, arXiv:2405.15682, eq. 3-5.

    With ``u = g + weight_decay·y`` at ``y = (1 - momentum)·z + momentum·x``: ``z ← z - lr·u; x ← (1 - c)·x +
    c·z``, where c is the weight of step t over the sum of all weights. The parameter is y, or x after `eval`.
    State, 4 bytes: z; also the sum, the largest lr and the mode, one number per group each. For runs whose
    number of steps is not known beforehand: at any time, x is as good as after a schedule that ends then.

    lr: step size, default 1. momentum: β, in (0, 1), default 0.9, fixed. weight_decay: default 0, applied as
    above. Further options and errors: see `ScheduleFree` and `Optimizer`.
    """

    lr: Nonnegative = 1.0
    momentum: Mixture = 0.9
    weight_decay: Nonnegative = 0.0
    slots: ClassVar = {**ScheduleFree.slots, "z": Slot(start="p")}
    mixture: ClassVar = "momentum"

    @kernel("ScheduleFreeSGD")
    @staticmethod
    def update(c: Coefficients, y: Array, g: Array, z: Array) -> None:
        direction = g + c.decay * y
        y[...] = y + c.c * (z - y) - c.ahead * direction
        z[...] = z - c.lr * direction

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return cls.averaging(h, t)


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-Free AdamW. Defazio et al. 2024, arXiv:2405.15682, Algorithm 1.

    ``v ← beta2·v + (1 - beta2)·g²``, and with ``u = g / (√(v / (1 - beta2ᵗ)) + eps) + weight_decay·y`` at ``y
    = (1 - beta1)·z + beta1·x``: ``z ← z - lr·u;  x ← (1 - c)·x + c·z``, where c is the weight of step t over
    the sum of all weights. The parameter is y, or x after `eval`. State, 8 bytes: z and v; also the sum, the
    largest lr and the mode, one number per group each. Like `ScheduleFreeSGD`, in place of AdamW.

    lr: step size, default 0.0025. beta1: β, in (0, 1), default 0.9, fixed. beta2: in [0, 1), default 0.999.
    eps: default 1e-8. weight_decay: default 0, applied as above. Further options and errors: see
    `ScheduleFree` and `Optimizer`.
    """

    lr: Nonnegative = 0.0025
    beta1: Mixture = 0.9
    beta2: Decay = 0.999
    eps: Nonnegative = 1e-8
    weight_decay: Nonnegative = 0.0
    slots: ClassVar = {**ScheduleFree.slots, "z": Slot(start="p"), "v": Slot(squares=True)}
    mixture: ClassVar = "beta1"

    @kernel("ScheduleFreeAdamW")
    @staticmethod
    def update(c: Coefficients, y: Array, g: Array, z: Array, v: Array) -> None:
        v[...] = term(c.beta2, v) + c.gain2 * (g * g)
        direction = g / (np.sqrt(v) * c.root + c.eps) + c.decay * y
        y[...] = y + c.c * (z - y) - c.ahead * direction
        z[...] = z - c.lr * direction

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        root = 1 / math.sqrt(1 - power(h.beta2, t))
        return {"beta2": h.beta2, "gain2": 1 - h.beta2, "root": root, "eps": h.eps} | cls.averaging(h, t)


def to_z(beta: float, evaluating: bool) -> float:
    """The weight of z in the move to the other point: y to x if evaluating, else x to y."""
    return 1 - 1 / beta if evaluating else 1 - beta


def _between(p: Array, z: Array, weight: float) -> Array:
    """The point between p and z that is nearer to z the larger the weight, in the type of the arithmetic."""
    dtype = arithmetic(p.dtype)
    with np.errstate(all="ignore"):
        point = p.astype(dtype)
        found: Array = point + dtype.type(weight) * (z.astype(dtype) - point)
    return found


def _warmed_up(h: At, t: int) -> float:
    return float(h.lr * t / h.warmup_steps if t <= h.warmup_steps else h.lr)


def _weight(h: At, t: int, lr_max: float) -> float:
    weight = power(t, h.r) * power(lr_max, h.weight_lr_power)
    if not math.isfinite(weight):
        raise OverflowError(f"the weight of step {t} in the average is too large")
    return weight
