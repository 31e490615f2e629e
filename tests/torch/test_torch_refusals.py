"""What cannot be stepped is refused before anything is written, and errors name the parameter."""

from __future__ import annotations

from typing import Any

import pytest

from tests.helpers.torch_rules import (
    BFLOAT16,
    CLASSES,
    COMPLEX,
    COMPLEX64,
    COMPLEX128,
    DROP_INS,
    FLOAT64,
    OWN,
    Beside,
    Optimizer,
    Options,
    Tensor,
    Unchanged,
    all_parameters,
    assert_same,
    each_class,
    each_drop_in,
    each_kind,
    ft,
    give,
    new,
    parameter,
    random,
    several,
    step,
    tensors_of,
    torch,
    train,
)

SPARSE = ["SGD", "Adagrad"]  # which have a step of rows, without momentum and decay


def refused(optimizer: Optimizer, error: Any, match: str) -> None:
    with Unchanged(optimizer), pytest.raises(error, match=match):
        step(optimizer)


# --- What no step can take ---


@each_drop_in
def test_differentiable_is_refused(name: str) -> None:
    p = parameter(3, 4)
    p.grad = torch.ones_like(p)
    with pytest.raises((RuntimeError, ValueError, NotImplementedError, TypeError), match="differentiable"):
        new(name, [p], differentiable=True).step()
    assert torch.equal(p.detach(), random(3, 4, seed=0))


@each_class
def test_differentiable_is_refused_when_it_comes_later(name: str) -> None:
    optimizer = new(name, several())
    give(all_parameters(optimizer), 0)
    optimizer.param_groups[0]["differentiable"] = True
    refused(optimizer, ValueError, "differentiable")


@each_class
def test_other_device_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError), match="meta"):
        train(new(name, [good, bad]), 0, 1)
    assert torch.equal(good.detach(), random(3, seed=0))


@pytest.mark.parametrize("dtype", [COMPLEX64, COMPLEX128], ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (7,)], ids=str)
@pytest.mark.parametrize("name", [name for name in DROP_INS if name not in COMPLEX])
def test_complex_parameters_are_refused(name: str, shape: tuple[int, ...], dtype: Any) -> None:
    """When the optimizer is made, and when a group is added; as in torch, there at the first step."""
    p, q = parameter(*shape, dtype=dtype), parameter(2, 2)
    for groups in ([p], [{"params": [q]}, {"params": [p]}]):
        with pytest.raises(RuntimeError, match="complex parameters"):
            new(name, groups)
    if name == "Muon":
        with pytest.raises(RuntimeError, match="complex parameters"):
            new(name, [{"params": [q]}, {"params": [p], "matrices": False}])
    optimizer = new(name, [q])
    with pytest.raises(RuntimeError, match="complex parameters"):
        optimizer.add_param_group({"params": [p]})
    assert [group["params"] for group in optimizer.param_groups] == [[q]]
    train(optimizer, 0, 1)
    assert optimizer.state[q]["step"] == 1


@pytest.mark.xfail(reason="a matrix of complex numbers is refused only in NumPy's words, after a warning")
@pytest.mark.parametrize("dtype", [COMPLEX64, COMPLEX128], ids=str)
def test_complex_matrices_have_a_step_or_are_refused(dtype: Any) -> None:
    """By RowwiseAdagrad."""
    with pytest.raises((RuntimeError, TypeError), match="complex"):
        train(new("RowwiseAdagrad", [parameter(3, 5, dtype=dtype)]), 0, 1)


@pytest.mark.parametrize("shape", [(3,), (5, 3)])
@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Adagrad"])
def test_sparse_gradient_is_refused(name: str, shape: tuple[int, ...]) -> None:
    """At the first step, and at a later one."""
    for steps in (0, 2):
        parameters = [parameter(3), parameter(*shape, seed=1)]
        optimizer = new(name, parameters)
        train(optimizer, 0, steps)
        give(parameters, 2)
        parameters[1].grad = torch.ones(shape, dtype=FLOAT64).to_sparse(1)
        refused(
            optimizer, (RuntimeError, ValueError), "parameter 1 of group 0 has a gradient of layout.*sparse"
        )


def test_sparse_gradient_with_decay_is_refused() -> None:
    parameters = [parameter(3), parameter(3, seed=1)]
    optimizer = ft.Adagrad(parameters, weight_decay=0.1)
    train(optimizer, 0, 2)
    give(parameters, 2)
    parameters[1].grad = torch.ones(3, dtype=FLOAT64).to_sparse()
    refused(optimizer, RuntimeError, "sparse")


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": torch.tensor(0.1)}], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_gradient_is_handled(name: str, options: Options) -> None:
    """By rules that have a step of rows, where no option makes all rows move."""
    plain = {"momentum": 0.0} if name == "SGD" else {"lr_decay": 0.0}
    beside = Beside(name, lambda: [parameter(6, 4)], tensor_lr=True, **options, **plain, weight_decay=0.0)
    beside.others = beside.others[:1]  # torch's
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        for t in range(4):
            rows = torch.tensor([[1, t, 1]])
            for optimizer in beside.all():
                all_parameters(optimizer)[0].grad = torch.sparse_coo_tensor(
                    rows, random(3, 4, seed=t), (6, 4)
                )
                optimizer.step()
            beside.check(t)


