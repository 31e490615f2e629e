"""Parameters, gradients and state may lie in memory in any way, and only their own elements are written."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.helpers.torch_rules import (
    BFLOAT16,
    COMPLEX,
    COMPLEX128,
    DROP_INS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    Beside,
    Optimizer,
    Tensor,
    all_parameters,
    assert_alike,
    assert_same,
    copy_parameters,
    each_class,
    each_complex,
    each_kind,
    fits,
    in_numpy,
    new,
    parameter,
    random,
    same_bits,
    step,
    tensors_of,
    torch,
    torchs,
)

SHAPES: list[tuple[int, ...]] = [
    (3, 4, 9, 50),
    (70, 67),
    (70, 33),
    (3, 4, 5),
    (2, 3, 4, 5),
    (5, 2),
    (2, 5),
    (6, 1),
    (1, 6),
    (9,),
]
MATRICES: list[tuple[int, ...]] = [(70, 67), (5, 2), (2, 5), (9,)]
BETWEEN = 7.0  # what lies in gaps


def transposed(x: Tensor) -> Tensor:
    x = x.clone()
    if x.dim() == 4:
        return x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    return x.mT.contiguous().mT if x.dim() > 1 else x


def turned(x: Tensor) -> Tensor:
    return x.clone().movedim(0, -1).contiguous().movedim(-1, 0)


def channels_last(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.channels_last) if x.dim() == 4 else x.clone()


def inside(x: Tensor) -> Tensor:
    """A block of a larger array."""
    base = torch.full([n + 2 for n in x.shape], BETWEEN, dtype=x.dtype)
    view = base[tuple(slice(1, n + 1) for n in x.shape)]
    return view.copy_(x)


def every_other(x: Tensor) -> Tensor:
    base = torch.full((*x.shape[:-1], 2 * x.shape[-1]), BETWEEN, dtype=x.dtype)
    return base[..., ::2].copy_(x)


def rows_with_gaps(x: Tensor) -> Tensor:
    base = torch.full((2 * x.shape[0], *x.shape[1:]), BETWEEN, dtype=x.dtype)
    return base[::2].copy_(x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": torch.clone,
    "transposed": transposed,
    "channels_last": channels_last,
    "inside": inside,
    "every_other": every_other,
    "turned": turned,
    "rows_with_gaps": rows_with_gaps,
}


def grid() -> Iterator[tuple[str, str, str]]:
    """Each layout of parameters with each of gradients; two more for the rules of matrices."""
    for name in DROP_INS:
        layouts = list(LAYOUTS) if name in {"Adafactor", "Muon"} else list(LAYOUTS)[:5]
        for layout, gradient in itertools.product(layouts, layouts):
            yield name, layout, gradient


@pytest.mark.parametrize(("name", "layout", "gradient"), list(grid()))
def test_layouts(name: str, layout: str, gradient: str) -> None:
    """As torch's, and as NumPy's of arrays that lie alike."""
    start = [random(*shape, seed=i) for i, shape in enumerate(SHAPES)]
    beside = Beside(name, lambda: [torch.nn.Parameter(LAYOUTS[layout](x)) for x in start])
    plain = new(name, [torch.nn.Parameter(x.clone()) for x in start])
    strides = [p.stride() for p in beside.mine]
    assert strides == [LAYOUTS[layout](x).stride() for x in start]
    memory = [torch.empty(0, dtype=FLOAT64).set_(p.detach().untyped_storage()) for p in beside.mine]
    for t in range(3):
        g = [random(*shape, seed=100 + 20 * t + i) for i, shape in enumerate(SHAPES)]
        for optimizer in (*beside.all(), plain):
            for p, x in zip(all_parameters(optimizer), g, strict=True):
                p.grad = x.clone() if optimizer is plain else LAYOUTS[gradient](x)
            step(optimizer)
        beside.check(t)
        assert all(same_bits(p.grad, x) for p, x in zip(beside.mine, g, strict=True))
    assert [p.stride() for p in beside.mine] == strides
    for p, whole in zip(beside.mine, memory, strict=True):
        assert whole[whole == BETWEEN].numel() == whole.numel() - p.numel()
    for p, q in zip(beside.mine, all_parameters(plain), strict=True):
        for key, value in beside.ours.state[p].items():
            if value.shape != p.shape and value.dim():  # what there is of rows and columns
                assert same_bits(value, plain.state[q][key])


@pytest.mark.parametrize("gradient", ["contiguous", "transposed", "every_other", "rows_with_gaps"])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every_other", "rows_with_gaps"])
@each_kind
def test_layouts_of_each_type(name: str, layout: str, gradient: str) -> None:
    """As NumPy's of arrays that lie alike: sums are in the order of memory, of what has gaps in its own.

    In the precision that most train in, as torch's Adafactor too.
    """
    types = [(FLOAT32, None), *([(BFLOAT16, FLOAT32)] if fits(name, BFLOAT16) else [])]
    if name == "Muon":
        types += [
            (FLOAT64, FLOAT64),
            (FLOAT32, FLOAT32),
            (BFLOAT16, None),
            (FLOAT16, None),
            (FLOAT16, FLOAT32),
        ]
    for dtype, state_dtype in types:

        def parameters(dtype: torch.dtype = dtype) -> list[Tensor]:
            start = [random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(MATRICES)]
            return [torch.nn.Parameter(LAYOUTS[layout](x)) for x in start]

        ours = new(name, parameters(), state_dtype=state_dtype)
        others: list[Optimizer] = [in_numpy(name, parameters(), state_dtype=state_dtype)]
        if name == "Adafactor" and dtype == FLOAT32:
            others.append(torchs(name, parameters()))
        for t in range(3):
            for optimizer in (ours, *others):
                for i, p in enumerate(all_parameters(optimizer)):
                    p.grad = LAYOUTS[gradient](random(*p.shape, seed=100 + 20 * t + i, dtype=dtype))
                step(optimizer)
            for theirs in others:
                assert_alike(ours, theirs, (dtype, state_dtype, t))


@pytest.mark.parametrize("layout", ["transposed", "turned", "channels_last", "every_other"])
@pytest.mark.parametrize("loaded", [True, False])
@each_class
def test_state_of_another_layout(name: str, loaded: bool, layout: str) -> None:
    """What is loaded is brought into the parameter's; what a user sets there is used as it is."""
    shapes = [(3, 4, 9, 50), (6, 11), (2, 3, 4)]
    beside = Beside(name, lambda: [parameter(*shape, seed=i) for i, shape in enumerate(shapes)])
    beside.steps(0, 3)

    def laid_out(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: LAYOUTS[layout](v) if v.dim() > 1 else v for k, v in state.items()}

    if loaded:
        saved = copy.deepcopy(beside.ours.state_dict())
        saved["state"] = {i: laid_out(state) for i, state in saved["state"].items()}
        other = new(name, [parameter(*shape, seed=9) for shape in shapes])
        copy_parameters(beside.ours, other)
        other.load_state_dict(saved)
        beside.ours = other
        for p in beside.mine:
            for value in other.state[p].values():
                assert value.shape != p.shape or value.stride() == p.stride()
    else:
        for p in beside.mine:
            beside.ours.state[p].update(laid_out(beside.ours.state[p]))
    beside.steps(3, 6)


