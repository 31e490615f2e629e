"""Adafactor in torch: the numbers of torch.optim.Adafactor, and the bits of NumPy's."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import native

torch = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")

Array = np.ndarray[Any, Any]
Options: TypeAlias = dict[str, Any]

FLOAT32, FLOAT64, BFLOAT16, FLOAT16 = torch.float32, torch.float64, torch.bfloat16, torch.float16
SHAPES: list[tuple[int, ...]] = [
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
STEPS = 5
OPTIONS: dict[str, Options] = {
    "default": {},
    "lr": {"lr": 0.2},
    "lr above 1/√t": {"lr": 0.9},
    "a tensor lr": {"lr": torch.tensor(0.25, dtype=FLOAT64)},
    "beta2_decay": {"beta2_decay": -0.3},
    "eps1": {"eps": (2.0, 1e-3)},
    "eps1 of the mean": {"eps": (4.0, 1e-3)},
    "eps2": {"eps": (None, 4.0)},
    "d": {"d": 1.3},
    "weight_decay": {"weight_decay": 0.3},
    "maximize": {"maximize": True},
    "foreach": {"foreach": True},
    "all": {
        "lr": 0.6,
        "beta2_decay": -0.5,
        "eps": (0.1, 2.0),
        "d": 1.2,
        "weight_decay": 0.2,
        "maximize": True,
    },
}
TOLERANCE = {FLOAT32: 1e-5, FLOAT64: 2e-13, BFLOAT16: 1.01 * 2**-8, FLOAT16: 1.01 * 2**-11}
EXTRAS = {"clip_norm": None, "state_dtype": None, "unscale_in_step": False}

each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Those of two libraries are in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random(seed: int, shape: Any, dtype: Any = FLOAT32) -> Any:
    wide = torch.complex128 if dtype.is_complex else FLOAT64
    return torch.randn(shape, dtype=wide, generator=torch.Generator().manual_seed(seed)).to(dtype)


def parameters(dtype: Any = FLOAT32) -> list[Any]:
    return [torch.nn.Parameter(random(i, shape, dtype)) for i, shape in enumerate(SHAPES)]


def give(p: list[Any], t: int, *without: int) -> None:
    """The gradients of a step; they grow, so that they are clipped."""
    for i, q in enumerate(p):
        g = 1.5**t * random(100 + 10 * t + i, q.shape, FLOAT64)
        q.grad = None if i in without else g.to(q.dtype)


def reference(p: Any, **options: Any) -> Any:
    return torch.optim.Adafactor(p, **{"foreach": False, **options})


def all_parameters(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def tensors_of(optimizer: Any) -> dict[tuple[int, str], Any]:
    """Copies of the parameters and their state."""
    found = {}
    for i, p in enumerate(all_parameters(optimizer)):
        found[i, "parameter"] = p.detach().clone()
        for key, value in optimizer.state.get(p, {}).items():
            found[i, key] = value.clone()
    return found


def assert_equal(found: dict[tuple[int, str], Any], expected: dict[tuple[int, str], Any]) -> None:
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def assert_close(found: Any, expected: Any, tolerance: float, context: Any, least: float = 0.1) -> None:
    """To a part of each number, or of `least` where it is smaller."""
    assert found.shape == expected.shape, context
    found, expected = found.detach().double(), expected.detach().double()
    close = (found - expected).abs() <= tolerance * expected.abs().clamp(min=least)
    assert bool(close.all()), (context, float((found - expected).abs().max()))


def assert_alike(ours: Any, theirs: Any, context: Any = None, *, wider: float = 1) -> None:
    """The same parameters and the same state, of the same names, types and shapes."""
    found, expected = tensors_of(ours), tensors_of(theirs)
    assert found.keys() == expected.keys(), context
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, (key, context)
        assert_close(found[key], value, wider * TOLERANCE[value.dtype], (key, context))


def to_numpy(tensor: Any) -> Array:
    """A copy."""
    tensor = tensor.detach()
    if tensor.dtype == BFLOAT16:
        bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
        bits: Array = tensor.contiguous().view(torch.int16).numpy().copy()
        return bits.view(bfloat16)
    array: Array = tensor.numpy().copy(order="K")
    return array


def train(optimizer: Any, start: int, stop: int) -> None:
    for t in range(start, stop):
        give(all_parameters(optimizer), t)
        optimizer.step()


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file)


# The class.


def test_signature() -> None:
    """torch's parameters first, then those of all classes here, by keyword."""
    theirs = list(inspect.signature(torch.optim.Adafactor).parameters.values())
    ours = list(inspect.signature(ft.Adafactor).parameters.values())
    assert ours[: len(theirs)] == theirs
    assert {p.name: p.default for p in ours[len(theirs) :]} == EXTRAS
    assert {p.kind for p in ours[len(theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
    assert issubclass(ft.Adafactor, torch.optim.Adafactor)


def test_defaults_and_arguments_by_position() -> None:
    p = [torch.nn.Parameter(torch.ones(2, 2))]
    assert ft.Adafactor(p).defaults == torch.optim.Adafactor(p).defaults
    arguments = (p, 0.5, -0.4, (0.1, 0.2), 1.5, 0.3)
    assert ft.Adafactor(*arguments).defaults == torch.optim.Adafactor(*arguments).defaults
    assert ft.Adafactor(p).rule is fs.Adafactor


@pytest.mark.parametrize(
    "options",
    [{"lr": -0.1}, {"beta2_decay": 0.1}, {"eps": (-1e-9, 1e-3)}, {"eps": (None, -1.0)}, {"d": 0.9}],
    ids=str,
)
def test_values_outside(options: Options) -> None:
    for cls in (ft.Adafactor, torch.optim.Adafactor):
        with pytest.raises(ValueError, match=r"should be"):
            cls([torch.nn.Parameter(torch.ones(2, 2))], **options)


# Numbers.


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@each_option
def test_as_torchs(options: Options, dtype: Any) -> None:
    """With one of the parameters left out by turns, so that their steps differ."""
    ours, theirs = ft.Adafactor(parameters(dtype), **options), reference(parameters(dtype), **options)
    for t in range(STEPS):
        for optimizer in (ours, theirs):
            give(all_parameters(optimizer), t, t, 7 - t)
            optimizer.step()
        assert_alike(ours, theirs, t)
    for i, (p, shape) in enumerate(zip(all_parameters(ours), SHAPES, strict=True)):
        state = ours.state[p]
        assert list(state) == (["step", "row_var", "col_var"] if len(shape) > 1 else ["step", "variance"])
        assert state["step"] == 5 - (i < 5) - (3 <= i <= 7)
        assert state["step"].dtype == FLOAT32
        if len(shape) > 1:
            assert state["row_var"].shape == (*shape[:-1], 1)
            assert state["col_var"].shape == (*shape[:-2], 1, shape[-1])
        else:
            assert state["variance"].shape == shape


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
def test_without_a_mean(dtype: Any) -> None:
    """With beta2_decay 0 the variance is that of the last gradient, also of one far smaller."""
    ours, theirs = (make(parameters(dtype), beta2_decay=0.0, lr=0.5) for make in (ft.Adafactor, reference))
    for t in range(4):
        for optimizer in (ours, theirs):
            p = all_parameters(optimizer)
            give(p, t)
            for q in p:
                q.grad *= 100.0 ** (-t)
            optimizer.step()
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "foreach"])
def test_each_option_counts(name: str) -> None:
    """Or the test above would not see it."""
    plain, other = reference(parameters()), reference(parameters(), **OPTIONS[name])
    for optimizer in (plain, other):
        train(optimizer, 0, STEPS)
    for i in (0, 7):
        p, q = all_parameters(plain)[i], all_parameters(other)[i]
        assert torch.equal(p, q) == (name == "default")


@pytest.mark.parametrize("state_dtype", [None, FLOAT32], ids=str)
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
def test_16_bits(dtype: Any, state_dtype: Any) -> None:
    """As torch's in float64, given the same at each step, within the rounding of what is kept."""
    p = parameters(dtype)
    ours = ft.Adafactor(p, lr=0.3, state_dtype=state_dtype)
    eps = torch.finfo(dtype).eps, 1e-3
    before = tensors_of(ours)
    for t in range(4):
        wide = [torch.nn.Parameter(before[i, "parameter"].double()) for i in range(len(p))]
        theirs = reference(wide, lr=0.3, eps=eps)
        give(p, t)
        for i, (q, x) in enumerate(zip(p, wide, strict=True)):
            x.grad = q.grad.double()
            state = {key: v for (k, key), v in before.items() if k == i and key != "parameter"}
            theirs.state[x].update({k: v if k == "step" else v.double() for k, v in state.items()})
        ours.step()
        theirs.step()
        before = tensors_of(ours)
        expected = tensors_of(theirs)
        assert before.keys() == expected.keys()
        for (i, key), value in expected.items():
            kept = dtype if key == "parameter" else state_dtype or dtype
            if key != "step":
                assert before[i, key].dtype == kept
                # The direction, of numbers up to 4, is rounded too where the state is.
                twice = key == "parameter" and state_dtype is None
                assert_close(before[i, key], value, (1 + twice) * TOLERANCE[kept], (t, i, key), 0.1 + twice)


def test_16_bits_are_near_torchs() -> None:
    """Which computes in them."""
    ours, theirs = (make(parameters(BFLOAT16), lr=0.3) for make in (ft.Adafactor, reference))
    for optimizer in (ours, theirs):
        train(optimizer, 0, 1)
    for key, value in tensors_of(theirs).items():
        assert_close(tensors_of(ours)[key], value, 2**-5, key, 1.0)


@pytest.mark.parametrize("state_dtype", [None, "float32"])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, BFLOAT16, FLOAT16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"lr": 0.9, "weight_decay": 0.2, "d": 1.5, "maximize": True}], ids=str
)
def test_numpys_bits(options: Options, dtype: Any, state_dtype: str | None) -> None:
    """eps1 is the epsilon of the dtype, unless it is given."""
    if dtype == FLOAT64 and state_dtype:
        pytest.skip("float64 goes with nothing else")
    p = parameters(dtype)
    arrays = [to_numpy(q) for q in p]
    kept = getattr(torch, state_dtype) if state_dtype else None
    ours = ft.Adafactor(p, **options, state_dtype=kept)
    theirs = fs.Adafactor(arrays, **options, eps1=torch.finfo(dtype).eps, state_dtype=state_dtype)
    for t in range(STEPS):
        give(p, t)
        ours.step()
        theirs.step([to_numpy(q.grad) for q in p])
        for i, (q, array) in enumerate(zip(p, arrays, strict=True)):
            assert_bits(to_numpy(q), array, (t, i))
            state = {{"variance": "v"}.get(key, key): v for key, v in ours.state[q].items() if key != "step"}
            assert state.keys() == theirs.state[i].keys()
            for name, value in theirs.state[i].items():
                assert_bits(to_numpy(state[name]), value, (t, i, name))


