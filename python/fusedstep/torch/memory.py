"""The memory of torch's tensors as NumPy arrays."""

from __future__ import annotations

import torch
from torch import Tensor

from .._core import Changes
from ..arrays.memory import Array
from .distributed import local

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def memory_of(tensor: Tensor) -> Array:
    """The memory of a tensor as integers of the same width, because NumPy lacks some of torch's dtypes.

    A complex number is two of them; pending conjugation or negation is left out.
    """
    tensor = local(tensor).detach()
    tensor = tensor.conj() if tensor.is_conj() else tensor
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    tensor = tensor._neg_view() if tensor.is_neg() else tensor  # noqa: SLF001  # torch has no other name
    array: Array = tensor.view(INTEGERS[tensor.itemsize]).numpy()
    return array


def copy_into(changes: Changes, tensor: Tensor, source: Tensor) -> None:
    """Add to the changes that `tensor` has the values of `source`, whose shape and dtype are the same."""
    to, values = memory_of(tensor), memory_of(source)
    if not tensor.is_complex():
        changes.copy(to, values, tensor.is_neg())
        return
    for part in (0, 1):
        negated = tensor.is_neg() != (tensor.is_conj() and part == 1)
        changes.copy(to[..., part], values[..., part], negated)
