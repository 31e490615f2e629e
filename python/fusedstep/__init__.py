"""Optimizer update rules, each fused into one pass over memory, in place on NumPy arrays."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .arrays.rows import Rows
from .engine.optimizer import Optimizer
from .engine.options import StepNorms, StepResult, TensorNorms
from .gradients import clip_grad_norm, flatten, global_norm
from .runtime import get_num_threads, info, set_num_threads, use_isa
from .update_rules import (
    adagrad,
    adam,
    distance,
    dual,
    matrix,
    moments,
    norms,
    rules,
    schedule_free,
    sgd,
    sign,
)
from .update_rules.adagrad import *
from .update_rules.adam import *
from .update_rules.distance import *
from .update_rules.dual import *
from .update_rules.matrix import *
from .update_rules.moments import *
from .update_rules.norms import *
from .update_rules.schedule_free import *
from .update_rules.sgd import *
from .update_rules.sign import *

if TYPE_CHECKING:
    from . import averaging, control, curvature, schedules

__version__: str = info()["version"]

__all__ = [
    "Optimizer",
    "Rows",
    "StepNorms",
    "StepResult",
    "TensorNorms",
    "averaging",
    "clip_grad_norm",
    "control",
    "curvature",
    "flatten",
    "get_num_threads",
    "global_norm",
    "info",
    "rules",
    "schedules",
    "set_num_threads",
    "use_isa",
]
__all__ += adagrad.__all__
__all__ += adam.__all__
__all__ += distance.__all__
__all__ += dual.__all__
__all__ += matrix.__all__
__all__ += moments.__all__
__all__ += norms.__all__
__all__ += schedule_free.__all__
__all__ += sgd.__all__
__all__ += sign.__all__

AROUND_THE_STEPS = ("averaging", "control", "curvature", "schedules")


def __dir__() -> list[str]:
    return [*globals(), *AROUND_THE_STEPS]


def __getattr__(name: str) -> Any:
    """Import a module that a step does not need, when it is first used."""
    if name in AROUND_THE_STEPS:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
