"""Tell whether a point with a small gradient is a minimum, maximum or saddle, and leave a saddle."""

from __future__ import annotations

from .critical import CriticalPoint, examine, leave
from .products import hessian

__all__ = ["CriticalPoint", "examine", "hessian", "leave"]
