"""What is around the steps is a transaction too: averages, schedules, early stopping, checkpoints.

And that the helper sees what is torn, by two optimizers that are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import averaging, schedules
from tests.helpers.engines import DTYPES, normal, with_gaps
from tests.helpers.exactly import Array
from tests.helpers.interrupts import FEWER, Seen, Trial, at_every_event, flat, of_optimizer

Arrays = dict[str, Array]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Others wait for work by spinning."""
    fs.set_num_threads(1)


# The helper


class Torn:
    """Gradient descent that changes one thing after another."""

    def __init__(self) -> None:
        self.p, self.t = [np.ones(3), np.ones(2)], 0

    def step(self) -> None:
        self.t += 1
        for p in self.p:
            p[...] = 0.5 * p

    def trial(self) -> Trial:
        return Trial(self.step, lambda: flat("p", self.p) | flat("t", self.t), self.step)


class Whole(Torn):
    """The same, of which all is changed by one instruction."""

    def step(self) -> None:
        new = [0.5 * p for p in self.p], self.t + 1
        vars(self).update(zip(("p", "t"), new, strict=True))


class Stuck(Whole):
    """It refuses to step after an interrupt."""

    busy = False

    def step(self) -> None:
        if self.busy:
            raise RuntimeError("busy")
        self.busy = True
        super().step()
        self.busy = False


class Swallowing(Whole):
    """It goes on as if nothing had been."""

    def step(self) -> None:
        with suppress(KeyboardInterrupt):
            super().step()


class Forgetful(Whole):
    """It remembers an interrupted step in what cannot be seen, and steps otherwise next time."""

    tries = 0

    def step(self) -> None:
        self.tries += 1
        new = [0.5**self.tries * p for p in self.p]
        vars(self).update(p=new, t=self.t + 1)


@pytest.mark.parametrize("opcodes", [False, True])
def test_what_is_whole_passes(opcodes: bool) -> None:
    assert at_every_event(lambda: Whole().trial(), opcodes=opcodes, code=__file__) > 5


@pytest.mark.parametrize(
    ("toy", "message"),
    [
        (Torn, "unlike before: t; unlike after: p/0"),
        (Stuck, "cannot go on: RuntimeError: busy"),
        (Swallowing, "swallowed"),
        (Forgetful, "goes on otherwise: p/0"),
    ],
)
@pytest.mark.parametrize("opcodes", [False, True])
def test_what_is_not_whole_fails(toy: type[Torn], message: str, opcodes: bool) -> None:
    with pytest.raises(pytest.fail.Exception, match=message):
        at_every_event(lambda: toy().trial(), opcodes=opcodes, code=__file__)


# Averages


def weights(seed: int = 0) -> Arrays:
    return {
        "matrix": normal(seed, (3, 2), DTYPES["float32"]),
        "gaps": with_gaps(normal(seed + 1, (4,), DTYPES["float16"])),
        "wide": normal(seed + 2, (3,), DTYPES["float64"]),
    }


def move(w: Arrays, seed: int) -> None:
    for name, new in weights(seed).items():
        w[name][...] = new


class Averaged:
    """Weights that have moved, an average of them, and the optimizer whose weights they are."""

    def __init__(self, kind: str, seed: int = 0) -> None:
        self.w = weights(seed)
        self.opt = fs.SGD(self.w, lr=0.5, ema=0.5)
        self.opt.step(weights(seed + 3))
        self.average: Any = getattr(averaging, kind)(self.opt, *([0.5] if kind == "EMA" else []))
        if kind != "FusedEMA":
            self.tell(2.0)
        move(self.w, seed + 6)

    def tell(self, figure: float) -> None:
        if isinstance(self.average, averaging.CheckpointMean):
            self.average.observe(figure)
        else:
            self.average.update()

    def see(self) -> Seen:
        found = flat("w", self.w) | of_optimizer(self.opt) | flat("averages", dict(self.average.averages))
        known = {name: getattr(self.average, name, None) for name in ("updates", "best")}
        return found | flat("known", known)

    def settle(self) -> None:
        """Put the weights back if they are not."""
        with suppress(RuntimeError):
            self.average.swap_out()

    def go_on(self) -> None:
        """As a user would who wants to train."""
        self.settle()
        self.opt.step(weights(9))


KINDS = ["EMA", "Mean", "CheckpointMean", "FusedEMA"]
BESIDE = KINDS[:3]


@pytest.mark.parametrize("kind", BESIDE)
def test_an_update(kind: str) -> None:
    def make() -> Trial:
        run = Averaged(kind)
        return Trial(lambda: run.tell(1.0), run.see, lambda: run.tell(0.5))

    at_every_event(make)


