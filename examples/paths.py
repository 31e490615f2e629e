"""The path of every update rule through a valley and past a saddle.

Each rule has the learning rate, from a grid, whose path stays in the picture and has the lowest mean loss.
All else is the rule's default, but weight decay is off: it would pull the paths towards the origin.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import SubFigure
from PIL import Image
from tqdm import tqdm

import example
import fusedstep as fs

Array = np.ndarray[Any, Any]

BANDS = [str(grey) for grey in np.linspace(1, 0.85, 6)]
HALFWAY = 0.25
"""Half the loss at the saddle, which is 1/2; it is 0 at the minima beyond."""


@dataclass(frozen=True)
class Surface:
    """A loss of two parameters with a minimum at (1, 1), the start of the paths, and the part to draw."""

    loss: Callable[[Any, Any], Any]
    gradient: Callable[[float, float], tuple[float, float]]
    start: tuple[float, float]
    steps: int
    corners: tuple[tuple[float, float], tuple[float, float]]
    levels: tuple[float, ...]


@dataclass(frozen=True)
class Trail:
    """The path of a rule with a learning rate: its points, and the loss at each."""

    lr: float
    points: Array
    losses: Array

    @property
    def left_saddle(self) -> int | None:
        """The first step with a loss below half that of the saddle."""
        below = np.flatnonzero(self.losses < HALFWAY)
        return int(below[0]) if len(below) else None


SURFACES = {
    # Rosenbrock 1960, doi:10.1093/comjnl/3.3.175
    "valley": Surface(
        loss=lambda a, b: (1 - a) ** 2 + 100 * (b - a**2) ** 2,
        gradient=lambda a, b: (-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)),
        start=(-1.2, 1.0),
        steps=300,
        corners=((-1.7, -0.7), (1.7, 1.9)),
        levels=(0, 1, 10, 50, 200, 1000, 3000),
    ),
    # A linear network of two layers, one unit each. Baldi & Hornik 1989, doi:10.1016/0893-6080(89)90014-2
    "saddle": Surface(
        loss=lambda a, b: (1 - a * b) ** 2 / 2,
        gradient=lambda a, b: (-(1 - a * b) * b, -(1 - a * b) * a),
        start=(1.5, -1.49),
        steps=100,
        corners=((-2.2, -2.2), (2.2, 2.2)),
        levels=(0, 0.1, 0.3, 0.5, 1, 4, 18),
    ),
}


def walk(rule: str, lr: float, surface: Surface, steps: int) -> Trail | None:
    """Return the path of a rule, or None if it leaves the picture."""
    point = np.array(surface.start)
    opt = fs.rules[rule](point, lr=lr, weight_decay=0.0)
    low, high = surface.corners
    points = [point.copy()]
    for _ in range(steps):
        opt.step(np.array(surface.gradient(*point)), loss=float(surface.loss(*point)))
        if not ((low < point) & (point < high)).all():
            return None
        points.append(point.copy())
    if isinstance(opt, fs.ScheduleFreeSGD | fs.ScheduleFreeAdamW):
        opt.eval()  # the path has the points where gradients were taken, and ends at their average
        points.append(point.copy())
    return Trail(lr, np.array(points), surface.loss(*np.transpose(points)))


def best_walk(rule: str, rates: Array, surface: Surface, steps: int) -> Trail:
    """Return the path with the lowest mean loss among these learning rates."""
    trails = [trail for lr in rates if (trail := walk(rule, lr, surface, steps))]
    return min(trails, key=lambda trail: trail.losses.mean())


def draw_family(figure: SubFigure, family: str, trails: dict[str, dict[str, Trail]]) -> None:
    """Draw the paths of some rules on each surface, each thinner than the last, so that equal ones show."""
    figure.suptitle(family.replace("_", " "), fontweight="bold", fontsize="medium")
    for (name, surface), axes in zip(SURFACES.items(), figure.subplots(1, 2), strict=True):
        grid = np.meshgrid(*np.linspace(*surface.corners, 100).T)
        axes.contourf(*grid, surface.loss(*grid), surface.levels, colors=BANDS)
        for i, (rule, found) in enumerate(trails.items()):
            points = found[name].points
            axes.plot(*points.T, color=f"C{i}", linewidth=3.2 - 0.4 * i, label=rule)
            axes.plot(*points[-1], "o", color=f"C{i}", markersize=6 - 0.5 * i)
        axes.plot(*surface.start, "ks", markersize=4)
        axes.plot(1, 1, "k*", markersize=9)
        axes.set(xticks=[], yticks=[])
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        fontsize="x-small",
        frameon=False,
    )


def main(*, quick: bool, output: Path) -> dict[str, dict[str, Trail]]:
    """Find each rule's path on each surface, print where it led, and draw the paths by family."""
    rates = np.logspace(-4, 3, 8 if quick else 22)
    part = 3 if quick else 1
    trails = {
        rule: {
            name: best_walk(rule, rates, surface, surface.steps // part) for name, surface in SURFACES.items()
        }
        for rule in tqdm(fs.rules, unit="rule")
    }

    print("                        valley                  saddle")
    print("rule                  lr  loss at the end       lr  left at step")
    for rule, found in trails.items():
        valley, saddle = found["valley"], found["saddle"]
        left = saddle.left_saddle or "never"
        print(f"{rule:17} {valley.lr:8.2g} {valley.losses[-1]:12.2g} {saddle.lr:8.2g} {left:>12}")

    families = [
        (family, {rule: trails[rule] for rule in rules})
        for family, rules in groupby(fs.rules, lambda rule: fs.rules[rule].__module__.rpartition(".")[2])
    ]
    figure = plt.figure(figsize=(13, 10.5), layout="constrained")
    figure.suptitle(
        "Every rule, by family: along a curved valley (left), and past a saddle (right), from square to star"
    )
    panels = figure.subfigures(math.ceil(len(families) / 3), 3, squeeze=False).flat
    for panel, (family, members) in zip(panels, families, strict=False):
        draw_family(panel, family, members)
    figure.savefig(output, dpi=72)
    Image.open(output).convert("RGB").quantize(64).save(output, optimize=True)  # to a quarter of the bytes
    plt.close(figure)
    return trails


if __name__ == "__main__":
    example.run(main, __doc__)
