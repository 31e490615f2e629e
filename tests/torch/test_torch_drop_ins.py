"""torch's classes have here its arguments and its numbers.

torch's class as its plain loop is the oracle for all that it can do. For 16-bit parameters it is that class
in float64, given the same parameters, state and gradients at each step.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

import fusedstep as fs
from tests.helpers.torch_options import OPTIONS
from tests.helpers.torch_rules import (
    BFLOAT16,
    COMPLEX,
    DROP_INS,
    EXTRAS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    OF_16_BITS,
    SCALARS_IN_STATE,
    TOLERANCE,
    Beside,
    Options,
    Tensor,
    all_parameters,
    assert_alike,
    assert_close,
    assert_near,
    each_drop_in,
    exactly,
    ft,
    give,
    new,
    options_of,
    parameter,
    random,
    same_bits,
    several,
    tensors_of,
    tolerance_of,
    torch,
    torchs,
    train,
)

ELEMENTWISE = [name for name in DROP_INS if name not in {"Adafactor", "Muon"}]
MATRICES: list[tuple[int, ...]] = [(70, 67), (7, 5), (5, 7), (6, 11), (11, 6), (1, 9), (9, 1)]
SHAPES: list[tuple[int, ...]] = [
    *MATRICES,
    (9,),
    (),
    (2, 3, 4),
    (2, 2, 3, 4),
    (33,),
    (4103,),
    (0,),
    (0, 4),
    (3, 0),
]
LARGER: list[tuple[int, ...]] = [
    (7, 5),
    (5, 7),
    (1, 9),
    (9, 1),
    (70, 130),
    (2, 3, 4),
    (2, 2, 3, 4),
    (33,),
    (),
]

# --- Classes and their arguments ---


@each_drop_in
def test_is_of_torchs_class(name: str) -> None:
    cls = getattr(ft, name)
    assert issubclass(cls, getattr(torch.optim, name))
    assert isinstance(new(name, several()), getattr(torch.optim, name))
    assert cls.__name__ == name
    assert name in ft.__all__
    assert cls.rule is fs.rules[{"SGD": "SGDM", "RMSprop": "RMSProp"}.get(name, name)]


@each_drop_in
def test_takes_torchs_arguments_first(name: str) -> None:
    theirs = list(inspect.signature(getattr(torch.optim, name)).parameters.values())
    ours = list(inspect.signature(getattr(ft, name)).parameters.values())
    assert ours[: len(theirs)] == theirs
    more = {**EXTRAS, **getattr(ft, name).extras}
    assert {p.name: p.default for p in ours[len(theirs) :]} == more
    assert {p.kind for p in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}


def test_extras() -> None:
    assert {name: ft.__dict__[name].extras for name in DROP_INS if getattr(ft, name).extras} == {
        "Adam": {"cautious": False},
        "AdamW": {"cautious": False},
        "NAdam": {"amsgrad": False},
        "Muon": {"matrices": True, "beta1": 0.9, "beta2": 0.999},
    }


@each_drop_in
def test_defaults_are_torchs(name: str) -> None:
    ours, theirs = (getattr(module, name)([parameter(2, 2)]).defaults for module in (ft, torch.optim))
    assert ours == {**theirs, **getattr(ft, name).extras}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Adafactor", (0.5, -0.4, (0.1, 0.2), 1.5, 0.3)),
        ("Muon", (0.1, 0.2, 0.5, False, (3.0, -4.0, 1.5), 1e-3, 3, "match_rms_adamw")),
    ],
)
def test_arguments_by_position(name: str, arguments: tuple[Any, ...]) -> None:
    ours, theirs = (getattr(module, name)([parameter(6, 11)], *arguments) for module in (ft, torch.optim))
    assert ours.defaults == {**theirs.defaults, **getattr(ft, name).extras}
    group = {key: value for key, value in theirs.param_groups[0].items() if key != "params"}
    assert {key: ours.param_groups[0][key] for key in group} == group


@pytest.mark.parametrize(
    "options",
    [{"lr": -0.1}, {"beta2_decay": 0.1}, {"eps": (-1e-9, 1e-3)}, {"eps": (None, -1.0)}, {"d": 0.9}],
    ids=str,
)
def test_values_outside_for_adafactor(options: Options) -> None:
    """For the other classes this is in torch's own table."""
    for cls in (ft.Adafactor, torch.optim.Adafactor):
        with pytest.raises(ValueError, match=r"should be"):
            cls([parameter(2, 2)], **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"adjust_lr_fn": "other"}, ValueError, "Adjust learning rate function other is not supported"),
        ({"lr": -1.0}, ValueError, "Learning rate should be >= 0"),
        ({"lr": torch.ones(2)}, ValueError, "Tensor lr must be 1-element"),
        ({"momentum": -0.5}, ValueError, "momentum should be >= 0"),
        ({"weight_decay": -0.5}, ValueError, "weight decay should be >= 0"),
        ({"matrices": 1}, TypeError, "matrices must be True or False"),
        ({"matrices": None}, TypeError, "matrices must be True or False"),
        ({"beta1": 1.0}, ValueError, r"beta1 must be in \[0, 1\)"),
        ({"beta2": -0.1}, ValueError, r"beta2 must be in \[0, 1\)"),
        ({"clip_norm": -1.0}, ValueError, "clip_norm must be in"),
        ({"state_dtype": torch.int32}, TypeError, "state_dtype must be one of"),
        ({"ema": 0.5}, TypeError, "ema"),
        ({"cautious": True}, TypeError, "cautious"),
        ({"betas": (0.9, 0.99)}, TypeError, "betas"),
    ],
    ids=str,
)
def test_values_outside_for_muon(options: Options, error: type[Exception], message: str) -> None:
    """Whatever the parameters; torch raises its own."""
    both: list[list[tuple[int, ...]]] = [[(3, 5)], [(3, 5), (4,)]]
    for shapes in both:
        with pytest.raises(error, match=message):
            ft.Muon(several(shapes=shapes), **options)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("Muon", {"matrices": "yes"}, TypeError),
        ("Muon", {"beta1": 1.0}, ValueError),
        ("Muon", {"beta2": 2.0}, ValueError),
        *((name, {"cautious": wrong}, TypeError) for name in ("Adam", "AdamW") for wrong in (1, None, "yes")),
        *(("NAdam", {"amsgrad": wrong}, TypeError) for wrong in (1, None, "yes")),
    ],
    ids=str,
)
def test_wrong_extras(name: str, options: Options, error: type[Exception]) -> None:
    p, q = parameter(3, 5), parameter(5, 3)
    with pytest.raises(error, match=next(iter(options))):
        getattr(ft, name)([p], **options)
    with pytest.raises(error, match=next(iter(options))):
        getattr(ft, name)([{"params": [p]}, {"params": [q], **options}])


