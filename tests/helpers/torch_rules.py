"""An example of every optimizer of `fusedstep.torch`, found there, and what its steps are compared with.

torch's class of the same name, as its plain loop, is one oracle where there is one (`TorchsMuon` for Muon).
The other is the NumPy API, for every class: `InNumpy` is a torch optimizer whose steps that API makes, over
copies of the tensors, and there not a bit may differ.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs

torch: Any = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")

Array = np.ndarray[Any, Any]
Tensor: TypeAlias = Any
Optimizer: TypeAlias = Any
Options: TypeAlias = dict[str, Any]

FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
COMPLEX64, COMPLEX128 = torch.complex64, torch.complex128

OF_16_BITS = [(BFLOAT16, None), (BFLOAT16, FLOAT32), (FLOAT16, None), (FLOAT16, FLOAT16)]
"""Types of parameters, each with state by default and in the other way."""


# --- Every class, with options ---

CLASSES: list[str] = [name for name in ft.__all__ if isinstance(getattr(ft, name), type) and name != "Fused"]
DROP_INS = [name for name in CLASSES if hasattr(torch.optim, name)]
OWN = [name for name in CLASSES if name not in DROP_INS]

# With these a class keeps all the state it can have, and each part of its step is seen in a few steps.
# A class that is not here has its defaults.
OPTIONS: dict[str, Options] = {
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
    "Adafactor": {"lr": 0.3, "weight_decay": 0.1},
    "Muon": {"lr": 0.1, "weight_decay": 0.1},
    "NAdamW": {"lr": 0.01, "amsgrad": True},
    "Lion": {"lr": 0.01, "cautious": True},
    "ScheduleFreeSGD": {"lr": 0.1, "weight_decay": 0.1},
    "ScheduleFreeAdamW": {"lr": 0.1, "warmup_steps": 3, "r": 1.0},
    "MADGRAD": {"lr": 0.01},
    "LARS": {"trust_coefficient": 0.1, "weight_decay": 0.1},
    "LAMB": {"lr": 0.01},
    "StableAdamW": {"lr": 0.01, "betas": (0.5, 0.99)},
    "NovoGrad": {"lr": 0.01, "weight_decay": 0.1},
    "Prodigy": {"d0": 0.01, "d_coef": 8.0},
}

each_class = pytest.mark.parametrize("name", CLASSES)
each_drop_in = pytest.mark.parametrize("name", DROP_INS)
each_narrow = pytest.mark.parametrize(
    "name", [name for name in CLASSES if not getattr(ft, name).rule.needs_float32]
)
each_own = pytest.mark.parametrize("name", OWN)

WITH_FUSED = [name for name in DROP_INS if "fused" in getattr(ft, name).__signature__.parameters]
"""Classes whose argument ``fused`` also says that the step is what removes a scale from gradients."""

EXTRAS: Options = {"state_dtype": None, "clip_norm": None, "unscale_in_step": False}
"""The arguments that all classes have beside those of torch."""


def options_of(name: str) -> Options:
    return copy.deepcopy(OPTIONS.get(name, {}))


def takes_complex(name: str) -> bool:
    """Whether a class has steps of complex numbers; the others refuse them."""
    try:
        new(name, [torch.nn.Parameter(torch.ones(2, 2, dtype=COMPLEX64))])
    except RuntimeError:
        return False
    return True


def fits(name: str, *dtypes: Any) -> bool:
    """Whether a class takes parameters and state of these dtypes; None stands for the other's."""
    return not getattr(ft, name).rule.needs_float32 or not {BFLOAT16, FLOAT16} & set(dtypes)


def of_each_kind() -> Iterator[str]:
    """torch's classes, and of the others those that keep numbers, need sums, copies, matrices or the loss."""
    yield from DROP_INS
    seen: set[tuple[Any, ...]] = set()
    for name in OWN:
        rule = fs.rules[name]
        kind = (
            tuple(rule.scalars),
            tuple(rule.numbers),
            tuple(slot for slot in rule.slots.values() if slot.start == "p"),
            rule.update.sweeps[-1].measure,
            rule.needs_loss,
            takes_complex(name),
        )
        if kind not in seen:
            seen.add(kind)
            yield name


