"""Tensors that the kernels cannot use as they are: first seen in another way, then, where need be, copied.

The kernels take real numbers in dense memory of the CPU, with gradient and state in the order of the
parameter. A complex tensor is seen as its real and imaginary parts, a distributed one as its local part. What
still does not fit is copied for the step, and a parameter or state so copied is given back after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
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


@dataclass
class Entry:
    """A parameter of a step, and the tensors that are stepped in its place."""

    owner: Tensor
    own_state: list[Tensor]
    p: Tensor
    g: Any
    state: list[Tensor]


class Loan:
    """The tensors of a step in a form in which the kernels take them."""

    def __init__(self, batches: Sequence[Batch], labels: Callable[[], Mapping[Tensor, str]]) -> None:
        """`labels` says what an error calls each parameter."""
        self._batches = batches
        self._make_labels = labels
        self._entries: dict[Position, Entry] = {}
        self._give_back: list[GiveBack] = []

    def take(self, plan: _core.TensorPlan) -> None:
        """Have `plan` take the tensors; an error, naming the parameter, if they cannot be stepped."""
        batches = [(batch.kernel.name, batch.found, batch.members) for batch in self._batches]
        # Twice a copy: what a gradient shares is known when all parameters and state are found.
        for remedy in (self._see, self._copy, self._copy):
            odd, odd_gradients = plan.take(batches)
            if not odd and not odd_gradients:
                break
            remedy(odd, odd_gradients)
            for (k, i), entry in self._entries.items():
                self._batches[k].found.replace(i, entry.p, entry.g, entry.state)
        else:
            for position in chain(*plan.take(batches)):
                raise RuntimeError(f"{self._label(self._entry(position).owner)} cannot be stepped")
        if self._give_back:  # the plan does not see what it has copies of
            self._check_disjoint()
        if shared := plan.overlap():
            one, other = (self._label(self._entry(position).owner) for position in shared)
            raise ValueError(f"{one} and {other} share memory, or their state does")

    @cached_property
    def _labels(self) -> Mapping[Tensor, str]:
        return self._make_labels()

    def _label(self, p: Tensor) -> str:
        return self._labels.get(p, f"a parameter of shape {tuple(p.shape)}")

    def _check_disjoint(self) -> None:
        memory = []
        for k, batch in enumerate(self._batches):
            owners = self.owners(k)
            memory += [(self._label(p), _memory(p)) for p in owners]
            for slot in range(batch.slots):
                states = batch.found.state(slot, batch.members)
                for at, entry in self._lent(k):
                    states[at] = entry.own_state[slot]
                memory += [
                    (f"{self._label(p)}, state {slot},", _memory(state))
                    for p, state in zip(owners, states, strict=True)
                ]
        check_disjoint(memory)

    def parameters(self) -> list[Tensor]:
        """All parameters of the step themselves."""
        return [p for k in range(len(self._batches)) for p in self.owners(k)]

    def owners(self, k: int) -> list[Tensor]:
        """The parameters of batch k themselves."""
        batch = self._batches[k]
        owners = batch.found.parameters(batch.members)
        for at, entry in self._lent(k):
            owners[at] = entry.owner
        return owners

    def _lent(self, k: int) -> Iterator[tuple[int, Entry]]:
        """What of batch k is on loan, each with its place among the members."""
        members = self._batches[k].members
        for (batch, i), entry in self._entries.items():
            if batch == k:
                yield i if members is None else members.index(i), entry

    def give_back(self) -> None:
        """Bring the copies of parameters and state to where they belong."""
        if self._give_back:
            with torch.no_grad():
                for give_back in reversed(self._give_back):
                    give_back()

    def _entry(self, position: Position) -> Entry:
        if position not in self._entries:
            k, i = position
            found, slots = self._batches[k].found, self._batches[k].slots
            (p,), (g,) = found.parameters([i]), found.gradients([i])
            state = [found.state(slot, [i])[0] for slot in range(slots)]
            self._entries[position] = Entry(p, state, p, g, state)
        return self._entries[position]

    # The first remedy: another view, if possible of the same memory.

    @torch.no_grad()
    def _see(self, odd: list[Position], odd_gradients: list[Position]) -> None:
        for position in (*odd, *odd_gradients):
            entry, batch = self._entry(position), self._batches[position[0]]
            label = self._label(entry.owner)
            _check_device(label, entry.p, entry.g)
            if entry.g.layout is torch.strided:
                entry.g = _real(local_gradient(entry.p, entry.g))
                see = self._seen
            elif entry.g.layout is torch.sparse_coo and batch.form.steps_rows(batch.h):
                g = entry.g.coalesce()
                entry.g = _real(g.values())
                see = partial(self._rows, tuple(g.indices()))
            else:
                raise RuntimeError(
                    f"{label} has a gradient of layout {entry.g.layout}, "
                    "for which this rule, or one of its options, has no sparse form"
                )
            entry.p = see(entry.p)
            entry.state = [see(tensor) for tensor in entry.state]

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

    @torch.no_grad()
    def _copy(self, odd: list[Position], odd_gradients: list[Position]) -> None:
        for position in odd:
            _check_form(self._label(self._entry(position).owner), self._entry(position))
        for position in odd:
            entry = self._entry(position)
            entry.p = self._borrowed(entry.p)
            entry.state = [self._borrowed(tensor) for tensor in entry.state]
        for position in (*odd, *odd_gradients):
            entry = self._entry(position)
            entry.g = torch.empty_like(entry.p, dtype=_arithmetic(entry.p), requires_grad=False).copy_(
                entry.g
            )

    def _borrowed(self, tensor: Tensor) -> Tensor:
        """A copy without gaps, in the type that is computed in; it is given back, and rounded then."""
        copy = tensor.detach().to(_arithmetic(tensor), memory_format=torch.contiguous_format, copy=True)
        self._give_back.append(lambda: tensor.copy_(copy))
        return copy


def _check_form(label: str, entry: Entry) -> None:
    for tensor in (entry.p, *entry.state):
        if tensor.dtype not in FLOATS:
            raise TypeError(f"{label} or its state has dtype {tensor.dtype}")
        if tensor.shape != entry.p.shape:
            raise ValueError(f"{label} has shape {tuple(entry.p.shape)}, its state {tuple(tensor.shape)}")
        if _arithmetic(tensor) != _arithmetic(entry.p):
            raise TypeError(f"{label} has dtype {entry.p.dtype}, its state {tensor.dtype}")
        if overlaps_itself(tensor.shape, tensor.stride(), 1):
            raise ValueError(f"{label} or its state has elements that share memory (an expanded view)")


def _check_device(label: str, p: Tensor, g: Tensor) -> None:
    for tensor in (p, g):
        if tensor.device.type != "cpu":
            raise ValueError(f"{label} or its gradient is on {tensor.device}; this optimizer is for the CPU")


def _memory(tensor: Tensor) -> Array:
    """The memory of a tensor; NumPy does not know all of torch's numbers, but integers of their width."""
    tensor = local(tensor).detach()
    tensor = tensor.conj() if tensor.is_conj() else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    array: Array = tensor.view(INTEGERS[tensor.itemsize]).numpy(force=tensor.is_neg())
    return array


def _real(tensor: Tensor) -> Tensor:
    """Real and imaginary parts side by side, and no operation left to be done."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()


def _arithmetic(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
