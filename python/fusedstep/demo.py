"""Train a small network on handwritten digits with every rule: ``python -m fusedstep.demo``.

Each rule trains the same network twice from the same start, with the native and with the NumPy backend. A
table compares them, and a picture shows the loss curves. Needs the extra: ``pip install "fusedstep[demo]"``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import fusedstep as fs
from fusedstep import schedules

try:
    import matplotlib as mpl
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    from threadpoolctl import threadpool_limits
    from tqdm import tqdm
except ImportError as error:
    sys.exit(f'{error}\nThe demo needs: pip install "fusedstep[demo]"')

Array = np.ndarray[Any, Any]
Network = dict[str, Array]

BATCH = 64
HIDDEN = 128


# Rules not listed use their default step size. Any hyperparameter may be a number or a function of the step.
HYPERPARAMETERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.3},
    "Momentum": {"lr": 0.01, "momentum": schedules.momentum_steps(every=100)},
    "EMAMomentum": {"lr": 0.3},
    "Nesterov": {"lr": 0.03},
    "Adagrad": {"lr": 0.03},
    "RMSProp": {"lr": schedules.InverseTime(0.002, rate=1 / 500)},
    "Adam": {"lr": 0.003},
    "AdamW": {"lr": 0.003},
    "RAdam": {"lr": 0.01},
    "Eve": {"lr": 0.003},
    "Adamax": {"lr": 0.01},
    "ADOPT": {"lr": 0.003},
    "Adan": {"lr": 0.01},
    "LaProp": {"lr": 0.003},
    "Lion": {"lr": 0.001},
    "ASGD": {"lr": 0.3},
    "Ftrl": {"lr": 0.3},
    "ScheduleFreeSGD": {"lr": 0.3},
    "LARS": {"lr": 10.0},
    "LAMB": {"lr": 0.01},
    "NovoGrad": {"lr": 0.01},
}


@dataclass
class Run:
    """The result of training one network."""

    losses: list[float]
    accuracy: float
    optimizer_seconds: float
    weights: bytes


def digits() -> tuple[Array, Array, Array, Array]:
    """1797 images of 8 × 8 pixels, a fifth held out for the test."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    x, test, y, test_y = train_test_split(images, labels, test_size=0.2, random_state=0, stratify=labels)
    return x, y, test, test_y


def network(rng: np.random.Generator) -> Network:
    """Two layers, in float32."""

    def layer(inputs: int, outputs: int) -> Array:
        weights: Array = rng.standard_normal((inputs, outputs)) * np.sqrt(2 / inputs)
        return weights.astype(np.float32)

    return {
        "w1": layer(64, HIDDEN),
        "b1": np.zeros(HIDDEN, np.float32),
        "w2": layer(HIDDEN, 10),
        "b2": np.zeros(10, np.float32),
    }


def scores(net: Network, x: Array) -> tuple[Array, Array]:
    """The hidden layer and the logarithms of the class probabilities."""
    hidden = np.maximum(x @ net["w1"] + net["b1"], 0)
    logits = hidden @ net["w2"] + net["b2"]
    logits -= logits.max(axis=1, keepdims=True)
    return hidden, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def loss_and_gradients(net: Network, x: Array, labels: Array) -> tuple[float, Network]:
    """Mean cross-entropy, and its gradient by the name of each parameter."""
    hidden, log_p = scores(net, x)
    rows = np.arange(len(x))
    d_logits = np.exp(log_p)
    d_logits[rows, labels] -= 1
    d_logits /= np.float32(len(x))
    d_hidden = (d_logits @ net["w2"].T) * (hidden > 0)
    gradients = {
        "w1": x.T @ d_hidden,
        "b1": d_hidden.sum(axis=0),
        "w2": hidden.T @ d_logits,
        "b2": d_logits.sum(axis=0),
    }
    return float(-log_p[rows, labels].mean()), gradients


