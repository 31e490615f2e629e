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
from fusedstep.engine.step import AHEAD

Array = np.ndarray[Any, Any]
Opt = Any
Change = Callable[[Opt, dict[str, Array], dict[str, Any]], None]
"""A change of the optimizer, of the gradients, or of the options of the step."""

STEPS = 2 * AHEAD + 8
AT = AHEAD + 13


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
        both.append((p, fs.Adam(p, backend=backend)))
    for t, g in zip(range(STEPS), gradients(), strict=False):
        here = dict.fromkeys(g) if t % 5 == 3 else g
        for _, opt in both:
            opt.step(here)
        for name, a in both[0][0].items():
            np.testing.assert_array_equal(a, both[1][0][name])


class Names(dict[str, Any]):
    """A dictionary of a user's own."""


Tree = Any
PLAIN: dict[str, tuple[Callable[[], Tree], Callable[[dict[str, Array]], Tree]]] = {
    "an array": (lambda: weights()["w"], lambda g: g["w"]),
    "a list": (lambda: [*weights().values()], lambda g: [*g.values()]),
    "a tuple": (lambda: [*weights().values()], lambda g: (*g.values(),)),
    "a dict in another order": (weights, lambda g: {"b": g["b"], "w": g["w"]}),
    "groups": (lambda: in_groups(weights()), lambda g: [{"w": g["w"]}, {"b": g["b"]}]),
    "groups, flat": (lambda: in_groups(weights()), lambda g: g),
    "groups of sequences": (
        lambda: [{"params": [a]} for a in weights().values()],
        lambda g: [[a] for a in g.values()],
    ),
    "groups of an array": (lambda: [{"params": a} for a in weights().values()], lambda g: [*g.values()]),
}
"""Parameters, and gradients in forms that need no Python to be read."""

UNUSUAL: dict[str, tuple[Callable[[], Tree], Callable[[dict[str, Array]], Tree]]] = {
    "an iterator": (lambda: [*weights().values()], lambda g: iter(g.values())),
    "a user's dictionary": (weights, Names),
    "groups as groups": (
        lambda: in_groups(weights()),
        lambda g: [{"params": {name: a}} for name, a in g.items()],
    ),
    "groups of sequences, flat": (
        lambda: [{"params": [a]} for a in weights().values()],
        lambda g: iter(g.values()),
    ),
}


def in_groups(p: dict[str, Array]) -> list[dict[str, Any]]:
    return [{"params": {name: a}} for name, a in p.items()]


class Watched(fs.Adam):
    """It counts the coefficients that are computed."""

    computed = 0

    @classmethod
    def coefficients(cls, h: Any, t: int) -> dict[str, float]:
        Watched.computed += 1
        return super().coefficients(h, t)


@pytest.mark.parametrize("form", [*PLAIN, *UNUSUAL])
def test_forms_of_gradients(form: str) -> None:
    params, grads = (PLAIN | UNUSUAL)[form]
    both = [Watched(params(), backend=backend) for backend in ("native", "numpy")]
    for t, g in zip(range(STEPS), gradients(), strict=False):
        both[1].step(grads(g), clip_norm=0.5)
        before = Watched.computed
        both[0].step(grads(g), clip_norm=0.5)
        if 2 <= t < AHEAD:
            assert (Watched.computed == before) == (form in PLAIN)
    for a, b in zip(*(opt.structure.parameters for opt in both), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"scale": 2, "clip_norm": 1, "clip_value": 1},
        {"scale": np.float32(0.5), "clip_norm": np.float64(0.5)},
        {"clip_norm": 0.0},
        {"clip_norm": math.inf, "clip_value": math.inf},
        {"loss": 1},
        {"loss": math.nan},
        {"zero_grad": np.True_},
        {"skip_nonfinite": True},
        {"skip_nonfinite": True, "clip_norm": 0.5, "scale": -2.0},
    ],
    ids=str,
)
def test_options_of_some_type(options: dict[str, Any]) -> None:
    both = [made("AdamW", backend) for backend in ("native", "numpy")]
    for _, g in zip(range(STEPS), gradients(), strict=False):
        results = [opt.step({name: a.copy() for name, a in g.items()}, **options) for _, opt in both]
        assert results[0] == results[1]
        for name, a in both[0][0].items():
            np.testing.assert_array_equal(a, both[1][0][name])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"scale": math.nan}, ValueError),
        ({"scale": math.inf}, ValueError),
        ({"scale": 10**400}, ValueError),
        ({"scale": True}, TypeError),
        ({"clip_norm": -1.0}, ValueError),
        ({"clip_norm": math.nan}, ValueError),
        ({"clip_value": -1}, ValueError),
        ({"clip_value": math.nan}, ValueError),
        ({"clip_value": "1"}, TypeError),
        ({"zero_grad": 1}, TypeError),
        ({"skip_nonfinite": 0}, TypeError),
        ({"norms": None}, TypeError),
        ({"loss": "1"}, TypeError),
        ({"loss": True}, TypeError),
    ],
    ids=str,
)
def test_wrong_options_are_errors_then_too(options: dict[str, Any], error: type[Exception]) -> None:
    p, opt = made("AdamW", "native")
    for _, g in zip(range(AT), gradients(), strict=False):
        opt.step(g)
    before = {name: a.copy() for name, a in p.items()}
    with pytest.raises(error, match=next(iter(options))):
        opt.step(g, **options)
    assert opt.t == AT
    for name, a in p.items():
        np.testing.assert_array_equal(a, before[name])


