"""The ways to give parameters, gradients and hyperparameters, and what comes back."""

from __future__ import annotations

import inspect
import itertools
import os
import pickle
import re
import weakref
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.internals import Busy, Engine, main, state_bytes

Array = np.ndarray[Any, Any]

BACKENDS = ["native", "numpy"]
SCHEDULE = {1: 0.5, 2: 0.9, 3: 0.95, 4: 0.99}


def arrays(*shapes: int, seed: int = 0) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def stepped(rule: str, p: Array, g: Array, **options: Any) -> Array:
    """p after one step of its own."""
    q = p.copy()
    fs.rules[rule](q, **options).step(g, loss=1.0)
    return q


def test_an_optimizer_whose_user_is_gone_is_free() -> None:
    """Whatever ends a call frees the lock; who was refused frees nothing."""
    lock = Busy()
    assert lock.run(max, 1, 2) == 2
    with pytest.raises(ZeroDivisionError):
        lock.run(divmod, 1, 0)
    with pytest.raises(RuntimeError, match="is in use"):
        lock.run(lambda: lock.run(int))
    assert lock.run(int) == 0
    lock.state["swapped"] = True
    with pytest.raises(RuntimeError, match="swapped in"):
        lock.run(int)
    lock.state["swapped"] = False
    assert lock.run(int) == 0


def test_array(backend: Any) -> None:
    (p,), (g,) = arrays(5), arrays(5, seed=1)
    q = stepped("Adam", p, g)
    opt = fs.Adam(p, backend=backend)
    opt.step(g)
    assert np.array_equal(p, q)
    assert opt.state["m"].shape == p.shape


@pytest.mark.parametrize("container", [list, tuple, iter, lambda x: dict(enumerate(x)).values()])
@pytest.mark.parametrize("grouped", [False, True])
def test_sequence(backend: Any, container: Any, grouped: bool) -> None:
    p, g = arrays(5, 7), arrays(5, 7, seed=1)
    q = [stepped("Adam", a, b) for a, b in zip(p, g, strict=True)]
    opt = fs.Adam([{"params": container(p)}] if grouped else container(p), backend=backend)
    assert all(a is b for a, b in zip(opt.groups[0]["params"], p, strict=True))
    opt.step([container(g)] if grouped else container(g))
    assert all(map(np.array_equal, p, q))
    assert opt.state[1]["v"].shape == (7,)


def test_mapping_in_any_order(backend: Any) -> None:
    p, g = arrays(5, 7), arrays(5, 7, seed=1)
    q = [stepped("Adam", a, b) for a, b in zip(p, g, strict=True)]
    opt = fs.Adam({"w": p[0], "b": p[1]}, backend=backend)
    opt.step({"b": g[1], "w": g[0]})
    assert all(map(np.array_equal, p, q))
    assert opt.state["b"]["m"].shape == (7,)


GRADIENTS_OF_GROUPS = [
    lambda a, b, c: {"a": a, "b": b, "c": c},
    lambda a, b, c: [{"a": a, "b": b}, {"c": c}],
    lambda a, b, c: [{"params": {"a": a, "b": b}}, {"params": {"c": c}}],
]


@pytest.mark.parametrize("form", GRADIENTS_OF_GROUPS)
def test_groups_of_mappings(backend: Any, form: Any) -> None:
    p, g = arrays(5, 7, 9), arrays(5, 7, 9, seed=1)
    q = [stepped("AdamW", p[i], g[i], weight_decay=0.1) for i in (0, 1)]
    q += [stepped("AdamW", p[2], g[2], weight_decay=0.0)]
    groups = [{"params": {"a": p[0], "b": p[1]}}, {"params": {"c": p[2]}, "weight_decay": 0.0}]
    opt = fs.AdamW(groups, weight_decay=0.1, backend=backend)
    opt.step(form(*g))
    assert all(map(np.array_equal, p, q))
    assert opt.state["c"]["m"].shape == (9,)
    assert opt.groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize("form", [lambda a, b, c: [a, b, c], lambda a, b, c: [[a, b], c]])
