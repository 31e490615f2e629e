"""The parts of an update rule: hyperparameters, state, coefficients, and the formula in NumPy.

The files of `update_rules` build their rules from these names.
"""

from __future__ import annotations

from .._core import power
from .arithmetic import clamp, largest, square, term, variance
from .at import At
from .coefficients import Adapted, Measured
from .cube_root import cube_root
from .hyperparameters import (
    AtLeastOne,
    Decay,
    Finite,
    Initial,
    Interval,
    Mixture,
    Nonnegative,
    Nonpositive,
    Portion,
    Positive,
    Scheduled,
)
from .kernel import Arithmetic, Array, Coefficients, Kernel, Squares, kernel, sweep
from .slots import Slot

__all__ = [
    "Adapted",
    "Arithmetic",
    "Array",
    "At",
    "AtLeastOne",
    "Coefficients",
    "Decay",
    "Finite",
    "Initial",
    "Interval",
    "Kernel",
    "Measured",
    "Mixture",
    "Nonnegative",
    "Nonpositive",
    "Portion",
    "Positive",
    "Scheduled",
    "Slot",
    "Squares",
    "clamp",
    "cube_root",
    "kernel",
    "largest",
    "power",
    "square",
    "sweep",
    "term",
    "variance",
]