@pytest.mark.parametrize("kind", BESIDE)
def test_loading_an_average(kind: str) -> None:
    other = Averaged(kind, seed=20)
    other.tell(1.5)
    saved = other.average.state_dict()

    def make() -> Trial:
        run = Averaged(kind)
        return Trial(lambda: run.average.load_state_dict(saved), run.see, lambda: run.tell(0.5))

    at_every_event(make, stride=2 * FEWER)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("out", [False, True], ids=["in", "out"])
def test_swapping(kind: str, out: bool) -> None:
    """One or the other, of which the average knows."""

    def make() -> Trial:
        run = Averaged(kind)
        if out:
            run.average.swap_in()
        return Trial(run.average.swap_out if out else run.average.swap_in, run.see, run.go_on)

    at_every_event(make)


@pytest.mark.parametrize("kind", KINDS)
def test_a_block_with_averages(kind: str) -> None:
    """Where it does not put the weights back, `swap_out` does."""

    def make() -> Trial:
        run = Averaged(kind)

        def act() -> None:
            with run.average.swapped():
                pass

        def see() -> Seen:
            run.settle()
            return run.see()

        return Trial(act, see, run.go_on)

    at_every_event(make)


# Schedules


@pytest.mark.parametrize(
    "make_schedule",
    [
        lambda: schedules.Plateau(0.5, factor=0.5, patience=1, cooldown=1),
        lambda: schedules.EveAnnealing(0.5, minimum=0.01, maximum=2.0),
    ],
    ids=["Plateau", "EveAnnealing"],
)
@pytest.mark.parametrize("told", [[], [1.0], [1.0, 2.0], [1.0, 2.0, 2.0], [1.0, 2.0, 3.0, 4.0]], ids=len)
@pytest.mark.parametrize("figure", [0.5, 2.05, np.nan])
def test_observing(make_schedule: Callable[[], Any], told: list[float], figure: float) -> None:
    def make() -> Trial:
        schedule = make_schedule()
        for each in told:
            schedule.observe(each)
        return Trial(
            lambda: schedule.observe(figure),
            lambda: flat("schedule", [repr(schedule), schedule.state_dict()]),
            lambda: schedule.observe(0.25),
        )

    at_every_event(make)


# Early stopping and checkpoints


class Stopping:
    """Early stopping that knows of a best point; the weights have moved since."""

    def __init__(self, seed: int = 0) -> None:
        control = pytest.importorskip("fusedstep.control")
        self.w = weights(seed)
        self.stopping = control.EarlyStopping(self.w, patience=3)
        self.stopping.observe(1.0)
        self.stopping.observe(2.0)
        move(self.w, seed + 3)

    def see(self) -> Seen:
        return flat("w", self.w) | flat("stopping", self.stopping.state_dict())


@pytest.mark.parametrize("what", ["better", "worse", "restore", "load"])
def test_early_stopping(what: str) -> None:
    saved = Stopping(seed=20).stopping.state_dict()

    def make() -> Trial:
        run = Stopping()
        act = {
            "better": lambda: run.stopping.observe(0.5),
            "worse": lambda: run.stopping.observe(1.5),
            "restore": run.stopping.restore,
            "load": lambda: run.stopping.load_state_dict(saved),
        }[what]
        return Trial(act, run.see, lambda: run.stopping.observe(0.75))

    at_every_event(make)


class Parts:
    """All kinds of parts of a checkpoint, and the file."""

    def __init__(self, path: Path, seed: int = 0) -> None:
        pytest.importorskip("safetensors")
        control = pytest.importorskip("fusedstep.control")
        self.run = Averaged("Mean", seed)
        self.stopping = Stopping(seed)
        self.plateau = schedules.Plateau(0.5 + seed, patience=1)
        self.rng, self.total = np.random.default_rng(seed), np.full(2, float(seed))
        self.opt = fs.Eve({"w": normal(seed, (2, 2))}, lr=schedules.Plateau(0.1))
        self.opt.step({"w": normal(seed + 1, (2, 2))}, loss=1.0 + seed)
        self.checkpoint = control.Checkpoint(
            path,
            opt=self.opt,
            mean=self.run.average,
            stopping=self.stopping.stopping,
            plateau=self.plateau,
            rng=self.rng,
            total=self.total,
        )

    def see(self) -> Seen:
        rest = [
            self.plateau.state_dict(),
            self.rng.bit_generator.state,
            self.total,
            *self.opt.groups[0]["params"].values(),
        ]
        return self.run.see() | self.stopping.see() | of_optimizer(self.opt) | flat("rest", rest)

    def go_on(self) -> None:
        self.opt.step({"w": self.rng.standard_normal((2, 2))}, loss=1.0)


def test_loading_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    Parts(path, seed=20).checkpoint.save(epoch=3)

    def make() -> Trial:
        parts = Parts(path)
        return Trial(parts.checkpoint.load, parts.see, parts.go_on)

    at_every_event(make, stride=5 * FEWER)
