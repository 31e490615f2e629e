"""Averages of weights, within an optimizer's step or beside it, and of predictions."""

from __future__ import annotations

from .ensemble import Ensemble
from .running import EMA, CheckpointMean, Mean
from .swap import FusedEMA

__all__ = ["EMA", "CheckpointMean", "Ensemble", "FusedEMA", "Mean"]
