"""Early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..arrays import check_writeable
from ..averaging.swap import Weights
from ..checkpoint import check_arrays
from ..hyperparameters import Interval, checked_number
from ..improvement import Mode, checked_best, checked_figure, checked_mode, checked_threshold, improves
from ..stateful import same

if TYPE_CHECKING:
    from ..structure import Params

PATIENCE = Interval("1, 2, 3, …", lambda x: 1 <= x < 2**53 and x.is_integer())
COUNT = Interval("0, 1, 2, …", lambda x: 0 <= x < 2**53 and x.is_integer())


class EarlyStopping:
    """Says when a validation figure has stopped becoming better, and keeps the best weights.

    ``if stopping.observe(loss): break`` after each epoch, then ``stopping.restore()``. It stops at the
    `patience`-th figure in a row, default 10, that is not better than the best: lower (mode "min", the
    default) or higher ("max") by more than ``threshold·|best|``, default 0. A figure that is not finite is
    never better. Prechelt 1998, doi:10.1007/3-540-49430-8_3.

    `params` is what optimizers take: an array, a sequence or mapping of arrays, or groups of them; their copy
    takes as much memory. `best` is the best figure, None before the first; `stalled` how many came since.

    Raises TypeError or ValueError, naming the argument or array, for what is none.
    """

    def __init__(
        self, params: Params, *, patience: int = 10, threshold: float = 0.0, mode: Mode = "min"
    ) -> None:
        self.patience = int(checked_number("patience", patience, PATIENCE))
        self.threshold = checked_threshold(threshold)
        self.mode = checked_mode(mode)
        self._weights = Weights(params)
        self._kept = self._weights.copies()
        self.best: float | None = None
        self.stalled = 0

    def observe(self, figure: float) -> bool:
        """Take the figure of the weights as they are; return whether to stop."""
        figure = checked_figure(figure)
        if improves(figure, self.best, self.threshold, self.mode):
            self.best, self.stalled = figure, 0
            for kept, p in zip(self._kept, self._weights.arrays, strict=True):
                kept[...] = p
        else:
            self.stalled += 1
        return self.stalled >= self.patience

    def restore(self) -> None:
        """Put the best weights in the place of the present ones; the first ones if none were any good."""
        for name, p in zip(self._weights.names, self._weights.arrays, strict=True):
            check_writeable(name, p)
        for p, kept in zip(self._weights.arrays, self._kept, strict=True):
            p[...] = kept

    def state_dict(self) -> dict[str, Any]:
        """A copy of the best weights, their figure, and how many came since."""
        weights = {name: kept.copy() for name, kept in zip(self._weights.names, self._kept, strict=True)}
        return {"best": self.best, "stalled": self.stalled, "weights": weights}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned. Raises ValueError or TypeError, and then changes nothing."""
        same("early stopping", state_dict, ("best", "stalled", "weights"))
        kept = dict(zip(self._weights.names, self._kept, strict=True))
        check_arrays("best weights", state_dict["weights"], kept)
        best = checked_best(state_dict["best"])
        self.stalled = int(checked_number("stalled", state_dict["stalled"], COUNT))
        self.best = best
        for name, array in kept.items():
            array[...] = state_dict["weights"][name]
