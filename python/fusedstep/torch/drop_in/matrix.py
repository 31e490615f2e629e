"""Rules whose direction is computed from a whole matrix."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...update_rules import rules
from ..arguments import number
from ..fused import Fused
from .common import MOMENTS, check_real

__all__ = ["Adafactor", "Muon"]


class Adafactor(Fused, torch.optim.Adafactor):
    """Adafactor: the rule `fusedstep.Adafactor`, called as `torch.optim.Adafactor`.

    Adaptive steps with the squares of matrices kept as row and column factors, see `fusedstep.Adafactor`.
    State: step; row_var and col_var, or variance.

    Arguments and defaults: `torch.optim.Adafactor` (lr 0.01), and those of `Fused`. DTensors raise
    RuntimeError.
    """

    rule = rules["Adafactor"]
    state_names: ClassVar = {"v": "variance"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        eps1, eps2 = group["eps"]
        dtypes = {p.dtype for p in group["params"]} or {torch.float32}
        if eps1 is None and len(dtypes) > 1:
            raise TypeError("parameters of one group differ in dtype, and so would eps: give them groups")
        return {
            "lr": number(group["lr"]),
            "weight_decay": number(group["weight_decay"]),
            "maximize": group["maximize"],
            "beta2_decay": group["beta2_decay"],
            "eps1": torch.finfo(dtypes.pop()).eps if eps1 is None else eps1,
            "eps2": eps2,
            "d": group["d"],
        }

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_real(group["params"])
        self.hyperparameters(group)


class OfAnyShape(torch.optim.Muon):
    """torch's Muon without the error that its constructor raises at the end for other shapes."""

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(params, *arguments, **options)
        except ValueError as error:
            if "only supports 2D" not in str(error):
                raise


class Muon(Fused, OfAnyShape):
    """Muon: the rule `fusedstep.Muon`, called as `torch.optim.Muon`.

    Matrices step along their orthogonalized momentum; all other parameters, and those of groups with
    ``matrices=False``, step as in AdamW. torch iterates in bfloat16; this class iterates in float32 (float64
    for float64), with NumPy's matrix products. State: step; momentum_buffer, or exp_avg and exp_avg_sq.

    Arguments and defaults: `torch.optim.Muon` (lr 0.001, weight_decay 0.1), ``matrices=True, beta1=0.9,
    beta2=0.999`` as in `fusedstep.Muon`, and those of `Fused`. DTensors raise RuntimeError.
    """

    rule = rules["Muon"]
    extras: ClassVar = {"matrices": True, "beta1": 0.9, "beta2": 0.999}
    state_names: ClassVar = {**MOMENTS, "buf": "momentum_buffer"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        a, b, c = group["ns_coefficients"]
        return {
            "lr": number(group["lr"]),
            "weight_decay": number(group["weight_decay"]),
            "momentum": group["momentum"],
            "nesterov": group["nesterov"],
            "ns_a": a,
            "ns_b": b,
            "ns_c": c,
            "ns_eps": group["eps"],
            "ns_steps": group["ns_steps"],
            "match_rms": group["adjust_lr_fn"] == "match_rms_adamw",
        }

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_real(group["params"])
