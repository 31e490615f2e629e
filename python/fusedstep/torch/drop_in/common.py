"""Hyperparameters that classes of torch.optim have in common, under the rules' names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ..arguments import number

MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}


def common(group: dict[str, Any]) -> dict[str, Any]:
    """The hyperparameters of all classes; torch's decay is coupled unless the group says otherwise."""
    decay = "weight_decay" if group.get("decoupled_weight_decay") else "l2"
    return {
        "lr": number(group["lr"]),
        decay: number(group.get("weight_decay", 0.0)),
        "maximize": group["maximize"],
    }


def adaptive(group: dict[str, Any]) -> dict[str, Any]:
    """The same for the family of Adam."""
    beta1, beta2 = map(number, group["betas"])
    return {**common(group), "beta1": beta1, "beta2": beta2, "eps": group["eps"]}


def check_real(parameters: Iterable[Tensor]) -> None:
    """Raise RuntimeError for complex parameters, as torch does."""
    if any(p.is_complex() for p in parameters):
        raise RuntimeError("complex parameters have no step of this rule")
