"""What points are by their extreme eigenvalues, against Hessians that are known or computed another way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import curvature
from tests.helpers.internals import critical

pytest.importorskip("scipy")

Array = np.ndarray[Any, Any]
Made = tuple[Callable[[], Any], Any]

DTYPES = [np.float32, np.float64]
X = np.array([-1.5, 0.5, 1.0, 2.0])
C = float(np.mean(X * X))


def two_weights(w: Array, l2: float = 0.0) -> tuple[Callable[[], float], Callable[[], Array]]:
    """``mean((w1·w2·x - y)²)/2 + l2·|w|²/2`` of the data y = x, and its gradient."""

    def loss() -> float:
        return float(np.mean((w[0] * w[1] * X - X) ** 2) / 2 + l2 * (w @ w) / 2)

    def gradient() -> Array:
        slope = np.mean((w[0] * w[1] * X - X) * X)
        return np.asarray(slope * w[::-1] + l2 * w, w.dtype)

    return loss, gradient


def quadratic(matrix: Array, dtype: Any = np.float64) -> Made:
    """A gradient ``A·x``, and x at 0."""
    x = np.zeros(len(matrix), dtype)

    def gradient() -> Array:
        return np.asarray(matrix @ x, dtype)

    return gradient, x


def diagonal(values: Any, dtype: Any = np.float64) -> Made:
    """The same of a diagonal matrix."""
    x, values = np.zeros(len(values), dtype), np.asarray(values, dtype)
    return lambda: values * x, x


def up_to_sign(direction: Any, expected: Array) -> float:
    """How far two unit vectors are apart."""
    return min(float(np.linalg.norm(direction - sign * expected)) for sign in (1, -1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_weights_at_the_origin(dtype: Any) -> None:
    w = np.zeros(2, dtype)
    point = curvature.examine(two_weights(w)[1], w)
    assert (point.kind, point.degenerate, point.gradient_norm) == ("saddle", False, 0.0)
    assert [point.lowest, point.highest] == pytest.approx([-C, C], rel=1e-4)
    assert up_to_sign(point.escape, np.array([1, 1]) / np.sqrt(2)) < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_weights_in_the_valley(dtype: Any) -> None:
    """All of ``w1·w2 = 1`` are minima: along it there is no curvature."""
    w = np.ones(2, dtype)
    point = curvature.examine(two_weights(w)[1], w)
    assert (point.kind, point.degenerate, point.escape) == ("minimum", True, None)
    assert [point.lowest, point.highest] == pytest.approx([0, 2 * C], abs=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_weights_with_l2(dtype: Any) -> None:
    """Worked by hand: the minimum ``w1² = w2² = 1 - l2/C`` has the eigenvalues 2·l2 and 2·(C - l2)."""
    l2 = 0.25
    w = np.full(2, np.sqrt(1 - l2 / C)).astype(dtype)
    point = curvature.examine(two_weights(w, l2)[1], w)
    assert (point.kind, point.degenerate, point.escape) == ("minimum", False, None)
    assert [point.lowest, point.highest] == pytest.approx([2 * l2, 2 * (C - l2)], rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 500])  # the whole matrix, and the iteration
def test_definite_quadratics(n: int, dtype: Any) -> None:
    values = np.linspace(2, 3, n)
    low = curvature.examine(*diagonal(values, dtype))
    assert (low.kind, low.degenerate, low.escape) == ("minimum", False, None)
    assert [low.lowest, low.highest] == pytest.approx([2, values[-1]], rel=2e-3)
    high = curvature.examine(*diagonal(-values, dtype))
    assert (high.kind, high.degenerate) == ("maximum", False)
    assert [high.lowest, high.highest] == pytest.approx([-values[-1], -2], rel=2e-3)
    assert np.linalg.norm(high.escape) == pytest.approx(1)


@pytest.mark.parametrize("n", [3, 500])
@pytest.mark.parametrize("sign", [1, -1])
def test_semidefinite_quadratics(n: int, sign: int) -> None:
    point = curvature.examine(*diagonal(sign * np.arange(n)))
    assert (point.kind, point.degenerate) == ("minimum" if sign > 0 else "maximum", True)
    assert (point.escape is None) == (sign > 0)


@pytest.mark.parametrize("n", [1, 500])
def test_no_curvature_at_all(n: int) -> None:
    point = curvature.examine(*diagonal(np.zeros(n)))
    assert (point.kind, point.degenerate, point.lowest, point.highest) == ("flat", True, 0.0, 0.0)
    assert point.escape is None


@pytest.mark.parametrize("value", [1.0, -2.0])
def test_the_same_curvature_everywhere(value: float) -> None:
    point = curvature.examine(*diagonal(np.full(500, value)))
    assert point.kind == ("minimum" if value > 0 else "maximum")
    assert [point.lowest, point.highest] == pytest.approx([value, value])


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("n", [10, 300])
def test_a_kind_has_no_unit(n: int, factor: float) -> None:
    values = np.linspace(1, 2, n)
    values[0] = -0.1
    point = curvature.examine(*diagonal(factor * values))
    assert point.kind == "saddle"
    assert point.lowest / factor == pytest.approx(-0.1, abs=1e-3)


@pytest.mark.parametrize(("eigenvalue", "tolerance", "kind", "degenerate"), [
    (-0.02, 0.01, "saddle", False),
    (-0.02, 0.03, "minimum", True),
    (0.02, 0.03, "minimum", True),
    (0.02, 0.01, "minimum", False),
])  # fmt: skip
@pytest.mark.parametrize("n", [2, 100])
def test_what_counts_as_zero(
    n: int, eigenvalue: float, tolerance: float, kind: str, degenerate: bool
) -> None:
    values = np.ones(n)
    values[0] = eigenvalue
    point = curvature.examine(*diagonal(values), tolerance=tolerance)
    assert (point.kind, point.degenerate) == (kind, degenerate)
    assert (point.escape is None) == (kind == "minimum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_negative_eigenvalue_among_many(dtype: Any) -> None:
    """``Q·D·Qᵀ``, Q three Householder reflections, at a point that is not 0."""
    n = 10_000
    rng = np.random.default_rng(0)
    mirrors = [(u / np.linalg.norm(u)).astype(dtype) for u in rng.standard_normal((3, n))]
    values = rng.uniform(0.5, 10, n).astype(dtype)
    values[1234] = -1
    center = (0.1 * rng.standard_normal(n)).astype(dtype)
    x, calls = center.copy(), 0

    def gradient() -> Array:
        nonlocal calls
        calls += 1
        v = x - center
        for u in mirrors[::-1]:
            v = v - 2 * u * (u @ v)
        v = values * v
        for u in mirrors:
            v = v - 2 * u * (u @ v)
        return np.asarray(v)

    point = curvature.examine(gradient, x)
    expected = np.zeros(n)
    expected[1234] = 1
    for u in mirrors:
        expected -= 2 * u * (u @ expected)
    assert (point.kind, point.degenerate) == ("saddle", False)
    assert [point.lowest, point.highest] == pytest.approx([-1, values.max()], rel=1e-3)
    assert up_to_sign(point.escape, expected) < 1e-3
    assert calls < 2000  # seconds


class Digits:
    """A small tanh network on digits, whose gradient also takes complex weights."""

    def __init__(self) -> None:
        datasets = pytest.importorskip("sklearn.datasets")
        images, labels = datasets.load_digits(return_X_y=True)
        self.x, self.y = images[:300] / 16, np.eye(10)[labels[:300]]
        rng = np.random.default_rng(0)
        shapes = {"w1": (64, 4), "b1": (4,), "w2": (4, 10), "b2": (10,)}
        self.weights: dict[str, Array] = {
            name: 0.2 * rng.standard_normal(shape) for name, shape in shapes.items()
        }

    def loss_and_gradient(self, w: dict[str, Array]) -> tuple[float, dict[str, Array]]:
        hidden = np.tanh(self.x @ w["w1"] + w["b1"])
        logits = hidden @ w["w2"] + w["b2"]
        logits = logits - logits.real.max(axis=1, keepdims=True)
        sums = np.exp(logits).sum(axis=1, keepdims=True)
        error = (np.exp(logits) / sums - self.y) / len(self.x)
        back = (error @ w["w2"].T) * (1 - hidden**2)
        found = {"w1": self.x.T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}
        loss = ((np.log(sums) - logits) * self.y).sum() / len(self.x)
        loss += sum(0.005 * (p * p).sum() for p in w.values())
        return loss.real, {name: g + 0.01 * w[name] for name, g in found.items()}

    def gradient(self) -> dict[str, Array]:
        return self.loss_and_gradient(self.weights)[1]

    def split(self, vector: Array) -> dict[str, Array]:
        parts = np.split(vector, np.cumsum([p.size for p in self.weights.values()])[:-1])
        return {name: v.reshape(p.shape) for (name, p), v in zip(self.weights.items(), parts, strict=True)}

    def joined(self, tree: dict[str, Array]) -> Array:
        return np.concatenate([tree[name].ravel() for name in self.weights])

    def train(self) -> None:
        optimize = pytest.importorskip("scipy.optimize")

        def value(vector: Array) -> tuple[float, Array]:
            loss, gradient = self.loss_and_gradient(self.split(vector))
            return loss, self.joined(gradient)

        start = self.joined(self.weights)
        options = {"maxiter": 2000, "gtol": 1e-8, "ftol": 0}
        end = optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options).x
        for name, p in self.split(end).items():
            self.weights[name][...] = p

    def hessian(self) -> Array:
        """By complex steps, ``Im g(x + i·h·e) / h``, which round as the gradients do."""
        here = self.joined(self.weights)
        return np.array([
            self.joined(self.loss_and_gradient(self.split(here + 1e-30j * e))[1]).imag / 1e-30
            for e in np.eye(len(here))
        ])  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> Digits:
    net = Digits()
    net.train()
    return net


def test_a_trained_network_is_at_a_minimum(trained: Digits) -> None:
    values = np.linalg.eigvalsh(trained.hessian())
    assert len(values) > 300
    point = curvature.examine(trained.gradient, trained.weights, tolerance=1e-4)
    assert (point.kind, point.degenerate, point.escape) == ("minimum", False, None)
    assert 0 < point.gradient_norm < 1e-6
    assert [point.lowest, point.highest] == pytest.approx(values[[0, -1]], abs=1e-4 * values[-1])
    assert 1e-4 < values[0] / values[-1] < 1e-3
    assert curvature.examine(trained.gradient, trained.weights).degenerate  # at the default, 1e-3


def test_the_saddle_of_a_network() -> None:
    """All weights 0 but the output's biases, which are the logarithms of how many there are of each digit."""
    net = Digits()
    net.x = net.x - net.x.mean(0)
    for p in net.weights.values():
        p[...] = 0
    for _ in range(500):
        net.weights["b2"] -= 5 * net.gradient()["b2"]
    values, vectors = np.linalg.eigh(net.hessian())
    point = curvature.examine(net.gradient, net.weights)
    assert point.kind == "saddle"
    assert [point.lowest, point.highest] == pytest.approx(values[[0, -1]], abs=1e-3 * values[-1])
    # The lowest eigenvalue is there four times, once a hidden unit.
    assert np.linalg.norm(vectors[:, :4].T @ net.joined(point.escape)) == pytest.approx(1, abs=1e-3)
    before = net.loss_and_gradient(net.weights)[0]
    after = curvature.leave(lambda: net.loss_and_gradient(net.weights)[0], net.weights, point)
    assert after == net.loss_and_gradient(net.weights)[0] < before - 0.01


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_those_of_the_hessian(trained: Digits, dtype: Any) -> None:
    matrix = trained.hessian()
    weights = {name: p.astype(dtype) for name, p in trained.weights.items()}

    def gradient() -> dict[str, Array]:
        return {name: g.astype(dtype) for name, g in trained.loss_and_gradient(weights)[1].items()}

    operator = curvature.hessian(gradient, weights)
    assert (operator.shape, operator.dtype) == (matrix.shape, np.float64)
    rng = np.random.default_rng(1)
    steepest = np.linalg.eigh(matrix)[1][:, -1]  # along it the third derivative is large, too
    for v in (steepest, *(size * rng.standard_normal(len(matrix)) for size in (1e-3, 1.0, 1e3))):
        allowed = (1e-3 if dtype == np.float32 else 1e-8) * np.linalg.norm(matrix, 2) * np.linalg.norm(v)
        assert np.linalg.norm(operator @ v - matrix @ v) < allowed
        assert np.linalg.norm(operator.H @ v - matrix @ v) < allowed
    assert not (operator @ np.zeros(len(matrix))).any()


