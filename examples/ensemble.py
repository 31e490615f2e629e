"""Several networks, from different starts, against their ensemble.

Dietterich 2000, doi:10.1007/3-540-45014-9_1; Lakshminarayanan, Pritzel & Blundell, arXiv:1612.01474: networks
that are equally accurate err on different inputs, so that the mean of their predictions errs less.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import digits_data
import example
from digits_data import Array, Digits
from fusedstep.averaging import Ensemble
from network import perceptron
from training import batches, figure_of_seeds, pick, summary, train

MEMBERS = 5
EACH = 10  # images of each digit to train on


@dataclass(frozen=True)
class Result:
    """The accuracies of the members and of their ensemble on the test, a row for each seed."""

    members: Array
    ensemble: Array

    @property
    def gain(self) -> Array:
        """The ensemble's advantage over the mean of its members."""
        gain: Array = self.ensemble - self.members.mean(axis=1)
        return gain


def compare(data: Digits, seed: int, steps: int) -> tuple[list[float], float]:
    """Return the accuracies of networks that learn from the same few images, and of their ensemble."""
    rng = np.random.default_rng(seed)
    few, _ = pick(rng, data.train, EACH)
    members = [perceptron(rng, (64, 64, 10)) for _ in range(MEMBERS)]
    for net in members:
        train(net, batches(rng, few), steps)
    ensemble = Ensemble([net.predict for net in members])
    right = ensemble(data.test.x).argmax(axis=1) == data.test.y
    return [net.accuracy(*data.test) for net in members], float(right.mean())


def main(*, quick: bool, output: Path) -> Result:
    """Compare for each of five seeds, and print and draw the accuracies."""
    data = digits_data.load()
    found = [compare(data, seed, 80 if quick else 300) for seed in tqdm(range(5), unit="seed")]
    members, ensembles = map(np.array, zip(*found, strict=True))
    result = Result(members, ensembles)
    print("seed   members' mean    best  ensemble    gain")
    for seed, (of, ensemble, gain) in enumerate(zip(members, ensembles, result.gain, strict=True)):
        print(f"{seed:<6} {of.mean():14.1%} {of.max():7.1%} {ensemble:9.1%} {100 * gain:+7.1f}")
    print(f"over the mean member: {summary(result.gain)}, mean and standard deviation over the seeds")
    print(f"over the best member: {summary(ensembles - members.max(axis=1))}")
    draw(result, output)
    return result


def draw(result: Result, output: Path) -> None:
    """Draw the accuracies of each seed's members, their mean, and their ensemble."""
    seeds = np.arange(len(result.ensemble))
    title = f"The ensemble against its mean member: {summary(result.gain)}"
    with figure_of_seeds(output, title, seeds) as axes:
        axes.plot(seeds, result.members, "o", color="C0", alpha=0.4)
        means = result.members.mean(axis=1)
        axes.plot(seeds, means, "_", color="C0", markersize=24, label="members, and their mean")
        axes.plot(seeds, result.ensemble, "*", color="C1", markersize=12, label="ensemble")


if __name__ == "__main__":
    example.run(main, __doc__)
