"""Every rule against other libraries: ``python bench/peers.py [--json FILE] [--chart FILE]``.

Each row is a case (a list of tensors) and a rule. "clipped" means with clipping by the global norm, "bf16"
with everything in bfloat16, "bf16 gradients" with only these. The columns are the time of a step of
fusedstep, in µs and in ns for each parameter; the time of a loop with the traffic of the unclipped step and
next to no arithmetic, in percent of the step's; and how many times as long a step of each peer takes. All
peers have as many threads as fusedstep, except optax, whose compiler XLA uses all cores. The peers are timed
in turns, after a check that some steps from the same values end in the same values, and a turn begins with a
pause: bench/loop.py has AdamW between other work. A dash means that the peer is not installed or lacks this
rule.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import agreement
import limit
import measure
from peer_libraries import OWN, PEERS, Library, Rule, UnavailableError

LR = {"lr": 0.01}
MOMENTUM = {"momentum": 0.9}
ADAGRAD = {**LR, "eps": 1e-10}
RMSPROP = {**LR, "rho": 0.9, "eps": 1e-8}
ADAM = {**LR, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
ADAMW = {**ADAM, "weight_decay": 0.01}
RADAM = {**ADAM, "beta2": 0.99}  # at 0.999, few digits of the rectification survive optax's single precision
CENTERED = {"centered": True}
AMSGRAD = {"amsgrad": True}

# optax.amsgrad is another rule: it takes the largest corrected second moment; Adam here corrects the largest.
RULES = {
    "SGD": Rule("SGD", LR, "SGD", "sgd", "sgd"),
    "Momentum": Rule("Momentum", {**LR, **MOMENTUM}, "SGD", "sgd", "momentum"),
    "Nesterov": Rule("Nesterov", {**LR, **MOMENTUM}, "SGD", "sgd", switch={"nesterov": True}),
    "Adagrad": Rule("Adagrad", ADAGRAD, "Adagrad", "adagrad", "adagrad", "DeepSpeedCPUAdagrad"),
    "RMSProp": Rule("RMSProp", RMSPROP, "RMSprop", "rmsprop", "rmsprop"),
    "RMSProp centered": Rule("RMSProp", {**RMSPROP, **CENTERED}, "RMSprop", "rmsprop"),
    "RMSProp momentum": Rule("RMSProp", {**RMSPROP, **MOMENTUM}, "RMSprop", "rmsprop"),
    "RMSProp centered momentum": Rule("RMSProp", {**RMSPROP, **CENTERED, **MOMENTUM}, "RMSprop", "rmsprop"),
    "Adam": Rule("Adam", ADAM, "Adam", "adam", "adam", "DeepSpeedCPUAdam"),
    "Adam amsgrad": Rule("Adam", {**ADAM, **AMSGRAD}, "Adam"),
    "AdamW": Rule("AdamW", ADAMW, "AdamW", "adamw", "adam", "DeepSpeedCPUAdam"),
    "AdamW amsgrad": Rule("AdamW", {**ADAMW, **AMSGRAD}, "AdamW"),
    "RAdam": Rule("RAdam", RADAM, "RAdam", "radam"),
    "NAdam": Rule("NAdam", ADAM, "NAdam"),
    "Adamax": Rule("Adamax", ADAM, "Adamax"),
    "Adadelta": Rule("Adadelta", {"lr": 1.0, "rho": 0.9, "eps": 1e-6}, "Adadelta"),
    "Rprop": Rule("Rprop", LR, "Rprop"),
    "ASGD": Rule("ASGD", LR, "ASGD"),
}
CLIPPED = ["SGD", "Adam", "AdamW"]

D = 384
BLOCK = [(D,), (D,), (D, 3 * D), (3 * D,), (D, D), (D,), (D,), (D,), (D, 4 * D), (4 * D,), (4 * D, D), (D,)]
CASES: dict[str, list[tuple[int, ...]]] = {
    "64M": [(64 * 10**6,)],
    "1M": [(10**6,)],
    "10k": [(10**4,)],
    "1000 x 1000": [(1000,)] * 1000,
    "small GPT": [(65, D), (256, D), *(BLOCK * 6), (D,), (D,)],
    "digits MLP": [(64, 128), (128,), (128, 10), (10,)],
}
CASES_16_BIT = ["64M", "1M"]
ROUNDS = 11

# Okabe and Ito's colors, which color-blind people can tell apart
COLORS = dict(zip(PEERS, ("#D55E00", "#E69F00", "#009E73", "#CC79A7", "#56B4E9"), strict=True))


@dataclass(frozen=True)
class Setting:
    """One measurement for a list of tensors: the rule, clipping, dtypes and peers."""

    rule: str
    clipped: bool = False
    parameters: str = "float32"
    gradients: str = "float32"
    peers: Collection[str] = tuple(PEERS)

    @property
    def in_float32(self) -> bool:
        """Whether parameters and gradients are kept in float32."""
        return self.parameters == self.gradients == "float32"

    @property
    def tolerance(self) -> tuple[float, float]:
        """How much the peers' results may differ, relative and absolute."""
        if self.parameters == "bfloat16":
            return 1e-2, 1e-3
        # torch sums squares in single precision, and its norm of 64 million elements is 0.6 % off.
        return 1e-5, 1e-5 if self.clipped else 1e-6

    @property
    def label(self) -> str:
        """The name of the rule in the table."""
        if self.in_float32:
            return f"{self.rule} clipped" if self.clipped else self.rule
        return f"{self.rule} bf16" if self.parameters == "bfloat16" else f"{self.rule} bf16 gradients"


