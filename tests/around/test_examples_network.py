"""The network of the examples: its gradients, its two modes, and what is regularized."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import fusedstep as fs

pytest.importorskip("scipy")

if TYPE_CHECKING:
    from layers import Layer

    Make = Callable[[np.random.Generator], Layer]

Array = np.ndarray[Any, Any]

pytestmark = pytest.mark.source


def dense(rng: np.random.Generator) -> Layer:
    from layers import Dense

    return Dense(rng, 4, 3)


def dense_without_bias(rng: np.random.Generator) -> Layer:
    from layers import Dense

    return Dense(rng, 4, 3, bias=False)


def relu(_rng: np.random.Generator) -> Layer:
    from layers import ReLU

    return ReLU()


def batch_norm(_rng: np.random.Generator) -> Layer:
    from layers import BatchNorm

    return BatchNorm(4)


def dropout(rng: np.random.Generator) -> Layer:
    from layers import Dropout

    return Dropout(rng, 0.6)


def doubles(layer: Layer, rng: np.random.Generator) -> None:
    """Make the arrays of a layer double precision, and none of them the zeros or ones they start as."""
    for arrays in (layer.weights, layer.others, layer.statistics):
        for name, array in arrays.items():
            arrays[name] = array.astype(np.float64) + rng.uniform(0.1, 0.5, array.shape)


def slope(f: Callable[[], float], at: Array) -> Array:
    """The gradient of f by the array, by central differences."""
    gradient = np.empty_like(at)
    for i, value in np.ndenumerate(at):
        ends = []
        for moved in (value - 1e-6, value + 1e-6):
            at[i] = moved
            ends.append(f())
        at[i] = value
        gradient[i] = (ends[1] - ends[0]) / 2e-6
    return gradient


@pytest.mark.parametrize("make", [dense, dense_without_bias, relu, batch_norm, dropout])
def test_gradients_of_a_layer(make: Make) -> None:
    layer = make(np.random.default_rng(0))
    rng = np.random.default_rng(1)
    doubles(layer, rng)
    x = rng.standard_normal((6, 4))
    pull = rng.standard_normal((6, layer.forward(x, training=True).shape[1]))

    def loss() -> float:
        if make is dropout:
            layer.rng = np.random.default_rng(2)  # type: ignore[attr-defined]  # the same units each time
        return float((layer.forward(x, training=True) * pull).sum())

    loss()
    np.testing.assert_allclose(layer.backward(pull), slope(loss, x), rtol=1e-5, atol=1e-7)
    trained = layer.weights | layer.others
    assert set(layer.gradients) == set(trained)
    for name, array in trained.items():
        np.testing.assert_allclose(layer.gradients[name], slope(loss, array), rtol=1e-5, atol=1e-7)


def test_gradients_of_the_loss() -> None:
    from network import Network, perceptron

    rng = np.random.default_rng(0)
    layers = perceptron(rng, (5, 7, 6, 3)).layers
    for layer in layers:
        doubles(layer, rng)
    net = Network(layers)
    x, labels = rng.standard_normal((8, 5)), rng.integers(0, 3, 8)
    _, gradients = net.loss_and_gradients(x, labels)
    trained = net.weights | net.others
    assert set(gradients) == set(trained)
    for name, array in trained.items():
        expected = slope(lambda: net.loss_and_gradients(x, labels)[0], array)
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-4, atol=1e-7)


def test_predictions_are_probabilities_and_the_loss_is_theirs() -> None:
    from network import perceptron

    rng = np.random.default_rng(0)
    net = perceptron(rng, (5, 7, 3))
    x, labels = (100 * rng.standard_normal((50, 5))).astype(np.float32), rng.integers(0, 3, 50)
    p = net.predict(x)
    assert p.dtype == np.float32
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    assert net.accuracy(x, labels) == np.mean(p.argmax(axis=1) == labels)
    net.others["4.bias"][:] = 1e4  # nothing overflows
    assert np.isfinite(net.loss(x, labels))
    x /= 100
    assert net.loss(x, labels) == pytest.approx(
        -np.log(net.predict(x)[np.arange(50), labels]).mean(), rel=1e-4
    )


def test_dropout_at_inference_is_the_mean_of_training() -> None:
    from layers import Dropout

    x = np.linspace(-2, 3, 20, dtype=np.float32)[None]
    layer = Dropout(np.random.default_rng(0), 0.7)
    seen = np.array([layer.forward(x, training=True) for _ in range(20_000)])
    assert set(np.unique(seen[:, 0, -1])) == {0.0, 3.0}  # in training a unit is not scaled
    # The mean's standard deviation is at most 3·√(0.7·0.3 / 20000) ≈ 0.01.
    np.testing.assert_allclose(seen.mean(axis=0), layer.forward(x, training=False), atol=0.05)


def test_batch_normalization() -> None:
    from layers import BatchNorm

    rng = np.random.default_rng(0)
    layer = BatchNorm(3, decay=0.95)
    layer.others["scale"][:] = 1, 2, 3
    layer.others["shift"][:] = 4, 5, 6
    mean, deviation = np.array([-1, 0, 10]), np.array([0.5, 1, 4])
    for _ in range(400):
        out = layer.forward(rng.normal(mean, deviation, (64, 3)).astype(np.float32), training=True)
        np.testing.assert_allclose(out.mean(axis=0), [4, 5, 6], atol=1e-3)
        np.testing.assert_allclose(out.std(axis=0), [1, 2, 3], rtol=1e-3)
    np.testing.assert_allclose(layer.statistics["mean"], mean, atol=0.5)
    np.testing.assert_allclose(layer.statistics["variance"], deviation**2, rtol=0.2)
    # At inference an example does not depend on the others, and changes no average.
    before = {name: array.copy() for name, array in layer.statistics.items()}
    x = rng.normal(mean, deviation, (5, 3)).astype(np.float32)
    out = layer.forward(x, training=False)
    expected = (x - before["mean"]) / np.sqrt(before["variance"] + 1e-5)
    np.testing.assert_allclose(out, expected * [1, 2, 3] + [4, 5, 6], rtol=1e-4)
    np.testing.assert_array_equal(layer.forward(x[:1], training=False), out[:1])
    for name, array in layer.statistics.items():
        np.testing.assert_array_equal(array, before[name])


def test_running_averages_start_towards_the_first_batch() -> None:
    """As in the paper, the variance is that of a sample: of 0 and 2 it is 2."""
    from layers import BatchNorm

    layer = BatchNorm(1, decay=0.75)
    layer.forward(np.array([[0], [2]], np.float32), training=True)
    assert layer.statistics["mean"][0] == 0.25 * 1
    assert layer.statistics["variance"][0] == 0.75 * 1 + 0.25 * 2


def test_the_networks_arrays_are_those_of_its_layers() -> None:
    from network import perceptron

    net = perceptron(np.random.default_rng(0), (5, 7, 6, 3))
    assert set(net.weights) == {"0.weight", "4.weight", "8.weight"}
    assert set(net.others) == {"1.scale", "1.shift", "5.scale", "5.shift", "8.bias"}
    assert set(net.statistics) == {"1.mean", "1.variance", "5.mean", "5.variance"}
    assert net.weights["0.weight"].shape == (5, 7)
    assert all(array.dtype == np.float32 for array in net.arrays.values())
    before = net.predict(np.ones((1, 5), np.float32))
    net.statistics["1.mean"][:] = 3
    assert not np.array_equal(net.predict(np.ones((1, 5), np.float32)), before)


def test_l1_and_l2_leave_biases_and_normalization_alone() -> None:
    from network import perceptron

    net = perceptron(np.random.default_rng(0), (5, 7, 3))
    net.others["4.bias"][:] = 1
    trained = net.weights | net.others
    before = {name: array.copy() for name, array in trained.items()}
    opt = fs.SGD([{"params": net.weights, "l1": 0.1, "l2": 0.1}, {"params": net.others}], lr=0.1)
    opt.step({name: np.zeros_like(array) for name, array in trained.items()})
    for name in net.weights:
        assert (abs(net.weights[name]) < abs(before[name])).mean() > 0.9
    for name in net.others:
        np.testing.assert_array_equal(net.others[name], before[name])


def test_early_stopping_brings_the_running_averages_back() -> None:
    from network import perceptron

    rng = np.random.default_rng(0)
    net = perceptron(rng, (5, 7, 3))
    x, labels = rng.standard_normal((32, 5)).astype(np.float32), rng.integers(0, 3, 32)
    net.loss_and_gradients(x, labels)
    stopping = fs.control.EarlyStopping(net.arrays)
    stopping.observe(1.0)
    best = net.predict(x)
    net.loss_and_gradients(x + 1, labels)  # moves the running averages alone
    assert not np.array_equal(net.predict(x), best)
    stopping.restore()
    np.testing.assert_array_equal(net.predict(x), best)
