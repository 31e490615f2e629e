"""fusedstep.torch beside the NumPy API: the same rules to the same bits, and what torch has no form of."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fusedstep as fs

torch = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")

TILE = 4096
SHAPES = [(3, 5), (TILE + 7,), (), (0,)]
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.2]
OWN = [name for name in fs.rules if not hasattr(torch.optim, name)]
# The rules' names, and what makes them the same as torch's class of the second name.
ALIKE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "Adagrad": ("Adagrad", {"eps": 1e-10, "l2": 0.1}, {"weight_decay": 0.1}),
    "Adadelta": ("Adadelta", {}, {}),
    "Adam": ("Adam", {"amsgrad": True, "l2": 0.1}, {"amsgrad": True, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {}, {}),
    "NAdam": ("NAdam", {"lr": 0.01}, {"lr": 0.01}),
    "Adamax": ("Adamax", {}, {}),
    "RAdam": ("RAdam", {}, {}),
    "RMSProp": ("RMSprop", {"rho": 0.99, "lr": 0.01, "centered": True}, {"centered": True}),
    "Rprop": ("Rprop", {}, {}),
    "SGDM": ("SGD", {"lr": 1e-3, "nesterov": True}, {"momentum": 0.9, "nesterov": True}),
    "ASGD": ("ASGD", {}, {}),
}


def arrays(seed: int, dtype: Any) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]


def check_bits(
    rule: str, options: dict[str, Any], cls: Any, torch_options: dict[str, Any], dtype: Any
) -> None:
    """Step both on the same gradients; compare parameters after each step."""
    p = arrays(0, dtype)
    q = [torch.nn.Parameter(torch.tensor(array)) for array in p]
    ours, in_torch = fs.rules[rule](p, **options), cls(q, **torch_options)
    for t, loss in enumerate(LOSSES):
        g = arrays(10 + t, dtype)
        for parameter, gradient in zip(q, g, strict=True):
            parameter.grad = torch.tensor(gradient)
        ours.step(g, loss=loss)
        in_torch.step(lambda loss=loss: loss)
        for array, parameter in zip(p, q, strict=True):
            np.testing.assert_array_equal(parameter.detach().numpy(), array)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", OWN)
def test_own_rules_have_the_bits_of_the_numpy_api(rule: str, dtype: Any) -> None:
    check_bits(rule, {}, getattr(ft, rule), {}, dtype)
    options = {"lr": 0.02, "l1": 0.01, "l2": 0.1, "weight_decay": 0.05, "maximize": True, "ema": 0.9}
    check_bits(rule, options, getattr(ft, rule), options, dtype)


@pytest.mark.parametrize(
    ("rule", "dtype"),
    # What is one number for a parameter torch keeps in float32.
    [
        (rule, d)
        for rule in ALIKE
        for d in (np.float32, np.float64)
        if d is np.float32 or not fs.rules[rule].scalars
    ],
)
def test_torchs_rules_have_the_bits_of_the_numpy_api(rule: str, dtype: Any) -> None:
    name, options, torch_options = ALIKE[rule]
    check_bits(rule, options, getattr(ft, name), torch_options, dtype)


def test_every_rule_is_there() -> None:
    for name, rule in fs.rules.items():
        cls = getattr(ft, name)
        assert issubclass(cls, ft.Fused)
        assert name in ft.__all__
        if name in OWN:
            assert cls.rule is rule
            names = inspect.signature(cls).parameters
            fields = {
                "betas" if field in {"beta1", "beta2"} and "beta1" in rule._fields else field
                for field in rule._fields
            }
            assert fields <= names.keys()
            assert rule.__doc__ is not None
            assert cls.__doc__.startswith(rule.__doc__[:20])


@pytest.mark.parametrize("name", OWN)
def test_own_rules_are_copied_and_pickled(name: str) -> None:
    p = torch.nn.Parameter(torch.ones(5))
    optimizer = getattr(ft, name)([p], lr=0.1, clip_norm=1.0)
    p.grad = torch.ones(5)
    optimizer.step(lambda: 1.0)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        q = other.param_groups[0]["params"][0]
        q.grad = torch.ones(5)
        other.step(lambda: 0.5)
        assert other.clip_norm == 1.0
    optimizer.step(lambda: 0.5)
    assert torch.equal(p, q)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"lr": -1.0}, ValueError, "lr"),
        ({"betas": (0.9, 1.0)}, ValueError, "beta2"),
        ({"beta1": 0.9}, TypeError, "beta1"),
        ({"lr": lambda _: 0.1}, TypeError, "lr_scheduler"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm"),
        ({"state_dtype": torch.int32}, TypeError, "state_dtype"),
    ],
)
def test_own_rules_check_their_arguments(options: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        ft.NAdamW([torch.nn.Parameter(torch.ones(3))], **options)


def test_eve_needs_the_loss() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = ft.Eve([p])
    with pytest.raises(ValueError, match="loss"):
        optimizer.step()
    assert torch.equal(p, torch.ones(3))
    assert not optimizer.state


def test_the_average_of_the_weights() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = ft.Momentum([p], lr=0.5, momentum=0.0, ema=0.75)
    p.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(optimizer.state[p]["ema"], torch.full((3,), 0.75 * 1 + 0.25 * 0.5))


def test_the_package_does_not_import_torch() -> None:
    code = "import sys, fusedstep; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- What is easily wrong without a sign of it ---


def sparse() -> Any:
    return torch.sparse_coo_tensor([[1, 2]], torch.ones(2, 2), (4, 2), check_invariants=False)


def test_tied_parameters_are_noticed_through_copies_of_their_rows() -> None:
    w = torch.ones(4, 2)
    a, b = torch.nn.Parameter(w), torch.nn.Parameter(w)
    a.grad, b.grad = sparse(), torch.ones(4, 2)
    with pytest.raises(ValueError, match="share"):
        ft.SGD([a, b], lr=1.0).step()
    assert torch.equal(w, torch.ones(4, 2))


def test_tied_parameters_are_noticed_through_conjugates() -> None:
    w = torch.ones(4, dtype=torch.complex64)
    a, b = torch.nn.Parameter(w.conj()), torch.nn.Parameter(w)
    a.grad = b.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="share"):
        ft.SGD([a, b], lr=1.0).step()
    assert torch.equal(w, torch.ones(4, dtype=torch.complex64))


def test_shared_state_is_noticed_though_it_is_copied() -> None:
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    a.grad = b.grad = torch.ones(3)
    optimizer = ft.SGD([a, b], lr=1.0, momentum=1.0)
    optimizer.state[a]["momentum_buffer"] = optimizer.state[b]["momentum_buffer"] = torch.zeros(6)[::2]
    with pytest.raises(ValueError, match="share"):
        optimizer.step()
    assert torch.equal(a, torch.ones(3))


def test_a_gradient_in_another_parameter_beside_one_that_is_copied() -> None:
    a, b = torch.nn.Parameter(torch.ones(4, 4)[:, ::2]), torch.nn.Parameter(torch.ones(3))
    a.grad, b.grad = torch.ones(4, 2), b.detach()
    ft.SGD([a, b], lr=0.5).step()
    assert torch.equal(b, torch.full((3,), 0.5))
    assert torch.equal(a, torch.full((4, 2), 0.5))


@pytest.mark.parametrize("first", [0, 1])
def test_a_scalar_that_is_nan_stays_with_its_parameter(first: int) -> None:
    p = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = ft.Eve(p, lr=0.1)
    for loss, stepping in ((float("nan"), p[first : first + 1]), (2.0, p[1 - first :][:1]), (1.5, p)):
        for q in p:
            q.grad = torch.ones(3) if any(q is other for other in stepping) else None
        optimizer.step(lambda loss=loss: loss)
    assert p[first].isnan().all()
    assert p[1 - first].isfinite().all()


def test_a_count_that_is_no_tensor_is_an_error_before_anything_is_written() -> None:
    a, b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))
    a.grad = b.grad = torch.ones(3)
    optimizer = ft.Adam([a, b])
    optimizer.step()
    before = a.detach().clone()
    optimizer.state[b]["step"] = 1.0
    with pytest.raises(TypeError, match="tensors of one element"):
        optimizer.step()
    assert torch.equal(a, before)
    assert optimizer.state[a]["step"] == 1


def test_steps_in_inference_mode() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = ft.Eve([p], lr=0.1)
    with torch.inference_mode():
        optimizer.step(lambda: 1.0)
    optimizer.step(lambda: 1.0)
    assert optimizer.state[p]["step"] == 2


def test_differentiable_is_refused_when_it_comes_later() -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = ft.Adam([p])
    optimizer.param_groups[0]["differentiable"] = True
    with pytest.raises(ValueError, match="differentiable"):
        optimizer.step()


def test_a_subclass_shows_its_own_arguments() -> None:
    class Mine(ft.Adam):  # type: ignore[misc]
        def __init__(self, params: Any, speed: float = 1.0) -> None:
            super().__init__(params, lr=speed)

    assert list(inspect.signature(Mine).parameters) == ["params", "speed"]


# --- Gradients released ---


def model(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    layers = [torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.Tanh()) for _ in range(6)]
    return torch.nn.Sequential(*layers)


def train(net: Any, optimizer: Any, steps: int = 5) -> None:
    for t in range(steps):
        x = torch.randn(16, 40, generator=torch.Generator().manual_seed(t))
        optimizer.zero_grad()
        (net(x) - x.roll(1)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["SGD", "AdamW", "NAdam", "Momentum"])
def test_released_gradients_give_the_same_bits(name: str) -> None:
    plain, released = model(), model()
    options = {"momentum": 0.9} if name == "SGD" else {}
    train(plain, getattr(ft, name)(plain.parameters(), lr=0.01, **options))
    optimizer = getattr(ft, name)(released.parameters(), lr=0.01, **options)
    with ft.release_gradients(released, optimizer):
        train(released, optimizer)
        assert all(p.grad is None for p in released.parameters())
    for p, q in zip(plain.parameters(), released.parameters(), strict=True):
        assert torch.equal(p, q)
    train(released, optimizer, 1)  # as before
    assert all(p.grad is not None for p in released.parameters())


def test_no_two_gradients_at_a_time() -> None:
    net = model()
    optimizer = ft.AdamW(net.parameters())
    alive = []

    def count(_: Any) -> None:
        alive.append(sum(p.grad is not None for p in net.parameters()))

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(count)  # runs before the one that steps
    with ft.release_gradients(net.parameters(), optimizer):
        train(net, optimizer, 1)
    assert alive == [1] * len(list(net.parameters()))


def test_what_cannot_be_released() -> None:
    net = model()
    with pytest.raises(TypeError, match="of fusedstep"):
        ft.release_gradients(net, torch.optim.SGD(net.parameters()))
    with pytest.raises(ValueError, match="clip_norm"):
        ft.release_gradients(net, ft.SGD(net.parameters(), clip_norm=1.0))
    with pytest.raises(ValueError, match="loss"):
        ft.release_gradients(net, ft.Eve(net.parameters()))
    with pytest.raises(ValueError, match="no parameter"):
        ft.release_gradients(model(), ft.SGD(net.parameters()))
