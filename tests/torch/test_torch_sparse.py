"""Sparse gradients: `SGD` and `Adagrad` give the numbers of torch.optim, and touch nothing else.

Expected numbers are those of torch.optim (foreach=False). They differ by rounding only, where torch adds
equal rows to the parameter one after the other, or rounds in between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeAlias

import pytest

import fusedstep as fs

torch: Any = pytest.importorskip("torch")
ft: Any = pytest.importorskip("fusedstep.torch")

Make: TypeAlias = Callable[..., Any]
Tensor: TypeAlias = Any

OURS = {"SGD": ft.SGD, "Adagrad": ft.Adagrad}
THEIRS = {"SGD": torch.optim.SGD, "Adagrad": torch.optim.Adagrad}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD, maximize": ("SGD", {"lr": 0.3, "maximize": True}),
    "Adagrad": ("Adagrad", {"lr": 0.1}),
    "Adagrad, all options": (
        "Adagrad",
        {"lr": 0.1, "lr_decay": 0.5, "initial_accumulator_value": 0.25, "eps": 1e-3, "maximize": True},
    ),
}
TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 2e-6,
    torch.bfloat16: 4e-2,
    torch.float16: 4e-3,
    torch.complex64: 2e-6,
    torch.complex128: 1e-14,
}


@pytest.fixture(autouse=True)
def _checked() -> Iterator[None]:
    """Have torch check sparse tensors, and compute with one thread."""
    found, threads = torch.get_num_threads(), fs.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    with torch.sparse.check_sparse_tensor_invariants():
        yield
    torch.set_num_threads(found)
    fs.set_num_threads(threads)


def sparse(shape: tuple[int, ...], indices: Any, dtype: Any = torch.float32) -> Tensor:
    """A gradient with random values: of rows if `indices` is one list, of elements or blocks if several."""
    where = torch.as_tensor(indices, dtype=torch.int64)
    if where.ndim == 1:
        where = where[None]
    values = torch.randn((where.shape[1], *shape[where.shape[0] :]), dtype=dtype)
    return torch.sparse_coo_tensor(where, values, shape)


def named_by(grads: list[Tensor]) -> Tensor:
    """Where the gradients have elements."""
    named = torch.zeros(grads[0].shape, dtype=torch.bool)
    for g in grads:
        ones = torch.ones(g._values().shape)
        named |= torch.sparse_coo_tensor(g._indices(), ones, g.shape).to_dense().bool()
    return named


def stepped(
    make: Make, start: Tensor, grads: list[Tensor], layout: Callable[[Tensor], Tensor] = lambda x: x
) -> tuple[Tensor, dict[str, Any]]:
    """The parameter and its state after a step with each gradient."""
    p = torch.nn.Parameter(layout(start.clone()))
    optimizer = make([p])
    for g in grads:
        p.grad = g
        optimizer.step()
    return p.detach(), dict(optimizer.state[p])


def makers(choice: str) -> tuple[Make, Make]:
    name, options = CHOICES[choice]
    return (
        lambda p, **more: OURS[name](p, **options, **more),
        lambda p, **more: THEIRS[name](p, **options, **more, foreach=False),
    )


def close(found: Tensor, expected: Tensor) -> None:
    tolerance = TOLERANCE[expected.dtype]
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


KINDS: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "rows": ((9, 4), [[4, 1, 4, 0, 4], [8], [2, 1], []]),
    "elements of a vector": ((9,), [[4, 1, 4], [8, 0]]),
    "elements of a matrix": ((6, 5), [[[4, 1, 4, 4], [0, 2, 0, 4]], [[5], [4]]]),
    "vectors of a cube": ((5, 3, 2), [[[4, 1, 4, 4], [0, 2, 0, 1]], [[0, 0], [1, 2]]]),
    "elements of a cube": ((5, 3, 2), [[[4, 1, 4], [0, 2, 0], [1, 1, 1]]]),
    "blocks": ((5, 3, 2), [[4, 1, 4], [0]]),
    "one column": ((7, 1), [[6, 0, 6]]),
    "one row": ((1, 7), [[0, 0], [0]]),
    "all": ((3, 2), [torch.zeros((0, 1)), torch.zeros((0, 2))]),
    "a number": ((), [torch.zeros((0, 1)), torch.zeros((0, 2))]),
    "nothing": ((3, 2), [[], torch.zeros((2, 0))]),
}


@pytest.mark.parametrize("coalesced", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("choice", CHOICES)
def test_numbers_of_torch(choice: str, kind: str, coalesced: bool) -> None:
    shape, indices = KINDS[kind]
    ours, theirs = makers(choice)
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        start = torch.randn(shape, dtype=dtype)
        grads = [sparse(shape, i, dtype) for i in indices for _ in range(2)]
        if coalesced:
            grads = [g.coalesce() for g in grads]
        before = [(g._indices().clone(), g._values().clone(), g.is_coalesced()) for g in grads]
        found, state = stepped(partial(ours, state_dtype=dtype), start, grads)
        for g, (i, v, was) in zip(grads, before, strict=True):
            assert torch.equal(g._indices(), i)
            assert torch.equal(g._values(), v)
            assert g.is_coalesced() == was
        expected, their_state = stepped(theirs, start, grads)
        close(found, expected)
        assert state.keys() == their_state.keys()
        for k, s in their_state.items():
            close(state[k], s)
        # what no gradient names keeps its bits
        others = ~named_by(grads)
        assert torch.equal(found[others], start[others])
        if "sum" in state:
            assert (state["sum"][others] == CHOICES[choice][1].get("initial_accumulator_value", 0)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("choice", ["SGD", "Adagrad", "SGD, maximize"])
def test_rows_that_are_named_once(choice: str, dtype: Any) -> None:
    """They end at the bits of this package's dense steps; Adagrad's sums at torch's."""
    ours, theirs = makers(choice)
    start = torch.randn((40, 6), dtype=dtype)
    grads = [sparse((40, 6), torch.randperm(40)[:15], dtype) for _ in range(4)]
    found, state = stepped(ours, start, grads)
    # without decay and momentum, a gradient of 0 moves nothing
    dense, dense_state = stepped(ours, start, [g.to_dense() for g in grads])
    assert torch.equal(found, dense)
    expected, their_state = stepped(theirs, start, grads)
    close(found, expected)
    for k, s in their_state.items():
        assert torch.equal(state[k], s), k
        assert torch.equal(state[k], dense_state[k]), k


