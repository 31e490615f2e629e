"""The names of torch's parameters in error messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


def labels_of(groups: Sequence[dict[str, Any]]) -> dict[Tensor, str]:
    """The name of each parameter of an optimizer's groups."""
    return {
        p: f"parameter {group['param_names'][i]!r}"
        if "param_names" in group
        else f"parameter {i} of group {k}"
        for k, group in enumerate(groups)
        for i, p in enumerate(group["params"])
    }
