"""Averages of weights that are kept outside of an optimizer, with one pass over memory per update."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..arrays.memory import check_arrays, check_format
from ..arrays.storage import arithmetic, checked_format, is_format, mix
from ..arrays.structure import Params
from ..engine.engine import Engine
from ..engine.optimizer import Optimizer
from ..formula import average
from ..formula.at import At
from ..formula.hyperparameters import COUNT_OR_0, Portion, Scheduled, checked_number
from ..formula.kernel import Kernel
from ..improvement import Mode, checked_best, checked_figure, checked_mode, improves
from ..stateful import Loading, Loads, same
from ..weights import Weights, assign
from .swap import Swappable


class _Exponential(Optimizer):
    """A rule whose parameter is the average, and whose gradient is the weights."""

    decay: Portion = 0.999
    update: ClassVar[Kernel] = average.average

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return average.coefficients(h.decay)


class _Mean(Optimizer):
    """The same rule for the plain mean."""

    update: ClassVar[Kernel] = average.mean

    @classmethod
    def coefficients(cls, h: At, t: int) -> dict[str, float]:
        return {"share": 1 / t}


class Running(Swappable, Loads):
    """The base of `EMA` and `Mean`."""

    averages: Any
    """The averages, updated in place, keyed as the parameters are; for a single array, one array."""

    def __init__(
        self, params: Params | Engine, dtype: npt.DTypeLike | None, rule: type[Optimizer], **h: Any
    ) -> None:
        optimizer = params if isinstance(params, Engine) else None
        weights = Weights(params)
        given = checked_format("dtype", dtype)
        dtypes = {name: given or _precise(p.dtype) for name, p in weights.arrays.items()}
        for name, p in weights.arrays.items():
            check_format(f"parameter {name!r}", p)
            if not mix(dtypes[name], p.dtype):
                raise TypeError(
                    f"parameter {name!r} has dtype {p.dtype}, which has no average in {dtypes[name]}"
                )
        copies = weights.copies(dtypes)
        super().__init__(weights.arrays, copies, optimizer)
        self.averages = weights.structure.tree([a.view() for a in copies.values()])
        self._averaging = rule(copies, **h)

    @property
    def updates(self) -> int:
        """The number of updates so far."""
        return self._averaging.t

    def update(self) -> None:
        """Include the present weights in the average."""
        self._check_swapped_out()
        self._averaging.step(self._weights)

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, and the number of updates. Raises RuntimeError while swapped in."""
        self._check_swapped_out()
        averages = {name: a.copy() for name, a in self._averages.items()}
        return {"updates": self.updates, "averages": averages}

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        self._check_swapped_out()
        same("average", state_dict, ("updates", "averages"))
        check_arrays("average", state_dict["averages"], self._averages)
        updates = checked_number("updates", state_dict["updates"], COUNT_OR_0)
        self._averaging.collect_load({**self._averaging.state_dict(), "t": updates}, loading)
        assign(loading.changes, self._averages, state_dict["averages"])


def _precise(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of an average: float32 for 16 bits, which would round small changes of it away."""
    return arithmetic(dtype) if is_format(dtype) else dtype


class EMA(Running):
    """The exponential moving average of weights. Polyak & Juditsky 1992, doi:10.1137/0330046.

    It starts at the present weights; each `update` makes it ``decay·average + (1 - decay)·weights``. For an
    optimizer's weights, its option ``ema=`` computes the same bits within the step, without reading the
    weights again (but skips parameters without a gradient); see `FusedEMA`.

    `params` is what an optimizer takes (an array, a sequence or mapping of arrays, or groups of them) or an
    optimizer, whose steps raise RuntimeError while the averages are swapped in. decay: in [0, 1], default
    0.999, or a function of the update t = 1, 2, … (whose own state is not saved). dtype: the dtype of the
    averages, default that of each array, but float32 for 16 bits, in which averages soon stop changing.

    Raises TypeError or ValueError, naming the array, for anything but arrays of floating-point numbers, and
    for a decay out of range. Raises TypeError for dtypes that cannot be combined: float64 goes only with
    float64.
    """

    def __init__(
        self, params: Params | Engine, decay: Scheduled = 0.999, *, dtype: npt.DTypeLike | None = None
    ) -> None:
        super().__init__(params, dtype, _Exponential, decay=decay)


class Mean(Running):
    """The mean of the weights over all updates: Polyak's average, or stochastic weight averaging.

    The first update sets it to the weights, each later one to ``average + (weights - average) / t``. If
    updated at each step, it is the average of Polyak & Juditsky 1992, doi:10.1137/0330046; if updated once
    per epoch, towards the end of training with a large step size, that of Izmailov et al., arXiv:1803.05407.
    (Networks with running statistics, such as batch normalization, must collect these again for it.)

    `params`, `dtype` and errors: see `EMA`.
    """

    def __init__(self, params: Params | Engine, *, dtype: npt.DTypeLike | None = None) -> None:
        super().__init__(params, dtype, _Mean)

    def update(self) -> None:
        """Include the present weights in the average."""
        if self.updates:
            super().update()
        else:  # the first update replaces whatever the average was before
            self._check_swapped_out()
            loading = Loading()
            assign(loading.changes, self._averages, self._weights)
            self._averaging.collect_load({**self._averaging.state_dict(), "t": 1}, loading)
            loading.changes.write()


class CheckpointMean(Mean):
    """The mean of the weights at the points where a figure was better than ever before.

    `observe` takes the figure, such as a validation loss, and updates the mean if it is lower (mode "min",
    the default) or higher ("max") than the best so far; a figure that is not finite does not count. `best` is
    the best figure, None before the first. `params`, `dtype` and errors: see `EMA`.
    """

    mode: Mode

    def __init__(
        self, params: Params | Engine, *, mode: Mode = "min", dtype: npt.DTypeLike | None = None
    ) -> None:
        super().__init__(params, dtype=dtype)
        self.mode = checked_mode(mode)
        self._bests: tuple[tuple[int, float | None], ...] = ((0, None),)
        """The best figures, each after the number of updates from which on it counts."""

    @property
    def best(self) -> float | None:
        """The best figure; None before the first."""
        return next(best for updates, best in reversed(self._bests) if updates <= self.updates)

    def observe(self, figure: float) -> bool:
        """Take the figure of the present weights; return whether they were included in the mean."""
        self._check_swapped_out()
        figure = checked_figure(figure)
        if not improves(figure, self.best, 0.0, self.mode):
            return False
        # It counts from the update on, so that both are done or neither is.
        self._bests = ((0, self.best), (self.updates + 1, figure))
        self.update()
        return True

    def state_dict(self) -> dict[str, Any]:
        """A copy of the averages, the number of updates, and the best figure."""
        return {**super().state_dict(), "best": self.best}

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        same("average", state_dict, ("updates", "averages", "best"))
        loading.changes.update(vars(self), {"_bests": ((0, checked_best(state_dict["best"])),)})
        super().collect_load({key: value for key, value in state_dict.items() if key != "best"}, loading)