def new(name: str, parameters: Any, **options: Any) -> Optimizer:
    """The optimizer of this package."""
    return getattr(ft, name)(parameters, **{**options_of(name), **options})


# --- Parameters, gradients, state ---

SHAPES: list[tuple[int, ...]] = [(3, 4), (), (0,), (5000,), (11, 6), (2, 3, 4)]


def random(*shape: int, seed: int, dtype: Any = FLOAT64, lean: float = 0.0) -> Tensor:
    """Normal numbers around `lean`."""
    return normal(shape, seed, dtype, lean).clone()


@lru_cache(maxsize=512)
def normal(shape: tuple[int, ...], seed: int, dtype: Any, lean: float) -> Tensor:
    """The same, of which each optimizer of a test needs a copy."""
    wide = COMPLEX128 if dtype.is_complex else FLOAT64
    found = torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed))
    return (found + lean if lean else found).to(dtype)


def parameter(*shape: int, seed: int = 0, dtype: Any = FLOAT64) -> Tensor:
    return torch.nn.Parameter(random(*shape, seed=seed, dtype=dtype))


def several(dtype: Any = FLOAT64, shapes: list[tuple[int, ...]] = SHAPES) -> list[Tensor]:
    return [parameter(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]


def give(parameters: list[Tensor], t: int, *without: int, lean: float = 0.0, dtype: Any = None) -> None:
    """Set the gradients of step `t`, none for the parameters `without`."""
    for i, p in enumerate(parameters):
        seed = 100 + 10 * t + i
        p.grad = None if i in without else random(*p.shape, seed=seed, dtype=dtype or p.dtype, lean=lean)


def all_parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def step(optimizer: Optimizer, loss: float = 1.0) -> Any:
    """A step; a rule that needs the loss is given this one."""
    rule = getattr(optimizer, "rule", None)
    return optimizer.step(lambda: loss) if rule is not None and rule.needs_loss else optimizer.step()


def train(optimizer: Optimizer, start: int, stop: int) -> None:
    """Steps with the gradients of those numbers, and losses that differ."""
    for t in range(start, stop):
        give(all_parameters(optimizer), t)
        step(optimizer, 1 + t % 3)


def tensors_of(optimizer: Optimizer) -> dict[tuple[int, str], Tensor]:
    """The parameters and their state."""
    found = {}
    for i, p in enumerate(all_parameters(optimizer)):
        found[i, "parameter"] = p.detach()
        for key, value in optimizer.state.get(p, {}).items():
            if torch.is_tensor(value):
                found[i, key] = value
    return found


def steps_counted(optimizer: Optimizer) -> list[float]:
    """Of each parameter, where they are counted."""
    states = [optimizer.state[p] for p in all_parameters(optimizer)]
    return [state["step"].item() for state in states if "step" in state]


def copy_parameters(source: Optimizer, target: Optimizer) -> None:
    """Give the parameters of one optimizer the values of another's."""
    with torch.no_grad():
        for p, q in zip(all_parameters(source), all_parameters(target), strict=True):
            q.copy_(p)


def through_a_file(state_dict: Options) -> Options:
    """What torch saves and loads."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    loaded: Options = torch.load(file, weights_only=True)
    return loaded


# --- Bits and closeness ---


INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> Tensor:
    """The same memory as integers; complex numbers as pairs."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.view(INTEGERS[x.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b)))


def assert_same(found: dict[Any, Tensor], expected: dict[Any, Tensor], context: Any = None) -> None:
    """The same names, and tensors of the same bits."""
    assert found.keys() == expected.keys(), context
    for key, value in expected.items():
        assert same_bits(found[key], value), (key, context)


class Unchanged:
    """That nothing of an optimizer is written inside the block."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = optimizers

    def __enter__(self) -> None:
        self.before = [copy.deepcopy(tensors_of(optimizer)) for optimizer in self.optimizers]

    def __exit__(self, *_: object) -> None:
        for optimizer, before in zip(self.optimizers, self.before, strict=True):
            assert_same(tensors_of(optimizer), before)


# Relative and absolute; the numbers here are at most some tens. For 16 bits it is one rounding of the result.
TOLERANCE = {
    FLOAT64: (1e-12, 1e-12),
    FLOAT32: (5e-6, 3e-6),
    BFLOAT16: (1.01 * 2**-8, 3e-6),
    FLOAT16: (1.01 * 2**-11, 3e-6),
}
# Of Adafactor, a part of each number, or of 0.1 where it is smaller.
ADAFACTOR = {**{dtype: rtol for dtype, (rtol, _) in TOLERANCE.items()}, FLOAT64: 2e-13, FLOAT32: 1e-5}
# float32 in torch for float64 too: a tensor lr and products with it, NAdam's mu_product, ASGD's eta.
SINGLE_SCALARS = (2e-6, 1e-7)
SCALARS_IN_STATE = {"NAdam", "ASGD"}
CAST_WHEN_LOADED = {
    "eta",
    "mu",
    "mu_product",
}  # float32, but torch's load_state_dict casts them to the parameter's


def tolerance_of(name: str, dtype: Any, *, tensor_lr: bool = False) -> tuple[float, float]:
    single = dtype == FLOAT64 and (name in SCALARS_IN_STATE or tensor_lr)
    return SINGLE_SCALARS if single else TOLERANCE[dtype]


def close(a: Tensor, b: Tensor, rtol: float, atol: float) -> bool:
    """As torch.allclose of finite numbers, which takes longer than a step of few of them."""
    return bool(torch.equal(a, b) or ((a - b).abs() <= atol + rtol * b.abs()).all())


def assert_close(ours: Tensor, theirs: Tensor, tol: tuple[float, float], context: Any) -> None:
    assert ours.shape == theirs.shape, context
    if theirs.is_complex():
        ours, theirs = (torch.view_as_real(x.detach().resolve_conj()) for x in (ours, theirs))
    ours, theirs = ours.detach().double(), theirs.detach().double()
    if not close(ours, theirs, *tol):
        pytest.fail(f"{context}: off by {float((ours - theirs).abs().max())}")


def assert_near(found: Tensor, expected: Tensor, part: float, least: float, context: Any) -> None:
    """To a part of each number, or of `least` where it is smaller."""
    assert found.shape == expected.shape, context
    found, expected = found.detach().double(), expected.detach().double()
    close = (found - expected).abs() <= part * expected.abs().clamp(min=least)
    assert bool(close.all()), (context, float((found - expected).abs().max()))


def assert_alike(
    ours: Optimizer, theirs: Optimizer, context: Any = None, *, tensor_lr: bool = False, wider: float = 1
) -> None:
    """The same parameters and the same state, of the same names, types and shapes; NumPy's to the bit."""
    name, mine, expected = type(ours).__name__, tensors_of(ours), tensors_of(theirs)
    if isinstance(theirs, InNumpy):  # which makes no state before a step, as torch's Adagrad does
        begun = {i for i, key in mine if key == "step" and mine[i, key] > 0}
        mine = {
            (i, key): v for (i, key), v in mine.items() if key == "parameter" or i in begun or name == "SGD"
        }
        if wider == 1:
            assert_same(mine, expected, context)
            return
    assert mine.keys() == expected.keys(), context
    for key, value in expected.items():
        if key[1] not in CAST_WHEN_LOADED:
            assert mine[key].dtype == value.dtype, (key, context)
        if name == "Adafactor" and not tensor_lr:
            assert_near(mine[key], value, wider * ADAFACTOR[value.dtype], 0.1, (key, context))
            continue
        rtol, atol = tolerance_of(name, value.real.dtype, tensor_lr=tensor_lr)
        assert_close(mine[key], value, (wider * rtol, wider * atol), (key, context))


# --- What steps are compared with ---


def references(name: str, parameters: Callable[[], Any], **options: Any) -> list[Optimizer]:
    """All oracles of a class, each over its own `parameters`."""
    torchs_own = [torchs(name, parameters(), **options)] if name in DROP_INS else []
    return [*torchs_own, in_numpy(name, parameters(), **options)]


def reference(name: str, parameters: Any, **options: Any) -> Optimizer:
    """The first oracle of a class."""
    return references(name, lambda: parameters, **options)[0]


def exactly(name: str, optimizer: Optimizer, p: Tensor) -> Optimizer:
    """torch's optimizer in float64 with the same parameter, gradient and state."""
    q = torch.nn.Parameter(p.detach().to(FLOAT64, copy=True))
    q.grad = p.grad.double()
    theirs = torchs(name, [q])
    for key, value in optimizer.state.get(p, {}).items():
        if torch.is_tensor(value):
            theirs.state[q][key] = value.to(FLOAT32 if key == "step" else FLOAT64, copy=True)
    return theirs


def torchs(name: str, parameters: Any, **options: Any) -> Optimizer:
    """torch's class as its plain loop."""
    options = {**options_of(name), **copy.deepcopy(options)}
    if name in {"Adafactor", "Muon"}:
        return {"Adafactor": TorchsAdafactor, "Muon": TorchsMuon}[name](parameters, **options)
    return getattr(torch.optim, name)(parameters, **{"foreach": False, **options})


def in_numpy(name: str, parameters: Any, **options: Any) -> InNumpy:
    """The NumPy API."""
    options = {**options_of(name), **copy.deepcopy(options)}
    extras = {key: options.pop(key) for key in ("clip_norm", "state_dtype") if key in options}
    defaults = new(name, [torch.nn.Parameter(torch.ones(()))], **options).defaults
    return InNumpy(parameters, name, defaults, **extras)


def loss_of(closure: Callable[[], Any] | None) -> Any:
    """What a closure computes, with its gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


class TorchsAdafactor(torch.optim.Adafactor):  # type: ignore[misc]
    """torch's Adafactor, but that it steps what has no elements, by whose number it divides."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        super().__init__(parameters, foreach=False, **options)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        empty = [(p, p.grad) for p in all_parameters(self) if p.grad is not None and not p.numel()]
        for p, _ in empty:
            p.grad = None
        loss = super().step(closure)
        for p, g in empty:
            p.grad = g
            state = self.state[p]
            state["step"] = state.get("step", torch.zeros(())) + 1
            state.setdefault("variance", torch.zeros_like(p))
        return loss


class TorchsMuon(torch.optim.Optimizer):  # type: ignore[misc]
    """torch's Muon for matrices, its iteration in the gradient's precision, and its AdamW."""

    def __init__(self, parameters: Any, **options: Any) -> None:
        (example,) = new("Muon", [torch.nn.Parameter(torch.ones(()))], **options).param_groups
        super().__init__(parameters, {k: v for k, v in example.items() if k not in ("params", "param_names")})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, group)
        return loss

    def _step(self, p: Tensor, group: Options) -> None:
        state = self.state[p]
        count = state.pop("step", torch.zeros(()))
        if p.ndim == 2 and group["matrices"]:
            names = ("lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps")
            theirs = torch.optim.Muon(
                [p], **{name: group[name] for name in names}, adjust_lr_fn=group["adjust_lr_fn"]
            )
            theirs.state[p].update(state)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
                if p.numel():  # it divides by the number of columns
                    theirs.step()
                else:
                    theirs.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
        else:
            theirs = torch.optim.AdamW(
                [p],
                lr=float(group["lr"]),
                betas=(group["beta1"], group["beta2"]),
                weight_decay=group["weight_decay"],
                foreach=False,
            )
            theirs.state[p].update(state, **({"step": count.clone()} if state else {}))
            theirs.step()
        state.update(theirs.state[p], step=count + 1)


