"""A complete digits classifier: regularized in four ways, stopped early, and tested once.

Batch normalization (Ioffe & Szegedy, arXiv:1502.03167), dropout (Srivastava et al. 2014, JMLR 15:1929-1958),
and L1 and L2 on the weights alone. The learning rate falls whenever the validation loss stalls.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from tqdm import tqdm

import digits_data
import example
import fusedstep as fs
from digits_data import Array, Digits, Examples
from fusedstep import control, schedules
from network import Network, perceptron

BATCH = 32
SIZES = (64, 128, 128, 10)
KEEP = 0.7  # the probability that dropout keeps a hidden unit in training


@dataclass(frozen=True)
class Result:
    """The losses of each epoch, and the validation loss and test accuracy of the best weights, restored."""

    training: list[float]
    validation: list[float]
    restored: float
    accuracy: float


def train(
    net: Network, data: Digits, rng: np.random.Generator, epochs: int
) -> tuple[list[float], list[float]]:
    """Train until the validation loss no longer falls, and restore the weights where it was lowest."""
    plateau = schedules.Plateau(3e-3, factor=0.3, patience=4)
    opt = fs.AdamW([{"params": net.weights, "l1": 1e-5, "l2": 1e-4}, {"params": net.others}], lr=plateau)
    stopping = control.EarlyStopping(net.arrays, patience=12)  # these include batch normalization's averages
    training, validation = [], []
    for _ in tqdm(range(epochs), unit="epoch"):
        losses = []
        for batch in digits_data.batches(rng, len(data.train.y), BATCH):
            loss, gradients = net.loss_and_gradients(data.train.x[batch], data.train.y[batch])
            opt.step(gradients)
            losses.append(loss)
        training.append(float(np.mean(losses)))
        validation.append(net.loss(*data.validation))
        plateau.observe(validation[-1])
        if stopping.observe(validation[-1]):
            break
    stopping.restore()
    return training, validation


def main(*, quick: bool, output: Path) -> Result:
    """Train, print the results, and draw the losses and the digits that were misread."""
    data = digits_data.load()
    rng = np.random.default_rng(0)
    net = perceptron(rng, SIZES, KEEP)
    training, validation = train(net, data, rng, epochs=6 if quick else 150)
    result = Result(training, validation, net.loss(*data.validation), net.accuracy(*data.test))
    best = int(np.argmin(validation))
    print(f"epochs                {len(validation)}, the best one {best + 1}")
    print(f"training loss         {training[best]:.4f}, with dropout")
    print(f"validation loss       {validation[best]:.4f}; of the last epoch {validation[-1]:.4f}")
    print(f"with the best weights {result.restored:.4f}")
    print(f"test accuracy         {result.accuracy:.1%}")
    draw(result, data.test, net.predict(data.test.x), output)
    return result


def draw(result: Result, test: Examples, p: Array, output: Path) -> None:
    """Draw the losses over the epochs, and beside them the first test digits that were misread."""
    figure = plt.figure(figsize=(10, 4), layout="constrained")
    grid = figure.add_gridspec(3, 9)
    axes = figure.add_subplot(grid[:, :6])
    epochs = np.arange(1, len(result.validation) + 1)
    best = int(np.argmin(result.validation))
    axes.semilogy(epochs, result.training, label="training, with dropout")
    axes.semilogy(epochs, result.validation, label="validation")
    axes.plot(epochs[best], result.validation[best], "o", color="C1", label="the best weights")
    axes.set(
        xlabel="epoch", ylabel="cross-entropy", title=f"The validation loss is lowest in epoch {epochs[best]}"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    read = p.argmax(axis=1)
    wrong = np.flatnonzero(read != test.y)
    for i, image in enumerate(wrong[:9]):
        panel = figure.add_subplot(grid[i // 3, 6 + i % 3])
        panel.imshow(test.x[image].reshape(8, 8), cmap="gray_r")
        panel.set_title(f"{test.y[image]}, read {read[image]}", fontsize="medium")
        panel.set_axis_off()
    figure.savefig(output, dpi=100)
    plt.close(figure)


if __name__ == "__main__":
    example.run(main, __doc__)
