"""Early stopping."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._core import Changes
from ..arrays.memory import check_arrays, check_writeable
from ..formula.hyperparameters import COUNT, COUNT_OR_0, NONNEGATIVE, checked_number
from ..improvement import Mode, checked_best, checked_figure, checked_mode, improves
from ..stateful import Loading, Loads, same
from ..weights import Weights, assign

if TYPE_CHECKING:
    from ..arrays.structure import Params
    from ..engine.engine import Engine


class EarlyStopping(Loads):
    """Early stopping: detect when a validation figure stops improving, and keep the best weights.

    ``if stopping.observe(loss): break`` after each epoch, then ``stopping.restore()``. It stops at the
    `patience`-th figure in a row, default 10, that is not better than the best. Better means lower (mode
    "min", the default) or higher ("max") by more than ``threshold·|best|``, threshold default 0. A figure
    that is not finite is never better. Prechelt 1998, doi:10.1007/3-540-49430-8_3.

    `params` is what an optimizer takes (an array, a sequence or mapping of arrays, or groups of them) or an
    optimizer; the copy of the weights takes as much memory as they do. `best` is the best figure, None before
    the first; `stalled` is the number of figures since then.

    Raises TypeError or ValueError, naming the argument or array, for an invalid one.
    """

    patience: int
    threshold: float
    mode: Mode
    best: float | None
    stalled: int

    def __init__(
        self, params: Params | Engine, *, patience: int = 10, threshold: float = 0.0, mode: Mode = "min"
    ) -> None:
        self.patience = int(checked_number("patience", patience, COUNT))
        self.threshold = checked_number("threshold", threshold, NONNEGATIVE)
        self.mode = checked_mode(mode)
        self._weights = Weights(params)
        self._kept = self._weights.copies()
        self.best = None
        self.stalled = 0

    def observe(self, figure: float) -> bool:
        """Take the figure of the present weights; return whether to stop."""
        figure = checked_figure(figure)
        if improves(figure, self.best, self.threshold, self.mode):
            kept = self._weights.copies()
            vars(self).update(_kept=kept, best=figure, stalled=0)  # one call, which no interrupt divides
        else:
            self.stalled += 1
        return self.stalled >= self.patience

    def restore(self) -> None:
        """Replace the weights by the best ones, or by the first ones if no figure was finite."""
        for name, p in self._weights.arrays.items():
            check_writeable(name, p)
        changes = Changes()
        assign(changes, self._weights.arrays, self._kept)
        changes.write()

    def state_dict(self) -> dict[str, Any]:
        """A copy of the best weights, their figure, and the number of figures since then."""
        weights = {name: kept.copy() for name, kept in self._kept.items()}
        return {"best": self.best, "stalled": self.stalled, "weights": weights}

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        same("early stopping", state_dict, ("best", "stalled", "weights"))
        check_arrays("best weights", state_dict["weights"], self._kept)
        best = checked_best(state_dict["best"])
        stalled = int(checked_number("stalled", state_dict["stalled"], COUNT_OR_0))
        loading.changes.update(vars(self), {"best": best, "stalled": stalled})
        assign(loading.changes, self._kept, state_dict["weights"])
