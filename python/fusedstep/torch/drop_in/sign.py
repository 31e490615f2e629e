"""Rules that use only the sign of the gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ...update_rules import rules
from ..fused import Fused
from .common import common

__all__ = ["Rprop"]


class Rprop(Fused, torch.optim.Rprop):
    """Rprop: the rule `fusedstep.Rprop`, called as `torch.optim.Rprop`.

    A step size for each parameter, which grows while its gradient keeps its sign, see `fusedstep.Rprop`.
    State: step, prev, step_size.

    Arguments and defaults: `torch.optim.Rprop` (lr 0.01, etas (0.5, 1.2), step_sizes (1e-6, 50)), and those
    of `Fused`.
    """

    rule = rules["Rprop"]
    state_names: ClassVar = {"step": "step_size"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        minus, plus = group["etas"]
        least, most = group["step_sizes"]
        return {
            **common(group),
            "eta_minus": minus,
            "eta_plus": plus,
            "step_min": least,
            "step_max": most,
        }
