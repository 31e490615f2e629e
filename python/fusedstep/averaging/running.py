"""Averages of weights that are kept outside of an optimizer, one pass over memory an update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt

from .. import average
from ..arrays import check_number
from ..checkpoint import check_arrays
from ..engine import Engine
from ..hyperparameters import COUNT_OR_0, PORTION, Scheduled, checked_number
from ..improvement import Mode, checked_best, checked_figure, checked_mode, improves
from ..kernel import Kernel
from ..optimizer import Optimizer
from ..stateful import same
from ..storage import arithmetic, is_number, mix, number_type
from .swap import Swappable, assign
from .weights import Weights

if TYPE_CHECKING:
    from ..hyperparameters import At
    from ..structure import Params

Portion = Annotated[Scheduled, PORTION]


class _Exponential(Optimizer):
    """The average as the parameter, the weights as its gradient."""

    decay: Portion = 0.999
    update: ClassVar[Kernel] = average.average

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return average.coefficients(h.decay)


class _Mean(Optimizer):
    """The same for the plain mean."""

    update: ClassVar[Kernel] = average.mean

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"share": 1 / t}


class Running(Swappable):
    """What EMA and Mean share."""

    def __init__(
        self, params: Params | Engine, dtype: npt.DTypeLike | None, rule: type[Optimizer], **h: Any
    ) -> None:
        optimizer = params if isinstance(params, Engine) else None
        weights = Weights(params)
        given = number_type("dtype", dtype)
        dtypes = {name: given or _precise(p.dtype) for name, p in weights.arrays.items()}
        for name, p in weights.arrays.items():
            check_number(f"parameter {name!r}", p)
            if not mix(dtypes[name], p.dtype):
                raise TypeError(
                    f"parameter {name!r} has dtype {p.dtype}, which has no average in {dtypes[name]}"
                )
        copies = weights.copies(dtypes)
        super().__init__(weights.arrays, copies, optimizer)
        self.averages: Any = weights.structure.tree([a.view() for a in copies.values()])
        """The averages, live, keyed as the parameters are; of a single array, the array."""
        self._averaging = rule(copies, **h)

    @property
    def updates(self) -> int:
        """How many there were."""
        return self._averaging.t

    def update(self) -> None:
        """Take the weights as they are now into the average."""
        self._check_swapped_out()
        self._averaging.step(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, and how many updates there were. Raises RuntimeError while swapped in."""
        self._check_swapped_out()
        averages = {name: a.copy() for name, a in self._averages.items()}
        return {"updates": self.updates, "averages": averages}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError or TypeError, and then changes nothing."""
        self._check_swapped_out()
        same("average", state_dict, ("updates", "averages"))
        check_arrays("average", state_dict["averages"], self._averages)
        updates = checked_number("updates", state_dict["updates"], COUNT_OR_0)
        self._averaging.load_state_dict({**self._averaging.state_dict(), "t": updates})
        assign(self._averages, state_dict["averages"])


def _precise(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """In 16 bits an average soon stands still: what is added to it is less than half of its last bit."""
    return arithmetic(dtype) if is_number(dtype) else dtype


class EMA(Running):
    """The exponential moving average of weights. Polyak & Juditsky 1992, doi:10.1137/0330046.

    It starts at the weights as they are; each `update` makes it ``decay·average + (1 - decay)·weights``. Of
    an optimizer's weights, its ``ema=`` gives the same bits within the step, without reading them again (and
    leaves alone what has no gradient), see `FusedEMA`.

    `params` is what optimizers take, an array, a sequence or mapping of arrays, or groups of them, or an
    optimizer, whose steps are a RuntimeError while the averages are swapped in. decay: in [0, 1], default
    0.999, or a function of the update t = 1, 2, … (what that was told is not part of the state). dtype: of
    the averages, default that of each array, but float32 for 16 bits, in which averages soon stand still.

    Raises TypeError or ValueError, naming the array, for what is no array of floating-point numbers, or no
    such decay; and TypeError where dtypes do not go together, of which float64 goes with itself alone.
    """

    def __init__(
        self, params: Params | Engine, decay: Scheduled = 0.999, *, dtype: npt.DTypeLike | None = None
    ) -> None:
        super().__init__(params, dtype, _Exponential, decay=decay)


class Mean(Running):
    """The mean of the weights at each update: Polyak's average, or that of stochastic weight averaging.

    The first update makes it the weights, each further one ``average + (weights - average) / t``. Updated at
    each step it is the average of Polyak & Juditsky 1992, doi:10.1137/0330046; updated once an epoch, towards
    the end of training with a large step size, that of Izmailov et al., arXiv:1803.05407. (Networks that keep
    running statistics, as batch normalization, must collect those anew for it.)

    `params`, `dtype` and errors: see `EMA`.
    """

    def __init__(self, params: Params | Engine, *, dtype: npt.DTypeLike | None = None) -> None:
        super().__init__(params, dtype, _Mean)

    def update(self) -> None:
        """Take the weights as they are now into the average."""
        if self.updates:
            super().update()
        else:  # whatever the average was before
            self._check_swapped_out()
            assign(self._averages, self._weights)
            self._averaging.step(dict.fromkeys(self._weights))


class CheckpointMean(Mean):
    """The mean of the weights at those points at which a figure was better than ever before.

    `observe` takes the figure, such as a validation loss, and updates the mean if it is lower (mode "min",
    the default) or higher ("max") than the best so far; one that is not finite never is. `best` is the best
    figure, None before the first. `params`, `dtype` and errors: see `EMA`.
    """

    def __init__(
        self, params: Params | Engine, *, mode: Mode = "min", dtype: npt.DTypeLike | None = None
    ) -> None:
        super().__init__(params, dtype=dtype)
        self.mode = checked_mode(mode)
        self.best: float | None = None

    def observe(self, figure: float) -> bool:
        """Take a figure at the weights as they are; return whether they went into the mean."""
        self._check_swapped_out()
        figure = checked_figure(figure)
        if not improves(figure, self.best, 0.0, self.mode):
            return False
        self.update()
        self.best = figure
        return True

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, the number of updates, and the best figure."""
        return {**super().state_dict(), "best": self.best}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError or TypeError, and then changes nothing."""
        same("average", state_dict, ("updates", "averages", "best"))
        best = checked_best(state_dict["best"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "best"})
        self.best = best
