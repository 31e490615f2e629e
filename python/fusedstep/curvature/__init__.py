"""What a point with a small gradient is, minimum, maximum or saddle, and the way out of a saddle."""

from __future__ import annotations

from .critical import CriticalPoint, examine, leave
from .products import hessian

__all__ = ["CriticalPoint", "examine", "hessian", "leave"]
