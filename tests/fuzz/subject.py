"""A random optimizer with its parameters, and random gradients for its steps.

All is drawn from a generator, so that a second subject with a generator of the same seed is the same in every
bit; `backend`, and the offset of parameters in memory, must make no difference.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

import fusedstep as fs
from tests.fuzz.arrays import FLOAT64, NARROW, Array, Placed, a_shape, numbers, placed, steps_by_rows
from tests.fuzz.hyperparameters import FIRST_LOSS, a_value, changeable, some
from tests.helpers.choices import takes_16_bits

BY_ROWS = {"SGD", "Momentum", "EMAMomentum", "Adagrad", "RowwiseAdagrad", "RMSProp", "Adam", "AdamW"}
"""Rules that step rows, unless they are cautious."""

KEYS: list[Hashable] = ["w", "b", 3, ("layer", 1), "", "w.b", frozenset({1})]


class Plain(np.ndarray[Any, Any]):
    """A subclass of arrays that does nothing else."""


class Subject:
    """An optimizer, its parameters by their names, and what of its life must be repeated for a new one."""

    def __init__(self, rng: random.Random, backend: str = "native", offset: int = 0) -> None:
        self.rng, self.backend = rng, backend
        self.rule = rng.choice(list(fs.rules))
        self.wild = rng.random() < 0.3
        self.seed = rng.getrandbits(64)
        self.changes: list[tuple[int | None, str, int]] = []
        self.form = rng.choice(["array", "list", "tuple", "mapping", "groups", "groups of sequences"])
        names: list[Any] = list(range(1 if self.form == "array" else rng.randint(1, 4)))
        if self.form in {"mapping", "groups"}:
            names = rng.sample(KEYS, len(names))
        self.cut = rng.randint(0, len(names))  # between the first group and the second
        wide = rng.random() < 0.3
        self.kinds = NARROW if takes_16_bits(self.rule) else NARROW[:1]
        self.state_dtype = None if wide or rng.random() < 0.6 else rng.choice(self.kinds)
        self.params = {name: self._parameter(wide=wide, offset=offset) for name in names}
        self.given: dict[Hashable, Placed] = {}  # the gradients that were arrays
        self.opt = self.made()

    def _parameter(self, *, wide: bool, offset: int) -> Placed:
        dtype = FLOAT64 if wide else self.rng.choice([NARROW[0], *self.kinds])
        values = numbers(self.rng, a_shape(self.rng), dtype, wild=False)
        return Placed(values, values) if self.rng.random() < 0.2 else placed(self.rng, values, offset=offset)

    def made(self) -> Any:
        """A new optimizer of the parameters as they are, with the hyperparameters that they have by now."""
        rng = random.Random(self.seed)
        options = some(rng, self.rule, rng.choice([0.1, 0.4]))
        if self.rule.startswith("Eve"):
            options.setdefault("f_star", 0.0)
        arrays = {name: p.array for name, p in self.params.items()}
        params: Any = self.formed(arrays)
        if self.form.startswith("groups"):
            params = [{"params": part, **some(rng, self.rule, 0.2)} for part in params]
        rule: Any = fs.rules[self.rule]
        opt = rule(params, backend=self.backend, state_dtype=self.state_dtype, **options)
        for change in self.changes:
            self.apply(opt, *change)
        return opt

    def formed(self, items: Mapping[Any, Any], *, flat: bool = False) -> Any:
        """The items in the form of the parameters; flat if what is in groups may come in one structure."""
        values = list(items.values())
        match self.form:
            case "array":
                return values[0]
            case "tuple":
                return tuple(values)
            case "groups" if not flat:
                pairs = list(items.items())
                return [dict(pairs[: self.cut]), dict(pairs[self.cut :])]
            case "groups of sequences" if not flat:
                return [values[: self.cut], values[self.cut :]]
            case "mapping" | "groups":
                return dict(items)
            case _:
                return values

    def change(self) -> None:
        """Change a hyperparameter, of all groups or of one."""
        group = self.rng.choice([None, *range(len(self.opt.groups))])
        change = group, self.rng.choice(changeable(self.rule)), self.rng.getrandbits(64)
        self.changes.append(change)
        self.apply(self.opt, *change)

    def apply(self, opt: Any, group: int | None, name: str, seed: int) -> None:
        value = a_value(random.Random(seed), name, fs.rules[self.rule]._fields[name])
        if group is None:
            setattr(opt, name, value)
        else:
            opt.groups[group][name] = value

    def groups(self) -> list[int]:
        """The positions of the groups that have parameters."""
        count = len(self.params)
        return [i for i, n in enumerate([self.cut, count - self.cut]) if n] if "groups" in self.form else [0]

    def takes_rows(self, name: Hashable) -> bool:
        """Whether the gradient of the parameter may be rows."""
        if self.rule not in BY_ROWS or not steps_by_rows(self.params[name].array):
            return False
        group = self.opt.groups[
            int(self.form.startswith("groups") and [*self.params].index(name) >= self.cut)
        ]
        return not group.get("cautious")

    def rows(self, name: Hashable) -> tuple[Any, Array]:
        """Some rows of the parameter, and their gradients."""
        p = self.params[name].array
        count = self.rng.randint(0, 6) if len(p) else 0
        indices: Any = [self.rng.randrange(len(p)) for _ in range(count)]
        if self.rng.random() < 0.5:
            kind = np.uint8 if len(p) < 256 and self.rng.random() < 0.3 else np.int64
            indices = np.array(indices, kind)
        return indices, self.array(name, (count, *p.shape[1:]))

    def array(self, name: Hashable, shape: tuple[int, ...]) -> Array:
        """A gradient of the parameter, of which the shape is that."""
        p = self.params[name].array
        dtype = p.dtype if p.dtype == FLOAT64 else self.rng.choice([p.dtype, *NARROW])
        values = numbers(self.rng, shape, dtype, wild=self.wild)
        if values.size and self.rng.random() < 0.03:
            return np.broadcast_to(values[(slice(1),) * values.ndim], shape)  # read-only
        last = self.given.get(name)
        if last and last.array.shape == shape and last.array.dtype == dtype and self.rng.random() < 0.5:
            last.array[...] = values  # the same memory again
        else:
            self.given[name] = placed(self.rng, values, plain=0.7)
        g = self.given[name].array
        subclass: type[Array] = Plain
        return g.view(subclass) if self.rng.random() < 0.05 else g

    def gradient(self, name: Hashable) -> Any:
        """An array, rows, or None."""
        kind = self.rng.random()
        if kind < 0.1:
            return None
        if kind < 0.5 and self.takes_rows(name):
            return fs.Rows(*self.rows(name))
        return self.array(name, self.params[name].array.shape)

    def gradients(self) -> dict[Hashable, Any]:
        """One for each parameter."""
        return {name: self.gradient(name) for name in self.params}

    def options(self) -> dict[str, Any]:
        """Options of steps of all kinds."""
        choices: dict[str, Callable[[], Any]] = {
            "scale": lambda: self.rng.choice([1.0, 0.0, -1.5, 1 / 1024, 2.0**20, 1e-300, 1e300]),
            "clip_norm": lambda: self.rng.choice([None, 0.0, 1.0, 1e-3, 100.0, float("inf")]),
            "clip_value": lambda: self.rng.choice([None, 0.0, 1.0, 1e-3, 1e300, float("inf")]),
            "skip_nonfinite": lambda: self.rng.random() < 0.5,
        }
        return {name: draw() for name, draw in choices.items() if self.rng.random() < 0.25}

    def step_options(self, grads: Mapping[Any, Any]) -> dict[str, Any]:
        """Those, and what steps of such gradients have beside them."""
        options = self.options()
        if self.rng.random() < 0.25 and all(map(is_writeable, grads.values())):
            options["zero_grad"] = self.rng.random() < 0.7
        if self.rule == "Eve" or self.rng.random() < 0.1:
            options["loss"] = FIRST_LOSS + self.rng.choice([0.0, 1.0, self.rng.random(), 1e6])
        return options


def is_writeable(gradient: Any) -> bool:
    """Whether the gradient can be set to zero."""
    array = gradient.values if isinstance(gradient, fs.Rows) else gradient
    return not isinstance(array, np.ndarray) or array.flags.writeable
