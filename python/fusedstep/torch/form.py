"""How torch's ``optimizer.state[p]`` stores the state of a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..formula.kernel import Kernel
from ..formula.rule import Rule
from ..formula.slots import AVERAGE, AVERAGE_SLOT, PARAMETER, Slot, widened

State: TypeAlias = dict[str, Any]
"""The state that an optimizer keeps for a parameter."""

STEPS = "step"
DOUBLE = (torch.float64, torch.complex128)
HALF = (torch.float16, torch.complex32)


class Form(NamedTuple):
    """The keys and dtypes of a rule's state."""

    rule: type[Rule]
    names: Mapping[str, str]
    """The keys of slots whose key is not the rule's name for them."""
    counted: bool
    """Whether steps are counted. If not, a parameter with state has been stepped before."""
    scalar_dtype: torch.dtype | None
    """The dtype of slots that are one number for a tensor or group; None for that of torch's own."""
    state_dtype: torch.dtype | None
    steps_rows: Callable[[Mapping[str, Any]], bool]
    """Whether, with these hyperparameters, a sparse gradient steps only the rows that it has."""

    def key(self, name: str) -> str:
        """The key of a slot."""
        return self.names.get(name, name)

    @property
    def scalar_keys(self) -> list[str]:
        """The keys of state that is one number per parameter: the count of steps, slots of group and tensor.

        Here each parameter has its own copy of a group's slot.
        """
        return [*([STEPS] if self.counted else []), *map(self.key, (*self.rule.scalars, *self.rule.numbers))]

    @property
    def shared(self) -> int:
        """How many of the `scalar_keys`, from the first, have equal values within a batch."""
        return self.counted + len(self.rule.scalars)

    def dtypes(self, p: Tensor, slots: Mapping[str, Slot]) -> dict[str, torch.dtype]:
        """The dtype in which `p` has each of its slots."""
        common = self.state_dtype or p.dtype
        if p.is_complex():
            common = common.to_complex()
        wide = widened(slots) if self.state_dtype is None and p.dtype in HALF else []
        found = dict.fromkeys(slots, common) | dict.fromkeys(wide, torch.promote_types(common, torch.float32))
        return found | {name: getattr(torch, slot.kept) for name, slot in slots.items() if slot.kept}

    def completed(self, h: Mapping[str, Any], kernel: Kernel, p: Tensor, state: State) -> State:
        """The state of `p`, with its missing slots added at their first values."""
        complete = dict(state)
        if self.counted and STEPS not in state:
            complete[STEPS] = torch.zeros((), dtype=torchs_scalar_dtype())
        scalar_dtype = self.scalar_dtype or torchs_scalar_dtype()
        for name, value in {**self.rule.scalars, **self.rule.numbers}.items():
            complete.setdefault(self.key(name), torch.tensor(value, dtype=scalar_dtype))
        slots = self.rule.slots_of(kernel, averaged=h["ema"] != 0)
        dtypes = self.dtypes(p, slots)
        for name, slot in slots.items():
            key, dtype = self.key(name), dtypes[name]
            if key in complete or not slot.lives:
                continue
            if slot.start == PARAMETER:
                complete[key] = p.detach().to(dtype, copy=True)
            elif slot.of == "element":
                complete[key] = _filled(p, slot.first(h), dtype)
            else:
                complete[key] = p.new_full(slot.shape(tuple(p.shape)), slot.first(h), dtype=dtype)
        return complete

    def restored(
        self, p: Tensor, loaded: Mapping[str, Any], now: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any]]:
        """The state loaded for `p`; `now` is what torch has made of it.

        It has its saved precision, unless `state_dtype` asks for another, or it was saved in 16 bits that are
        too few.
        """
        declared = {**self.rule.every_slot, AVERAGE: AVERAGE_SLOT}
        slots = {name: slot for name, slot in declared.items() if self.key(name) in loaded}
        dtypes = {self.key(name): dtype for name, dtype in self.dtypes(p, slots).items()}
        wide = [self.key(name) for name in widened(slots)]
        narrow = (*HALF, torch.bfloat16) if self.rule.needs_float32 else HALF
        for key, value in loaded.items():
            if value is None:  # torch's SGD has None before its first step
                continue
            if not isinstance(value, Tensor):
                yield key, now[key]  # torch has made a tensor of it if it knows the key
                continue
            if key in self.scalar_keys:
                yield key, value if value.dtype in (torch.float32, torch.float64) else value.to(torch.float32)
                continue
            fits = (value.dtype in DOUBLE) == (p.dtype in DOUBLE)
            dtype = value.dtype
            if self.state_dtype is not None or not fits:
                dtype = dtypes.get(key, dtype)
            elif key in wide and dtype in narrow:
                dtype = torch.promote_types(dtype, torch.float32)
            if value.shape == p.shape and value.stride() != p.stride():
                yield key, torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value)
            else:
                yield key, value.to(p.device, dtype)


def torchs_scalar_dtype() -> torch.dtype:
    """The dtype in which torch keeps counts and other numbers of a parameter."""
    double: bool = torch.get_default_dtype() == torch.float64
    return torch.float64 if double else torch.float32


def _filled(p: Tensor, value: float, dtype: torch.dtype) -> Tensor:
    fill = complex(value, value) if p.is_complex() else value
    return torch.full_like(p, fill, dtype=dtype, requires_grad=False)
