"""Steps whose coefficients were computed before: whatever changes between two steps is seen.

Each step is compared, to the bit, with the same one by the NumPy backend, which computes nothing before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

Array = np.ndarray[Any, Any]
Opt = Any
Change = Callable[[Opt, dict[str, Array], dict[str, Any]], None]
"""A change of the optimizer, of the gradients, or of the options of the step."""

STEPS = 40  # more than twice as many as are computed ahead
AT = 29


def hyperparameter(opt: Opt, _: dict[str, Array], __: dict[str, Any]) -> None:
    opt.lr = 0.5


def schedule(opt: Opt, _: dict[str, Array], __: dict[str, Any]) -> None:
    opt.lr = lambda t: 0.5 / t


def only_one_group(opt: Opt, _: dict[str, Array], __: dict[str, Any]) -> None:
    opt.groups[1]["weight_decay"] = 0.25


def loaded(opt: Opt, _: dict[str, Array], __: dict[str, Any]) -> None:
    opt.load_state_dict({**opt.state_dict(), "t": 3})


def no_gradient(_: Opt, grads: dict[str, Array], __: dict[str, Any]) -> None:
    grads["b"] = None  # type: ignore[assignment]


def strided_gradient(_: Opt, grads: dict[str, Array], __: dict[str, Any]) -> None:
    grads["w"] = np.asfortranarray(grads["w"])


def rows(_: Opt, grads: dict[str, Array], __: dict[str, Any]) -> None:
    grads["w"] = fs.Rows([0, 2], grads["w"][[0, 2]])  # type: ignore[assignment]


def scale(_: Opt, __: dict[str, Array], options: dict[str, Any]) -> None:
    options["scale"] = -0.375


def clip_norm(_: Opt, __: dict[str, Array], options: dict[str, Any]) -> None:
    options |= {"clip_norm": 0.5, "scale": 3}


def clip_value(_: Opt, __: dict[str, Array], options: dict[str, Any]) -> None:
    options["clip_value"] = 0.01


def zero_grad(_: Opt, __: dict[str, Array], options: dict[str, Any]) -> None:
    options["zero_grad"] = True


def skip(_: Opt, grads: dict[str, Array], options: dict[str, Any]) -> None:
    options["skip_nonfinite"] = True
    grads["b"][0] = math.inf


def loss(_: Opt, __: dict[str, Array], options: dict[str, Any]) -> None:
    options["loss"] = 0.5


CHANGES = [
    hyperparameter,
    schedule,
    only_one_group,
    loaded,
    no_gradient,
    strided_gradient,
    rows,
    scale,
    clip_norm,
    clip_value,
    zero_grad,
    skip,
    loss,
]


def weights() -> dict[str, Array]:
    rng = np.random.default_rng(3)
    shapes = {"w": (4, 3), "b": (5,)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def made(rule: str, backend: Any, **options: Any) -> tuple[dict[str, Array], Opt]:
    p = weights()
    groups = [{"params": {"w": p["w"]}}, {"params": {"b": p["b"]}, "lr": 0.02}]
    return p, fs.rules[rule](groups, backend=backend, **options)


def gradients() -> Iterator[dict[str, Array]]:
    rng = np.random.default_rng(5)
    while True:
        yield {name: np.asarray(rng.standard_normal(p.shape, np.float32)) for name, p in weights().items()}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("every", [1, 50], ids=["from then on", "once"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("rule", ["AdamW", "Momentum"])
def test_a_change_between_steps_is_seen(rule: str, change: Change, every: int) -> None:
    both = [made(rule, backend, maximize=True, ema=0.5) for backend in ("native", "numpy")]
    for t, g in zip(range(1, STEPS + 1), gradients(), strict=False):
        results = []
        for _, opt in both:
            grads, options = {name: a.copy() for name, a in g.items()}, dict[str, Any]()
            if t >= AT and (t - AT) % every == 0 and not (change is loaded and t > AT):
                change(opt, grads, options)
            results.append((opt.step(grads, **options), opt.t, {k: repr(v) for k, v in grads.items()}))
        assert results[0] == results[1]
        for name, a in both[0][0].items():
            np.testing.assert_array_equal(a, both[1][0][name])
            for slot, state in both[0][1].state[name].items():
                np.testing.assert_array_equal(state, both[1][1].state[name][slot])


@pytest.mark.parametrize("rule", list(fs.rules))
def test_steps_ahead_are_steps(rule: str) -> None:
    both = [made(rule, backend) for backend in ("native", "numpy")]
    for _, g in zip(range(STEPS), gradients(), strict=False):
        for _, opt in both:
            if not opt.needs_loss:
                opt.step(g, clip_norm=0.5)
            opt.step(g, loss=0.5)
        for name, a in both[0][0].items():
            np.testing.assert_array_equal(a, both[1][0][name])


@pytest.mark.parametrize("strided", [{"w"}, {"w", "b"}], ids=len)
def test_parameters_with_gaps(strided: set[str]) -> None:
    """These move in stand-ins, also where the step before moved none of them."""
    both = []
    for backend in ("native", "numpy"):
        p = {
            name: np.repeat(a, 2, axis=-1)[..., ::2] if name in strided else a
            for name, a in weights().items()
        }
        both.append((p, fs.Adam(p, backend=backend)))  # type: ignore[arg-type]
    for t, g in zip(range(STEPS), gradients(), strict=False):
        here = dict.fromkeys(g) if t % 5 == 3 else g
        for _, opt in both:
            opt.step(here)
        for name, a in both[0][0].items():
            np.testing.assert_array_equal(a, both[1][0][name])


def test_gradients_that_can_be_read_once() -> None:
    (p, opt), (q, other) = ((w, fs.Adam(w, backend=backend)) for w, backend in lists())
    for t, g in zip(range(STEPS), gradients(), strict=False):
        if t == AT:
            opt.lr = other.lr = 0.5
        opt.step(iter(g.values()))
        other.step(iter(g.values()))
        np.testing.assert_array_equal(p[0], q[0])


def lists() -> Iterator[tuple[list[Array], Any]]:
    for backend in ("native", "numpy"):
        yield list(weights().values()), backend


def test_a_step_that_fails_changes_nothing() -> None:
    p, opt = made("AdamW", "native")
    for _, g in zip(range(AT), gradients(), strict=False):
        opt.step(g)
    before = {name: a.copy() for name, a in p.items()}
    with pytest.raises(ValueError, match="shares memory"):
        opt.step({"w": p["w"], "b": g["b"]})
    with pytest.raises(ValueError, match="shape"):
        opt.step({"w": g["w"][:1], "b": g["b"]})
    assert opt.t == AT
    for name, a in p.items():
        np.testing.assert_array_equal(a, before[name])


def test_an_error_of_a_later_step_is_raised_there() -> None:
    """Here the coefficients of step 5 cannot be computed, which are looked at after step 2."""

    class Ends(fs.SGD):
        @classmethod
        def coefficients(cls, h: Any, t: int) -> dict[str, float]:
            if t == 5:
                raise ValueError("at step 5")
            return super().coefficients(h, t)

    opt = Ends(np.zeros(3))
    for _ in range(4):
        opt.step(np.ones(3))
    with pytest.raises(ValueError, match="at step 5"):
        opt.step(np.ones(3))
    assert opt.t == 4