# --- Memory that is shared ---


@pytest.mark.parametrize("kind", ["same", "overlapping", "interleaved"])
@each_class
def test_parameters_in_one_memory_are_refused(name: str, kind: str) -> None:
    base = random(20, seed=1)
    first, second = {
        "same": (base, base.view(4, 5)),
        "overlapping": (base[:11], base[10:]),
        "interleaved": (base[::2], base[::5]),
    }[kind]
    named = [("alpha.weight", torch.nn.Parameter(first)), ("beta.weight", torch.nn.Parameter(second))]
    optimizer = new(name, named)
    give(all_parameters(optimizer), 0)
    label = r"parameter '(alpha|beta)\.weight'"
    refused(optimizer, ValueError, rf"{label}.*shares? memory|share.*{label}")


@each_class
def test_shared_memory_names_an_unnamed_parameter(name: str) -> None:
    base = random(20, seed=1)
    optimizer = new(name, [parameter(3), torch.nn.Parameter(base), torch.nn.Parameter(base)])
    give(all_parameters(optimizer), 0)
    refused(optimizer, ValueError, r"(?i)param\w*\D*[12]")


@each_class
def test_memory_that_becomes_shared_is_refused(name: str) -> None:
    optimizer = new(name, [("one", parameter(5, 3)), ("other", parameter(3, 5))])
    p, q = all_parameters(optimizer)
    give([p, q], 0)
    q.data = p.data.view(3, 5)
    refused(optimizer, ValueError, r"parameter '(one|other)'.* and parameter '(one|other)'.* share memory")


@each_class
def test_parameter_with_repeated_elements_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(random(1, seed=1).expand(5))
    optimizer = new(name, [good, bad])
    give(all_parameters(optimizer), 0)
    with pytest.raises((RuntimeError, ValueError)):
        step(optimizer)
    assert torch.equal(good.detach(), random(3, seed=0))
    assert torch.equal(bad.detach(), random(1, seed=1).expand(5))


def sparse() -> Tensor:
    return torch.sparse_coo_tensor([[1, 2]], torch.ones(2, 2), (4, 2), check_invariants=False)


def test_tied_parameters_are_noticed_through_copies_of_their_rows() -> None:
    w = torch.ones(4, 2)
    a, b = torch.nn.Parameter(w), torch.nn.Parameter(w)
    a.grad, b.grad = sparse(), torch.ones(4, 2)
    with pytest.raises(ValueError, match="share"):
        ft.SGD([a, b], lr=1.0).step()
    assert torch.equal(w, torch.ones(4, 2))


@pytest.mark.parametrize("name", COMPLEX)
def test_tied_parameters_are_noticed_through_conjugates(name: str) -> None:
    w = torch.ones(4, dtype=COMPLEX64)
    a, b = torch.nn.Parameter(w.conj()), torch.nn.Parameter(w)
    a.grad = b.grad = torch.ones_like(w)
    with pytest.raises(ValueError, match="share"):
        step(new(name, [a, b], lr=1.0))
    assert torch.equal(w, torch.ones(4, dtype=COMPLEX64))


@each_class
def test_shared_state_is_noticed_though_it_is_copied(name: str) -> None:
    optimizer = new(name, [parameter(3), parameter(3, seed=1)])
    train(optimizer, 0, 1)
    a, b = (optimizer.state[p] for p in all_parameters(optimizer))
    shared = [key for key, value in a.items() if value.shape == (3,)]
    for key in shared:
        a[key] = b[key] = torch.ones(6, dtype=FLOAT64)[::2]
    give(all_parameters(optimizer), 1)
    if shared:
        refused(optimizer, ValueError, "share")


def test_a_gradient_in_another_parameter_beside_one_that_is_copied() -> None:
    a, b = torch.nn.Parameter(torch.ones(4, 4)[:, ::2]), torch.nn.Parameter(torch.ones(3))
    a.grad, b.grad = torch.ones(4, 2), b.detach()
    ft.SGD([a, b], lr=0.5).step()
    assert torch.equal(b, torch.full((3,), 0.5))
    assert torch.equal(a, torch.full((4, 2), 0.5))


# --- State that others have spoilt ---


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "SGD"])
def test_a_count_that_is_no_tensor_is_an_error_before_anything_is_written(name: str) -> None:
    optimizer = new(name, several())
    train(optimizer, 0, 1)
    give(all_parameters(optimizer), 1)
    optimizer.state[all_parameters(optimizer)[3]]["step"] = 1.0
    refused(optimizer, TypeError, "tensors of one element")


