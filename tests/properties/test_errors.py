"""After an error, whenever it comes, nothing has changed, and the next step is as if it had not been.

Every rule: errors of gradients, options and schedules, and those within the step, of what measures and turns.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, id_of, matrix_kernel_of
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.examples import (
    MATRICES,
    MEASURED,
    Array,
    all_gradients,
    by_number,
    grouped,
    parameters,
    shapes_of,
    snapshot,
    step,
)

OF_MATRICES = [rule for rule in fs.rules if matrix_kernel_of(rule, {})]


def broken(t: int) -> float:
    if t == 2:
        raise ArithmeticError("no l2")
    return 0.1


@pytest.mark.parametrize("rule", fs.rules)
def test_errors_leave_everything(rule: str, backend: Any) -> None:
    p = parameters(shapes_of(rule))
    opt = grouped(rule, p, backend=backend, l2=broken)
    step(opt, by_number(all_gradients(rule, 1, p)))
    before = snapshot(opt, p)
    good = by_number(all_gradients(rule, 2, p))

    def check(grads: dict[int, Any], error: Any, message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            step(opt, grads, zero_grad=True, clip_norm=1.0, **options)
        assert_same(snapshot(opt, p), before)
        assert all(map(same_bits, good.values(), all_gradients(rule, 2, p)))

    check(good, ArithmeticError, "no l2")
    opt.l2 = 0.1
    for i, a in enumerate(p):
        check({**good, i: np.ones((*a.shape, 3))}, ValueError, f"gradient {i} has shape")
        if a.shape != a.shape[::-1]:
            check({**good, i: np.ones(a.shape[::-1])}, ValueError, f"gradient {i} has shape")
        check({**good, i: good[i].astype(np.float32)}, TypeError, f"gradient {i} has dtype")
        if a.size:
            check({**good, i: a}, ValueError, "shares memory")
            check({**good, i: a[::-1] if a.ndim else a[...]}, ValueError, "shares memory")
        a.flags.writeable = False
        check(good, ValueError, f"parameter {i} is read-only")
        a.flags.writeable = True
    check(good, ValueError, "scale", scale=math.nan)
    step(opt, good)
    assert opt.t == 2


@pytest.mark.parametrize("rule", fs.rules)
def test_a_gradient_in_state(rule: str, backend: Any) -> None:
    """In any array of any kernel: it would change before it is read, or be set to 0."""
    found = set()
    for shape in [(), (1, 9), (9, 1), (5,), (3, 4), (2, 3, 4)]:
        p = [np.ones(shape)]
        opt = fs.rules[rule](p, ema=0.5, backend=backend)
        step(opt, [np.ones(shape)])
        before = snapshot(opt, p)
        for name, array in opt.state[0].items():
            if array.shape == shape:
                found.add(name)
                for zero_grad in (False, True):
                    with pytest.raises(ValueError, match=f"shares memory with state '{name}'"):
                        step(opt, [array], zero_grad=zero_grad)
                    assert_same(snapshot(opt, p), before)
    assert found == {name for shape in [(), (3, 4)] for name in fs.rules[rule](np.ones(shape), ema=0.5).state}


# Within the step.


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize(
    ("mix", "after"), [("float64", 0), ("float64", 1), ("float64", 3), ("of all types", 2)]
)
@pytest.mark.parametrize("rule", OF_MATRICES)
def test_errors_in_a_direction(
    rule: str, mix: str, after: int, error: type[BaseException], backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many directions were made."""
    kernel = matrix_kernel_of(rule, {})
    assert kernel is not None
    p, q = parameters(MATRICES[:10], mix), parameters(MATRICES[:10], mix)
    memory = np.repeat(p[1], 2, axis=1)
    p[1] = memory[:, ::2]
    structural = {name: True for name in ("amsgrad",) if name in fs.rules[rule]._fields}
    opt, other = (grouped(rule, x, backend=backend, ema=0.5, **structural) for x in (p, q))
    turn: Any = kernel.turn
    calls: list[Any] = []

    def breaking(*given: Any, **slots: Any) -> Any:
        calls.append(given)
        if len(calls) > after:
            raise error
        return turn(*given, **slots)

    for t in range(1, 4):
        before, grads = snapshot(opt, p), all_gradients(rule, t, p)
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setitem(vars(kernel), "turn", breaking)
            with pytest.raises(error):
                step(opt, by_number(grads), zero_grad=True, clip_norm=1.0)
        assert len(calls) == after + 1
        assert_same(snapshot(opt, p), before)
        assert all(map(same_bits, grads, all_gradients(rule, t, p)))
        for each in (opt, other):
            step(each, by_number(grads))
        assert_same(snapshot(opt, p), snapshot(other, q), t)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
@pytest.mark.parametrize(("rule", "options"), MEASURED, ids=id_of)
def test_an_error_after_measuring(
    rule: str, options: Options, error: type[BaseException], monkeypatch: pytest.MonkeyPatch, backend: Any
) -> None:
    """Where directions are made too, but nothing is written."""
    p, q = parameters(shapes_of(rule)), parameters(shapes_of(rule))
    opt, other = (fs.rules[rule](x, **options, backend=backend) for x in (p, q))
    grads: list[Array] = all_gradients(rule, 1, p)
    for each in (opt, other):
        step(each, grads)
    before = snapshot(opt, p)

    def adapt(*_: Any) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(fs.rules[rule], "adapt", adapt)
        with pytest.raises(error):
            step(opt, grads, zero_grad=True)
    assert_same(snapshot(opt, p), before)
    for each in (opt, other):
        step(each, grads, scale=-2.0)
    assert_same(snapshot(opt, p), snapshot(other, q))
