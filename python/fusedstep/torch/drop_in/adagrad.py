"""Rules that divide by a root of squared gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ...update_rules import rules
from ..fused import Fused
from .common import common

__all__ = ["Adadelta", "Adagrad", "RMSprop"]


class Adagrad(Fused, torch.optim.Adagrad):
    """Adagrad: the rule `fusedstep.Adagrad`, called as `torch.optim.Adagrad`.

    ``s ← s + g²;  p ← p - lr/(1 + (t - 1)·lr_decay)·g / (√s + eps)``. State: step, sum. Without decay, sparse
    gradients are stepped row by row.

    Arguments and defaults: `torch.optim.Adagrad` (lr 0.01, eps 1e-10), and those of `Fused`.
    """

    rule = rules["Adagrad"]
    state_names: ClassVar = {"s": "sum"}

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(params, *arguments, **options)
        form = self._form()
        kept = {p: form.dtypes(p, self.rule.slots)["s"] for p in self.state}
        others = [p for p, dtype in kept.items() if self.state[p]["sum"].dtype != dtype]
        for p in others:  # torch's constructor has made the sums in the dtype of the parameter
            del self.state[p]["sum"]
        self.make_state(others)

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "lr_decay": group["lr_decay"],
            "eps": group["eps"],
            "initial_accumulator": group["initial_accumulator_value"],
        }

    @classmethod
    def steps_rows(cls, h: Mapping[str, Any]) -> bool:
        return bool(h["l2"] == 0)


class Adadelta(Fused, torch.optim.Adadelta):
    """Adadelta: the rule `fusedstep.Adadelta`, called as `torch.optim.Adadelta`.

    ``s ← rho·s + (1 - rho)·g²;  Δ = √(d + eps) / √(s + eps)·g;  d ← rho·d + (1 - rho)·Δ²;  p ← p - lr·Δ``.
    State: step, square_avg, acc_delta.

    Arguments and defaults: `torch.optim.Adadelta` (lr 1, rho 0.9, eps 1e-6), and those of `Fused`.
    """

    rule = rules["Adadelta"]
    state_names: ClassVar = {"s": "square_avg", "d": "acc_delta"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**common(group), "rho": group["rho"], "eps": group["eps"]}


class RMSprop(Fused, torch.optim.RMSprop):
    """RMSprop: the rule `fusedstep.RMSProp`, called as `torch.optim.RMSprop`.

    ``s ← alpha·s + (1 - alpha)·g²;  p ← p - lr·g / (√s + eps)``; centered: ``√(s - a²)`` with a, the mean
    of g; momentum: ``b ← momentum·b + g / (√s + eps);  p ← p - lr·b``. State: step, square_avg, grad_avg,
    momentum_buffer.

    Arguments and defaults: `torch.optim.RMSprop` (lr 0.01, alpha 0.99), and those of `Fused`.
    """

    rule = rules["RMSProp"]
    state_names: ClassVar = {"s": "square_avg", "a": "grad_avg", "b": "momentum_buffer"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "rho": group["alpha"],
            "eps": group["eps"],
            "momentum": group["momentum"],
            "centered": group["centered"],
        }