def settings(case: str) -> Iterator[Setting]:
    """The settings that are measured for this case."""
    yield from (Setting(rule) for rule in RULES)
    yield from (Setting(rule, clipped=True) for rule in CLIPPED)
    if case in CASES_16_BIT:
        # The other peers round each operation to bfloat16, and no peer takes gradients of another dtype.
        yield Setting("AdamW", parameters="bfloat16", gradients="bfloat16", peers=("torch fused",))
        yield Setting("AdamW", gradients="bfloat16", peers=())


def bench(library: Any, api: str, case: str, setting: Setting, rounds: int) -> dict[str, Any]:
    """Check that all libraries agree, and return one row with the median seconds of each."""
    rule, shapes = RULES[setting.rule], CASES[case]
    rng = np.random.default_rng(0)
    parameters = [rng.standard_normal(shape, np.float32).astype(setting.parameters) for shape in shapes]
    gradients = [agreement.away_from_zero(rng, shape).astype(setting.gradients) for shape in shapes]
    ours = OWN[api](rule, parameters, setting.clipped)
    peers: dict[str, Library] = {}
    for name in setting.peers:
        with contextlib.suppress(UnavailableError):
            peers[name] = PEERS[name](rule, parameters, setting.clipped)
    del parameters

    agreement.check(ours, peers, gradients, f"{case}, {setting.label}", setting.tolerance)
    works: dict[str, measure.Work | list[measure.Work]] = {"fusedstep": ours.step}
    n = sum(map(math.prod, shapes))
    if setting.in_float32:
        works["limit"] = limit.streams(library, n, np.dtype(np.float32), limit.passes(rule.kernel))
    works |= {name: peer.step for name, peer in peers.items()}
    return {
        "case": case,
        "rule": setting.label,
        "tensors": len(shapes),
        "n": n,
        "seconds": measure.interleaved(works, rounds),
    }


def line(row: dict[str, Any]) -> str:
    """Return the row as Markdown."""
    seconds = row["seconds"]
    own = seconds["fusedstep"]
    cells = [row["case"], row["rule"], f"{own * 1e6:.1f}", f"{own / row['n'] * 1e9:.3f}"]
    cells.append(f"{100 * seconds['limit'] / own:.0f}" if "limit" in seconds else "–")
    cells += [f"{two_digits(seconds[name] / own)}" if name in seconds else "–" for name in PEERS]
    return f"| {' | '.join(cells)} |"


