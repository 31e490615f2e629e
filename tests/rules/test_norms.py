"""What only Prodigy and NovoGrad have: sums over groups, a count of its own; a number of each tensor."""

from __future__ import annotations

from typing import Any

import numpy as np

import fusedstep as fs
from tests.helpers.choices import Options
from tests.helpers.engines import normal
from tests.helpers.exactly import assert_same
from tests.helpers.examples import STEPS, Array, parameters, snapshot


def leaning(seed: int, shape: Any) -> Array:
    """A gradient that mostly says the same as the others, without which Prodigy's d stays where it is."""
    return np.asarray(normal(seed, shape) + 1.5)


def test_prodigys_groups_are_each_their_own(backend: Any) -> None:
    """Its sums are over a group, of which the others have no share, nor their place."""
    start = parameters([(40,), (5000,), (3,), (9,)])
    options: Options = {"d0": 0.01, "d_coef": 8.0}
    given = [[leaning(10 * t + i, p.shape) for i, p in enumerate(start)] for t in range(STEPS)]

    def run(*groups: list[int]) -> dict[str, Array]:
        p = {i: start[i].copy() for group in groups for i in group}
        opt = fs.Prodigy([{"params": {i: p[i] for i in g}} for g in groups], **options, backend=backend)
        for grads in given:
            opt.step({i: grads[i] for i in p})
        found = {f"p {i}": array for i, array in p.items()}
        for group, has in zip(groups, opt.groups, strict=True):
            found |= {f"{name} of {group[0]}": np.array(value) for name, value in has.scalars.items()}
        return found

    together = run([0, 1], [2, 3])
    assert_same(run([2, 3], [0, 1]), together)
    assert_same(run([0, 1]) | run([2, 3]), together)
    assert together["d of 0"] != together["d of 2"]
    assert run([0, 1, 2, 3])["d of 0"] not in (together["d of 0"], together["d of 2"])


def test_prodigy_counts_the_steps_that_it_takes(backend: Any) -> None:
    """Those before any gradient, or with lr = 0, change nothing of what follows."""
    start, given = normal(0, 50), [leaning(t, 50) for t in range(1, 5)]

    def run(idle: bool) -> dict[str, Array]:
        p = start.copy()
        opt = fs.Prodigy([p], bias_correction=True, d0=0.01, backend=backend)
        if idle:
            opt.step([None])
            opt.step([np.zeros(50)])
        for t, g in enumerate(given):
            opt.step([g])
            if idle and t == 1:
                opt.lr = 0.0
                opt.step([normal(9, 50)])
                opt.lr = 1.0
        return snapshot(opt, [p]) | {"t": np.array(0.0)}

    assert_same(run(True), run(False))


def test_nothing_is_made_of_a_tensor_without_gradient(backend: Any) -> None:
    """Of an empty one neither."""
    p = [np.ones(3), np.zeros((0, 4))]
    opt = fs.NovoGrad(p, backend=backend)
    for i in (0, 1):
        opt.state[i]["v"][...] = 5.0
    opt.step([None, None])
    assert [float(opt.state[i]["v"]) for i in (0, 1)] == [5.0, 5.0]
