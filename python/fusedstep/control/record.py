"""A record of a run: a line of JSON for each step."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import imported
from ..formula.hyperparameters import COUNT, COUNT_OR_0, checked_number
from ..stateful import Loading, Loads, same

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..engine.engine import Engine
    from ..engine.options import StepNorms, StepResult

PANELS = {"loss": "loss", "norm": "norm of gradients", "lr": "learning rate", "ratio": "update / weight"}


class Record(Loads):
    """A file with one line of JSON for each step and its result.

    ``record.step(optimizer, grads, loss=loss)`` does ``optimizer.step(grads, loss=loss)`` and writes a line::

        {"t": 7, "loss": 2.1, "norm": 1.3, "lr": 0.001, "ratio": 0.0012}

    norm: the 2-norm of the gradients, scaled and not yet clipped. lr: the learning rate of the step, a list
    if the groups differ. ratio: the norm of the change of the weights, divided by the norm of the weights,
    about 1e-3 where training goes well; a skipped step has ``"skipped": true`` instead. Numbers that are
    unknown or not finite are null. The step sums these norms while it has the numbers, with ``norms=True``,
    and returns them too; with ``every=10``, only every tenth step does, and writes a line.

    Lines are appended. The next line replaces an incomplete one that a killed process may have left. As a
    part of a `Checkpoint`, the record goes back to its length when the checkpoint was written, and the next
    line cuts off the rest. Raises ValueError or TypeError unless `every` is 1, 2, …
    """

    path: Path
    every: int

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1) -> None:
        self.path = Path(path).absolute()
        self.every = int(checked_number("every", every, COUNT))
        self.path.touch()
        self._length = self.path.read_bytes().rfind(b"\n") + 1
        """The number of bytes of the file that count."""

    def step(self, optimizer: Engine, grads: Any, *, loss: float | None = None, **options: Any) -> StepResult:
        """Do a step of the optimizer and write its line; see `Optimizer.step`."""
        if (optimizer.t + 1) % self.every:
            return optimizer.step(grads, loss=loss, **options)
        lr = _learning_rate(optimizer)
        result = optimizer.step(grads, loss=loss, **{**options, "norms": True})
        loss = None if loss is None else float(loss)
        if result.norms is None:
            self.write(t=optimizer.t, loss=loss, norm=result.grad_norm, lr=lr, skipped=True)
        else:
            norm, ratio = result.norms.gradient, _ratio(result.norms)
            self.write(t=optimizer.t, loss=loss, norm=norm, lr=lr, ratio=ratio)
        return result

    def write(self, /, **figures: Any) -> None:
        """Write a line of your own, such as ``write(t=optimizer.t, accuracy=0.9)``."""
        line = json.dumps(_finite(figures)).encode() + b"\n"
        with self.path.open("ab") as file:
            begin = min(file.tell(), self._length)
            file.truncate(begin)
            file.write(line)
        self._length = begin + len(line)

    def rows(self) -> list[dict[str, Any]]:
        """The lines so far."""
        return [json.loads(line) for line in self.path.read_bytes()[: self._length].splitlines()]

    def plot(self) -> Figure:
        """Plot loss, norm, learning rate and ratio over the steps: ``record.plot().savefig("run.png")``.

        Needs matplotlib: ``pip install "fusedstep[control]"``.
        """
        rows = self.rows()
        figure: Figure = imported("matplotlib.figure", "control").Figure(figsize=(9, 6), layout="constrained")
        for (name, title), axes in zip(PANELS.items(), figure.subplots(2, 2, sharex=True).flat, strict=True):
            found = [(row["t"], row[name]) for row in rows if None not in (row.get("t"), row.get(name))]
            groups = max((np.size(value) for _, value in found), default=1)
            values = [np.broadcast_to(np.array(value, float), groups) for _, value in found]
            axes.plot([t for t, _ in found], values)
            axes.set(title=title, xlabel="step")
            axes.grid(alpha=0.3)
        ratio = figure.axes[-1]
        ratio.axhline(1e-3, color="gray", linestyle=":")
        ratio.set_yscale("log")
        return figure

    def state_dict(self) -> dict[str, int]:
        """The length of the file in bytes, which are on the disk when this returns."""
        with self.path.open("ab") as file:
            os.fsync(file.fileno())
        return {"length": self._length}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go back to the saved length; if the file is shorter, raise ValueError and change nothing."""
        super().load_state_dict(state_dict)

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        same("record", state_dict, ("length",))
        length = int(checked_number("length", state_dict["length"], COUNT_OR_0))
        if self.path.stat().st_size < length:
            raise ValueError(f"{self.path} is shorter than when the checkpoint was written")
        loading.changes.update(vars(self), {"_length": length})


def _learning_rate(optimizer: Engine) -> Any:
    """The learning rate of the next step."""
    found = [group.value("lr", optimizer.t + 1) for group in optimizer.groups]
    return found[0] if len(set(found)) == 1 else found


def _ratio(norms: StepNorms) -> float:
    """The norm of the change, divided by the norm of the weights."""
    return norms.update / norms.weight if 0 < norms.weight < math.inf else math.nan


def _finite(figure: Any) -> Any:
    """`figure` for JSON, with None for NaN and infinity, which JSON lacks."""
    if isinstance(figure, np.generic | np.ndarray):
        figure = figure.tolist()
    if isinstance(figure, float) and not math.isfinite(figure):
        return None
    if isinstance(figure, Mapping):
        return {key: _finite(item) for key, item in figure.items()}
    if isinstance(figure, list | tuple):
        return [_finite(item) for item in figure]
    return figure
