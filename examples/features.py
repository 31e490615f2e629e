"""A frozen feature extractor: a network that learnt the digits 0 to 4 helps to read 5 to 9.

Yosinski et al., arXiv:1411.1792: the first layers of a network serve other tasks as well. Here the output of
the hidden layer is computed once and stored, and a softmax layer is trained on it with few examples.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import PercentFormatter
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

import digits_data
import example
from digits_data import Array, Examples
from network import Network, perceptron
from training import batches, pick, train

SIZES = (64, 128, 5)
LR = 0.03  # softmax layers do better on the validation digits than at 0.003 and 0.01
EACH = (1, 2, 5, 10, 20, 40)  # examples of each digit


@dataclass(frozen=True)
class Learner:
    """The sizes of a network, and the examples for its training and its test."""

    sizes: tuple[int, ...]
    train: Examples
    test: Examples

    def learn(self, seed: int, each: int, steps: int) -> tuple[float, float]:
        """Train on a few examples of each digit; return the test accuracy and the seconds of training."""
        rng = np.random.default_rng(seed)
        few, _ = pick(rng, self.train, each)
        net = perceptron(rng, self.sizes)
        start = time.perf_counter()
        train(net, batches(rng, few), steps, LR)
        seconds = time.perf_counter() - start
        return net.accuracy(*self.test), seconds


@dataclass(frozen=True)
class Result:
    """A learner's accuracies, a row for each number of examples, and its median time of training."""

    accuracy: Array
    seconds: float


def five(examples: Examples, first: int) -> Examples:
    """Return the examples of five digits from `first` on, with labels from 0."""
    labels = examples.y - first
    among = (labels >= 0) & (labels < 5)
    return Examples(examples.x[among], labels[among])


def extractor(examples: Examples, steps: int) -> Network:
    """Train a network on the examples, and return it without its last layer."""
    rng = np.random.default_rng(0)
    net = perceptron(rng, SIZES)
    train(net, batches(rng, examples), steps)
    return Network(net.layers[:-1])


def stored(hidden: Network, images: dict[str, Array]) -> dict[str, Array]:
    """Compute the features of images, store them in a file, and load them from it."""
    with TemporaryDirectory() as directory:
        path = Path(directory, "features.safetensors")
        save_file({name: hidden.forward(x) for name, x in images.items()}, path)
        return load_file(path)


def main(*, quick: bool, output: Path) -> dict[str, Result]:
    """Train each learner on each number of examples, and print and draw the accuracies."""
    data = digits_data.load()
    steps, seeds = (100, 2) if quick else (300, 5)
    hidden = extractor(five(data.train, 0), 2 * steps)
    pool, test = five(data.train, 5), five(data.test, 5)
    start = time.perf_counter()
    features = stored(hidden, {"train": pool.x, "test": test.x})
    seconds = time.perf_counter() - start
    learners = {
        "softmax on features": Learner(
            SIZES[1:], Examples(features["train"], pool.y), Examples(features["test"], test.y)
        ),
        "softmax on pixels": Learner((64, 5), pool, test),
        "network from nothing": Learner(SIZES, pool, test),
    }
    results = {}
    for name, learner in learners.items():
        runs = [[learner.learn(seed, each, steps) for seed in range(seeds)] for each in tqdm(EACH, name)]
        accuracy, times = np.moveaxis(np.array(runs), -1, 0)
        results[name] = Result(accuracy, float(np.median(times)))

    images = len(pool.y) + len(test.y)
    print(f"features of {images} images computed, stored and loaded in {1e3 * seconds:.0f} ms")
    print("examples of each digit" + "".join(f"{each:7}" for each in EACH) + "  ms to train")
    for name, result in results.items():
        cells = "".join(f"{accuracy:7.1%}" for accuracy in result.accuracy.mean(axis=1))
        print(f"{name:22}{cells} {1e3 * result.seconds:12.0f}")
    draw(results, output)
    return results


def draw(results: dict[str, Result], output: Path) -> None:
    """Draw mean and standard deviation of the seeds' accuracies over the number of examples."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, result in results.items():
        mean, deviation = result.accuracy.mean(axis=1), result.accuracy.std(axis=1, ddof=1)
        axes.errorbar(EACH, mean, deviation, marker="o", capsize=3, label=name)
    axes.set(xscale="log", xlabel="examples of each digit, 5 to 9", ylabel="accuracy on the test")
    axes.set_title("Learning 5 to 9 from few examples, with features of 0 to 4")
    axes.set_xticks(EACH, map(str, EACH))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    example.run(main, __doc__)
