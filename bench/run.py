"""Every rule against pure NumPy and against the memory limit: ``python bench/run.py [--json FILE]``.

ns/param and GB/s are those of a native step; "x NumPy" is how many times as long the NumPy backend takes;
"% of limit" is the time of loops with the same traffic and next to no arithmetic, in percent of the step's:
one loop for most rules, two for those that measure norms first. A second table has what `ema` adds: the time
of the step, that of the limit, and the bytes, in percent of those without it. A third has steps of a few rows
of a table: how many times as long a step of the whole table takes, and, where torch is installed, torch's
SparseAdam with the same rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs
import limit
import measure

Array = np.ndarray[Any, Any]

DTYPES = ["float32", "float64"]
SIZES = [10**4, 10**5, 10**6, 64 * 10**6]
ROUNDS = 21
NUMPY_ROUNDS = 3  # few rounds will do for a large ratio
SWITCHES = {("momentum", 0): 0.9, ("lr_power", -0.5): -0.75}
"""Hyperparameter values that choose another kernel than the default does."""

ROW = (
    "| {rule} | {dtype} | {n:.2g} | {ns_per_parameter:.3f} | {gb_per_second:.1f} | {times_numpy:.1f}"
    " | {percent_of_limit:.0f} |"
)

AVERAGED = ["SGD", "Momentum", "AdamW"]
AVERAGE_ROW = (
    "| {rule} | {n:.2g} | {percent_of_plain:.0f} | {limits:.0f} | {bytes:.0f} | {percent_of_limit:.0f} |"
)


ROWS_OF, WIDTH, TOUCHED = 10**6, 64, 4096
BATCHES = 64  # their rows differ, so that no cache holds them all
ROWS_ROW = "| {rule} | {microseconds:.0f} | {times_dense:.0f} | {times_sparse_adam:.1f} |"


def forms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each rule with its defaults, then with the switches that choose another kernel."""
    yield from ((name, {}) for name in fs.rules)
    seen = {cls.update.name for cls in fs.rules.values()}
    for name, cls in fs.rules.items():
        switches: list[dict[str, Any]] = [
            {field.name: True if field.interval is None else SWITCHES[field.name, field.default]}
            for field in cls._fields.values()
            if field.interval is None or (field.name, field.default) in SWITCHES
        ]
        for chosen in itertools.chain(*(itertools.combinations(switches, k) for k in (1, 2))):
            options = {key: value for switch in chosen for key, value in switch.items()}
            kernel = cls(np.zeros(1), **options).groups[0].kernel
            if kernel.name not in seen:
                seen.add(kernel.name)
                yield name, options


