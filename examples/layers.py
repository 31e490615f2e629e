"""The layers of a small neural network in NumPy: each computes its output, and gradients backward."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]


class Layer:
    """The base of the layers: it has the arrays by name, and after `backward` the gradients."""

    def __init__(self) -> None:
        self.weights: Arrays = {}  # trained, with L1 and L2 if these are used
        self.others: Arrays = {}  # trained, always without L1 and L2
        self.statistics: Arrays = {}  # not trained by gradients
        self.gradients: Arrays = {}

    def forward(self, x: Array, *, training: bool) -> Array:
        """Return the layer's output, with one row for each example."""
        raise NotImplementedError

    def backward(self, d: Array) -> Array:
        """Take the gradient of the loss by the output; return that by the input, keep those by the arrays."""
        raise NotImplementedError


class Dense(Layer):
    """``x @ weight + bias``, with the initial weights of He et al., arXiv:1502.01852."""

    def __init__(self, rng: np.random.Generator, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        start = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        self.weights["weight"] = start.astype(np.float32)
        if bias:
            self.others["bias"] = np.zeros(outputs, np.float32)

    def forward(self, x: Array, *, training: bool) -> Array:
        self.x = x
        return x @ self.weights["weight"] + self.others.get("bias", 0)

    def backward(self, d: Array) -> Array:
        self.gradients["weight"] = self.x.T @ d
        if "bias" in self.others:
            self.gradients["bias"] = d.sum(axis=0)
        gradient: Array = d @ self.weights["weight"].T
        return gradient


class ReLU(Layer):
    """``max(x, 0)``."""

    def forward(self, x: Array, *, training: bool) -> Array:
        self.positive = x > 0
        return x * self.positive

    def backward(self, d: Array) -> Array:
        return d * self.positive


class BatchNorm(Layer):
    """``scale·(x - mean) / √(variance + 1e-5) + shift``. Ioffe & Szegedy, arXiv:1502.03167.

    In training, mean and variance are those of the batch; at inference, their running averages.
    """

    def __init__(self, size: int, decay: float = 0.9) -> None:
        super().__init__()
        self.decay = decay
        self.others = {"scale": np.ones(size, np.float32), "shift": np.zeros(size, np.float32)}
        self.statistics = {"mean": np.zeros(size, np.float32), "variance": np.ones(size, np.float32)}

    def forward(self, x: Array, *, training: bool) -> Array:
        mean, variance = self.statistics["mean"], self.statistics["variance"]
        if training:
            mean += (1 - self.decay) * (x.mean(axis=0) - mean)
            variance += (1 - self.decay) * (x.var(axis=0, ddof=1) - variance)
            mean, variance = x.mean(axis=0), x.var(axis=0)
        self.deviation = np.sqrt(variance + 1e-5)
        self.normal = (x - mean) / self.deviation
        return self.others["scale"] * self.normal + self.others["shift"]

    def backward(self, d: Array) -> Array:
        self.gradients = {"scale": (d * self.normal).sum(axis=0), "shift": d.sum(axis=0)}
        by_mean, by_variance = d.mean(axis=0), self.normal * (d * self.normal).mean(axis=0)
        gradient: Array = self.others["scale"] / self.deviation * (d - by_mean - by_variance)
        return gradient


class Dropout(Layer):
    """Keep a unit with probability `keep` in training; multiply it by `keep` at inference.

    Srivastava et al. 2014, JMLR 15:1929-1958.
    """

    def __init__(self, rng: np.random.Generator, keep: float) -> None:
        super().__init__()
        self.rng, self.keep = rng, keep

    def forward(self, x: Array, *, training: bool) -> Array:
        if not training:
            return x * self.keep
        self.kept = self.rng.random(x.shape) < self.keep
        return x * self.kept

    def backward(self, d: Array) -> Array:
        return d * self.kept
