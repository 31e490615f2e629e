"""The libraries that bench/peers.py and loop.py compare, each in the fastest form that its users can run.

Each class is an optimizer over copies of the parameters. Its constructor raises UnavailableError if the
library is not installed or lacks the rule.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np

import fusedstep as fs
from fusedstep.formula.kernel import Kernel

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

MAX_NORM = 1.0


@dataclass(frozen=True)
class Rule:
    """The hyperparameters of a rule, and its name in each library that has it."""

    fusedstep: str
    hyperparameters: Mapping[str, Any]
    torch: str
    optax: str | None = None
    numba: str | None = None
    deepspeed: str | None = None
    switch: Mapping[str, bool] = field(default_factory=dict)  # chooses the rule in torch and optax

    @property
    def kernel(self) -> Kernel:
        """The kernel that the hyperparameters choose."""
        return fs.rules[self.fusedstep](np.zeros(1), **self.hyperparameters).groups[0].kernel


class UnavailableError(Exception):
    """Raised if the library is not installed or lacks the rule."""


class Library(Protocol):
    """An optimizer over copies of the parameters."""

    def give(self, gradients: list[Array]) -> None:
        """Set the gradients of the following steps, which only read them."""

    def step(self) -> None:
        """Do one step, with clipping by the global norm if it was asked for, and wait until it is done."""

    def values(self) -> list[Array]:
        """Return the current parameters."""


class Fusedstep:
    """fusedstep by its NumPy API."""

    def __init__(self, rule: Rule, parameters: list[Array], clipped: bool) -> None:
        self.parameters = [p.copy() for p in parameters]
        self.optimizer = fs.rules[rule.fusedstep](self.parameters, **rule.hyperparameters)
        self.clipping: dict[str, Any] = {"clip_norm": MAX_NORM} if clipped else {}

    def give(self, gradients: list[Array]) -> None:
        self.gradients = gradients

    def step(self) -> None:
        self.optimizer.step(self.gradients, **self.clipping)

    def values(self) -> list[Array]:
        return self.parameters


class Torch:
    """PyTorch, with `fused=True` or `foreach=True`."""

    def __init__(self, rule: Rule, parameters: list[Array], clipped: bool, **how: bool) -> None:
        self.torch = library("torch")
        self.torch.set_num_threads(fs.get_num_threads())
        self.parameters = [self._tensor(p.copy()) for p in parameters]
        self.clipped = clipped
        options: dict[str, Any] = dict(rule.hyperparameters)
        if rule.torch == "RMSprop":
            options["alpha"] = options.pop("rho")
        if "beta1" in options:
            options["betas"] = options.pop("beta1"), options.pop("beta2")
        self.optimizer = self._optimizer(rule, options, how)

    def give(self, gradients: list[Array]) -> None:
        # Copies, because clipping writes to the gradients, and so does foreach in Nesterov's rule.
        for p, g in zip(self.parameters, gradients, strict=True):
            tensor = self._tensor(g.copy())
            if tensor.dtype != p.dtype:
                p.grad_dtype = tensor.dtype
            p.grad = tensor

    def step(self) -> None:
        if self.clipped:
            # After the first step the gradients have norm 1, but clipping does the same work.
            self.torch.nn.utils.clip_grad_norm_(self.parameters, MAX_NORM)
        self.optimizer.step()

    def values(self) -> list[Array]:
        return [p.float().numpy() for p in self.parameters]

    def _optimizer(self, rule: Rule, options: dict[str, Any], how: dict[str, bool]) -> Any:
        make = getattr(self.torch.optim, rule.torch)
        if not how.keys() <= inspect.signature(make).parameters.keys():
            raise UnavailableError
        return make(self.parameters, **options, **rule.switch, **how)

    def _tensor(self, array: Array) -> Any:
        if array.dtype.name == "bfloat16":  # from_numpy does not know it
            return self.torch.from_numpy(array.view(np.uint16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)


class FusedstepTorch(Torch):
    """fusedstep by its torch API."""

    def step(self) -> None:
        self.optimizer.step()

    def _optimizer(self, rule: Rule, options: dict[str, Any], how: dict[str, bool]) -> Any:
        make = getattr(importlib.import_module("fusedstep.torch"), rule.torch)
        clip_norm = MAX_NORM if self.clipped else None
        return make(self.parameters, **options, **rule.switch, clip_norm=clip_norm)


class DeepSpeed(Torch):
    """DeepSpeed's optimizers for torch tensors that are kept on the CPU."""

    def _optimizer(self, rule: Rule, options: dict[str, Any], how: dict[str, bool]) -> Any:
        if rule.deepspeed is None:
            raise UnavailableError
        if rule.deepspeed == "DeepSpeedCPUAdam":
            how = {"adamw_mode": rule.torch == "AdamW"}
        module = "adagrad" if rule.deepspeed == "DeepSpeedCPUAdagrad" else "adam"
        return getattr(library(f"deepspeed.ops.{module}"), rule.deepspeed)(self.parameters, **options, **how)


OPTAX_NAMES = {"lr": "learning_rate", "rho": "decay", "beta1": "b1", "beta2": "b2"}
OPTAX_FORMS: dict[str, dict[str, Any]] = {
    "adagrad": {"initial_accumulator_value": 0.0},
    "rmsprop": {"eps_in_sqrt": False},
}


