"""Schedules of hyperparameters: functions of the step t = 1, 2, …, or of how training goes.

Give one to any hyperparameter, ``fs.AdamW(params, lr=schedules.Cosine(1e-3, steps=10_000))``, or to torch,
``LambdaLR(optimizer, schedule.from_zero)`` with an optimizer whose lr is 1.
"""

from __future__ import annotations

from .compose import PerEpoch, Sequential, Warmup, WarmupStableDecay
from .cycles import CosineRestarts, OneCycle
from .decay import (
    Cosine,
    Exponential,
    InverseTime,
    Linear,
    MultiStep,
    Piecewise,
    PiecewiseLinear,
    Polynomial,
    Step,
    momentum_steps,
)
from .feedback import EveAnnealing, Feedback, Plateau
from .schedule import Chained, Constant, Schedule

__all__ = [
    "Chained",
    "Constant",
    "Cosine",
    "CosineRestarts",
    "EveAnnealing",
    "Exponential",
    "Feedback",
    "InverseTime",
    "Linear",
    "MultiStep",
    "OneCycle",
    "PerEpoch",
    "Piecewise",
    "PiecewiseLinear",
    "Plateau",
    "Polynomial",
    "Schedule",
    "Sequential",
    "Step",
    "Warmup",
    "WarmupStableDecay",
    "momentum_steps",
]
