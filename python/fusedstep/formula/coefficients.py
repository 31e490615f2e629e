"""The coefficients that a rule gives to the kernels at a step, and what some of them depend on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from .kernel import Array

ByName: TypeAlias = dict[str, float]
"""Coefficients by the names of the C++ struct's fields."""

Own: TypeAlias = dict[str, Array]
"""Coefficients that differ between the tensors of a share: an item for each tensor that is stepped."""

StepCoefficients: TypeAlias = tuple[ByName, ByName, ByName | None, Own | None]
"""The coefficients of a share at a step: of the prologue, of the rule, of the average if one is kept, and,
once the tensors are measured, those that differ between tensors."""

NO_PROLOGUE = {"scale": 1.0, "clip": math.inf, "keep": 1.0, "l2": 0.0, "l1": 0.0}
"""The coefficients of a prologue that changes nothing."""


UP = 2.0**600


class Measured(NamedTuple):
    """The measurements that the tensors' own coefficients depend on: arrays with an item for each tensor."""

    sizes: Array
    """How many elements each tensor has."""
    sums: Sequence[Array]
    """The terms that the rule measures, summed over each tensor.

    Of squares, which can leave the range of float64, three for each sum, so that those of parts of a tensor
    can be added: first all sums as they are, then all times 2¹²⁰⁰, then all times 2⁻¹²⁰⁰. Two of three are 0.
    """
    numbers: Mapping[str, Array]
    """The state that is one number for each tensor."""

    @property
    def squares(self) -> list[Array]:
        """The sums of squares, as far as float64 has them."""
        return [plain + small / UP / UP + large * UP * UP for plain, small, large in self._units()]

    def norms(self, of: float | Array = 1.0) -> list[Array]:
        """The roots of the sums of squares, each divided by `of` before: √sum, or a root mean square."""
        return [root(plain, small, large, of) for plain, small, large in self._units()]

    def _units(self) -> Iterator[tuple[Array, ...]]:
        each = len(self.sums) // 3
        return zip(self.sums[:each], self.sums[each : 2 * each], self.sums[2 * each :], strict=True)


def root(plain: Array, small: Array, large: Array, of: float | Array = 1.0) -> Array:
    """The root of sums of squares, each in parts: `small` is times 2¹²⁰⁰, `large` times 2⁻¹²⁰⁰."""
    return np.where(
        large != 0,
        np.sqrt((plain / UP / UP + large) / of) * UP,
        np.where(plain != 0, np.sqrt((plain + small / UP / UP) / of), np.sqrt(small / of) / UP),
    )


class Adapted(NamedTuple):
    """The tensors' own coefficients, and the state that the rule computes from the same sums."""

    own: Own
    numbers: Mapping[str, Array] = {}
    """The state that is one number for each tensor, after the step."""
    scalars: Mapping[str, float] = {}
    """The state that is one number for the group, after the step."""