@pytest.mark.parametrize("wrong", [(4, 1), (2, 1), (3, 4), (1, 3), (1, 1), (5,), (2,)], ids=str)
@each_class
def test_state_of_a_wrong_shape(name: str, wrong: tuple[int, ...]) -> None:
    """An error before anything is written; of Adafactor torch has one for most."""
    optimizer = new(name, [parameter(9), parameter(3, 4, seed=1)])
    train(optimizer, 0, 1)
    p = all_parameters(optimizer)[1]
    give(all_parameters(optimizer), 1)
    for key, value in dict(optimizer.state[p]).items():
        if value.dim() and value.shape != wrong:
            optimizer.state[p][key] = torch.ones(wrong, dtype=FLOAT64)
            refused(optimizer, (ValueError, RuntimeError), ".")
            optimizer.state[p][key] = value
    step(optimizer)


# --- Numbers that are not finite ---


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 1e38])
@each_kind
def test_what_is_not_finite_stays_in_its_parameter(name: str, bad: float) -> None:
    """And is nothing to warn of."""
    clean, spoilt = (new(name, several(torch.float32)) for _ in range(2))
    for t in range(3):
        for optimizer in (clean, spoilt):
            p = all_parameters(optimizer)
            give(p, t)
            if optimizer is spoilt and t == 1:
                p[4].grad[2, 3] = bad
            step(optimizer)
    if name == "Prodigy":  # whose sums are over all
        return
    found, expected = tensors_of(spoilt), tensors_of(clean)
    assert_same(*({k: v for k, v in tensors.items() if k[0] != 4} for tensors in (found, expected)))
    if bad != bad:  # noqa: PLR0124
        assert found[4, "parameter"].isnan().any() or name in {"SignSGD", "Signum", "Lion"}
    if name == "Muon":
        assert bool(found[4, "parameter"].isnan().all()) == (bad != 1e38)
    assert not torch.equal(found[4, "parameter"], expected[4, "parameter"]) or name == "Rprop"  # a sign


@pytest.mark.parametrize("name", [name for name in OWN if ft.own[name].rule.needs_loss])
@pytest.mark.parametrize("first", [0, 1])
def test_a_scalar_that_is_nan_stays_with_its_parameter(name: str, first: int) -> None:
    p = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = new(name, p, lr=0.1)
    for loss, stepping in ((float("nan"), p[first : first + 1]), (2.0, p[1 - first :][:1]), (1.5, p)):
        for q in p:
            q.grad = torch.ones(3) if any(q is other for other in stepping) else None
        optimizer.step(lambda loss=loss: loss)
    assert p[first].isnan().all()
    assert p[1 - first].isfinite().all()


@pytest.mark.parametrize("name", [name for name in OWN if ft.own[name].rule.needs_loss])
def test_a_rule_of_the_loss_needs_it(name: str) -> None:
    optimizer = new(name, several())
    give(all_parameters(optimizer), 0)
    with Unchanged(optimizer), pytest.raises(ValueError, match="loss"):
        optimizer.step()
    assert not optimizer.state


DIRECTIONS = [name for name in CLASSES if hasattr(getattr(ft, name).rule, "update_matrix")]
room_is_lost = pytest.mark.xfail(
    reason="room for directions that is made in inference mode cannot be used after it"
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[room_is_lost] if name in DIRECTIONS else []) for name in CLASSES]
)
def test_steps_in_inference_mode(name: str) -> None:
    inside, outside = (new(name, several()) for _ in range(2))
    with torch.inference_mode():
        train(inside, 0, 1)
    train(inside, 1, 2)
    train(outside, 0, 2)
    assert_same(tensors_of(inside), tensors_of(outside))


# --- Errors while directions of matrices are made ---


@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("failing", ["square_sums", "multiply", "none"])
@pytest.mark.parametrize("name", DIRECTIONS)
def test_errors_in_the_direction_leave_everything(
    name: str,
    failing: str,
    begun: bool,
    after: int,
    error: type[BaseException],
    dtype: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an operation of the backend or after them all, however many directions were made before.

    The next step is as if it had not been.
    """
    shapes: list[tuple[int, ...]] = [(70, 67), (6, 11), (9,), (11, 6), (4103,), (3, 5)]
    ours, other = (new(name, several(dtype, shapes), clip_norm=1.0) for _ in range(2))
    if begun:
        for optimizer in (ours, other):
            train(optimizer, 0, 1)
    norm = ours.grad_norm
    kernel = ours.rule.update_matrix
    turn: Any = kernel.turn
    calls: list[Any] = []

    def fail(*_: Any) -> None:
        raise error

    def broken(arithmetic: Any, *given: Any, **slots: Any) -> Any:
        calls.append(given)
        if len(calls) <= after:
            return turn(arithmetic, *given, **slots)
        turn(arithmetic._replace(**{failing: fail} if failing != "none" else {}), *given, **slots)
        raise error

    give(all_parameters(ours), 1)
    with monkeypatch.context() as patch:
        patch.setitem(vars(kernel), "turn", broken)
        with Unchanged(ours), pytest.raises(error):
            step(ours)
    assert len(calls) == after + 1
    assert ours.grad_norm == norm
    for optimizer in (ours, other):
        train(optimizer, 2, 3)
    assert_same(tensors_of(ours), tensors_of(other))
