"""Schedules against those of PyTorch and optax: the n-th step of each gets the same value."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import schedules as s

STEPS = 1010
BASE = 0.3

Schedule = Callable[[int], float]


def ours(schedule: Schedule, steps: int) -> list[float]:
    return [schedule(t) for t in range(1, steps + 1)]


def agree(schedule: Schedule, expected: Any) -> None:
    np.testing.assert_allclose(ours(schedule, len(expected)), expected, rtol=1e-9, atol=1e-12)


@pytest.fixture
def lr_scheduler() -> Any:
    return pytest.importorskip("torch.optim.lr_scheduler")


@pytest.fixture
def optax() -> Iterator[Any]:
    """In double precision, which is what its schedules then compute in."""
    found = pytest.importorskip("optax")
    with pytest.importorskip("jax").enable_x64(True):
        yield found


def optimizer_of_torch(lr: float = BASE, momentum: float = 0.9) -> Any:
    import torch

    return torch.optim.SGD(
        [torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))], lr=lr, momentum=momentum
    )


def values_of_torch(make: Callable[[Any], Any], steps: int = STEPS, field: str = "lr") -> list[float]:
    """What the n-th step of an optimizer gets, when the scheduler follows each step."""
    optimizer = optimizer_of_torch()
    scheduler = make(optimizer)
    values = [optimizer.param_groups[0][field]]
    optimizer.step()  # once is enough for torch to be content
    for _ in range(steps - 1):
        scheduler.step()
        values.append(optimizer.param_groups[0][field])
    return values


def values_of_optax(schedule: Any, steps: int = STEPS) -> Any:
    import jax

    values = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(steps)))
    assert values.dtype == np.float64
    return values


# --- torch: functions of the step


@pytest.mark.parametrize("every", [1, 2, 7, 100, 1009, 1010])
@pytest.mark.parametrize("factor", [0.1, 0.5, 0.99])
def test_step_lr(lr_scheduler: Any, every: int, factor: float) -> None:
    agree(s.Step(BASE, every, factor), values_of_torch(lambda o: lr_scheduler.StepLR(o, every, factor)))


def test_step_lr_default(lr_scheduler: Any) -> None:
    agree(s.Step(BASE, 100), values_of_torch(lambda o: lr_scheduler.StepLR(o, 100)))


@pytest.mark.parametrize("after", [(1,), (1, 2, 3), (30, 80), (5, 500, 1009), (600, 5000)])
@pytest.mark.parametrize("factor", [0.1, 0.7])
def test_multi_step_lr(lr_scheduler: Any, after: tuple[int, ...], factor: float) -> None:
    expected = values_of_torch(lambda o: lr_scheduler.MultiStepLR(o, list(after), factor))
    agree(s.MultiStep(BASE, after, factor), expected)


@pytest.mark.parametrize("rate", [0.0, 1e-4, 0.01, 0.3])
def test_exponential_lr(lr_scheduler: Any, rate: float) -> None:
    expected = values_of_torch(lambda o: lr_scheduler.ExponentialLR(o, math.exp(-rate)))
    agree(s.Exponential(BASE, rate), expected)


@pytest.mark.parametrize("rate", [0.0, 1e-3, 0.5, 4.0])
def test_inverse_time_lambda_lr(lr_scheduler: Any, rate: float) -> None:
    expected = values_of_torch(lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + rate * epoch)))
    agree(s.InverseTime(BASE, rate), expected)


@pytest.mark.parametrize("steps", [1, 2, 10, 999, 1000, 2000])
@pytest.mark.parametrize("power", [0.5, 1.0, 3.7])
def test_polynomial_lr(lr_scheduler: Any, steps: int, power: float) -> None:
    expected = values_of_torch(lambda o: lr_scheduler.PolynomialLR(o, steps, power))
    np.testing.assert_allclose(ours(s.Polynomial(BASE, steps, 0, power), STEPS), expected, 1e-8, 1e-12)


@pytest.mark.parametrize("steps", [1, 2, 10, 999, 2000])
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (1 / 3, 1.0), (0.9, 0.1), (0.5, 0.5)])
def test_linear_lr(lr_scheduler: Any, steps: int, first: float, last: float) -> None:
    expected = values_of_torch(lambda o: lr_scheduler.LinearLR(o, first, last, steps))
    agree(s.Linear(BASE * first, steps, BASE * last), expected)


@pytest.mark.parametrize("steps", [1, 2, 10, 999, 1000])
@pytest.mark.parametrize("end", [0.0, 0.01, 0.4])
def test_cosine_annealing_lr(lr_scheduler: Any, steps: int, end: float) -> None:
    make = lambda o: lr_scheduler.CosineAnnealingLR(o, steps, end)  # noqa: E731
    agree(s.Cosine(BASE, steps, end), values_of_torch(make, steps + 1))


@pytest.mark.parametrize("steps", [1, 3, 10, 400])
@pytest.mark.parametrize("growth", [1, 2, 3])
@pytest.mark.parametrize("end", [0.0, 0.02])
def test_cosine_annealing_warm_restarts(lr_scheduler: Any, steps: int, growth: int, end: float) -> None:
    make = lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, steps, growth, end)  # noqa: E731
    agree(s.CosineRestarts(BASE, steps, growth, end), values_of_torch(make))


@pytest.mark.parametrize("rise", [0.3, 0.25, 0.01, 0.9, 0.12345])
@pytest.mark.parametrize("steps", [5, 7, 1000, 1001])
def test_one_cycle_lr(lr_scheduler: Any, rise: float, steps: int) -> None:
    make = lambda o: lr_scheduler.OneCycleLR(o, 0.7, steps, pct_start=rise)  # noqa: E731
    agree(s.OneCycle(0.7, steps, rise), values_of_torch(make, steps))
    momentum = s.OneCycle(peak=0.85, start=0.95, end=0.95, steps=steps, rise=rise)
    agree(momentum, values_of_torch(make, steps, "momentum"))


def test_one_cycle_lr_ends(lr_scheduler: Any) -> None:
    def make(optimizer: Any) -> Any:
        return lr_scheduler.OneCycleLR(
            optimizer,
            0.7,
            1000,
            div_factor=10,
            final_div_factor=50,
            base_momentum=0.8,
            max_momentum=0.99,
        )

    agree(s.OneCycle(0.7, 1000, start=0.07, end=0.07 / 50), values_of_torch(make, 1000))
    agree(s.OneCycle(0.7, 1000, start=0.07, end=0.0014), values_of_torch(make, 1000))
    momentum = s.OneCycle(0.8, 1000, start=0.99, end=0.99)
    agree(momentum, values_of_torch(make, 1000, "momentum"))


# --- torch: composition


@pytest.mark.parametrize("warmup", [1, 2, 10, 333])
@pytest.mark.parametrize("factor", [1e-6, 0.25, 1.0])
def test_sequential_lr_of_warmup_and_cosine(lr_scheduler: Any, warmup: int, factor: float) -> None:
    def make(optimizer: Any) -> Any:
        first = lr_scheduler.LinearLR(optimizer, factor, 1.0, warmup)
        then = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup, 0.01)
        return lr_scheduler.SequentialLR(optimizer, [first, then], [warmup])

    agree(s.Warmup(s.Cosine(BASE, STEPS - warmup, 0.01), warmup, factor * BASE), values_of_torch(make))


@pytest.mark.parametrize("after", [(1, 2), (10, 500), (600, 601)])
def test_sequential_lr_of_three(lr_scheduler: Any, after: tuple[int, int]) -> None:
    def make(optimizer: Any) -> Any:
        parts = [
            lr_scheduler.ExponentialLR(optimizer, math.exp(-0.02)),
            lr_scheduler.StepLR(optimizer, 30, 0.5),
            lr_scheduler.PolynomialLR(optimizer, 700, 2.0),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, list(after))

    parts = (s.Exponential(BASE, 0.02), s.Step(BASE, 30, 0.5), s.Polynomial(BASE, 700, 0, 2))
    agree(s.Sequential(parts, after), values_of_torch(make))


@pytest.mark.parametrize("after", [(1, 2), (10, 500), (1008, 1009)])
def test_sequential_lr_of_constants(lr_scheduler: Any, after: tuple[int, int]) -> None:
    def make(optimizer: Any) -> Any:
        parts = [lr_scheduler.ConstantLR(optimizer, factor, 10**6) for factor in (0.5, 1.0, 0.1)]
        return lr_scheduler.SequentialLR(optimizer, parts, list(after))

    agree(s.Piecewise((0.5 * BASE, BASE, 0.1 * BASE), after), values_of_torch(make))


@pytest.mark.parametrize("steps", [1, 20, 1000])
def test_chained_scheduler(lr_scheduler: Any, steps: int) -> None:
    def make(optimizer: Any) -> Any:
        return lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.LinearLR(optimizer, 0.25, 1.0, steps),
                lr_scheduler.ConstantLR(optimizer, 0.1, steps),
                lr_scheduler.ExponentialLR(optimizer, math.exp(-0.01)),
                lr_scheduler.MultiStepLR(optimizer, [steps, 1005], 0.5),
            ]
        )

    parts = (
        s.Linear(0.25, steps, 1),
        s.Piecewise((0.1, 1), (steps,)),
        s.Exponential(BASE, 0.01),
        s.MultiStep(1, (steps, 1005), 0.5),
    )
    expected = values_of_torch(make)
    agree(s.Chained(parts), expected)
    agree(parts[0] * parts[1] * parts[2] * parts[3], expected)


@pytest.mark.parametrize("steps", [1, 7, 50])
def test_stepped_once_an_epoch(lr_scheduler: Any, steps: int) -> None:
    epochs = 1 + STEPS // steps
    per_epoch = values_of_torch(lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2), epochs)
    expected = [value for value in per_epoch for _ in range(steps)]
    agree(s.PerEpoch(s.CosineRestarts(BASE, 5, 2), steps), expected)


# --- torch: schedules of ours in LambdaLR

LAMBDAS: dict[str, Callable[[], Any]] = {
    "Cosine": lambda: s.Cosine(0.1, 50, 0.01),
    "Warmup": lambda: s.Warmup(s.Step(0.1, 10), 5),
    "OneCycle": lambda: s.OneCycle(0.1, 50),
    "product": lambda: 2 * s.Exponential(0.1, 0.1) * s.Cosine(1, 50),
    "PerEpoch": lambda: s.PerEpoch(s.Step(0.1, 2), 5),
}


@pytest.mark.parametrize("name", LAMBDAS)
def test_in_lambda_lr(lr_scheduler: Any, name: str) -> None:
    schedule = LAMBDAS[name]()
    optimizer = optimizer_of_torch(lr=1.0)
    scheduler = lr_scheduler.LambdaLR(optimizer, schedule.from_zero)
    for t in range(1, 80):
        assert optimizer.param_groups[0]["lr"] == schedule(t)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", LAMBDAS)
def test_lambda_lr_resumes(lr_scheduler: Any, name: str) -> None:
    import torch

    optimizer = optimizer_of_torch(lr=1.0)
    scheduler = lr_scheduler.LambdaLR(optimizer, LAMBDAS[name]().from_zero)
    for _ in range(17):
        optimizer.step()
        scheduler.step()
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    file.seek(0)
    loaded = torch.load(file)

    schedule = LAMBDAS[name]()
    other = optimizer_of_torch(lr=1.0)
    resumed = lr_scheduler.LambdaLR(other, schedule.from_zero)
    other.load_state_dict(loaded["optimizer"])
    resumed.load_state_dict(loaded["scheduler"])
    for t in range(18, 60):
        assert other.param_groups[0]["lr"] == schedule(t)
        other.step()
        resumed.step()


def test_lambda_lr_of_groups(lr_scheduler: Any) -> None:
    import torch

    p = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups: list[dict[str, Any]] = [{"params": [p[0]]}, {"params": [p[1]], "lr": 2.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    parts = [s.Cosine(0.1, 10), s.Linear(0.1, 10)]
    scheduler = lr_scheduler.LambdaLR(optimizer, [part.from_zero for part in parts])
    for t in range(1, 15):
        assert [group["lr"] for group in optimizer.param_groups] == [parts[0](t), 2 * parts[1](t)]
        optimizer.step()
        scheduler.step()


def test_feedback_in_lambda_lr(lr_scheduler: Any) -> None:
    plateau = s.Plateau(0.4, 0.5, patience=0)
    optimizer = optimizer_of_torch(lr=1.0)
    scheduler = lr_scheduler.LambdaLR(optimizer, s.Warmup(plateau, 2).from_zero)
    values = []
    for _ in range(4):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert values == pytest.approx([0, 0.2, 0.4, 0.4])
    plateau.observe(1.0)
    plateau.observe(1.0)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


# --- torch: in an optimizer


def test_steps_as_torch_does(lr_scheduler: Any) -> None:
    import torch

    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal(7), rng.standard_normal((200, 7))
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.AdamW([p], lr=BASE, weight_decay=0.1)
    first = lr_scheduler.LinearLR(theirs, 0.1, 1.0, 20)
    then = lr_scheduler.CosineAnnealingLR(theirs, 100, 0.01)
    scheduler = lr_scheduler.SequentialLR(theirs, [first, then], [20])

    q = start.copy()
    opt = fs.AdamW(q, lr=s.Warmup(s.Cosine(BASE, 100, 0.01), 20, 0.1 * BASE), weight_decay=0.1)
    for g in gradients[:121]:
        p.grad = torch.from_numpy(g.copy())
        theirs.step()
        scheduler.step()
        opt.step(g)
        np.testing.assert_allclose(q, p.detach().numpy(), rtol=1e-9, atol=1e-11)


def test_cycle_of_momentum_steps_as_torch_does(lr_scheduler: Any) -> None:
    import torch

    rng = np.random.default_rng(1)
    start, gradients = rng.standard_normal(7), rng.standard_normal((100, 7))
    p = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.Adam([p], lr=BASE)
    scheduler = lr_scheduler.OneCycleLR(theirs, 0.2, 100)
    q = start.copy()
    beta1 = s.OneCycle(peak=0.85, start=0.95, end=0.95, steps=100)
    opt = fs.Adam(q, lr=s.OneCycle(0.2, 100), beta1=beta1, bias_correction=False)
    m, v, expected = np.zeros(7), np.zeros(7), start.copy()
    for i, g in enumerate(gradients):
        rate, beta = (theirs.param_groups[0][key] for key in ("lr", "betas"))
        m = beta[0] * m + (1 - beta[0]) * g
        v = 0.999 * v + 0.001 * g * g
        expected -= rate * m / (np.sqrt(v) + 1e-8)
        opt.step(g)
        np.testing.assert_allclose(q, expected, rtol=1e-9, atol=1e-11)
        if i < 99:
            theirs.step()
            scheduler.step()


# --- torch: feedback

PLATEAUS = list(itertools.product(["min", "max"], [0, 5], [0, 3], [0.0, 0.1], [0.0, 1e-3]))


def compare_plateau(lr_scheduler: Any, figures: Any, **options: Any) -> int:
    """Observe figures in both; return how often the value changed."""
    given = {("min_lr" if k == "minimum" else k): v for k, v in options.items()}
    optimizer = optimizer_of_torch()
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, eps=0, **given)
    plateau = s.Plateau(BASE, **options)
    values = [BASE]
    for i, figure in enumerate(figures):
        scheduler.step(figure)
        value = plateau.observe(figure)
        assert value == plateau(i + 1) == plateau(10**9)
        assert value == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=0), (i, figure)
        values.append(value)
    return sum(a != b for a, b in itertools.pairwise(values))


@pytest.mark.parametrize(("mode", "patience", "cooldown", "threshold", "minimum"), PLATEAUS)
def test_plateau(
    lr_scheduler: Any, mode: str, patience: int, cooldown: int, threshold: float, minimum: float
) -> None:
    rng = np.random.default_rng(PLATEAUS.index((mode, patience, cooldown, threshold, minimum)))
    trend = np.exp((-1 if mode == "min" else 1) * np.linspace(0, 3, 300))
    figures = trend * rng.lognormal(0, 0.3, 300)
    changes = compare_plateau(
        lr_scheduler,
        figures,
        mode=mode,
        factor=0.7,
        patience=patience,
        cooldown=cooldown,
        threshold=threshold,
        minimum=minimum,
    )
    assert changes > 0


def test_plateau_defaults(lr_scheduler: Any) -> None:
    figures = np.random.default_rng(0).lognormal(0, 1, 3000)
    assert compare_plateau(lr_scheduler, figures) > 10


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("factor", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("minimum", [0.0, 0.05, BASE, 0.5])
def test_plateau_at_its_minimum(lr_scheduler: Any, mode: str, factor: float, minimum: float) -> None:
    figures = np.random.default_rng(1).lognormal(0, 1, 200)
    compare_plateau(lr_scheduler, figures, mode=mode, factor=factor, minimum=minimum, patience=2, cooldown=1)


@pytest.mark.parametrize(("mode", "worst"), [("min", math.inf), ("max", 0.0)])
def test_plateau_with_what_is_not_finite(lr_scheduler: Any, mode: str, worst: float) -> None:
    figures = np.random.default_rng(2).lognormal(0, 0.3, 500)
    figures[::7] = math.nan
    figures[3::11] = worst
    figures[:3] = math.nan
    assert compare_plateau(lr_scheduler, figures, mode=mode, factor=0.9, patience=2) > 10


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_plateau_on_the_threshold(lr_scheduler: Any, mode: str, threshold: float) -> None:
    """Better by exactly the threshold, in numbers where nothing is rounded, is not better."""
    rng = np.random.default_rng(3)
    figures = (4.0 ** rng.integers(-3, 4, 1000)) * rng.choice([1, 1.25, 1.5, 0.75, 0.5], 1000)
    compare_plateau(lr_scheduler, figures, mode=mode, threshold=threshold, patience=1, factor=0.999)


@pytest.mark.parametrize("threshold", [0.01, 0.05, 0.1])
@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateau_of_rounded_figures(lr_scheduler: Any, mode: str, threshold: float) -> None:
    """Figures that were printed with two digits meet the threshold exactly, but for rounding."""
    sign = -1 if mode == "min" else 1
    for seed in range(20):
        rng = np.random.default_rng(seed)
        figures = np.round(np.clip(0.5 + sign * np.arange(60) / 150 + rng.normal(0, 0.02, 60), 0.01, 1), 2)
        compare_plateau(lr_scheduler, figures, mode=mode, threshold=threshold, patience=1, factor=0.999)


# --- optax


def test_optax_constant(optax: Any) -> None:
    agree(s.Constant(0.3), [float(optax.constant_schedule(0.3)(i)) for i in range(5)])


@pytest.mark.parametrize("steps", [1, 999])
@pytest.mark.parametrize("end", [0.0, 0.9])
def test_optax_decays(optax: Any, steps: int, end: float) -> None:
    agree(s.Linear(BASE, steps, end), values_of_optax(optax.linear_schedule(BASE, end, steps)))
    agree(s.Cosine(BASE, steps, end), values_of_optax(optax.cosine_decay_schedule(BASE, steps, end / BASE)))
    agree(s.Polynomial(BASE, steps, end, 2), values_of_optax(optax.polynomial_schedule(BASE, end, 2, steps)))


@pytest.mark.parametrize(("every", "factor"), [(1, 0.9), (3, 0.9), (100, 0.1), (1009, 0.1)])
def test_optax_exponential(optax: Any, every: int, factor: float) -> None:
    staircase = values_of_optax(optax.exponential_decay(BASE, every, factor, staircase=True))
    rate = -math.log(factor)
    agree(s.Step(BASE, every, factor), staircase)
    agree(s.PerEpoch(s.Exponential(BASE, rate), every), staircase)
    agree(s.Exponential(BASE, rate / every), values_of_optax(optax.exponential_decay(BASE, every, factor)))


@pytest.mark.parametrize("after", [(1,), (1, 2, 3), (30, 80), (5, 500, 1009)])
def test_optax_piecewise_constant(optax: Any, after: tuple[int, ...]) -> None:
    scales = [0.5, 0.1, 3.0][: len(after)]
    same = optax.piecewise_constant_schedule(BASE, dict.fromkeys(after, 0.2))
    agree(s.MultiStep(BASE, after, 0.2), values_of_optax(same))
    theirs = optax.piecewise_constant_schedule(BASE, dict(zip(after, scales, strict=True)))
    values = tuple((BASE * np.cumprod([1.0, *scales])).tolist())
    agree(s.Piecewise(values, after), values_of_optax(theirs))


@pytest.mark.parametrize("after", [(1,), (1, 2, 3), (30, 80), (5, 500, 1009)])
def test_optax_piecewise_linear(optax: Any, after: tuple[int, ...]) -> None:
    scales = [0.5, 0.1, 3.0][: len(after)]
    theirs = optax.piecewise_interpolate_schedule("linear", BASE, dict(zip(after, scales, strict=True)))
    values = tuple((BASE * np.cumprod([1.0, *scales])).tolist())
    agree(s.PiecewiseLinear(values, (1, *(i + 1 for i in after))), values_of_optax(theirs))


def test_optax_linear_one_cycle(optax: Any) -> None:
    theirs = optax.linear_onecycle_schedule(1000, 0.5, pct_start=0.25, pct_final=0.75)
    agree(s.PiecewiseLinear((0.02, 0.5, 0.02, 2e-6), (1, 251, 751, 1001)), values_of_optax(theirs))


@pytest.mark.parametrize(("steps", "rise"), [(1000, 0.3), (1001, 1 / 7), (10, 0.5), (11, 3 / 11)])
def test_optax_cosine_one_cycle(optax: Any, steps: int, rise: float) -> None:
    """There the steps are counted between the first and the last, and rounds the place of the peak down."""
    peak = round(rise * steps) - 1
    theirs = optax.cosine_onecycle_schedule(steps - 1, 0.7, (peak + 0.5) / (steps - 1))
    agree(s.OneCycle(0.7, steps, rise), values_of_optax(theirs))


def test_optax_cosine_one_cycle_of_a_thousand(optax: Any) -> None:
    agree(s.OneCycle(0.7, 1000), values_of_optax(optax.cosine_onecycle_schedule(999, 0.7)))


@pytest.mark.parametrize("warmup", [1, 400])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_optax_warmups(optax: Any, warmup: int, start: float) -> None:
    constant = optax.warmup_constant_schedule(start, BASE, warmup)
    agree(s.Warmup(s.Constant(BASE), warmup, start), values_of_optax(constant))
    cosine = optax.warmup_cosine_decay_schedule(start, BASE, warmup, 1000, 0.01)
    agree(s.Warmup(s.Cosine(BASE, 1000 - warmup, 0.01), warmup, start), values_of_optax(cosine))
    staircase = optax.warmup_exponential_decay_schedule(start, BASE, warmup, 50, 0.3, staircase=True)
    agree(s.Warmup(s.Step(BASE, 50, 0.3), warmup, start), values_of_optax(staircase))
    smooth = optax.warmup_exponential_decay_schedule(start, BASE, warmup, 50, 0.3)
    agree(s.Warmup(s.Exponential(BASE, -math.log(0.3) / 50), warmup, start), values_of_optax(smooth))


@pytest.mark.parametrize("growth", [1, 2])
def test_optax_sgdr(optax: Any, growth: int) -> None:
    waves = [{"init_value": BASE, "peak_value": BASE, "warmup_steps": 1, "decay_steps": 20 * growth**i}
             for i in range(6)]  # fmt: skip
    theirs = values_of_optax(optax.sgdr_schedule(waves), 20 * sum(growth**i for i in range(6)))
    parts = tuple(s.Warmup(s.Cosine(BASE, 20 * growth**i - 1), 1, BASE) for i in range(6))
    after = tuple(itertools.accumulate(20 * growth**i for i in range(5)))
    agree(s.Sequential(parts, after), theirs)


@pytest.mark.parametrize("growth", [1, 3])
def test_optax_joined_cosines(optax: Any, growth: int) -> None:
    lengths = [5 * growth**i for i in range(6)]
    theirs = optax.join_schedules(
        [optax.cosine_decay_schedule(BASE, length, 0.1) for length in lengths],
        list(itertools.accumulate(lengths[:-1])),
    )
    agree(s.CosineRestarts(BASE, 5, growth, 0.1 * BASE), values_of_optax(theirs, sum(lengths)))


@pytest.mark.parametrize("after", [(1, 2), (10, 500), (600, 601)])
def test_optax_joined(optax: Any, after: tuple[int, int]) -> None:
    theirs = optax.join_schedules(
        [
            optax.exponential_decay(BASE, 10, 0.5),
            optax.cosine_decay_schedule(0.1, 300, 0.1),
            optax.linear_schedule(0.5, 0.2, 400),
        ],
        list(after),
    )
    parts = (s.Exponential(BASE, math.log(2) / 10), s.Cosine(0.1, 300, 0.01), s.Linear(0.5, 400, 0.2))
    agree(s.Sequential(parts, after), values_of_optax(theirs))


@pytest.mark.parametrize(("warmup", "stable", "decay"), [(1, 1, 1), (10, 500, 300), (200, 1, 900)])
@pytest.mark.parametrize(("start", "end"), [(0.0, 0.0), (0.1, 0.02)])
def test_optax_warmup_stable_decay(
    optax: Any, warmup: int, stable: int, decay: int, start: float, end: float
) -> None:
    theirs = optax.join_schedules(
        [
            optax.linear_schedule(start, BASE, warmup),
            optax.constant_schedule(BASE),
            optax.linear_schedule(BASE, end, decay),
        ],
        [warmup, warmup + stable],
    )
    agree(s.WarmupStableDecay(BASE, warmup, stable, decay, start, end), values_of_optax(theirs))


def test_optax_in_our_optimizer(optax: Any) -> None:
    import jax

    start, gradients = np.zeros(3), np.random.default_rng(0).standard_normal((60, 3))
    schedule = s.Warmup(s.Cosine(BASE, 40), 10)
    theirs = optax.sgd(optax.warmup_cosine_decay_schedule(0.0, BASE, 10, 50))
    p, q = jax.numpy.asarray(start), start.copy()
    state = theirs.init(p)
    opt = fs.SGD(q, lr=schedule)
    for g in gradients:
        updates, state = theirs.update(jax.numpy.asarray(g), state, p)
        p = optax.apply_updates(p, updates)
        opt.step(g)
        np.testing.assert_allclose(q, np.asarray(p), rtol=1e-6, atol=1e-7)
