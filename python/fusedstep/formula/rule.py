"""The base of update rules: what every rule declares."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from .at import At
from .coefficients import Adapted, Measured
from .hyperparameters import Hyperparameter, declared
from .kernel import Kernel
from .slots import AVERAGE, AVERAGE_SLOT, Slot


class Rule:
    """An update rule: its hyperparameters (as annotations), state, formulas, and coefficients."""

    _fields: ClassVar[dict[str, Hyperparameter]] = {}

    update: ClassVar[Kernel]
    """The kernel of a rule that has only one."""

    slots: ClassVar[Mapping[str, Slot]] = {}
    """The state that the rule keeps; a parameter has only those slots of elements that its formula takes."""

    takes: ClassVar[tuple[str, ...]] = ()
    """The ones of l1, l2 and weight_decay that the rule itself applies; the prologue leaves them out."""

    measures_groups: ClassVar[bool] = False
    """Whether the rule adds up what it measures over all tensors of a group."""

    needs_loss: ClassVar[bool] = False
    """Whether a step needs the loss."""

    looks_ahead: ClassVar[tuple[str, ...]] = ()
    """The hyperparameters of which the rule also needs the value at the next step."""

    steps_rows: ClassVar[bool] = False
    """Whether the rule can step some rows of a parameter without the others."""

    needs_float32: ClassVar[bool] = False
    """Whether parameters and state of 16 bits would lose the first steps, because they are too small."""

    every_slot: ClassVar[dict[str, Slot]] = {}
    """The slots of all kernels."""

    scalars: ClassVar[dict[str, float]] = {}
    """The first values of the slots that are one number for a group."""

    numbers: ClassVar[dict[str, float]] = {}
    """The first values of the slots that are one number for a tensor."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = declared(cls)
        cls._fields = {**own, **{name: field for name, field in cls._fields.items() if name not in own}}
        for name, field in own.items():
            setattr(cls, name, field)
        cls.scalars = {name: slot.first({}) for name, slot in cls.slots.items() if slot.of == "group"}
        cls.numbers = {name: slot.first({}) for name, slot in cls.slots.items() if slot.of == "tensor"}
        cls.every_slot = {**cls.every_slot, **cls.slots}
        for kernel in (value for value in vars(cls).values() if isinstance(value, Kernel)):
            cls.every_slot |= kernel.slots
            for sweep in kernel.sweeps:
                if sweep.operands != kernel.operands:
                    raise TypeError(f"{cls.__name__}: the sweeps of {kernel.name} take different slots")
            for name in kernel.operands:
                if name not in {**cls.slots, **kernel.slots}:
                    raise TypeError(f"{cls.__name__}: {kernel.name} takes {name!r}, which no slot declares")

    @classmethod
    def slots_of(cls, kernel: Kernel, *, averaged: bool) -> dict[str, Slot]:
        """The slots of a parameter that `kernel` steps; first come those that the formula takes.

        averaged: whether an average of the weights is kept.
        """
        declared = {**cls.slots, **kernel.slots}
        taken = {name: declared[name] for name in kernel.operands}
        if averaged:
            taken[AVERAGE] = AVERAGE_SLOT
        beside = {name: slot for name, slot in kernel.slots.items() if name not in taken}
        return taken | beside | {name: cls.slots[name] for name in cls.numbers}

    @classmethod
    def check_width(cls, label: str, dtype: Any) -> None:
        """Raise TypeError if this dtype, NumPy's or torch's, has 16 bits and the rule needs more."""
        if cls.needs_float32 and dtype.itemsize == 2:
            raise TypeError(
                f"{label} is {dtype}, in which the first steps of {cls.__name__} are lost: use float32"
            )

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        """Choose the kernel by the hyperparameters `h`. The kernel decides which slots a parameter has."""
        del h
        return cls.update

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
        """Choose the kernel of matrices; None if they have no kernel of their own."""
        return None

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        """Return the scalars after this step; `h` has those before it."""
        return {}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        """Return the coefficients that depend on the step alone, by the names of the C++ struct's fields.

        `h` has the scalars after the step, ``h.before`` those before it.
        """
        raise NotImplementedError

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        """Return the coefficients, and new state, that depend on the measured sums."""
        raise NotImplementedError
