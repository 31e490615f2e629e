"""The sums over a tensor that a step depends on: of the terms of the formula, in one order, whatever runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, id_of, kernel_of
from tests.helpers.engines import DTYPES, ENGINES
from tests.helpers.examples import MEASURED, VECTORS, Array
from tests.helpers.internals import At, Coefficients, Squares, _core
from tests.helpers.sums import lanes_by_halves, rough


def in_other_orders(terms: list[float]) -> list[float]:
    eights = [lanes_by_halves(terms[k::8]) for k in range(8)]
    return [sum(terms), sum(terms[::-1]), float(np.sum(terms)), lanes_by_halves(terms[::-1]), sum(eights)]


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("n", [n for (n,) in VECTORS])
def test_order_of_the_sums(n: int, kind: str) -> None:
    """As NovoGrad shows it, whose v is the sum of squares at first."""
    for seed in range(100):
        g = rough(seed, n, DTYPES[kind])
        squares = [float(x) * float(x) for x in g]
        expected = lanes_by_halves(squares)
        if n < _core.tile or expected not in in_other_orders(squares):
            break
    else:
        pytest.fail("no gradient of which the sum depends on the order")
    assert expected == pytest.approx(math.fsum(squares), rel=1e-12)
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        opt = fs.NovoGrad([np.ones(7), np.ones(n, DTYPES[kind])], backend=engine)
        opt.step([np.ones(7), g])
        v = opt.state[1]["v"]
        assert (v.dtype, v.shape) == (np.float64, ())
        assert v == expected, (engine, isa, threads)
        assert opt.state[0]["v"] == 7
        opt.step([None, np.zeros_like(g)])
        assert v == 0.98 * expected, (engine, isa, threads)
        assert opt.state[0]["v"] == 7


def test_the_sums_are_of_the_gradient_that_the_rule_sees(backend: Any) -> None:
    n = 2 * _core.tile + 9
    p, g = rough(1, n, np.float64), rough(2, n, np.float64)
    seen = np.clip(-0.375 * g, -2.0, 2.0) + 0.01 * p + 0.02 * np.sign(p)
    opt = fs.NovoGrad(p, l1=0.02, l2=0.01, maximize=True, backend=backend)
    opt.step(g, scale=0.375, clip_value=2.0)
    assert opt.state["v"] == lanes_by_halves([x * x for x in seen.tolist()])


@pytest.mark.parametrize(
    ("rule", "options"), [each for each in MEASURED if kernel_of(*each).measures], ids=id_of
)
def test_sums_of_every_rule(rule: str, options: Options) -> None:
    """All of them in this order, in double, of terms that are the formula's; with the size beside them."""
    cls: Any = fs.rules[rule]
    loss = 1.5 if cls.needs_loss else None
    seen: list[Any] = []

    class Watched(cls):  # type: ignore[misc]
        @classmethod
        def adapt(cls, h: Any, t: int, measured: Any) -> Any:
            seen.append(measured)
            return super().adapt(h, t, measured)

    sizes = [2 * _core.tile + 33, 0, 40]
    start, given = [rough(n, n, np.float32) for n in sizes], [rough(n + 1, n, np.float32) for n in sizes]
    for engine, isa, threads in ENGINES:
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        p = [a.copy() for a in start]
        opt = Watched(p, **options, backend=engine)
        kernel, group = opt.groups[0].kernel, opt.groups[0]
        measure = kernel.sweeps[-1].measure
        assert measure is not None
        for t in (1, 2):
            h = At({**group.at(t), "kernel": kernel, "sweep": kernel.sweeps[-1]})
            vars(h).update(cls.advance(h, t, loss))
            c: Any = Coefficients(cls.coefficients(h, t), np.dtype(np.float32))
            keep = 1.0 if "weight_decay" in cls.takes else np.float32(1 - h.lr * h.weight_decay)
            terms: list[tuple[Array, ...]] = [
                measure(c, keep * q, g, *(opt.state[i][slot].copy() for slot in kernel.operands))
                for i, (q, g) in enumerate(zip(p, given, strict=True))
            ]
            opt.step(given, loss=loss)
            measured = seen.pop()
            assert measured.sizes.tolist() == sizes
            squared = isinstance(terms[0], Squares)
            assert len(measured.sums) == len(terms[0]) * (3 if squared else 1)
            for k, sums in enumerate(measured.squares if squared else measured.sums):
                added = [of_tensor[k].astype(np.float64) for of_tensor in terms]
                expected = [lanes_by_halves((x * x if squared else x).tolist()) for x in added]
                assert sums.dtype == np.float64
                assert sums.tolist() == expected, (k, t, engine, isa, threads)