# --- Numbers ---


def give_growing(parameters: list[Tensor], t: int, *without: int) -> None:
    """Gradients that grow, so that Adafactor clips its steps."""
    give(parameters, t, *without)
    for i, p in enumerate(parameters):
        if p.grad is not None:
            p.grad = (1.5**t * random(*p.shape, seed=100 + 10 * t + i)).to(p.dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(("name", "options"), [case for case in OPTIONS if case[0] in ELEMENTWISE], ids=str)
def test_options_as_in_torch(name: str, options: Options, dtype: Any) -> None:
    """And as in NumPy, to the bit."""
    Beside(name, dtype=dtype, **options).steps(0, 12)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(("name", "options"), [c for c in OPTIONS if c[0] not in ELEMENTWISE], ids=str)
def test_matrices_as_in_torch(name: str, options: Options, dtype: Any) -> None:
    """Of many shapes, with gradients that grow; some are missing by turns, so that their steps differ."""
    shapes = LARGER if name == "Adafactor" else SHAPES
    beside = Beside(name, lambda: several(dtype, shapes), **options)
    for t in range(5):
        for optimizer in beside.all():
            give_growing(all_parameters(optimizer), t, t, 7 - t)
            optimizer.step()
        beside.check(t)
    for p in beside.mine:
        keys = list(beside.ours.state[p])
        factored = name == "Adafactor" and p.dim() > 1
        if name == "Adafactor":
            assert keys == (["step", "row_var", "col_var"] if factored else ["step", "variance"])
        else:
            assert set(keys) == {
                "step",
                *(["momentum_buffer"] if p.dim() == 2 else ["exp_avg", "exp_avg_sq"]),
            }
        if factored:
            assert beside.ours.state[p]["row_var"].shape == (*p.shape[:-1], 1)
            assert beside.ours.state[p]["col_var"].shape == (*p.shape[:-2], 1, p.shape[-1])


@pytest.mark.parametrize(
    ("name", "options"), [case for case in OPTIONS if "original" not in case[1].values()], ids=str
)
def test_each_option_counts(name: str, options: Options) -> None:
    """In torch's steps, or the tests above would not see it."""
    plain, other = torchs(name, several()), torchs(name, several(), **options)
    for optimizer in (plain, other):
        for t in range(12):
            give_growing(all_parameters(optimizer), t)
            optimizer.step()
    pairs = list(zip(all_parameters(plain), all_parameters(other), strict=True))
    changed = [not torch.equal(p, q) for p, q in pairs]
    assert changed[0]
    assert changed[3] or name == "Muon"  # of which most are for matrices alone


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_adafactor_without_a_mean(dtype: Any) -> None:
    """With beta2_decay 0 the variance is that of the last gradient, also of one far smaller."""
    beside = Beside("Adafactor", lambda: several(dtype, SHAPES[:-3]), beta2_decay=0.0, lr=0.5)
    for t in range(4):
        for optimizer in beside.all():
            give(all_parameters(optimizer), t)
            for q in all_parameters(optimizer):
                q.grad *= 100.0 ** (-t)
            optimizer.step()
        beside.check(t)


@pytest.mark.parametrize("adjust", [None, "match_rms_adamw"])
def test_muon_is_torchs_within_the_error_of_bfloat16(adjust: str | None) -> None:
    """In which torch's iteration is, and this is not."""
    p, q = several(FLOAT32, MATRICES), several(FLOAT32, MATRICES)
    options: Options = {"lr": 1.0, "weight_decay": 0.0, "adjust_lr_fn": adjust}
    ours, theirs = ft.Muon(p, **options), torch.optim.Muon(q, **options)
    for t in range(5):
        before = [x.detach().clone() for x in (*p, *q)]
        for x, optimizer in ((p, ours), (q, theirs)):
            give(x, t)
            optimizer.step()
        made = [(x - old).detach() for x, old in zip((*p, *q), before, strict=True)]
        for found, expected in zip(made[: len(p)], made[len(p) :], strict=True):
            assert float((found - expected).norm()) < 0.08 * float(expected.norm())


@each_drop_in
def test_long_run(name: str) -> None:
    p, q = parameter(7), parameter(7)
    ours, theirs = new(name, [p]), torchs(name, [q])
    for _ in range(50):
        for t in range(10):
            p.grad = random(7, seed=t)
            q.grad = p.grad.clone()
            ours.step()
            theirs.step()
    # 500 steps, each with a rounding of its own
    wide = 500 * torch.finfo(FLOAT32 if name in SCALARS_IN_STATE else FLOAT64).eps
    assert_close(p, q, (wide, wide), name)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
@each_drop_in
def test_flags_change_nothing(name: str, flag: str) -> None:
    if flag not in inspect.signature(getattr(torch.optim, name)).parameters:
        with pytest.raises(TypeError, match=flag):
            new(name, several(), **{flag: True})
        return
    ours, theirs = new(name, several(), **{flag: True}), torchs(name, several())
    for t in range(4):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", COMPLEX)
def test_complex_parameters(name: str, dtype: Any) -> None:
    Beside(name, dtype=dtype).steps(0, 6)


def plain(name: str, *, lr: float) -> Options:
    """The class's options with this lr and no weight decay."""
    return {**options_of(name), "lr": lr, **({} if name == "Rprop" else {"weight_decay": 0.0})}


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32, BFLOAT16, FLOAT16], ids=str)
@each_drop_in
def test_zero_lr_and_gradient_keep_every_bit(name: str, dtype: Any) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    values = [0.0, -0.0, tiny, -tiny, tiny / 2, -tiny / 4, torch.inf, -torch.inf, 1.5, -3.0, torch.nan]
    start = torch.tensor(values, dtype=FLOAT64).to(dtype).repeat(20)
    if name == "Adafactor":  # whose step is a part of the norm of the parameter
        start = torch.where(start.isfinite(), start, torch.ones_like(start))
    p = torch.nn.Parameter(start.clone())
    optimizer = getattr(ft, name)([p], **plain(name, lr=0.0))
    for _ in range(3):
        p.grad = torch.zeros_like(start)  # -0.0 - 0.0 * -0.0 is 0.0, so not that of the other sign
        optimizer.step()
    real = ~start.isnan()
    assert torch.equal(p.isnan(), ~real)
    assert same_bits(p.detach()[real], start[real])


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize("name", [name for name in DROP_INS if name != "Adafactor"])  # all of it would be NaN
def test_special_gradients(name: str, dtype: Any) -> None:
    # torch's sign of NaN is 0, so its Rprop ignores NaN: see the next test
    nan = 2.0 if name == "Rprop" else torch.nan
    special = torch.tensor([nan, torch.inf, -torch.inf, 1e15, -1e15, 1e-30, 0.0, 1.0], dtype=dtype)
    p, q = parameter(99, dtype=dtype), parameter(99, dtype=dtype)
    ours, theirs = new(name, [p]), torchs(name, [q])
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
    (FLOAT16, FLOAT16, FLOAT16),
    (BFLOAT16, BFLOAT16, FLOAT32),
    (BFLOAT16, FLOAT32, None),
    (BFLOAT16, FLOAT32, FLOAT32),
    (FLOAT16, FLOAT32, None),
    (FLOAT32, BFLOAT16, None),
    (FLOAT32, FLOAT16, None),
    (FLOAT32, FLOAT64, None),
    (FLOAT64, FLOAT32, None),
]


