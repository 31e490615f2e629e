"""Adam and its variants."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...update_rules import rules
from ..fused import Fused
from .common import MOMENTS, adaptive

__all__ = ["Adam", "AdamW", "Adamax", "NAdam", "RAdam"]


class Adam(Fused, torch.optim.Adam):
    """Adam: the rule `fusedstep.Adam`, called as `torch.optim.Adam`.

    ``m ← beta1·m + (1 - beta1)·g;  v ← beta2·v + (1 - beta2)·g²; p ← p - lr·(m / (1 - beta1ᵗ)) / (√(v / (1 -
    beta2ᵗ)) + eps)``; amsgrad: the largest v so far in place of v. State: step, exp_avg, exp_avg_sq,
    max_exp_avg_sq.

    Arguments and defaults: `torch.optim.Adam` (lr 0.001, betas (0.9, 0.999)), ``cautious=False`` as in
    `fusedstep.Adam`, and those of `Fused`.
    """

    rule = rules["Adam"]
    extras: ClassVar = {"cautious": False}
    state_names: ClassVar = {**MOMENTS, "vmax": "max_exp_avg_sq"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**adaptive(group), "amsgrad": group["amsgrad"]}


class AdamW(Adam, torch.optim.AdamW):
    """AdamW: the rule `fusedstep.AdamW`, called as `torch.optim.AdamW`.

    ``p ← p·(1 - lr·weight_decay)``, then the step of `Adam`. State: as in `Adam`.

    Arguments and defaults: `torch.optim.AdamW` (lr 0.001, weight_decay 0.01), ``cautious=False`` as in
    `fusedstep.Adam`, and those of `Fused`.
    """

    rule = rules["AdamW"]


class Adamax(Fused, torch.optim.Adamax):
    """Adamax: the rule `fusedstep.Adamax`, called as `torch.optim.Adamax`.

    ``m ← beta1·m + (1 - beta1)·g;  u ← max(beta2·u, |g| + eps);  p ← p - lr/(1 - beta1ᵗ)·m/u``. State: step,
    exp_avg, exp_inf.

    Arguments and defaults: `torch.optim.Adamax` (lr 0.002), and those of `Fused`.
    """

    rule = rules["Adamax"]
    state_names: ClassVar = {"m": "exp_avg", "u": "exp_inf"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return adaptive(group)


class NAdam(Fused, torch.optim.NAdam):
    """NAdam: the rule `fusedstep.NAdam`, called as `torch.optim.NAdam`.

    Adam whose momentum looks ahead, see `fusedstep.NAdam`. State: step, mu_product, exp_avg, exp_avg_sq.

    Arguments and defaults: `torch.optim.NAdam` (lr 0.002, momentum_decay 0.004), ``amsgrad=False`` as in
    `fusedstep.NAdam`, and those of `Fused`.
    """

    rule = rules["NAdam"]
    extras: ClassVar = {"amsgrad": False}
    state_names: ClassVar = {**MOMENTS, "vmax": "max_exp_avg_sq"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**adaptive(group), "momentum_decay": group["momentum_decay"]}


class RAdam(Fused, torch.optim.RAdam):
    """RAdam: the rule `fusedstep.RAdam`, called as `torch.optim.RAdam`.

    Adam that begins as momentum, see `fusedstep.RAdam`. State: step, exp_avg, exp_avg_sq.

    Arguments and defaults: `torch.optim.RAdam` (lr 0.001), and those of `Fused`.
    """

    rule = rules["RAdam"]
    state_names: ClassVar = MOMENTS

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return adaptive(group)
