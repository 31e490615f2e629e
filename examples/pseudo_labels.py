"""Semi-supervised digits: a network learns from few labels, and from labels that it gives itself.

Lee 2013, "Pseudo-Label", ICML Workshop on Challenges in Representation Learning: the class that a network
finds most likely becomes the label of an unlabelled image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import digits_data
import example
from digits_data import Array, Digits, Examples
from network import Network, perceptron
from training import batches, figure_of_seeds, pick, summary, train

EACH = 10  # labelled images of each digit
BATCH = 32
PSEUDO = 9  # unlabelled images in each batch
assert 1 / 4 <= PSEUDO / BATCH <= 1 / 3
REFRESHES = 6  # how many times the pseudo-labels are computed


@dataclass(frozen=True)
class Result:
    """The accuracy on the test for each seed, with labelled images alone and with pseudo-labels."""

    baseline: Array
    pseudo: Array

    @property
    def gain(self) -> Array:
        """The accuracy that pseudo-labels add."""
        return self.pseudo - self.baseline


def mixed(
    rng: np.random.Generator,
    labelled: Examples,
    unlabelled: Array,
    teacher: Network,
    net: Network,
    every: int,
) -> Iterator[Examples]:
    """Yield batches with pseudo-labels: first the teacher's, then new ones of `net` after every `every`."""
    certain = batches(rng, labelled, BATCH - PSEUDO)
    while True:
        guessed = batches(rng, Examples(unlabelled, teacher.predict(unlabelled).argmax(axis=1)), PSEUDO)
        for _ in range(every):
            (x, y), (other_x, guesses) = next(certain), next(guessed)
            yield Examples(np.concatenate([x, other_x]), np.concatenate([y, guesses]))
        teacher = net


def compare(data: Digits, seed: int, steps: int) -> tuple[float, float]:
    """Return the accuracies of two networks, one trained without and one with unlabelled images."""
    rng = np.random.default_rng(seed)
    labelled, unlabelled = pick(rng, data.train, EACH)
    baseline, net = (perceptron(rng, (64, 128, 10), keep=0.5) for _ in range(2))
    train(baseline, batches(rng, labelled, BATCH), steps)
    train(net, mixed(rng, labelled, unlabelled.x, baseline, net, steps // REFRESHES), steps)
    return baseline.accuracy(*data.test), net.accuracy(*data.test)


def main(*, quick: bool, output: Path) -> Result:
    """Compare for each of five seeds, and print and draw the accuracies."""
    data = digits_data.load()
    steps = 300 if quick else 600
    found = np.array([compare(data, seed, steps) for seed in tqdm(range(5), unit="seed")])
    result = Result(*found.T)
    print(f"{10 * EACH} labelled images, {PSEUDO / BATCH:.0%} of each batch are others")
    print("seed     labelled alone  pseudo-labels    gain")
    for seed, (baseline, pseudo) in enumerate(found):
        print(f"{seed:<8} {baseline:15.1%} {pseudo:14.1%} {100 * (pseudo - baseline):+7.1f}")
    print(f"gain: {summary(result.gain)}, mean and standard deviation over the seeds")
    draw(result, output)
    return result


def draw(result: Result, output: Path) -> None:
    """Draw a line from each seed's baseline to its accuracy with pseudo-labels."""
    seeds = np.arange(len(result.gain))
    with figure_of_seeds(output, f"Pseudo-labels: {summary(result.gain)}", seeds) as axes:
        for seed, baseline, pseudo in zip(seeds, result.baseline, result.pseudo, strict=True):
            axes.annotate(
                "", (seed, pseudo), (seed, baseline), arrowprops={"arrowstyle": "->", "color": "0.6"}
            )
        axes.plot(seeds, result.baseline, "o", label=f"{10 * EACH} labelled images alone")
        axes.plot(seeds, result.pseudo, "o", label="with pseudo-labels of the others")


if __name__ == "__main__":
    example.run(main, __doc__)