def two_digits(ratio: float) -> str:
    """Return the ratio with two digits, or as an integer if that has more."""
    return f"{ratio:.{max(0, 1 - math.floor(math.log10(ratio)))}f}"


def chart(rows: list[dict[str, Any]], file: Path) -> None:
    """Draw, for one large tensor, how near each rule is to the memory limit, and how long the peers take."""
    large = [row for row in rows if row["case"] == "64M" and row["rule"] in RULES]

    plt = importlib.import_module("matplotlib.pyplot")
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titleweight": "bold"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained", sharey=True)
    for axes in (left, right):
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)

    percents = [100 * row["seconds"]["limit"] / row["seconds"]["fusedstep"] for row in large]
    names = [row["rule"] for row in large]
    left.barh(names, percents, color="#0072B2", height=0.7)
    left.invert_yaxis()
    for y, percent in enumerate(percents):
        left.text(3, y, f"{percent:.0f} %", color="white", va="center")
    left.axvline(100, color="black", linewidth=1, linestyle="--")
    left.set_title("How near the memory limit")
    left.set_xlabel("speed in % of a loop that only moves the bytes")

    for (peer, color), marker in zip(COLORS.items(), "osD^v", strict=True):
        ratios = {
            name: row["seconds"][peer] / row["seconds"]["fusedstep"]
            for name, row in zip(names, large, strict=True)
            if peer in row["seconds"]
        }
        if ratios:
            right.scatter(
                ratios.values(),
                [names.index(name) for name in ratios],
                s=45,
                color=color,
                edgecolors="white",
                marker=marker,
                label=peer,
                zorder=2,
            )
    right.set_xscale("log")
    right.xaxis.set_major_formatter("{x:g}×")
    right.axvline(1, color="black", linewidth=1, linestyle="--")
    right.grid(color="0.9")
    right.set_axisbelow(True)
    right.set_title("Other libraries")
    right.set_xlabel("times as long as fusedstep takes for a step")
    figure.suptitle("One tensor of 64 million float32")
    figure.legend(loc="outside lower right", ncols=len(PEERS), frameon=False, handletextpad=0.1)
    figure.savefig(file, dpi=200)


def main() -> None:
    """Measure, print the table, and draw the chart."""
    parser = argparse.ArgumentParser(prog="python bench/peers.py")
    parser.add_argument("--json", type=Path, help="write the figures here, in seconds")
    parser.add_argument("--chart", type=Path, help="draw the figures here, as PNG")
    parser.add_argument("--from-json", type=Path, help="take the figures from here instead of measuring")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES, help="only these")
    parser.add_argument("--rules", nargs="*", choices=RULES, default=RULES, help="only these")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS, help="only these")
    parser.add_argument("--api", choices=OWN, default="numpy", help="which of ours: default %(default)s")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default %(default)s")
    options = parser.parse_args()

    if options.from_json:
        figures = json.loads(options.from_json.read_text())
    else:
        versions = measure.versions()
        library = limit.build()
        chosen = [
            (case, replace(setting, peers=[name for name in setting.peers if name in options.peers]))
            for case in options.cases
            for setting in settings(case)
            if setting.rule in options.rules
        ]
        figures = {
            "machine": {"api": options.api, **measure.machine()},
            "versions": versions,
            "rows": (bench(library, options.api, case, setting, options.rounds) for case, setting in chosen),
        }
    for part in ("machine", "versions"):
        print(", ".join(f"{key} {value}" for key, value in figures[part].items()))
    columns = ["case", "rule", "µs", "ns/param", "% of limit", *(f"x {name}" for name in PEERS)]
    print(f"| {' | '.join(columns)} |\n|---|---|{'--:|' * (len(columns) - 2)}", flush=True)
    rows = []
    for row in figures["rows"]:
        rows.append(row)
        print(line(row), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**figures, "rows": rows}, indent=1))
    if options.chart:
        chart(rows, options.chart)


if __name__ == "__main__":
    main()
