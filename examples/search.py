"""Search for hyperparameters at random, on logarithmic scales, from coarse to fine.

Bergstra & Bengio 2012, JMLR 13:281-305: random trials find more than a grid of as many points, because each
trial has a new value of every hyperparameter. Optuna draws and keeps the trials. The first stage trains many
networks for a short time on few examples, in wide ranges; each further stage trains fewer networks, for
longer, in ranges around the best trials.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from tqdm import tqdm

import digits_data
import example
import fusedstep as fs
from digits_data import Digits
from fusedstep import schedules
from network import Network, perceptron

Range = tuple[float, float]
Values = dict[str, float]


@dataclass(frozen=True)
class Stage:
    """The number of networks that a stage trains, of epochs for each, and of examples."""

    trials: int
    epochs: int
    examples: int


@dataclass(frozen=True)
class Found:
    """The ranges that a stage searched, and its trials, with the best first."""

    ranges: dict[str, Range]
    trials: list[optuna.trial.FrozenTrial]


@dataclass(frozen=True)
class Result:
    """The stages, and the test accuracy of the last stage's best network."""

    stages: list[Found]
    accuracy: float


def search(
    objective: Callable[[Values, Stage], float],
    ranges: dict[str, Range],
    stages: Sequence[Stage],
    seed: int = 0,
) -> list[Found]:
    """Maximize the objective, stage by stage."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = []
    with tqdm(total=sum(stage.trials for stage in stages), unit="trial") as bar:
        for i, stage in enumerate(stages):
            study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed + i))
            for _ in range(stage.trials):
                trial = study.ask()
                # log=True draws 10 ** uniform(-6, 1) from (1e-6, 10): all powers of ten are equally likely.
                values = {name: trial.suggest_float(name, *ends, log=True) for name, ends in ranges.items()}
                study.tell(trial, objective(values, stage))
                bar.update()
            trials = sorted(study.trials, key=lambda trial: trial.values[0], reverse=True)
            found.append(Found(ranges, trials))
            tqdm.write(table(stage, found[-1]))
            ranges = refined(found[-1])
    return found


def refined(found: Found) -> dict[str, Range]:
    """Narrow each range to the best eighth of the trials; move a range if the best trial is at its edge."""
    best = found.trials[: max(1, len(found.trials) // 8)]
    ranges = {}
    for name, ends in found.ranges.items():
        values = np.log10([trial.params[name] for trial in best])
        low, high = np.log10(ends)
        width = high - low
        if 0.05 < (values[0] - low) / width < 0.95:
            lower, upper = max(low, values.min() - width / 8), min(high, values.max() + width / 8)
        else:
            lower, upper = values[0] - width / 2, values[0] + width / 2
            searched = f"{ends[0]:.2g} to {ends[1]:.2g}"
            warnings.warn(f"the best {name} lies at the edge of the range searched, {searched}", stacklevel=2)
        ranges[name] = (float(10**lower), float(10**upper))
    return ranges


def table(stage: Stage, found: Found) -> str:
    """Format the ranges that a stage searched, and its best trials."""
    ranges = ", ".join(f"{name} {low:.1e} to {high:.1e}" for name, (low, high) in found.ranges.items())
    lines = [f"{stage.trials} trials of {stage.epochs} epochs on {stage.examples} examples: {ranges}"]
    lines.append(" trial  accuracy" + "".join(f"{name:>10}" for name in found.ranges))
    for trial in found.trials[:5]:
        values = "".join(f"{trial.params[name]:10.1e}" for name in found.ranges)
        lines.append(f"{trial.number:6} {trial.value:9.1%}{values}")
    return "\n".join([*lines, ""])


def train(data: Digits, values: Values, stage: Stage) -> Network:
    """Train a network; all networks start from the same weights and see the same batches."""
    rng = np.random.default_rng(0)
    x, y = data.train.x[: stage.examples], data.train.y[: stage.examples]
    epochs = [digits_data.batches(rng, len(y), 32) for _ in range(stage.epochs)]
    net = perceptron(rng, (64, 64, 64, 10), keep=0.9)
    lr = schedules.Cosine(values["lr"], steps=sum(map(len, epochs)))
    opt = fs.Nesterov([{"params": net.weights, "l2": values["l2"]}, {"params": net.others}], lr=lr)
    for batch in (batch for epoch in epochs for batch in epoch):
        opt.step(net.loss_and_gradients(x[batch], y[batch])[1])
    return net


def main(*, quick: bool, output: Path) -> Result:
    """Search, print a table of each stage, test the best network, and draw all trials."""
    data = digits_data.load()
    count = len(data.train.y)
    stages = (Stage(40, 3, 320), Stage(20, 10, count), Stage(10, 30, count))
    if quick:
        stages = (Stage(16, 2, 320), Stage(6, 2, count), Stage(3, 4, count))

    def accuracy(values: Values, stage: Stage) -> float:
        with np.errstate(all="ignore"):  # too high a rate gives infinities, and chance accuracy
            return train(data, values, stage).accuracy(*data.validation)

    found = search(accuracy, {"lr": (1e-6, 10), "l2": (1e-6, 10)}, stages)
    best = found[-1].trials[0]
    result = Result(found, train(data, best.params, stages[-1]).accuracy(*data.test))
    print(f"test accuracy with lr {best.params['lr']:.1e}, l2 {best.params['l2']:.1e}: {result.accuracy:.1%}")
    draw(result, output)
    return result


def draw(result: Result, output: Path) -> None:
    """Draw the trials of each stage, with the ranges of the next stage."""
    count = len(result.stages)
    figure, panels = plt.subplots(
        1, count, sharex=True, sharey=True, figsize=(4 * count, 4), layout="constrained"
    )
    for i, (axes, found) in enumerate(zip(panels, result.stages, strict=True)):
        lr, l2 = ([trial.params[name] for trial in found.trials] for name in ("lr", "l2"))
        points = axes.scatter(lr, l2, c=[trial.value for trial in found.trials])
        figure.colorbar(points, format=PercentFormatter(1, decimals=1))
        axes.scatter(lr[0], l2[0], s=120, facecolors="none", edgecolors="C3", label="best")
        for after in result.stages[i + 1 : i + 2]:
            (left, right), (low, high) = after.ranges.values()
            size = right - left, high - low
            axes.add_patch(Rectangle((left, low), *size, fill=False, ls=":", ec="C3", label="next stage"))
        axes.set(xscale="log", yscale="log", xlabel="learning rate", title=f"stage {i + 1}")
        axes.legend(fontsize="small")
    panels[0].set_ylabel("strength of L2")
    best = ", ".join(f"{found.trials[0].value:.1%}" for found in result.stages)
    figure.suptitle(f"Validation accuracy; the best of each stage: {best}")
    figure.savefig(output, dpi=72)
    plt.close(figure)


if __name__ == "__main__":
    example.run(main, __doc__)