class Stated:
    """A user's schedule, which says that it depends on t alone."""

    is_fixed = True

    def __call__(self, t: int) -> float:
        return 0.1 / t


FIXED: dict[str, Any] = {
    "constant": fs.schedules.Constant(0.1),
    "cosine": fs.schedules.Cosine(0.1, steps=50),
    "of others": fs.schedules.Warmup(fs.schedules.PerEpoch(fs.schedules.Step(0.1, every=3), 5), 10),
    "product": fs.schedules.Cosine(1.0, steps=100) * 0.1,
    "a user's class that says so": Stated(),
    "of it": fs.schedules.Warmup(Stated(), 10),
    "sequence": fs.schedules.Sequential(
        (fs.schedules.Constant(0.1), fs.schedules.Linear(0.1, 50)), after=(AT,)
    ),
}
PLATEAU = fs.schedules.Plateau(0.1, patience=0)


class Own(fs.schedules.Cosine):
    """A user's schedule, which depends on what nobody knows."""

    def __call__(self, t: int) -> float:
        return super().__call__(t) * (2 if Watched.computed % 3 else 1)


OPEN: dict[str, Any] = {
    "plateau": PLATEAU,
    "of a plateau": fs.schedules.Warmup(PLATEAU, 10),
    "product with one": PLATEAU * 0.5,
    "a user's class": Own(0.1, steps=50),
    "a function": lambda t: 0.1 / t,
    "of a function": fs.schedules.Warmup(lambda t: 0.1 / t, 10),
}


@pytest.mark.parametrize("name", ["lr", "beta1", "weight_decay"])
@pytest.mark.parametrize("kind", [*FIXED, *OPEN])
def test_schedules(kind: str, name: str) -> None:
    schedule = (FIXED | OPEN)[kind]
    both = [Watched(weights(), backend=backend, **{name: schedule}) for backend in ("native", "numpy")]
    for t, g in zip(range(STEPS), gradients(), strict=False):
        if t == AT:
            PLATEAU.observe(1.0)
            PLATEAU.observe(2.0)
        before = Watched.computed
        both[0].step(g)
        if 2 <= t < AHEAD:
            assert (Watched.computed == before) == (kind in FIXED)
        Watched.computed = before
        both[1].step(g)
        for a, b in zip(*(opt.structure.parameters for opt in both), strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_schedule_that_ends_in_an_error() -> None:
    """Here lr is below 0 after step 5: that step is the error, not those before it."""
    opt = fs.SGD(np.zeros(3), lr=fs.schedules.Linear(0.5, steps=5, end=-0.1))
    for _ in range(5):
        opt.step(np.ones(3))
    with pytest.raises(ValueError, match=r"lr\(6\)"):
        opt.step(np.ones(3))
    assert opt.t == 5


def test_coefficients_are_computed_when_they_are_needed() -> None:
    """Of one step where a hyperparameter is new, of many where none is, of none where they are there."""
    opt = Watched(weights())
    grads = next(gradients())

    def computed(**options: Any) -> int:
        before = Watched.computed
        opt.step(grads, **options)
        return Watched.computed - before

    assert [computed() for _ in range(4)] == [1, AHEAD, 0, 0]
    assert [computed(norms=True), computed(norms=True), computed(skip_nonfinite=True)] == [1, 1, 0]
    for lr in (0.1, 0.2, 0.3):
        opt.lr = lr
        assert computed() == 1
    assert [computed() for _ in range(AHEAD + 1)] == [AHEAD, *[0] * (AHEAD - 1), AHEAD]


def test_wrong_forms_are_errors_then_too() -> None:
    _, opt = made("AdamW", "native")
    for _, g in zip(range(AT), gradients(), strict=False):
        opt.step(g)
    for wrong in (
        {"w": g["w"]},
        g | {"x": g["b"]},
        [g],
        [{"w": g["w"]}, {}],
        g["w"],
        None,
        [*g.values()] * 2,
    ):
        with pytest.raises((TypeError, ValueError), match="gradient"):
            opt.step(wrong)
    assert opt.t == AT
    with pytest.raises(TypeError, match="array"):
        opt.step({"w": [1.0], "b": g["b"]})


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


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, MemoryError])
def test_an_error_of_a_later_step_is_raised_there(error: type[Exception]) -> None:
    """Here the coefficients of step 5 cannot be computed, which are looked at in step 2."""

    class Ends(fs.SGD):
        @classmethod
        def coefficients(cls, h: Any, t: int) -> dict[str, float]:
            if t == 5:
                raise error("at step 5")
            return super().coefficients(h, t)

    opt = Ends(np.zeros(3))
    for _ in range(4):
        opt.step(np.ones(3))
    with pytest.raises(error, match="at step 5"):
        opt.step(np.ones(3))
    assert opt.t == 4
