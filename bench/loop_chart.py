"""The chart of bench/loop.py: how long a step takes, in ratio to torch's fused step, in each setting."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

# Okabe and Ito's colors, which color-blind people can tell apart
STYLES = {
    "fusedstep": ("#0072B2", "o"),
    "fusedstep.torch": ("#56B4E9", "s"),
    "torch fused": ("#D55E00", "v"),
    "torch foreach": ("#E69F00", "D"),
    "optax": ("#009E73", "^"),
}
ONE_THREAD = ", 1 thread"  # as on all threads, but hollow
SPREAD = 0.75  # the part of a row's height that its markers take


def draw(rows: list[dict[str, Any]], reference: str, file: Path) -> None:
    """Draw a panel for each setting, with a row for each case."""
    rows = [row for row in rows if reference in row["seconds"]]
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    cases = list(dict.fromkeys(row["case"] for row in rows))
    names = {name for row in rows for name in row["seconds"]}
    drawn = [name for style in STYLES for name in (style, style + ONE_THREAD) if name in names]

    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"})
    figure, panels = plt.subplots(
        ncols=len(settings),
        figsize=(2.5 + 1.9 * len(settings), 1.3 + (0.1 + 0.06 * len(drawn)) * len(cases)),
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes, setting in zip(panels[0], settings, strict=True):
        decorate(axes, setting, len(cases))
        for k, name in enumerate(drawn):
            shift = SPREAD * ((k + 0.5) / len(drawn) - 0.5)
            dots = {
                cases.index(row["case"]) + shift: [
                    s / row["seconds"][reference][1] for s in row["seconds"][name]
                ]
                for row in rows
                if row["setting"] == setting and name in row["seconds"]
            }
            scatter(axes, name, dots)
    first = panels[0][0]
    first.set_yticks(range(len(cases)), cases)
    first.set_ylim(len(cases) - 0.5, -0.5)
    first.set_xscale("log")
    first.xaxis.set_major_formatter("{x:g}")
    first.xaxis.set_minor_formatter("")
    low, high = first.get_xlim()
    first.set_xlim(min(low, 0.1), max(high, 10))
    figure.supxlabel(f"time of a step ({reference}: 1),\nlines from the 1st to the 9th decile", fontsize=9)
    legend = {"ncols": min(len(drawn), 1 + len(settings)), "frameon": False, "handletextpad": 0.1}
    figure.legend(*first.get_legend_handles_labels(), loc="outside upper center", **legend)
    figure.savefig(file, dpi=200)


def decorate(axes: Any, setting: str, cases: int) -> None:
    """Draw all but the figures."""
    axes.set_title(setting)
    axes.axvline(1, color="black", linewidth=1, linestyle="--", zorder=1)
    axes.grid(axis="x", color="0.85", zorder=1)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for case in range(1, cases, 2):
        axes.axhspan(case - 0.5, case + 0.5, color="0.95", zorder=0)


def scatter(axes: Any, name: str, dots: dict[float, list[float]]) -> None:
    """Draw a contestant's deciles at their heights."""
    color, marker = STYLES[name.removesuffix(ONE_THREAD)]
    inside, edge = ("white", color) if name.endswith(ONE_THREAD) else (color, "white")
    lows, medians, highs = ([deciles[k] for deciles in dots.values()] for k in range(3))
    axes.hlines(list(dots), lows, highs, color=color, linewidth=1.2, alpha=0.7, zorder=2)
    axes.scatter(medians, list(dots), s=28, c=inside, edgecolors=edge, marker=marker, label=name, zorder=3)
