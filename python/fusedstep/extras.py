"""Packages that only some functions need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def imported(module: str, extra: str) -> Any:
    """A module of one of the extras; an error that says how to get it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{error}; this needs: pip install "fusedstep[{extra}]"') from error
