"""AdamW's step between other work: ``python bench/loop.py [--training] [--json FILE] [--chart FILE]``.

In a training loop a step follows other work, whose threads may still hold the cores, and whose data fill the
caches. Each row is a setting, that is, what comes right before each step:

- alone: 10 ms of the same step,
- after torch: 10 ms of forward and backward passes of a small network in torch, on all threads,
- after NumPy: 10 ms of NumPy's matrix products,
- busy core: as after torch, while another process keeps one processor busy,
- sleep: 20 ms of sleep;

and a case, a list of float32 tensors; "clipped" means with clipping by the global norm. The columns are the
median µs of each contestant's step, with the 1st and 9th decile, and the medians of ours in ratio to that of
torch's fused step: below 1, ours is faster. Only the step is timed. The contestants have their turns in each
round, without a pause, after a check that some steps from the same values end in the same values. All have as
many threads as fusedstep, except optax, whose compiler XLA uses all cores. A dash means that the library is
not installed. With ``--limit`` there is a column of what memory allows: loops that move the bytes of such a
step over one tensor with next to no arithmetic, in turns with the others.

``--training`` measures real training instead: forward, backward, step and zero_grad of networks in torch, of
which only the step is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import agreement
import fusedstep as fs
import limit
import loop_chart
import loop_training
import measure
import peers
from loop_settings import SETTINGS, Before
from peer_libraries import OWN, PEERS, Array, Library, Rule, UnavailableError

CASES: dict[str, list[tuple[int, ...]]] = {
    "10k": [(10**4,)],
    "1M": [(10**6,)],
    "8M": [(8 * 10**6,)],
    "100 x 10k": [(10**4,)] * 100,
    "1000 x 1000": [(1000,)] * 1000,
    "MLP": peers.CASES["digits MLP"],
    "GPT": peers.CASES["small GPT"],
}
CONTESTANTS: dict[str, Callable[[Rule, list[Array], bool], Library]] = {
    "fusedstep": OWN["numpy"],
    "fusedstep.torch": OWN["torch"],
    **{name: PEERS[name] for name in ("torch fused", "torch foreach", "optax")},
}
ON_ONE_THREAD = {
    f"{name}{loop_chart.ONE_THREAD}": CONTESTANTS[name] for name in ("fusedstep", "fusedstep.torch")
}
REFERENCE = "torch fused"
LIMITS = ["limit", f"limit{loop_chart.ONE_THREAD}"]
THREADS = fs.get_num_threads()
ROUNDS = 100


def made(names: list[str], case: str, clipped: bool) -> dict[str, Library]:
    """Make the contestants that are installed, and check that they agree."""
    rng = np.random.default_rng(0)
    parameters = [rng.standard_normal(shape, np.float32) for shape in CASES[case]]
    gradients = [agreement.away_from_zero(rng, shape) for shape in CASES[case]]
    libraries: dict[str, Library] = {}
    fs.set_num_threads(THREADS)
    for name in names:
        with contextlib.suppress(UnavailableError):
            libraries[name] = (CONTESTANTS | ON_ONE_THREAD)[name](peers.RULES["AdamW"], parameters, clipped)
    setting = peers.Setting("AdamW", clipped)
    first, *others = libraries
    rest = {name: libraries[name] for name in others}
    agreement.check(libraries[first], rest, gradients, f"{case}, {setting.label}", setting.tolerance)
    return libraries


def limit_step(case: str, clipped: bool) -> measure.Work:
    """Return loops that move the bytes of a step."""
    norm = [limit.Traffic(0, 1)] if clipped else []
    traffic = [*norm, *limit.passes(fs.AdamW.update)]
    return limit.streams(limit.build(), sum(map(math.prod, CASES[case])), np.dtype(np.float32), traffic)[-1]


def turn(name: str, step: measure.Work, before: Before) -> tuple[measure.Work, measure.Work]:
    """Return what comes before the contestant's step, and the step."""

    def prepare() -> None:
        fs.set_num_threads(1 if name.endswith(loop_chart.ONE_THREAD) else THREADS)
        before(step)

    return prepare, step


