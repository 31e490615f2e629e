"""A small neural network in NumPy: its predictions, its loss, and the gradients of the loss.

Its arrays are in dictionaries by name. An optimizer that gets them trains the network in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.special import log_softmax, softmax

from layers import Array, Arrays, BatchNorm, Dense, Dropout, Layer, ReLU


class Network:
    """A sequence of layers that computes the logits of classes.

    `weights`, `others` and `statistics` have the arrays of all layers; "0.weight" is that of the first.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.weights = _named([layer.weights for layer in layers])
        self.others = _named([layer.others for layer in layers])
        self.statistics = _named([layer.statistics for layer in layers])
        self.arrays = self.weights | self.others | self.statistics  # all that the predictions depend on

    def forward(self, x: Array, *, training: bool = False) -> Array:
        """Return the logits."""
        for layer in self.layers:
            x = layer.forward(x, training=training)
        return x

    def predict(self, x: Array) -> Array:
        """Return the probability of each class."""
        probabilities: Array = softmax(self.forward(x), axis=1)
        return probabilities

    def loss(self, x: Array, labels: Array) -> float:
        """Return the mean cross-entropy of the predictions."""
        return float(-log_softmax(self.forward(x), axis=1)[np.arange(len(x)), labels].mean())

    def accuracy(self, x: Array, labels: Array) -> float:
        """Return the fraction of the predictions that is right."""
        return float((self.forward(x).argmax(axis=1) == labels).mean())

    def loss_and_gradients(self, x: Array, labels: Array) -> tuple[float, Arrays]:
        """Return the mean cross-entropy in training, and its gradients by name."""
        rows = np.arange(len(x))
        log_p = log_softmax(self.forward(x, training=True), axis=1)
        d = np.exp(log_p)
        d[rows, labels] -= 1
        d /= len(x)
        for layer in reversed(self.layers):
            d = layer.backward(d)
        return -float(log_p[rows, labels].mean()), _named([layer.gradients for layer in self.layers])


def perceptron(rng: np.random.Generator, sizes: Sequence[int], keep: float = 1.0) -> Network:
    """Make hidden layers with batch normalization, whose shift is the bias, and dropout; then the logits."""
    *hidden, last = pairwise(sizes)
    layers: list[Layer] = []
    for inputs, outputs in hidden:
        layers += [Dense(rng, inputs, outputs, bias=False), BatchNorm(outputs), ReLU(), Dropout(rng, keep)]
    return Network([*layers, Dense(rng, *last)])


def _named(of_layers: list[Arrays]) -> Arrays:
    """Return the arrays of all layers by name, such as "0.weight"."""
    return {f"{i}.{name}": array for i, arrays in enumerate(of_layers) for name, array in arrays.items()}
