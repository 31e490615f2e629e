"""Checkpoints of a run: one file, from which the run continues to the same bits."""

from __future__ import annotations

import json
import os
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ..arrays.memory import Array, check_array, check_arrays, check_like, check_writeable, set_in
from ..closed import Closed
from ..engine import checkpoint
from ..engine.engine import Engine
from ..extras import imported
from ..stateful import Loading, Loads, Stateful, collect, mapping, states
from ..weights import assign
from .checksums import check, checksums
from .encoding import decode, encode, parsed
from .files import replace
from .positions import check_position

Part: TypeAlias = Engine | np.random.Generator | Array | Stateful

FORMAT = "fusedstep 2"
WITHOUT_CHECKSUMS = "fusedstep 1"  # what version 0.1.0 wrote
PROGRESS = "progress"
RESERVED = (PROGRESS, "__metadata__")  # the latter by safetensors


class Checkpoint(Closed):
    """All state that a run needs to continue, in one safetensors file that is replaced as a whole.

    `parts` are the objects whose state it saves, by names of your choice: optimizers, with their weights,
    rule, step, hyperparameters and the state of their schedules; random generators of NumPy (without the
    count of generators that they have spawned); arrays; and any object with ``state_dict()`` and
    ``load_state_dict()`` of numbers and arrays, such as averages, `EarlyStopping`, `Record`, and schedules
    outside of an optimizer. ::

        checkpoint = Checkpoint("run.safetensors", optimizer=optimizer, rng=rng)
        progress = checkpoint.start(epoch=0)
        for epoch in range(progress["epoch"], epochs):
            ...
            checkpoint.save(epoch=epoch + 1)

    A process killed at any moment leaves a complete file, the last one or the one before. The file stores
    arrays as tensors, named by their part and their place in it ("optimizer/weights/w"), so that other
    programs can read them; the rest is in the metadata "state", as JSON in Python's form, and checksums of
    all of it in the metadata "checksums". Functions are not stored: create the parts as before, then load.

    Needs safetensors: ``pip install "fusedstep[control]"``. Raises TypeError for a part of any other kind.
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str], /, **parts: Part) -> None:
        self.path = Path(path).absolute()
        self._parts = {name: _stateful(name, part) for name, part in parts.items()}

    def start(self, /, **progress: Any) -> dict[str, Any]:
        """Load the file and return its progress; if there is none, write the first one with `progress`.

        So there is a checkpoint to return to from the beginning. Raises the errors of `load` and `save`.
        """
        found = self.load()
        if found is None:
            self.save(**progress)
            found = progress
        return found

    def save(self, /, **progress: Any) -> None:
        """Write the state of all parts, and `progress`: numbers, text, arrays, lists and mappings of them.

        Raises TypeError for a state that contains anything else; ValueError if it is nested in more than 100
        levels, or has an integer of thousands of digits; RuntimeError while an optimizer among the parts runs
        a step, or averages are swapped in for it or for an average among the parts; and OSError if the file
        cannot be written. The old file then stays as it was.
        """
        try:
            text, arrays = encode({**states(self._parts), PROGRESS: progress})
        except RecursionError as error:
            raise ValueError("the state of the parts cannot be saved: it is nested too deeply") from error
        metadata = {"format": FORMAT, "state": text, "checksums": json.dumps(checksums(text, arrays))}
        replace(self.path, imported("safetensors.numpy", "control").save(arrays, metadata))

    def load(self) -> dict[str, Any] | None:
        """Restore all parts and return the saved `progress`; without a file, change nothing and return None.

        Raises ValueError or TypeError, naming the part, unless the file is a checkpoint of these parts, and
        RuntimeError as `save` does. After an error nothing has changed.
        """
        if not self.path.exists():
            return None
        state = _read(self.path)
        progress: dict[str, Any] = state.pop(PROGRESS)
        load = partial(self._load, state)
        for part in self._parts.values():
            if isinstance(part, _Optimizer):
                load = partial(part.optimizer.busy.run, load)
        load()
        return progress

    def _load(self, state: dict[str, Any]) -> None:
        loading = Loading()
        collect(str(self.path), self._parts, state, loading)
        loading.write()


def _read(path: Path) -> dict[str, Any]:
    """Read, check and decode what `Checkpoint.save` has written; raise ValueError for anything else."""
    safetensors = imported("safetensors", "control")
    if not path.is_file():  # before it is opened, as one would wait for a pipe
        raise ValueError(f"{path} is no checkpoint: it is a directory, or another thing that is no file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            found = metadata.get("format")
            names = file.keys() if found in {FORMAT, WITHOUT_CHECKSUMS} else ()
            arrays = {name: file.get_tensor(name) for name in names}
    except (safetensors.SafetensorError, AttributeError, TypeError, ValueError) as error:  # by dtype or shape
        raise ValueError(f"{path} is no whole safetensors file: {error}") from error
    if found not in {FORMAT, WITHOUT_CHECKSUMS}:
        raise ValueError(f"{path} is no checkpoint that this version knows: its format is {found!r}")
    text = metadata.get("state", "")
    try:
        if found == FORMAT:
            check(parsed(metadata.get("checksums", "")), text, arrays)
    except ValueError as error:
        advice = "take an earlier copy of the file, or delete it to begin anew"
        raise ValueError(f"{path} is damaged: {error}; {advice}") from error
    try:
        state = decode(text, arrays)
    except ValueError as error:
        raise ValueError(f"{path} is no checkpoint: {error}") from error
    whole = isinstance(state, dict) and isinstance(state.get(PROGRESS), dict)
    if not whole:
        raise ValueError(f"{path} is no checkpoint: its state has no progress")
    return dict(state)


class _Optimizer(Loads):
    """An optimizer with its weights."""

    optimizer: Engine

    def __init__(self, optimizer: Engine) -> None:
        self.optimizer = optimizer
        self._weights = dict(zip(optimizer.structure.names, optimizer.structure.parameters, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.busy.run(self._state)

    def _state(self) -> dict[str, Any]:
        weights = {name: p.copy() for name, p in self._weights.items()}
        return {"weights": weights, **checkpoint.save(self.optimizer)}

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        mapping("optimizer", state_dict)
        state = dict(state_dict)
        weights = state.pop("weights", None)
        check_arrays("weights", weights, self._weights)
        for name, p in self._weights.items():
            check_writeable(name, p)
        self.optimizer.collect_load(state, loading)
        assign(loading.changes, self._weights, weights)


class _Generator:
    """A random generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._bits = generator.bit_generator

    def state_dict(self) -> Any:
        return self._bits.state

    def load_state_dict(self, state_dict: Any) -> None:
        try:
            check_position(state_dict)
            self._bits.state = state_dict
        except (LookupError, OverflowError) as error:
            raise ValueError(f"this is no state of {type(self._bits).__name__}") from error


