"""RowwiseAdagrad, of which a matrix has one number a row, in dense steps and in steps of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.helpers.engines import MIXES, normal
from tests.helpers.exactly import assert_same, same_bits
from tests.helpers.tables import FEW_ENGINES, SHAPES, calls, made, snapshot, summed, tables, use


@pytest.mark.parametrize("mix", MIXES)
def test_in_every_mix(mix: str) -> None:
    """The same from every engine, also where the dense step rounds more; near what float64 makes of it."""
    _, kind, state_dtype = MIXES[mix]
    results = []
    for backend, isa, threads in FEW_ENGINES:
        use(isa, threads)
        params = tables(mix)
        given = calls(params, kind=kind)
        opt = made("RowwiseAdagrad", params, state_dtype=state_dtype, backend=backend, ema=0.5)
        for call in given:
            opt.step_rows(*call)
        results.append(snapshot(opt, params))
    for result in results[1:]:
        assert_same(result, results[0], mix)
    wide = {name: p.astype(np.float64) for name, p in tables(mix).items()}
    opt = made("RowwiseAdagrad", wide)
    for name, rows, grads in given:
        opt.step_rows(name, rows, grads.astype(np.float64))
    for name, p in wide.items():
        np.testing.assert_allclose(results[0][str(name)].astype(np.float64), p, atol=0.02)


@pytest.mark.parametrize(("kind", "rtol"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("width", [1, 3, 5000])
def test_by_hand(width: int, kind: str, rtol: float, backend: Any) -> None:
    """s ← s + mean(g²); p ← p - lr·g / (√s + eps), of each row."""
    lr, eps, l2, decay = 0.1, 1e-3, 0.02, 0.3
    table = normal(0, (6, width), kind)
    opt = made(
        "RowwiseAdagrad", [table], lr=lr, eps=eps, l2=l2, weight_decay=decay, maximize=True, backend=backend
    )
    p, s = table.astype(np.float64), np.zeros(6)
    for t in range(6):
        rows = np.array([5, 1, 5, 2]) if t % 2 else np.arange(6)
        grads = normal(10 + t, (len(rows), width), kind)
        if t % 2:
            opt.step_rows(0, rows, grads, scale=0.5)
        else:
            opt.step([grads], scale=0.5)
        unique, g = summed(rows, grads.astype(np.float64), np.float64)
        g = -0.5 * g + l2 * p[unique]
        s[unique] += (g * g).mean(axis=1)
        p[unique] = (1 - lr * decay) * p[unique] - lr * g / (np.sqrt(s[unique]) + eps)[:, None]
    np.testing.assert_allclose(table, p, rtol, 10 * rtol)
    np.testing.assert_allclose(opt.state[0]["s"], s, rtol)


def test_other_arrays_step_as_by_adagrad(backend: Any) -> None:
    """Those of one axis, or three, are stepped as by Adagrad."""
    p, q = tables(), tables()
    by_row = made("RowwiseAdagrad", p, backend=backend)
    elementwise = made("Adagrad", q, backend=backend)
    for each in (by_row, elementwise):
        for call in calls(p):
            each.step_rows(*call)
        each.step({name: np.ones_like(a) for name, a in p.items()})
    assert {name: slots["s"].shape for name, slots in by_row.state.items()} == SHAPES | {"matrix": (11,)}
    found, expected = snapshot(by_row, p), snapshot(elementwise, q)
    different = {name for name in found if found[name].tobytes() != expected[name].tobytes()}
    assert different == {"matrix", "s of matrix"}


def test_overflow_in_16_bits_is_no_error(backend: Any) -> None:
    table = np.zeros((4, 4), np.float16)
    opt = made("RowwiseAdagrad", table, state_dtype="float16", backend=backend)
    with np.errstate(all="raise"):
        opt.step_rows(0, np.arange(4), np.full((4, 4), 300, np.float16))
    assert np.isinf(opt.state["s"]).all()
    assert opt.row_steps == {0: 1}
    assert (table < 0).all()


def test_a_gradient_in_the_numbers_of_rows(backend: Any) -> None:
    table = np.zeros((64, 4), np.float32)
    opt = made("RowwiseAdagrad", table, backend=backend)
    opt.step_rows(0, np.arange(64), np.ones((64, 4), np.float32))
    before = table.copy()
    with pytest.raises(ValueError, match="state 's'"):
        opt.step_rows(0, np.arange(8), opt.state["s"][:32].reshape(8, 4))
    assert same_bits(table, before)