def test_groups_of_sequences(backend: Any, form: Any) -> None:
    p, g = arrays(5, 7, 9), arrays(5, 7, 9, seed=1)
    q = [stepped("SGD", p[i], g[i], lr=lr) for i, lr in enumerate([0.1, 0.1, 0.2])]
    opt = fs.SGD([{"params": p[:2]}, {"params": p[2], "lr": 0.2}], lr=0.1, backend=backend)
    opt.step(form(*g))
    assert all(map(np.array_equal, p, q))
    assert list(opt.state) == [0, 1, 2]


def test_groups_may_need_different_state(backend: Any) -> None:
    p, g = arrays(5, 7), arrays(5, 7, seed=1)
    q = [stepped("Adam", p[0], g[0]), stepped("Adam", p[1], g[1], amsgrad=True)]
    opt = fs.Adam([{"params": [p[0]]}, {"params": [p[1]], "amsgrad": True}], backend=backend)
    opt.step(g)
    assert all(map(np.array_equal, p, q))
    assert [list(slots) for slots in opt.state.values()] == [["m", "v"], ["m", "v", "vmax"]]


def test_none_skips_a_parameter(backend: Any) -> None:
    p, g = arrays(5, 7), arrays(5, 7, seed=1)
    before = [a.copy() for a in p]
    opt = fs.Adam(p, backend=backend)
    opt.step([None, g[1]])
    assert np.array_equal(p[0], before[0])
    assert not opt.state[0]["m"].any()
    assert np.array_equal(p[1], stepped("Adam", before[1], g[1]))
    assert opt.t == 1


def test_nothing_to_do(backend: Any) -> None:
    p = np.ones(3)
    opt = fs.Adam(p, backend=backend)
    opt.step(None)
    assert opt.t == 1
    assert (p == 1).all()


def test_scalar_gradient_of_a_0d_parameter(backend: Any) -> None:
    """Arithmetic on 0-d arrays gives NumPy scalars."""
    p, q = np.array(2.0), np.array(2.0)
    fs.SGD(p, lr=0.5, backend=backend).step(2 * p)
    fs.SGD([q], lr=0.5, backend=backend).step([2 * q])
    assert p == q == 0


@pytest.mark.parametrize("rule", fs.rules)
def test_a_schedule_is_asked_once_for_each_step(rule: str, backend: Any) -> None:
    asked = []

    def lr(t: int) -> float:
        asked.append(t)
        return 0.1

    opt = fs.rules[rule](np.ones(2), lr=lr, backend=backend)
    for _ in range(3):
        opt.step(np.ones(2), loss=1.0)
    assert asked == [1, 2, 3]


def test_state_is_live(backend: Any) -> None:
    p, g = np.zeros(3), np.ones(3)
    opt = fs.Momentum({"w": p}, lr=0.1, momentum=0.5, backend=backend)
    opt.state["w"]["v"][...] = 8.0
    opt.step({"w": g})
    assert np.array_equal(p, np.full(3, 0.5 * 8.0 - 0.1 * 1.0))
    with pytest.raises(TypeError):
        opt.state["w"]["v"] = p
    opt.state["w"]["v"].flags.writeable = False  # the view's own
    opt.step({"w": g})
    assert np.array_equal(opt.state["w"]["v"], np.full(3, 0.5 * (0.5 * 8.0 - 0.1) - 0.1))


def test_hyperparameters_between_steps(backend: Any) -> None:
    p = np.zeros(1)
    opt = fs.SGD([{"params": [p]}], lr=1.0, backend=backend)
    opt.step([np.ones(1)])
    assert opt.lr == 1.0
    opt.lr = 0.25
    opt.step([np.ones(1)])
    assert opt.lr == opt.groups[0]["lr"] == 0.25
    opt.groups[0]["lr"] = 0.5
    opt.step([np.ones(1)])
    assert p[0] == -1.75
    opt.lr = float
    opt.step([np.ones(1)])
    assert p[0] == -5.75


def test_groups_are_compared_by_identity() -> None:
    one, other = fs.SGD([{"params": [np.ones(2)]}, {"params": [np.ones(2)]}]).groups
    assert one == one  # noqa: PLR0124
    assert one != other
    assert len({one, other}) == 2


def test_groups_that_differ_have_no_common_value() -> None:
    opt = fs.SGD([{"params": [np.zeros(1)]}, {"params": [np.zeros(1)], "lr": 0.2}], lr=0.1)
    with pytest.raises(ValueError, match=r"groups differ in lr"):
        _ = opt.lr
    opt.lr = 0.3
    assert [group["lr"] for group in opt.groups] == [0.3, 0.3]


