"""Training on few examples: choosing them, endless mini-batches, the steps, and the figure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

import fusedstep as fs
from digits_data import Array, Examples
from fusedstep import schedules
from network import Network


def pick(rng: np.random.Generator, examples: Examples, each: int) -> tuple[Examples, Examples]:
    """Pick random examples, `each` of every class; return them and the rest."""
    x, y = examples
    picked = np.concatenate([rng.permutation(np.flatnonzero(y == label))[:each] for label in np.unique(y)])
    return Examples(x[picked], y[picked]), Examples(np.delete(x, picked, axis=0), np.delete(y, picked))


def batches(rng: np.random.Generator, examples: Examples, size: int = 32) -> Iterator[Examples]:
    """Yield random mini-batches of `size` examples, or of all if there are fewer, without end."""
    x, y = examples
    while True:
        batch = rng.choice(len(y), min(size, len(y)), replace=False)
        yield Examples(x[batch], y[batch])


def train(net: Network, batches: Iterator[Examples], steps: int, lr: float = 3e-3) -> None:
    """Train with AdamW, L2 on the weights alone, and a learning rate that falls to 0."""
    groups = [{"params": net.weights, "l2": 1e-4}, {"params": net.others}]
    opt = fs.AdamW(groups, lr=schedules.Cosine(lr, steps=steps))
    for x, y in islice(batches, steps):
        opt.step(net.loss_and_gradients(x, y)[1])


@contextmanager
def figure_of_seeds(output: Path, title: str, seeds: Array) -> Iterator[Axes]:
    """Give axes in which to draw the accuracies of each seed, then save the figure."""
    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    yield axes
    axes.set(xlabel="seed", ylabel="accuracy on the test", xticks=seeds, title=title)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def summary(gain: Array) -> str:
    """Format the mean and the standard deviation of differences of accuracies."""
    return f"{100 * gain.mean():+.1f} ± {100 * gain.std(ddof=1):.1f} points"
