"""What a step was given is free when the step is over: an optimizer keeps no gradient."""

from __future__ import annotations

import weakref
from contextlib import suppress
from typing import Any

import numpy as np
import pytest

import fusedstep as fs


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"zero_grad": True}], ids="-".join)
@pytest.mark.parametrize("rule", fs.rules)
def test_gradients_are_free_after_a_step(rule: str, options: dict[str, Any], backend: Any) -> None:
    """Of matrices, vectors and parameters with gaps."""
    params = [np.ones((6, 4), np.float32), np.ones(9, np.float32), np.ones((5, 8), np.float32)[:, ::2]]
    opt = fs.rules[rule](params, backend=backend)
    for _ in range(2):
        grads = [np.full(p.shape, 0.5, np.float32) for p in params]
        alive = [weakref.ref(g) for g in grads]
        opt.step(grads, loss=1.0, **options)
        del grads
        assert not any(each() is not None for each in alive)


@pytest.mark.parametrize("rule", [name for name, rule in fs.rules.items() if rule.steps_rows])
def test_rows_are_free_after_a_step(rule: str, backend: Any) -> None:
    table, w = np.ones((6, 4), np.float32), np.ones(3, np.float32)
    opt = fs.rules[rule]({"table": table, "w": w}, backend=backend)
    for by_rows in (True, False):
        values, indices = np.full((2, 4), 0.5, np.float32), np.array([4, 1])
        alive = [weakref.ref(values), weakref.ref(indices)]
        if by_rows:
            opt.step_rows("table", indices, values)
        else:
            opt.step({"table": fs.Rows(indices, values), "w": None})
        del values, indices
        assert not any(each() is not None for each in alive)


@pytest.mark.parametrize("as_rows", [False, True])
def test_a_skipped_step_keeps_no_gradient(backend: Any, as_rows: bool) -> None:
    opt = fs.SGD({"p": np.ones((3, 2))}, backend=backend)
    g = np.full((3, 2), np.nan)
    alive = weakref.ref(g)
    result = opt.step({"p": fs.Rows(np.arange(3), g) if as_rows else g}, skip_nonfinite=True)
    del g
    assert result.skipped
    assert alive() is None


def test_a_step_that_fails_keeps_no_gradient(backend: Any) -> None:
    """It has taken the gradients when it finds that the loss is missing."""
    opt = fs.Eve({"p": np.ones(3)}, backend=backend)
    for _ in range(3):
        g = np.ones(3)
        alive = weakref.ref(g)
        with suppress(ValueError):
            opt.step({"p": g})
        del g
        assert alive() is None
