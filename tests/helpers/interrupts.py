"""Exceptions at every moment of an action, after which the state must be that of before or that of after.

A signal's handler may raise between any two instructions, and so may an allocation. Here a trace function
raises at the k-th event in the package's own code, for k = 1, 2, … until the action ends without coming so
far. Its `finally` clauses and its context managers are such code too; the tests' own functions are not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dis import opname
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.exactly import Array, same_bits

Seen: TypeAlias = dict[str, Array]

PACKAGE = str(Path(fs.__file__).parent)
"""The folder whose code is interrupted."""

SHOWN = 8  # of the moments that tear something, in a message


class Trial(NamedTuple):
    """An action to interrupt, all that it may change, as copies, and what its user does next."""

    act: Callable[[], object]
    see: Callable[[], Seen]
    go_on: Callable[[], object]


class Event(NamedTuple):
    """A moment in the package's code."""

    file: str
    line: int
    kind: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.kind})"


class Tracer:
    """Counts the events in the code of a folder or file, and raises an error at the one numbered `at`.

    Python stops tracing when a trace function raises, so that there is one error at most.
    """

    def __init__(self, at: int, error: BaseException, *, opcodes: bool = False, code: str = PACKAGE) -> None:
        self.at, self.error, self.opcodes, self.code = at, error, opcodes, code
        self.reached: Event | None = None
        self.unraisable = False  # as in a generator that is dropped, where Python lets no error out

    @contextmanager
    def tracing(self) -> Iterator[None]:
        previous, hook = sys.gettrace(), sys.unraisablehook
        sys.unraisablehook = self._drop
        sys.settrace(self._trace_function())
        try:
            yield
        finally:
            sys.settrace(previous)
            sys.unraisablehook = hook

    def _trace_function(self) -> Callable[[FrameType, str, Any], Any]:
        at, code, opcodes, count = self.at, self.code, self.opcodes, 0

        def within(frame: FrameType, kind: str, _: Any) -> Any:
            nonlocal count
            count += 1
            if count >= at and not holds_keywords(frame, kind):
                name = frame.f_code.co_filename.removeprefix(code).lstrip("/\\")
                self.reached = Event(name, frame.f_lineno, kind)
                raise self.error
            return within

        def begin(frame: FrameType, kind: str, argument: Any) -> Any:
            if not frame.f_code.co_filename.startswith(code):
                return None
            frame.f_trace_opcodes = opcodes
            return within(frame, kind, argument)

        return begin

    def _drop(self, dropped: Any) -> None:
        self.unraisable |= dropped.exc_value is self.error


def holds_keywords(frame: FrameType, kind: str) -> bool:
    """Whether an instruction before has set keywords for a call, which Python 3.11 and 3.12 do not unwind."""
    return kind == "opcode" and opname[frame.f_code.co_code[frame.f_lasti]] in {"PRECALL", "CALL"}


class Expected:
    """What two whole runs show: with the action and what comes next, and with this alone."""

    def __init__(self, make: Callable[[], Trial]) -> None:
        done = make()
        self.before = done.see()
        done.act()
        self.after = done.see()
        done.go_on()
        self.next_after = done.see()
        missed = make()
        assert not differences(missed.see(), self.before), "`make` does not start at the same state twice"
        missed.go_on()
        self.next_before = missed.see()

    def complaint(self, trial: Trial, *, done: bool = False) -> str | None:
        """What is wrong with a trial that was interrupted, or done all the same; it goes on here."""
        try:
            found = trial.see()
            from_after = differences(found, self.after)
            from_before = from_after if done else differences(found, self.before)
            if from_before and from_after:
                return f"unlike before: {some(from_before)}; unlike after: {some(from_after)}"
            trial.go_on()
            follows = trial.see()
        except Exception as error:  # noqa: BLE001  # whatever makes it unusable
            return f"cannot go on: {type(error).__name__}: {error}"
        allowed = [self.next_after] * (not from_after) + [self.next_before] * (not from_before)
        if all(differences(follows, each) for each in allowed):
            return f"goes on otherwise: {some(differences(follows, allowed[0]))}"
        return None


FEWER = 1 if os.environ.get("FUSEDSTEP_EVERY_EVENT") else 6
"""Suites that take minutes try one event in so many, unless the environment asks for every one."""


def at_every_event(
    make: Callable[[], Trial],
    *,
    error: type[BaseException] = KeyboardInterrupt,
    first: int = 1,
    stride: int = 1,
    opcodes: bool = False,
    code: str = PACKAGE,
) -> int:
    """Interrupt an action at the events `first`, `first + stride`, …; it must be all done or not at all.

    `make` gives a trial at the same state each time, perhaps by putting the last one's back. Each interrupted
    trial goes on, to the bits of a run without interrupt. Returns at least the number of all events.
    """
    expected = Expected(make)
    torn: list[str] = []
    at = first
    while True:
        trial, tracer = make(), Tracer(at, error("at an event"), opcodes=opcodes, code=code)
        raised = attempt(trial.act, tracer.tracing)
        if tracer.reached is None:
            break
        complaint = expected.complaint(trial, done=raised is None)
        if raised is not tracer.error and not tracer.unraisable:
            complaint = f"the exception was swallowed; {raised!r} came out"
        if complaint:
            torn.append(f"{tracer.reached}: {complaint}")
        at += stride
    if raised is not None:
        raise raised
    assert not differences(trial.see(), expected.after), "a whole run differs under trace"
    report(torn, (at - first) // stride)
    return at - 1


def attempt(act: Callable[[], object], within: Callable[[], Any]) -> BaseException | None:
    """What an action within a context raises, also if that is none of Exception."""
    try:
        with within():
            act()
    except BaseException as error:  # noqa: BLE001  # it is what the trial is about
        return error
    return None


def report(torn: list[str], tried: int) -> None:
    """Fail if anything is torn, and tell the first moments."""
    if torn:
        rest = [f"and {len(torn) - SHOWN} more"] if len(torn) > SHOWN else []
        pytest.fail(
            "\n".join([f"torn at {len(torn)} of {tried} moments", *torn[:SHOWN], *rest]), pytrace=False
        )


# What is seen


def flat(name: str, tree: Any) -> Seen:
    """Copies of the arrays in a tree of mappings and lists by their place, and all else as it prints."""
    if isinstance(tree, np.ndarray):
        return {name: tree.copy()}
    items = tree if isinstance(tree, Mapping) else dict(enumerate(tree)) if isinstance(tree, list) else {}
    if not any(isinstance(value, np.ndarray | Mapping | list) for value in items.values()):
        return {name: printed(tree)}
    found = {f"names in {name}": printed(list(items))}
    for key, value in items.items():
        found |= flat(f"{name}/{key}", value)
    return found


def printed(value: Any) -> Array:
    return np.frombuffer(repr(value).encode(), np.uint8)


def of_optimizer(opt: fs.Optimizer) -> Seen:
    """All of an optimizer that can be seen, but for its parameters; groups print what schedules were told."""
    groups = [[repr(group), group.scalars] for group in opt.groups]
    return flat("state", opt.state) | flat("numbers", {"t": opt.t, "rows": opt.row_steps, "groups": groups})


def differences(found: Seen, expected: Seen) -> list[str]:
    """The names of what is not the same to the bit, and of what is in one of them only."""
    return [
        name
        for name in {**expected, **found}
        if name not in found or name not in expected or not same_bits(found[name], expected[name])
    ]


def some(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
