"""Steps that find what the last step has found: whatever changes between two steps is seen.

A step is compared, to the bit, with the first step of a new optimizer that has the same state.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from fusedstep.engine.step import AHEAD
from tests.helpers.torch_rules import CLASSES, Optimizer, Options, Tensor, ft, options_of, torch

STEPS = 2 * AHEAD + 8
AT = AHEAD + 13


def set_options(**options: Any) -> Callable[[Optimizer], None]:
    def change(optimizer: Optimizer) -> None:
        for group in optimizer.param_groups:
            group.update(options)

    return change


def lr_as_tensor(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(0.125)


def tensor_in_place(optimizer: Optimizer) -> None:
    lr_as_tensor(optimizer)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"].fill_(0.25)


def new_memory_of_parameters(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.data = p.data.clone() + 1


def new_memory_of_state(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim():
                value.data = value.data.clone() * 0.5
                state[key] = value


def other_state_tensors(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        for key, value in state.items():
            state[key] = value.clone() * 0.5 if value.dim() else value.clone()


def state_dict_loaded(optimizer: Optimizer) -> None:
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


def count_set(optimizer: Optimizer) -> None:
    for state in optimizer.state.values():
        if "step" in state and not state["step"].dim():
            state["step"].fill_(3.0)


def one_count_set(optimizer: Optimizer) -> None:
    state = next(iter(optimizer.state.values()))
    if "step" in state and not state["step"].dim():
        state["step"].fill_(5.0)


def no_state_of_one(optimizer: Optimizer) -> None:
    optimizer.state.pop(optimizer.param_groups[0]["params"][0], None)


def group_added(optimizer: Optimizer) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.full((3,), 0.5)
    optimizer.add_param_group({"params": [p]})


def no_gradient_of_one(optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["params"][1].grad = None


def gradient_not_dense(optimizer: Optimizer) -> None:
    p = optimizer.param_groups[0]["params"][0]
    p.grad = torch.randn(2 * p.shape[0], *p.shape[1:])[::2]


def parameter_replaced(optimizer: Optimizer) -> None:
    params = optimizer.param_groups[0]["params"]
    old = params[0]
    params[0] = torch.nn.Parameter(old.detach() * 2)
    params[0].grad = torch.ones_like(old)
    if old in optimizer.state:
        optimizer.state[params[0]] = optimizer.state.pop(old)


CHANGES = [
    set_options(lr=0.5),
    set_options(weight_decay=0.25),
    lr_as_tensor,
    tensor_in_place,
    new_memory_of_parameters,
    new_memory_of_state,
    other_state_tensors,
    state_dict_loaded,
    count_set,
    one_count_set,
    no_state_of_one,
    group_added,
    no_gradient_of_one,
    gradient_not_dense,
    parameter_replaced,
]


def made(name: str, **more: Any) -> Optimizer:
    generator = torch.Generator().manual_seed(5)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in [(4, 3), (5,), (2, 6)]]
    return getattr(ft, name)(params, **{**options_of(name), **more})


def parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def with_the_same_state(optimizer: Optimizer) -> Optimizer:
    """A new optimizer of copies: it has never made a step, and so knows nothing."""
    twin = copy.deepcopy(optimizer)
    for p, q in zip(parameters(optimizer), parameters(twin), strict=True):
        q.grad = None if p.grad is None else p.grad.clone()
    return twin


def assert_alike(a: Optimizer, b: Optimizer) -> None:
    assert a.grad_norm == b.grad_norm
    for p, q in zip(parameters(a), parameters(b), strict=True):
        assert torch.equal(p, q)
        assert a.state[p].keys() == b.state[q].keys()
        for key, value in a.state[p].items():
            assert torch.equal(value, b.state[q][key]), key


def train(optimizer: Optimizer, change: Callable[[Optimizer], None]) -> None:
    generator = torch.Generator().manual_seed(7)
    for t in range(1, STEPS + 1):
        for p in parameters(optimizer):
            p.grad = torch.randn(p.shape, generator=generator)
        if t == AT:
            change(optimizer)
        twin = with_the_same_state(optimizer)
        versions = [p._version for p in parameters(optimizer)]
        loss = (lambda: torch.tensor(0.5)) if optimizer.rule.needs_loss else None
        optimizer.step(loss)
        twin.step(loss)
        assert_alike(optimizer, twin)
        for p, version in zip(parameters(optimizer), versions, strict=True):
            assert (p._version > version) == (p.grad is not None)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.5}], ids=["plain", "clipped"])
@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_a_change_between_steps_is_seen(
    name: str, more: Options, change: Callable[[Optimizer], None]
) -> None:
    train(made(name, **more), change)


@pytest.mark.parametrize("name", CLASSES)
def test_steps_again_are_steps(name: str) -> None:
    train(made(name, clip_norm=0.5), set_options(lr=0.25))


def test_coefficients_are_computed_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of some steps at the second, and again once they are used up or lr is another."""
    optimizer, computed = made("AdamW", clip_norm=0.5), []
    plain = optimizer.rule.coefficients

    def coefficients(h: Any, t: int) -> Any:
        computed.append(t)
        return plain(h, t)

    monkeypatch.setattr(optimizer.rule, "coefficients", coefficients)
    for t in range(1, AHEAD + 5):
        for p in parameters(optimizer):
            p.grad = torch.ones_like(p)
        optimizer.step()
        if t == AHEAD + 1:
            assert computed == list(range(1, AHEAD + 2))
    assert computed == list(range(1, 2 * AHEAD + 2))
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert computed[2 * AHEAD + 1 :] == [AHEAD + 5]


