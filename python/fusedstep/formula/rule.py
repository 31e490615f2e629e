"""What every rule says about itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import ClassVar

from .at import At
from .coefficients import Adapted, Measured
from .hyperparameters import Hyperparameter, declared
from .kernel import Kernel
from .slots import AVERAGE, AVERAGE_SLOT, Slot


class Rule:
    """An update rule: hyperparameters as annotations, its state, its formulas, their coefficients."""

    _fields: ClassVar[dict[str, Hyperparameter]] = {}

    update: ClassVar[Kernel]
    """The formula of a rule that has one only."""

    slots: ClassVar[Mapping[str, Slot]] = {}
    """The state that the rule keeps. A parameter has those slots of elements that its formula takes."""

    takes: ClassVar[tuple[str, ...]] = ()
    """Those of l1, l2 and weight_decay that are the rule's own; none is applied before it."""

    measures_groups: ClassVar[bool] = False
    """Whether it adds what it measures over all tensors of a group."""

    needs_loss: ClassVar[bool] = False
    """Whether a step needs the loss."""

    steps_rows: ClassVar[bool] = False
    """Whether rows of a parameter can be stepped without the others."""

    scalars: ClassVar[dict[str, float]] = {}
    """The first values of the slots that are one number for a group."""

    numbers: ClassVar[dict[str, float]] = {}
    """The first values of the slots that are one number for a tensor."""

    def __init_subclass__(cls) -> None:
        own = declared(cls)
        cls._fields = {**own, **{name: field for name, field in cls._fields.items() if name not in own}}
        for name, field in own.items():
            setattr(cls, name, field)
        cls.scalars = {name: slot.first({}) for name, slot in cls.slots.items() if slot.of == "group"}
        cls.numbers = {name: slot.first({}) for name, slot in cls.slots.items() if slot.of == "tensor"}
        for kernel in (value for value in vars(cls).values() if isinstance(value, Kernel)):
            for sweep in kernel.sweeps:
                if sweep.operands != kernel.operands:
                    raise TypeError(f"{cls.__name__}: the sweeps of {kernel.name} take different slots")
            for name in kernel.operands:
                if name not in {**cls.slots, **kernel.slots}:
                    raise TypeError(f"{cls.__name__}: {kernel.name} takes {name!r}, which no slot declares")

    @classmethod
    def slots_of(cls, kernel: Kernel, *, averaged: bool) -> dict[str, Slot]:
        """The slots of a parameter that `kernel` steps, those that the formula takes first.

        averaged: whether an average of the weights is kept.
        """
        declared = {**cls.slots, **kernel.slots}
        taken = {name: declared[name] for name in kernel.operands}
        if averaged:
            taken[AVERAGE] = AVERAGE_SLOT
        beside = {name: slot for name, slot in kernel.slots.items() if name not in taken}
        return taken | beside | {name: cls.slots[name] for name in cls.numbers}

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        """The update that the hyperparameters `h` choose; it decides which state there is."""
        del h
        return cls.update

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> Kernel | None:
        """The same for matrices, if they have an update of their own."""
        return None

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        """The scalars after this step; `h` has those before it."""
        return {}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        """All that depends on the step alone, by the names of the C++ struct's fields.

        `h` has the scalars after the step, ``h.before`` those before it.
        """
        raise NotImplementedError

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        """The coefficients that depend on what is measured."""
        raise NotImplementedError
