"""What runs a step: the compiled kernels, or each rule's formula in NumPy; both give the same bits."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from . import native, reference

Plan: TypeAlias = native.Plan | reference.Plan
Table: TypeAlias = native.Table | reference.Table


class Backend(NamedTuple):
    """The classes of a backend: the plan of all tensors, and a table of which rows are stepped."""

    plan: type[Plan]
    table: type[Table]


BACKENDS = {
    "native": Backend(native.Plan, native.Table),
    "numpy": Backend(reference.Plan, reference.Table),
}