A = np.array([[2.0, 1, 0, 3], [1, -1, 4, 0], [0, 4, 5, 1], [3, 0, 1, -2]])
"""Of the parameters a, of 3 elements, and b, of 1."""


def of_parts(a: Array, b: Array) -> tuple[Array, Array]:
    g = A @ [*a.ravel(), *b.ravel()]
    return g[:3].reshape(a.shape), g[3:].reshape(b.shape)


def named(a: Array, b: Array) -> dict[str, Array]:
    return dict(zip("ab", of_parts(a, b), strict=True))


STRUCTURES: dict[str, Callable[[Array, Array], tuple[Any, Callable[[], Any], list[Any]]]] = {
    "list": lambda a, b: ([a, b], lambda: list(of_parts(a, b)), [0, 1]),
    "iterator": lambda a, b: (iter([a, b]), lambda: iter(of_parts(a, b)), [0, 1]),
    "dict": lambda a, b: ({"a": a, "b": b}, lambda: dict([*named(a, b).items()][::-1]), ["a", "b"]),
    "groups": lambda a, b: (
        [{"params": {"a": a}}, {"params": {"b": b}, "l2": 0.1}], lambda: named(a, b), ["a", "b"]),
    "groups apart": lambda a, b: (
        [{"params": {"a": a}}, {"params": {"b": b}}],
        lambda: [{"a": named(a, b)["a"]}, {"b": named(a, b)["b"]}], ["a", "b"]),
    "groups of lists": lambda a, b: (
        [{"params": [a]}, {"params": b}], lambda: list(of_parts(a, b)), [0, 1]),
    "optimizer": lambda a, b: (fs.SGD({"a": a, "b": b}, l2=0.1), lambda: named(a, b), ["a", "b"]),
}  # fmt: skip


