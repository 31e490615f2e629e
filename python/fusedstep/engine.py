"""The machinery under every rule: parameter groups, state, the step, and checkpoints."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from inspect import Parameter, Signature
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from . import average, checkpoint, native, reference
from .arrays import set_to_zero, zeros_like
from .busy import Busy, Holder
from .hyperparameters import REAL, At, Group, Hyperparameter, checked_number, declared
from .kernel import Kernel, MatrixKernel
from .matrices import Directions
from .plan import Adapted, Measured, Row, adapted, row
from .rows import RowSteps
from .step import StepOptions, StepResult, checked_options
from .storage import mix, number_type
from .structure import Groups, Params
from .tensors import Tensors

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from .kernel import Array
else:

    def dataclass_transform(**_: object) -> Any:
        """Python 3.10 has no typing.dataclass_transform, and only type checkers read it."""
        return lambda cls: cls


BACKENDS: dict[str, type[native.Plan | reference.Plan]] = {
    "native": native.Plan,
    "numpy": reference.Plan,
}


def positional(*, kw_only: Literal[False] = False) -> Any:
    """Mark the field that is given by position, for type checkers."""
    return kw_only


@dataclass_transform(kw_only_default=True, field_specifiers=(positional,))
class Engine:
    """The machinery under `Optimizer`. The fields of its subclasses are arguments of their constructors."""

    _fields: ClassVar[dict[str, Hyperparameter]] = {}

    __signature__: ClassVar[Signature]

    update: ClassVar[Kernel]
    """The rule: one elementwise formula."""

    scalars: ClassVar[Mapping[str, float]] = {}
    """State that is one number for a group, with its first value."""

    numbers: ClassVar[Mapping[str, float]] = {}
    """State that is one number for a tensor, with its first value."""

    copies: ClassVar[tuple[str, ...]] = ()
    """The slots that start as the parameter."""

    takes: ClassVar[tuple[str, ...]] = ()
    """Those of l1, l2 and weight_decay that are the rule's own; none is applied before it."""

    measures_groups: ClassVar[bool] = False
    """Whether it adds what it measures over all tensors of a group."""

    needs_loss: ClassVar[bool] = False
    """Whether a step needs the loss."""

    steps_rows: ClassVar[bool] = False
    """Whether rows of a parameter can be stepped without the others."""

    def __init_subclass__(cls) -> None:
        own = declared(cls)
        cls._fields = {**own, **{name: field for name, field in cls._fields.items() if name not in own}}
        for name, field in own.items():
            setattr(cls, name, field)
        cls.__signature__ = Signature(
            [Parameter("params", Parameter.POSITIONAL_OR_KEYWORD)]
            + [
                Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default)
                for field in cls._fields.values()
            ]
            + [
                Parameter("state_dtype", Parameter.KEYWORD_ONLY, default=None),
                Parameter("backend", Parameter.KEYWORD_ONLY, default="native"),
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
        self._state_type = number_type("state_dtype", state_dtype)
        self._t = 0
        self.busy = Busy()
        self.structure = Groups(params)
        self.groups = tuple(
            Group(
                tree,
                {**hyperparameters, **options},
                self._fields,
                self.choose_kernel,
                self.choose_matrix_kernel,
                dict(self.scalars),
            )
            for tree, options in zip(self.structure.trees, self.structure.options, strict=True)
        )
        group_of = [i for i, leaves in enumerate(self.structure.leaves) for _ in leaves]
        self.tensors = Tensors(
            self.structure.names,
            self.structure.parameters,
            lambda i, p, dense_p: self._initial_state(i, self.groups[group_of[i]], p, dense_p),
        )
        self.state: Any = MappingProxyType(self.structure.tree(self.tensors.views()))
        """Views of the state arrays by slot, keyed like the parameters."""
        used = [
            (self.groups[i], self.groups[i].kernel_of(p))
            for i, p in zip(group_of, self.tensors.dense, strict=True)
        ]
        # The parameters of a group that share a kernel make a part: they share coefficients.
        self._parts = list(dict.fromkeys(used))
        kernels = [kernel for _, kernel in self._parts]
        # State of the parameter's shape that the plan does not know, and in whose memory a gradient may lie.
        self._beside = [
            i
            for i, (p, slots) in enumerate(zip(self.tensors.dense, self.tensors.slots, strict=True))
            if any(
                array.shape == p.shape
                for name, array in slots.items()
                if name not in (*used[i][1].state, average.SLOT)
            )
        ]
        tensors = [
            (self._parts.index(part), p, self._operands(slots, part[1], p), slots.get(average.SLOT))
            for part, p, slots in zip(used, self.tensors.dense, self.tensors.slots, strict=True)
        ]
        self._plan = BACKENDS[backend](kernels, tensors)
        self._rows = RowSteps(
            type(self),
            BACKENDS[backend].of_rows,
            self.structure.parameters,
            self.tensors,
            [self.groups[i] for i in group_of],
        )
        self._measures = any(kernel.measure for kernel in kernels)
        turns = any(isinstance(kernel, MatrixKernel) for kernel in kernels)
        self._directions = (
            Directions(BACKENDS[backend], kernels, tensors, self.tensors.slots) if turns else None
        )

    # What a rule says about itself.

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        """The elementwise update that the hyperparameters `h` choose; they decide which state there is."""
        del h
        return cls.update

    @classmethod
    def choose_matrix_kernel(cls, h: SimpleNamespace) -> MatrixKernel | None:
        """The same for matrices, if they have an update of their own."""
        return None

    @classmethod
    def initial(cls, h: Mapping[str, Any]) -> dict[str, float]:
        """The first value of each slot that does not start at zero, from hyperparameters that are fixed."""
        return {}

    @classmethod
    def advance(cls, h: At, t: int, loss: float | None) -> dict[str, float]:
        """The scalars after this step; `h` has those before it."""
        return {}

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        """All that depends on the step alone, in the order of the fields of the C++ struct.

        `h` has the scalars after the step, ``h.before`` those before it.
        """
        raise NotImplementedError

    @classmethod
    def adapt(cls, h: At, t: int, measured: Measured) -> Adapted:
        """The coefficients that depend on what is measured, the last ones of the C++ struct."""
        raise NotImplementedError

    # What a user does with it.

    @property
    def t(self) -> int:
        """The number of steps done."""
        return self._t

    @property
    def row_steps(self) -> dict[Hashable, int]:
        """How often rows of each parameter were stepped, of those of which any were."""
        return dict(self._rows.counts)

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
    ) -> StepResult:
        """Update the parameters in place.

        `grads` has the structure and the shapes of the parameters. A None skips its parameter and its state;
        `t` goes on for all. With groups it is one item a group, or one structure over all their parameters.

        scale: every gradient is multiplied by it, default 1. clip_norm: the scaled gradients of all groups
        are multiplied by ``min(1, clip_norm / (norm + 1e-6))``, of their 2-norm all together. clip_value:
        then every element is brought into ``[-clip_value, clip_value]``. All this happens within the step:
        the gradients stay as they are. skip_nonfinite: if a gradient holds a NaN or an infinity, nothing
        changes, `t` included. zero_grad: set the gradients to 0 afterwards, of a skipped step too. loss: the
        loss at the parameters, for rules that need it.

        Returns the norm before clipping (None unless clip_norm or skip_nonfinite needed it), and whether the
        step was skipped. Raises TypeError or ValueError, and RuntimeError while another step of this
        optimizer runs; after an error nothing has changed.
        """
        holder = Holder()
        try:
            self.busy.take(holder)
            options = checked_options(scale, clip_norm, clip_value, skip_nonfinite, zero_grad)
            return self._step(grads, loss, options)
        finally:
            self.busy.leave(holder)

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
        """Update some rows of a parameter in place, such as those of an embedding that a batch looked up.

        name: the parameter's key; its position if they are a sequence, 0 if it is the only one. rows: the
        positions of rows ``p[r]``, a list or an array of one axis, integers from 0 to ``len(p) - 1`` in any
        order. grad_rows: their gradients, an array of shape ``(len(rows), *p.shape[1:])`` in a dtype that
        `step` takes; those of equal rows are summed first, in order, in the type that is computed in. scale,
        clip_norm, clip_value, skip_nonfinite: as of `step`, for the sums.

        It is lazy: rows that are not named stay as they are, and so do their state and their average. No
        momentum carries them on, nothing decays. The others move as in a `step` of them alone, whose t is the
        parameter's own count of these calls; `t` counts `step` only.

        Of SGD, Momentum, EMAMomentum, Adagrad, RowwiseAdagrad, RMSProp, Adam and AdamW, except what is
        `cautious`. Returns and raises what `step` does, KeyError for an unknown name, and ValueError unless
        each row is one run of memory.
        """
        holder = Holder()
        try:
            self.busy.take(holder)
            options = checked_options(scale, clip_norm, clip_value, skip_nonfinite, False)
            return self._rows.step(name, rows, grad_rows, options)
        finally:
            self.busy.leave(holder)

    def _step(self, grads: Any, loss: float | None, options: StepOptions) -> StepResult:
        gradients = self.structure.gradients(grads)
        copied = self._pin(gradients, options.zero_grad)
        strided = self.tensors.strided(gradients)
        norm, skipped = options.look(self._plan)
        if skipped:
            if options.zero_grad:
                set_to_zero(g for g in (*gradients, *copied) if g is not None)
            return StepResult(norm, skipped)
        t, scale = self._t + 1, options.scale_at(norm)
        loss = None if loss is None else checked_number("loss", loss, REAL)
        at = {group: group.at(t) for group in self.groups}
        hs = [
            at[group] if kernel is group.kernel else at[group].with_kernel(kernel)
            for group, kernel in self._parts
        ]
        rows, scalars = [], []
        for (group, _), h in zip(self._parts, hs, strict=True):
            coefficients, advanced = row(
                type(self),
                h,
                t,
                loss=loss,
                scale=scale,
                averaged=group.averaged,
                clip_value=options.clip_value,
            )
            rows.append(coefficients)
            scalars.append(advanced)
        for p, stand_in in strided:
            stand_in[...] = p
        after = self._look(t, hs, rows, scalars, gradients)
        # From here on the native backend cannot fail, and an interrupt comes only when its run is over.
        for (group, _), advanced in zip(self._parts, scalars, strict=True):
            group.scalars.update(advanced)
        for array, value in after:
            array[...] = value
        self._t = t
        try:
            self._plan.run(rows, options.zero_grad)
        finally:
            for p, stand_in in strided:
                p[...] = stand_in
            set_to_zero(copied)
        return StepResult(norm, skipped)

    def _look(
        self,
        t: int,
        hs: Sequence[At],
        rows: list[Row],
        scalars: list[dict[str, float]],
        gradients: Sequence[Any],
    ) -> list[tuple[Array, Any]]:
        """The passes before the step; what small state will be after it."""
        after: list[tuple[Array, Any]] = []
        if self._directions:
            after += self._directions.make(type(self), hs, t, rows, gradients)
        if self._measures:
            after += self._adapt(t, hs, rows, scalars)
        return after

    def _adapt(
        self, t: int, hs: Sequence[At], rows: list[Row], scalars: list[dict[str, float]]
    ) -> list[tuple[Array, Any]]:
        """Give the rows what tensors have of their own; return the tensors' numbers with their new values."""
        numbers = []
        for k, (positions, sums) in enumerate(self._plan.measure(rows)):
            if not positions:
                continue
            state = [self.tensors.slots[i] for i in positions]
            found = adapted(
                type(self),
                hs[k],
                t,
                Measured(
                    np.array([self.tensors.dense[i].size for i in positions], np.float64),
                    list(sums.T),
                    {name: np.array([slots[name] for slots in state]) for name in self.numbers},
                ),
            )
            rows[k] = (*rows[k][:3], found.own)
            scalars[k] |= found.scalars
            for name, values in found.numbers.items():
                numbers += [(slots[name], value) for slots, value in zip(state, values.tolist(), strict=True)]
        return numbers

    def _pin(self, gradients: list[Any], zero_gradients: bool) -> list[Array]:
        """Have the plan take the gradients, of which copies may come in place; the originals to be zeroed."""
        odd = self._plan.pin(gradients, zero_gradients)
        if self._beside:
            odd = sorted({*odd, *(i for i in self._beside if gradients[i] is not None)})
        if not odd:
            return []
        originals = [gradients[i] for i in odd]
        for i in odd:
            gradients[i] = self.tensors.conform(i, gradients[i], zero_gradients)
        self._plan.pin(gradients, zero_gradients)
        return originals if zero_gradients else []

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that a step depends on beside parameters and gradients.

        Of schedules it has what they were told, as of `schedules.Plateau`: what their ``state_dict()`` gives.
        """
        return checkpoint.save(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict()` was taken, given the parameters and schedules of then.

        A number in the checkpoint replaces what the optimizer has, a schedule too. Where the checkpoint had a
        schedule the optimizer keeps its own, and restores what that was told. Raises ValueError or TypeError,
        and changes nothing, unless rule, groups, names, shapes and dtypes agree; RuntimeError while a step
        runs.
        """
        holder = Holder()
        try:
            self.busy.take(holder)
            self._t, self._rows.counts = checkpoint.load(self, state_dict)
        finally:
            self.busy.leave(holder)

    def __reduce__(self) -> NoReturn:
        """Neither pickle nor copy: both would part the optimizer from its parameters."""
        raise TypeError(f"cannot copy or pickle {type(self).__name__}; use state_dict()")

    def __repr__(self) -> str:
        name, tensors = type(self).__name__, len(self.tensors.names)
        return f"<{name}: {tensors} parameters, {len(self.groups)} groups, t={self._t}>"

    def _operands(self, state: Mapping[str, Array], kernel: Kernel, p: Array) -> list[Array]:
        """The slots of a parameter; the one that is no state is made for the plan alone."""
        dtype = next((array.dtype for array in state.values()), p.dtype)
        room = kernel.slots[len(kernel.state) :]
        return [*(state[name] for name in kernel.state), *(zeros_like(p, dtype) for _ in room)]

    def _initial_state(self, i: int, group: Group, p: Array, dense_p: Array) -> dict[str, Array]:
        dtype = self._state_type or p.dtype
        if not mix(dtype, p.dtype):
            name = self.structure.names[i]
            raise TypeError(f"parameter {name!r} has dtype {p.dtype}, which goes with no state in {dtype}")
        kernel = group.kernel_of(p)
        slots = [*kernel.state, *([average.SLOT] if group.averaged else [])]
        state = {slot: zeros_like(dense_p, dtype) for slot in slots}
        with np.errstate(all="ignore"):
            for slot, value in self.initial(group).items():
                if slot in state and value != 0:
                    state[slot][...] = value
            for slot in slots:
                if slot in (average.SLOT, *self.copies):
                    state[slot][...] = p
        if isinstance(kernel, MatrixKernel):
            state |= {name: np.zeros(shape, dtype) for name, shape in kernel.factors(p.shape).items()}
        return state | {name: np.full((), value) for name, value in self.numbers.items()}
