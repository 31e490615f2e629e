"""Gradient descent and momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...update_rules import rules
from ..fused import Fused
from .common import common

__all__ = ["ASGD", "SGD"]


class SGD(Fused, torch.optim.SGD):
    """Gradient descent, with momentum if asked for: the rule `fusedstep.SGDM`, called as `torch.optim.SGD`.

    ``buf ← momentum·buf + (1 - dampening)·g`` (at the first step ``buf ← g``); ``p ← p - lr·buf``, or with
    nesterov ``p ← p - lr·(g + momentum·buf)``. State: momentum_buffer; none with momentum 0. Without momentum
    and decay, sparse gradients are stepped row by row.

    Arguments and defaults: `torch.optim.SGD` (lr 0.001, momentum 0), and those of `Fused`.
    """

    rule = rules["SGDM"]
    state_names: ClassVar = {"buf": "momentum_buffer"}
    counted = False

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "momentum": group["momentum"],
            "dampening": group["dampening"],
            "nesterov": group["nesterov"],
        }

    @classmethod
    def steps_rows(cls, h: Mapping[str, Any]) -> bool:
        return bool(h["momentum"] == 0 and h["l2"] == 0)


class ASGD(Fused, torch.optim.ASGD):
    """Averaged gradient descent: the rule `fusedstep.ASGD`, called as `torch.optim.ASGD`.

    ``p ← p·(1 - lambd·eta) - eta·g;  ax ← ax + mu·(p - ax)``, see `fusedstep.ASGD`. State: step, eta, mu, ax.

    Arguments and defaults: `torch.optim.ASGD` (lr 0.01), and those of `Fused`.
    """

    rule = rules["ASGD"]

    def make_state(self, parameters: Iterable[Tensor]) -> None:
        """Leave the state to the first step, whose lr is the first eta."""

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "lambd": group["lambd"],
            "alpha": group["alpha"],
            "t0": group["t0"],
        }
