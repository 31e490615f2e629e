"""Checkpoints of an optimizer: everything that its next step depends on, as plain numbers and arrays."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Protocol

from ..arrays.memory import check_like, set_in
from ..arrays.structure import Groups
from ..arrays.tensors import Tensors
from ..formula.hyperparameters import ANY, COUNT_OR_0, checked_number
from ..stateful import Loading, Stateful, collect, mapping, same, states
from .group import Group


class Resumable(Protocol):
    """The parts of an optimizer that a checkpoint saves."""

    groups: tuple[Group, ...]
    structure: Groups
    tensors: Tensors

    counts: dict[str, int]
    """The number of steps, ``"t"``."""
    counts_of_rows: dict[Hashable, int]
    """The number of times that rows of each parameter were stepped."""

    @property
    def row_steps(self) -> dict[Hashable, int]:
        """The same without parameters whose rows were never stepped."""


def save(optimizer: Resumable) -> dict[str, Any]:
    """A copy of the step count, the state, and each group's hyperparameters and scalars."""
    state: dict[Any, dict[str, Any]] = {name: {} for name in optimizer.tensors.names}
    for name, slot, array in optimizer.tensors.state():
        state[name][slot] = array.copy()
    return {
        "rule": type(optimizer).__name__,
        "t": optimizer.counts["t"],
        "row_steps": optimizer.row_steps,
        "groups": [
            {
                "params": list(structure.names),
                "hyperparameters": {
                    name: value for name, value in group.hyperparameters() if not callable(value)
                },
                "scalars": dict(group.scalars),
                "schedules": states(_schedules(group)),
            }
            for group, structure in zip(optimizer.groups, optimizer.structure.groups, strict=True)
        ],
        "state": state,
    }


def collect_load(optimizer: Resumable, saved: Any, loading: Loading) -> None:
    """Check what `save` returned, and add to the loading what restores it."""
    if isinstance(saved, Mapping):
        saved = {"row_steps": {}, **saved}  # checkpoints of version 0.1.0 have none
    _check(optimizer, saved)
    _collect_schedules(optimizer, saved["groups"], loading)
    changes = loading.changes
    row_steps = {name: int(saved["row_steps"].get(name, 0)) for name in optimizer.tensors.names}
    changes.update(optimizer.counts_of_rows, row_steps)
    changes.update(optimizer.counts, {"t": int(saved["t"])})
    for name, slot, array in optimizer.tensors.state():
        set_in(changes, array, saved["state"][name][slot])
    for group, values in zip(optimizer.groups, saved["groups"], strict=True):
        group.collect_set(values["hyperparameters"], changes)
        scalars = {
            name: checked_number(f"scalar {name!r}", value, ANY) for name, value in values["scalars"].items()
        }
        changes.update(group.scalars, scalars)


def _schedules(group: Group) -> dict[str, Stateful]:
    """The schedules of a group that have a state; most hyperparameters are numbers, which is quickly seen."""
    return {
        name: value
        for name, value in group.hyperparameters()
        if callable(value) and isinstance(value, Stateful) and value.state_dict()
    }


def _collect_schedules(optimizer: Resumable, groups: Any, loading: Loading) -> None:
    """Collect what the schedules were told, except those that the checkpoint replaces by a number."""
    parts: dict[str, Stateful] = {}
    saved: dict[str, Any] = {}
    for i, (group, values) in enumerate(zip(optimizer.groups, groups, strict=True)):
        kept = {k: v for k, v in _schedules(group).items() if k not in values["hyperparameters"]}
        parts |= {f"{name} of group {i}": schedule for name, schedule in kept.items()}
        told = _with_schedules(values)["schedules"]
        saved |= {f"{name} of group {i}": state for name, state in told.items()}
    collect("schedules", parts, saved, loading)


def _check(optimizer: Resumable, saved: Mapping[str, Any]) -> None:
    same("checkpoint", saved, ("rule", "t", "row_steps", "groups", "state"))
    rule = type(optimizer).__name__
    if saved["rule"] != rule:
        raise ValueError(f"the checkpoint is of {saved['rule']}, the optimizer is {rule}")
    checked_number("t", saved["t"], COUNT_OR_0)
    mapping("row_steps", saved["row_steps"])
    for name, count in saved["row_steps"].items():
        if name not in optimizer.tensors.names:
            raise ValueError(f"row_steps: {name!r} does not belong here")
        checked_number(f"row_steps of parameter {name!r}", count, COUNT_OR_0)
    _check_groups(optimizer, saved["groups"])
    _check_state(optimizer, saved["state"])


def _check_groups(optimizer: Resumable, saved: Any) -> None:
    _list("groups of the checkpoint", saved)
    if len(saved) != len(optimizer.groups):
        raise ValueError(f"the checkpoint has {len(saved)} groups, not {len(optimizer.groups)}")
    groups = map(_with_schedules, saved)
    for group, structure, values in zip(optimizer.groups, optimizer.structure.groups, groups, strict=True):
        same("group of the checkpoint", values, ("params", "hyperparameters", "scalars", "schedules"))
        _list("params of the checkpoint", values["params"])
        same("group of the checkpoint", dict.fromkeys(values["params"]), structure.names)
        mapping("hyperparameters", values["hyperparameters"])
        known = dict(group.hyperparameters())
        for name, value in values["hyperparameters"].items():
            if name not in known:
                raise ValueError(f"hyperparameters: {name!r} does not belong here")
            group.check(name, value)
        mapping("schedules", values["schedules"])
        same("scalars", values["scalars"], group.scalars)


def _with_schedules(group: Any) -> Any:
    """Return a group of a checkpoint, with an entry for schedules, which version 0.1.0 did not save."""
    return {"schedules": {}, **group} if isinstance(group, Mapping) else group


def _check_state(optimizer: Resumable, saved: Any) -> None:
    same("state", saved, optimizer.tensors.names)
    for name, slots in zip(optimizer.tensors.names, optimizer.tensors.slots, strict=True):
        same(f"state of parameter {name!r}", saved[name], slots)
    for name, slot, array in optimizer.tensors.state():
        label = f"state {slot!r} of parameter {name!r}"
        check_like(label, saved[name][slot], array, or_float16=True)


def _list(label: str, found: Any) -> None:
    if not isinstance(found, list | tuple):
        raise TypeError(f"{label} must be a list, got {found!r}")
