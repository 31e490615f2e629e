"""An example of every rule: parameters that reach all its kernels, in groups that differ, and gradients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np

import fusedstep as fs
from tests.helpers.choices import (
    COMMON,
    Options,
    alternatives,
    choosing,
    is_elementwise,
    matrix_kernel_of,
    measures,
    takes_16_bits,
)
from tests.helpers.engines import DTYPES, MIXES, normal
from tests.helpers.internals import _core

Array: TypeAlias = np.ndarray[Any, Any]
Shape: TypeAlias = tuple[int, ...]
Gradients: TypeAlias = list[Array | None]

STEPS = 5

VECTORS: list[Shape] = [
    (33,),
    (0,),
    (3 * _core.tile + 7,),
    (1,),
    (_core.tile - 1,),
    (31,),
    (_core.tile,),
    (_core.tile + 1,),
]
"""Around what a kernel takes at once, and what it adds at once."""

MATRICES: list[Shape] = [
    (70, 67),
    (6, 11),
    (11, 6),
    (1, 9),
    (9, 1),
    (0, 4),
    (3, 0),
    (),
    (9,),
    (2, 3, 4),
    (3, 4100),
    (7, 5),
    (66, 150),
    (33,),
    (2, 3, 4),
    (2, 2, 3, 4),
    (9, 1),
    (),
]
"""And stacks of them, and what is none: more than a tile, a thread, a block of rows, a block of columns."""

FEW_VECTORS: list[Shape] = [(7,), (40,), (0,), (33,), (), (2, 5), (1,), (129,)]
FEW_MATRICES: list[Shape] = [(7, 5), (11, 6), (9,), (2, 3, 4), (1, 9), (6, 11), (9, 1), (2, 2, 3, 4), ()]
"""Small ones, for what has nothing to do with their size."""

GROUPS: dict[str, list[Options]] = {
    "LARS": [
        {"trust_coefficient": 0.1},
        {"lr": 0.5, "weight_decay": 0.1, "eps": 0.01},
        {"lr": 0.01, "momentum": 0.5, "trust_coefficient": 1.0},
    ],
    "LAMB": [{}, {"lr": 0.05, "weight_decay": 0.0, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.75}],
    "StableAdamW": [{}, {"lr": 0.05, "weight_decay": 0.3, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.75}],
    "NovoGrad": [{}, {"lr": 0.05, "weight_decay": 0.3, "eps": 0.01}, {"beta1": 0.5, "beta2": 0.25}],
    "Prodigy": [
        {"d_coef": 8.0},
        {"lr": 0.5, "d0": 1e-3, "weight_decay": 0.1, "safeguard_warmup": True, "d_coef": 20.0},
        {"d0": 0.01, "growth_rate": 1.5, "bias_correction": True, "d_coef": 40.0},
    ],
    "Adam": [{}, {"lr": 0.05, "cautious": True}, {"beta1": 0.5, "cautious": True, "amsgrad": True}],
    "AdamW": [{"cautious": True, "weight_decay": 0.2}, {"amsgrad": True}, {"lr": 0.05}],
    "Lion": [{}, {"lr": 0.01, "beta1": 0.5}, {"lr": 0.01, "cautious": True}],
    "MADGRAD": [{}, {"lr": 0.05, "momentum": 0.5}, {"eps": 0.1}],
    "ScheduleFreeSGD": [{"lr": 0.1}, {"lr": 0.2, "momentum": 0.3, "weight_decay": 0.1}, {"warmup_steps": 3}],
    "ScheduleFreeAdamW": [{}, {"lr": 0.1, "beta1": 0.3, "weight_decay": 0.1}, {"warmup_steps": 3, "r": 1.0}],
    "QHAdam": [{}, {"nu1": 0.5, "nu2": 0.9, "beta1": 0.75, "eps": 1e-3}, {"lr": 0.05, "beta2": 0.75}],
    "Muon": [
        {"lr": 0.02},
        {
            "lr": 0.05,
            "nesterov": False,
            "match_rms": True,
            "weight_decay": 0.3,
            "ns_steps": 3,
            "momentum": 0.5,
        },
        {"lr": 0.01, "matrices": False, "beta1": 0.5},
    ],
    "Adafactor": [
        {},
        {"lr": 0.5, "beta2_decay": -0.5, "weight_decay": 0.1, "d": 1.5},
        {"lr": 0.1, "eps1": 0.3, "eps2": 0.7},
    ],
}
"""Options of three groups that show what is special about a rule; `groups_of` makes those of the others."""

MEASURING: dict[str, Options] = {
    "LARS": {"trust_coefficient": 0.1, "weight_decay": 0.1},
    "LAMB": {"lr": 0.01},
    "StableAdamW": {"lr": 0.01},
    "NovoGrad": {"lr": 0.01, "weight_decay": 0.1},
    "Prodigy": {"d0": 0.01, "d_coef": 8.0},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01},
    "Lion": {"lr": 0.01},
    "Muon": {"lr": 0.1},
    "Adafactor": {"lr": 0.3},
}
"""Options with which a few steps show what a rule measures."""

EXAMPLES: list[tuple[str, Options]] = [
    (rule, MEASURING.get(rule, {}) | options) for rule in fs.rules for options in choosing(rule)
]
"""Every rule, with each choice of its kernels."""

MEASURED = [example for example in EXAMPLES if measures(*example)]
"""Those whose step depends on sums over a tensor."""

OF_MATRICES = [example for example in EXAMPLES if matrix_kernel_of(*example)]
"""Those with a kernel of matrices."""


@cache
def is_all_of_elements(rule: str) -> bool:
    """Whether all that it can do is in loops over elements, which tests of kernels run at every length."""
    copied = any(slot.start == "p" for slot in fs.rules[rule].slots.values())
    return not copied and all(is_elementwise(rule, options) for options in choosing(rule))


def shapes_of(rule: str) -> list[Shape]:
    """Shapes of parameters that reach all that a rule does."""
    if matrix_kernel_of(rule, {}):
        return MATRICES
    return FEW_VECTORS if is_all_of_elements(rule) else VECTORS


def mixes_of(rule: str) -> list[str]:
    """All mixes, but of rules whose loops run in all of them in tests of kernels some."""
    if not takes_16_bits(rule):
        return ["float32", "float64", "gradients in float16"]
    return ["float32", "of all types"] if is_all_of_elements(rule) else list(MIXES)


def few_shapes_of(rule: str) -> list[Shape]:
    """The same of few elements."""
    return FEW_MATRICES if matrix_kernel_of(rule, {}) else FEW_VECTORS


def groups_of(rule: str) -> list[Options]:
    """Options of three groups that differ in all that a rule has."""
    if rule in GROUPS:
        return GROUPS[rule]
    own = {name: v for name, v in alternatives(fs.rules[rule]).items() if name not in COMMON}
    return [{}, own, {"lr": alternatives(fs.rules[rule])["lr"], **choosing(rule)[-1]}]


def parameters(shapes: Iterable[Shape], mix: str = "float64") -> list[Array]:
    """Of a mix's dtypes by turns."""
    kinds, _, _ = MIXES[mix]
    return [normal(i, shape, DTYPES[kinds[i % len(kinds)]]) for i, shape in enumerate(shapes)]