class Optax:
    """optax, with the update and its application jitted as one and buffers donated. XLA uses all cores."""

    def __init__(self, rule: Rule, parameters: list[Array], clipped: bool) -> None:
        if rule.optax is None:
            raise UnavailableError
        self.jax, optax = library("jax"), library("optax")
        self.jax.config.update("jax_platforms", "cpu")
        options = {OPTAX_NAMES.get(name, name): value for name, value in rule.hyperparameters.items()}
        form = OPTAX_FORMS.get(rule.optax, {})
        transform = getattr(optax, rule.optax)(**options, **form, **rule.switch)
        if clipped:
            transform = optax.chain(optax.clip_by_global_norm(MAX_NORM), transform)

        def update(parameters: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
            changes, state = transform.update(gradients, state, parameters)
            return optax.apply_updates(parameters, changes), state

        self.update = self.jax.jit(update, donate_argnums=(0, 1))
        self.parameters = [self.jax.numpy.array(p) for p in parameters]
        self.state = transform.init(self.parameters)

    def give(self, gradients: list[Array]) -> None:
        self.gradients = [self.jax.numpy.asarray(g) for g in gradients]

    def step(self) -> None:
        self.parameters, self.state = self.update(self.parameters, self.state, self.gradients)
        self.jax.block_until_ready((self.parameters, self.state))

    def values(self) -> list[Array]:
        return [np.asarray(p) for p in self.parameters]


class Numba:
    """Numba: a parallel loop over one tensor, written by hand and called for each tensor."""

    def __init__(self, rule: Rule, parameters: list[Array], clipped: bool) -> None:
        if rule.numba is None or clipped:
            raise UnavailableError
        numba = library("numba")
        numba.set_num_threads(fs.get_num_threads())
        self.loop = _numba_loops(numba)[rule.numba]
        self.rule = rule
        self.shapes = [p.shape for p in parameters]
        self.parameters = [p.flatten() for p in parameters]
        self.state = [[np.zeros_like(p) for _ in rule.kernel.operands] for p in self.parameters]
        self.t = 0

    def give(self, gradients: list[Array]) -> None:
        self.gradients = [g.reshape(-1) for g in gradients]

    def step(self) -> None:
        self.t += 1
        # With doubles, the loop would compute in double precision.
        numbers = [np.float32(number) for number in self._numbers()]
        for p, g, state in zip(self.parameters, self.gradients, self.state, strict=True):
            self.loop(p, g, *state, *numbers)

    def values(self) -> list[Array]:
        return [p.reshape(shape) for p, shape in zip(self.parameters, self.shapes, strict=True)]

    def _numbers(self) -> tuple[float, ...]:
        """Return the arguments that the rule's loop takes after its arrays."""
        h = self.rule.hyperparameters
        match self.rule.numba:
            case "momentum":
                return h["lr"], h["momentum"]
            case "adagrad":
                return h["lr"], h["eps"]
            case "rmsprop":
                return h["lr"], h["rho"], 1 - h["rho"], h["eps"]
            case "adam":
                keep = 1 - h["lr"] * h.get("weight_decay", 0.0)
                step, root = h["lr"] / (1 - h["beta1"] ** self.t), (1 - h["beta2"] ** self.t) ** -0.5
                return keep, h["beta1"], 1 - h["beta1"], h["beta2"], 1 - h["beta2"], step, root, h["eps"]
        return (h["lr"],)


@functools.cache
def _numba_loops(numba: Any) -> dict[str, Callable[..., None]]:  # noqa: C901  # loops, not branches
    """Compile the loops, and return them by name."""
    prange = numba.prange

    def sgd(p: Array, g: Array, lr: float) -> None:
        for i in prange(p.size):
            p[i] -= lr * g[i]

    def momentum(p: Array, g: Array, b: Array, lr: float, mu: float) -> None:
        for i in prange(p.size):
            b[i] = mu * b[i] + g[i]
            p[i] -= lr * b[i]

    def adagrad(p: Array, g: Array, s: Array, lr: float, eps: float) -> None:
        for i in prange(p.size):
            s[i] += g[i] * g[i]
            p[i] -= lr * g[i] / (np.sqrt(s[i]) + eps)

    def rmsprop(p: Array, g: Array, s: Array, lr: float, rho: float, gain: float, eps: float) -> None:
        for i in prange(p.size):
            s[i] = rho * s[i] + gain * (g[i] * g[i])
            p[i] -= lr * g[i] / (np.sqrt(s[i]) + eps)

    def adam(
        p: Array,
        g: Array,
        m: Array,
        v: Array,
        keep: float,
        beta1: float,
        gain1: float,
        beta2: float,
        gain2: float,
        step: float,
        root: float,
        eps: float,
    ) -> None:
        for i in prange(p.size):
            m[i] = beta1 * m[i] + gain1 * g[i]
            v[i] = beta2 * v[i] + gain2 * (g[i] * g[i])
            p[i] = keep * p[i] - step * m[i] / (np.sqrt(v[i]) * root + eps)

    # Without the NumPy error model, a check for division by zero keeps the loop from being vectorized.
    compiled = numba.njit(parallel=True, error_model="numpy")
    return {loop.__name__: compiled(loop) for loop in (sgd, momentum, adagrad, rmsprop, adam)}


OWN: dict[str, Callable[[Rule, list[Array], bool], Library]] = {"numpy": Fusedstep, "torch": FusedstepTorch}

PEERS: dict[str, Callable[[Rule, list[Array], bool], Library]] = {
    "torch fused": functools.partial(Torch, fused=True),
    "torch foreach": functools.partial(Torch, foreach=True),
    "optax": Optax,
    "numba": Numba,
    "DeepSpeed": DeepSpeed,
}


def library(name: str) -> Any:
    """Import a library."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnavailableError from error
