"""``python -m fusedstep rules`` prints the catalogue, ``info`` the settings, ``selftest`` a hash of bits."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Sequence
from types import SimpleNamespace

from . import selftest
from .engine.optimizer import Optimizer
from .runtime import info
from .update_rules import rules

FLOAT32 = 4


def state_bytes(rule: type[Optimizer]) -> int:
    """The bytes of state that a rule with its defaults keeps for a float32 parameter."""
    defaults = SimpleNamespace(**{name: field.default for name, field in rule._fields.items()})
    return FLOAT32 * len(rule.choose_kernel(defaults).operands)


def source(rule: type[Optimizer]) -> str:
    """The source of a rule: its docstring's first line after the name."""
    title = (inspect.getdoc(rule) or "").partition("\n")[0]
    return title.partition(". ")[2].removesuffix(".") or title


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as columns of text, with numbers to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if cell.isdigit() else cell.ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in cells
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what the command line asks for; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fusedstep")
    parser.add_argument(
        "what",
        choices=["rules", "info", "selftest"],
        help="the catalogue, what is running, or whether every rule gives the bits that it should",
    )
    what = parser.parse_args(arguments).what
    if what == "selftest":
        return selftest.main()
    if what == "rules":
        rows = [(name, state_bytes(rule), source(rule)) for name, rule in rules.items()]
        print(table([("rule", "state bytes per parameter (float32)", "source"), *rows]))
    else:
        print(table(info().items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