@pytest.mark.parametrize("form", STRUCTURES)
def test_the_forms_of_parameters(form: str) -> None:
    a, b = np.zeros((3, 1)), np.zeros(())
    params, gradient, names = STRUCTURES[form](a, b)
    if form != "iterator":
        assert np.allclose(curvature.hessian(gradient, params) @ np.eye(4), A, atol=1e-8)
    point = curvature.examine(gradient, params)
    values, vectors = np.linalg.eigh(A)
    assert [point.lowest, point.highest] == pytest.approx(values[[0, -1]])
    assert list(point.escape) == names
    assert [x.shape for x in point.escape.values()] == [(3, 1), ()]
    assert up_to_sign([*point.escape[names[0]][:, 0], point.escape[names[1]]], vectors[:, 0]) < 1e-6
    if form != "iterator":
        reached = curvature.leave(
            lambda: float(sum((g * p).sum() for g, p in zip(of_parts(a, b), (a, b), strict=True)) / 2),
            params,
            point,
        )
        assert reached < 0


@pytest.mark.parametrize(
    "p", [np.zeros((3, 4), order="F"), np.zeros((4, 3)).T, np.zeros((3, 8))[:, ::2], np.zeros((3, 4))[::-1]]
)
def test_parameters_in_any_layout(p: Array) -> None:
    matrix = np.random.default_rng(2).standard_normal((12, 12))
    matrix += matrix.T
    operator = curvature.hessian(lambda: (matrix @ p.ravel()).reshape(p.shape), p)
    assert np.allclose(operator @ np.eye(12), matrix, atol=1e-8)


