"""Every class has the bits of the NumPy API: parameters, state and numbers, at every step."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

import fusedstep as fs
from tests.helpers.torch_options import OPTIONS
from tests.helpers.torch_rules import (
    BFLOAT16,
    DROP_INS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    OF_16_BITS,
    OWN,
    InNumpy,
    Optimizer,
    Options,
    all_parameters,
    assert_alike,
    each_class,
    fits,
    ft,
    give,
    options_of,
    random,
    several,
    torch,
)
from tests.helpers.torch_rules import OPTIONS as LIVELY

MATRICES: list[tuple[int, ...]] = [(70, 67), (6, 11), (11, 6), (9, 1), (0, 4), (3, 0)]
OTHERS: list[tuple[int, ...]] = [(), (2, 3, 4), (4103,), (0,)]
SHAPES = [*MATRICES, *OTHERS]
LOSSES = [2.0, 1.5, 1.7, 0.2, 0.3, 0.1]


@pytest.fixture(autouse=True)
def _threads(_restored_runtime: None) -> None:
    """Two, with which no bit changes."""
    fs.set_num_threads(2)


each_dtype = pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, BFLOAT16, FLOAT16], ids=str)


def compare(
    name: str, options: Options, dtype: Any, state_dtype: Any = None, steps: int = 6, gradient: Any = None
) -> tuple[Optimizer, InNumpy]:
    """Both, after steps with the same gradients; these lean, so that Prodigy finds a direction."""
    ours = getattr(ft, name)(several(dtype, SHAPES), **options, state_dtype=state_dtype)
    theirs = InNumpy(several(dtype, SHAPES), name, ours.defaults, state_dtype=state_dtype)
    for t in range(steps):
        for optimizer in (ours, theirs):
            parameters = all_parameters(optimizer)
            if gradient is not None:
                for p in parameters:
                    p.grad = None
                    p.grad_dtype = gradient
            give(parameters, t, lean=1.5, dtype=gradient)
            optimizer.step(partial(float, LOSSES[t]))
        assert_alike(ours, theirs, t)
    return ours, theirs


@each_dtype
@pytest.mark.parametrize("name", OWN)
def test_defaults(name: str, dtype: Any) -> None:
    if not fits(name, dtype):
        return
    compare(name, {}, dtype)


@each_dtype
@each_class
def test_lively(name: str, dtype: Any) -> None:
    """With options that show each part of a step, and with the average of the weights where there is one."""
    if not fits(name, dtype):
        return
    averaged = {"ema": 0.5} if name in OWN else {}
    ours, _ = compare(name, {**options_of(name), **averaged}, dtype, FLOAT16 if dtype == FLOAT16 else None)
    largest = SHAPES.index((4103,))
    assert not torch.equal(all_parameters(ours)[largest], random(4103, seed=largest, dtype=dtype))
    if name == "Prodigy":
        assert float(ours.state[all_parameters(ours)[0]]["d"]) > 0.02


@each_dtype
@pytest.mark.parametrize("name", OWN)
def test_common_options(name: str, dtype: Any) -> None:
    if not fits(name, dtype):
        return
    compare(
        name, {"lr": 0.02, "l1": 0.01, "l2": 0.1, "weight_decay": 0.05, "maximize": True, "ema": 0.9}, dtype
    )


@pytest.mark.parametrize(("dtype", "state_dtype"), OF_16_BITS, ids=str)
@pytest.mark.parametrize(
    ("name", "options"), [case for case in OPTIONS if case[0] in {"Adafactor", "Muon"}], ids=str
)
def test_options_of_matrices_in_16_bits(name: str, options: Options, dtype: Any, state_dtype: Any) -> None:
    """In 32 and 64 bits, and for the other classes, this goes with the comparison with torch's."""
    compare(name, {**options_of(name), **options}, dtype, state_dtype, steps=5)


@pytest.mark.parametrize("state_dtype", [FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16, FLOAT16], ids=str)
@each_class
def test_types_that_differ(name: str, dtype: Any, state_dtype: Any) -> None:
    """Of parameters, state and gradients."""
    if not fits(name, dtype, state_dtype):
        return
    for gradient in (FLOAT32, BFLOAT16, FLOAT16):
        ours, _ = compare(
            name, options_of(name), dtype, state_dtype, 3, None if gradient == dtype else gradient
        )
        kept = {value.dtype for p in all_parameters(ours) for value in ours.state[p].values() if value.dim()}
        assert kept <= {state_dtype}


def test_every_rule_is_there() -> None:
    for name, rule in fs.rules.items():
        cls = getattr(ft, name)
        assert issubclass(cls, ft.Fused)
        assert name in ft.__all__
        assert name in DROP_INS or cls.rule is rule
        copied = any(slot.start == "p" for slot in rule.slots.values())
        apart = copied or rule.numbers or rule.update.measures
        assert name in LIVELY or not apart, "which options make its numbers and sums count?"
    assert set(OWN) == set(fs.rules) - set(DROP_INS)