@pytest.mark.parametrize("name", ["lr", "weight_decay", "l2"])
def test_schedule_of_a_number(backend: Any, name: str) -> None:
    """A schedule does what setting the number before each step does."""
    p, q = np.ones(4), np.ones(4)
    options: dict[str, Any] = {name: lambda t: 0.1 / t}
    scheduled = fs.AdamW(p, **options, backend=backend)
    by_hand = fs.AdamW(q, backend=backend)
    for t in range(1, 5):
        setattr(by_hand, name, 0.1 / t)
        for opt in (scheduled, by_hand):
            opt.step(np.full(4, 0.5))
    assert np.array_equal(p, q)


def test_momentum_schedule(backend: Any) -> None:
    p, v, x = np.ones(1), 0.0, 1.0
    opt = fs.Momentum(p, lr=0.1, momentum=SCHEDULE.__getitem__, backend=backend)
    for momentum in SCHEDULE.values():
        opt.step(np.ones(1))
        v = momentum * v - 0.1
        x += v
        assert p[0] == x


def test_scale_multiplies_gradients(backend: Any) -> None:
    p, g = arrays(9)[0], arrays(9, seed=1)[0]
    q = stepped("Adam", p, g / 1024)
    fs.Adam(p, backend=backend).step(g, scale=1 / 1024)
    assert np.array_equal(p, q)


def test_maximize_negates_gradients(backend: Any) -> None:
    p, g = arrays(9)[0], arrays(9, seed=1)[0]
    q = stepped("Adam", p, -g, weight_decay=0.1, l2=0.1)
    fs.Adam(p, maximize=True, weight_decay=0.1, l2=0.1, backend=backend).step(g)
    assert np.array_equal(p, q)