def kept_in(rule: str, slot: str, slots: Iterable[str], p: Array, state_dtype: str | None = None) -> Any:
    """The dtype of a slot of a parameter that has these slots: what is asked for, or that of the parameter.

    By default float16 is too small for squares, and for all that is kept beside them but the average.
    """
    if slot in fs.rules[rule].numbers:
        return np.dtype(np.float64)
    squares = any(s.squares for name, s in fs.rules[rule].every_slot.items() if name in slots and not s.kept)
    wide = squares and p.dtype == np.float16 and slot != "ema"
    return DTYPES[state_dtype or ("float32" if wide else p.dtype.name)]


def drawn(rule: str, t: int, seed: int, shape: Shape, dtype: Any = np.float64) -> Array:
    """A gradient of step t that shows what is special about a rule.

    That of Adafactor grows, so that it is clipped. Most others lean to one side, without which Prodigy's d
    would stay where it is.
    """
    plain = normal(seed, shape)
    if rule == "Adafactor":
        return np.asarray(1.5**t * plain).astype(dtype)
    return np.asarray(plain if rule == "Muon" else plain + 1.5).astype(dtype)


def gradients(rule: str, t: int, like: Sequence[Array], mix: str = "float64") -> Gradients:
    """Those of step t: for most parameters, and for none at one step."""
    _, kind, _ = MIXES[mix]
    return [
        None
        if (i + t) % 4 == 0 or t == 3
        else drawn(rule, t, 100 * t + i, p.shape, DTYPES[kind] if kind else p.dtype)
        for i, p in enumerate(like)
    ]


def all_gradients(rule: str, t: int, like: Sequence[Array]) -> list[Array]:
    """Those of step t for all parameters."""
    return [drawn(rule, t, 100 * t + i, p.shape, p.dtype) for i, p in enumerate(like)]


def by_number(values: Iterable[Any]) -> dict[int, Any]:
    """Named by their position."""
    return dict(enumerate(values))


def nothing(like: Sequence[Array]) -> dict[int, Any]:
    """No gradient for any of them."""
    return dict.fromkeys(range(len(like)))


def in_groups(p: Sequence[Array], groups: Sequence[Options]) -> list[Options]:
    """The parameters in groups by turns, named by their number."""
    count = len(groups)
    return [{"params": {i: p[i] for i in range(k, len(p), count)}, **own} for k, own in enumerate(groups)]


def grouped(rule: str, p: Sequence[Array], **options: Any) -> Any:
    """An optimizer that has the parameters in its rule's three groups."""
    return fs.rules[rule](in_groups(p, groups_of(rule)), **options)


def step(opt: Any, grads: Any, **options: Any) -> fs.StepResult:
    """A step, with a loss that depends on the step alone for rules that need one."""
    loss = {"loss": 1.0 + 1.0 / (opt.t + 1)} if opt.needs_loss else {}
    result: fs.StepResult = opt.step(grads, **loss, **options)
    return result


def snapshot(opt: Any, p: Sequence[Array]) -> dict[str, Array]:
    """Copies of all that a step may change."""
    found = {f"p {i}": array.copy() for i, array in enumerate(p)}
    for name, slots in opt.state.items():
        found |= {f"{slot} {name}": array.copy() for slot, array in slots.items()}
    for k, group in enumerate(opt.groups):
        found |= {f"{name} of group {k}": np.array(value) for name, value in group.scalars.items()}
    return found | {"t": np.array(float(opt.t))}


def of_tensor(found: dict[str, Array], i: int) -> dict[str, Array]:
    """What of a snapshot is of the tensor i."""
    return {k: a for k, a in found.items() if k.endswith(f" {i}") and " of group " not in k}
