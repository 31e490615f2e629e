"""The command ``python -m fusedstep selftest``, which shows that the bits here are those of everywhere else.

Every rule is stepped over fixed inputs, and what comes out is hashed: with its defaults, with each of its
hyperparameters at another value, with the options of all rules, and with those of a step; arrays of float32,
float64 and float16, vectors, matrices, rows, and numbers at the ends of their range. Then each of its kernels
alone, with every mix of formats, bfloat16 among them. Only NumPy is needed.

The inputs are made of integers, and nothing that is hashed comes from elsewhere: powers and the like, which
the C library may round in its own way, have whole exponents, and matrices have at most one number in each row
and column, so that the sums in NumPy's matrix products have one term. All NaNs count as one, since
processors differ in their bits.

``python -m fusedstep.selftest`` prints what ``digests.json`` has, for a change that is meant to give other
bits, or a new rule.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from . import _core
from .arrays.rows import Rows
from .arrays.storage import DType
from .engine.optimizer import Optimizer
from .formula import Kernel
from .formula.coefficients import NO_PROLOGUE
from .formula.hyperparameters import Hyperparameter
from .gradients import clip_grad_norm, global_norm
from .runtime import info
from .update_rules import rules

Array: TypeAlias = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]
Digests: TypeAlias = dict[str, dict[str, str]]
"""The hash of each rule, by family."""

EXACT: dict[str, Options] = {
    "NAdam": {"momentum_decay": 1.0},
    "NAdamW": {"momentum_decay": 1.0},
    "ASGD": {"alpha": 1.0},
    "Adafactor": {"beta2_decay": -1.0},
    "ScheduleFreeSGD": {"r": 1.0, "weight_lr_power": 2.0},
    "ScheduleFreeAdamW": {"r": 1.0, "weight_lr_power": 2.0},
}
"""Exponents that the C library has no part in."""

OTHERS = (0.75, 1.25, 3.0, -0.75)
"""Values for a hyperparameter in the place of its default: the first that it can have."""

STEPS: list[dict[str, Any]] = [
    {"loss": 2.0, "scale": 0.5},
    {"loss": 1.5, "clip_norm": 1.0},
    {"loss": 1.75, "clip_value": 0.25, "zero_grad": True},
    {"loss": 0.875, "clip_norm": 0.5, "skip_nonfinite": True},
    {"loss": 0.75, "skip_nonfinite": True},
]
"""The options of each step. Every second step has gradients that are not finite; it skips the last one."""

BITS: DType = np.dtype(np.uint16)
"""Stands for bfloat16, for which NumPy has no type."""

FORMATS: tuple[DType, ...] = (np.dtype(np.float32), BITS, np.dtype(np.float16))
"""The formats that a step can mix."""


class Digest:
    """A SHA-256 of arrays and numbers."""

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, *arrays: npt.ArrayLike) -> None:
        """Add the bits of arrays, in the byte order of most machines, with one NaN for all."""
        for given in arrays:
            array = np.asarray(given)
            if array.dtype != BITS:
                array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
            self._sha.update(array.astype(array.dtype.newbyteorder("<")).tobytes())

    def hex(self) -> str:
        """The digest of all that was added."""
        return self._sha.hexdigest()


def numbers(seed: int, shape: int | tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """Numbers of either sign that need every bit of the format, from about 2⁻¹³ to 4."""
    dtype = np.dtype(dtype)
    if dtype == BITS:
        return (numbers(seed, shape, np.float32).view(np.uint32) >> 16).astype(BITS)
    x = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(seed << 32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's mixture
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    digits = np.finfo(dtype).nmant
    whole = (x >> np.uint64(63 - digits)).astype(np.int64) - 2**digits
    halvings = (x & np.uint64(7)).astype(np.int64) - 2
    found: Array = np.ldexp((whole | 1).astype(dtype), -halvings - digits)
    return found.reshape(shape)


def extremes(dtype: npt.DTypeLike) -> Array:
    """Zeros, infinities, the largest and the smallest numbers of a format."""
    of = np.finfo(np.dtype(dtype))
    half = [0.0, of.smallest_subnormal, of.tiny, of.tiny / 3, 1.0, of.max, np.inf]
    return np.array([*half, *(-x for x in half)], dtype)


def one_in_each(seed: int, m: int, n: int) -> Array:
    """A matrix with one number in each row or column, whichever are fewer, and zeros elsewhere."""
    matrix = np.zeros((m, n), np.float32)
    k = np.arange(min(m, n))
    matrix[m - 1 - k, k] = numbers(seed, k.size, np.float32)
    return matrix


def another(field: Hyperparameter) -> Any:
    """Another value than the default of a hyperparameter."""
    if field.interval is None:
        return not field.default
    return next(x for x in OTHERS if field.interval.holds(x) and x != field.default)


def variants(name: str) -> Iterator[Options]:
    """Options of a rule: none; each of its own, and all of them together; those that all rules have."""
    exact = EXACT.get(name, {})
    others = {option: another(field) for option, field in rules[name]._fields.items() if option not in exact}
    common = {option: others.pop(option) for option in Optimizer._fields}
    yield exact
    for option, value in others.items():
        yield {**exact, option: value}
    yield {**exact, **others}
    yield {**exact, **common}


def stepped(rule: type[Optimizer], options: Options, length: int, digest: Digest) -> list[Kernel]:
    """Step arrays of all kinds, each time with other options; return the kernels that did it."""
    parameters = {
        "long": numbers(1, length, np.float32),
        "float64": numbers(2, 67, np.float64),
        "matrix": one_in_each(3, 5, 7),
        "tall": one_in_each(4, 7, 5),
        "stack": numbers(7, (2, 3, 4), np.float32),
        "extremes": numbers(5, extremes(np.float32).shape, np.float32),
        **({} if rule.needs_float32 else {"float16": numbers(6, 67, np.float16)}),
    }
    opt = rule(parameters, **options)
    for t, step in enumerate(STEPS):
        gradients: dict[str, Any] = {
            name: one_in_each(10 * t, *p.shape) if p.ndim == 2 else numbers(10 * t + k, p.shape, p.dtype)
            for k, (name, p) in enumerate(parameters.items())
        }
        gradients["extremes"] = None if t % 2 else extremes(np.float32)
        norm = opt.step(gradients, **step).grad_norm
        digest.add(gradients["long"], *(() if norm is None else (norm,)))
    digest.add(*parameters.values(), *(a for slots in opt.state.values() for a in slots.values()))
    digest.add(*(value for _, value in sorted(opt.groups[0].scalars.items())))
    return [opt.groups[0].kernel, opt.groups[0].kernel_of(parameters["matrix"])]


def stepped_by_rows(rule: type[Optimizer], options: Options, digest: Digest) -> None:
    """Step some rows of a table, some of them twice, beside a vector and alone."""
    table, vector = numbers(1, (9, 35), np.float32), numbers(2, 35, np.float32)
    opt = rule({"table": table, "vector": vector}, **options)
    named = np.array([3, 8, 3, 0])
    for t in range(2):
        rows = Rows(named, numbers(10 + t, (4, 35), np.float32))
        opt.step({"table": rows, "vector": numbers(20 + t, 35, np.float32)}, clip_norm=2.0)
        opt.step_rows("table", named[t:], numbers(30 + t, (4 - t, 35), np.float16), scale=0.5)
    digest.add(table, vector, *(a for slots in opt.state.values() for a in slots.values()))


def stepped_in_all_formats(kernel: Kernel, digest: Digest) -> None:
    """Run each sweep of a kernel over arrays of every mix of formats, and the average after it."""
    float64: DType = np.dtype(np.float64)
    mixes = [*itertools.product(FORMATS, repeat=3), (float64, float64, float64)]
    decayed = {"scale": 0.75, "clip": 2.0, "keep": 0.875, "l2": 0.0625, "l1": 0.03125}
    compiled = _core.kernels()
    mean = dict.fromkeys(compiled["Average"][1], 0.25)
    for name in kernel.names:
        slots, fields = compiled[name]
        values = np.abs(numbers(7, len(fields), np.float64)).tolist()
        rule = dict(zip(fields, values, strict=True))
        for (p, g, s), prologue in itertools.product(mixes, (NO_PROLOGUE, decayed)):
            arrays = [numbers(8, 83, p), numbers(9, 83, g), *(_positive(10 + i, 83, s) for i in range(slots))]
            average = numbers(20, 83, p)
            coefficients = prologue, rule, mean, None
            _core.step_single(name, coefficients, arrays[0], arrays[1], arrays[2:], average)
            digest.add(*arrays, average)


def _positive(seed: int, n: int, dtype: DType) -> Array:
    """The same numbers without their signs, since much of the state is squares."""
    x = numbers(seed, n, dtype)
    return x & BITS.type(0x7FFF) if dtype == BITS else np.abs(x)


def digest_of(name: str) -> str:
    """The hash of a rule."""
    digest, rule = Digest(), rules[name]
    first, *others = variants(name)
    kernels = dict.fromkeys(stepped(rule, first, 20_011, digest))
    for options in others:
        kernels |= dict.fromkeys(stepped(rule, options, 135, digest))
    if rule.steps_rows:
        stepped_by_rows(rule, first, digest)
        kernels |= dict.fromkeys(kernel.of_rows for kernel in [*kernels] if kernel.of_rows)
    for kernel in kernels:
        stepped_in_all_formats(kernel, digest)
    return digest.hex()


def digest_of_norms() -> str:
    """The hash of norms, and of gradients that were clipped by them."""
    digest = Digest()
    for dtype in (np.float32, np.float64, np.float16):
        arrays = [numbers(seed, n, dtype) for seed, n in enumerate((1, 83, 20_011))]
        for scale in (1.0, float(np.finfo(dtype).max) / 8, float(np.finfo(dtype).tiny)):
            scaled = [(x * dtype(scale)).astype(dtype) for x in arrays]
            digest.add(global_norm(scaled), clip_grad_norm(scaled, 0.5), *scaled)
    return digest.hex()


def digests() -> Digests:
    """The hashes of all rules, by family, and of norms."""
    found: Digests = {}
    for name, rule in rules.items():
        found.setdefault(rule.__module__.rpartition(".")[2], {})[name] = digest_of(name)
    return {**found, "gradients": {"norms": digest_of_norms()}}


def joined(hashes: Iterable[str]) -> str:
    """The hash of several hashes."""
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def known() -> Digests:
    """The hashes that the package has."""
    found: Digests = json.loads(files(__package__).joinpath("digests.json").read_text("utf-8"))
    return found


def main() -> int:
    """Print a line for each family, then the hash of all; return 1 if it is not that of the package."""
    here, expected = digests(), known()
    print("fusedstep {version}, {isa}, {num_threads} threads, NumPy".format(**info()), np.__version__)
    for family, found in here.items():
        others = [name for name, value in found.items() if expected.get(family, {}).get(name) != value]
        print(f"{family:14}{joined(found.values())}", *(("differs in", *others) if others else ()))
    if here != expected:
        print(
            "The kernels give other bits here than in this package's own tests. Please report this, with the "
            "lines above and with your processor, system and compiler.",
            file=sys.stderr,
        )
    print(joined(joined(found.values()) for found in here.values()))
    return int(here != expected)


if __name__ == "__main__":
    print(json.dumps(digests(), indent=2))