class _Array(Loads):
    """An array, restored in place; it is saved in native byte order, whatever its own is."""

    def __init__(self, name: str, array: Array) -> None:
        self._name = name
        self._array = array

    def state_dict(self) -> Array:
        return self._array.astype(self._array.dtype.newbyteorder("="))

    def collect_load(self, state_dict: Any, loading: Loading) -> None:
        native = self._array.dtype.newbyteorder("=")
        check_like("it", state_dict, np.empty(self._array.shape, native))
        check_writeable(self._name, self._array)
        set_in(loading.changes, self._array, state_dict)


class _Foreign:
    """A part from another package; its state is copied, as it may not be a copy yet."""

    def __init__(self, part: Stateful) -> None:
        self._part = part

    def state_dict(self) -> Any:
        return deepcopy(self._part.state_dict())

    def load_state_dict(self, state_dict: Any) -> None:
        self._part.load_state_dict(state_dict)


def _stateful(name: str, part: Any) -> Stateful:
    """The object that saves and restores the state of a part."""
    if name in RESERVED:
        raise TypeError(f"{name!r} is no name for a part")
    if isinstance(part, Engine):
        return _Optimizer(part)
    if isinstance(part, np.random.Generator):
        return _Generator(part)
    if isinstance(part, np.ndarray):
        return _Array(name, check_array(name, part))
    if isinstance(part, Stateful) and not isinstance(part, type):
        return part if type(part).__module__.startswith("fusedstep.") else _Foreign(part)
    raise TypeError(f"{name} has no state_dict() and load_state_dict(): {part!r}")
