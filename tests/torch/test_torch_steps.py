"""What a user of torch's optimizers relies on in a step, which holds for every class."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.helpers.torch_rules import (
    CLASSES,
    DROP_INS,
    FLOAT64,
    SHAPES,
    Beside,
    Optimizer,
    Options,
    Tensor,
    Unchanged,
    all_parameters,
    assert_same,
    each_class,
    ft,
    give,
    new,
    options_of,
    parameter,
    random,
    same_bits,
    several,
    step,
    steps_counted,
    torch,
    torchs,
    train,
)

base = pytest.importorskip("torch.optim.optimizer")

# --- Groups, parameters and options as others change them ---


@each_class
def test_groups_have_their_own_options(name: str) -> None:
    options = [{"lr": 0.02}, {"lr": 0.3, "maximize": True}]
    if name == "Muon":
        del options[1]["maximize"]

    def groups() -> list[Options]:
        return [{"params": several()[:2], **options[0]}, {"params": several()[2:], **options[1]}]

    Beside(name, groups).steps(0, 5)


@each_class
def test_options_are_read_at_every_step(name: str) -> None:
    changes: Options = {
        "lr": 0.2,
        "maximize": True,
        "weight_decay": 0.3,
        "momentum": 0.4,
        "betas": (0.5, 0.6),
    }
    changes |= {"eps": (0.01, 0.1) if name == "Adafactor" else 0.01}
    changes |= {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "cautious": False, "ema": 0.0}
    beside = Beside(name)
    beside.steps(0, 2)
    for optimizer in beside.all():
        group = optimizer.param_groups[0]
        group.update({key: value for key, value in changes.items() if key in group})
    beside.steps(2, 5)


@each_class
def test_list_and_dicts_may_be_replaced(name: str) -> None:
    beside = Beside(name)
    beside.steps(0, 2)
    for optimizer in beside.all():
        (group,) = optimizer.param_groups
        optimizer.param_groups = [
            {**group, "params": group["params"][:1], "lr": 0.3},
            {**group, "params": group["params"][1:]},
        ]
    beside.steps(2, 5)


@each_class
def test_tensors_of_a_group_may_be_replaced(name: str) -> None:
    """Here by a larger matrix, and by a shorter vector."""
    beside = Beside(name)
    beside.steps(0, 2)
    longer = {3: 5, 4: 7, 5000: 6}
    for optimizer in beside.all():
        parameters = optimizer.param_groups[0]["params"]
        for i in (0, 3):
            replaced = parameter(*(longer[n] for n in SHAPES[i]), seed=77 + i)
            state = optimizer.state.pop(parameters[i], {})
            entries = {
                key: random(*(longer.get(n, n) for n in value.shape), seed=3).sigmoid()
                if value.dim()
                else value.clone()
                for key, value in state.items()
            }
            if entries:
                optimizer.state[replaced] = entries
            parameters[i] = replaced
    beside.steps(2, 5)


@each_class
def test_memory_of_a_parameter_may_be_replaced(name: str) -> None:
    beside = Beside(name)
    beside.steps(0, 2)
    old = [p.data for p in beside.mine]
    kept = [x.clone() for x in old]
    for optimizer in beside.all():
        for p in all_parameters(optimizer):
            p.data = p.data * 2
    beside.steps(2, 4)
    assert all(torch.equal(x, y) for x, y in zip(old, kept, strict=True))


@each_class
def test_state_may_be_replaced(name: str) -> None:
    beside = Beside(name)
    beside.steps(0, 2)
    for optimizer in beside.all():
        for state in optimizer.state.values():
            for key, value in state.items():
                state[key] = value.clone() if key == "step" else value * 0.5
    beside.steps(2, 4)


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Adagrad"])
def test_state_may_be_dropped(name: str) -> None:
    """Adagrad makes its state in the constructor and fails without it in torch."""
    beside = Beside(name)
    beside.steps(0, 3)
    for optimizer in beside.all():
        optimizer.state.clear()
    beside.steps(3, 6)


@pytest.mark.parametrize("lr", [torch.tensor(0.05), torch.tensor([0.05]), torch.tensor(0.05, dtype=FLOAT64)])
@each_class
def test_lr_in_a_tensor(name: str, lr: Tensor) -> None:
    beside = Beside(name, tensor_lr=True, lr=lr)
    tensor = beside.ours.param_groups[0]["lr"]
    beside.steps(0, 3)
    for optimizer in beside.all():
        optimizer.param_groups[0]["lr"].fill_(0.3)
    assert beside.ours.param_groups[0]["lr"] is tensor
    beside.steps(3, 6)


# --- Gradients that are missing ---


@each_class
def test_parameter_without_gradient_waits(name: str) -> None:
    """It and its state are left alone, and it counts no step."""
    beside = Beside(name)
    for t, without in enumerate([(), (0,), (0, 3), (1,), (), (4, 5)]):
        waiting = [beside.mine[i] for i in without]
        before = [(p.detach().clone(), copy.deepcopy(beside.ours.state[p])) for p in waiting]
        beside.step(t, *without)
        for p, (value, state) in zip(waiting, before, strict=True):
            assert same_bits(p, value)
            assert_same(beside.ours.state[p], state)
    assert steps_counted(beside.ours) == ([] if name == "SGD" else [4.0, 5.0, 6.0, 5.0, 5.0, 5.0])


@each_class
def test_late_first_gradient(name: str) -> None:
    beside = Beside(name)
    for t in range(4):
        beside.step(t, *([3] if t < 2 else []), *([0] if t < 3 else []))
    if name != "SGD":
        assert [beside.ours.state[beside.mine[i]]["step"].item() for i in (3, 0)] == [2, 1]


@pytest.mark.parametrize("clip_norm", [None, 0.5])
@each_class
def test_no_gradient_at_all(name: str, clip_norm: float | None) -> None:
    """Neither at the first step nor later."""
    optimizer = new(name, several(), clip_norm=clip_norm)
    for _ in range(2):
        with Unchanged(optimizer):
            optimizer.zero_grad()
            assert step(optimizer) in {None, 1.0}
        assert optimizer.grad_norm == (None if clip_norm is None else 0.0)
        train(optimizer, 0, 1)


@each_class
def test_add_param_group(name: str) -> None:
    beside = Beside(name)
    beside.steps(0, 2)
    for optimizer in beside.all():
        optimizer.add_param_group({"params": [parameter(11, seed=8)], "lr": 0.3})
        optimizer.add_param_group({"params": parameter(2, 3, seed=9)})
        optimizer.add_param_group({"params": []})
    beside.steps(2, 5)
    assert len(beside.ours.param_groups) == 4


@each_class
def test_an_empty_group(name: str) -> None:
    """As of a part of a model that has no parameters."""
    Beside(name, lambda: [{"params": []}, {"params": [parameter(3, 4)]}]).steps(0, 3)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CLASSES]
    + [
        (name, {"foreach": True})
        for name in CLASSES
        if "foreach" in inspect.signature(getattr(ft, name)).parameters
    ],
)
def test_zero_grad(name: str, options: Options) -> None:
    parameters = several()
    optimizer = new(name, parameters, **options)
    give(parameters, 0)
    held = [p.grad for p in parameters]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g.any() for p, g in zip(parameters, held, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)


@each_class
def test_named_parameters(name: str) -> None:
    beside = Beside(name, lambda: [(f"layer.{i}", p) for i, p in enumerate(several())])
    beside.steps(0, 3)
    names = [f"layer.{i}" for i in range(len(SHAPES))]
    assert beside.ours.param_groups[0]["param_names"] == names
    assert beside.ours.state_dict()["param_groups"][0]["param_names"] == names


@each_class
def test_plain_tensors_as_parameters(name: str) -> None:
    Beside(name, lambda: [random(6, seed=1).requires_grad_(), random(5, 3, seed=2).requires_grad_()]).steps(
        0, 3
    )


# --- The step as a method ---


@each_class
def test_step_is_a_method_in_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = Beside(name)
    own = getattr(ft, name)
    assert inspect.isfunction(own.step)
    assert list(inspect.signature(own.step).parameters) == ["self", "closure"]
    calls = []

    def wrapper(step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return step(*arguments, **options)

    monkeypatch.setattr(own, "step", functools.partialmethod(functools.partial(wrapper, own.step)))
    beside.ours.step = functools.partial(wrapper, beside.ours.step)
    beside.steps(0, 2)
    assert calls == [name] * 4


@each_class
def test_subclass_may_override_step(name: str) -> None:
    class Own(getattr(ft, name)):  # type: ignore[misc]
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            return super().step(closure)

    beside = Beside(name)
    beside.ours = Own(several(), **options_of(name))
    beside.ours.__class__.__name__ = name  # by which tolerances are found
    beside.steps(0, 3)
    assert beside.ours.calls == 3


@pytest.mark.parametrize("keyword", [False, True])
@each_class
def test_closure(name: str, keyword: bool) -> None:
    beside = Beside(name, lambda: [parameter(4), parameter(2, 3)])
    seen = []

    def closure(optimizer: Optimizer) -> Tensor:
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(optimizer)
        loss.backward()
        return loss

    def loss_of(optimizer: Optimizer) -> Tensor:
        return sum((p**2).sum() for p in all_parameters(optimizer))

    with torch.no_grad():
        for optimizer in beside.all() * 3:
            call = functools.partial(closure, optimizer)
            expected = float(loss_of(optimizer))
            loss = optimizer.step(closure=call) if keyword else optimizer.step(call)
            assert loss.item() == expected
            assert loss.requires_grad
            assert not torch.is_grad_enabled()
    assert seen == [True] * 3 * len(beside.all())
    beside.check()


@each_class
def test_failing_closure_writes_nothing(name: str) -> None:
    optimizer = new(name, several())
    train(optimizer, 0, 2)

    def closure() -> float:
        give(all_parameters(optimizer), 2)
        raise KeyError("of the closure")

    with Unchanged(optimizer), pytest.raises(KeyError, match="of the closure"):
        optimizer.step(closure)


@each_class
def test_step_leaves_no_graph(name: str) -> None:
    parameters = [parameter(4), parameter(2, 3)]
    optimizer = new(name, parameters)
    sum((p**2).sum() for p in parameters).backward()
    assert step(optimizer) in {None, 1.0}
    assert torch.is_grad_enabled()
    for p in parameters:
        assert p.is_leaf
        assert p.requires_grad
        assert not any(value.requires_grad for value in optimizer.state[p].values())


@pytest.mark.parametrize("shape", [(4,), (2, 3)])
@each_class
def test_backward_through_changed_parameters_is_noticed(name: str, shape: tuple[int, ...]) -> None:
    """At the first step, and at later ones."""
    p = parameter(*shape)
    optimizer = new(name, [p])
    for _ in range(2):
        loss = (p**2).sum()
        p.grad = torch.ones_like(p)
        step(optimizer)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


# --- Hooks ---


@pytest.fixture
def heard() -> list[str]:
    return []


@pytest.fixture
def _global_hooks(heard: list[str]) -> Iterator[None]:
    handles = [
        base.register_optimizer_step_pre_hook(lambda *_: heard.append("global pre")),
        base.register_optimizer_step_post_hook(lambda *_: heard.append("global post")),
    ]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.usefixtures("_global_hooks")
@each_class
def test_step_hooks_run_once(name: str, heard: list[str]) -> None:
    if name in DROP_INS:
        torchs(name, several()).step()  # makes torch wrap the step of its own class
    heard.clear()
    optimizer = new(name, several())
    before = optimizer.register_step_pre_hook(lambda *_: heard.append("pre"))
    after = optimizer.register_step_post_hook(lambda *_: heard.append("post"))
    train(optimizer, 0, 1)
    assert heard == ["global pre", "pre", "post", "global post"]
    before.remove()
    after.remove()
    train(optimizer, 1, 2)
    assert heard[4:] == ["global pre", "global post"]


@each_class
def test_pre_hook_may_change_the_arguments(name: str) -> None:
    beside = Beside(name)

    def closure() -> float:
        give(beside.mine, 0)
        return 2.5

    beside.ours.register_step_pre_hook(lambda optimizer, _args, kwargs: ((optimizer, closure), kwargs))
    assert beside.ours.step() == 2.5
    for other in beside.others:
        give(all_parameters(other), 0)
        step(other, 2.5)
    beside.check()


@each_class
def test_post_hook_sees_the_new_parameters(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)
    first = parameters[0].detach().clone()
    seen: list[Tensor] = []
    optimizer.register_step_post_hook(lambda *_: seen.append(parameters[0].detach().clone()))
    for t in range(2):
        train(optimizer, t, t + 1)
        assert same_bits(seen[t], parameters[0])
        assert torch.equal(seen[t], first) == (name == "ADOPT" and t == 0)  # which at first only looks


@each_class
def test_state_dict_hooks(name: str) -> None:
    optimizer = new(name, several())
    train(optimizer, 0, 2)
    heard: list[str] = []

    def post(_: Optimizer, state_dict: Options) -> Options:
        heard.append("post")
        return {**state_dict, "more": 1}

    def load_pre(_: Optimizer, state_dict: Options) -> Options:
        heard.append("load pre")
        assert state_dict["more"] == 1
        changed: Options = copy.deepcopy(state_dict)
        changed["param_groups"][0]["lr"] = 0.125
        return changed

    optimizer.register_state_dict_pre_hook(lambda _: heard.append("pre"))
    optimizer.register_state_dict_post_hook(post)
    optimizer.register_load_state_dict_pre_hook(load_pre)
    optimizer.register_load_state_dict_post_hook(lambda _: heard.append("load post"))
    optimizer.load_state_dict(optimizer.state_dict())
    assert heard == ["pre", "post", "load pre", "load post"]
    assert optimizer.param_groups[0]["lr"] == 0.125
    train(optimizer, 2, 3)


@each_class
def test_a_model_trains_alike(name: str) -> None:
    def model() -> Any:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)).double()

    nets: list[Any] = []

    def parameters() -> Any:
        nets.append(model())
        return nets[-1].parameters()

    beside = Beside(name, parameters)
    inputs, targets = random(64, 4, seed=1), random(64, 1, seed=2)
    losses: list[list[float]] = []
    for net, optimizer in zip(nets, beside.all(), strict=True):
        losses.append([])
        for _ in range(16):

            def closure(net: Any = net, optimizer: Optimizer = optimizer) -> Tensor:
                optimizer.zero_grad()
                loss = torch.nn.functional.mse_loss(net(inputs), targets)
                loss.backward()
                return loss

            losses[-1].append(optimizer.step(closure).item())
    for other in losses[1:]:
        assert losses[0] == pytest.approx(other, rel=1e-6)
    assert losses[0][-1] < losses[0][0]
