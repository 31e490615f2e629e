"""The base of every rule: the options that all of them have."""

from __future__ import annotations

from dataclasses import InitVar
from typing import TYPE_CHECKING, Literal

import numpy.typing as npt

from ..arrays.structure import Params
from ..formula.hyperparameters import Decay, Nonnegative
from .engine import Engine, positional


class Optimizer(Engine):
    """The base of every rule, with the options that all of them have.

    Before the rule, the gradient becomes ``g = ±scale·g + l2·p + l1·sign(p)`` (coupled decay; minus with
    `maximize`) and the parameter ``p = p·(1 - lr·weight_decay)`` (decoupled decay).

    `params` is an array, a sequence or mapping of arrays, or a list of groups, each a mapping with
    ``"params"`` and the hyperparameters that differ for it. The arrays are updated in place; they are of any
    shape and float32, float64, float16, or bfloat16 (of the package ml_dtypes). float64 is computed in
    float64 and goes with nothing else. The others are computed in float32, and what is kept in 16 bits is
    rounded once, to nearest even, when it is stored; parameters and gradients may differ in them. State has
    the dtype of its parameter, or `state_dtype`: its name or the dtype. ``backend="numpy"`` runs the rule's
    formula in NumPy; both backends give the same bits.

    lr: at least 0, default 0.001. l1, l2, weight_decay: at least 0, default 0. maximize: default False.
    ema: in [0, 1), default 0; otherwise the state has another slot of this name, which starts at p and after
    each step becomes ``ema·(average) + (1 - ema)·p``, an exponential average of the weights as they are
    kept. Every hyperparameter can be changed between steps, and every number may be a callable of the step
    t = 1, 2, … instead, except those that a rule calls fixed.

    Each rule says how many bytes its state takes for a float32 parameter, with its defaults.

    Raises TypeError or ValueError, naming the tensor or hyperparameter, for what cannot be optimized.
    """

    if TYPE_CHECKING:  # the arguments that are no hyperparameters
        params: InitVar[Params] = positional(kw_only=False)
        backend: Literal["native", "numpy"] = "native"
        state_dtype: npt.DTypeLike | None = None

    lr: Nonnegative = 1e-3
    l1: Nonnegative = 0.0
    l2: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0
    maximize: bool = False
    ema: Decay = 0.0
