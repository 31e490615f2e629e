"""Tools for a training run around its steps: early stopping, checkpoints, and a record."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .record import Record
from .stopping import EarlyStopping

__all__ = ["Checkpoint", "EarlyStopping", "Record"]