def assert_bits(found: Array, expected: Array, context: Any) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), context
    assert np.isfinite(found.astype(np.float64)).all(), context
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64), err_msg=str(context))


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "plain": lambda x: x.clone(memory_format=torch.contiguous_format),
    "gaps": lambda x: torch.stack([x, x], -1)[..., 0],
    "transposed": lambda x: x.mT.contiguous().mT,
    "turned": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "gaps between rows": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
}


@pytest.mark.parametrize("of_g", LAYOUTS)
@pytest.mark.parametrize("of_p", LAYOUTS)
def test_layouts(of_p: str, of_g: str) -> None:
    """Of parameters and gradients: torch's numbers, factors of the same bits, and the layout stays."""
    shapes = [(70, 33), (3, 4, 5), (2, 3, 4, 5), (6, 1), (1, 6)]
    start = [random(i, shape) for i, shape in enumerate(shapes)]
    mine = [torch.nn.Parameter(LAYOUTS[of_p](x)) for x in start]
    plain, others = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    strides = [p.stride() for p in mine]
    assert of_p == "plain" or any(not p.is_contiguous() for p in mine)
    ours, contiguous = ft.Adafactor(mine, lr=0.3), ft.Adafactor(plain, lr=0.3)
    theirs = reference(others, lr=0.3)
    for t in range(3):
        give(others, t)
        for p, q, x in zip(mine, plain, others, strict=True):
            p.grad, q.grad = LAYOUTS[of_g](x.grad), x.grad.clone()
        for optimizer in (ours, contiguous, theirs):
            optimizer.step()
        assert_alike(ours, theirs, t)
        for p, q in zip(mine, plain, strict=True):
            for name in ("row_var", "col_var"):
                assert torch.equal(ours.state[p][name], contiguous.state[q][name])
    assert [p.stride() for p in mine] == strides
    assert all(torch.equal(p.grad, x.grad) for p, x in zip(mine, others, strict=True))


