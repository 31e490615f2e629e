"""A part of a checkpoint that is a user's own."""

from __future__ import annotations

from typing import Any


class Holder:
    """A part whose state is whatever it is told to hold."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state
