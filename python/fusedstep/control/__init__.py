"""What a run of training needs around its steps: when to stop, checkpoints, a record."""

from __future__ import annotations

from .checkpoint import Checkpoint
from .record import Record
from .stopping import EarlyStopping

__all__ = ["Checkpoint", "EarlyStopping", "Record"]
