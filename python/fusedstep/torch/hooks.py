"""The hooks around a step and its record in profiles, where there are any."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from torch.optim import Optimizer, optimizer

from .. import _core

Step = TypeVar("Step", bound=Callable[..., Any])


def hooked(step: Step) -> Step:
    """Call hooks around `step`, and record it, as `torch.optim.Optimizer` does with each of its steps.

    Here a step without hooks that nobody records is only itself: torch's way of asking whether somebody does
    takes longer than a small step. A class that overrides `step` has torch's own hooks around what it defines.
    """
    all_of_it = Optimizer.profile_hook_step(step)

    @wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if type(self).step is not wrapper:
            return step(self, *args, **kwargs)
        if _has_hooks(self) or _core.torch_records():
            return all_of_it(self, *args, **kwargs)
        return step(self, *args, **kwargs)

    wrapper.hooked = True  # type: ignore[attr-defined]  # torch's mark of a step that has its hooks
    return wrapper  # type: ignore[return-value]


def _has_hooks(self: Any) -> bool:
    own = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
    return bool(own or optimizer._global_optimizer_pre_hooks or optimizer._global_optimizer_post_hooks)
