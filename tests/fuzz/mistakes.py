"""What a mistake is, and two runs of which only one ever makes it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import fusedstep as fs
from tests.fuzz.compare import difference
from tests.fuzz.outcome import is_refusal, outcome
from tests.fuzz.subject import Subject


class OwnError(Exception):
    """What is raised by objects of the user, and must reach the user."""


@dataclass
class Mistake:
    """Something that must be refused.

    attempt: do it, and undo what was changed around it. named: one of these must be in the message. errors:
    what it may raise, beside `OwnError`. honest: if given, it may also succeed, and then must have done the
    same as this does to the other run. given: arrays that must not change, beside those of the run.
    first: what both runs do before. last: whether nothing can be done after it.
    """

    what: str
    attempt: Callable[[], Any]
    named: tuple[str, ...]
    errors: tuple[type[Exception], ...] = (TypeError, ValueError)
    honest: Callable[[Subject], Any] | None = None
    given: Any = ()
    first: Callable[[Subject], Any] | None = None
    last: bool = False


Family = Callable[[random.Random, Subject], "Mistake | None"]
"""Makes one mistake of some kind; None if there can be none with this subject."""


def bits(subject: Subject) -> Any:
    """All that a step can change, copied."""
    saved = subject.opt.state_dict()
    return {
        "parameters": {name: placed.memory.copy() for name, placed in subject.params.items()},
        "state": saved["state"],
        "t": (saved["t"], saved["row_steps"]),
        "groups": repr(saved["groups"]),
    }


@contextmanager
def apart(rng: random.Random, subject: Subject) -> Iterator[None]:
    """What is drawn for the subject comes from `rng`, and is forgotten: its own draws go on as before."""
    kept = subject.rng, subject.given
    subject.rng, subject.given = rng, {}
    try:
        yield
    finally:
        subject.rng, subject.given = kept


def good_step(subject: Subject) -> None:
    """The next step, with whatever gradients and options come."""
    grads = subject.gradients()
    options = subject.step_options(grads)
    with np.errstate(all="ignore"):
        outcome(lambda: subject.opt.step(subject.formed(grads), **options))


def copied(given: Any) -> Any:
    """Of arrays and rows in lists, to see later whether they changed."""
    if isinstance(given, fs.Rows):
        return copied([given.indices, given.values])
    if isinstance(given, list | tuple):
        return [copied(item) for item in given]
    return given.copy() if type(given) is np.ndarray else None


def wrong_with(mistake: Mistake, subject: Subject, twin: Subject) -> str | None:
    """What is not as it must be when the subject makes the mistake; `twin` is the same, and makes none."""
    for each in (subject, twin):
        if mistake.first:
            outcome(partial(mistake.first, each))
    before, given = bits(subject), copied(mistake.given)
    refusal: Exception | None = None
    try:
        mistake.attempt()
    except Exception as error:  # noqa: BLE001
        refusal = error
    if refusal is not None:
        where = difference(before, bits(subject)) or difference(given, copied(mistake.given))
        wrong = f"changed {where}" if where else badly_said(mistake, refusal)
    elif mistake.honest is not None:
        outcome(partial(mistake.honest, twin))
        wrong = None
    else:
        wrong = "not refused"
    if wrong is None and not mistake.last:
        wrong = trace(subject, twin)
    return wrong and f"{mistake.what}: {refusal!r}: {wrong}"


def badly_said(mistake: Mistake, refusal: Exception) -> str | None:
    """What is wrong with the error itself: it is of no documented kind, or does not say what it is about.

    Where there is no step with these hyperparameters, that may be what is said first.
    """
    if isinstance(refusal, OwnError) or is_refusal(refusal):
        return None
    if not isinstance(refusal, mistake.errors):
        return f"should be one of {[error.__name__ for error in mistake.errors]}"
    return None if any(name in str(refusal) for name in mistake.named) else f"should name {mistake.named}"


def trace(subject: Subject, twin: Subject) -> str | None:
    """What makes a difference in the next step."""
    for each in (subject, twin):
        good_step(each)
    where = difference(bits(twin), bits(subject))
    return where and f"the next step made a difference: {where}"
