"""The schedule-free rules: their two modes, one to step in, one to evaluate."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.engines import BACKENDS, DTYPES, MIXES, ml_dtypes, normal, with_gaps
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.examples import (
    VECTORS,
    Array,
    by_number,
    gradients,
    grouped,
    nothing,
    parameters,
    snapshot,
)

RULES = [name for name, rule in fs.rules.items() if "evaluating" in rule.scalars]

each_free = pytest.mark.parametrize("rule", RULES)


def test_these_rules() -> None:
    assert RULES == ["ScheduleFreeSGD", "ScheduleFreeAdamW"]


def trained(rule: str, p: list[Array], backend: Any, steps: int = 4, **options: Any) -> Any:
    opt: Any = grouped(rule, p, backend=backend, **options)
    for t in range(steps):
        opt.step(by_number([normal(70 * t + i, a.shape, a.dtype) for i, a in enumerate(p)]))
    return opt


@each_free
def test_no_step_while_evaluating(rule: str, backend: Any) -> None:
    p = parameters(VECTORS)
    opt = trained(rule, p, backend)
    opt.eval()
    before = snapshot(opt, p)
    grads = [normal(i, a.shape) for i, a in enumerate(p)]
    for options in ({}, {"clip_norm": 1.0, "zero_grad": True, "skip_nonfinite": True}):
        with pytest.raises(RuntimeError, match="train"):
            opt.step(by_number(grads), **options)
        assert_same(snapshot(opt, p), before)
        assert all(same_bits(g, normal(i, g.shape)) for i, g in enumerate(grads))
    with pytest.raises(RuntimeError, match="train"):
        opt.step(nothing(p))
    assert opt.t == 4
    opt.train()
    opt.groups[2].scalars["evaluating"] = 1.0  # and no other
    before = snapshot(opt, p)
    with pytest.raises(RuntimeError, match="train"):
        opt.step(by_number(grads))
    assert_same(snapshot(opt, p), before)
    opt.train()
    opt.step(by_number(grads))
    assert opt.t == 5


@pytest.mark.parametrize("kind", DTYPES)
@each_free
def test_modes_are_idempotent_and_inverse(rule: str, kind: str, backend: Any) -> None:
    p = parameters(VECTORS, kind)
    opt = trained(rule, p, backend)
    training = snapshot(opt, p)
    opt.train()
    assert_same(snapshot(opt, p), training)
    opt.eval()
    evaluating = snapshot(opt, p)
    assert [group.scalars["evaluating"] for group in opt.groups] == [1.0] * 3
    opt.eval()
    assert_same(snapshot(opt, p), evaluating)
    opt.train()
    back = snapshot(opt, p)
    eps = float(ml_dtypes.finfo(DTYPES[kind]).eps)
    for name, array in back.items():
        wide, before, away = (a.astype(np.float64) for a in (array, training[name], evaluating[name]))
        if name.startswith("p "):
            assert np.allclose(wide, before, rtol=4 * eps, atol=40 * eps)
            assert array.size == 0 or np.abs(away - before).max() > 100 * eps or array.itemsize == 2
        else:
            assert same_bits(np.atleast_1d(array), np.atleast_1d(training[name]))


@pytest.mark.parametrize("mix", MIXES)
@each_free
def test_eval_by_hand(rule: str, mix: str, backend: Any) -> None:
    """x = y + (1 - 1/β)·(z - y), in the type that is computed in, rounded once."""
    p = [
        a.reshape(-1, 1)[::-1] if i == 2 else with_gaps(a) if i == 0 else a
        for i, a in enumerate(parameters(VECTORS, mix))
    ]
    opt = trained(rule, p, backend, state_dtype=MIXES[mix][2])
    beta = "momentum" if rule == "ScheduleFreeSGD" else "beta1"
    for switch in (opt.eval, opt.train):
        expected = []
        for i, a in enumerate(p):
            number = np.float64 if a.dtype == np.float64 else np.float32
            weight = opt.groups[i % 3][beta]
            weight = 1 - 1 / weight if switch == opt.eval else 1 - weight
            y, z = a.astype(number), opt.state[i]["z"].astype(number)
            expected.append((y + number(weight) * (z - y)).astype(a.dtype))
        switch()
        assert all(same_bits(a, b) for a, b in zip(p, expected, strict=True))


@each_free
def test_eval_of_a_read_only_parameter(rule: str, backend: Any) -> None:
    """An error before anything has changed, in either direction."""
    p = parameters(VECTORS)
    opt = trained(rule, p, backend)
    for switch in (opt.eval, opt.train):
        before = snapshot(opt, p)
        p[-1].flags.writeable = False
        with pytest.raises(ValueError, match="parameter 7 is read-only"):
            switch()
        assert_same(snapshot(opt, p), before)
        p[-1].flags.writeable = True
        switch()
        assert not same_bits(p[0], before["p 0"])


@each_free
def test_modes_do_not_warn(rule: str, backend: Any) -> None:
    """As a step does not; a warning that is made an error would leave half of the parameters switched."""
    p: list[Array] = [
        np.ones(2, np.float32),
        np.full(2, 6e4, np.float16),
        np.full(1, np.inf),
        np.full(1, np.nan),
    ]
    opt: Any = fs.rules[rule](p, backend=backend)
    opt.state[1]["z"][...] = -6e4
    opt.eval()
    assert np.isposinf(p[1]).all()
    assert np.isnan([p[2], p[3]]).all()
    opt.train()
    assert (p[0] == 1).all()


@pytest.mark.parametrize("saving", BACKENDS)
@each_free
def test_the_mode_is_saved(rule: str, saving: Any, backend: Any) -> None:
    p = parameters(VECTORS, "float32")
    opt = trained(rule, p, saving)
    opt.eval()
    saved = pickle.loads(pickle.dumps(opt.state_dict()))
    q = [a.copy() for a in p]
    other = grouped(rule, q, backend=backend)
    other.load_state_dict(saved)
    with pytest.raises(RuntimeError, match="train"):
        other.step(nothing(p))
    other.eval()
    assert_same(snapshot(other, q), snapshot(opt, p))
    for each, arrays in ((opt, p), (other, q)):
        each.train()
        each.step(by_number(gradients(rule, 1, arrays, "float32")))
    assert_same(snapshot(other, q), snapshot(opt, p))


@pytest.mark.parametrize("options", [{"r": 1e300}, {"r": 2000.0}, {"r": 2000.5}, {"lr": 1e300}])
@each_free
def test_a_weight_that_no_number_holds(rule: str, options: dict[str, float], backend: Any) -> None:
    """An average with it would be no number either."""
    p = [np.ones(2)]
    opt = fs.rules[rule](p, backend=backend)
    opt.step([np.ones(2)])
    for name, value in options.items():
        setattr(opt, name, value)
    before = snapshot(opt, p)
    with pytest.raises(ValueError, match="no finite step"):
        opt.step([np.ones(2)])
    assert_same(snapshot(opt, p), before)
