"""Whether a figure that monitors training, such as a validation loss, is better than another."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from .formula.hyperparameters import ANY, REAL, checked_number

Mode: TypeAlias = Literal["min", "max"]
"""Whether lower figures are better, as for a loss, or higher ones, as for an accuracy."""


def checked_mode(mode: Mode, label: str = "mode") -> Mode:
    """Return `mode`; raise ValueError unless it is a mode."""
    if mode not in get_args(Mode):
        raise ValueError(f"{label} must be 'min' or 'max', got {mode!r}")
    return mode


def improves(figure: float, best: float | None, threshold: float, mode: Mode) -> bool:
    """Whether `figure` is better than `best` by more than ``threshold·|best|``; None is worse than any.

    A figure that is not finite is never better.
    """
    if not math.isfinite(figure):
        return False
    if best is None:
        return True
    away_from_0 = (mode == "max") == (best > 0)
    bound = best * (1 + threshold if away_from_0 else 1 - threshold)
    return figure < bound if mode == "min" else figure > bound


def checked_figure(figure: Any) -> float:
    """Return `figure` as a float, finite or not; raise TypeError if it is no number."""
    if isinstance(figure, np.ndarray) and figure.ndim == 0:
        figure = figure.item()
    return checked_number("the figure", figure, ANY)


def checked_best(best: float | None) -> float | None:
    """Return `best` as a float, or None; raise an error unless it is a finite number or None."""
    return None if best is None else checked_number("best", best, REAL)