# Checkpoints and copies.


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(
    ("saving", "loading"), [(ft.Adafactor, reference), (reference, ft.Adafactor)], ids=["to", "from"]
)
def test_checkpoints_to_and_from_torch(saving: Any, loading: Any, dtype: Any) -> None:
    options: Options = {"lr": 0.6, "beta2_decay": -0.5, "eps": (1e-4, 0.1), "d": 1.2, "weight_decay": 0.2}
    one, other = saving(parameters(dtype), **options), loading(parameters(dtype))
    for t in range(3):
        give(all_parameters(one), t, 4 if t == 0 else -1)
        one.step()
    with torch.no_grad():
        for p, q in zip(all_parameters(one), all_parameters(other), strict=True):
            q.copy_(p)
    other.load_state_dict(through_a_file(one.state_dict()))
    assert_equal(tensors_of(other), tensors_of(one))
    for t in range(3, 6):
        train(one, t, t + 1)
        train(other, t, t + 1)
        assert_alike(one, other, t)


@pytest.mark.parametrize("state_dtype", [None, FLOAT32, BFLOAT16], ids=str)
@pytest.mark.parametrize("dtype", [FLOAT32, BFLOAT16], ids=str)
def test_a_run_goes_on_from_a_checkpoint(dtype: Any, state_dtype: Any) -> None:
    """To the bit, into an optimizer that had gone another way; torch would keep factors as the parameter."""
    ours = ft.Adafactor(parameters(dtype), lr=0.3, state_dtype=state_dtype)
    other = ft.Adafactor(parameters(dtype), state_dtype=state_dtype)
    train(ours, 0, 3)
    train(other, 7, 9)
    with torch.no_grad():
        for p, q in zip(all_parameters(ours), all_parameters(other), strict=True):
            q.copy_(p)
    other.load_state_dict(through_a_file(ours.state_dict()))
    for optimizer in (ours, other):
        train(optimizer, 3, 5)
    assert_equal(tensors_of(other), tensors_of(ours))
    kept = state_dtype or dtype
    assert {v.dtype for (_, key), v in tensors_of(other).items() if "var" in key} == {kept}


