"""The rules as fused torch optimizers on the CPU: torch.optim's with its arguments, others with their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..update_rules import rules
from . import drop_in
from .drop_in import *
from .fused import Fused
from .own import under_its_own_name
from .release import release_gradients

if TYPE_CHECKING:
    from .own import Own

    def __getattr__(name: str) -> type[Own]: ...


own = {
    name: under_its_own_name(rule, __name__) for name, rule in rules.items() if name not in drop_in.__all__
}
vars().update(own)

__all__ = ["Fused", "release_gradients"]
__all__ += drop_in.__all__
__all__ += list(own)