def test_gradients_in_one_buffer() -> None:
    """A loop may write its gradients into the same arrays each time."""
    x, g = np.zeros(4), np.zeros(4)
    operator = curvature.hessian(lambda: np.matmul(A, x, out=g), x)
    assert np.allclose(operator @ np.eye(4), A, atol=1e-8)


def test_products_are_taken_where_the_parameters_are() -> None:
    x = np.array([1.0])
    operator = curvature.hessian(lambda: x**3, x)
    assert operator @ [1.0] == pytest.approx(3)
    x[:] = 2
    assert operator @ [1.0] == pytest.approx(12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, None])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_the_parameters_come_back(dtype: Any, error: Any, call: int) -> None:
    rng = np.random.default_rng(3)
    weights = {"w": rng.standard_normal((5, 7)).astype(dtype), "b": np.array([-0.0, 1e-30, 1e30], dtype)}
    before = {name: p.tobytes() for name, p in weights.items()}
    calls = 0

    def gradient() -> Any:
        nonlocal calls
        calls += 1
        if calls == call and error:
            raise error
        return {name: np.zeros_like(p) for name, p in weights.items()}

    if error:
        with pytest.raises(error):
            curvature.examine(gradient, weights)
        assert calls == call
    else:
        curvature.examine(gradient, weights)
    assert {name: p.tobytes() for name, p in weights.items()} == before


