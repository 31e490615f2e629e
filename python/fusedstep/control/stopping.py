"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..arrays.memory import check_arrays, check_writeable
from ..formula.hyperparameters import COUNT, COUNT_OR_0, NONNEGATIVE, checked_number
from ..improvement import Mode, checked_best, checked_figure, checked_mode, improves
from ..stateful import same
from ..weights import Weights

if TYPE_CHECKING:
    from ..arrays.structure import Params
    from ..engine.engine import Engine


class EarlyStopping:
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

    def __init__(
        self, params: Params | Engine, *, patience: int = 10, threshold: float = 0.0, mode: Mode = "min"
    ) -> None:
        self.patience = int(checked_number("patience", patience, COUNT))
        self.threshold = checked_number("threshold", threshold, NONNEGATIVE)
        self.mode = checked_mode(mode)
        self._weights = Weights(params)
        self._kept = self._weights.copies()
        self.best: float | None = None
        self.stalled = 0

    def observe(self, figure: float) -> bool:
        """Take the figure of the present weights; return whether to stop."""
        figure = checked_figure(figure)
        if improves(figure, self.best, self.threshold, self.mode):
            self._kept = self._weights.copies()  # new arrays: an interrupt must not leave a mixture
            self.best, self.stalled = figure, 0
        else:
            self.stalled += 1
        return self.stalled >= self.patience

    def restore(self) -> None:
        """Replace the weights by the best ones, or by the first ones if no figure was finite."""
        for name, p in self._weights.arrays.items():
            check_writeable(name, p)
        for name, p in self._weights.arrays.items():
            p[...] = self._kept[name]

    def state_dict(self) -> dict[str, Any]:
        """A copy of the best weights, their figure, and the number of figures since then."""
        weights = {name: kept.copy() for name, kept in self._kept.items()}
        return {"best": self.best, "stalled": self.stalled, "weights": weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, or raise ValueError or TypeError without changing anything."""
        same("early stopping", state_dict, ("best", "stalled", "weights"))
        check_arrays("best weights", state_dict["weights"], self._kept)
        best = checked_best(state_dict["best"])
        self.stalled = int(checked_number("stalled", state_dict["stalled"], COUNT_OR_0))
        self.best = best
        for name, array in self._kept.items():
            array[...] = state_dict["weights"][name]