RULES = {"SGD": "SGDM", "RMSprop": "RMSProp"}  # of classes that are called otherwise than their rule
KEYS = {
    "SGD": {"buf": "momentum_buffer"},
    "Adagrad": {"s": "sum"},
    "RMSprop": {"s": "square_avg", "a": "grad_avg", "b": "momentum_buffer"},
    **{
        name: {"m": "exp_avg", "v": "exp_avg_sq", "vmax": "max_exp_avg_sq"}
        for name in ("Adam", "AdamW", "NAdam", "RAdam")
    },
    "Adamax": {"m": "exp_avg", "u": "exp_inf"},
    "Adadelta": {"s": "square_avg", "d": "acc_delta"},
    "Rprop": {"step": "step_size"},
    "Adafactor": {"v": "variance"},
    "Muon": {"buf": "momentum_buffer", "m": "exp_avg", "v": "exp_avg_sq"},
}
"""torch's names for the state of a rule, where they differ."""

RENAMED = {"alpha": "rho"}
SPREAD = {
    "betas": ("beta1", "beta2"),
    "etas": ("eta_minus", "eta_plus"),
    "step_sizes": ("step_min", "step_max"),
    "ns_coefficients": ("ns_a", "ns_b", "ns_c"),
}
FLAGS = ("foreach", "fused", "capturable", "differentiable", "params", "param_names", "initial_lr", "swa_lr")


