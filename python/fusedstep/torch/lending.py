"""Tensors that the kernels cannot use as they are: viewed in another form, then copied if necessary.

The kernels take real numbers in dense CPU memory, with gradient and state in the order of the parameter. A
complex tensor is viewed as its real and imaginary parts, a distributed one as its local part, a sparse
gradient as rows of its parameter. A tensor that still does not fit is copied for the step; a copied parameter
or state is written back after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .. import _core
from .._core import Changes
from ..arrays.memory import Memory, check_disjoint, overlaps_itself
from .batch import Batch, Members
from .distributed import local, local_gradient
from .memory import copy_into, memory_of
from .plan import TorchPlan

Position: TypeAlias = tuple[int, int]

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass
class Entry:
    """A parameter of a step, and the tensors that are stepped in its place."""

    owner: Tensor
    own_g: Tensor
    own_state: list[Tensor]
    p: Tensor
    g: Any
    state: list[Tensor]
    rows: tuple[Tensor, Tensor] | None = None
    """For a sparse gradient: the rows of p that it has, and their values."""


class Loan:
    """The tensors of a step in a form that the kernels can use."""

    def __init__(self, batches: list[Batch], labels: Callable[[], Mapping[Tensor, str]]) -> None:
        """`labels` returns the name of each parameter in error messages."""
        self.batches = batches
        """The shares of the step; those of sparse gradients are added at the end."""
        self._tell_owners()
        self.entries: dict[Position, Entry] = {}
        """The parameters for which something else is stepped; most often there are none."""
        self._make_labels = labels
        self._lent_out: list[tuple[Tensor, Tensor]] = []
        """Tensors with the copies that are stepped in their place."""

    def _tell_owners(self) -> None:
        for k, batch in enumerate(self.batches):
            if batch.kernel.turns or batch.kernel.measures:
                batch.owners = partial(self.owners, k)

    @property
    def is_plain(self) -> bool:
        """Whether all tensors are used as they are, each batch is all of a group, and none has a turn."""
        whole = all(batch.members is None and not batch.kernel.small for batch in self.batches)
        return whole and not self.entries and not any(batch.kernel.turns for batch in self.batches)

    def take(self, plan: TorchPlan) -> None:
        """Give the tensors to `plan`; raise an error, naming the parameter, if they cannot be stepped."""
        # Copy twice: that a gradient shares memory shows only when all parameters and state are found.
        for remedy in (self._see, self._copy, self._copy):
            found = plan.take(self._taken())
            if found is None:
                break
            odd, odd_gradients, in_small_state = found
            for position in in_small_state:
                self._refuse(self._entry(position))
            remedy(odd, odd_gradients)
            for (k, i), entry in self.entries.items():
                self._replace(self.batches[k], i, entry)
        else:
            for position in chain(*(plan.take(self._taken()) or ())):
                raise RuntimeError(f"{self._label(self._entry(position).owner)} cannot be stepped")
        if self._lent_out:  # the plan sees copies, not the memory behind them
            self._check_disjoint()
        if shared := plan.overlap():
            one, other = (self._label(self._entry(position).owner) for position in shared)
            raise ValueError(f"{one} and {other} share memory, or their state does")

    def _taken(self) -> list[tuple[_core.TorchParameters, Members, list[Tensor]]]:
        return [
            (batch.found, batch.members, self._small_state(k) if batch.kernel.small else [])
            for k, batch in enumerate(self.batches)
        ]

    def _small_state(self, k: int) -> list[Tensor]:
        """The tensors of batch k's state that have a number for each row or column."""
        batch = self.batches[k]
        return [batch.group.state(p)[key] for p in self.owners(k) for key in batch.small_keys]

    def _refuse(self, entry: Entry) -> None:
        """Raise the error that an entry's gradient lies in state which is smaller than its parameter."""
        memory = Memory(
            (f"state {key!r} of {self._label(p)}", memory_of(batch.group.state(p)[key]))
            for k, batch in enumerate(self.batches)
            for p in self.owners(k)
            for key in (*batch.group.form.scalar_keys, *batch.small_keys)
        )
        state, *_ = memory.sharing(memory_of(entry.g if entry.rows is None else entry.rows[1]))
        label = self._label(entry.owner)
        raise ValueError(f"the gradient of {label} shares memory with {state}; make it a copy, with clone()")

    def _replace(self, batch: Batch, i: int, entry: Entry) -> None:
        """Step the tensors of an entry in the place of its parameter."""
        batch.found.replace(i, entry.p, entry.g, entry.state)
        if entry.rows is not None and not batch.found.take_rows(i, *entry.rows):
            raise RuntimeError(f"rows of {self._label(entry.owner)} cannot be stepped")

    @cached_property
    def _labels(self) -> Mapping[Tensor, str]:
        return self._make_labels()

    def _label(self, p: Tensor) -> str:
        return self._labels.get(p, f"a parameter of shape {tuple(p.shape)}")

    def _check_disjoint(self) -> None:
        memory = []
        for k, batch in enumerate(self.batches):
            owners = self.owners(k)
            memory += [(self._label(p), memory_of(p)) for p in owners]
            for slot in range(batch.slots):
                states = batch.found.state(slot, batch.members)
                for at, entry in self._lent(k):
                    states[at] = entry.own_state[slot]
                memory += [
                    (f"{self._label(p)}, state {slot},", memory_of(state))
                    for p, state in zip(owners, states, strict=True)
                ]
        check_disjoint(memory)

    def parameters(self) -> list[Tensor]:
        """The original parameters of the whole step."""
        return [p for k in range(len(self.batches)) for p in self.owners(k)]

    def owners(self, k: int) -> list[Tensor]:
        """The original parameters of batch k."""
        batch = self.batches[k]
        owners = batch.found.parameters(batch.members)
        if self.entries:
            for at, entry in self._lent(k):
                owners[at] = entry.owner
        return owners

    def gradients(self) -> list[Tensor]:
        """The original gradients of the whole step."""
        gradients = []
        for k, batch in enumerate(self.batches):
            own = batch.found.gradients(batch.members)
            for at, entry in self._lent(k):
                own[at] = entry.own_g
            gradients += own
        return gradients

    def _lent(self, k: int) -> Iterator[tuple[int, Entry]]:
        """The entries of batch k, each with its position among the members."""
        members = self.batches[k].members
        for (batch, i), entry in self.entries.items():
            if batch == k:
                yield i if members is None else members.index(i), entry

    def give_back(self, changes: Changes) -> None:
        """Add to the changes that the copies of parameters and state go back to the originals."""
        for tensor, copy in reversed(self._lent_out):
            copy_into(changes, tensor, copy)

    def _entry(self, position: Position) -> Entry:
        if position not in self.entries:
            k, i = position
            found, slots = self.batches[k].found, self.batches[k].slots
            (p,), (g,) = found.parameters([i]), found.gradients([i])
            state = [found.state(slot, [i])[0] for slot in range(slots)]
            self.entries[position] = Entry(p, g, state, p, g, state)
        return self.entries[position]

    # The first remedy: another view, if possible of the same memory.

    @torch.no_grad()
    def _see(self, odd: list[Position], odd_gradients: list[Position]) -> None:
        for k, i in (*odd, *odd_gradients):
            (p,), (g,) = self.batches[k].found.parameters([i]), self.batches[k].found.gradients([i])
            label = self._label(p)
            _check_device(label, p, g)
            if g.layout is torch.strided:
                entry = self._entry((k, i))
                entry.g = _real(local_gradient(p, g))
                entry.p = self._seen(p)
                entry.state = [self._seen(tensor) for tensor in entry.state]
            elif g.layout is torch.sparse_coo and self.batches[k].steps_rows:
                self._see_rows(self._parted(k, i), g)
            else:
                raise RuntimeError(
                    f"{label} has a gradient of layout {g.layout}, "
                    "for which this rule, or one of its options, has no sparse form"
                )

    def _parted(self, k: int, i: int) -> Entry:
        """Move a parameter of batch k to a batch of its own; return its entry."""
        batch = self.batches[k]
        members = range(len(batch.found)) if batch.members is None else batch.members
        self.batches[k] = batch.part([other for other in members if other != i])
        self.batches.append(batch.part([i]))
        self._tell_owners()
        return self._entry((len(self.batches) - 1, i))

    def _see_rows(self, entry: Entry, g: Tensor) -> None:
        """Take a sparse gradient as the rows that its indices name, in contiguous parameters and state."""
        axes = g.sparse_dim()
        # Equal indices are summed in the step: coalesce(), which would sum them too, copies everything.
        indices, values = g._indices(), _real(g._values().detach())  # noqa: SLF001  # torch has no other name
        shape = entry.p.shape
        steps = [math.prod(shape[axis + 1 : axes]) for axis in range(axes)]
        flat = indices[0] if axes == 1 else (indices * indices.new_tensor(steps).unsqueeze(1)).sum(0)

        def rows(tensor: Tensor) -> Tensor:
            real = self._seen(tensor)
            whole = real if real.is_contiguous() else self._borrowed(real)
            return whole.view(math.prod(shape[:axes]), *whole.shape[axes:])

        entry.p = rows(entry.p)
        entry.state = [rows(tensor) for tensor in entry.state]
        _check_form(self._label(entry.owner), entry)
        if _arithmetic(values) != _arithmetic(entry.p):
            values = values.to(_arithmetic(entry.p))
        entry.g = entry.p.new_empty(0)
        entry.rows = flat.contiguous(), values.contiguous()

    def _seen(self, tensor: Tensor) -> Tensor:
        tensor = local(tensor).detach()
        if tensor.is_conj() or tensor.is_neg():
            plain = tensor.resolve_conj().resolve_neg()
            self._lent_out.append((tensor, plain))
            return _real(plain)
        return _real(tensor)

    # The second remedy: a copy.

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
            if entry.rows is not None:  # its values share memory with what the step writes
                entry.rows = entry.rows[0], entry.rows[1].clone()
                continue
            entry.g = torch.empty_like(entry.p, dtype=_arithmetic(entry.p), requires_grad=False).copy_(
                entry.g
            )

    def _borrowed(self, tensor: Tensor) -> Tensor:
        """A copy without gaps; `give_back` writes it back."""
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._lent_out.append((tensor, copy))
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


def _real(tensor: Tensor) -> Tensor:
    """A tensor with real and imaginary parts side by side, and pending conjugation or negation done."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor.resolve_neg()


def _arithmetic(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32
