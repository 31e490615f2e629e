"""What a step does beside the rule, done by hand to the arrays before and after a plain step; every rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, matrix_kernel_of
from tests.helpers.engines import DTYPES
from tests.helpers.exactly import assert_same
from tests.helpers.examples import (
    Array,
    Gradients,
    all_gradients,
    by_number,
    drawn,
    grouped,
    groups_of,
    in_groups,
    parameters,
    shapes_of,
    snapshot,
    step,
)

Decay = Callable[[int], float]

OF_STEPS: list[Options] = [
    {"scale": 0.5},
    {"scale": -1.5, "clip_norm": 3.0},
    {"clip_value": 0.3, "zero_grad": True},
    {"scale": 3.0, "clip_norm": 2.0, "clip_value": 0.01, "skip_nonfinite": True},
]
L1, L2, EMA = 0.01, 0.02, 0.75


def scheduled(t: int) -> float:
    return 0.3 / t


def clipped(grads: Gradients, order: list[int], number: Any, options: Options) -> Gradients:
    """Gradients, negated, as they are after what a step does to them first."""
    limit, scale = options.get("clip_value", math.inf), options.get("scale", 1.0)
    if "clip_norm" in options:
        norm = fs.global_norm([g for i in order if (g := grads[i]) is not None]) * abs(scale)
        assert options["clip_norm"] < norm
        scale *= options["clip_norm"] / (norm + 1e-6)
    return [
        None if g is None else np.asarray(np.clip(number(-scale) * g, number(-limit), number(limit)))
        for g in grads
    ]


@pytest.mark.parametrize("decay", [scheduled, None], ids=["scheduled decay", "decay of groups"])
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("rule", fs.rules)
def test_options_by_hand(rule: str, kind: str, decay: Decay | None, backend: Any) -> None:
    """Penalties and decay, unless they are the rule's own; clipping, scaling, maximizing; the average."""
    cls: Any = fs.rules[rule]
    number = DTYPES[kind].type
    own = cls.takes
    p, q = parameters(shapes_of(rule), kind), parameters(shapes_of(rule), kind)
    groups = groups_of(rule)
    decays = [scheduled if decay else group.get("weight_decay", cls.weight_decay) for group in groups]
    groups = [{k: v for k, v in group.items() if k != "weight_decay"} for group in groups]
    penalties = {"l1": L1, "l2": L2}
    opt = cls(
        in_groups(p, [{**group, "weight_decay": d} for group, d in zip(groups, decays, strict=True)]),
        **penalties,
        ema=EMA,
        maximize=True,
        backend=backend,
    )
    plain = cls(
        in_groups(q, groups),
        weight_decay=0.0,
        backend=backend,
        **{name: value for name, value in penalties.items() if name in own},
    )
    l1, l2 = (0.0 if name in own else value for name, value in penalties.items())
    means = [array.copy() for array in q]
    lr: list[float] = [group["lr"] for group in plain.groups]
    order = [i for k in range(3) for i in range(k, len(p), 3)]
    for t, options in enumerate(OF_STEPS, 1):
        now = [d(t) if callable(d) else d for d in decays]
        grads: Gradients = [
            drawn(rule, t, 50 * t + i, a.shape, number) if (i + t) % 4 else None for i, a in enumerate(p)
        ]
        seen = clipped(grads, order, number, options)
        for i, (g, a) in enumerate(zip(seen, q, strict=True)):
            if g is not None:
                seen[i] = np.asarray(g + number(l2) * a + number(l1) * np.sign(a))
                if "weight_decay" not in own:
                    a[...] = number(1 - lr[i % 3] * now[i % 3]) * a
        if "weight_decay" in own:
            for group, value in zip(plain.groups, now, strict=True):
                group["weight_decay"] = value
        result = step(opt, by_number(grads), **options)
        assert result.skipped is False
        assert (result.grad_norm is None) == (t in {1, 3})
        step(plain, by_number(seen))
        for given, a, mean in zip(grads, q, means, strict=True):
            if given is not None:
                mean[...] = number(EMA) * mean + number(1 - EMA) * a
                assert bool(given.any()) != (options.get("zero_grad", False) or given.size == 0)
    found = snapshot(opt, p)
    averages = {f"ema {i}": found.pop(f"ema {i}") for i in range(len(p))}
    assert_same(averages, {f"ema {i}": m for i, m in enumerate(means)})
    assert_same(found, snapshot(plain, q))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("rule", fs.rules)
def test_a_skipped_step_changes_nothing(rule: str, bad: float, backend: Any) -> None:
    """Whichever gradient has what is not finite: one of a vector or of a matrix."""
    p = parameters(shapes_of(rule))
    opt = grouped(rule, p, backend=backend, ema=0.5)
    step(opt, by_number(all_gradients(rule, 1, p)))
    before = snapshot(opt, p)
    for spoilt in (1, 7, 13) if matrix_kernel_of(rule, {}) else (7,):
        if not p[spoilt].ndim:
            continue
        grads: list[Array] = all_gradients(rule, 2, p)
        grads[spoilt].flat[-1] = bad
        assert step(opt, by_number(grads), skip_nonfinite=True, zero_grad=True).skipped
        assert not any(g.any() for g in grads)
        assert_same(snapshot(opt, p), before)
