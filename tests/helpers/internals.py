"""What tests touch of the library beside its public names; imported from it here and nowhere else."""

from __future__ import annotations

from types import ModuleType

from fusedstep import _core, processors, runtime
from fusedstep.__main__ import main, state_bytes
from fusedstep._core import Busy, Changes
from fusedstep.averaging import swap
from fusedstep.backends import native, sums
from fusedstep.curvature import critical, parameters
from fusedstep.engine.engine import Engine
from fusedstep.formula import average, power
from fusedstep.formula.at import At
from fusedstep.formula.coefficients import Measured
from fusedstep.formula.cube_root import cube_root
from fusedstep.formula.kernel import Coefficients, Kernel, Squares
from fusedstep.update_rules import cautious

__all__ = [
    "AVERAGES",
    "DECLARING",
    "At",
    "Busy",
    "Changes",
    "Coefficients",
    "Engine",
    "Kernel",
    "Measured",
    "Squares",
    "_core",
    "critical",
    "cube_root",
    "main",
    "native",
    "parameters",
    "power",
    "processors",
    "runtime",
    "state_bytes",
    "sums",
    "swap",
]

AVERAGES: tuple[Kernel, ...] = (average.average, average.mean)
"""The kernels that average weights."""

DECLARING: tuple[ModuleType, ...] = (average, cautious)
"""The modules that declare kernels; rules do too."""
