"""A torch optimizer whose step is one pass over the tensors' own memory.

Group by group, the parameters that have a gradient are gathered with their state into batches that share
coefficients (`batch.py`). `_core.TensorPlan` takes their tensors, each where it is now; what the kernels
cannot use as it is, is lent another form (`lending.py`). Then come the norm, if clipping asks for it, the
coefficients, and the pass. Before that nothing is written, so an error leaves all as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from itertools import chain
from threading import Lock
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .. import _core
from ..average import average
from ..hyperparameters import checked_number
from ..kernel import Kernel, MatrixKernel
from ..optimizer import Optimizer as Rule
from ..step import LIMIT, clip_coefficient
from .batch import Batch, Form, State, by_kernel, completed, gather
from .distributed import global_norm, is_distributed
from .lending import FLOATS, Loan
from .matrices import make_directions

COMPLEX = (torch.complex128, torch.complex64, torch.complex32)
NOT_DIFFERENTIABLE = "differentiable=True is not possible: autograd does not see the kernels"
DOUBLE = (torch.float64, torch.complex128)
KEYWORDS = {"clip_norm": None, "state_dtype": None, "unscale_in_step": False}


class Machine:
    """What an optimizer keeps between steps that is no state of its: it is neither copied nor pickled."""

    def __init__(self) -> None:
        self.plan = _core.TensorPlan(Tensor, average.name)
        self.directions = _core.TensorPlan(Tensor, average.name)
        self.room: MutableMapping[Tensor, Tensor] = WeakTensorKeyDictionary()
        self.running = Lock()


class Fused(torch.optim.Optimizer):
    """The step of every class of this package; all else is torch's.

    The classes take torch's arguments, and three more by keyword:

    clip_norm: gradients are multiplied by ``min(1, clip_norm / (norm + 1e-6))``, of the 2-norm of all
    gradients that this optimizer has, within the pass: they stay as they are. Default None: no clipping.
    state_dtype: what state is kept in, for example float32 for parameters of 16 bits. Default None: the dtype
    of the parameter. State that is loaded keeps its precision.
    unscale_in_step: `torch.amp.GradScaler` leaves its scale to the step, and does not write the gradients.
    Default False, but True with the ``fused=True`` of torch's arguments.

    `foreach`, `fused` and `capturable` are accepted and change nothing else. Parameters and gradients are on
    the CPU, in float64, float32, bfloat16, float16 or complex (stepped as pairs of real numbers). 16 bits are
    computed in float32 and rounded once. Memory may be laid out in any way; what is dense is not copied.
    Raises ValueError, TypeError or RuntimeError, naming the parameter, before anything is written: for
    parameters elsewhere, or that share memory, for ``differentiable=True``, and for sparse gradients where
    the rule has no form for them.
    """

    rule: ClassVar[type[Rule]]
    """The formula, its coefficients and its state."""

    state_names: ClassVar[Mapping[str, str]] = {}
    """The keys in `state` of the rule's slots and scalars, where they are not the rule's own names."""

    extras: ClassVar[Mapping[str, Any]] = {}
    """Hyperparameters of the rule that the class from torch lacks, with their defaults."""

    counted: ClassVar[bool] = True
    """Whether `state` counts the steps."""

    scalar_dtype: ClassVar[torch.dtype] = torch.float32
    """What the rule's scalars are kept in; torch keeps its own in float32."""

    grad_norm: float | None = None
    """The norm of the gradients before clipping, at the last step; None where there is no clipping."""

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
        if state_dtype is not None and state_dtype not in FLOATS:
            raise TypeError(f"state_dtype must be one of {FLOATS}, got {state_dtype!r}")
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

    # What a class says about itself.

    def hyperparameters(self, group: dict[str, Any]) -> dict[str, Any]:
        """The rule's hyperparameters, from a group in torch's form; what is left out has the default."""
        raise NotImplementedError

    def steps_rows(self, h: Mapping[str, Any]) -> bool:
        """Whether, with these hyperparameters, a sparse gradient leaves alone what it has no elements for."""
        return False

    # What torch and users call.

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters that have a gradient, and return what `closure` does.

        closure: computes the loss again, with its gradients, before the step. Default None. Raises
        RuntimeError while another thread steps, and what the class says.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update(((group, group["params"]) for group in self.param_groups), loss)
        return loss

    def update(self, parameters: Iterable[tuple[dict[str, Any], list[Tensor]]], loss: Any = None) -> None:
        """Step some parameters of each group: those that have a gradient. The norm is of their gradients."""
        if not self._machine.running.acquire(blocking=False):
            raise RuntimeError("a step of this optimizer is running already")
        try:
            self._update(parameters, loss)
        finally:
            self._machine.running.release()

    def make_state(self, parameters: Iterable[Tensor]) -> None:
        """Make the state of these parameters now, if the rule counts steps; else the first step makes it."""
        group_of = {p: group for group in self.param_groups for p in group["params"]}
        for p in parameters if self.counted else ():
            self.state[p].update(completed(self._form(), self._evaluated(group_of[p]), p, self.state[p]))

    def _update(self, parameters: Iterable[tuple[dict[str, Any], list[Tensor]]], loss: Any) -> None:
        scale, overflow = self._amp()
        if overflow:
            return
        plan = self._machine.plan
        batches, new = self._gathered(parameters)
        if not batches:
            self.grad_norm = None if self.clip_norm is None else 0.0
            return
        gradients = (
            [g for batch in batches for g in batch.found.gradients(batch.members)]
            if self.clip_norm is not None
            else []
        )
        loan = Loan(batches, self._labels)
        loan.take(plan)
        norm = None
        if self.clip_norm is not None:
            norm = scale * global_norm(gradients, plan.norm()[0])
            scale *= clip_coefficient(norm, self.clip_norm)
        loss = number(loss) if self.rule.needs_loss and loss is not None else None
        hs = [batch.at() for batch in batches]
        pairs = [batch.row(h, loss, scale) for batch, h in zip(batches, hs, strict=True)]
        rows, scalars = [row for row, _ in pairs], [after for _, after in pairs]
        made = {p: state for p, state in new}  # noqa: C416
        changes = make_directions(
            self._machine.directions,
            batches,
            hs,
            rows,
            lambda k: [(made.get(p, self.state.get(p, {})), self._machine.room[p]) for p in loan.owners(k)],
        )
        measures = any(batch.kernel.measure for batch in batches)
        measured = plan.measure(rows) if measures else []
        numbers = {}
        for k, (members, sums) in enumerate(measured):
            if members:
                found = batches[k].adapted(hs[k], loan.owners(k), sums)
                rows[k] = (*rows[k][:3], found.own)
                scalars[k] |= found.scalars
                numbers[k] = found.numbers
        # From here on nothing fails. What touches each parameter comes before the pass takes the cache.
        self.grad_norm = norm
        for p, state in new:
            self.state[p].update(state)
        for batch, after in zip(batches, scalars, strict=True):
            batch.advance(after)
        for k, values in numbers.items():
            batches[k].assign(values)
        with torch.no_grad():
            for factor, value in changes:
                factor.copy_(value)
        torch.autograd.graph.increment_version(loan.parameters())
        plan.run(rows)
        loan.give_back()

    def _gathered(
        self, parameters: Iterable[tuple[dict[str, Any], list[Tensor]]]
    ) -> tuple[list[Batch], list[tuple[Tensor, State]]]:
        """The batches of the parameters that have a gradient, and the state that these lacked so far."""
        batches: list[Batch] = []
        new: list[tuple[Tensor, State]] = []
        for group, params in parameters:
            h = self._evaluated(group)
            for kernel, alike in by_kernel(self.rule, h, params):
                self._check_whole(kernel, alike)
                gathered, made = gather(
                    self._machine.plan, self._form(), h, kernel, alike, self.state, self._machine.room
                )
                batches += gathered
                new += made
        return batches, new

    def _check_whole(self, kernel: Kernel, parameters: Iterable[Tensor]) -> None:
        """An error if a direction would be made of a part of a matrix."""
        if isinstance(kernel, MatrixKernel):
            for p in parameters:
                if p.grad is not None and is_distributed(p):
                    raise RuntimeError(f"{self._labels()[p]} is a DTensor; this rule needs whole matrices")

    def _amp(self) -> tuple[float, bool]:
        """What gradients are multiplied by, and whether some have overflowed; GradScaler may say so."""
        scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        return 1.0 if scale is None else 1 / number(scale), found_inf is not None and bool(found_inf)

    def _evaluated(self, group: dict[str, Any]) -> dict[str, Any]:
        if group.get("differentiable"):
            raise ValueError(NOT_DIFFERENTIABLE)
        extras = {name: group.get(name, default) for name, default in self.extras.items()}
        return {**self._defaults, **extras, **self.hyperparameters(group)}

    def _form(self) -> Form:
        return Form(
            self.rule, self.state_names, self.counted, self.scalar_dtype, self.state_dtype, self.steps_rows
        )

    def _labels(self) -> dict[Tensor, str]:
        """What an error calls each parameter."""
        return {
            p: f"parameter {group['param_names'][i]!r}"
            if "param_names" in group
            else f"parameter {i} of group {k}"
            for k, group in enumerate(self.param_groups)
            for i, p in enumerate(group["params"])
        }

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group as torch does; an error if its parameters cannot be stepped here."""
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except (RuntimeError, TypeError, ValueError):
            self.param_groups.pop()
            raise

    def _check(self, group: dict[str, Any]) -> None:
        if group.get("differentiable"):
            raise ValueError(NOT_DIFFERENTIABLE)
        labels = self._labels()
        for p in group["params"]:
            if p.device.type != "cpu":
                raise ValueError(f"{labels[p]} is on {p.device}; this optimizer is for the CPU")
            if p.layout is not torch.strided:
                raise ValueError(f"{labels[p]} has layout {p.layout}; it must be strided")
            if p.dtype not in FLOATS + COMPLEX:
                raise TypeError(f"{labels[p]} has dtype {p.dtype}; it must be a float or complex")

    def load_state_dict(self, state_dict: Any) -> None:
        """Load what this class or torch's has saved, as torch does, but keep the precision of state.

        State of another memory layout than its parameter is brought into the parameter's.
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
            for key, p in zip(ids, params, strict=True):
                if key in loaded["state"]:
                    self.state[p] = dict(self._restored(p, loaded["state"][key]))

        before = self.register_load_state_dict_pre_hook(remember)
        after = self.register_load_state_dict_post_hook(restore, prepend=True)
        with before, after:
            super().load_state_dict(state_dict)

    def _restored(self, p: Tensor, state: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        form = self._form()
        for key, value in state.items():
            if value is None:  # torch's SGD before its first step
                continue
            if not isinstance(value, Tensor):
                yield key, self.state[p][key]  # of which torch makes a tensor where it knows it
                continue
            if key in form.number_keys:
                yield key, value if value.dtype in (torch.float32, torch.float64) else value.to(torch.float32)
                continue
            fits = (value.dtype in DOUBLE) == (p.dtype in DOUBLE)
            dtype = form.kept_as(p) if self.state_dtype is not None or not fits else value.dtype
            if value.shape == p.shape and value.stride() != p.stride():
                yield key, torch.empty_like(p, dtype=dtype, requires_grad=False).copy_(value)
            else:
                yield key, value.to(p.device, dtype)

    def __getstate__(self) -> dict[str, Any]:
        own = ("clip_norm", "state_dtype", "grad_norm", "_step_supports_amp_scaling")
        return super().__getstate__() | {name: vars(self)[name] for name in own if name in vars(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_machine" not in vars(self):
            self._machine = Machine()


def number(value: Any) -> float:
    """A number, or the value of a tensor of one element."""
    return float(value.item() if isinstance(value, Tensor) else value)


def signature(parameters: list[inspect.Parameter], extras: Mapping[str, Any]) -> inspect.Signature:
    """The signature of a class with these parameters of its own."""
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default)
        for name, default in {**extras, **KEYWORDS}.items()
    ]
    return inspect.Signature([*parameters, *added])
