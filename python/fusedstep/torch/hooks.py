"""The hooks around a step and its record in profiles, where there are any."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch.optim.optimizer import (
    Optimizer,
    _global_optimizer_post_hooks,
    _global_optimizer_pre_hooks,
)

from .._core import torch_records

Step = TypeVar("Step", bound=Callable[..., Any])


def hooked(step: Step) -> Step:
    """Call hooks around `step`, and record it, as `torch.optim.Optimizer` does with each of its steps.

    Here a step without hooks that nobody records is only itself: torch's way of asking whether somebody does
    takes longer than a small step. A class that overrides `step` has torch's own hooks around that.
    """
    with_all = Optimizer.profile_hook_step(step)
    before, after = _global_optimizer_pre_hooks, _global_optimizer_post_hooks

    @wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        if (own or before or after or torch_records()) and type(self).step is wrapper:
            return with_all(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    wrapper.hooked = True  # type: ignore[attr-defined]  # torch's mark of a step that has its hooks
    return wrapper  # type: ignore[return-value]
