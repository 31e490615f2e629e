"""Tensors that the kernels cannot use as they are: first seen in another way, then, where need be, copied.

The kernels take real numbers in dense memory of the CPU, with gradient and state in the order of the
parameter. A complex tensor is seen as its real and imaginary parts, a distributed one as its local part. What
still does not fit is copied for the step, and a parameter or state so copied is given back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import _core
from ..arrays import Array, check_disjoint, overlaps_itself
from .batch import Batch
from .distributed import local, local_gradient

GiveBack: TypeAlias = Callable[[], object]
Position: TypeAlias = tuple[int, int]

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Loan:
    """The tensors of a step in a form in which the kernels take them."""

    def __init__(self, batches: Sequence[Batch], label: Callable[[Tensor], str]) -> None:
        """`label` is what an error calls a parameter."""
        self._label = label
        self._steps_rows = [batch.form.steps_rows(batch.h) for batch in batches]
        self._owners = [batch.parameters for batch in batches]
        self._names = [batch.kernel.name for batch in batches]
        self._parameters = [list(batch.parameters) for batch in batches]
        self._gradients: list[list[Any]] = [list(batch.gradients) for batch in batches]
        self._state = [
            [list(slot) for slot in (*batch.slots, *([] if batch.averages is None else [batch.averages]))]
            for batch in batches
        ]
        self._averaged = [batch.averages is not None for batch in batches]
        self._give_back: list[GiveBack] = []

    def take(self, plan: _core.TensorPlan) -> None:
        """Have `plan` take the tensors; an error, naming the parameter, if they cannot be stepped."""
        for remedy in (self._see, self._copy):
            odd, odd_gradients = plan.take(self._batches())
            if not odd and not odd_gradients:
                break
            remedy(odd, odd_gradients)
        else:
            if any(plan.take(self._batches())):
                raise RuntimeError("tensors that the kernels cannot use")
            self._check_disjoint()
        if shared := plan.overlap():
            one, other = (self._label(self._owners[batch][i]) for batch, i in shared)
            raise ValueError(f"{one} and {other} share memory, or their state does")

    def give_back(self) -> None:
        """Bring the copies of parameters and state to where they belong."""
        for give_back in reversed(self._give_back):
            give_back()

    def _batches(self) -> list[Any]:
        batches = []
        for name, parameters, gradients, state, averaged in zip(
            self._names, self._parameters, self._gradients, self._state, self._averaged, strict=True
        ):
            slots, averages = (state[:-1], state[-1]) if averaged else (state, None)
            batches.append((name, parameters, gradients, slots, averages))
        return batches

    # The first remedy: another view of the same memory.

    def _see(self, odd: list[Position], odd_gradients: list[Position]) -> None:
        for batch, i in (*odd, *odd_gradients):
            p, g = self._parameters[batch][i], self._gradients[batch][i]
            _check(self._label(p), p, g)
            if g.layout is torch.strided:
                self._gradients[batch][i] = _real(local_gradient(p, g))
                see = self._seen
            elif g.layout is torch.sparse_coo and self._steps_rows[batch]:
                g = g.coalesce()
                self._gradients[batch][i] = _real(g.values())
                see = partial(self._rows, tuple(g.indices()))
            else:
                raise RuntimeError(
                    f"{self._label(p)} has a gradient of layout {g.layout}, "
                    "for which this rule, or one of its options, has no sparse form"
                )
            self._parameters[batch][i] = see(p)
            for slot in self._state[batch]:
                slot[i] = see(slot[i])

    def _seen(self, tensor: Tensor) -> Tensor:
        tensor = local(tensor).detach()
        if tensor.is_conj() or tensor.is_neg():
            plain = tensor.resolve_conj().resolve_neg()
            self._give_back.append(lambda: tensor.copy_(plain))
            return _real(plain)
        return _real(tensor)

    def _rows(self, at: tuple[Tensor, ...], whole: Tensor) -> Tensor:
        """What of a tensor a sparse gradient is for."""
        whole = whole.detach()
        rows = whole[at]
        self._give_back.append(lambda: whole.index_put_(at, rows))
        return _real(rows)

    # The second: a copy.

    def _copy(self, odd: list[Position], odd_gradients: list[Position]) -> None:
        for batch, i in odd:
            self._check_whole(batch, i)
        for batch, i in odd:
            p = self._borrowed(self._parameters[batch][i])
            self._parameters[batch][i] = p
            for slot in self._state[batch]:
                slot[i] = self._borrowed(slot[i])
            self._gradients[batch][i] = _copy_like(p, self._gradients[batch][i])
        for batch, i in odd_gradients:
            self._gradients[batch][i] = _copy_like(self._parameters[batch][i], self._gradients[batch][i])

    def _borrowed(self, tensor: Tensor) -> Tensor:
        """A copy without gaps, in the type that is computed in; it is given back, and rounded then."""
        copy = tensor.detach().to(_arithmetic(tensor), memory_format=torch.contiguous_format, copy=True)
        self._give_back.append(lambda: tensor.copy_(copy))
        return copy

    def _check_whole(self, batch: int, i: int) -> None:
        p, label = self._parameters[batch][i], self._label(self._owners[batch][i])
        for tensor in (p, *(slot[i] for slot in self._state[batch])):
            if tensor.dtype not in FLOATS:
                raise TypeError(f"{label} or its state has dtype {tensor.dtype}")
            if tensor.shape != p.shape:
                raise ValueError(f"{label} has shape {tuple(p.shape)}, its state {tuple(tensor.shape)}")
            if _arithmetic(tensor) != _arithmetic(p):
                raise TypeError(f"{label} has dtype {p.dtype}, its state {tensor.dtype}")
            if overlaps_itself(tensor.shape, tensor.stride(), 1):
                raise ValueError(f"{label} or its state has elements that share memory (an expanded view)")

    def _check_disjoint(self) -> None:
        """An error if two parameters share memory; the plan has seen copies of some."""
        owners = [p for batch in self._owners for p in batch]
        check_disjoint((self._label(p), _memory(p)) for p in owners)


def _check(label: str, p: Tensor, g: Tensor) -> None:
    for tensor in (p, g):
        if tensor.device.type != "cpu":
            raise ValueError(f"{label} or its gradient is on {tensor.device}; this optimizer is for the CPU")


def _memory(p: Tensor) -> Array:
    """The memory of a parameter; NumPy does not know all of torch's numbers, but integers of their width."""
    p = local(p).detach()
    p = torch.view_as_real(p.resolve_conj()) if p.is_complex() else p
    array: Array = p.view(INTEGERS[p.itemsize]).numpy()
    return array


def _real(tensor: Tensor) -> Tensor:
    """Real and imaginary parts side by side, and no operation left to be done."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()


def _arithmetic(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _copy_like(p: Tensor, g: Tensor) -> Tensor:
    return torch.empty_like(p, dtype=_arithmetic(p), requires_grad=False).copy_(g)
