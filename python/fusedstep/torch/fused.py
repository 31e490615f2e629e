"""A torch optimizer whose step is one pass over the tensors' own memory.

For each group, the parameters that have a gradient are looked up with their state, and divided into batches
that share their coefficients (`batch.py`). The plan takes their tensors in place. A tensor that the kernels
cannot use is given another form for the step (`lending.py`). The rest is `engine.step`, as for NumPy.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.options import DEFAULTS, LIMIT, StepOptions
from ..engine.step import Step
from ..formula.hyperparameters import checked_number
from ..formula.rule import Rule
from .arguments import number, signature
from .form import Form
from .hooks import hooked
from .labels import labels_of
from .lending import FLOATS, Loan
from .machine import GroupsOf, Machine
from .settings import Settings

COMPLEX = (torch.complex128, torch.complex64, torch.complex32)
NOT_DIFFERENTIABLE = "differentiable=True is not possible: autograd does not see the kernels"


class Fused(torch.optim.Optimizer):
    """The base of every class of this package: it provides the step, torch provides the rest.

    The classes take torch's arguments, and three more by keyword:

    clip_norm: multiply gradients by ``min(1, clip_norm / (norm + 1e-6))``, with the 2-norm of all gradients
    of this optimizer. It happens within the pass and does not write the gradients. Default None: no clipping.
    state_dtype: the dtype of the state, for example float32 for parameters of 16 bits. Default None: the
    dtype of the parameter, but float32 beside float16 where the rule keeps squares of gradients, for which
    float16 is too small. Loaded state keeps its precision, or is widened likewise. unscale_in_step:
    `torch.amp.GradScaler` leaves unscaling to the step, and does not write the gradients. Default False, but
    True with torch's argument ``fused=True``.

    `foreach`, `fused` and `capturable` are accepted and change nothing else. Parameters and gradients are on
    the CPU, in float64, float32, bfloat16, float16 or complex (stepped as pairs of real numbers). Numbers of
    16 bits are computed in float32 and rounded once. Memory may be laid out in any way; dense tensors are not
    copied. Raises ValueError, TypeError or RuntimeError, naming the parameter, before anything is written:
    for parameters on another device or that share memory, for ``differentiable=True``, for gradients in the
    memory of state that is smaller than its parameter, and for sparse gradients that the rule cannot step.
    """

    rule: ClassVar[type[Rule]]
    """The rule: its formula, coefficients and state."""

    state_names: ClassVar[Mapping[str, str]] = {}
    """The keys in `state` of the rule's slots whose key is not the rule's name for them."""

    extras: ClassVar[Mapping[str, Any]] = {}
    """Hyperparameters of the rule that the class from torch lacks, with their defaults."""

    counted: ClassVar[bool] = True
    """Whether `state` counts the steps."""

    scalar_dtype: ClassVar[torch.dtype | None] = None
    """The dtype of the rule's scalars; None for that which torch gives its own."""

    grad_norm: float | None = None
    """The norm of the gradients before clipping, at the last step; None without clipping."""

    _step_supports_amp_scaling = False  # read by GradScaler

    _defaults: ClassVar[Mapping[str, Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "rule" in vars(cls):
            cls._defaults = {name: field.default for name, field in cls.rule._fields.items()}
        if "__init__" in vars(cls) and "rule" not in vars(cls):  # a user's class, with arguments of its own
            own = list(inspect.signature(cls.__init__).parameters.values())
            cls.__signature__ = inspect.Signature(own[1:])  # type: ignore[attr-defined]
            return
        origin = next(base for base in cls.__mro__ if base.__module__.startswith("torch.optim"))
        if origin is not torch.optim.Optimizer:
            parameters = list(inspect.signature(origin).parameters.values())
            cls.__signature__ = signature(parameters, cls.extras)  # type: ignore[attr-defined]

    def __init__(
        self,
        params: Any,
        *arguments: Any,
        clip_norm: float | None = None,
        state_dtype: torch.dtype | None = None,
        unscale_in_step: bool = False,
        **options: Any,
    ) -> None:
        if state_dtype is not None:
            if state_dtype not in FLOATS:
                raise TypeError(f"state_dtype must be one of {FLOATS}, got {state_dtype!r}")
            self.rule.check_width("state_dtype", state_dtype)
        self.clip_norm = None if clip_norm is None else checked_number("clip_norm", clip_norm, LIMIT)
        self.state_dtype = state_dtype
        self._machine = Machine()
        extras = {name: options.pop(name, default) for name, default in self.extras.items()}
        super().__init__(params, *arguments, **options)
        for group in (self.defaults, *self.param_groups):
            for name, value in extras.items():
                self.rule._fields[name].checked(group.setdefault(name, value))
        if unscale_in_step:
            self._step_supports_amp_scaling = True

    # What each class defines.

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        """The rule's hyperparameters, from a group in torch's form; those left out have their defaults.

        They depend on nothing but the group, and are asked for again only after one of its entries, or the
        memory of one of its parameters, is another.
        """
        raise NotImplementedError

    @classmethod
    def steps_rows(cls, h: Mapping[str, Any]) -> bool:
        """Whether, with these hyperparameters, a sparse gradient steps only the rows that it has."""
        return False

    # What torch and users call.

    @hooked
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient, and return what `closure` returns.

        closure: a function that computes the loss and its gradients before the step. Default None. Raises
        RuntimeError while another thread steps, and the errors that the class describes.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [(group, group["params"]) for group in self.param_groups]
        self._machine.busy.run(self._update, groups, loss)
        return loss

    def update(self, parameters: Iterable[tuple[dict[str, Any], list[Tensor]]], loss: Any = None) -> None:
        """Step the given parameters that have a gradient; clipping uses the norm of these gradients."""
        self._machine.busy.run(self._update, [*parameters], loss)

    def make_state(self, parameters: Iterable[Tensor]) -> None:
        """Create the state of these parameters if the rule counts steps; else the first step does."""
        group_of = {p: group for group in self.param_groups for p in group["params"]}
        form = self._form()
        for p in parameters if self.counted else ():
            settings = self._settings(group_of[p])
            self.state[p].update(form.completed(settings.h, settings.kernel_of(p), p, self.state[p]))

    def _update(self, groups: GroupsOf, loss: Any) -> None:
        # GradScaler may have set a factor of the gradients, and whether some have overflowed.
        of_scaler = vars(self)
        factor, overflow = of_scaler.get("grad_scale"), of_scaler.get("found_inf")
        if overflow is not None and bool(overflow):
            return
        scale = 1.0 if factor is None else 1 / number(factor)
        machine, clip = self._machine, self.clip_norm
        plan, loan, options = machine.plan, None, (scale, clip, of_scaler, machine.changes)
        try:
            if plan.again(groups, self.state):
                if plan.step_again(*options):
                    return
                loan = machine.taken_again(groups, self._settings)
                if loan and plan.step_again(*options):
                    return
            if loan is None:
                loan = machine.taken(groups, self.state, self._settings, self._form(), self.param_groups)
            if loan is None:
                self.grad_norm = None if clip is None else 0.0
                return
            plain = clip is None and scale == 1
            self._step(loan, DEFAULTS if plain else StepOptions(scale, clip, math.inf, False, False), loss)
        except BaseException:
            machine.release()
            raise

    def _step(self, loan: Loan, options: StepOptions, loss: Any) -> None:
        changes, plan = self._machine.changes, self._machine.plan
        if loan.entries and options.clip_norm is not None:
            plan.gradients = loan.gradients()
        step = Step(plan, options)
        step.prepare(loan.batches, number(loss) if self.rule.needs_loss and loss is not None else None)
        for batch in loan.batches:
            if batch.group.new:
                changes.update(self.state, batch.group.new)
                batch.group.new = {}
        if step.result.grad_norm != self.grad_norm:
            changes.update(vars(self), {"grad_norm": step.result.grad_norm})
        if loan.entries:
            loan.give_back(changes)
        torch.autograd.graph.increment_version(loan.parameters() if loan.entries else plan.parameters())
        step.run(changes)

    def _settings(self, group: dict[str, Any]) -> Settings:
        if group.get("differentiable"):
            raise ValueError(NOT_DIFFERENTIABLE)
        extras = {name: group.get(name, default) for name, default in self.extras.items()}
        return Settings(self.rule, {**self._defaults, **extras, **self.hyperparameters(group)})

    def _form(self) -> Form:
        machine = self._machine
        if machine.form is None or machine.form.state_dtype is not self.state_dtype:
            kept = self.scalar_dtype, self.state_dtype
            machine.form = Form(self.rule, self.state_names, self.counted, *kept, self.steps_rows)
        return machine.form

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does; raise an error if its parameters cannot be stepped here."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except (RuntimeError, TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        if group.get("differentiable"):
            raise ValueError(NOT_DIFFERENTIABLE)
        labels = labels_of(self.param_groups)
        for p in group["params"]:
            if p.device.type != "cpu":
                raise ValueError(f"{labels[p]} is on {p.device}; this optimizer is for the CPU")
            if p.layout is not torch.strided:
                raise ValueError(f"{labels[p]} has layout {p.layout}; it must be strided")
            if p.dtype not in FLOATS + COMPLEX:
                raise TypeError(f"{labels[p]} has dtype {p.dtype}; it must be a float or complex")
            self.rule.check_width(labels[p], p.dtype.to_real())

    def load_state_dict(self, state_dict: Any) -> None:
        """Load what this class or torch's has saved, as torch does, but keep the precision of state.

        State whose memory layout differs from its parameter's is copied into the parameter's layout.
        """
        loaded = state_dict
        extras = [{name: group[name] for name in self.extras} for group in self.param_groups]

        def remember(_: torch.optim.Optimizer, given: Any) -> None:
            nonlocal loaded
            loaded = given

        def restore(_: torch.optim.Optimizer) -> None:
            for group, own in zip(self.param_groups, extras, strict=True):
                group.update({**own, **group})
            ids = chain.from_iterable(group["params"] for group in loaded["param_groups"])
            params = chain.from_iterable(group["params"] for group in self.param_groups)
            form = self._form()
            for key, p in zip(ids, params, strict=True):
                if key in loaded["state"]:
                    self.state[p] = dict(form.restored(p, loaded["state"][key], self.state[p]))

        before = self.register_load_state_dict_pre_hook(remember)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        with before, after:
            super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        own = ("clip_norm", "state_dtype", "grad_norm", "_step_supports_amp_scaling")
        return super().__getstate__() | {name: vars(self)[name] for name in own if name in vars(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_machine" not in vars(self):
            self._machine = Machine()