def batches(rng: np.random.Generator, count: int) -> Iterator[Array]:
    """The indices of one epoch's mini-batches, in random order."""
    order = rng.permutation(count)
    for start in range(0, count, BATCH):
        yield order[start : start + BATCH]


def train(
    data: tuple[Array, ...],
    rule: str,
    backend: Literal["native", "numpy"],
    epochs: int,
    tick: Callable[[], object],
) -> Run:
    """Train a network with one rule."""
    x, labels, test, test_labels = data
    rng = np.random.default_rng(0)
    net = network(rng)
    # Two groups of parameters: the weights decay, the biases do not.
    groups = [
        {"params": {name: net[name] for name in ("w1", "w2")}, "l2": 1e-4},
        {"params": {name: net[name] for name in ("b1", "b2")}},
    ]
    optimizer = fs.rules[rule](groups, backend=backend, **HYPERPARAMETERS.get(rule, {}))
    losses, seconds = [], 0.0
    for _ in range(epochs):
        epoch = []
        for batch in batches(rng, len(x)):
            loss, gradients = loss_and_gradients(net, x[batch], labels[batch])
            start = time.perf_counter()
            optimizer.step(gradients, loss=loss)  # in place: net has the new weights
            seconds += time.perf_counter() - start
            epoch.append(loss)
        losses.append(float(np.mean(epoch)))
        tick()
    if isinstance(optimizer, fs.ScheduleFreeSGD | fs.ScheduleFreeAdamW):
        optimizer.eval()  # net has the average of its weights
    accuracy = float((scores(net, test)[1].argmax(axis=1) == test_labels).mean())
    return Run(losses, accuracy, seconds, b"".join(array.tobytes() for array in net.values()))


def plot(curves: dict[str, list[float]], path: Path) -> None:
    """Draw the loss of each rule over the epochs, as a PNG."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(10, 6), layout="constrained")
    for i, (rule, losses) in enumerate(curves.items()):
        style = ("-", "--", ":", "-.")[i // 10 % 4]
        axes.semilogy(range(1, len(losses) + 1), losses, label=rule, color=f"C{i % 10}", linestyle=style)
    axes.set(xlabel="epoch", ylabel="training loss", title="Handwritten digits, one network, every rule")
    figure.legend(loc="outside right center", fontsize="x-small")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print the table and the hash of all trained weights, draw the curves."""
    parser = argparse.ArgumentParser(prog="python -m fusedstep.demo")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--output", type=Path, default=Path("fusedstep-demo.png"), help="the picture")
    options = parser.parse_args(arguments)

    data = digits()
    runs: dict[str, tuple[Run, Run]] = {}
    # One BLAS thread: these matrices are small, and sums in another order would give other bits.
    with threadpool_limits(1), tqdm(total=2 * len(fs.rules) * options.epochs, unit="epoch") as bar:
        for rule in fs.rules:
            bar.set_description(rule)
            native, reference = (
                train(data, rule, backend, options.epochs, bar.update) for backend in ("native", "numpy")
            )
            runs[rule] = native, reference

    print(f"fusedstep {fs.__version__}, {fs.info()['isa']}, {fs.get_num_threads()} threads")
    print("rule                  loss  accuracy  native ms  NumPy ms   ratio  same bits")
    for rule, (native, reference) in runs.items():
        fast, slow = 1e3 * native.optimizer_seconds, 1e3 * reference.optimizer_seconds
        same = "yes" if native.weights == reference.weights else "NO"
        print(
            f"{rule:17} {native.losses[-1]:8.4f} {native.accuracy:9.1%} {fast:10.1f} {slow:9.1f}"
            f" {slow / fast:5.1f}x  {same}"
        )
    weights = b"".join(native.weights for native, _ in runs.values())
    print(f"trained weights: sha256 {hashlib.sha256(weights).hexdigest()}")
    plot({rule: native.losses for rule, (native, _) in runs.items()}, options.output)
    print(f"loss curves: {options.output}")
    if any(native.weights != reference.weights for native, reference in runs.values()):
        sys.exit("the backends differ")


if __name__ == "__main__":
    main()
