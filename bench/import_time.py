"""The time to import fusedstep beyond that of NumPy: ``python bench/import_time.py``."""

from __future__ import annotations

import statistics
import subprocess
import sys

import measure

CODE = "import time, numpy; t = time.perf_counter(); import fusedstep; print(time.perf_counter() - t)"


def main() -> None:
    """Print the median time over fresh interpreters."""
    seconds = [
        float(subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True).stdout)
        for _ in range(21)
    ]
    print(measure.machine())
    print(f"import fusedstep after numpy: {1e3 * statistics.median(seconds):.1f} ms")


if __name__ == "__main__":
    main()
