"""What a user of torch's optimizers relies on holds for those of `fusedstep.torch`, one property a test.

torch's class of the same name, run as its plain loop on copies, is the oracle for all that it can do. For
16-bit parameters it is that class in float64, given the same parameters, state and gradients at each step.
"""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
base = pytest.importorskip("torch.optim.optimizer")
ft = pytest.importorskip("fusedstep.torch")

Tensor = Any
Optimizer = Any
Options = dict[str, Any]

# Options with which a rule keeps all the state it can have.
RULES: dict[str, Options] = {
    "SGD": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.02, "weight_decay": 0.1},
    "RMSprop": {"lr": 0.01, "momentum": 0.5, "centered": True, "weight_decay": 0.1},
    "Adam": {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1},
    "RAdam": {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1},
    "NAdam": {"lr": 0.01, "weight_decay": 0.1},
    "Adamax": {"lr": 0.01, "weight_decay": 0.1},
    "Adadelta": {"lr": 0.5, "weight_decay": 0.1},
    "Rprop": {"lr": 2**-7},  # with which its state begins, so exact in 16 bits
    "ASGD": {"lr": 0.05, "lambd": 0.01, "t0": 2, "weight_decay": 0.1},
}
WITH_FUSED = ["SGD", "Adagrad", "Adam", "AdamW"]
OWN_RULES = ["Momentum", "EMAMomentum", "Nesterov", "RMSProp", "SGDM", "NAdamW", "Eve"]
SCALARS_IN_STATE = {"NAdam", "ASGD"}
EXTRAS = {"state_dtype": None, "clip_norm": None, "unscale_in_step": False}
CAST_WHEN_LOADED = {
    "eta",
    "mu",
    "mu_product",
}  # float32, but torch's load_state_dict casts them to the parameter's
SHAPES = [(3, 4), (), (0,), (5000,)]
FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = torch.float32, torch.float64, torch.bfloat16, torch.float16

# Relative and absolute; the numbers here are at most some tens. For 16 bits it is one rounding of the result.
TOLERANCE = {
    FLOAT64: (1e-12, 1e-12),
    FLOAT32: (5e-6, 3e-6),
    BFLOAT16: (1.01 * 2**-8, 3e-6),
    FLOAT16: (1.01 * 2**-11, 3e-6),
}
# float32 in torch for float64 too: a tensor lr and products with it, NAdam's mu_product, ASGD's eta.
SINGLE_SCALARS = (2e-6, 1e-7)

each_rule = pytest.mark.parametrize("name", RULES)


def random(*shape: int, seed: int, dtype: Any = FLOAT64) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else FLOAT64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameter(*shape: int, seed: int = 0, dtype: Any = FLOAT64) -> Tensor:
    return torch.nn.Parameter(random(*shape, seed=seed, dtype=dtype))


def several(dtype: Any = FLOAT64) -> list[Tensor]:
    return [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(SHAPES)]


def give(parameters: list[Tensor], t: int, *without: int) -> None:
    """Set the gradients of step `t`, none for the parameters `without`."""
    for i, p in enumerate(parameters):
        p.grad = None if i in without else random(*p.shape, seed=100 + 10 * t + i, dtype=p.dtype)


def new(name: str, parameters: Any, **options: Any) -> Optimizer:
    return getattr(ft, name)(parameters, **{**RULES[name], **options})


def reference(name: str, parameters: Any, **options: Any) -> Optimizer:
    return getattr(torch.optim, name)(parameters, **{**RULES[name], "foreach": False, **options})


def plain(name: str, *, lr: float) -> Options:
    """The rule's options with this lr and no weight decay."""
    return {**RULES[name], "lr": lr, **({} if name == "Rprop" else {"weight_decay": 0.0})}


def all_parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def tensors_of(optimizer: Optimizer) -> dict[tuple[int, str], Tensor]:
    """The parameters and their state."""
    found = {}
    for i, p in enumerate(all_parameters(optimizer)):
        found[i, "parameter"] = p.detach()
        for key, value in optimizer.state.get(p, {}).items():
            if torch.is_tensor(value):
                found[i, key] = value
    return found


def tolerance_of(name: str, dtype: Any, *, tensor_lr: bool = False) -> tuple[float, float]:
    single = dtype == FLOAT64 and (name in SCALARS_IN_STATE or tensor_lr)
    return SINGLE_SCALARS if single else TOLERANCE[dtype]


def assert_close(ours: Tensor, theirs: Tensor, tol: tuple[float, float], context: Any) -> None:
    assert ours.shape == theirs.shape, context
    if theirs.is_complex():
        ours, theirs = torch.view_as_real(ours.detach()), torch.view_as_real(theirs.detach())
    ours, theirs = ours.detach().double(), theirs.detach().double()
    if not torch.allclose(ours, theirs, *tol):
        pytest.fail(f"{context}: off by {float((ours - theirs).abs().max())}")


def assert_alike(
    ours: Optimizer, theirs: Optimizer, context: Any = None, *, tensor_lr: bool = False, wider: float = 1
) -> None:
    """The same parameters and the same state, of the same names, types and shapes."""
    name = type(theirs).__name__
    mine, expected = tensors_of(ours), tensors_of(theirs)
    assert mine.keys() == expected.keys(), context
    for key, value in expected.items():
        if key[1] not in CAST_WHEN_LOADED:
            assert mine[key].dtype == value.dtype, (key, context)
        rtol, atol = tolerance_of(name, value.real.dtype, tensor_lr=tensor_lr)
        assert_close(mine[key], value, (wider * rtol, wider * atol), (key, context))


def raw(x: Tensor) -> Tensor:
    return x.detach().contiguous().reshape(-1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b)))


class Unchanged:
    """That nothing of an optimizer is written inside the block."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = optimizers

    def __enter__(self) -> None:
        self.before = [copy.deepcopy(tensors_of(optimizer)) for optimizer in self.optimizers]

    def __exit__(self, *_: object) -> None:
        for optimizer, before in zip(self.optimizers, self.before, strict=True):
            after = tensors_of(optimizer)
            assert after.keys() == before.keys()
            for key, value in before.items():
                assert same_bits(after[key], value), key


class Pair:
    """Our optimizer and torch's, over equal parameters and fed the same gradients."""

    def __init__(self, name: str, *, dtype: Any = FLOAT64, tensor_lr: bool = False, **options: Any) -> None:
        self.name, self.tensor_lr = name, tensor_lr
        own = {key: options.pop(key) for key in EXTRAS.keys() & options.keys()}
        self.mine, self.others = several(dtype), several(dtype)
        self.ours = new(name, self.mine, **options, **own)
        self.theirs = reference(name, self.others, **options)

    def both(self) -> list[Optimizer]:
        return [self.ours, self.theirs]

    def step(self, t: int, *without: int) -> None:
        for optimizer in self.both():
            give(all_parameters(optimizer), t, *without)
            optimizer.step()
        self.check(t)

    def steps(self, start: int, stop: int) -> None:
        for t in range(start, stop):
            self.step(t)

    def check(self, context: Any = None) -> None:
        assert_alike(self.ours, self.theirs, context, tensor_lr=self.tensor_lr)