def test_bits_of_torch() -> None:
    """With a step size that is a power of 2, SGD rounds only once, as torch does."""
    start = torch.randn(40, 6)
    grads = [sparse((40, 6), torch.randint(0, 40, (60,))).coalesce() for _ in range(4)]
    found, _ = stepped(lambda p: ft.SGD(p, lr=0.25), start, grads)
    expected, _ = stepped(lambda p: torch.optim.SGD(p, lr=0.25, foreach=False), start, grads)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("choice", CHOICES)
def test_equal_rows_are_summed(choice: str) -> None:
    """In float32, in order: the same bits as of a gradient that has the sums."""
    ours, _ = makers(choice)
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
        start = torch.randn((6, 3), dtype=dtype)
        g = sparse((6, 3), [5, 2, 5, 5, 0, 2], dtype)
        sums: dict[int, Tensor] = {}
        for r, v in zip(g._indices()[0].tolist(), g._values().to(arithmetic), strict=True):
            sums[r] = sums[r] + v if r in sums else v
        named = sorted(sums)
        found, state = stepped(partial(ours, state_dtype=dtype), start, [g])
        wide = start[named].to(arithmetic)
        exact, their_state = stepped(ours, wide, [torch.stack([sums[r] for r in named])])
        assert torch.equal(found[named], exact.to(dtype))
        if "sum" in state:
            assert torch.equal(state["sum"][named], their_state["sum"].to(dtype))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize(
    "kind", ["rows", "elements of a vector", "elements of a matrix", "vectors of a cube", "a number"]
)
@pytest.mark.parametrize("choice", CHOICES)
def test_complex(choice: str, kind: str, dtype: Any) -> None:
    """As pairs of real numbers, as torch steps dense gradients."""
    shape, indices = KINDS[kind]
    ours, theirs = makers(choice)
    start = torch.randn(shape, dtype=dtype)
    grads = [sparse(shape, i, dtype) for i in indices]
    found, state = stepped(ours, start, grads)
    # without decay and momentum, a gradient of 0 moves nothing
    expected, their_state = stepped(theirs, start, [g.to_dense() for g in grads])
    close(found, expected)
    for k, s in their_state.items():
        close(state[k], s)
    if choice.startswith("SGD"):
        close(found, stepped(theirs, start, grads)[0])


LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "transposed": ((4, 9), lambda x: x.t()),
    "every second row": ((18, 4), lambda x: x[::2]),
    "every second column": ((9, 8), lambda x: x[:, ::2]),
    "a part": ((11, 7), lambda x: x[1:10, 2:6]),
}


@pytest.mark.parametrize("indices", [[4, 1, 4, 8], [[4, 1, 4], [0, 3, 0]]], ids=["rows", "elements"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("choice", CHOICES)
def test_tables_in_any_layout(choice: str, layout: str, indices: Any) -> None:
    ours, theirs = makers(choice)
    shape, view = LAYOUTS[layout]
    for dtype in (torch.float32, torch.bfloat16, torch.complex64):
        big = torch.randn(shape, dtype=dtype)
        before = big.clone()
        p = torch.nn.Parameter(view(big))
        optimizer = ours([p])
        grads = [sparse((9, 4), indices, dtype) for _ in range(3)]
        for g in grads:
            p.grad = g
            optimizer.step()
        # torch's dense form is that of pairs of real numbers
        given = [g.to_dense() for g in grads] if dtype.is_complex else grads
        expected, _ = stepped(theirs, before, given, view)
        close(p.detach(), expected)
        gaps = torch.ones(shape, dtype=torch.bool)
        view(gaps)[...] = False
        assert torch.equal(big[gaps], before[gaps])
        others = ~named_by(grads)
        assert torch.equal(p.detach()[others], view(before)[others])


@pytest.mark.parametrize("layout", ["transposed", "every second column", "expanded"])
@pytest.mark.parametrize("choice", CHOICES)
def test_values_in_any_layout(choice: str, layout: str) -> None:
    ours, theirs = makers(choice)
    values = {
        "transposed": torch.randn(3, 4).t(),
        "every second column": torch.randn(4, 6)[:, ::2],
        "expanded": torch.randn(3).expand(4, 3),
    }[layout]
    g = torch.sparse_coo_tensor(torch.tensor([[5, 0], [0, 9], [5, 9], [2, 9]]).t()[:1], values, (6, 3))
    start = torch.randn(6, 3)
    close(stepped(ours, start, [g])[0], stepped(theirs, start, [g])[0])


class Model(torch.nn.Module):  # type: ignore[misc]
    """Two embeddings and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(30, 8, sparse=True, padding_idx=0)
        self.bags = torch.nn.EmbeddingBag(20, 8, sparse=True, mode="sum")
        self.layer = torch.nn.Linear(8, 3)

    def forward(self, words: Tensor, bags: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.words(words).sum(1) + self.bags(bags)))


@pytest.mark.parametrize("choice", CHOICES)
def test_embeddings_beside_dense_parameters(choice: str) -> None:
    """A model is trained as by torch; rows that no batch has keep their bits."""
    ours, theirs = makers(choice)
    model = Model().double()
    twin, start = copy.deepcopy(model), copy.deepcopy(model)
    optimizer, other = ours(model.parameters()), theirs(twin.parameters())
    for _ in range(5):
        words, bags = torch.randint(0, 20, (6, 4)), torch.randint(5, 20, (6, 3))
        for m, o in ((model, optimizer), (twin, other)):
            o.zero_grad()
            m(words, bags).square().mean().backward()
            assert m.words.weight.grad.is_sparse
            o.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
    assert torch.equal(model.words.weight[20:], start.words.weight[20:])
    assert torch.equal(model.bags.weight[:5], start.bags.weight[:5])


@pytest.mark.parametrize("choice", CHOICES)
def test_clip_norm(choice: str) -> None:
    """The norm is of the sums of equal rows, and of all dense gradients beside them."""
    ours, theirs = makers(choice)
    starts = [torch.randn(9, 4), torch.randn(5), torch.randn(7), torch.randn(3, 2, dtype=torch.complex64)]
    dense = torch.randn(7)
    given = [
        sparse((9, 4), [4, 1, 4, 0]),
        sparse((5,), [3, 3, 1]),
        dense,
        sparse((3, 2), [2, 2], torch.complex64),
    ]
    full = [g.to_dense() if g.is_sparse else g for g in given]
    norm = sum(float(g.abs().double().square().sum()) for g in full) ** 0.5
    for clip in (0.5, 100.0):
        params = [torch.nn.Parameter(s.clone()) for s in starts]
        twins = [torch.nn.Parameter(s.clone()) for s in starts]
        optimizer, other = ours(params, clip_norm=clip), theirs(twins)
        for p, q, g, f in zip(params, twins, given, full, strict=True):
            p.grad, q.grad = g, f * min(1.0, clip / (norm + 1e-6))
        for _ in range(3):
            optimizer.step()
            other.step()
        assert float(optimizer.grad_norm) == pytest.approx(norm, rel=1e-6)
        for p, q in zip(params, twins, strict=True):
            close(p.detach(), q.detach())


@pytest.mark.parametrize("choice", CHOICES)
def test_sparse_and_dense_gradients_in_turn(choice: str) -> None:
    """A parameter may have either, or none, from step to step; a checkpoint of each goes on in the other."""
    ours, theirs = makers(choice)
    start = torch.randn(9, 4)
    p, q = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    optimizer, other = ours([p]), theirs([q])
    for turn in range(9):
        g: Tensor = sparse((9, 4), [4, 1, 4, 0])
        if turn % 3 == 1:
            g = g.to_dense()
        elif turn % 3 == 2:
            g = None
        p.grad = q.grad = g
        optimizer.step()
        other.step()
        close(p.detach(), q.detach())
        if turn in {3, 6}:
            saved, their_saved = copy.deepcopy((optimizer.state_dict(), other.state_dict()))
            optimizer, other = ours([p]), theirs([q])
            optimizer.load_state_dict(their_saved)
            other.load_state_dict(saved)
    for k, s in other.state[q].items():
        close(optimizer.state[p][k], s)


def test_groups_with_learning_rates_of_their_own() -> None:
    p, q = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(4, 2))
    optimizer = ft.SGD([{"params": [p]}, {"params": [q], "lr": 0.25}], lr=0.5)
    for x in (p, q):
        x.grad = torch.sparse_coo_tensor(torch.tensor([[2, 0, 2]]), torch.ones(3, 2), (4, 2))
    optimizer.step()
    assert p.tolist() == [[0.5] * 2, [1.0] * 2, [0.0] * 2, [1.0] * 2]
    assert q.tolist() == [[0.75] * 2, [1.0] * 2, [0.5] * 2, [1.0] * 2]


@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_state_dtype(state_dtype: Any) -> None:
    p = torch.nn.Parameter(torch.zeros(4, 2, dtype=torch.bfloat16))
    optimizer = ft.Adagrad([p], lr=0.5, state_dtype=state_dtype)
    values = torch.full((3, 2), 1.5, dtype=torch.bfloat16)
    p.grad = torch.sparse_coo_tensor(torch.tensor([[2, 0, 2]]), values, (4, 2))
    optimizer.step()
    s = optimizer.state[p]["sum"]
    assert s.dtype == state_dtype
    assert s.tolist() == [[2.25] * 2, [0.0] * 2, [9.0] * 2, [0.0] * 2]
    assert p.tolist() == [[-0.5] * 2, [0.0] * 2, [-0.5] * 2, [0.0] * 2]


@pytest.mark.parametrize("unscale_in_step", [False, True])
@pytest.mark.parametrize("choice", CHOICES)
def test_gradient_scaler(choice: str, unscale_in_step: bool) -> None:
    """`GradScaler` scales sparse gradients too, and leaves out steps with infinities in them."""
    ours, theirs = makers(choice)
    start, g = torch.randn(6, 3), sparse((6, 3), [5, 1, 5]).coalesce()
    p = torch.nn.Parameter(start.clone())
    optimizer = ours([p], unscale_in_step=unscale_in_step)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for factor in (1.0, float("inf"), 1.0):
        scaler.scale(torch.zeros(()))
        values = g.values() * scaler.get_scale() * factor
        p.grad = torch.sparse_coo_tensor(g.indices(), values, (6, 3))
        scaler.step(optimizer)
        scaler.update()
    close(p.detach(), stepped(theirs, start, [g, g])[0])


REFUSE: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"momentum": 0.5}),
    ("SGD", {"momentum": 0.5, "nesterov": True}),
    ("SGD", {"weight_decay": 0.1}),
    ("Adagrad", {"weight_decay": 0.1}),
    *[
        (name, {})
        for name, kind in sorted(vars(ft).items())
        if isinstance(kind, type) and issubclass(kind, ft.Fused) and name not in {"Fused", "SGD", "Adagrad"}
    ],
]


@pytest.mark.parametrize(("name", "options"), REFUSE, ids=str)
def test_rules_without_a_sparse_form(name: str, options: dict[str, Any]) -> None:
    """An error that names the parameter, before anything is written."""
    dense, p = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(4, 3))
    optimizer = getattr(ft, name)([dense, p], lr=0.1, **options)
    dense.grad, p.grad = torch.ones(4, 3), sparse((4, 3), [2, 0, 2])
    with pytest.raises((RuntimeError, ValueError, TypeError), match="parameter 1"):
        optimizer.step()
    assert (dense == 1).all()
    assert (p == 1).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_errors_change_nothing(choice: str) -> None:
    """A sparse gradient is not applied beside one whose values are those of a parameter."""
    ours, _ = makers(choice)
    p, q = torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.ones(4, 3))
    optimizer = ours([p, q])
    p.grad = sparse((4, 3), [2, 0, 2])
    q.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), q.detach()[:1], (4, 3), is_coalesced=True)
    if q.grad._values().data_ptr() == q.data_ptr():
        with pytest.raises((RuntimeError, ValueError, TypeError), match="parameter 1"):
            optimizer.step()
        assert (p == 1).all()
        assert (q == 1).all()


@pytest.mark.parametrize("choice", CHOICES)
def test_large_tables(choice: str) -> None:
    """Thousands of rows, unevenly named, with any number of threads: the same bits."""
    ours, theirs = makers(choice)
    start = torch.randn(5000, 16)
    grads = [sparse((5000, 16), (torch.rand(6000) ** 4 * 5000).long()) for _ in range(2)]
    found = []
    for n in (1, 2, 5):
        fs.set_num_threads(n)
        found.append(stepped(ours, start, grads)[0])
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[0], stepped(theirs, start, grads)[0], rtol=1e-4, atol=1e-4)


def test_released_gradients() -> None:
    """`release_gradients` steps a sparse embedding as soon as its gradient is there."""
    model = torch.nn.Sequential(torch.nn.Embedding(9, 4, sparse=True), torch.nn.Linear(4, 2)).double()
    twin = copy.deepcopy(model)
    other = torch.optim.SGD(twin.parameters(), lr=0.0625, foreach=False)
    ft.release_gradients(model, ft.SGD(model.parameters(), lr=0.0625))
    ids = torch.tensor([7, 1, 7])
    for _ in range(3):
        model(ids).square().sum().backward()
        other.zero_grad()
        twin(ids).square().sum().backward()
        other.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_closures_and_schedulers() -> None:
    p = torch.nn.Parameter(torch.ones(4, 2))
    optimizer = ft.SGD([p], lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.embedding(torch.tensor([3, 3]), p, sparse=True).sum()
        loss.backward()
        return loss

    losses = []
    for _ in range(2):
        losses.append(optimizer.step(closure).item())
        scheduler.step()
    assert losses == [4.0, -4.0]
    assert p.tolist() == [[1.0] * 2, [1.0] * 2, [1.0] * 2, [-2.0] * 2]
