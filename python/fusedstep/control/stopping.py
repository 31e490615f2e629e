"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..arrays import check_writeable
from ..averaging.weights import Weights
from ..checkpoint import check_arrays
from ..hyperparameters import COUNT, COUNT_OR_0, NONNEGATIVE, checked_number
from ..improvement import Mode, checked_best, checked_figure, checked_mode, improves
from ..stateful import same

if TYPE_CHECKING:
    from ..engine import Engine
    from ..structure import Params


class EarlyStopping:
    """Says when a validation figure has stopped becoming better, and keeps the best weights.

    ``if stopping.observe(loss): break`` after each epoch, then ``stopping.restore()``. It stops at the
    `patience`-th figure in a row, default 10, that is not better than the best: lower (mode "min", the
    default) or higher ("max") by more than ``threshold·|best|``, default 0. A figure that is not finite is
    never better. Prechelt 1998, doi:10.1007/3-540-49430-8_3.

    `params` is what optimizers take, an array, a sequence or mapping of arrays, or groups of them, or an
    optimizer; their copy takes as much memory. `best` is the best figure, None before the first; `stalled`
    how many came since.

    Raises TypeError or ValueError, naming the argument or array, for what is none.
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
        """Take the figure of the weights as they are; return whether to stop."""
        figure = checked_figure(figure)
        if improves(figure, self.best, self.threshold, self.mode):
            self._kept = self._weights.copies()  # anew: an interrupt must not leave a mixture
            self.best, self.stalled = figure, 0
        else:
            self.stalled += 1
        return self.stalled >= self.patience

    def restore(self) -> None:
        """Put the best weights in the place of the present ones; the first ones if none were any good."""
        for name, p in self._weights.arrays.items():
            check_writeable(name, p)
        for name, p in self._weights.arrays.items():
            p[...] = self._kept[name]

    def state_dict(self) -> dict[str, Any]:
        """A copy of the best weights, their figure, and how many came since."""
        weights = {name: kept.copy() for name, kept in self._kept.items()}
        return {"best": self.best, "stalled": self.stalled, "weights": weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError or TypeError, and then changes nothing."""
        same("early stopping", state_dict, ("best", "stalled", "weights"))
        check_arrays("best weights", state_dict["weights"], self._kept)
        best = checked_best(state_dict["best"])
        self.stalled = int(checked_number("stalled", state_dict["stalled"], COUNT_OR_0))
        self.best = best
        for name, array in self._kept.items():
            array[...] = state_dict["weights"][name]
