"""The machinery under every rule: parameter groups, state, the step, and checkpoints."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from inspect import Parameter, Signature
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NoReturn

import numpy.typing as npt

from .._core import Busy, Changes
from ..arrays.memory import set_to_zero
from ..arrays.rows import Rows
from ..arrays.storage import checked_format
from ..arrays.structure import Groups, Params
from ..arrays.tensors import Tensors
from ..backends import BACKENDS
from ..formula.hyperparameters import ANY, REAL, checked_number
from ..formula.rule import Rule
from ..stateful import Loading, Loads
from . import checkpoint
from .declaring import dataclass_transform, positional
from .foresight import foresight_of
from .group import Group
from .options import DONE, StepOptions, StepResult, checked_options
from .shares import shares_of
from .slots import made
from .step import Step
from .step_norms import begun
from .tables import Tables


@dataclass_transform(kw_only_default=True, field_specifiers=(positional,))
class Engine(Rule, Loads):
    """The machinery under `Optimizer`. The fields of its subclasses are arguments of their constructors."""

    __signature__: ClassVar[Signature]

    backend: str
    groups: tuple[Group, ...]
    state: Any  # views of the arrays by slot, keyed like the parameters
    counts: dict[str, int]  # of steps: "t"
    counts_of_rows: dict[Hashable, int]  # of calls of step_rows, by parameter
    busy: Busy
    structure: Groups
    tensors: Tensors

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        defaults = {name: field.default for name, field in cls._fields.items()}
        cls.__signature__ = Signature(
            [Parameter("params", Parameter.POSITIONAL_OR_KEYWORD)]
            + [
                Parameter(name, Parameter.KEYWORD_ONLY, default=default)
                for name, default in {**defaults, "state_dtype": None, "backend": "native"}.items()
            ]
        )

    def __init__(
        self,
        params: Params,
        *,
        state_dtype: npt.DTypeLike | None = None,
        backend: Literal["native", "numpy"] = "native",
        **hyperparameters: Any,
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be 'native' or 'numpy', got {backend!r}")
        self.backend = backend
        state_type = checked_format("state_dtype", state_dtype)
        self.counts = {"t": 0}
        self.counts_of_rows = {}
        self.busy = Busy()
        self._changes = self.busy.changes
        self.structure = Groups(params)
        self.groups = tuple(
            Group(type(self), tree, {**hyperparameters, **options})
            for tree, options in zip(self.structure.trees, self.structure.options, strict=True)
        )
        self._group_of = [
            group for group, leaves in zip(self.groups, self.structure.leaves, strict=True) for _ in leaves
        ]
        self.tensors = Tensors(
            self.structure.names,
            self.structure.parameters,
            lambda i, p, dense_p: made(
                type(self), self._group_of[i], self.structure.names[i], p, dense_p, state_type
            ),
        )
        self.state = MappingProxyType(self.structure.tree(self.tensors.views()))
        found = BACKENDS[backend]
        self._shares, operands = shares_of(type(self), self._group_of, self.tensors)
        self._plan = found.plan([share.kernel for share in self._shares], operands)
        self._foresight = foresight_of(
            self._plan, self._shares, self.tensors, self.structure, self.counts, self.busy
        )
        self._plan_of_rows = found.plan([], [])
        self._tables = Tables(
            type(self), found.table, self.structure.parameters, self.tensors, self._group_of
        )

    @property
    def t(self) -> int:
        """The number of steps done."""
        return self.counts["t"]

    @property
    def row_steps(self) -> dict[Hashable, int]:
        """How often `step_rows` has stepped rows of each parameter that it has ever stepped."""
        return {name: count for name, count in self.counts_of_rows.items() if count}

    def set_in_all_groups(self, name: str, value: Any) -> None:
        """Set a hyperparameter in every group, or in none if it cannot be set in one of them."""
        changes = Changes()
        for group in self.groups:
            group.collect_set({name: value}, changes)
        changes.write()

    def step(
        self,
        grads: Any,
        *,
        scale: float = 1.0,
        loss: float | None = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        skip_nonfinite: bool = False,
        zero_grad: bool = False,
        norms: bool = False,
    ) -> StepResult:
        """Update the parameters in place.

        `grads` has the structure and the shapes of the parameters. None in place of a gradient leaves that
        parameter and its state as they are; `t` counts the step for all. `Rows` in place of a gradient move
        only some rows of the parameter. With groups, `grads` is a list with one item for each group, or one
        structure over all parameters.

        scale: multiply every gradient by it, default 1. clip_norm: multiply the scaled gradients of all
        groups by ``min(1, clip_norm / (norm + 1e-6))``, where norm is the 2-norm of all of them together.
        clip_value: then bring every element into ``[-clip_value, clip_value]``. All this happens within the
        step and does not change the gradients. skip_nonfinite: if a gradient holds a NaN or an infinity,
        change nothing, not even `t`. zero_grad: set the gradients to 0 afterwards, also if the step was
        skipped. loss: the loss at the parameters, for rules that need it. norms: also return the norms of
        gradients, updates and weights, summed within the pass.

        Returns the norm before clipping (None unless clip_norm or skip_nonfinite needed it), whether the step
        was skipped, and the `StepNorms` if asked for. Raises TypeError or ValueError for unusable arguments,
        and RuntimeError while another step of this optimizer runs; after an error nothing has changed.
        """
        options = scale, clip_norm, clip_value, skip_nonfinite, zero_grad, norms
        return self.busy.run(self._step, grads, loss, options)

    def step_rows(
        self,
        name: Hashable,
        rows: Any,
        grad_rows: Any,
        *,
        scale: float = 1.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        skip_nonfinite: bool = False,
    ) -> StepResult:
        """Update some rows of one parameter in place, such as those of an embedding that a batch looked up.

        name: the parameter's key; its position if the parameters are a sequence, 0 if there is only one.
        rows: the positions of rows ``p[r]``, a list or an array of one axis, integers in any order from 0 to
        ``len(p) - 1``. grad_rows: their gradients, an array of shape ``(len(rows), *p.shape[1:])`` in a dtype
        that `step` takes; gradients of the same row are summed first, in order, in the type in which the step
        computes. scale, clip_norm, clip_value, skip_nonfinite: as in `step`, applied to the sums.

        The step is lazy: rows that are not named stay as they are, and so do their state and their average.
        They neither move on by momentum nor decay. The named rows move as in a `step` of them alone, whose t
        is the parameter's own count of these calls; `t` counts only calls of `step`.

        SGD, Momentum, EMAMomentum, Adagrad, RowwiseAdagrad, RMSProp, Adam and AdamW can step rows, but not
        with `cautious`. Returns and raises what `step` does, and raises KeyError for an unknown name, and
        ValueError unless each row is one run of memory.
        """
        options = scale, clip_norm, clip_value, skip_nonfinite, False, False
        return self.busy.run(self._step_rows, name, Rows(rows, grad_rows), options)

    def _step(self, grads: Any, loss: float | None, options: tuple[Any, ...]) -> StepResult:
        try:
            if self._foresight and (found := self._foresight.step(grads, loss, options)):
                return DONE if found[0] is None else StepResult(found[0], False)
            return self._stepped(grads, loss, checked_options(*options))
        except BaseException:
            self._plan.release()  # of the gradients, which otherwise the end of the pass does
            raise

    def _stepped(self, grads: Any, loss: float | None, options: StepOptions) -> StepResult:
        t = self.counts["t"] + 1
        values = {group: group.at(t) for group in self.groups}  # first, since users' code may change arrays
        self.tensors.check_unchanged()
        gradients = self.structure.gradients(grads)
        tables, copied = self._tables.pin(self._plan, gradients, options.zero_grad)
        strided = self.tensors.strided(gradients)
        step, changes = begun(self._plan, options, self.structure.tree), self._changes
        if step.result.skipped:
            if options.zero_grad:
                set_to_zero(changes, (*gradients, *copied))
                changes.write()
            self._plan.release()
            return step.result
        if loss is not None:
            loss = checked_number("loss", loss, REAL if self.needs_loss else ANY)
        for share in self._shares:
            share.begin(t, values[share.group], gradients)
        for table in tables:
            table.begin(t, values[table.group])
        if options.norms:
            self.tensors.fill()
        for p, stand_in in strided:
            stand_in[...] = p
            changes.copy(p, stand_in)
        set_to_zero(changes, copied)
        step.prepare([*self._shares, *tables] if tables else self._shares, loss)
        changes.update(self.counts, {"t": t})
        step.run(changes)
        return step.result

    def _step_rows(self, name: Hashable, rows: Rows, options: tuple[Any, ...]) -> StepResult:
        try:
            return self._stepped_rows(name, rows, checked_options(*options))
        finally:
            self._plan_of_rows.release()

    def _stepped_rows(self, name: Hashable, rows: Rows, options: StepOptions) -> StepResult:
        table = self._tables.of(name)
        t = self.counts_of_rows.get(table.name, 0) + 1
        values = table.group.at(t)
        self.tensors.check_unchanged()
        table.check_writeable()
        table.take(rows)
        self._plan_of_rows.pin_rows([], False, [(0, table.table)])
        step = Step(self._plan_of_rows, options)
        if step.result.skipped:
            return step.result
        table.begin(t, values)
        step.prepare([table], None)
        self._changes.update(self.counts_of_rows, {table.name: t})
        step.run(self._changes)
        return step.result

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that a step depends on, except the parameters and gradients.

        It includes what schedules such as `schedules.Plateau` were told: the result of their
        ``state_dict()``. Raises RuntimeError while a step runs.
        """
        return self.busy.read(checkpoint.save, self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a `state_dict()`; given its parameters and schedules, training goes on exactly from there.

        A number in the checkpoint replaces the optimizer's number or schedule. Where the checkpoint had a
        schedule, the optimizer keeps its own, and restores what that one was told. Raises ValueError or
        TypeError, and changes nothing, unless rule, groups, names, shapes and dtypes agree, but for float16
        state, which loads into float32; raises RuntimeError while a step runs.
        """
        self.busy.run(super().load_state_dict, state_dict)

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        checkpoint.collect_load(self, state_dict, loading)

    def _no_attribute(self, name: str) -> str:
        names = ", ".join(self._fields)
        return f"{type(self).__name__} has no attribute {name!r}; its hyperparameters are {names}"

    def __reduce__(self) -> NoReturn:
        """Refuse to pickle or copy, because both would separate the optimizer from its parameters."""
        raise TypeError(f"cannot copy or pickle {type(self).__name__}; use state_dict()")

    def __repr__(self) -> str:
        name, tensors = type(self).__name__, len(self.tensors.names)
        return f"<{name}: {tensors} parameters, {len(self.groups)} groups, t={self.t}>"