def between_other_work(options: argparse.Namespace, names: list[str]) -> Iterator[dict[str, Any]]:
    """Measure each case in each setting."""
    for case in options.cases:
        for clipped in (False, True):
            libraries = made([name for name in names if name not in LIMITS], case, clipped)
            steps: dict[str, measure.Work] = {name: library.step for name, library in libraries.items()}
            if limits := [name for name in names if name in LIMITS]:
                steps |= dict.fromkeys(limits, limit_step(case, clipped))
            for setting in options.settings:
                with contextlib.suppress(UnavailableError), SETTINGS[setting]() as before:
                    turns = {name: turn(name, step, before) for name, step in steps.items()}
                    yield {
                        "setting": setting,
                        "case": f"{case} clipped" if clipped else case,
                        "seconds": measure.right_after(turns, options.rounds),
                    }


def in_training(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the training of each network."""
    for network in loop_training.NETWORKS:
        with contextlib.suppress(UnavailableError):
            seconds = loop_training.train(network, options.rounds)
            yield {"setting": "training", "case": network, "seconds": seconds}


def is_ours(name: str) -> bool:
    """Whether the contestant is fusedstep, by one of its APIs."""
    return name.startswith("fusedstep")


def line(row: dict[str, Any], names: list[str]) -> str:
    """Return the row as Markdown."""
    seconds = row["seconds"]
    cells = [row["setting"], row["case"]]
    for name in names:
        if name in seconds:
            low, median, high = (peers.two_digits(1e6 * decile) for decile in seconds[name])
            cells.append(f"{median} ({low}–{high})")
        else:
            cells.append("–")
    for name in filter(is_ours, names):
        both = name in seconds and REFERENCE in seconds
        cells.append(peers.two_digits(seconds[name][1] / seconds[REFERENCE][1]) if both else "–")
    return f"| {' | '.join(cells)} |"


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return all figures, with the rows still to be measured."""
    versions = measure.versions()
    if options.training:
        names, rows = loop_training.TRAINED, in_training(options)
    else:
        names = [*options.contestants, *(ON_ONE_THREAD if options.one_thread else ())]
        names += LIMITS[: 1 + options.one_thread] if options.limit else []
        rows = between_other_work(options, names)
    return {"machine": measure.machine(), "versions": versions, "contestants": names, "rows": rows}


def main() -> None:
    """Measure, print the table, and draw the chart."""
    parser = argparse.ArgumentParser(prog="python bench/loop.py")
    parser.add_argument("--training", action="store_true", help="measure real training instead")
    parser.add_argument("--json", type=Path, help="write the figures here, in seconds")
    parser.add_argument("--chart", type=Path, help="draw the figures here, as PNG")
    parser.add_argument("--from-json", type=Path, help="take the figures from here instead of measuring")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=CASES, help="only these")
    parser.add_argument("--settings", nargs="*", choices=SETTINGS, default=SETTINGS, help="only these")
    parser.add_argument(
        "--contestants", nargs="*", choices=CONTESTANTS, default=CONTESTANTS, help="only these"
    )
    parser.add_argument("--one-thread", action="store_true", help="also ours on one thread")
    parser.add_argument("--limit", action="store_true", help="also the memory limit")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="default %(default)s")
    options = parser.parse_args()

    figures = json.loads(options.from_json.read_text()) if options.from_json else measured(options)
    for part in ("machine", "versions"):
        print(", ".join(f"{key} {value}" for key, value in figures[part].items()))
    names = figures["contestants"]
    columns = ["setting", "case", *names, *(f"{name} / {REFERENCE}" for name in names if is_ours(name))]
    print(f"| {' | '.join(columns)} |\n|---|---|{'--:|' * (len(columns) - 2)}", flush=True)
    rows = []
    for row in figures["rows"]:
        rows.append(row)
        print(line(row, names), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**figures, "rows": rows}, indent=1))
    if options.chart:
        loop_chart.draw(rows, REFERENCE, options.chart)


if __name__ == "__main__":
    main()
