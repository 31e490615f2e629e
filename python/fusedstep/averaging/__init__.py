"""Averages of weights, updated within an optimizer's step or beside it, and averages of predictions."""

from __future__ import annotations

from .ensemble import Ensemble
from .running import EMA, CheckpointMean, Mean
from .swap import FusedEMA

__all__ = ["EMA", "CheckpointMean", "Ensemble", "FusedEMA", "Mean"]