def test_loaded_state_keeps_its_precision() -> None:
    """Without being asked for it."""
    ours = ft.Adafactor(parameters(BFLOAT16), lr=0.3, state_dtype=FLOAT32)
    other = ft.Adafactor(parameters(BFLOAT16), lr=0.3)
    train(ours, 0, 2)
    other.load_state_dict(ours.state_dict())
    train(other, 2, 3)
    for p, shape in zip(all_parameters(other), SHAPES, strict=True):
        for name in ("row_var", "col_var") if len(shape) > 1 else ("variance",):
            assert other.state[p][name].dtype == FLOAT32


def test_factors_that_are_not_contiguous() -> None:
    ours, other = ft.Adafactor(parameters(), lr=0.3), ft.Adafactor(parameters(), lr=0.3)
    for optimizer in (ours, other):
        train(optimizer, 0, 2)
    for p in all_parameters(other):
        for name in {"row_var", "col_var"} & other.state[p].keys():
            other.state[p][name] = LAYOUTS["turned"](LAYOUTS["gaps"](other.state[p][name]))
    for optimizer in (ours, other):
        train(optimizer, 2, 4)
    assert_equal(tensors_of(ours), tensors_of(other))


@pytest.mark.parametrize("wrong", [(4, 1), (2, 1), (3, 4), (1, 3), (1, 1)], ids=str)
def test_factors_of_a_wrong_shape(wrong: tuple[int, ...]) -> None:
    """An error before anything is written, as torch has one for most."""
    p = [torch.nn.Parameter(random(0, (9,))), torch.nn.Parameter(random(1, (3, 4)))]
    ours = ft.Adafactor(p)
    train(ours, 0, 1)
    ours.state[p[1]]["row_var"] = torch.ones(wrong)
    before = tensors_of(ours)
    give(p, 1)
    with pytest.raises((ValueError, RuntimeError)):
        ours.step()
    assert_equal(tensors_of(ours), before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on(duplicate: Any) -> None:
    ours = ft.Adafactor(parameters(BFLOAT16), lr=0.3, clip_norm=1.0, state_dtype=FLOAT32)
    train(ours, 0, 2)
    other = duplicate(ours)
    assert (other.clip_norm, other.state_dtype) == (1.0, FLOAT32)
    pairs = zip(all_parameters(ours), all_parameters(other), strict=True)
    assert all(p is not q and p.data_ptr() != q.data_ptr() for p, q in pairs)
    before = tensors_of(ours)
    train(other, 2, 4)
    assert_equal(tensors_of(ours), before)
    train(ours, 2, 4)
    assert_equal(tensors_of(other), tensors_of(ours))


def test_no_room_is_saved() -> None:
    """For directions: of a matrix there is little to save."""
    p = torch.nn.Parameter(random(0, (300, 300)))
    optimizer = ft.Adafactor([p])
    train(optimizer, 0, 2)
    assert list(optimizer.state[p]) == ["step", "row_var", "col_var"]
    assert list(optimizer.state_dict()["state"][0]) == ["step", "row_var", "col_var"]
    assert len(pickle.dumps(optimizer.state_dict())) < 8000
    assert len(pickle.dumps(optimizer)) < 4 * 300 * 300 * 2.5  # the parameter, and its gradient


# What else a step does.


def test_lr_scheduler() -> None:
    ours, theirs = (make(parameters(FLOAT64), lr=0.5) for make in (ft.Adafactor, reference))
    made = [
        torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [
                torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
                torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
            ],
            [3],
        )
        for optimizer in (ours, theirs)
    ]
    seen = set()
    for t in range(6):
        for optimizer, scheduler in zip((ours, theirs), made, strict=True):
            train(optimizer, t, t + 1)
            scheduler.step()
        assert_alike(ours, theirs, t)
        seen.add(ours.param_groups[0]["lr"])
    assert len(seen) == 6


