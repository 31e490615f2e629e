"""The time that step options and 16-bit storage take: ``python bench/one_pass.py [--json FILE]``.

AdamW steps one tensor. For each form of the step, the table has its time and the bytes that it moves, both
in percent of the plain float32 step's. At the memory limit the two percentages are the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  # gives NumPy the name bfloat16
import numpy as np

import fusedstep as fs
import measure

SIZES = [10**6, 64 * 10**6]
ROUNDS = 11
ROW = "| {form} | {n:.2g} | {ns_per_parameter:.3f} | {percent_of_plain:.0f} | {percent_of_bytes:.0f} |"
WIDTH = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Form:
    """A form of the step: the dtypes of the arrays, and the options."""

    p: str = "float32"
    g: str = "float32"
    state: str = "float32"
    made: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    passes: int = 0  # further passes that read the gradients

    def bytes(self) -> int:
        """Return the bytes moved for an element: a step reads all arrays, and writes all but the gradient."""
        slots = 3 if "ema" in self.made else 2
        return 2 * WIDTH[self.p] + (1 + self.passes) * WIDTH[self.g] + 2 * slots * WIDTH[self.state]


FORMS = {
    "plain": Form(),
    "clip_norm": Form(step={"clip_norm": 1.0}, passes=1),
    "skip_nonfinite": Form(step={"skip_nonfinite": True}, passes=1),
    "clip_value": Form(step={"clip_value": 0.1}),
    "zero_grad": Form(step={"zero_grad": True}, passes=1),
    "ema": Form(made={"ema": 0.999}),
    "bfloat16 gradients": Form(g="bfloat16"),
    "float16 gradients": Form(g="float16"),
    "bfloat16 state": Form(state="bfloat16"),
    "bfloat16, float32 state": Form(p="bfloat16", g="bfloat16"),
    "float16, float32 state": Form(p="float16", g="float16"),
    "all bfloat16": Form(p="bfloat16", g="bfloat16", state="bfloat16"),
    "all float16": Form(p="float16", g="float16", state="float16"),
    "bfloat16, float16 gradients": Form(
        p="bfloat16", g="float16", state="bfloat16"
    ),  # has no compiled loop of its own
}


def stepper(form: Form, n: int) -> Callable[[], object]:
    """Make a step of this form."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(n, np.float32).astype(form.p)
    g = rng.standard_normal(n, np.float32).astype(form.g)
    optimizer = fs.AdamW(p, state_dtype=form.state, **form.made)
    return lambda: optimizer.step(g, **form.step)


def main() -> None:
    """Measure each form in turn with the plain one, and print."""
    parser = argparse.ArgumentParser(prog="python bench/one_pass.py")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    machine = measure.machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    print("| AdamW | n | ns/param | % of plain | bytes, % of plain |")
    print("|---|--:|--:|--:|--:|", flush=True)
    rows = []
    for n in SIZES:
        plain = stepper(FORMS["plain"], n)
        for name, form in FORMS.items():
            seconds = measure.interleaved({"plain": plain, "form": stepper(form, n)}, ROUNDS)
            rows.append(
                {
                    "form": name,
                    "n": n,
                    "ns_per_parameter": seconds["form"] / n * 1e9,
                    "percent_of_plain": 100 * seconds["form"] / seconds["plain"],
                    "percent_of_bytes": 100 * form.bytes() / FORMS["plain"].bytes(),
                }
            )
            print(ROW.format(**rows[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
