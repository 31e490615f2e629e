"""Which rules and options a test takes where it need not be all: from the registry, so new rules count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import fusedstep as fs
from tests.helpers.internals import Kernel

Options = dict[str, Any]

ALTERNATIVES: dict[str, Any] = {
    "[0, inf)": lambda default: 3 * default if default else 0.03,
    "[0, 1)": lambda default: 0.75 if default else 0.5,
    "[0, 1]": lambda default: 0.75 if default else 0.5,
    "(-inf, 0]": lambda default: default / 2,
    "(0, 1)": lambda _: 0.75,
    "(0, inf)": lambda default: 3 * default,
    "[1, inf)": lambda _: 2.0,
    "[1, inf]": lambda _: 1.02,
    "{-1, -0.75, -0.5, -0.25, 0}": lambda _: -0.75,
    "(-inf, inf)": lambda default: default - 1,
}


def alternative(field: Any) -> Any:
    """Another value than the default."""
    return ALTERNATIVES[field.interval.text](field.default) if field.interval else not field.default


def alternatives(cls: type[fs.Optimizer]) -> Options:
    """Another value than the default for every hyperparameter of a rule."""
    return {name: alternative(field) for name, field in cls._fields.items()}


COMMON: Options = alternatives(fs.Optimizer)
"""The options that all rules have, each at another value than the default."""


def kernel_of(rule: str, options: Options) -> Kernel:
    """The kernel that a rule chooses for all but matrices."""
    kernel: Kernel = fs.rules[rule](np.zeros(1), **options).groups[0].kernel
    return kernel


def matrix_kernel_of(rule: str, options: Options) -> Kernel | None:
    """The kernel that a rule chooses for matrices, if they have one of their own."""
    kernel: Kernel = fs.rules[rule](np.zeros(1), **options).groups[0].kernel_of(np.zeros((1, 1)))
    return kernel if kernel.turns else None


def kernels_of(rule: str, options: Options) -> tuple[Kernel, ...]:
    """Both."""
    of_matrices = matrix_kernel_of(rule, options)
    return (kernel_of(rule, options), *([] if of_matrices is None else [of_matrices]))


def measures(rule: str, options: Options) -> bool:
    """Whether a step depends on sums over a tensor."""
    return any(kernel.measures for kernel in kernels_of(rule, options))


def takes_16_bits(rule: str) -> bool:
    """Whether parameters and state may have 16 bits."""
    return not fs.rules[rule].needs_float32


def is_elementwise(rule: str, options: Options) -> bool:
    """Whether each element moves as if it was alone."""
    return not measures(rule, options) and matrix_kernel_of(rule, options) is None


def choosing(rule: str) -> list[Options]:
    """The fewest of a rule's own options that lead to each choice of its kernels; none for the first."""
    found: dict[tuple[Kernel, ...], Options] = {}
    own = {name: value for name, value in alternatives(fs.rules[rule]).items() if name not in COMMON}
    for count in range(3):
        for names in itertools.combinations(own, count):
            options = {name: own[name] for name in names}
            found.setdefault(kernels_of(rule, options), options)
    return list(found.values())


def variants(rule: str) -> Iterator[Options]:
    """The defaults, every hyperparameter at another value, all common ones at once; every kernel."""
    yield {}
    for name, value in alternatives(fs.rules[rule]).items():
        yield {name: value}
    yield COMMON
    for options in choosing(rule):
        if len(options) > 1:
            yield options


def each_kernel() -> Iterator[tuple[str, Options]]:
    """For each kernel one rule, and its options that choose it."""
    seen: set[str] = set()
    for rule in fs.rules:
        for options in choosing(rule):
            names = {kernel.name for kernel in kernels_of(rule, options)}
            if names - seen:
                seen |= names
                yield rule, options


KERNELS = list(each_kernel())
"""Each kernel, as a rule that uses it and the options that make it do so."""


def few(choices: Iterator[tuple[str, Options]]) -> Iterator[tuple[str, Options]]:
    """The first of each kind: number of slots, where it starts, numbers, sums, matrices, loss."""
    seen: set[Any] = set()
    for rule, options in choices:
        cls = fs.rules[rule]
        kinds: set[Any] = {len(kernel_of(rule, options).operands)}
        if any(isinstance(slot.start, str) and slot.start != "p" for slot in cls.slots.values()):
            kinds.add("start")
        if cls.scalars or cls.numbers:
            kinds.add("numbers")
        if kernel_of(rule, options).measures:
            kinds.add("sums")
        if of_matrices := matrix_kernel_of(rule, options):
            kinds.add((of_matrices.names[0], "sums" if of_matrices.measures else "no sums"))
        if cls.needs_loss:
            kinds.add("loss")
        if kinds - seen:
            seen |= kinds
            yield rule, options


FEW = [rule for rule, _ in few((rule, {}) for rule in fs.rules)]
"""Rules of every kind, for what a step does alike for all: of state, numbers, sums, matrices, the loss."""

FEW_KERNELS = list(few(iter(KERNELS)))
"""Kernels of every number of state slots, for what is done alike for all."""


def id_of(value: Any) -> str:
    """A name for pytest."""
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "default"
    return str(getattr(value, "__name__", value))
