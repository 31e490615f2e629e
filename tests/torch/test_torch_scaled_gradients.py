"""Gradients that GradScaler has scaled, and gradients that the step clips."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.torch_rules import (
    CLASSES,
    COMPLEX,
    DROP_INS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    OWN,
    TOLERANCE,
    WITH_FUSED,
    Beside,
    Optimizer,
    Options,
    Unchanged,
    all_parameters,
    assert_alike,
    assert_close,
    assert_same,
    each_class,
    each_drop_in,
    each_narrow,
    exactly,
    give,
    in_numpy,
    new,
    parameter,
    references,
    same_bits,
    several,
    step,
    tensors_of,
    torch,
    torchs,
    train,
)

ELEMENTWISE = [name for name in DROP_INS if name not in {"Adafactor", "Muon"}]


def scaled_step(scaler: Any, optimizer: Optimizer, t: int, *, bad: float | None = None) -> None:
    """A step with gradients as backward leaves them under the scaler."""
    parameters = all_parameters(optimizer)
    give(parameters, t)
    scale = scaler.scale(torch.ones(()))  # also what makes the scaler begin
    for p in parameters:
        p.grad = p.grad * scale.to(p.grad.dtype)
    if bad is not None:
        parameters[0].grad.view(-1)[1] = bad
    rule = getattr(optimizer, "rule", None)
    scaler.step(optimizer, *([lambda: 1 + t % 3] if rule is not None and rule.needs_loss else []))
    scaler.update()


def scaler_of(scale: float = 2.0**10) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


def opting_in() -> list[Any]:
    return [pytest.param(name, {"unscale_in_step": True}, id=name) for name in CLASSES] + [
        pytest.param(name, {"fused": True}, id=f"{name}-fused") for name in WITH_FUSED
    ]


def steps_of(others: list[Optimizer], t: int) -> None:
    for other in others:
        train(other, t, t + 1)


# --- The scaler ---


@each_class
def test_scaler_by_its_default_path(name: str) -> None:
    beside = Beside(name, dtype=FLOAT32)
    assert not getattr(beside.ours, "_step_supports_amp_scaling", False)
    scalers = [scaler_of() for _ in beside.all()]
    for t in range(5):
        for scaler, optimizer in zip(scalers, beside.all(), strict=True):
            scaled_step(scaler, optimizer, t, bad=torch.inf if t == 2 else None)
        beside.check(t)
    assert {scaler.get_scale() for scaler in scalers} == {2.0**9}


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("name", "options"), opting_in())
def test_scaler_with_unscaling_in_the_step(name: str, options: Options, bad: float) -> None:
    """As without a scale, to the bit: sums and directions are of gradients without it."""
    ours, plain, others = new(name, several(), **options), new(name, several()), references(name, several)
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
        steps_of([plain, *others], t)
        assert_same(tensors_of(ours), tensors_of(plain))
        for other in others:
            assert_alike(ours, other, t)
        for p, q in zip(all_parameters(ours), all_parameters(plain), strict=True):
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
    ours, others = new(name, several(), **options), references(name, several)
    scaler = scaler_of()

    def scaled(t: int, bad: float | None) -> None:
        give(all_parameters(ours), t)
        scale = scaler.scale(torch.ones((), dtype=FLOAT64))
        for p in all_parameters(ours):
            p.grad *= scale
        if bad is not None:
            all_parameters(ours)[0].grad[0, 1] = bad
        scaler.unscale_(ours)
        scaler.step(ours, *([lambda: 1 + t % 3] if ours.rule.needs_loss else []))
        scaler.update()

    for t in range(2):
        scaled(t, None)
        steps_of(others, t)
        for other in others:
            assert_alike(ours, other, t)
    with Unchanged(ours):
        scaled(2, torch.nan)


@pytest.mark.parametrize("scale", [1000.0, 3.0, 1 / 3])
@each_drop_in
def test_any_scale(name: str, scale: float) -> None:
    """Also one that rounds."""
    ours, theirs = new(name, several(FLOAT32), unscale_in_step=True), torchs(name, several(FLOAT32))
    scaler = scaler_of(scale)
    for t in range(3):
        scaled_step(scaler, ours, t)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@each_class
def test_scale_and_flag_as_attributes(name: str) -> None:
    ours, others = new(name, several(), unscale_in_step=True), references(name, several)
    for t in range(4):
        steps_of(others, t)
        give(all_parameters(ours), t)
        if t in {1, 2}:
            ours.grad_scale, ours.found_inf = torch.tensor(8.0), torch.tensor(0.0)
            for p in all_parameters(ours):
                p.grad *= 8
        step(ours, 1 + t % 3)
        for other in others:
            assert_alike(ours, other, t)
        if t in {1, 2}:
            ours.found_inf = torch.tensor(1.0)
            with Unchanged(ours):
                step(ours)
            del ours.grad_scale, ours.found_inf


@each_narrow
def test_scaler_with_float16_gradients(name: str) -> None:
    """Which the scaler's default path refuses."""
    optimizer, plain = (
        new(name, [parameter(50, dtype=FLOAT16), parameter(3, 4, dtype=FLOAT16)], **more, state_dtype=FLOAT32)
        for more in ({"unscale_in_step": True}, {})
    )
    scaler = scaler_of(4.0)
    for t in range(3):
        p = all_parameters(optimizer)
        give(p, t)
        theirs = exactly(name, optimizer, p[0]) if name in ELEMENTWISE else None
        scaled_step(scaler, optimizer, t)
        train(plain, t, t + 1)
        assert_same(tensors_of(optimizer), tensors_of(plain))
        if theirs is not None:
            theirs.step()
            assert_close(p[0], all_parameters(theirs)[0], TOLERANCE[FLOAT16], t)