def arguments_of(name: str, group: Options, dtype: Any) -> Options:
    """The arguments of the NumPy API for a group in torch's form."""
    found: Options = {}
    given = {key: value for key, value in group.items() if key not in FLAGS}
    decoupled = given.pop("decoupled_weight_decay", name in OWN or name in ("Adafactor", "Muon"))
    for key, value in given.items():
        if key in SPREAD:
            found |= dict(zip(SPREAD[key], map(float, value), strict=True))
        elif key == "eps" and name == "Adafactor":
            eps1, eps2 = value
            found |= {"eps1": torch.finfo(dtype).eps if eps1 is None else eps1, "eps2": eps2}
        elif key == "eps" and name == "Muon":
            found["ns_eps"] = value
        elif key == "adjust_lr_fn":
            found["match_rms"] = value == "match_rms_adamw"
        elif key == "initial_accumulator_value":
            found["initial_accumulator"] = value
        elif key == "alpha" and name == "RMSprop":
            found["rho"] = value
        elif key == "weight_decay":
            found["weight_decay" if decoupled else "l2"] = float(value)
        elif not key.startswith(("max_", "base_", "min_")):  # what schedulers of torch leave there
            found[key] = float(value) if torch.is_tensor(value) else value
    return found


class InNumpy(torch.optim.Optimizer):  # type: ignore[misc]
    """The NumPy API's steps over copies of tensors; state and groups are as those of the class here."""

    def __init__(
        self,
        parameters: Any,
        name: str,
        defaults: Options,
        *,
        clip_norm: float | None = None,
        state_dtype: Any = None,
    ) -> None:
        super().__init__(parameters, defaults)
        self.rule = fs.rules[RULES.get(name, name)]
        self.name, self.clip_norm, self.state_dtype = name, clip_norm, state_dtype
        self.grad_norm: float | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = loss_of(closure)
        parts = [part for group in self.param_groups for part in self._alike(group)]
        assert self.clip_norm is None or len(parts) == 1  # the norm is over all
        with torch.no_grad():
            for group, parameters in parts:
                self._step(group, parameters, None if loss is None else float(loss))
        return loss

    def _alike(self, group: Options) -> list[tuple[Options, list[Tensor]]]:
        """The parameters with a gradient, by how many steps they have made and with what numbers.

        What a rule measures over a group is over those that are alike so far.
        """
        numbers = ("step", *self.rule.scalars)
        found: dict[Any, list[Tensor]] = {}
        for p in group["params"]:
            if p.grad is not None:
                state = self.state.get(p, {})
                key = [float(state[name]) for name in numbers if name in state]
                found.setdefault((bool(state), *key), []).append(p)
        return [(group, parameters) for parameters in found.values()]

    def _step(self, group: Options, parameters: list[Tensor], loss: float | None) -> None:
        arrays = [to_numpy(p) for p in parameters]
        optimizer = self.rule(
            arrays,
            **arguments_of(self.name, group, parameters[0].dtype),
            state_dtype=None if self.state_dtype is None else str(self.state_dtype).removeprefix("torch."),
        )
        if first := self.state.get(parameters[0]):
            saved = optimizer.state_dict()
            saved["t"] = int(first.get("step", 1))
            (group_of_all,) = saved["groups"]
            group_of_all["scalars"] = {name: float(first[name]) for name in group_of_all["scalars"]}
            saved["state"] = {
                i: {slot: self._known(p, slot, fresh) for slot, fresh in slots.items()}
                for (i, slots), p in zip(saved["state"].items(), parameters, strict=True)
            }
            optimizer.load_state_dict(saved)
        gradients = [to_numpy(p.grad.contiguous()) for p in parameters]
        self.grad_norm = optimizer.step(gradients, loss=loss, clip_norm=self.clip_norm).grad_norm
        numbers = {"step": torch.tensor(float(optimizer.t))} if self.name != "SGD" else {}
        for name, value in optimizer.groups[0].scalars.items():
            numbers[name] = torch.tensor(value, dtype=FLOAT32 if self.name in DROP_INS else FLOAT64)
        for i, (p, array) in enumerate(zip(parameters, arrays, strict=True)):
            p.copy_(to_torch(array, p))
            state = {self._key(slot): to_torch(value, p) for slot, value in optimizer.state[i].items()}
            if numbers or state:
                self.state[p].update(state, **{name: value.clone() for name, value in numbers.items()})

    def _key(self, slot: str) -> str:
        return KEYS.get(self.name, {}).get(slot, slot)

    def _known(self, p: Tensor, slot: str, fresh: Array) -> Array:
        """State as it is here; an option that came later has made new slots."""
        state = self.state[p]
        return to_numpy(state[self._key(slot)]) if self._key(slot) in state else fresh