def train(optimizer: Optimizer, start: int, stop: int) -> None:
    for t in range(start, stop):
        give(all_parameters(optimizer), t)
        optimizer.step()


# --- Classes and their arguments ---


@each_rule
def test_is_of_torchs_class(name: str) -> None:
    assert issubclass(getattr(ft, name), getattr(torch.optim, name))
    assert isinstance(new(name, several()), getattr(torch.optim, name))
    assert getattr(ft, name).__name__ == name


@each_rule
def test_takes_torchs_arguments_first(name: str) -> None:
    theirs = list(inspect.signature(getattr(torch.optim, name)).parameters.values())
    ours = list(inspect.signature(getattr(ft, name)).parameters.values())

    def listed(arguments: list[inspect.Parameter]) -> list[tuple[str, Any, Any]]:
        return [(argument.name, argument.default, argument.kind) for argument in arguments]

    assert listed(ours[: len(theirs)]) == listed(theirs)
    extras = {**EXTRAS, **getattr(ft, name).extras}
    assert sorted(listed(ours[len(theirs) :])) == [
        (key, value, inspect.Parameter.KEYWORD_ONLY) for key, value in sorted(extras.items())
    ]


@each_rule
def test_defaults_are_torchs(name: str) -> None:
    ours, theirs = (getattr(module, name)([parameter(2)]).defaults for module in (ft, torch.optim))
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("name", OWN_RULES)
def test_own_rule_under_a_cycle(name: str) -> None:
    p = parameter(5, dtype=FLOAT32)
    optimizer = getattr(ft, name)([p], lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    cycles = bool({"momentum", "betas"} & optimizer.defaults.keys())
    assert cycles or name == "RMSProp"
    made = [
        torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum=cycles),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=cycles),
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(6):
        optimizer.step(closure)
        for scheduler in made:
            scheduler.step()
    assert closure().item() < before


# --- Numbers ---

