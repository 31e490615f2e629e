"""Which schedules are known for all steps."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from typing import Any

from .feedback import Feedback
from .schedule import Schedule


def is_fixed(schedule: Any) -> bool:
    """Whether the value depends on the step alone: a schedule of this package that observes nothing.

    Its parts are such schedules too. What any other callable depends on, nobody can know.
    """
    of_this_package = type(schedule).__module__.rpartition(".")[0] == __package__
    if not of_this_package or not isinstance(schedule, Schedule) or isinstance(schedule, Feedback):
        return False
    values = [getattr(schedule, field.name) for field in fields(schedule)]  # type: ignore[arg-type]  # a dataclass
    parts = chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values)
    return all(is_fixed(part) for part in parts if callable(part))
