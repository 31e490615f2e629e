"""The base of every rule: the options that all of them have."""

from __future__ import annotations

from dataclasses import InitVar
from typing import TYPE_CHECKING, Literal

import numpy.typing as npt

from ..arrays.structure import Params
from ..formula.hyperparameters import Decay, Nonnegative
from .declaring import positional
from .engine import Engine


class Optimizer(Engine):
    """The base of every rule, with the options that all of them have.

    Before the rule is applied, the gradient becomes ``g = ±scale·g + l2·p + l1·sign(p)`` (coupled decay; the
    sign is minus with `maximize`), and the parameter ``p = p·(1 - lr·weight_decay)`` (decoupled decay).

    `params` is an array, a sequence or mapping of arrays, or a list of groups, each a mapping with
    ``"params"`` and the hyperparameters that differ for it. The arrays are updated in place. They have any
    shape, and the dtype float32, float64, float16, or bfloat16 (of the package ml_dtypes). A step computes
    float64 arrays in float64, and combines them with no other dtype. It computes the others in float32, and
    rounds what is kept in 16 bits once, to nearest even, when it stores it; among these, parameters and
    gradients may have different dtypes. ``backend="numpy"`` runs the rule's formula in NumPy; both backends
    give the same bits.

    State has the dtype of its parameter, or `state_dtype`, a dtype or its name. But without `state_dtype`,
    rules that keep squares of gradients have float32 state beside float16 parameters, except for `ema`: in
    float16 squares of small gradients would be 0, and those of large ones infinite.

    lr: at least 0, default 0.001. l1, l2, weight_decay: at least 0, default 0. maximize: default False.
    ema: in [0, 1), default 0; if it is not 0, the state has another slot of this name, which starts at p and
    after each step becomes ``ema·(average) + (1 - ema)·p``, an exponential average of the stored weights.
    Every hyperparameter can be changed between steps, and every number may be a callable of the step t = 1,
    2, … instead, except those that a rule calls fixed.

    Each rule states the bytes of its state for each element of a float32 parameter, with its defaults.

    Raises TypeError or ValueError, which name the tensor or hyperparameter that cannot be used.
    """

    if TYPE_CHECKING:  # the arguments that are not hyperparameters
        params: InitVar[Params] = positional(kw_only=False)
        backend: Literal["native", "numpy"] = "native"
        state_dtype: npt.DTypeLike | None = None

    lr: Nonnegative = 1e-3
    l1: Nonnegative = 0.0
    l2: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0
    maximize: bool = False
    ema: Decay = 0.0
