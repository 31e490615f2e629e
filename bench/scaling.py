"""From one thread to all of them: ``python bench/scaling.py [--json FILE]``.

Times Adam at each number of threads, over one large tensor, one that the caches hold, many tiny ones, and a
mix. "% of limit" is the time of a loop with the same traffic on as many threads, in percent of the step's.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs
import limit
import measure

ROUNDS = 11
LISTS = {
    "one of 6.4e7": [64 * 10**6],
    "one of 1e6": [10**6],
    "1000 of 1000": [1000] * 1000,
    "one of 1e6, 1000 of 1 to 2000": [10**6, *range(1, 2001, 2)],
}


def threads() -> list[int]:
    """Return the powers of two below the maximum, and the maximum."""
    most = fs.get_num_threads()
    return [*(2**k for k in range(most.bit_length()) if 2**k < most), most]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python bench/scaling.py")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    machine = measure.machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    print("| tensors | threads | ns/param | times one thread | % of limit |")
    print("|---|--:|--:|--:|--:|", flush=True)
    library = limit.build()
    rows: list[dict[str, Any]] = []
    for name, sizes in LISTS.items():
        rng = np.random.default_rng(0)
        parameters = [rng.standard_normal(n, np.float32) for n in sizes]
        gradients = [0.1 * p for p in parameters]
        optimizer, n = fs.Adam(parameters), sum(sizes)
        step = partial(optimizer.step, gradients)
        streams = limit.streams(library, n, np.dtype(np.float32), limit.passes(optimizer.groups[0].kernel))
        for count in threads():
            fs.set_num_threads(count)
            seconds = measure.interleaved({"step": step, "limit": streams}, ROUNDS)
            row = {
                "tensors": name,
                "threads": count,
                "ns_per_parameter": seconds["step"] / n * 1e9,
                "percent_of_limit": 100 * seconds["limit"] / seconds["step"],
            }
            first = next((r for r in rows if r["tensors"] == name), row)
            row["times_one_thread"] = first["ns_per_parameter"] / row["ns_per_parameter"]
            rows.append(row)
            print(
                "| {tensors} | {threads} | {ns_per_parameter:.3f} | {times_one_thread:.2f}"
                " | {percent_of_limit:.0f} |".format(**row),
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