def to_numpy(tensor: Tensor) -> Array:
    """A copy that lies in memory alike, but for gaps; complex numbers as pairs."""
    tensor = tensor.detach()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    tensor = tensor.resolve_neg()
    if tensor.dtype == BFLOAT16:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        bits: Array = tensor.view(torch.int16).numpy().copy(order="K")
        return bits.view(bfloat16)
    array: Array = tensor.numpy().copy(order="K")
    return array


def to_torch(array: Array, like: Tensor) -> Tensor:
    """The tensor of an array; pairs become complex where the parameter is, but numbers stay."""
    if array.dtype.name == "bfloat16":
        tensor = torch.from_numpy(array.view(np.int16).copy(order="K")).view(BFLOAT16)
    else:
        tensor = torch.from_numpy(array.copy(order="K"))
    if like.is_complex() and tensor.ndim:
        return torch.complex(tensor[..., 0].contiguous(), tensor[..., 1].contiguous())
    return tensor


class Beside:
    """Our optimizer and its oracles, over equal parameters and fed the same gradients."""

    def __init__(
        self,
        name: str,
        parameters: Callable[[], Any] | None = None,
        *,
        dtype: Any = FLOAT64,
        tensor_lr: bool = False,
        **options: Any,
    ) -> None:
        make = parameters or (lambda: several(dtype))
        own = {key: options.pop(key) for key in EXTRAS.keys() & options.keys()}
        self.name, self.tensor_lr = name, tensor_lr
        self.ours = new(name, make(), **copy.deepcopy(options), **own)
        self.others = references(name, make, **copy.deepcopy(options))

    def all(self) -> list[Optimizer]:
        return [self.ours, *self.others]

    @property
    def mine(self) -> list[Tensor]:
        """Our optimizer's parameters."""
        return all_parameters(self.ours)

    def step(self, t: int, *without: int) -> None:
        for optimizer in self.all():
            give(all_parameters(optimizer), t, *without)
            step(optimizer, 1 + t % 3)
        self.check(t)

    def steps(self, start: int, stop: int) -> None:
        for t in range(start, stop):
            self.step(t)

    def check(self, context: Any = None, *, wider: float = 1) -> None:
        for theirs in self.others:
            assert_alike(self.ours, theirs, context, tensor_lr=self.tensor_lr, wider=wider)


KINDS = list(of_each_kind())
"""Classes of every kind, for what goes through many cases of something else."""

each_kind = pytest.mark.parametrize("name", KINDS)
COMPLEX = [name for name in CLASSES if takes_complex(name) and name != "RowwiseAdagrad"]
"""Classes that step complex numbers; RowwiseAdagrad says only at the step of a matrix that it does not."""

each_complex = pytest.mark.parametrize("name", COMPLEX)
