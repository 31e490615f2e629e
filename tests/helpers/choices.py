"""Which rules and options a test takes where it need not be all: from the registry, so new rules count."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import fusedstep as fs
from fusedstep.engine import Engine
from fusedstep.kernel import Kernel

Options = dict[str, Any]

ALTERNATIVES: dict[str, Any] = {
    "[0, inf)": lambda default: 3 * default if default else 0.03,
    "[0, 1)": lambda default: 0.75 if default else 0.5,
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
    """The kernel that a rule chooses."""
    kernel: Kernel = fs.rules[rule](np.zeros(1), **options).groups[0].kernel
    return kernel


def choosing(rule: str) -> list[Options]:
    """The fewest of a rule's own options that lead to each of its kernels; none for the first."""
    found: dict[str, Options] = {}
    own = {name: value for name, value in alternatives(fs.rules[rule]).items() if name not in COMMON}
    for count in range(3):
        for names in itertools.combinations(own, count):
            options = {name: own[name] for name in names}
            found.setdefault(kernel_of(rule, options).name, options)
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
    seen = set()
    for rule in fs.rules:
        for options in choosing(rule):
            name = kernel_of(rule, options).name
            if name not in seen:
                seen.add(name)
                yield rule, options


KERNELS = list(each_kernel())
"""Each kernel, as a rule that uses it and the options that make it do so."""


def few(choices: Iterator[tuple[str, Options]]) -> Iterator[tuple[str, Options]]:
    """The first of each kind: number of slots, state that starts elsewhere, numbers, sums, the loss."""
    seen: set[Any] = set()
    for rule, options in choices:
        cls = fs.rules[rule]
        kinds: set[Any] = {len(kernel_of(rule, options).slots)}
        if "initial" in {name for base in cls.__mro__ if base is not Engine for name in vars(base)}:
            kinds.add("start")
        if cls.scalars or cls.numbers:
            kinds.add("numbers")
        if kernel_of(rule, options).measure:
            kinds.add("sums")
        if cls.needs_loss:
            kinds.add("loss")
        if kinds - seen:
            seen |= kinds
            yield rule, options


FEW = [rule for rule, _ in few((rule, {}) for rule in fs.rules)]
"""Rules of every kind, for what a step does alike for all: no state, some, more; numbers; sums; the loss."""

FEW_KERNELS = list(few(iter(KERNELS)))
"""Kernels of every number of state slots, for what is done alike for all."""


def id_of(value: Any) -> str:
    """A name for pytest."""
    if isinstance(value, dict):
        return ",".join(f"{key}={item:g}" for key, item in value.items()) or "default"
    return str(getattr(value, "__name__", value))
