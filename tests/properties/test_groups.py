"""Optimizers of groups that differ, some parameters without a gradient: every rule, with all its kernels.

Both backends agree, whatever runs; to each tensor its own, whatever the others do; and without a gradient
nothing moves.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import Options, id_of, matrix_kernel_of
from tests.helpers.engines import MIXES, normal
from tests.helpers.exactly import assert_same
from tests.helpers.examples import (
    EXAMPLES,
    MEASURING,
    STEPS,
    Array,
    all_gradients,
    by_number,
    drawn,
    few_shapes_of,
    gradients,
    grouped,
    groups_of,
    is_all_of_elements,
    kept_in,
    mixes_of,
    nothing,
    of_tensor,
    parameters,
    shapes_of,
    snapshot,
    step,
)

each_rule = pytest.mark.parametrize("rule", fs.rules)
each_example = pytest.mark.parametrize(("rule", "options"), EXAMPLES, ids=id_of)


def use(isa: str, threads: int) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)


def moved(before: dict[str, Array], after: dict[str, Array]) -> set[str]:
    return {name for name, array in after.items() if not np.array_equal(array, before[name], equal_nan=True)}


# One result, whatever runs.

FORMS: dict[str, tuple[Options, Options]] = {
    "plain": ({}, {}),
    "all options": ({"ema": 0.5, "l1": 0.01, "l2": 0.02, "maximize": True}, {"clip_norm": 100.0}),
}


def check_step_of_a_tensor(
    rule: str, i: int, g: Array | None, before: dict[str, Array], after: dict[str, Array]
) -> None:
    """With a gradient it moves, without one it does not."""
    if g is None:
        assert_same(after, before)
        return
    shows = moved(before, after)
    narrow = after[f"p {i}"].itemsize == 2  # where a small step may be lost
    assert f"p {i}" in shows or g.size == 0 or narrow or (rule == "ADOPT" and shows == {f"v {i}"})
    if rule == "Adafactor":
        assert shows == after.keys() or g.size == 0 or (g.size < 10 and narrow)


def check_state(rule: str, p: list[Array], found: dict[str, Array], state_dtype: str | None) -> None:
    """It has its dtype and is finite, and what shall grow has grown."""
    for i, a in enumerate(p):
        state = {name.split()[0]: array for name, array in of_tensor(found, i).items()}
        assert state.pop("p").dtype == a.dtype
        for slot, array in state.items():
            assert array.dtype == kept_in(rule, slot, state, a, state_dtype), (slot, i)
            if rule == "Adafactor":
                assert np.isfinite(array.astype(np.float64)).all()
    if rule == "Prodigy":
        for k, own in enumerate(groups_of(rule)):
            assert found[f"d of group {k}"] > 1.2 * own.get("d0", 1e-6)


@pytest.mark.parametrize(
    ("rule", "form", "mix"),
    [
        (rule, form, mix)
        for rule in fs.rules
        for form in FORMS
        for mix in mixes_of(rule)
        if form == "plain" or matrix_kernel_of(rule, {})
    ],
)
def test_native_equals_numpy(rule: str, form: str, mix: str) -> None:
    """In three groups, with gradients missing; what has none is left alone."""
    state_dtype = MIXES[mix][2]
    options, of_step = FORMS[form]
    shapes = shapes_of(rule)
    given = [gradients(rule, t, parameters(shapes, mix), mix) for t in range(STEPS)]

    def run(backend: str, seen: list[dict[str, Array]] | None = None) -> dict[str, Array]:
        p = parameters(shapes, mix)
        opt = grouped(rule, p, state_dtype=state_dtype, backend=backend, **options)
        for grads in given:
            if seen is not None:
                seen.append(snapshot(opt, p))
            step(opt, by_number(grads), **of_step)
        return snapshot(opt, p)

    seen: list[dict[str, Array]] = []
    expected = run("numpy", seen)
    for grads, before, after in zip(given, seen, [*seen[1:], expected], strict=True):
        for i, g in enumerate(grads):
            check_step_of_a_tensor(rule, i, g, of_tensor(before, i), of_tensor(after, i))
    check_state(rule, parameters(shapes, mix), expected, state_dtype)
    engines = list(itertools.product(fs.info()["isas"], [1, 2, 3]))
    for isa, threads in engines[::4] if is_all_of_elements(rule) else engines:
        use(isa, threads)
        assert_same(run("native"), expected, (isa, threads))


# To each tensor its own.


@pytest.mark.parametrize(
    ("rule", "options"), [each for each in EXAMPLES if not fs.rules[each[0]].measures_groups], ids=id_of
)
def test_other_tensors_do_not_matter(rule: str, options: Options, backend: Any) -> None:
    """Alone, in another order, and in other groups: the same bits."""
    others = matrix_kernel_of(rule, {}) and options != MEASURING.get(rule, {})
    start = parameters(few_shapes_of(rule) if others else shapes_of(rule))
    given = [gradients(rule, t, start) for t in range(STEPS)]

    def run(order: list[int], cut: int) -> dict[str, Array]:
        p = {i: start[i].copy() for i in order}
        parts = [part for part in (order[:cut], order[cut:]) if part]
        opt = fs.rules[rule](
            [{"params": {i: p[i] for i in part}} for part in parts], **options, backend=backend
        )
        for grads in given:
            step(opt, {i: grads[i] for i in order})
        found = {f"p {i}": array for i, array in p.items()}
        return found | {f"{slot} {i}": a for i, slots in opt.state.items() for slot, a in slots.items()}

    everything = list(range(len(start)))
    expected = run(everything, len(everything))
    assert_same(run(everything[::-1], 3), expected)
    shuffled = np.random.default_rng(0).permutation(len(start)).tolist()
    assert_same(run(shuffled, 5), expected)
    for i in everything:
        assert_same(run([i], 1), of_tensor(expected, i), i)


@each_rule
def test_groups_have_their_own_options(rule: str, backend: Any) -> None:
    """Each is as an optimizer of its own."""
    p = parameters(few_shapes_of(rule))
    opt = grouped(rule, p, backend=backend)
    parts = [range(k, len(p), 3) for k in range(3)]
    alone = [a.copy() for a in p]
    own = [
        fs.rules[rule]({i: alone[i] for i in part}, **options, backend=backend)
        for part, options in zip(parts, groups_of(rule), strict=True)
    ]
    for t in range(3):
        grads = by_number(all_gradients(rule, t, p))
        step(opt, grads)
        for part, each in zip(parts, own, strict=True):
            step(each, {i: grads[i] for i in part})
        found = snapshot(opt, p)
        for k, (part, each) in enumerate(zip(parts, own, strict=True)):
            expected = snapshot(each, alone)
            for i in part:
                assert_same(of_tensor(found, i), of_tensor(expected, i), (i, t))
            for name in each.scalars:
                assert found[f"{name} of group {k}"] == expected[f"{name} of group 0"]


BOUNDED = {"ADOPT", "Rprop", "SignSGD", "Signum", "Tiger", "Lion"}
"""Of an infinity they take the sign, or what they clip it to: it need not show."""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@each_example
def test_what_is_not_finite_stays_in_its_tensor(
    rule: str, options: Options, bad: float, backend: Any
) -> None:
    """Or in its group, where sums are over all of it."""
    of_matrices = matrix_kernel_of(rule, {}) is not None
    start = parameters([(50,), (7, 5), (7,), (2, 3, 4), (5000,)] if of_matrices else [(50,), (5000,), (7,)])
    given = [all_gradients(rule, t, start) for t in range(STEPS)]

    def run(spoilt: int | None) -> dict[str, Array]:
        p = [a.copy() for a in start]
        rest = {i: a for i, a in enumerate(p) if i != 1}
        opt = fs.rules[rule]([{"params": {1: p[1]}}, {"params": rest}], **options, backend=backend)
        for t, grads in enumerate(given):
            seen = [g.copy() for g in grads]
            if spoilt is not None and t == 2:
                seen[spoilt].flat[seen[spoilt].size * 6 // 7] = bad
            step(opt, by_number(seen))
        return snapshot(opt, p)

    clean = run(None)
    whole_group = fs.rules[rule].measures_groups
    for where in [1] if whole_group else range(len(start)):
        spoilt = run(where)
        for i in range(len(start)):
            if i != where:
                assert_same(of_tensor(spoilt, i), of_tensor(clean, i))
        shows = moved(of_tensor(clean, where), of_tensor(spoilt, where))
        assert shows or (rule in BOUNDED and not math.isnan(bad))
        if rule == "Adafactor" and bad > -math.inf:
            assert np.isnan(spoilt[f"p {where}"]).any()


# Without a gradient.


@each_rule
def test_steps_without_any_gradient(rule: str, backend: Any) -> None:
    """Before the first gradient and after it; all that goes on is t."""
    p = parameters(shapes_of(rule))
    opt = grouped(rule, p, backend=backend)
    for done in range(2):
        before = snapshot(opt, p)
        for _ in range(2):
            assert step(opt, nothing(p), clip_norm=1.0) == fs.StepResult(0.0, skipped=False)
        after = snapshot(opt, p)
        assert opt.t == 3 * done + 2
        for i in range(len(p)):
            assert_same(of_tensor(after, i), of_tensor(before, i))
        step(opt, by_number(all_gradients(rule, 1, p)))


@each_rule
def test_a_step_of_one_tensor(rule: str, backend: Any) -> None:
    """The others, of its group too, stay as they are, also where gradients are set to 0."""
    p = parameters(few_shapes_of(rule))
    opt = grouped(rule, p, backend=backend)
    step(opt, by_number(all_gradients(rule, 1, p)))
    for i in [0, 1]:
        before = snapshot(opt, p)
        step(opt, nothing(p) | {i: drawn(rule, 2, 5 + i, p[i].shape)}, zero_grad=True)
        after = snapshot(opt, p)
        for k in range(len(p)):
            if k != i:
                assert_same(of_tensor(after, k), of_tensor(before, k))
        changed = moved(of_tensor(before, i), of_tensor(after, i))
        assert f"p {i}" in changed


@each_rule
def test_gradients_stay_as_they_are(rule: str, backend: Any) -> None:
    """Without zero_grad, whatever their layout; with it they are 0, after they were read."""
    p, plain = ([np.array(normal(i, s)) for i, s in enumerate(few_shapes_of(rule))] for _ in range(2))
    ours, other = grouped(rule, p, backend=backend, l2=0.1), grouped(rule, plain, backend=backend, l2=0.1)
    for t in range(3):
        grads = [np.asarray(g, order="F" if t % 2 else "C") for g in all_gradients(rule, t, p)]
        copies = [g.copy() for g in grads]
        for g in grads:
            g.flags.writeable = False
        step(other, by_number(grads), clip_value=0.5, scale=2.0, clip_norm=1.0)
        assert all(map(np.array_equal, grads, copies))
        for g in grads:
            g.flags.writeable = True
        step(ours, by_number(grads), clip_value=0.5, scale=2.0, clip_norm=1.0, zero_grad=True)
        assert not any(g.any() for g in grads)
    assert_same(snapshot(ours, p), snapshot(other, plain))
