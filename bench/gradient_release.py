"""Memory that releasing gradients saves: ``python bench/gradient_release.py``.

Trains a stack of linear layers for a few steps, each time in a process of its own: with the gradients kept
until `optimizer.step()`, and with `fusedstep.torch.release_gradients`. Prints the peak of the memory that a
process held beyond imports and weights, in MB, and the time of a step.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

LAYERS, WIDTH, BATCH, STEPS = 24, 1024, 8, 5
MODES = ("kept", "released")


def megabytes() -> float:
    """The largest memory that this process has held so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def train(rule: str, mode: str) -> None:
    """Train in this process, and print the memory and the time."""
    import torch  # noqa: PLC0415  # the other process needs none

    import fusedstep.torch as ft  # noqa: PLC0415

    model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))
    before, seconds = megabytes(), []
    optimizer = getattr(ft, rule)(model.parameters(), lr=1e-4)
    if mode == "released":
        ft.release_gradients(model, optimizer)
    x = torch.randn(BATCH, WIDTH)
    for _ in range(STEPS):
        start = time.perf_counter()
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    print(f"{megabytes() - before:.0f} {min(seconds) * 1e3:.1f}")


def main() -> None:
    """Run every mode in a process of its own."""
    parser = argparse.ArgumentParser(prog="python bench/gradient_release.py")
    parser.add_argument("--rule", default="AdamW", help="default %(default)s")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mode:
        train(options.rule, options.mode)
        return
    weights = LAYERS * (WIDTH + 1) * WIDTH * 4 / 2**20
    print(f"{options.rule}, {LAYERS} layers of {WIDTH} x {WIDTH} in float32: {weights:.0f} MB of weights")
    print("| gradients | peak beyond weights, MB | step, ms |\n|---|--:|--:|")
    for mode in MODES:
        command = [sys.executable, __file__, "--rule", options.rule, "--mode", mode]
        peak, milliseconds = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()
        print(f"| {mode} | {peak} | {milliseconds} |")


if __name__ == "__main__":
    main()