# --- Gradients that are views ---


def beside_views(
    name: str, shape: tuple[int, ...], gradient: Callable[[int], Tensor], *, dtype: torch.dtype = FLOAT64
) -> None:
    """Three steps whose gradients only the others have a copy of."""
    beside = Beside(name, lambda: [parameter(*shape, dtype=dtype)])
    for t in range(3):
        for optimizer in beside.all():
            (p,) = all_parameters(optimizer)
            g = gradient(t)
            p.grad = g if optimizer is beside.ours else g.resolve_conj().resolve_neg().clone()
            step(optimizer)
        beside.check(t)


@each_class
def test_expanded_gradient(name: str) -> None:
    shapes = [(1, 50), (30, 1), (1, 1)]
    beside_views(name, (30, 50), lambda t: random(*shapes[t], seed=t).expand(30, 50))


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4)])
@each_class
def test_negated_gradient(name: str, shape: tuple[int, ...]) -> None:
    def gradient(t: int) -> Tensor:
        found = random(*shape, seed=t, dtype=torch.complex64).conj().imag
        assert found.is_neg()
        return found

    beside_views(name, shape, gradient, dtype=FLOAT32)


@each_complex
def test_conjugated_gradient(name: str) -> None:
    def gradient(t: int) -> Tensor:
        found = random(5, seed=t, dtype=COMPLEX128).conj()
        assert found.is_conj()
        return found

    beside_views(name, (5,), gradient, dtype=COMPLEX128)


