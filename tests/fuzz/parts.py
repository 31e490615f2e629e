"""Parts of a run, drawn at random: optimizers of every rule, averages, schedules, generators, arrays."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

import fusedstep as fs
from fusedstep.control import Checkpoint, EarlyStopping
from tests.helpers.choices import takes_16_bits
from tests.helpers.holder import Holder

Array = np.ndarray[Any, Any]

DTYPES = ["float32", "float64", "float16"]
GENERATORS = ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"]
NAMES: list[Any] = ["w", "b", 1, ("cell", 2), "a/b", "$array", ""]
EXTREMES = [float("nan"), float("inf"), 3e38]
EXAMPLES: list[Any] = [1, 0.5, "text", None, True, [1, [2]], {"a": {}}, (1, "2"), {1: 2}, float("nan"), 2**70]


class Run:
    """Parts, and what changes them; those of one seed can be made again."""

    def __init__(self, seed: str) -> None:
        rng = random.Random(seed)
        self.weights = {name: weights(rng) for name in rng.sample(NAMES, rng.randint(1, 4))}
        self.optimizer, self.plateau = optimizer(rng, self.weights)
        others: dict[str, Any] = {
            "rng": np.random.Generator(getattr(np.random, rng.choice(GENERATORS))(rng.randrange(99))),
            "array": np.arange(rng.randrange(5)).astype(rng.choice([*DTYPES, "int8", "uint64", "bool"])),
            "own": Holder({"x": np.arange(3.0), "more": rng.choice(EXAMPLES)}),
            "stopping": EarlyStopping(self.weights),
            "mean": fs.averaging.Mean(self.weights),
            "best": fs.averaging.CheckpointMean(self.weights),
            "plateau": fs.schedules.Plateau(0.5, patience=0),
        }
        self.parts = {"opt": self.optimizer, **{name: others[name] for name in rng.sample(list(others), 3)}}
        self.progress = {"epoch": rng.randrange(9), "more": rng.choice(EXAMPLES), "array": np.ones(2)}

    def checkpoint(self, path: Any) -> Checkpoint:
        """The checkpoint of all parts."""
        return Checkpoint(path, **self.parts)

    def advance(self, rng: random.Random) -> None:
        """Change all of them."""
        extreme = rng.choice(EXTREMES) if rng.random() < 0.1 else 1.0
        with np.errstate(all="ignore"):
            grads = {name: np.full_like(w, rng.gauss(0, 1) * extreme) for name, w in self.weights.items()}
            options: dict[str, Any] = {"loss": rng.random()} if self.optimizer.needs_loss else {}
            self.optimizer.step(grads, **options)
            for name, part in {**self.parts, "of opt": self.plateau}.items():
                if hasattr(part, "observe"):
                    part.observe(rng.gauss(0, 1))
                elif name == "mean":
                    part.update()
        if "rng" in self.parts:
            self.parts["rng"].random(rng.randrange(1, 9), np.float32)
        if "array" in self.parts:
            self.parts["array"][...] = rng.randrange(2)
        if "own" in self.parts:
            self.parts["own"].state = {"x": np.full(3, rng.random()), "more": rng.choice(EXAMPLES)}

    def state(self) -> Any:
        """All that is restored, so that == compares bits."""
        return plain([self.weights, {name: state_of(part) for name, part in self.parts.items()}])

    def use(self) -> None:
        """Go on with what was loaded, which must not end the process."""
        if "rng" in self.parts:
            self.parts["rng"].random(1000)
            self.parts["rng"].integers(0, 9, 9, np.uint8)


def weights(rng: random.Random) -> Array:
    """A parameter, of few elements or none."""
    shape = rng.choice([(), (0,), (3,), (2, 3), (1, 1), (4, 2), (2, 1, 3)])
    return np.full(shape, rng.gauss(0, 1)).astype(rng.choice(DTYPES))


def optimizer(rng: random.Random, w: dict[Any, Array]) -> tuple[fs.Optimizer, fs.schedules.Plateau]:
    """One of any rule, and the schedule that it may have."""
    plateau = fs.schedules.Plateau(0.1, patience=0)
    lr = fs.schedules.Warmup(plateau, 2, start=0.01)
    groups: Any = w
    if rng.random() < 0.3:
        names = list(w)
        groups = [{"params": {name: w[name] for name in names[:1]}, "lr": 0.1}]
        if names[1:]:
            groups.append({"params": {name: w[name] for name in names[1:]}})
    options: dict[str, Any] = {"ema": 0.5} if rng.random() < 0.5 else {}
    if rng.random() < 0.3:
        options["lr"] = lr
    narrow = any(a.itemsize == 2 for a in w.values())
    rules = [rule for rule in fs.rules if takes_16_bits(rule) or not narrow]
    return fs.rules[rng.choice(rules)](groups, **options), plateau


def state_of(part: Any) -> Any:
    """The state of a part of any kind."""
    if isinstance(part, np.random.Generator):
        return part.bit_generator.state
    return part if isinstance(part, np.ndarray) else part.state_dict()


def plain(state: Any) -> Any:
    """A state in which arrays are their bytes and numbers are text, so that == compares bits."""
    if isinstance(state, np.ndarray):
        return state.shape, state.dtype.str, state.tobytes()
    if isinstance(state, Mapping):
        return {repr(key): plain(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [type(state).__name__, *(plain(value) for value in state)]
    return repr(state)
