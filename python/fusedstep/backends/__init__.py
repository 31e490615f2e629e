"""The backends of a step: compiled kernels, or each rule's formula in NumPy; both give the same bits."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from . import native, reference

Plan: TypeAlias = native.NativePlan | reference.NumpyPlan
Table: TypeAlias = native.NativeTable | reference.NumpyTable


class Backend(NamedTuple):
    """The classes of a backend: a plan steps whole tensors, and a table steps some rows of one parameter."""

    plan: type[Plan]
    table: type[Table]


BACKENDS = {
    "native": Backend(native.NativePlan, native.NativeTable),
    "numpy": Backend(reference.NumpyPlan, reference.NumpyTable),
}
