"""Steps of rows against torch's optimizers of sparse gradients, at every step, tables and state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.engines import BACKENDS

Array = np.ndarray[Any, Any]
Options = dict[str, Any]

STEPS = 50
SHAPES = {"users": (30, 8), "items": (12, 5), "bias": (20,)}
TOLERANCE = {"float32": (1e-5, 1e-6), "float64": (1e-12, 1e-13)}
# A rule and its options here; in torch; what torch calls the state.
CASES: dict[str, tuple[str, Options, str, Options, Mapping[str, str]]] = {
    "SGD": ("SGD", {"lr": 0.1}, "SGD", {"lr": 0.1}, {}),
    "SGD, maximize": ("SGD", {"lr": 0.1, "maximize": True}, "SGD", {"lr": 0.1, "maximize": True}, {}),
    "Adagrad": ("Adagrad", {"lr": 0.1, "eps": 1e-10}, "Adagrad", {"lr": 0.1, "eps": 1e-10}, {"s": "sum"}),
    "Adagrad, lr_decay": (
        "Adagrad",
        {"lr": 0.1, "eps": 0.01, "lr_decay": 0.1, "initial_accumulator": 0.5},
        "Adagrad",
        {"lr": 0.1, "eps": 0.01, "lr_decay": 0.1, "initial_accumulator_value": 0.5},
        {"s": "sum"},
    ),
    "Adam": (
        "Adam",
        {"lr": 0.02, "eps_hat": True},
        "SparseAdam",
        {"lr": 0.02},
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
    "Adam, betas": (
        "Adam",
        {"lr": 0.02, "beta1": 0.8, "beta2": 0.95, "eps": 0.01, "eps_hat": True, "maximize": True},
        "SparseAdam",
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 0.01, "maximize": True},
        {"m": "exp_avg", "v": "exp_avg_sq"},
    ),
}


@pytest.fixture(autouse=True)
def _checked(torch: Any) -> Iterator[None]:
    """torch warns unless it is told whether to check sparse tensors."""
    with torch.sparse.check_sparse_tensor_invariants():
        yield


each_backend = pytest.mark.parametrize("backend", BACKENDS)


def close(found: Array, expected: Any, what: str) -> None:
    rtol, atol = TOLERANCE[found.dtype.name]
    np.testing.assert_allclose(found, expected.numpy(), rtol, atol, err_msg=what)


@each_backend
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", CASES)
def test_sparse_gradients(torch: Any, case: str, dtype: str, backend: Any) -> None:
    """Several tables, of which not all move at each step; rows that appear again and again."""
    rule, options, torch_rule, torch_options, slots = CASES[case]
    rng = np.random.default_rng(3)
    p = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    q = {name: torch.tensor(table) for name, table in p.items()}
    ours: Any = fs.rules[rule](p, backend=backend, **options)
    theirs = getattr(torch.optim, torch_rule)(list(q.values()), **torch_options)
    for t in range(STEPS):
        for name, table in p.items():
            q[name].grad = None
            if rng.random() < 0.3:
                continue
            rows = rng.integers(0, len(table), rng.integers(1, len(table)))
            grads = rng.standard_normal((len(rows), *table.shape[1:])).astype(dtype)
            ours.step_rows(name, rows, grads)
            q[name].grad = torch.sparse_coo_tensor(rows[None], torch.tensor(grads), table.shape)
        theirs.step()
        for name, table in p.items():
            close(table, q[name], f"{name} at step {t}")
            for slot, key in slots.items():
                if key in theirs.state[q[name]]:
                    found = theirs.state[q[name]][key]
                    close(ours.state[name][slot], found, f"{slot} of {name} at step {t}")


@each_backend
def test_an_embedding(torch: Any, backend: Any) -> None:
    """torch's own layer makes the gradients, of which ours reads the rows and values."""
    torch.manual_seed(0)
    layer = torch.nn.Embedding(20, 6, sparse=True)
    table = layer.weight.detach().clone().numpy()
    target = torch.randn(20, 6)
    ours: Any = fs.Adam({"table": table}, lr=0.05, eps_hat=True, backend=backend)
    theirs = torch.optim.SparseAdam(layer.parameters(), lr=0.05)
    for _ in range(STEPS):
        batch = torch.randint(20, (16,))
        theirs.zero_grad()
        (layer(batch) - target[batch]).square().sum().backward()
        gradient = layer.weight.grad
        ours.step_rows("table", gradient._indices()[0].numpy(), gradient._values().numpy())
        theirs.step()
        close(table, layer.weight.detach(), "table")
