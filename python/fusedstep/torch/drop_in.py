"""The rules that torch.optim has, with its names, arguments, defaults, state and checkpoints.

Each class says how torch's hyperparameters and state are called by the rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import update_rules
from .fused import Fused, number

rules = update_rules.rules

__all__ = [
    "ASGD",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Muon",
    "NAdam",
    "RAdam",
    "RMSprop",
    "Rprop",
]

MOMENTS = {"m": "exp_avg", "v": "exp_avg_sq"}


def common(group: dict[str, Any]) -> dict[str, Any]:
    """What is called alike by all; torch's decay is coupled unless it says otherwise."""
    decay = "weight_decay" if group.get("decoupled_weight_decay") else "l2"
    return {
        "lr": number(group["lr"]),
        decay: number(group.get("weight_decay", 0.0)),
        "maximize": group["maximize"],
    }


def adaptive(group: dict[str, Any]) -> dict[str, Any]:
    """The same, for the family of Adam."""
    beta1, beta2 = map(number, group["betas"])
    return {**common(group), "beta1": beta1, "beta2": beta2, "eps": group["eps"]}


def check_real(parameters: Iterable[Tensor]) -> None:
    """An error for complex parameters, as torch raises it."""
    if any(p.is_complex() for p in parameters):
        raise RuntimeError("complex parameters have no step of this rule")


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

    def steps_rows(self, h: Mapping[str, Any]) -> bool:
        return bool(h["momentum"] == 0 and h["l2"] == 0)


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
        if self.state_dtype is not None:  # torch's constructor has made the sums
            form = self._form()
            for p, state in self.state.items():
                state["sum"] = state["sum"].to(form.kept_as(p))

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "lr_decay": group["lr_decay"],
            "eps": group["eps"],
            "initial_accumulator": group["initial_accumulator_value"],
        }

    def steps_rows(self, h: Mapping[str, Any]) -> bool:
        return bool(h["l2"] == 0)


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


class Adam(Fused, torch.optim.Adam):
    """Adam: the rule `fusedstep.Adam`, called as `torch.optim.Adam`.

    ``m ← beta1·m + (1 - beta1)·g;  v ← beta2·v + (1 - beta2)·g²;
    p ← p - lr·(m / (1 - beta1ᵗ)) / (√(v / (1 - beta2ᵗ)) + eps)``; amsgrad: the largest v so far for v. State:
    step, exp_avg, exp_avg_sq, max_exp_avg_sq.

    Arguments and defaults: `torch.optim.Adam` (lr 0.001, betas (0.9, 0.999)), ``cautious=False`` as of
    `fusedstep.Adam`, and those of `Fused`.
    """

    rule = rules["Adam"]
    extras: ClassVar = {"cautious": False}
    state_names: ClassVar = {**MOMENTS, "vmax": "max_exp_avg_sq"}

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {**adaptive(group), "amsgrad": group["amsgrad"]}


class AdamW(Adam, torch.optim.AdamW):
    """AdamW: the rule `fusedstep.AdamW`, called as `torch.optim.AdamW`.

    ``p ← p·(1 - lr·weight_decay)``, then the step of `Adam`. State: as of `Adam`.

    Arguments and defaults: `torch.optim.AdamW` (lr 0.001, weight_decay 0.01), ``cautious=False`` as of
    `fusedstep.Adam`, and those of `Fused`.
    """

    rule = rules["AdamW"]


class Adafactor(Fused, torch.optim.Adafactor):
    """Adafactor: the rule `fusedstep.Adafactor`, called as `torch.optim.Adafactor`.

    Adaptive steps with the squares of matrices kept as row and column factors, see `fusedstep.Adafactor`.
    State: step; row_var and col_var, or variance.

    Arguments and defaults: `torch.optim.Adafactor` (lr 0.01), and those of `Fused`. DTensors are an error.
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
    """torch's Muon, but for the error that it raises, when all is made, for what is no matrix."""

    def __init__(self, params: Any, *arguments: Any, **options: Any) -> None:
        try:
            super().__init__(params, *arguments, **options)
        except ValueError as error:
            if "only supports 2D" not in str(error):
                raise


class Muon(Fused, OfAnyShape):
    """Muon: the rule `fusedstep.Muon`, called as `torch.optim.Muon`.

    Matrices step along their orthogonalized momentum; all other parameters, and those of groups with
    ``matrices=False``, as AdamW. torch iterates in bfloat16, this in float32 (float64 for float64), with
    NumPy's matrix products. State: step; momentum_buffer, or exp_avg and exp_avg_sq.

    Arguments and defaults: `torch.optim.Muon` (lr 0.001, weight_decay 0.1), ``matrices=True, beta1=0.9,
    beta2=0.999`` as of `fusedstep.Muon`, and those of `Fused`. DTensors are an error.
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


class NAdam(Fused, torch.optim.NAdam):
    """NAdam: the rule `fusedstep.NAdam`, called as `torch.optim.NAdam`.

    Adam whose momentum looks ahead, see `fusedstep.NAdam`. State: step, mu_product, exp_avg, exp_avg_sq.

    Arguments and defaults: `torch.optim.NAdam` (lr 0.002, momentum_decay 0.004), ``amsgrad=False`` as of
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


class ASGD(Fused, torch.optim.ASGD):
    """Averaged gradient descent: the rule `fusedstep.ASGD`, called as `torch.optim.ASGD`.

    ``p ← p·(1 - lambd·eta) - eta·g;  ax ← ax + mu·(p - ax)``, see `fusedstep.ASGD`. State: step, eta, mu, ax.

    Arguments and defaults: `torch.optim.ASGD` (lr 0.01), and those of `Fused`.
    """

    rule = rules["ASGD"]

    def make_state(self, parameters: Iterable[Tensor]) -> None:
        """Leave it to the first step, with whose lr eta begins."""

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        return {
            **common(group),
            "lambd": group["lambd"],
            "alpha": group["alpha"],
            "t0": group["t0"],
        }