OPTIONS: list[tuple[str, Options]] = [
    ("SGD", {"momentum": 0.0}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"dampening": 0.3, "maximize": True}),
    ("SGD", {"weight_decay": torch.tensor(0.25)}),
    ("Adagrad", {"initial_accumulator_value": 0.3, "eps": 0.1, "maximize": True}),
    ("RMSprop", {"momentum": 0.0, "eps": 0.1}),
    ("RMSprop", {"centered": False, "alpha": 0.5}),
    ("RMSprop", {"momentum": 0.0, "centered": False, "maximize": True}),
    ("Adam", {"amsgrad": False, "betas": (0.0, 0.0), "eps": 0.1}),
    ("Adam", {"amsgrad": True, "betas": (0.5, 0.6), "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True}),
    ("AdamW", {"amsgrad": True, "maximize": True, "eps": 0.1}),
    ("RAdam", {"decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"betas": (0.8, 0.6)}),  # rho_inf = 4: never rectified
    ("RAdam", {"betas": (0.8, 0.7), "eps": 0.1}),  # rho_inf = 5.67: rectified from some step on
    ("NAdam", {"decoupled_weight_decay": True, "momentum_decay": 0.1}),
    ("NAdam", {"maximize": True, "betas": (0.5, 0.6), "eps": 0.1}),
    ("Adamax", {"betas": (0.0, 0.5), "maximize": True}),
    ("Adamax", {"eps": 0.5}),
    ("Adadelta", {"rho": 0.5, "eps": 0.1, "maximize": True}),
    ("Rprop", {"step_sizes": (0.008, 0.015), "maximize": True}),
    ("Rprop", {"etas": (0.3, 2.0)}),
    ("ASGD", {"t0": 5, "alpha": 0.5, "maximize": True}),
]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_as_in_torch(name: str, options: Options, dtype: Any) -> None:
    Pair(name, dtype=dtype, **options).steps(0, 12)


@each_rule
def test_long_run(name: str) -> None:
    p, q = parameter(7), parameter(7)
    ours, theirs = new(name, [p]), reference(name, [q])
    for _ in range(50):
        train(ours, 0, 10)
        train(theirs, 0, 10)
    # 500 steps, each with a rounding of its own
    wide = 500 * torch.finfo(FLOAT32 if name in SCALARS_IN_STATE else FLOAT64).eps
    assert_close(p, q, (wide, wide), name)


@each_rule
def test_groups_have_their_own_options(name: str) -> None:
    options = [{"lr": 0.02}, {"lr": 0.3, "maximize": True}]

    def groups() -> list[Options]:
        return [{"params": several()[:2], **options[0]}, {"params": several()[2:], **options[1]}]

    ours, theirs = new(name, groups()), reference(name, groups())
    for t in range(5):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
@each_rule
def test_flags_change_nothing(name: str, flag: str) -> None:
    if flag not in inspect.signature(getattr(torch.optim, name)).parameters:
        with pytest.raises(TypeError, match=flag):
            new(name, several(), **{flag: True})
        return
    ours, theirs = new(name, several(), **{flag: True}), reference(name, several())
    for t in range(4):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@each_rule
def test_plain_tensors_as_parameters(name: str) -> None:
    p, q = (random(6, seed=1).requires_grad_() for _ in range(2))
    ours, theirs = new(name, [p]), reference(name, [q])
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_rule
def test_complex_parameters(name: str, dtype: Any) -> None:
    Pair(name, dtype=dtype).steps(0, 6)


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32, BFLOAT16, FLOAT16], ids=str)
@each_rule
def test_zero_lr_and_gradient_keep_every_bit(name: str, dtype: Any) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    values = [0.0, -0.0, tiny, -tiny, tiny / 2, -tiny / 4, torch.inf, -torch.inf, 1.5, -3.0, torch.nan]
    start = torch.tensor(values, dtype=FLOAT64).to(dtype).repeat(20)
    p = torch.nn.Parameter(start.clone())
    optimizer = getattr(ft, name)([p], **plain(name, lr=0.0))
    for _ in range(3):
        p.grad = torch.zeros_like(start)  # -0.0 - 0.0 * -0.0 is 0.0, so not that of the other sign
        optimizer.step()
    real = ~start.isnan()
    assert torch.equal(p.isnan(), ~real)
    assert same_bits(p.detach()[real], start[real])


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@each_rule
def test_special_gradients(name: str, dtype: Any) -> None:
    # torch's sign of NaN is 0, so its Rprop ignores NaN: see the next test
    nan = 2.0 if name == "Rprop" else torch.nan
    special = torch.tensor([nan, torch.inf, -torch.inf, 1e15, -1e15, 1e-30, 0.0, 1.0], dtype=dtype)
    p, q = parameter(99, dtype=dtype), parameter(99, dtype=dtype)
    ours, theirs = new(name, [p]), reference(name, [q])
    for t in range(4):
        g = random(99, seed=t, dtype=dtype)
        if t == 1:
            g[:80] = special.repeat(10)
        p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
        mine = tensors_of(ours)
        for key, value in tensors_of(theirs).items():
            finite = value.isfinite()  # where not, whether infinite or NaN is a matter of the order of terms
            assert torch.equal(mine[key].isfinite(), finite), (key, t)
            assert_close(mine[key][finite], value[finite], tolerance_of(name, dtype), (key, t))


def test_rprop_passes_nan_on() -> None:
    p = parameter(3, dtype=FLOAT32)
    p.grad = torch.tensor([1.0, torch.nan, 1.0])
    ft.Rprop([p]).step()
    assert p.isnan().tolist() == [False, True, False]


# --- Types of fewer bits, and of several kinds ---

MIXED = [
    (BFLOAT16, BFLOAT16, None),
    (FLOAT16, FLOAT16, None),
    (BFLOAT16, BFLOAT16, FLOAT32),
    (FLOAT16, FLOAT16, FLOAT32),
    (BFLOAT16, FLOAT32, None),
    (BFLOAT16, FLOAT32, FLOAT32),
    (FLOAT16, FLOAT32, None),
    (FLOAT32, BFLOAT16, None),
    (FLOAT32, FLOAT16, None),
    (FLOAT32, FLOAT64, None),
    (FLOAT64, FLOAT32, None),
]


def of_type(shape: int, dtype: Any, gradient: Any) -> Tensor:
    p = parameter(shape, dtype=dtype)
    if gradient != dtype:
        p.grad_dtype = gradient
    return p


def exactly(name: str, optimizer: Optimizer, p: Tensor) -> Optimizer:
    """torch's optimizer in float64 with the same parameter, gradient and state."""
    q = torch.nn.Parameter(p.detach().to(FLOAT64, copy=True))
    q.grad = p.grad.double()
    theirs = reference(name, [q])
    for key, value in optimizer.state.get(p, {}).items():
        if torch.is_tensor(value):
            theirs.state[q][key] = value.to(FLOAT32 if key == "step" else FLOAT64, copy=True)
    return theirs


@pytest.mark.parametrize(("dtype", "gradient", "state_dtype"), MIXED, ids=str)
@each_rule
def test_types_are_rounded_once(name: str, dtype: Any, gradient: Any, state_dtype: Any) -> None:
    p = of_type(4097, dtype, gradient)
    optimizer = new(name, [p], state_dtype=state_dtype)
    for t in range(8):
        p.grad = random(4097, seed=t, dtype=gradient)
        theirs = exactly(name, optimizer, p)
        optimizer.step()
        theirs.step()
        assert p.dtype == dtype
        assert p.grad.dtype == gradient
        mine = tensors_of(optimizer)
        for key, value in tensors_of(theirs).items():
            single = mine[key].dtype == FLOAT64 and gradient == FLOAT32
            tol = TOLERANCE[FLOAT32 if single else mine[key].dtype]
            assert_close(mine[key], value, tol, (key, t))


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
@each_rule
def test_state_dtype_is_that_of_the_state(name: str, dtype: Any) -> None:
    p, q = parameter(9, dtype=dtype), parameter(9, dtype=dtype)
    optimizer, other = new(name, [p], state_dtype=FLOAT32), new(name, [q])
    train(optimizer, 0, 2)
    train(other, 0, 2)
    assert {value.dtype for value in optimizer.state[p].values()} == {FLOAT32}
    assert {value.dtype for value in other.state[q].values() if value.dim()} == {dtype}


@each_rule
def test_loading_keeps_float32_state(name: str) -> None:
    p = parameter(50, dtype=BFLOAT16)
    optimizer = new(name, [p], state_dtype=FLOAT32)
    train(optimizer, 0, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for options in ({"state_dtype": FLOAT32}, {}):
        q = torch.nn.Parameter(p.detach().clone())
        loaded = new(name, [q], **options)
        loaded.load_state_dict(copy.deepcopy(saved))
        for key, value in optimizer.state[p].items():
            assert same_bits(loaded.state[q][key], value), key
        run_on = copy.deepcopy((optimizer, loaded))
        for each in run_on:
            train(each, 3, 5)
        first, second = (tensors_of(each) for each in run_on)
        assert first.keys() == second.keys()
        assert all(same_bits(first[key], second[key]) for key in first)


# --- Layouts ---

SHAPE = (3, 4, 9, 50)


def transposed(x: Tensor) -> Tensor:
    return x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def inside(x: Tensor) -> Tensor:
    """A block of a larger array."""
    base = torch.full([n + 2 for n in x.shape], 7.0, dtype=x.dtype)
    view = base[tuple(slice(1, n + 1) for n in x.shape)]
    return view.copy_(x)


def every_other(x: Tensor) -> Tensor:
    base = torch.full((*x.shape[:-1], 2 * x.shape[-1]), 7.0, dtype=x.dtype)
    return base[..., ::2].copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "transposed": transposed,
    "channels_last": channels_last,
    "inside": inside,
    "every_other": every_other,
}


@pytest.mark.parametrize("gradient", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@each_rule
def test_layouts(name: str, layout: str, gradient: str) -> None:
    start = random(*SHAPE, seed=1)
    p, q = torch.nn.Parameter(LAYOUTS[layout](start)), torch.nn.Parameter(start.clone())
    ours, theirs = new(name, [p]), reference(name, [q])
    storage = torch.empty(0, dtype=p.dtype).set_(p.detach().untyped_storage())
    for t in range(3):
        g = random(*SHAPE, seed=10 + t)
        p.grad, q.grad = LAYOUTS[gradient](g), g.clone()
        before = p.grad.clone()
        ours.step()
        theirs.step()
        assert same_bits(p.grad, before)
        assert_alike(ours, theirs, t)
    assert p.stride() == LAYOUTS[layout](start).stride()
    around = storage[storage == 7.0].numel()
    assert around == storage.numel() - p.numel()


@each_rule
def test_expanded_gradient(name: str) -> None:
    p, q = parameter(30, 50), parameter(30, 50)
    ours, theirs = new(name, [p]), reference(name, [q])
    for t, shape in enumerate([(1, 50), (30, 1), (1, 1)]):
        g = random(*shape, seed=t).expand(30, 50)
        p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("n", [1, 5])
@each_rule
def test_negated_gradient(name: str, n: int) -> None:
    p, q = parameter(n, dtype=FLOAT32), parameter(n, dtype=FLOAT32)
    ours, theirs = new(name, [p]), reference(name, [q])
    for t in range(3):
        p.grad = random(n, seed=t, dtype=torch.complex64).conj().imag
        assert p.grad.is_neg()
        q.grad = p.grad.resolve_neg().clone()
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, t)


@each_rule
def test_conjugated_gradient(name: str) -> None:
    p, q = (parameter(5, dtype=torch.complex128) for _ in range(2))
    ours, theirs = new(name, [p]), reference(name, [q])
    for t in range(3):
        p.grad = random(5, seed=t, dtype=torch.complex128).conj()
        assert p.grad.is_conj()
        q.grad = p.grad.resolve_conj().clone()
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("layout", ["transposed", "channels_last", "every_other"])
@each_rule
def test_state_of_another_layout(name: str, layout: str) -> None:
    p, q = parameter(*SHAPE), parameter(*SHAPE)
    ours, theirs = new(name, [p]), reference(name, [q])
    train(theirs, 0, 3)
    saved = copy.deepcopy(theirs.state_dict())
    state = saved["state"][0]
    state.update({key: LAYOUTS[layout](value) for key, value in state.items() if value.dim()})
    with torch.no_grad():
        p.copy_(q)
    ours.load_state_dict(saved)
    for t in range(3, 6):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
@each_rule
def test_empty_or_single(name: str, shape: tuple[int, ...]) -> None:
    p, q = parameter(*shape), parameter(*shape)
    ours, theirs = new(name, [p]), reference(name, [q])
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_alike(ours, theirs)


def halves(kind: str) -> tuple[Tensor, Tensor]:
    base = random(6, 8, seed=1)
    return {
        "rows": (base[:3], base[3:]),
        "columns": (base[:, :3], base[:, 3:]),
        "alternating": (base.view(-1)[::2], base.view(-1)[1::2]),
    }[kind]


@pytest.mark.parametrize("kind", ["rows", "columns", "alternating"])
@each_rule
def test_disjoint_views_of_one_memory(name: str, kind: str) -> None:
    ours = new(name, [torch.nn.Parameter(view) for view in halves(kind)])
    theirs = reference(name, [torch.nn.Parameter(view.clone()) for view in halves(kind)])
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("shift", [0, 1, 3])
@each_rule
def test_gradient_in_the_parameters_memory(name: str, shift: int) -> None:
    n = 5000
    base = random(n + shift, seed=1)
    p, q = torch.nn.Parameter(base[:n]), torch.nn.Parameter(base[:n].clone())
    ours, theirs = new(name, [p]), reference(name, [q])
    for t in range(3):
        p.grad = base[shift:]
        q.grad = p.grad.clone()
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, t)


