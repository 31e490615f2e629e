"""What cannot be stepped is refused before anything is written, and errors name the parameter."""

from __future__ import annotations

import pytest



@each_class
def test_differentiable_is_refused(name: str) -> None:
    p = parameter(3)
    p.grad = torch.ones_like(p)
    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match="differentiable"):
        new(name, [p], differentiable=True).step()
    assert torch.equal(p.detach(), random(3, seed=0))


def refused(optimizer: Optimizer, error: Any, match: str) -> None:
    with Unchanged(optimizer), pytest.raises(error, match=match):
        optimizer.step()


def build_and_step(name: str, parameters: list[Tensor]) -> None:
    optimizer = new(name, parameters)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()


@each_class
def test_other_device_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(torch.ones(3, device="meta"))
    with pytest.raises((RuntimeError, ValueError, TypeError, NotImplementedError), match="meta"):
        build_and_step(name, [good, bad])
    assert torch.equal(good.detach(), random(3, seed=0))


@pytest.mark.parametrize("name", [name for name in RULES if name != "Adagrad"])
def test_sparse_gradient_is_refused(name: str) -> None:
    parameters = [parameter(3), parameter(3, seed=1)]
    optimizer = new(name, parameters)
    train(optimizer, 0, 2)
    give(parameters, 2)
    parameters[1].grad = torch.ones(3, dtype=FLOAT64).to_sparse()
    refused(optimizer, (RuntimeError, ValueError), "sparse")


def test_sparse_gradient_with_decay_is_refused() -> None:
    parameters = [parameter(3), parameter(3, seed=1)]
    optimizer = ft.Adagrad(parameters, weight_decay=0.1)
    train(optimizer, 0, 2)
    give(parameters, 2)
    parameters[1].grad = torch.ones(3, dtype=FLOAT64).to_sparse()
    refused(optimizer, RuntimeError, "sparse")


@pytest.mark.parametrize("options", [{"lr": 0.1}, {"lr": torch.tensor(0.1)}], ids=["float", "tensor"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad"])
def test_sparse_gradient_is_handled(name: str, options: Options) -> None:
    p, q = parameter(6, 4), parameter(6, 4)
    ours = getattr(ft, name)([p], **options)
    theirs = getattr(torch.optim, name)([q], **copy.deepcopy(options), foreach=False)
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        for t in range(4):
            rows = torch.tensor([[1, t, 1]])
            p.grad = torch.sparse_coo_tensor(rows, random(3, 4, seed=t), (6, 4))
            q.grad = p.grad.clone()
            ours.step()
            theirs.step()
            assert_alike(ours, theirs, t, tensor_lr=True)


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
    with Unchanged(optimizer), pytest.raises(ValueError, match=r"alpha\.weight|beta\.weight"):
        optimizer.step()


@each_class
def test_shared_memory_names_an_unnamed_parameter(name: str) -> None:
    base = random(20, seed=1)
    optimizer = new(name, [parameter(3), torch.nn.Parameter(base), torch.nn.Parameter(base)])
    give(all_parameters(optimizer), 0)
    refused(optimizer, ValueError, r"(?i)param\w*\D*[12]")


@each_class
def test_parameter_with_repeated_elements_is_refused(name: str) -> None:
    good = parameter(3)
    bad = torch.nn.Parameter(random(1, seed=1).expand(5))
    optimizer = new(name, [good, bad])
    give(all_parameters(optimizer), 0)
    with pytest.raises((RuntimeError, ValueError)):
        optimizer.step()
    assert torch.equal(good.detach(), random(3, seed=0))
    assert torch.equal(bad.detach(), random(1, seed=1).expand(5))


@each_class
def test_failing_closure_writes_nothing(name: str) -> None:
    optimizer = new(name, several())
    train(optimizer, 0, 2)

    def closure() -> float:
        give(all_parameters(optimizer), 2)
        raise KeyError("of the closure")

    with Unchanged(optimizer), pytest.raises(KeyError, match="of the closure"):
        optimizer.step(closure)