def test_clip_norm() -> None:
    ours = ft.Adafactor(parameters(FLOAT64), lr=0.5, clip_norm=2.0)
    theirs = reference(parameters(FLOAT64), lr=0.5)
    for t in range(3):
        mine, others = all_parameters(ours), all_parameters(theirs)
        give(mine, t, 3)
        give(others, t, 3)
        norm = torch.nn.utils.clip_grad_norm_(others, 2.0)
        ours.step()
        theirs.step()
        assert ours.grad_norm == pytest.approx(float(norm), rel=1e-12)
        assert ours.grad_norm > 2
        assert_alike(ours, theirs, t)
        for p, q in zip(mine, others, strict=True):
            assert p.grad is None or not torch.equal(p.grad, q.grad)


def test_scaler_in_the_step() -> None:
    plain, scaled = (ft.Adafactor(parameters(), lr=0.3, unscale_in_step=True) for _ in range(2))
    for t in range(3):
        train(plain, t, t + 1)
        p = all_parameters(scaled)
        give(p, t)
        for x in p:
            x.grad *= 1024
        scaled.grad_scale, scaled.found_inf = torch.tensor(1024.0), torch.tensor(0.0)
        scaled.step()
        before = tensors_of(scaled)
        scaled.found_inf = torch.tensor(1.0)
        scaled.step()
        assert_equal(tensors_of(scaled), before)
    assert_equal(tensors_of(scaled), tensors_of(plain))


