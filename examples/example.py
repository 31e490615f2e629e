"""The command line of every example: ``--quick``, ``--output``, no display, and one thread for BLAS."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Protocol

import matplotlib as mpl
from threadpoolctl import threadpool_limits


class Main(Protocol):
    """An example: it prints its results, draws its figure, and returns the results for a test."""

    def __call__(self, *, quick: bool, output: Path) -> Any: ...


def run(main: Main, description: str | None) -> None:
    """Run an example with the options of the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="do less of the same, in a few seconds")
    figure = Path(sys.argv[0]).with_suffix(".png").name
    parser.add_argument("--output", type=Path, default=Path(figure), metavar="FILE.png", help="the figure")
    options = parser.parse_args()
    mpl.use("Agg")
    with threadpool_limits(1):  # more threads do not help with small matrices
        main(quick=options.quick, output=options.output)
    print(f"figure: {options.output}")
