"""Packages that only some functions need."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def imported(module: str, extra: str) -> Any:
    """Import a module of one of the extras; if it is missing, the error says how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(f'{error}; this needs: pip install "fusedstep[{extra}]"') from error