@pytest.mark.parametrize(("saving", "loading"), list(itertools.product(BACKENDS, BACKENDS)))
@pytest.mark.parametrize("rule", fs.rules)
def test_resumption_is_exact(rule: str, saving: Any, loading: Any) -> None:
    """A run that is pickled in the middle and goes on elsewhere ends in the same bits."""
    grads = [arrays(50, 60, seed=t) for t in range(1, 9)]

    def make(p: list[Array], backend: Any) -> fs.Optimizer:
        groups = [{"params": {"w": p[0]}}, {"params": {"b": p[1]}, "l2": 0.1}]
        return fs.rules[rule](groups, lr=lambda t: 0.1 / t, backend=backend)

    def run(opt: fs.Optimizer, part: list[list[Array]]) -> None:
        for g in part:
            opt.step([{"w": g[0]}, {"b": g[1]}], loss=float(abs(g[0][0])))

    unbroken = arrays(50, 60)
    run(make(unbroken, saving), grads)

    p = arrays(50, 60)
    first = make(p, saving)
    run(first, grads[:5])
    saved = pickle.loads(pickle.dumps(first.state_dict()))
    run(first, grads[:1])  # the checkpoint does not follow
    resumed = arrays(50, 60)
    run(make(resumed, saving), grads[:5])
    second = make(resumed, loading)
    second.load_state_dict(saved)
    assert second.t == 5
    run(second, grads[5:])
    assert all(map(np.array_equal, resumed, unbroken))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_state_takes_memory_when_it_is_written(backend: Any) -> None:
    """State starts as zero pages that the system maps on first use."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    p = np.zeros((2**10, 2**18), np.float32).T  # a gigabyte, in Fortran order
    before = resident()
    opt = fs.Adam({"w": p}, backend=backend)
    opt.step({"w": None})
    assert resident() - before < 2**26
    assert opt.state["w"]["m"].strides == p.strides


def test_memory_is_freed_at_once(backend: Any) -> None:
    """No reference cycle keeps parameters and state until the garbage collector comes by."""
    p = np.zeros(3)
    opt = fs.Adam({"w": p}, backend=backend)
    opt.step({"w": np.ones(3)})
    alive = weakref.ref(opt.state["w"]["m"].base)
    del opt
    assert alive() is None


def test_scalars_are_loaded_as_floats() -> None:
    opt = fs.Eve(np.zeros(3))
    saved = opt.state_dict()
    saved["groups"][0]["scalars"]["d"] = np.float32(2)
    opt.load_state_dict(saved)
    assert type(opt.groups[0].scalars["d"]) is float


def test_state_dict_carries_hyperparameters() -> None:
    first = fs.Adam(np.zeros(3), lr=0.5, beta1=0.8, eps=lambda t: 1.0 / t)
    second = fs.Adam(np.zeros(3), eps=0.25)
    second.load_state_dict(first.state_dict())
    assert (second.lr, second.beta1, second.eps) == (0.5, 0.8, 0.25)


@pytest.mark.parametrize("rule", fs.rules)
def test_signature_and_docstring(rule: str) -> None:
    """Every hyperparameter is a keyword with its default, and is in the docstring with it."""
    cls = fs.rules[rule]
    parameters = inspect.signature(cls).parameters
    assert next(iter(parameters)) == "params"
    assert all(p.kind is p.KEYWORD_ONLY for name, p in parameters.items() if name != "params")
    for name, field in cls._fields.items():
        assert getattr(cls, name) == parameters[name].default == field.default
        documented = [
            base.__doc__ or "" for base in cls.__mro__ if name in vars(base).get("__annotations__", {})
        ]
        value = r"(True|False|inf|-?\d+(?:\.\d+)?(?:e-?\d+)?)"
        stated = rf"(?s)\b{name}\b(?=.*?\bdefault\s+{value}(?:\s+and\s+{value})?)"
        defaults = [text for pair in re.findall(stated, documented[0]) for text in pair if text]
        assert str(field.default) in {str(float(text)) if text[0].isdigit() else text for text in defaults}
    state = f"State, {state_bytes(cls)} bytes: " if state_bytes(cls) else "No state. "
    assert state in " ".join((cls.__doc__ or "").split())


def test_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    """``python -m fusedstep rules``: each rule with the bytes that its state takes, and a source."""
    main(["rules"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["rule", "state", "bytes", "per", "parameter", "(float32)", "source"]
    assert [line.split()[0] for line in lines] == list(fs.rules)
    for line in lines:
        name, size, source = line.split(maxsplit=2)
        state = fs.rules[name](np.zeros(1000, np.float32)).state
        assert int(size) == sum(array.nbytes for array in state.values() if array.size > 1) / 1000
        assert re.search(r"\b(19|20)\d\d\b|arXiv", source)


def test_what_is_running(capsys: pytest.CaptureFixture[str]) -> None:
    main(["info"])
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert printed == {name: str(value) for name, value in fs.info().items()}


def test_every_rule_is_exported() -> None:
    names = [
        "SGD",
        "Momentum",
        "EMAMomentum",
        "Nesterov",
        "SGDM",
        "ASGD",
        "Adagrad",
        "RowwiseAdagrad",
        "RMSProp",
        "Adadelta",
        "Adam",
        "AdamW",
        "NAdam",
        "NAdamW",
        "Adamax",
        "RAdam",
        "Eve",
        "AdaBelief",
        "Yogi",
        "AdEMAMix",
        "ADOPT",
        "Adan",
        "LaProp",
        "QHAdam",
        "SignSGD",
        "Signum",
        "Tiger",
        "Lion",
        "Rprop",
        "Ftrl",
        "MADGRAD",
        "ScheduleFreeSGD",
        "ScheduleFreeAdamW",
        "LARS",
        "LAMB",
        "StableAdamW",
        "NovoGrad",
        "Prodigy",
        "Muon",
        "Adafactor",
    ]
    assert list(fs.rules) == names
    assert all(getattr(fs, name) is cls and name in fs.__all__ for name, cls in fs.rules.items())
    backend = inspect.signature(Engine.__init__, eval_str=True).parameters["backend"]
    assert get_args(backend.annotation) == tuple(BACKENDS)


@pytest.mark.parametrize("loss", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rule", [rule for rule in fs.rules if not fs.rules[rule].needs_loss])
def test_a_rule_that_ignores_the_loss_takes_any(rule: str, loss: float) -> None:
    moved, alone = np.ones((2, 3)), np.ones((2, 3))
    fs.rules[rule](moved).step(np.ones((2, 3)), loss=loss)
    fs.rules[rule](alone).step(np.ones((2, 3)))
    np.testing.assert_array_equal(moved, alone)
