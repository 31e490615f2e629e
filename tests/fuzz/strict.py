"""Correct steps where NumPy's warnings are errors: a step works or changes nothing."""

from __future__ import annotations

import numpy as np

from tests.fuzz.compare import difference
from tests.fuzz.mistakes import bits, copied
from tests.fuzz.outcome import outcome
from tests.fuzz.subject import Subject


def wrong_when_strict(subject: Subject, twin: Subject) -> str | None:
    """What is wrong with a step of the subject; the other takes the same one where nothing is an error."""
    grads = subject.gradients()
    options = subject.step_options(grads)
    before, given = bits(subject), copied(list(grads.values()))
    try:
        with np.errstate(all="raise"):
            outcome(lambda: subject.opt.step(subject.formed(grads), **options))
    except (FloatingPointError, RuntimeWarning) as error:
        if where := difference(before, bits(subject)) or difference(given, copied(list(grads.values()))):
            return f"strict step of {subject.opt}: {error!r} after a change of {where}"
        with np.errstate(all="ignore"):
            outcome(lambda: subject.opt.step(subject.formed(grads), **options))
    with np.errstate(all="ignore"):
        same = twin.gradients()
        options = twin.step_options(same)
        outcome(lambda: twin.opt.step(twin.formed(same), **options))
    where = difference(bits(twin), bits(subject))
    return where and f"strict step of {subject.opt} made a difference: {where}"
