"""The arguments of the classes: numbers that may be tensors, and signatures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

KEYWORDS = {"clip_norm": None, "state_dtype": None, "unscale_in_step": False}
"""The keyword arguments that every class takes besides its own."""


def number(value: Any) -> float:
    """A number, or the value of a tensor of one element."""
    return float(value.item() if isinstance(value, Tensor) else value)


def signature(parameters: list[inspect.Parameter], extras: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a class with these `parameters` and `extras`, and `KEYWORDS`."""
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**extras, **KEYWORDS}.items()
    ]
    return inspect.Signature([*parameters, *added])