# --- Clipping ---


def clipped_step(theirs: Optimizer, limit: float, t: int, *without: int) -> float:
    give(all_parameters(theirs), t, *without)
    norm = torch.nn.utils.clip_grad_norm_(all_parameters(theirs), limit)
    step(theirs, 1 + t % 3)
    return float(norm)


@pytest.mark.parametrize("limit", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", DROP_INS)
def test_clip_norm(name: str, dtype: Any, limit: float) -> None:
    if dtype.is_complex and name not in COMPLEX:
        return

    def groups() -> list[Options]:
        parameters = several(dtype)
        return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.03}]

    ours, theirs = new(name, groups(), clip_norm=limit), torchs(name, groups())
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


@pytest.mark.parametrize("limit", [2.0, 1e6])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@pytest.mark.parametrize("name", [*OWN, "Adafactor", "Muon"])
def test_clip_norm_is_numpys(name: str, dtype: Any, limit: float) -> None:
    """To the bit, but for the order in which the norm adds what has other kernels.

    Sums and directions are of gradients that are clipped.
    """
    if dtype.is_complex and name not in COMPLEX:
        return
    ours = new(name, several(dtype), clip_norm=limit)
    theirs = in_numpy(name, several(dtype), clip_norm=limit)
    for t in range(3):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        several_kernels = hasattr(ours.rule, "update_matrix")
        assert ours.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-12 if several_kernels else 0, abs=0)
        assert ours.grad_norm > 2
        assert_alike(ours, theirs, t, wider=2 if several_kernels else 1)
        for p, q in zip(all_parameters(ours), all_parameters(theirs), strict=True):
            assert same_bits(p.grad, q.grad)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_clip_norm_of_infinity(bad: float) -> None:
    ours, theirs = new("SGD", several(), clip_norm=0.5), torchs("SGD", several())
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


@each_class
def test_clip_norm_of_unscaled_gradients(name: str) -> None:
    ours, plain = (new(name, several(), clip_norm=0.5, **more) for more in ({"unscale_in_step": True}, {}))
    theirs = [torchs(name, several())] if name in DROP_INS else []
    scaler = scaler_of()
    for t in range(3):
        scaled_step(scaler, ours, t)
        train(plain, t, t + 1)
        assert ours.grad_norm == pytest.approx(plain.grad_norm, rel=1e-15)
        assert_same(tensors_of(ours), tensors_of(plain))
        for other in theirs:
            norm = clipped_step(other, 0.5, t)
            assert ours.grad_norm == pytest.approx(norm, rel=1e-12)
            assert_alike(ours, other, t)
