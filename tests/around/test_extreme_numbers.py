"""Whatever the numbers have become, a checkpoint of it loads, and the run goes on to the same bits."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.control import Checkpoint
from tests.helpers.engines import normal
from tests.helpers.examples import Array, drawn, grouped

pytest.importorskip("safetensors")

SHAPES = [(3, 4), (5,), (1, 2), (), (2,), (4, 3)]
EXTREMES = [math.nan, -math.nan, math.inf, -math.inf, 3e38, 1e-45]
FORMS = ["plain", "ema", "groups"]


def made(rule: str, form: str, seed: int) -> tuple[fs.Optimizer, list[Array]]:
    """An optimizer and its weights, in float32."""
    p = [normal(seed + i, shape, np.float32) for i, shape in enumerate(SHAPES)]
    if form == "groups":
        opt = grouped(rule, p)
    else:
        opt = fs.rules[rule](dict(enumerate(p)), ema=0.5 if form == "ema" else 0.0)
    return opt, p


def go_on(opt: Any, p: list[Array], steps: int, extreme: float | None = None) -> None:
    """Steps; the last element of each gradient of the first one is extreme."""
    for _ in range(steps):
        t = opt.t + 1
        grads = {i: drawn(type(opt).__name__, t, 10 * t + i, a.shape, a.dtype) for i, a in enumerate(p)}
        if extreme is not None:
            for g in grads.values():
                g.reshape(-1)[-1:] = extreme
            extreme = None
        with np.errstate(all="ignore"):
            opt.step(grads, **({"loss": 1.0 + 1.0 / t} if opt.needs_loss else {}))


def bits(opt: Any, p: list[Array]) -> list[bytes]:
    """All that a step depends on."""
    found = [a.tobytes() for a in p]
    found += [a.tobytes() for i in range(len(p)) for a in opt.state[i].values()]
    scalars = [value for group in opt.groups for value in group.scalars.values()]
    return [*found, *(np.float64(value).tobytes() for value in scalars)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rule", fs.rules)
def test_a_run_goes_on_after_extreme_gradients(rule: str, form: str, tmp_path: Path) -> None:
    for extreme in EXTREMES:
        first, p = made(rule, form, 1)
        go_on(first, p, 1)
        go_on(first, p, 2, extreme)
        Checkpoint(tmp_path / "run", opt=first).save()
        second, q = made(rule, form, 50)
        assert Checkpoint(tmp_path / "run", opt=second).load() == {}
        assert second.t == 3
        assert bits(second, q) == bits(first, p), extreme
        go_on(first, p, 2)
        go_on(second, q, 2)
        assert bits(second, q) == bits(first, p), extreme


def test_extreme_gradients_do_reach_the_numbers_of_groups() -> None:
    """Or the test above would say nothing of them."""
    found = []
    for extreme in (math.nan, math.inf, 3e38):
        opt, p = made("Prodigy", "plain", 1)
        go_on(opt, p, 2, extreme)
        found += list(opt.groups[0].scalars.values())
    assert not all(math.isfinite(value) for value in found)


@pytest.mark.parametrize("rule", [rule for rule in fs.rules if fs.rules[rule].scalars])
@pytest.mark.parametrize("bad", ["1", None, [], True, {"$array": "x"}])
def test_numbers_of_groups_must_be_numbers(rule: str, bad: Any) -> None:
    opt, _ = made(rule, "plain", 1)
    state = opt.state_dict()
    name = next(iter(state["groups"][0]["scalars"]))
    state["groups"][0]["scalars"][name] = bad
    before = repr(opt.state_dict())
    with pytest.raises(TypeError, match=name):
        opt.load_state_dict(state)
    assert repr(opt.state_dict()) == before


def test_a_number_of_a_group_that_no_float_holds_is_infinite() -> None:
    """As any other number that a user gives."""
    opt, _ = made("NAdam", "plain", 1)
    state = opt.state_dict()
    state["groups"][0]["scalars"]["mu_product"] = 10**400
    opt.load_state_dict(state)
    assert opt.groups[0].scalars["mu_product"] == math.inf


FIGURES = [1.0, math.nan, 1e308, -1e308, math.inf, -math.inf, 0.0, -0.0, 5e-324, 3e38, -math.nan, 2.0]


def followers(w: Array) -> dict[str, Any]:
    """All that is told figures, or averages weights."""
    found: dict[str, Any] = {"ema": fs.averaging.EMA(w, decay=0.5), "mean": fs.averaging.Mean(w)}
    modes: tuple[Literal["min"], Literal["max"]] = ("min", "max")
    for mode in modes:
        found[f"stopping {mode}"] = fs.control.EarlyStopping(w, threshold=0.5, mode=mode)
        found[f"best {mode}"] = fs.averaging.CheckpointMean(w, mode=mode)
        for start in (1e308, -1e308, 5e-324):
            found[f"plateau {start} {mode}"] = fs.schedules.Plateau(
                start, factor=1e-300, patience=0, mode=mode
            )
    for name, start in (("annealing", 1e308), ("negative", -1e308)):
        found[name] = fs.schedules.EveAnnealing(
            start, minimum=-1.7e308, maximum=1.7e308, steep=1e308, up=1e308
        )
    return found


def told(parts: dict[str, Any], figure: float) -> list[Any]:
    """What they answer."""
    answers: list[Any] = []
    for name, part in parts.items():
        if name in {"ema", "mean"}:
            part.update()
        elif name in {"annealing", "negative"}:
            answers.append(part.observe(abs(figure)))
        else:
            answers.append(part.observe(figure))
    return answers


def test_what_is_told_extreme_figures_goes_on(tmp_path: Path) -> None:
    with np.errstate(all="ignore"):
        for cut in range(len(FIGURES) + 1):
            weights = [np.array([1.0, figure]) for figure in FIGURES]
            w, v = np.ones(2), np.full(2, 7.0)
            first, second = followers(w), followers(v)
            for figure, values in zip(FIGURES[:cut], weights, strict=False):
                w[...] = values
                told(first, figure)
            Checkpoint(tmp_path / "run", **first).save()
            Checkpoint(tmp_path / "run", **second).load()
            for figure, values in zip(FIGURES[cut:], weights[cut:], strict=True):
                w[...] = v[...] = values
                assert repr(told(second, figure)) == repr(told(first, figure))
            states = [{name: part.state_dict() for name, part in parts.items()} for parts in (first, second)]
            assert repr(states[0]) == repr(states[1])


def test_a_negative_value_stays_within_its_limits() -> None:
    rising = fs.schedules.EveAnnealing(-1.0, minimum=-1.5, maximum=-0.75)
    assert [rising.observe(1.0) for _ in range(6)] == pytest.approx(
        [-1.0, -1.1, -1.21, -1.331, -1.4641, -1.5]
    )
    assert [rising.observe(figure) for figure in (100.0, 1.0)] == [-0.75, -0.75]


@pytest.mark.parametrize(
    "value", [0.0, 5e-324, 0.5, 1 - 2**-53, 1.0, 1.7e308, -1.7e308, -5e-324, math.inf, -math.inf]
)
def test_extreme_hyperparameters_come_back(value: float, tmp_path: Path) -> None:
    """In all places that may have the number."""
    for rule, cls in fs.rules.items():
        first, second = (cls(np.ones(2)) for _ in range(2))
        for name in cls._fields:
            with contextlib.suppress(ValueError, TypeError):
                first.groups[0][name] = value
        Checkpoint(tmp_path / "run", opt=first).save()
        Checkpoint(tmp_path / "run", opt=second).load()
        assert repr(second.groups) == repr(first.groups), rule