def test_closure() -> None:
    p, q = (torch.nn.Parameter(random(0, (4, 6), FLOAT64)) for _ in range(2))
    ours, theirs = ft.Adafactor([p], lr=0.5), reference([q], lr=0.5)
    target = random(1, (4, 6), FLOAT64)
    losses = []
    for x, optimizer in ((p, ours), (q, theirs)):

        def closure(x: Any = x, optimizer: Any = optimizer) -> Any:
            optimizer.zero_grad()
            loss = ((x - target) ** 2).sum()
            loss.backward()
            return loss

        losses.append([optimizer.step(closure).item() for _ in range(8)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert losses[0][-1] < 0.5 * losses[0][0]
    assert ours.step() is None


def test_without_gradients() -> None:
    ours, theirs = ft.Adafactor(parameters(), clip_norm=1.0), reference(parameters())
    for optimizer in (ours, theirs):
        optimizer.step()
        assert not optimizer.state
    train(ours, 0, 1)
    before = tensors_of(ours)
    give(all_parameters(ours), 1, *range(1, len(SHAPES)))
    ours.step()
    after = tensors_of(ours)
    assert after[0, "step"] == 2
    for key, value in before.items():
        assert torch.equal(after[key], value) == (key[0] != 0)
    ours.zero_grad()
    ours.step()
    assert_equal(tensors_of(ours), after)
    assert ours.grad_norm == 0


def test_groups() -> None:
    """With options of their own; one is added, and begins."""

    def make(cls: Any) -> Any:
        p = parameters(FLOAT64)
        return cls(
            [{"params": p[:4], "lr": 0.5}, {"params": p[4:6], "eps": (0.5, 0.1), "d": 2.0}], weight_decay=0.1
        )

    ours, theirs = make(ft.Adafactor), make(reference)
    for t in range(4):
        if t == 2:
            for optimizer in (ours, theirs):
                optimizer.add_param_group({"params": parameters(FLOAT64)[6:], "lr": 0.2, "maximize": True})
        for optimizer in (ours, theirs):
            train(optimizer, t, t + 1)
        assert_alike(ours, theirs, t)
    assert [float(ours.state[p]["step"]) for p in all_parameters(ours)] == [4.0] * 6 + [2.0] * 3


def test_an_empty_group() -> None:
    """As of a part of a model that has no parameters; torch steps the others."""
    p, q = (torch.nn.Parameter(random(0, (3, 4))) for _ in range(2))
    ours = ft.Adafactor([{"params": []}, {"params": [p]}])
    theirs = reference([{"params": []}, {"params": [q]}])
    for optimizer in (ours, theirs):
        train(optimizer, 0, 2)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (2, 0, 3), (0, 2, 3), (0,)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    """They do nothing to others; torch divides by 0."""
    p, q = (torch.nn.Parameter(random(0, (3, 4))) for _ in range(2))
    empty = torch.nn.Parameter(torch.ones(shape))
    ours, alone = ft.Adafactor([empty, p], clip_norm=1.0), ft.Adafactor([q], clip_norm=1.0)
    for optimizer in (ours, alone):
        for t in range(2):
            for x in all_parameters(optimizer):
                x.grad = random(t, x.shape)
            optimizer.step()
    assert torch.equal(p, q)
    assert all(bool(value.isfinite().all()) for value in ours.state[empty].values())


def test_autograd_notices_the_step() -> None:
    p = torch.nn.Parameter(torch.ones(2, 3))
    optimizer = ft.Adafactor([p], lr=0.1)
    p.grad = torch.ones(2, 3)
    optimizer.step()
    loss = (p * p).sum()
    optimizer.step()
    assert p.is_leaf
    assert all(not value.requires_grad for value in optimizer.state[p].values())
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# Errors.


def two_dtypes() -> list[Any]:
    return [torch.nn.Parameter(random(i, (3, 4), dtype)) for i, dtype in enumerate((FLOAT32, FLOAT64))]


def test_two_dtypes_of_a_group() -> None:
    """Their eps would differ; torch takes that of the first for all."""
    with pytest.raises(TypeError, match="dtype"):
        ft.Adafactor(two_dtypes())
    ours, theirs = (make(two_dtypes(), eps=(1e-4, 1e-3)) for make in (ft.Adafactor, reference))
    for optimizer in (ours, theirs):
        train(optimizer, 0, 3)
    assert_alike(ours, theirs)
    groups = [{"params": [p]} for p in two_dtypes()]
    ours, theirs = (make(copy.deepcopy(groups)) for make in (ft.Adafactor, reference))
    for optimizer in (ours, theirs):
        train(optimizer, 0, 3)
    assert_alike(ours, theirs)
    with pytest.raises(TypeError, match="dtype"):
        ours.add_param_group({"params": two_dtypes()})
    assert len(ours.param_groups) == 2


def test_two_dtypes_whose_eps_becomes_none() -> None:
    """It would be that of any: an error, as it is for a new group."""
    ours = ft.Adafactor(two_dtypes(), eps=(1e-4, 1e-3))
    train(ours, 0, 1)
    before = tensors_of(ours)
    ours.param_groups[0]["eps"] = (None, 1e-3)
    with pytest.raises(TypeError, match="dtype"):
        ours.step()
    assert_equal(tensors_of(ours), before)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("shape", [(3, 4), (4,)], ids=str)
def test_complex_parameters(shape: tuple[int, ...], dtype: Any) -> None:
    """As in torch, there at the first step."""
    p = torch.nn.Parameter(random(0, shape, dtype))
    with pytest.raises(RuntimeError, match="complex"):
        ft.Adafactor([p])
    q = torch.nn.Parameter(random(0, shape))
    ours = ft.Adafactor([q])
    with pytest.raises(RuntimeError, match="complex"):
        ours.add_param_group({"params": [p]})
    assert len(ours.param_groups) == 1
    train(ours, 0, 1)
    assert ours.state[q]["step"] == 1


@pytest.mark.parametrize("shape", [(3, 4), (4,)], ids=str)
def test_sparse_gradients(shape: tuple[int, ...]) -> None:
    p = [torch.nn.Parameter(random(0, (5, 6))), torch.nn.Parameter(random(0, shape))]
    ours = ft.Adafactor(p)
    train(ours, 0, 1)
    before = tensors_of(ours)
    give(p, 1)
    p[1].grad = random(1, shape).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        ours.step()
    assert_equal(tensors_of(ours), before)


@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, MemoryError])
def test_an_error_while_directions_are_made(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has changed, new state was not made, and the next step is as if it had not been."""
    ours, other = (ft.Adafactor(parameters(), lr=0.3, clip_norm=1.0) for _ in range(2))
    arithmetic, calls = native.Plan.arithmetic, 0

    def multiply(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise error
        arithmetic.multiply(*arguments)

    for t in range(3):
        before = tensors_of(ours)
        give(all_parameters(ours), t)
        with monkeypatch.context() as patched:
            patched.setattr(native.Plan, "arithmetic", arithmetic._replace(multiply=multiply))
            with pytest.raises(error):
                ours.step()
        assert calls == 3 * (t + 1)
        assert_equal(tensors_of(ours), before)
        train(ours, t, t + 1)
        train(other, t, t + 1)
        assert_equal(tensors_of(ours), tensors_of(other))


def test_a_nan_stays_in_its_parameter() -> None:
    clean, spoilt = (ft.Adafactor(parameters(), lr=0.3) for _ in range(2))
    for t in range(3):
        for optimizer in (clean, spoilt):
            p = all_parameters(optimizer)
            give(p, t)
            if optimizer is spoilt and t == 1:
                p[4].grad[69, 129] = torch.nan
            optimizer.step()
    found, expected = tensors_of(spoilt), tensors_of(clean)
    for key, value in expected.items():
        assert torch.equal(found[key], value) or key[0] == 4
    assert found[4, "parameter"].isnan().any()
