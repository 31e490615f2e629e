"""From saddle to saddle: a linear autoencoder of digits whose weights start at 0.

At 0, and wherever it has learned fewer principal components than it has hidden units, the gradient is 0 and
the point is a saddle: Baldi & Hornik 1989, doi:10.1016/0893-6080(89)90014-2. There the loss is half the
variance of the missing components, and the lowest eigenvalue of the Hessian is minus the variance of the next
component.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from tqdm import tqdm

import digits_data
import example
import fusedstep as fs
from digits_data import Array
from fusedstep import curvature

RULES: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.3},
    "Momentum": {"lr": 0.05, "momentum": 0.9},
    "Adam": {"lr": 0.01},
}
SMALL = 1e-3


class Autoencoder:
    """``x → x·encode·decode`` for data of covariance `s`; the loss is half the mean squared error."""

    def __init__(self, s: Array, units: int, start: float) -> None:
        rng = np.random.default_rng(0)
        self.s = s
        self.weights = {
            "encode": start * rng.standard_normal((len(s), units)),
            "decode": start * rng.standard_normal((units, len(s))),
        }
        self.losses: list[float] = []
        """The loss at every evaluation of the loss or its gradient."""

    def loss(self) -> float:
        """Return the loss."""
        error = self.weights["encode"] @ self.weights["decode"] - np.eye(len(self.s))
        self.losses.append(float(np.sum(error * (self.s @ error)) / 2))
        return self.losses[-1]

    def gradient(self) -> dict[str, Array]:
        """Return the gradient of the loss."""
        self.loss()
        encode, decode = self.weights["encode"], self.weights["decode"]
        slope = self.s @ (encode @ decode - np.eye(len(self.s)))
        return {"encode": slope @ decode.T, "decode": encode.T @ slope}


@dataclass(frozen=True)
class Visit:
    """A point where the gradient was small."""

    loss: float
    point: curvature.CriticalPoint


@dataclass(frozen=True)
class Result:
    """The critical points on the way from 0, the components' variances, and each run's lowest losses."""

    visits: list[Visit]
    variances: Array
    best: dict[str, Array]


def train(net: Autoencoder, rule: str, steps: int) -> None:
    """Train with a rule, without leaving saddles."""
    opt = fs.rules[rule](net.weights, **RULES[rule])
    for _ in range(steps):
        opt.step(net.gradient())


def descend(net: Autoencoder) -> list[Visit]:
    """Train with SGD, leave each saddle, and return the critical points."""
    opt = fs.SGD(net.weights, **RULES["SGD"])
    visits: list[Visit] = []
    while not visits or visits[-1].point.kind == "saddle":
        if visits:
            curvature.leave(net.loss, net.weights, visits[-1].point)
        while fs.global_norm(gradient := net.gradient()) > SMALL:
            opt.step(gradient)
        visits.append(Visit(net.loss(), curvature.examine(net.gradient, net.weights, small=SMALL)))
    return visits


def main(*, quick: bool, output: Path) -> Result:
    """Train from 0 and from noise, print the critical points and each run's length, and draw the losses."""
    units, steps = (3, 600) if quick else (5, 3000)
    x = digits_data.load().train.x.astype(np.float64)
    s = np.cov(x.T, bias=True)
    variances = np.linalg.eigvalsh(s)[::-1]

    nets = {"SGD, leaving saddles": Autoencoder(s, units, start=0)}
    visits = descend(nets["SGD, leaving saddles"])
    for start, where in ((0.0, "from 0"), (1e-6, "from noise")):
        for rule in tqdm(RULES, desc=where):
            net = nets[f"{rule} {where}"] = Autoencoder(s, units, start)
            train(net, rule, steps)
    best = {name: np.minimum.accumulate(net.losses) for name, net in nets.items()}

    print("components  loss      expected  lowest eigenvalue  expected  kind")
    for visit in visits:
        learned = np.abs([variances[i:].sum() / 2 - visit.loss for i in range(units + 1)]).argmin()
        expected = f"{-variances[learned]:9.6f}" if learned < units else "        0"
        print(
            f"{learned:10}  {visit.loss:.6f}  {variances[learned:].sum() / 2:.6f}"
            f"  {visit.point.lowest:17.6f} {expected}  {visit.point.kind}"
        )
    print("\nrun                   loss      evaluations to 1 % above the lowest loss there is")
    bound = 1.01 * variances[units:].sum() / 2
    for name, losses in best.items():
        done = int((losses > bound).sum())
        print(f"{name:20}  {losses[-1]:.6f}  {'never' if done == len(losses) else done}")
    result = Result(visits, variances, best)
    draw(result, units, output)
    return result


def draw(result: Result, units: int, output: Path) -> None:
    """Draw each run's lowest loss so far over the evaluations, and the losses of the saddles."""
    figure, axes = plt.subplots(figsize=(9, 4), layout="constrained")
    for i in range(units + 1):
        label = "the saddles, and the minimum" if i == 0 else None
        axes.axhline(
            result.variances[i:].sum() / 2, color="gray", linestyle=":", linewidth=1, label=label, zorder=1
        )
    for i, (name, losses) in enumerate(result.best.items()):
        width = 8 - 2 * i if name.endswith("from 0") else 1.5  # so that equal lines stay visible
        axes.plot(np.arange(1, len(losses) + 1), losses, color=f"C{i}", linewidth=width, label=name)
    axes.set(xlabel="evaluations of the loss or its gradient", ylabel="lowest loss so far")
    figure.suptitle("From weights 0 no rule gets away; the Hessian shows the way out of each saddle")
    axes.set_xscale("log")
    figure.legend(loc="outside right center")
    figure.savefig(output, dpi=90)
    plt.close(figure)


if __name__ == "__main__":
    example.run(main, __doc__)