def bench_rule(
    library: Any, name: str, options: dict[str, Any], n: int, dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Measure one row of the table: a single tensor of n elements."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(n, dtype)
    g = rng.standard_normal(n, dtype)
    native = fs.rules[name](p, **options)
    reference = fs.rules[name](p.copy(), **options, backend="numpy")
    passes = limit.passes(native.groups[0].kernel)
    own = [p, *native.state.values(), g]
    streams = limit.streams(library, n, dtype, passes, [array for array in own if array.shape == p.shape])
    step: measure.Work = partial(native.step, g, loss=1.0)
    seconds = measure.interleaved({"native": step, "limit": streams}, ROUNDS)
    slow = measure.interleaved({"native": step, "numpy": partial(reference.step, g, loss=1.0)}, NUMPY_ROUNDS)
    traffic = n * dtype.itemsize * sum(step.moves for step in passes)
    return {
        "rule": " ".join(
            [name, *(key if value is True else f"{key}={value}" for key, value in options.items())]
        ),
        "dtype": dtype.name,
        "n": n,
        "ns_per_parameter": seconds["native"] / n * 1e9,
        "gb_per_second": traffic / seconds["native"] / 1e9,
        "times_numpy": slow["numpy"] / slow["native"],
        "percent_of_limit": 100 * seconds["limit"] / seconds["native"],
    }


def bench_average(library: Any, name: str, n: int) -> dict[str, Any]:
    """Measure what `ema` adds to a float32 step, and what its traffic adds to the limit."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, n), np.float32)
    plain, averaging = fs.rules[name](p), fs.rules[name](p.copy(), ema=0.999)
    (step,) = limit.passes(plain.groups[0].kernel)
    with_average = limit.Traffic(step.written + 1, step.read)
    seconds = measure.interleaved(
        {
            "plain": lambda: plain.step(g),
            "ema": lambda: averaging.step(g),
            "limit": limit.streams(library, n, p.dtype, [step]),
            "limit_ema": limit.streams(library, n, p.dtype, [with_average]),
        },
        ROUNDS,
    )
    return {
        "rule": name,
        "n": n,
        "percent_of_plain": 100 * seconds["ema"] / seconds["plain"],
        "limits": 100 * seconds["limit_ema"] / seconds["limit"],
        "bytes": 100 * with_average.moves / step.moves,
        "percent_of_limit": 100 * seconds["limit_ema"] / seconds["ema"],
    }


def bench_rows(name: str) -> dict[str, Any]:
    """Measure steps of some rows of a float32 table, with other rows at each step."""
    rng = np.random.default_rng(0)
    table, g = (rng.standard_normal((n, WIDTH), np.float32) for n in (ROWS_OF, TOUCHED))
    batches = rng.integers(0, ROWS_OF, (BATCHES, TOUCHED))
    turns = {key: itertools.cycle(range(BATCHES)) for key in ("rows", "sparse_adam")}
    optimizer, of_all, dense = fs.rules[name](table), np.ones_like(table), fs.rules[name](table.copy())
    works: dict[str, measure.Work] = {
        "rows": lambda: optimizer.step_rows(0, batches[next(turns["rows"])], g),
        "dense": lambda: dense.step(of_all),
    }
    if find_spec("torch"):
        works["sparse_adam"] = sparse_adam(table, batches, g)
    seconds = measure.interleaved(works, ROUNDS)
    return {
        "rule": name,
        "microseconds": 1e6 * seconds["rows"],
        "times_dense": seconds["dense"] / seconds["rows"],
        "times_sparse_adam": seconds.get("sparse_adam", np.nan) / seconds["rows"],
    }


def sparse_adam(table: Array, batches: Array, g: Array) -> measure.Work:
    """Make such a step with torch's SparseAdam."""
    torch: Any = import_module("torch")

    p = torch.nn.Parameter(torch.from_numpy(table.copy()))
    optimizer = torch.optim.SparseAdam([p])
    gradients = itertools.cycle(
        torch.sparse_coo_tensor(rows[None], torch.from_numpy(g), p.shape, check_invariants=False)
        for rows in batches
    )

    def step() -> None:
        p.grad = next(gradients)
        optimizer.step()

    return step


def bench_many_tensors() -> dict[str, float]:
    """Measure Adam over 1000 tensors of 1000 elements, and over one of a million, in microseconds a step."""
    rng = np.random.default_rng(0)
    flat = rng.standard_normal(10**6, np.float32)
    parts = [rng.standard_normal(1000, np.float32) for _ in range(1000)]
    gradient, gradients = flat * 0.1, [part * 0.1 for part in parts]
    one, many = fs.Adam(flat), fs.Adam(parts)
    seconds = measure.interleaved(
        {"one": lambda: one.step(gradient), "many": lambda: many.step(gradients)}, 51
    )
    return {name: value * 1e6 for name, value in seconds.items()}


def main() -> None:
    """Measure, and print all tables."""
    parser = argparse.ArgumentParser(prog="python bench/run.py")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--rules", nargs="*", help="only these")
    parser.add_argument("--sizes", nargs="*", type=int, choices=SIZES, default=SIZES)
    parser.add_argument("--dtypes", nargs="*", choices=DTYPES, default=DTYPES)
    options = parser.parse_args()

    machine = measure.machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    print("| rule | dtype | n | ns/param | GB/s | x NumPy | % of limit |")
    print("|---|---|--:|--:|--:|--:|--:|", flush=True)
    library = limit.build()
    rows = []
    for dtype, n, (name, switches) in itertools.product(options.dtypes, options.sizes, list(forms())):
        if options.rules is None or name in options.rules:
            row = bench_rule(library, name, switches, n, np.dtype(dtype))
            rows.append(row)
            print(ROW.format(**row), flush=True)
    print("| with ema | n | % of the step without | limits, % | bytes, % | % of limit |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    averages = []
    for name, n in itertools.product(AVERAGED, options.sizes):
        if options.rules is None or name in options.rules:
            averages.append(bench_average(library, name, n))
            print(AVERAGE_ROW.format(**averages[-1]), flush=True)
    print(f"| {TOUCHED} rows of {ROWS_OF:.0e} x {WIDTH} | us | x dense step | x SparseAdam of torch |")
    print("|---|--:|--:|--:|", flush=True)
    tables = []
    for name, cls in fs.rules.items():
        if cls.steps_rows and (options.rules is None or name in options.rules):
            tables.append(bench_rows(name))
            print(ROWS_ROW.format(**tables[-1]), flush=True)
    many = bench_many_tensors()
    print("Adam: 1000 tensors of 1000, {many:.0f} us a step; one of 10^6, {one:.0f} us".format(**many))
    if options.json:
        options.json.write_text(
            json.dumps(
                {
                    "machine": machine,
                    "rows": rows,
                    "averages": averages,
                    "tables": tables,
                    "many_tensors": many,
                },
                indent=1,
            )
        )


if __name__ == "__main__":
    main()
