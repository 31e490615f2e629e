"""Stepping each parameter as soon as its gradient is computed, and then freeing the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack

from torch import Tensor, nn

from .fused import Fused

__all__ = ["release_gradients"]


def release_gradients(model: nn.Module | Iterable[Tensor], optimizer: Fused) -> ExitStack:
    """Make every backward pass step each parameter once its gradient is accumulated, then free the gradient.

    So the gradients are never in memory all together, which leaves room for larger batches or models.
    `optimizer.step()` and `zero_grad()` may stay in the training loop; they find nothing to do. Each backward
    pass is a step, so it excludes accumulation over several passes, clipping by a norm that is known only
    afterwards, loss scaling, and rules that need the loss. Only `step()` calls the optimizer's step hooks.

    model: a module or parameters; those that the optimizer has at this call are stepped. Returns an
    ExitStack: its ``close()``, or its exit as a context, ends this. Raises TypeError if the optimizer is not
    of this package, ValueError if it clips, if its rule needs the loss or sums over a group, or if none of
    its parameters are in the model.
    """
    if not isinstance(optimizer, Fused):
        raise TypeError(f"optimizer must be of fusedstep.torch, not {type(optimizer).__name__}")
    if optimizer.clip_norm is not None:
        raise ValueError("the norm of all gradients is known only when all are there: no clip_norm here")
    if optimizer.rule.measures_groups:
        raise ValueError(f"{type(optimizer).__name__} needs the gradients of a group all together")
    if optimizer.rule.needs_loss:
        raise ValueError(f"{type(optimizer).__name__} needs the loss, which a backward pass does not know")
    place = {p: k for k, group in enumerate(optimizer.param_groups) for p in group["params"]}

    def step(p: Tensor) -> None:
        optimizer.update([(optimizer.param_groups[place[p]], [p])])
        p.grad = None

    parameters = model.parameters() if isinstance(model, nn.Module) else model
    mine = [p for p in parameters if p.requires_grad and p in place]
    if not mine:
        raise ValueError("the optimizer has no parameter of this model")
    # State created between gradients would leave the memory of freed gradients in pieces.
    optimizer.make_state(mine)
    released = ExitStack()
    for p in mine:
        released.enter_context(p.register_post_accumulate_grad_hook(step))
    return released