# --- What is refused, before anything is written ---


@each_rule
def test_differentiable_is_refused(name: str) -> None:
    p = parameter(3)
    p.grad = torch.ones_like(p)
    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match="differentiable"):
        new(name, [p], differentiable=True).step()
    assert torch.equal(p.detach(), random(3, seed=0))


def refused(optimizer: Optimizer, error: Any, match: str) -> None:
    with Unchanged(optimizer), pytest.raises(error, match=match):
        optimizer.step()


def build_and_step(name: str, parameters: list[Tensor]) -> None:
    optimizer = new(name, parameters)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()


@each_rule
def test_other_device_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError), match="meta"):
        build_and_step(name, [good, bad])
    assert torch.equal(good.detach(), random(3, seed=0))


@pytest.mark.parametrize("name", [name for name in RULES if name != "Adagrad"])
def test_sparse_gradient_is_refused(name: str) -> None:
    parameters = [parameter(3), parameter(3, seed=1)]
    optimizer = new(name, parameters)
    train(optimizer, 0, 2)
    give(parameters, 2)
    parameters[1].grad = torch.ones(3, dtype=FLOAT64).to_sparse()
    refused(optimizer, (RuntimeError, ValueError), "sparse")


def test_sparse_gradient_with_decay_is_refused() -> None:
    parameters = [parameter(3), parameter(3, seed=1)]
    optimizer = ft.Adagrad(parameters, weight_decay=0.1)
    train(optimizer, 0, 2)
    give(parameters, 2)
    parameters[1].grad = torch.ones(3, dtype=FLOAT64).to_sparse()
    refused(optimizer, RuntimeError, "sparse")


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": torch.tensor(0.1)}], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradient_is_handled(name: str, options: Options) -> None:
    p, q = parameter(6, 4), parameter(6, 4)
    ours = getattr(ft, name)([p], **options)
    theirs = getattr(torch.optim, name)([q], **copy.deepcopy(options), foreach=False)
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        for t in range(4):
            rows = torch.tensor([[1, t, 1]])
            p.grad = torch.sparse_coo_tensor(rows, random(3, 4, seed=t), (6, 4))
            q.grad = p.grad.clone()
            ours.step()
            theirs.step()
            assert_alike(ours, theirs, t, tensor_lr=True)


@pytest.mark.parametrize("kind", ["same", "overlapping", "interleaved"])
@each_rule
def test_parameters_in_one_memory_are_refused(name: str, kind: str) -> None:
    base = random(20, seed=1)
    first, second = {
        "same": (base, base.view(4, 5)),
        "overlapping": (base[:11], base[10:]),
        "interleaved": (base[::2], base[::5]),
    }[kind]
    named = [("alpha.weight", torch.nn.Parameter(first)), ("beta.weight", torch.nn.Parameter(second))]
    optimizer = new(name, named)
    give(all_parameters(optimizer), 0)
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"alpha\.weight|beta\.weight"):
        optimizer.step()