def test_the_norm_is_not_kept_once_nothing_is_clipped() -> None:
    optimizer = made("AdamW", clip_norm=0.5)
    for clip_norm in (0.5, None, 0.5, None):
        optimizer.clip_norm = clip_norm
        for _ in range(3):
            for p in parameters(optimizer):
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert (optimizer.grad_norm is None) == (clip_norm is None)


def test_a_scheduler_that_sets_lr_at_every_step() -> None:
    optimizer = made("AdamW")
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    ends = [0.0]

    def check(_: Optimizer) -> None:
        schedule.step()
        ends.append(optimizer.param_groups[0]["lr"])

    for _ in range(STEPS):
        train_one(optimizer)
        check(optimizer)
    assert ends[-1] < ends[1]


def train_one(optimizer: Optimizer) -> None:
    for p in parameters(optimizer):
        p.grad = torch.ones_like(p)
    twin = with_the_same_state(optimizer)
    optimizer.step()
    twin.step()
    assert_alike(optimizer, twin)


# --- The hooks and the record around a step ---


def test_a_profiler_sees_the_step() -> None:
    optimizer = made("AdamW")
    train_one(optimizer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#AdamW.step" in {event.name for event in profile.events()}


def test_an_observer_of_execution_sees_the_step(tmp_path: Any) -> None:
    optimizer = made("AdamW")
    train_one(optimizer)
    file = tmp_path / "trace.json"
    observer = torch.profiler.ExecutionTraceObserver().register_callback(str(file))
    observer.start()
    optimizer.step()
    observer.stop()
    observer.unregister_callback()
    assert "Optimizer.step#AdamW.step" in file.read_text()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    heard: list[str] = []
    plain = torch.autograd.profiler.record_function

    def record(name: str, *rest: Any) -> Any:
        heard.append(name)
        return plain(name, *rest)

    monkeypatch.setattr(torch.autograd.profiler, "record_function", record)
    return heard


def test_a_step_that_nobody_records_asks_for_no_record(recorded: list[str]) -> None:
    optimizer = made("AdamW")
    train_one(optimizer)
    optimizer.zero_grad()
    assert not [name for name in recorded if "step" in name]


def test_a_class_that_overrides_step_has_its_hooks_once() -> None:
    heard: list[str] = []

    class Own(ft.AdamW):  # type: ignore[misc]  # whose base has no types here
        def step(self, closure: Any = None) -> Any:
            heard.append("step")
            return super().step(closure)

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    for kind in (ft.AdamW, Own):  # torch wraps a class when its first object is made
        optimizer = kind([p])
        optimizer.register_step_pre_hook(lambda *_: heard.append("pre"))
        optimizer.register_step_post_hook(lambda *_: heard.append("post"))
        optimizer.step()
    assert heard == ["pre", "post", "pre", "step", "post"]
