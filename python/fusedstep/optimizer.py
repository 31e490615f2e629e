"""What all rules share: parameter groups, state, the step, and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar
from inspect import Parameter, Signature
from threading import Lock
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from . import checkpoint, native, reference
from .arrays import zeros_like
from .hyperparameters import REAL, At, Group, Hyperparameter, Nonnegative, checked_number, declared
from .kernel import Kernel
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
            + [Parameter("backend", Parameter.KEYWORD_ONLY, default="native")]
        )

    def __init__(
        self, params: Params, *, backend: Literal["native", "numpy"] = "native", **hyperparameters: Any
    ) -> None:
        if backend not in BACKENDS:
            raise ValueError(f"backend must be 'native' or 'numpy', got {backend!r}")
        self.backend = backend
        self._t = 0
        self._running = Lock()
        self.structure = Groups(params)
        self.groups = tuple(
            Group(tree, {**hyperparameters, **options}, self._fields, self.choose_kernel, dict(self.scalars))
            for tree, options in zip(self.structure.trees, self.structure.options, strict=True)
        )
        group_of = [i for i, leaves in enumerate(self.structure.leaves) for _ in leaves]
        self.tensors = Tensors(
            self.structure.names,
            [p for leaves in self.structure.leaves for p in leaves],
            state_of=lambda i, p: self._initial_state(self.groups[group_of[i]], p),
        )
        self.state: Any = MappingProxyType(self.structure.tree(self.tensors.views()))
        """Views of the state arrays by slot, keyed like the parameters."""
        self._plan = BACKENDS[backend](
            [group.kernel for group in self.groups],
            [
                (i, p, list(slots.values()))
                for i, p, slots in zip(group_of, self.tensors.dense, self.tensors.slots, strict=True)
            ],
        )

    # What a rule says about itself.

    @classmethod
    def choose_kernel(cls, h: SimpleNamespace) -> Kernel:
        """The elementwise update that the hyperparameters `h` choose; they decide which state there is."""
        del h
        return cls.update

    def initial(self, h: Mapping[str, Any]) -> dict[str, float]:
        """The first value of each slot that does not start at zero."""
        return {}

    def advance(self, h: At, t: int, loss: float | None) -> dict[str, float]:
        """The scalars after this step."""
        return {}

    def coefficients(self, h: At, t: int) -> dict[str, float]:
        """All that depends on the step alone, in the order of the fields of the C++ struct."""
        raise NotImplementedError

    # What a user does with it.

    @property
    def t(self) -> int:
        """The number of steps done."""
        return self._t

    def step(self, grads: Any, *, scale: float = 1.0, loss: float | None = None) -> None:
        """Update the parameters in place.

        `grads` has the structure of the parameters: arrays of the same shapes and dtypes. A None skips its
        parameter and its state; `t` goes on for all. With groups it is one item a group, or one structure
        over all their parameters. Every gradient is multiplied by `scale`; `loss` is the loss at the
        parameters, for rules that need it. Raises TypeError or ValueError, and RuntimeError while another
        step of this optimizer runs; after an error nothing has changed.
        """
        if not self._running.acquire(blocking=False):
            raise RuntimeError("a step of this optimizer is running already")
        try:
            self._step(grads, scale, loss)
        finally:
            self._running.release()

    def _step(self, grads: Any, scale: float, loss: float | None) -> None:
        t = self._t + 1
        scale = checked_number("scale", scale, REAL)
        loss = None if loss is None else checked_number("loss", loss, REAL)
        gradients = self.structure.gradients(grads)
        rows, scalars = [], []
        for group in self.groups:
            h = group.at(t)
            scalars.append(self.advance(h, t, loss))
            vars(h).update(scalars[-1])
            rows.append((_prologue(h, scale), self.coefficients(h, t)))
        if odd := self._plan.pin(gradients):
            for i in odd:
                gradients[i] = self.tensors.conform(i, gradients[i])
            self._plan.pin(gradients)
        strided = self.tensors.strided(gradients)
        for p, stand_in in strided:
            stand_in[...] = p
        # From here on the native backend cannot fail, and an interrupt comes only when its run is over.
        for group, values in zip(self.groups, scalars, strict=True):
            group.scalars.update(values)
        self._t = t
        try:
            self._plan.run(rows)
        finally:
            for p, stand_in in strided:
                p[...] = stand_in

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that a step depends on beside parameters and gradients. Schedules are left out."""
        return checkpoint.save(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict()` was taken, given the parameters and schedules of then.

        A number in the checkpoint replaces what the optimizer has, a schedule too. Where the checkpoint had a
        schedule it has nothing, and the optimizer keeps its own. Raises ValueError or TypeError, and changes
        nothing, unless rule, groups, names, shapes and dtypes agree.
        """
        self._t = checkpoint.load(self, state_dict)

    def __reduce__(self) -> NoReturn:
        """Neither pickle nor copy: both would part the optimizer from its parameters."""
        raise TypeError(f"cannot copy or pickle {type(self).__name__}; use state_dict()")

    def __repr__(self) -> str:
        name, tensors = type(self).__name__, len(self.tensors.names)
        return f"<{name}: {tensors} parameters, {len(self.groups)} groups, t={self._t}>"

    def _initial_state(self, group: Group, p: Array) -> dict[str, Array]:
        state = {slot: zeros_like(p) for slot in group.kernel.slots}
        for slot, value in self.initial(group).items():
            if value != 0:
                state[slot][...] = value
        return state


class Optimizer(Engine):
    """The base of every rule, with the options that all of them have.

    Before the rule, the gradient becomes ``g = ±scale·g + l2·p + l1·sign(p)`` (coupled decay; minus with
    `maximize`) and the parameter ``p = p·(1 - lr·weight_decay)`` (decoupled decay).

    `params` is an array, a sequence or mapping of arrays, or a list of groups, each a mapping with
    ``"params"`` and the hyperparameters that differ for it. The arrays are float32 or float64, of any shape,
    and are updated in place; state has their dtype. ``backend="numpy"`` runs the rule's formula in NumPy;
    both backends give the same bits.

    lr: at least 0, default 0.001. l1, l2, weight_decay: at least 0, default 0. maximize: default False. Every
    hyperparameter can be changed between steps, and every number may be a callable of the step t = 1, 2, …
    instead, except those that a rule calls fixed.

    Raises TypeError or ValueError, naming the tensor or hyperparameter, for what cannot be optimized.
    """

    if TYPE_CHECKING:  # the arguments that are no hyperparameters
        params: InitVar[Params] = positional(kw_only=False)
        backend: Literal["native", "numpy"] = "native"

    lr: Nonnegative = 1e-3
    l1: Nonnegative = 0.0
    l2: Nonnegative = 0.0
    weight_decay: Nonnegative = 0.0
    maximize: bool = False


def _prologue(h: At, scale: float) -> dict[str, float]:
    return {
        "scale": -scale if h.maximize else scale,
        "keep": 1 - h.lr * h.weight_decay,
        "l2": h.l2,
        "l1": h.l1,
    }