@each_rule
def test_shared_memory_names_an_unnamed_parameter(name: str) -> None:
    base = random(20, seed=1)
    optimizer = new(name, [parameter(3), torch.nn.Parameter(base), torch.nn.Parameter(base)])
    give(all_parameters(optimizer), 0)
    refused(optimizer, ValueError, r"(?i)param\w*\D*[12]")


@each_rule
def test_parameter_with_repeated_elements_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(random(1, seed=1).expand(5))
    optimizer = new(name, [good, bad])
    give(all_parameters(optimizer), 0)
    with pytest.raises((RuntimeError, ValueError)):
        optimizer.step()
    assert torch.equal(good.detach(), random(3, seed=0))
    assert torch.equal(bad.detach(), random(1, seed=1).expand(5))


@each_rule
def test_failing_closure_writes_nothing(name: str) -> None:
    optimizer = new(name, several())
    train(optimizer, 0, 2)

    def closure() -> float:
        give(all_parameters(optimizer), 2)
        raise KeyError("of the closure")

    with Unchanged(optimizer), pytest.raises(KeyError, match="of the closure"):
        optimizer.step(closure)


# --- Groups, parameters and options as others change them ---


@each_rule
def test_options_are_read_at_every_step(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    for optimizer in pair.both():
        group = optimizer.param_groups[0]
        group["lr"] = 0.2
        group["maximize"] = True
        for key, value in {"weight_decay": 0.3, "momentum": 0.4, "eps": 0.01, "betas": (0.5, 0.6)}.items():
            if key in group:
                group[key] = value
    pair.steps(2, 5)


@each_rule
def test_list_and_dicts_may_be_replaced(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    for optimizer in pair.both():
        (group,) = optimizer.param_groups
        optimizer.param_groups = [
            {**group, "params": group["params"][:1], "lr": 0.3},
            {**group, "params": group["params"][1:]},
        ]
    pair.steps(2, 5)


@each_rule
def test_tensors_of_a_group_may_be_replaced(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    for optimizer in pair.both():
        parameters = optimizer.param_groups[0]["params"]
        old, replaced = parameters[0], parameter(6, seed=77)
        state = optimizer.state.pop(old)
        optimizer.state[replaced] = {
            key: value.clone() if not value.dim() else random(6, seed=3).sigmoid()
            for key, value in state.items()
        }
        parameters[0] = replaced
    pair.steps(2, 5)


@each_rule
def test_memory_of_a_parameter_may_be_replaced(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    old = [p.data for p in pair.mine]
    kept = [x.clone() for x in old]
    for optimizer in pair.both():
        for p in all_parameters(optimizer):
            p.data = p.data * 2
    pair.steps(2, 4)
    assert all(torch.equal(x, y) for x, y in zip(old, kept, strict=True))


@each_rule
def test_state_may_be_replaced(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    for optimizer in pair.both():
        for state in optimizer.state.values():
            for key, value in state.items():
                state[key] = value.clone() if key == "step" else value * 0.5
    pair.steps(2, 4)


@pytest.mark.parametrize("name", [name for name in RULES if name != "Adagrad"])
def test_state_may_be_dropped(name: str) -> None:
    """Adagrad makes its state in the constructor and fails without it in torch."""
    pair = Pair(name)
    pair.steps(0, 3)
    for optimizer in pair.both():
        optimizer.state.clear()
    pair.steps(3, 6)


@pytest.mark.parametrize("lr", [torch.tensor(0.05), torch.tensor([0.05]), torch.tensor(0.05, dtype=FLOAT64)])
@each_rule
def test_lr_in_a_tensor(name: str, lr: Tensor) -> None:
    pair = Pair(name, tensor_lr=True, lr=lr.clone())
    tensor = pair.ours.param_groups[0]["lr"]
    pair.steps(0, 3)
    for optimizer in pair.both():
        optimizer.param_groups[0]["lr"].fill_(0.3)
    assert pair.ours.param_groups[0]["lr"] is tensor
    pair.steps(3, 6)


@each_rule
def test_parameter_without_gradient_waits(name: str) -> None:
    pair = Pair(name)
    for t, without in enumerate([(), (0,), (0, 3), (1,), ()]):
        pair.step(t, *without)
    counts = [state["step"].item() for state in pair.ours.state.values() if "step" in state]
    assert counts == ([] if name == "SGD" else [3.0, 4.0, 5.0, 4.0])


@each_rule
def test_late_first_gradient(name: str) -> None:
    parameters, others = several(), several()
    ours, theirs = new(name, parameters), reference(name, others)
    for t in range(4):
        for optimizer in (ours, theirs):
            give(all_parameters(optimizer), t, *([3] if t < 2 else []))
            optimizer.step()
    assert_alike(ours, theirs)
    if name != "SGD":
        assert ours.state[parameters[3]]["step"].item() == 2


@each_rule
def test_no_gradient_at_all(name: str) -> None:
    optimizer = new(name, several())
    with Unchanged(optimizer):
        assert optimizer.step() is None


@each_rule
def test_add_param_group(name: str) -> None:
    pair = Pair(name)
    pair.steps(0, 2)
    for optimizer in pair.both():
        optimizer.add_param_group({"params": [parameter(11, seed=8)], "lr": 0.3})
        optimizer.add_param_group({"params": parameter(2, 3, seed=9)})
        optimizer.add_param_group({"params": []})
    pair.steps(2, 5)
    assert len(pair.ours.param_groups) == 4


@pytest.mark.parametrize("options", [{}, {"foreach": True}], ids=["plain", "foreach"])
@each_rule
def test_zero_grad(name: str, options: Options) -> None:
    parameters = several()
    optimizer = new(name, parameters, **options)
    give(parameters, 0)
    held = [p.grad for p in parameters]
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is g and not g.any() for p, g in zip(parameters, held, strict=True))
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)


@each_rule
def test_named_parameters(name: str) -> None:
    pairs = [[(f"layer.{i}", p) for i, p in enumerate(several())] for _ in range(2)]
    ours, theirs = new(name, pairs[0]), reference(name, pairs[1])
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_alike(ours, theirs)
    names = [key for key, _ in pairs[0]]
    assert ours.param_groups[0]["param_names"] == names
    assert ours.state_dict()["param_groups"][0]["param_names"] == names


# --- The step as a method ---


@each_rule
def test_step_is_a_method_in_python(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer = new(name, several())
    own = getattr(ft, name)
    assert inspect.isfunction(own.step)
    assert list(inspect.signature(own.step).parameters) == ["self", "closure"]
    calls = []

    def wrapper(step: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        calls.append(name)
        return step(*arguments, **options)

    monkeypatch.setattr(own, "step", functools.partialmethod(functools.partial(wrapper, own.step)))
    optimizer.step = functools.partial(wrapper, optimizer.step)
    other = reference(name, several())
    train(optimizer, 0, 2)
    train(other, 0, 2)
    assert calls == [name] * 4
    assert_alike(optimizer, other)


@each_rule
def test_subclass_may_override_step(name: str) -> None:
    class Own(getattr(ft, name)):  # type: ignore[misc]
        calls = 0

        def step(self, closure: Any = None) -> Any:
            self.calls += 1
            return super().step(closure)

    ours, theirs = Own(several(), **RULES[name]), reference(name, several())
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert ours.calls == 3
    assert_alike(ours, theirs)


@pytest.mark.parametrize("keyword", [False, True])
@each_rule
def test_closure(name: str, keyword: bool) -> None:
    parameters, others = [parameter(4)], [parameter(4)]
    ours, theirs = new(name, parameters), reference(name, others)
    seen = []

    def closure(optimizer: Optimizer) -> Tensor:
        (p,) = all_parameters(optimizer)
        seen.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        for optimizer in (theirs, ours) * 3:
            call = functools.partial(closure, optimizer)
            p = all_parameters(optimizer)[0]
            expected = float((p**2).sum())
            loss = optimizer.step(closure=call) if keyword else optimizer.step(call)
            assert loss.item() == expected
            assert loss.requires_grad
            assert not torch.is_grad_enabled()
    assert seen == [True] * 6
    assert_alike(ours, theirs)


@each_rule
def test_step_leaves_no_graph(name: str) -> None:
    p = parameter(4)
    optimizer = new(name, [p])
    (p**2).sum().backward()
    assert optimizer.step() is None
    assert torch.is_grad_enabled()
    assert p.is_leaf
    assert p.requires_grad
    assert not any(value.requires_grad for value in optimizer.state[p].values())


@each_rule
def test_backward_through_changed_parameters_is_noticed(name: str) -> None:
    p = parameter(4)
    optimizer = new(name, [p])
    loss = (p**2).sum()
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(RuntimeError, match="inplace operation"):
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
@each_rule
def test_step_hooks_run_once(name: str, heard: list[str]) -> None:
    reference(name, several()).step()  # makes torch wrap the step of its own class
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


@each_rule
def test_pre_hook_may_change_the_arguments(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)

    def closure() -> float:
        give(parameters, 0)
        return 2.5

    optimizer.register_step_pre_hook(lambda optimizer, _args, kwargs: ((optimizer, closure), kwargs))
    assert optimizer.step() == 2.5
    other = reference(name, several())
    train(other, 0, 1)
    assert_alike(optimizer, other)


@each_rule
def test_post_hook_sees_the_new_parameters(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)
    first = parameters[0].detach().clone()
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append(torch.equal(first, parameters[0].detach())))
    train(optimizer, 0, 1)
    assert seen == [False]


@each_rule
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


# --- State, checkpoints and copies ---


@each_rule
def test_state_is_made_by_the_first_step(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)
    if name != "Adagrad":  # as in torch, whose Adagrad may have it before
        assert not optimizer.state
    train(optimizer, 0, 1)
    assert list(optimizer.state) == parameters
    for p, state in optimizer.state.items():
        for key, value in state.items():
            assert value.shape in {p.shape, ()}, key
        if name != "SGD":
            assert state["step"].dtype == FLOAT32
            assert state["step"].shape == ()
            assert state["step"].item() == 1


def through_a_file(state_dict: Options, path: Path) -> Options:
    torch.save(state_dict, path / "checkpoint")
    loaded: Options = torch.load(path / "checkpoint", weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@pytest.mark.parametrize("maker", [new, reference], ids=["from ours", "from torch"])
@each_rule
def test_checkpoints_are_torchs(
    name: str, maker: Callable[..., Optimizer], dtype: Any, tmp_path: Path
) -> None:
    first = several(dtype)
    saving = maker(name, first)
    train(saving, 0, 7)
    checkpoint = through_a_file(saving.state_dict(), tmp_path)
    taker = reference if maker is new else new
    continuing = taker(name, [torch.nn.Parameter(p.detach().clone()) for p in first], lr=123.0)
    continuing.load_state_dict(checkpoint)
    uninterrupted = reference(name, several(dtype))
    train(uninterrupted, 0, 7)
    for t in range(7, 12):
        train(continuing, t, t + 1)
        train(uninterrupted, t, t + 1)
        assert_alike(continuing, uninterrupted, t)


@each_rule
def test_state_dict_has_torchs_keys(name: str) -> None:
    ours, theirs = new(name, several()), reference(name, several())
    train(ours, 0, 1)
    train(theirs, 0, 1)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert mine["state"].keys() == other["state"].keys()
    assert other["param_groups"][0].keys() <= mine["param_groups"][0].keys()
    assert mine["param_groups"][0]["params"] == other["param_groups"][0]["params"]


@each_rule
def test_loading_a_checkpoint_of_torch_keeps_the_extras(name: str) -> None:
    theirs = reference(name, [parameter(5, dtype=BFLOAT16)])
    train(theirs, 0, 2)
    p = parameter(5, dtype=BFLOAT16)
    ours = new(name, [p], clip_norm=0.5, state_dtype=FLOAT32, unscale_in_step=True)
    ours.load_state_dict(theirs.state_dict())
    assert_extras_hold(ours)


@each_rule
def test_other_groups_are_refused(name: str) -> None:
    saved = new(name, several()).state_dict()
    optimizer = new(name, several()[:2])
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": several()[2:]})
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)


def assert_extras_hold(optimizer: Optimizer) -> None:
    """clip_norm=0.5, state_dtype=float32 and unscale_in_step, seen in what a step does."""
    assert optimizer._step_supports_amp_scaling
    added = parameter(5, seed=5, dtype=BFLOAT16)
    optimizer.add_param_group({"params": [added]})
    give(all_parameters(optimizer), 3)
    norm = float(torch.cat([p.grad.flatten().double() for p in all_parameters(optimizer)]).norm())
    optimizer.step()
    assert optimizer.grad_norm == pytest.approx(norm, rel=1e-5)
    assert {value.dtype for value in optimizer.state[added].values()} == {FLOAT32}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_rule
def test_copies_keep_the_extras(name: str, duplicate: Callable[[Any], Any]) -> None:
    p = parameter(5, dtype=BFLOAT16)
    optimizer = new(name, [p], clip_norm=0.5, state_dtype=FLOAT32, unscale_in_step=True)
    assert_extras_hold(duplicate(optimizer))
    train(optimizer, 0, 2)
    assert_extras_hold(duplicate(optimizer))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_rule
def test_copies_with_the_model_go_on(name: str, duplicate: Callable[[Any], Any]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()
    optimizer = new(name, model.parameters())
    train(optimizer, 0, 3)
    twin, copied = duplicate((model, optimizer))
    assert all(p is q for p, q in zip(twin.parameters(), all_parameters(copied), strict=True))
    with Unchanged(optimizer):
        train(copied, 3, 6)
    train(optimizer, 3, 6)
    mine, other = tensors_of(optimizer), tensors_of(copied)
    assert mine.keys() == other.keys()
    assert all(same_bits(mine[key], other[key]) for key in mine)


@each_rule
def test_prints_like_torchs(name: str) -> None:
    text = repr(new(name, several()))
    assert text.startswith(f"{name} (")
    assert all(
        line in text for line in repr(reference(name, several())).splitlines() if "foreach" not in line
    )


# --- Schedules ---


def cycle(optimizer: Optimizer) -> bool:
    return bool({"momentum", "betas"} & optimizer.defaults.keys())


schedulers = torch.optim.lr_scheduler
SCHEDULERS: dict[str, Callable[[Optimizer], Any]] = {
    "LambdaLR": lambda o: schedulers.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: schedulers.MultiplicativeLR(o, lambda epoch: 1 / (1 + epoch)),
    "StepLR": lambda o: schedulers.StepLR(o, step_size=2),
    "MultiStepLR": lambda o: schedulers.MultiStepLR(o, milestones=[2, 5]),
    "ConstantLR": lambda o: schedulers.ConstantLR(o, total_iters=3),
    "LinearLR": schedulers.LinearLR,
    "ExponentialLR": lambda o: schedulers.ExponentialLR(o, gamma=0.8),
    "SequentialLR": lambda o: schedulers.SequentialLR(
        o, [schedulers.LinearLR(o), schedulers.ExponentialLR(o, gamma=0.8)], milestones=[4]
    ),
    "CosineAnnealingLR": lambda o: schedulers.CosineAnnealingLR(o, T_max=6),
    "ChainedScheduler": lambda o: schedulers.ChainedScheduler(
        [schedulers.LinearLR(o), schedulers.ExponentialLR(o, gamma=0.8)]
    ),
    "ReduceLROnPlateau": lambda o: schedulers.ReduceLROnPlateau(o, patience=2),
    "CyclicLR": lambda o: schedulers.CyclicLR(o, 0.01, 0.1, step_size_up=3, cycle_momentum=cycle(o)),
    "CosineAnnealingWarmRestarts": lambda o: schedulers.CosineAnnealingWarmRestarts(o, T_0=4),
    "OneCycleLR": lambda o: schedulers.OneCycleLR(o, 0.1, total_steps=10, cycle_momentum=cycle(o)),
    "PolynomialLR": lambda o: schedulers.PolynomialLR(o, total_iters=6),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, swa_lr=0.001, anneal_epochs=4),
}


def test_every_scheduler_of_torch_is_here() -> None:
    assert set(schedulers.__all__) - {"LRScheduler"} <= SCHEDULERS.keys()


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # of SequentialLR itself
@pytest.mark.parametrize("tensor_lr", [False, True], ids=["float", "tensor"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "NAdam"])
def test_schedulers(name: str, scheduler: str, tensor_lr: bool) -> None:
    """A momentum to cycle, none, betas, a number in the state; every rule meets those of torch's table."""
    lr = torch.tensor(0.05) if tensor_lr else 0.05
    pair = Pair(name, tensor_lr=tensor_lr, lr=copy.deepcopy(lr))
    made = [SCHEDULERS[scheduler](optimizer) for optimizer in pair.both()]
    seen = set()
    for t in range(9):
        pair.step(t)
        for each in made:
            each.step(*([1.0] if scheduler == "ReduceLROnPlateau" else []))
        mine, other = (optimizer.param_groups[0] for optimizer in pair.both())
        assert mine["lr"] == other["lr"]
        assert mine.get("betas", mine.get("momentum")) == other.get("betas", other.get("momentum"))
        seen.add(float(mine["lr"]))
    assert len(seen) > 1


# --- Gradients that are scaled or clipped ---


def scaled_step(scaler: Any, optimizer: Optimizer, t: int, *, bad: float | None = None) -> None:
    """A step with gradients as backward leaves them under the scaler."""
    parameters = all_parameters(optimizer)
    give(parameters, t)
    scale = scaler.scale(torch.ones(()))  # also what makes the scaler begin
    for p in parameters:
        p.grad = p.grad * scale.to(p.grad.dtype)
    if bad is not None:
        parameters[0].grad.view(-1)[1] = bad
    scaler.step(optimizer)
    scaler.update()


def scaler_of(scale: float = 2.0**10) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


@each_rule
def test_scaler_by_its_default_path(name: str) -> None:
    pair = Pair(name, dtype=FLOAT32)
    assert not getattr(pair.ours, "_step_supports_amp_scaling", False)
    scalers = [scaler_of(), scaler_of()]
    for t in range(5):
        for scaler, optimizer in zip(scalers, pair.both(), strict=True):
            scaled_step(scaler, optimizer, t, bad=torch.inf if t == 2 else None)
        pair.check(t)
    assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0**9


def opting_in() -> list[Any]:
    return [pytest.param(name, {"unscale_in_step": True}, id=name) for name in RULES] + [
        pytest.param(name, {"fused": True}, id=f"{name}-fused") for name in WITH_FUSED
    ]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("name", "options"), opting_in())
def test_scaler_with_unscaling_in_the_step(name: str, options: Options, bad: float) -> None:
    ours, theirs = new(name, several(), **options), reference(name, several())
    assert ours._step_supports_amp_scaling
    scaler = scaler_of()
    for t in range(5):
        if t == 2:
            with Unchanged(ours):
                scaled_step(scaler, ours, t, bad=bad)
            assert scaler.get_scale() == 2.0**9
            continue
        scale = scaler.get_scale()
        scaled_step(scaler, ours, t)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)
        for p, q in zip(all_parameters(ours), all_parameters(theirs), strict=True):
            assert torch.equal(p.grad, q.grad * scale)


@pytest.mark.parametrize(("name", "options"), opting_in())
def test_first_step_with_infinity_makes_nothing(name: str, options: Options) -> None:
    optimizer = new(name, several(), **options)
    parameters = [p.detach().clone() for p in all_parameters(optimizer)]
    scaled_step(scaler_of(), optimizer, 0, bad=torch.inf)
    for p, q in zip(all_parameters(optimizer), parameters, strict=True):
        assert same_bits(p, q)
        assert optimizer.state.get(p, {}).get("step", torch.zeros(())).item() == 0


@pytest.mark.parametrize(("name", "options"), opting_in())
def test_gradients_the_user_has_unscaled(name: str, options: Options) -> None:
    """Then the scaler sets grad_scale to None."""
    ours, theirs = new(name, several(), **options), reference(name, several())
    scaler = scaler_of()

    def step(t: int, bad: float | None) -> None:
        give(all_parameters(ours), t)
        scale = scaler.scale(torch.ones((), dtype=FLOAT64))
        for p in all_parameters(ours):
            p.grad *= scale
        if bad is not None:
            all_parameters(ours)[0].grad[0, 1] = bad
        scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()

    for t in range(2):
        step(t, None)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)
    with Unchanged(ours):
        step(2, torch.nan)


@pytest.mark.parametrize("scale", [1000.0, 3.0, 1 / 3])
@each_rule
def test_any_scale(name: str, scale: float) -> None:
    ours, theirs = new(name, several(FLOAT32), unscale_in_step=True), reference(name, several(FLOAT32))
    scaler = scaler_of(scale)
    for t in range(3):
        scaled_step(scaler, ours, t)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@each_rule
def test_scale_and_flag_as_attributes(name: str) -> None:
    ours, theirs = new(name, several(), unscale_in_step=True), reference(name, several())
    train(ours, 0, 1)
    train(theirs, 0, 1)
    ours.grad_scale, ours.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    give(all_parameters(ours), 1)
    for p in all_parameters(ours):
        p.grad *= 8
    ours.step()
    train(theirs, 1, 2)
    assert_alike(ours, theirs)
    ours.found_inf = torch.tensor(1.0)
    with Unchanged(ours):
        ours.step()
    del ours.grad_scale, ours.found_inf
    train(ours, 2, 3)
    train(theirs, 2, 3)
    assert_alike(ours, theirs)


@each_rule
def test_scaler_with_float16_gradients(name: str) -> None:
    """Which the scaler's default path refuses."""
    p = parameter(50, dtype=FLOAT16)
    optimizer = new(name, [p], unscale_in_step=True, state_dtype=FLOAT32)
    scaler = scaler_of(4.0)
    for t in range(3):
        give([p], t)
        theirs = exactly(name, optimizer, p)
        scaled_step(scaler, optimizer, t)
        theirs.step()
        assert_close(p, all_parameters(theirs)[0], TOLERANCE[FLOAT16], t)


def clipped_step(theirs: Optimizer, limit: float, t: int, *without: int) -> float:
    give(all_parameters(theirs), t, *without)
    norm = torch.nn.utils.clip_grad_norm_(all_parameters(theirs), limit)
    theirs.step()
    return float(norm)


@pytest.mark.parametrize("limit", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@each_rule
def test_clip_norm(name: str, dtype: Any, limit: float) -> None:
    def groups() -> list[Options]:
        parameters = several(dtype)
        return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.03}]

    ours, theirs = new(name, groups(), clip_norm=limit), reference(name, groups())
    for t, without in enumerate([(), (), (1,), ()]):
        give(all_parameters(ours), t, *without)
        before = [None if p.grad is None else p.grad.clone() for p in all_parameters(ours)]
        ours.step()
        norm = clipped_step(theirs, limit, t, *without)
        assert isinstance(ours.grad_norm, float)
        assert ours.grad_norm == pytest.approx(norm, rel=1e-12 if dtype == FLOAT64 else 1e-5)
        # torch rounds norm and factor to the gradient's type, and RMSprop's division enlarges that
        assert_alike(ours, theirs, t, wider=1 if dtype == FLOAT64 else 10)
        for p, g in zip(all_parameters(ours), before, strict=True):
            assert p.grad is None if g is None else same_bits(p.grad, g)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_clip_norm_of_infinity(bad: float) -> None:
    ours, theirs = new("SGD", several(), clip_norm=0.5), reference("SGD", several())
    for optimizer in (ours, theirs):
        give(all_parameters(optimizer), 0)
        all_parameters(optimizer)[0].grad[0, 1] = bad
    ours.step()
    torch.nn.utils.clip_grad_norm_(all_parameters(theirs), 0.5)
    theirs.step()
    assert not torch.tensor(ours.grad_norm).isfinite()
    for p, q in zip(all_parameters(ours), all_parameters(theirs), strict=True):
        finite = q.isfinite()
        assert torch.equal(p.isfinite(), finite)
        assert_close(p[finite], q[finite], TOLERANCE[FLOAT64], bad)


@each_rule
def test_clip_norm_of_unscaled_gradients(name: str) -> None:
    ours = new(name, several(), clip_norm=0.5, unscale_in_step=True)
    theirs = reference(name, several())
    scaler = scaler_of()
    for t in range(3):
        scaled_step(scaler, ours, t)
        norm = clipped_step(theirs, 0.5, t)
        assert ours.grad_norm == pytest.approx(norm, rel=1e-12)
        assert_alike(ours, theirs, t)


@each_rule
def test_clip_norm_without_any_gradient(name: str) -> None:
    optimizer = new(name, several(), clip_norm=0.5)
    with Unchanged(optimizer):
        optimizer.step()
    assert optimizer.grad_norm == 0.0


@each_rule
def test_a_model_trains_alike(name: str) -> None:
    def model() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)).double()

    first = model()
    second = copy.deepcopy(first)
    inputs, targets = random(64, 4, seed=1), random(64, 1, seed=2)
    losses: list[list[float]] = []
    for net, maker in ((first, new), (second, reference)):
        optimizer = maker(name, net.parameters())
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(inputs), targets)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][-1] < losses[0][0]