@pytest.mark.parametrize(("dtype", "gradient", "state_dtype"), MIXED, ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_types_are_rounded_once(name: str, dtype: Any, gradient: Any, state_dtype: Any) -> None:
    p = parameter(4097, dtype=dtype)
    if gradient != dtype:
        p.grad_dtype = gradient
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


@pytest.mark.parametrize(("dtype", "state_dtype"), OF_16_BITS, ids=str)
def test_adafactors_types(dtype: Any, state_dtype: Any) -> None:
    """As torch's in float64, given the same at each step, within the rounding of what is kept."""
    shapes = [shape for shape in SHAPES if math.prod(shape)]
    p = several(dtype, shapes)
    ours = ft.Adafactor(p, lr=0.3, state_dtype=state_dtype)
    state_dtype = state_dtype or (FLOAT32 if dtype == FLOAT16 else dtype)
    part = {BFLOAT16: 1.01 * 2**-8, FLOAT16: 1.01 * 2**-11, FLOAT32: 1e-5}
    for t in range(4):
        wide = [torch.nn.Parameter(q.detach().double()) for q in p]
        theirs = torchs("Adafactor", wide, lr=0.3, eps=(torch.finfo(dtype).eps, 1e-3), weight_decay=0.0)
        give_growing(p, t)
        for q, x in zip(p, wide, strict=True):
            x.grad = q.grad.double()
            state = {key: v.clone() for key, v in ours.state[q].items()} if q in ours.state else {}
            theirs.state[x].update({k: v if k == "step" else v.double() for k, v in state.items()})
        ours.step()
        theirs.step()
        found = tensors_of(ours)
        expected = tensors_of(theirs)
        assert found.keys() == expected.keys()
        for (i, key), value in expected.items():
            kept = dtype if key == "parameter" else state_dtype
            if key != "step":
                assert found[i, key].dtype == kept
                # The direction, of numbers up to 4, is rounded too where the state is.
                twice = key == "parameter" and state_dtype != FLOAT32
                assert_near(found[i, key], value, (1 + twice) * part[kept], 0.1 + twice, (t, i, key))


def test_adafactors_types_are_near_torchs() -> None:
    """Which computes in them."""
    ours, theirs = (cls(several(BFLOAT16, LARGER), lr=0.3) for cls in (ft.Adafactor, torch.optim.Adafactor))
    for optimizer in (ours, theirs):
        give_growing(all_parameters(optimizer), 0)
        optimizer.step()
    found = tensors_of(ours)
    for key, value in tensors_of(theirs).items():
        assert_near(found[key], value, 2**-5, 1.0, key)
