"""Random runs, each through every engine: all must give the same bits, and leave the same alone.

Engines are the backends, instruction sets and numbers of threads. Beside that, each places the parameters
elsewhere in memory, and some go on from checkpoints in between. ``python -m tests.fuzz.differential``.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fusedstep as fs
from tests.fuzz.arrays import Array
from tests.fuzz.common import main
from tests.fuzz.compare import difference
from tests.fuzz.outcome import Refused, outcome
from tests.fuzz.subject import Subject


class Engine(NamedTuple):
    """What runs the steps; `interruptions` is how often a new optimizer goes on from a checkpoint."""

    backend: str
    isa: str
    threads: int
    offset: int
    interruptions: float


def engines(rng: random.Random) -> Iterator[Engine]:
    """First the one that the others are compared with."""
    isas = fs.info()["isas"]
    yield Engine("numpy", isas[0], 1, 0, 0.0)
    for isa in isas:
        for threads in rng.choice([[1], [2], [3]] * 3 + [[1, 2, 3]]):
            yield Engine("native", isa, threads, rng.randrange(16), rng.choice([0.0, 0.5]))
    if rng.random() < 0.2:
        yield Engine("numpy", isas[0], 1, rng.randrange(16), 0.5)


def bits_of(gradient: Any) -> Any:
    """The numbers of a gradient, copied."""
    if isinstance(gradient, fs.Rows):
        return gradient.values.copy()
    return None if gradient is None else gradient.copy()


def kept(there: Any) -> Any:
    """What of a snapshot a refused step leaves as it was; gradients are looked at where they are given."""
    return {part: there[part] for part in ("parameters", "state", "t", "groups")}


class Run:
    """A subject, stepped by an engine."""

    def __init__(self, seed: int, engine: Engine) -> None:
        self.rng, self.engine = random.Random(seed), engine
        self.interruptions = random.Random(seed + 1)
        fs.use_isa(engine.isa)
        fs.set_num_threads(engine.threads)
        self.subject = Subject(self.rng, engine.backend, engine.offset)

    def history(self) -> Iterator[tuple[str, Any]]:
        """What happened, and all that there is after it, one after another."""
        there = self.snapshot()
        yield f"new {self.subject.opt} of {self.subject.form}", there
        for _ in range(self.rng.randint(1, 12)):
            before = there
            event, there = self.event()
            if isinstance(there["result"], Refused):
                where = difference(kept(before), kept(there))
                assert where is None, f"{event} was refused, but changed {where}"
            yield event, there
            if self.interruptions.random() < self.engine.interruptions:
                self.interrupt()

    def event(self) -> tuple[str, Any]:
        kind = self.rng.random()
        subject = self.subject
        tables = [name for name in subject.params if subject.takes_rows(name)]
        if kind < 0.1:
            subject.change()
            return f"changed {subject.changes[-1]}", self.snapshot()
        if kind < 0.2 and subject.rule.startswith("ScheduleFree"):
            subject.opt.eval()
            evaluated = self.snapshot()
            subject.opt.train()
            return "eval", self.snapshot(evaluated)
        if kind < 0.2:
            for group in subject.opt.groups:
                if isinstance(group["lr"], fs.schedules.Plateau):
                    group["lr"].observe(self.rng.random())
            return "observe", self.snapshot()
        if kind < 0.5 and tables:
            return self.step_rows(self.rng.choice(tables))
        return self.step()

    def step(self) -> tuple[str, Any]:
        subject = self.subject
        grads = subject.gradients()
        options = subject.step_options(grads)
        before = {name: bits_of(g) for name, g in grads.items()}
        given = subject.formed(grads, flat=self.rng.random() < 0.3)
        result = outcome(lambda: subject.opt.step(given, **options))
        after = {name: bits_of(g) for name, g in grads.items()}
        if options.get("zero_grad") and not isinstance(result, Refused):
            assert not any(np.any(g) for g in after.values() if g is not None), "gradients are not 0"
        else:
            assert difference(before, after) is None, "gradients have changed"
        return f"step with {options}", self.snapshot(result, (after, fs.global_norm(list(grads.values()))))

    def step_rows(self, name: Hashable) -> tuple[str, Any]:
        subject = self.subject
        (rows, values), options = subject.rows(name), subject.options()
        before: Array = values.copy()
        result = outcome(lambda: subject.opt.step_rows(name, rows, values, **options))
        assert difference(before, values.copy()) is None, "gradients have changed"
        return f"step_rows of {name!r} with {options}", self.snapshot(result)

    def interrupt(self) -> None:
        """Put a new optimizer in the place of this one."""
        saved = pickle.loads(pickle.dumps(self.subject.opt.state_dict()))
        self.subject.opt = self.subject.made()
        self.subject.opt.load_state_dict(saved)

    def snapshot(self, result: Any = None, gradients: Any = None) -> Any:
        """All that must be the same, copied."""
        saved = self.subject.opt.state_dict()
        return {
            "result": result,
            "gradients": gradients,
            "parameters": {name: placed.memory.copy() for name, placed in self.subject.params.items()},
            "given": {name: placed.memory.copy() for name, placed in self.subject.given.items()},
            "state": saved["state"],
            "t": (saved["t"], saved["row_steps"]),
            "groups": repr(saved["groups"]),
        }


def case(rng: random.Random) -> str | None:
    """Whether all engines have one history."""
    seed = rng.getrandbits(64)
    first, *others = engines(rng)
    expected = list(Run(seed, first).history())
    for engine in others:
        run = Run(seed, engine).history()
        for step, ((event, there), (same_event, here)) in enumerate(zip(expected, run, strict=True)):
            assert event == same_event
            if where := difference(there, here):
                return f"{engine} differs from {first} after {[e for e, _ in expected[: step + 1]]}: {where}"
    return None


if __name__ == "__main__":
    main(case, __doc__)