@pytest.mark.parametrize("shift", [0, 1, 3])
@each_class
def test_gradient_in_the_parameters_memory(name: str, shift: int) -> None:
    n = 5000
    memory: list[Tensor] = []

    def parameters() -> list[Tensor]:
        memory.append(random(n + shift, seed=1))
        return [torch.nn.Parameter(memory[-1][:n])]

    beside = Beside(name, parameters)
    for t in range(3):
        for optimizer, base in zip(beside.all(), memory, strict=True):
            (p,) = all_parameters(optimizer)
            p.grad = base[shift:] if optimizer is beside.ours else base[shift:].clone()
            step(optimizer)
        beside.check(t)


# --- Complex numbers ---


@pytest.mark.parametrize("kind", ["plain", "conjugate", "gaps"])
@pytest.mark.parametrize("dtype", [torch.complex64, COMPLEX128], ids=str)
@each_complex
def test_complex_parameters(name: str, dtype: torch.dtype, kind: str) -> None:
    """They are pairs of real numbers, and counted as two."""
    ours = iter([True])  # the first; torch's own cannot step what is seen conjugated

    def parameters() -> list[Tensor]:
        shapes: list[tuple[int, ...]] = [(33, 65), (4,), (3, 4), (5000,), *([()] if kind != "gaps" else [])]
        values = [random(*shape, seed=i, dtype=dtype) for i, shape in enumerate(shapes)]
        if kind == "conjugate" and next(ours, False):
            values = [x.conj_physical().conj() for x in values]
        return [torch.nn.Parameter(every_other(x) if kind == "gaps" else x) for x in values]

    Beside(name, parameters, dtype=dtype).steps(0, 6)


# --- Parts of memory ---


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4), (0, 0), (2, 0, 3), (0, 2, 3), ()])
@each_class
def test_empty_or_single(name: str, shape: tuple[int, ...]) -> None:
    """It does nothing to others."""
    dtypes = [FLOAT64, COMPLEX128] if name in COMPLEX else [FLOAT64]
    for dtype in dtypes:
        ours, alone = (
            new(name, [parameter(*s, dtype=dtype) for s in shapes], clip_norm=1.0)
            for shapes in ([(3, 4), shape], [(3, 4)])
        )
        for t in range(3):
            for optimizer in (ours, alone):
                for p in all_parameters(optimizer):
                    p.grad = random(*p.shape, seed=t, dtype=dtype)
                if shape == ():
                    all_parameters(ours)[1].grad.zero_()
                step(optimizer)
        found = {key: value for key, value in tensors_of(ours).items() if key[0] == 0}
        if name != "Prodigy":  # whose sums are over all
            assert_same(found, tensors_of(alone))
        assert all(bool(value.isfinite().all()) for value in tensors_of(ours).values())


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
@each_class
def test_empty_or_single_beside_others(name: str, shape: tuple[int, ...]) -> None:
    if name == "Adafactor" and shape == (3, 0):
        return  # torch divides by 0
    Beside(name, lambda: [parameter(*shape)]).steps(0, 3)


def halves(kind: str) -> tuple[Tensor, Tensor]:
    base = random(6, 8, seed=1)
    return {
        "rows": (base[:3], base[3:]),
        "columns": (base[:, :3], base[:, 3:]),
        "alternating": (base.view(-1)[::2], base.view(-1)[1::2]),
    }[kind]


@pytest.mark.parametrize("kind", ["rows", "columns", "alternating"])
@each_class
def test_disjoint_views_of_one_memory(name: str, kind: str) -> None:
    Beside(name, lambda: [torch.nn.Parameter(view) for view in halves(kind)]).steps(0, 3)