def test_an_interrupt_while_parameters_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.internals import parameters

    weights = {"a": np.array([1.0]), "b": np.array([2.0])}
    calls = 0

    class Interrupted(parameters.Changes):  # type: ignore[name-defined, misc]
        def write(self) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise KeyboardInterrupt
            super().write()

    monkeypatch.setattr(parameters, "Changes", Interrupted)
    operator = curvature.hessian(lambda: dict(weights), weights)
    with pytest.raises(KeyboardInterrupt):
        operator @ np.ones(2)
    assert weights == {"a": 1.0, "b": 2.0}


@pytest.mark.parametrize("n", [10, 200])
def test_a_seed_gives_the_same_bits(n: int) -> None:
    matrix = np.random.default_rng(4).standard_normal((n, n))
    matrix += matrix.T
    first, second, other = (curvature.examine(*quadratic(matrix), seed=seed) for seed in (7, 7, 8))
    assert first.escape.tobytes() == second.escape.tobytes()
    assert (first.lowest, first.highest) == (second.lowest, second.highest)
    assert (first.escape.tobytes() == other.escape.tobytes()) == (n == 10)  # which takes no start
    assert first.lowest == pytest.approx(other.lowest, rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaving_the_saddle(dtype: Any) -> None:
    """Along (t, t) the loss ``C·(t² - 1)²/2`` has its minimum at 1, in the 2-norm at √2."""
    w = np.zeros(2, dtype)
    loss, gradient = two_weights(w)
    before = loss()
    after = curvature.leave(loss, w, curvature.examine(gradient, w))
    assert after == loss() < before / 2
    assert abs(w[0] - w[1]) < 1e-3
    assert 0.5 < abs(w[0]) < 1.4  # within the doubling


@pytest.mark.parametrize("side", [1, -1])
def test_leaving_to_the_better_side(side: int) -> None:
    w = np.zeros(2)
    point = curvature.examine(lambda: w * [-1, 1], w)
    curvature.leave(lambda: -(w[0] ** 2) / 2 - side * w[0] ** 3 + w[0] ** 4, w, point)
    assert side * w[0] > 0.5


def test_leaving_where_the_loss_has_no_end() -> None:
    x = np.zeros(2)
    point = curvature.examine(lambda: -x, x)
    assert curvature.leave(lambda: float(-x @ x), x, point, length=0.5) == pytest.approx(-(2.0**38))


@pytest.mark.parametrize("loss", [lambda x: x @ x, lambda _: 0.0, lambda _: np.nan])
def test_a_loss_that_does_not_fall(loss: Any) -> None:
    x = np.array([-0.0, 1e-30])
    before = x.tobytes()
    point = curvature.examine(lambda: -x, x)
    with pytest.raises(RuntimeError, match=r"does not fall by a step of length 0\.01"):
        curvature.leave(lambda: loss(x), x, point)
    assert x.tobytes() == before


@pytest.mark.parametrize("call", [1, 2, 5])
def test_an_error_of_the_loss(call: int) -> None:
    x, calls = np.array([-0.0, 1e-30]), 0
    before = x.tobytes()
    point = curvature.examine(lambda: -x, x)

    def loss() -> float:
        nonlocal calls
        calls += 1
        if calls == call:
            raise KeyboardInterrupt
        return float(-x @ x)

    with pytest.raises(KeyboardInterrupt):
        curvature.leave(loss, x, point)
    assert x.tobytes() == before


@pytest.mark.parametrize(("curve", "kind"), [(1.0, "minimum"), (0.0, "flat")])
def test_leaving_what_has_no_escape(curve: float, kind: str) -> None:
    x = np.zeros(2)
    point = curvature.examine(lambda: curve * x, x)
    with pytest.raises(ValueError, match=f"no escape from a {kind}"):
        curvature.leave(lambda: 0.0, x, point)


@pytest.mark.parametrize(
    "params", [np.zeros(2), [np.zeros((2, 1)), np.zeros((2, 1))], {"x": np.zeros((2, 1))}]
)
def test_leaving_with_other_parameters(params: Any) -> None:
    x = np.zeros((2, 1))
    point = curvature.examine(lambda: -x, x)
    with pytest.raises(ValueError, match="other parameters"):
        curvature.leave(lambda: 0.0, params, point)


@pytest.mark.parametrize("length", [0.0, -1.0, np.nan, np.inf, "1"])
def test_a_length_that_is_none(length: Any) -> None:
    x = np.zeros(2)
    point = curvature.examine(lambda: -x, x)
    with pytest.raises((TypeError, ValueError), match="length"):
        curvature.leave(lambda: 0.0, x, point, length=length)


def test_a_gradient_that_is_not_small() -> None:
    x = np.array([3.0, 4.0])
    with pytest.raises(ValueError, match=r"its norm is 5, and small=0\.001"):
        curvature.examine(x.copy, x)
    with pytest.raises(ValueError, match=r"small=4\.99"):
        curvature.examine(x.copy, x, small=4.99)
    assert curvature.examine(x.copy, x, small=5).gradient_norm == 5


@pytest.mark.parametrize(
    "wrong", [{"small": -1}, {"small": "1"}, {"tolerance": 0}, {"tolerance": 1}, {"tolerance": None}]
)
def test_arguments_that_are_none(wrong: dict[str, Any]) -> None:
    gradient, x = diagonal([1.0, 2.0])
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        curvature.examine(gradient, x, **wrong)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64", "complex128"])
def test_parameters_that_are_refused(dtype: str) -> None:
    number = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    with pytest.raises(TypeError, match=rf"parameter 'w' .*{dtype}.* float32"):
        curvature.hessian(lambda: None, {"w": np.zeros(3, number)})


def test_parameters_that_cannot_be_moved() -> None:
    fixed, x = np.zeros(3), np.zeros(3)
    fixed.flags.writeable = False
    for params, message in (
        ([fixed], "read-only"),
        ([x, x[1:]], "shares memory"),
        ([np.zeros(0)], "no elements"),
        ([], "no parameters"),
    ):
        with pytest.raises(ValueError, match=message):
            curvature.hessian(lambda: None, params)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([np.zeros(2), np.zeros(3)], r"gradient 1 is float64 \(3,\), its parameter float64 \(2,\)"),
        ([np.zeros(2, np.float32), np.zeros(2)], "gradient 0 is float32"),
        ([np.zeros(2), np.array([0, np.nan])], "gradient 1 is not finite"),
        ([np.zeros(2), None], "gradient 1 must be a NumPy array"),
        ([np.zeros(2)], "no gradient for parameter 1"),
        (np.zeros(2), "a sequence"),
        (None, "a sequence"),
    ],
)
def test_gradients_that_are_refused(wrong: Any, message: str) -> None:
    x = [np.ones(2), np.ones(2)]
    operator = curvature.hessian(lambda: wrong, x)
    for call in (lambda: operator @ np.ones(4), lambda: curvature.examine(lambda: wrong, x)):
        with pytest.raises((TypeError, ValueError), match=message):
            call()
    assert all((p == 1).all() for p in x)


@pytest.mark.parametrize("n", [20, 200])
def test_gradients_that_are_noise(n: int) -> None:
    """Such as of another batch each time: the iteration ends, and what it has found is none."""
    rng = np.random.default_rng(5)
    x = np.zeros(n)
    with pytest.raises(RuntimeError, match="noise"):
        curvature.examine(lambda: x + 1e-6 * rng.standard_normal(n), x)
    assert not x.any()


def test_an_iteration_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critical, "RESTARTS", 1)
    with pytest.raises(RuntimeError, match=r"tolerance=1e-06 after 1 restarts"):
        curvature.examine(*diagonal(np.linspace(0, 1, 2000)), tolerance=1e-6)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(ImportError, match=r'pip install "fusedstep\[curvature\]"'):
        curvature.hessian(*diagonal([1.0]))


def test_parameters_that_are_not_numbers() -> None:
    w = np.array([np.nan])
    with pytest.raises(RuntimeError):
        curvature.examine(lambda: np.zeros(1), w)
