"""Threads at once, with and without the GIL: of their own optimizers, and of one that they share."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import threading
from functools import partial
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import schedules
from tests.helpers.choices import FEW
from tests.helpers.exactly import assert_same
from tests.helpers.internals import _core
from tests.helpers.threads import STEPS, THREADS, at_once, attempted

Array = np.ndarray[Any, Any]

IMPORTED_AT_ONCE = """
import sys, threading
start = threading.Barrier(4)
steps = []
def first():
    start.wait()
    import numpy as np
    import fusedstep as fs
    p = np.zeros(9, np.float32)
    fs.AdamW(p).step(np.ones(9, np.float32), clip_norm=1.0)
    steps.append(p.tobytes())
threads = [threading.Thread(target=first) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(steps) == 4 and len(set(steps)) == 1, steps
"""


@pytest.mark.skipif(not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has the GIL")
def test_the_gil_stays_off() -> None:
    program = "import sys, fusedstep; sys.exit(sys._is_gil_enabled())"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_threads_import_at_once() -> None:
    for _ in range(3):
        subprocess.run([sys.executable, "-c", IMPORTED_AT_ONCE], check=True)


@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize("rule", FEW)
def test_own_optimizers(rule: str, backend: Any) -> None:
    """The same bits as one after the other, while the settings of the process change."""

    def trained(seed: int) -> dict[str, Array]:
        rng = np.random.default_rng(seed)
        p: dict[str, Array] = {
            "w": rng.standard_normal((20, 600)),
            "b": rng.standard_normal(33).astype(np.float32),
        }
        opt = fs.rules[rule](p, lr=schedules.Cosine(0.01, steps=9), ema=0.5, backend=backend)
        for _ in range(4):
            g = {name: np.asarray(rng.standard_normal(a.shape), a.dtype) for name, a in p.items()}
            opt.step(g, loss=1.0, clip_norm=1.0)
        if fs.rules[rule].steps_rows:
            opt.step({"w": fs.Rows([3, 3, 0], np.ones((3, 600))), "b": None})
        return {**p, **{f"{k} {slot}": a for k, slots in opt.state.items() for slot, a in slots.items()}}

    expected = [trained(seed) for seed in range(THREADS)]
    found: dict[int, dict[str, Array]] = {}
    done = threading.Event()

    def change() -> None:
        while not done.is_set():
            for isa, threads in zip(fs.info()["isas"], (3, 1, 2), strict=False):
                fs.use_isa(isa)
                fs.set_num_threads(threads)

    def train(seed: int) -> None:
        found[seed] = trained(seed)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        at_once([partial(train, seed) for seed in range(THREADS)])
    finally:
        done.set()
        changing.join()
    for seed, arrays in enumerate(expected):
        assert_same(found[seed], arrays, seed)


FORKED_WITHIN_A_STEP = """
import os, sys, threading
import numpy as np
import fusedstep as fs

p, g, children = np.zeros(9), np.ones(9), []

def lr(_):
    if not children:
        children.append(os.fork())
    return 1.0

def refused():
    try:
        opt.step(g)
    except RuntimeError as error:
        return print(error)

def beside(_):
    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
    return 0.0

# The first schedule forks; then, in both processes, the second one has another thread step.
opt = fs.SGD(p, lr=lr, l1=beside)
opt.step(g)
assert (p == -1).all(), p
if children == [0]:
    os._exit(0)
sys.exit(os.waitpid(children[0], 0)[1])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
def test_a_fork_within_a_step() -> None:
    """Its thread goes on in both processes, and has the optimizer in both."""
    done = subprocess.run(
        [sys.executable, "-u", "-W", "ignore::DeprecationWarning", "-c", FORKED_WITHIN_A_STEP],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("this optimizer is in use") == 2


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_one_optimizer(backend: Any) -> None:
    """A step is whole or refused: weights, state and count are those of as many steps as were done."""
    p, g = np.zeros(5000), np.ones(5000)
    opt = fs.Momentum(p, lr=1.0, momentum=0.0, ema=0.5, backend=backend)
    done: list[int] = []
    at_once([lambda: done.append(sum(attempted(lambda: opt.step(g)) for _ in range(STEPS)))] * THREADS)
    assert opt.t == sum(done) > 0
    assert (p == -opt.t).all()


def test_saving_and_loading_beside_steps() -> None:
    """What is saved is the state between two steps."""
    p, g = np.zeros(200_000), np.ones(200_000)
    opt = fs.Adagrad(p, lr=1.0)
    stepped = threading.Event()
    saved: list[dict[str, Any]] = []

    def save() -> None:
        while not stepped.is_set():
            attempted(lambda: saved.append(opt.state_dict()))
            del saved[:-STEPS]
        assert attempted(lambda: saved.append(opt.state_dict()))
        assert attempted(lambda: opt.load_state_dict(saved[-1]))

    def step() -> None:
        try:
            for _ in range(5 * STEPS):
                attempted(lambda: opt.step(g))
        finally:
            stepped.set()

    at_once([step, save])
    for state in saved:
        (s,) = state["state"][0].values()
        assert (s == state["t"]).all()  # the sum of so many squares of 1
    (s,) = opt.state.values()
    assert (s == opt.t).all()


def test_saving_within_a_step() -> None:
    def lr(_: int) -> float:
        with pytest.raises(RuntimeError, match="is in use"):
            opt.state_dict()
        return 1.0

    p = np.zeros(3)
    opt = fs.SGD(p, lr=lr)
    opt.step(np.ones(3))
    assert (p == -1).all()


def test_schedules_that_are_set_at_once() -> None:
    """Two threads set hyperparameters of a group; none of their schedules is taken for a number."""
    p = np.ones(3)
    opt = fs.SGD(p, lr=1.0)
    changes = [_core.Changes(), _core.Changes()]
    opt.groups[0].collect_set({"lr": lambda _: 0.5}, changes[0])
    opt.groups[0].collect_set({"weight_decay": lambda _: 0.5}, changes[1])
    for each in changes:
        each.write()
    opt.step(np.ones(3))
    assert (p == 0.75 - 0.5).all()


def test_hyperparameters_beside_steps() -> None:
    """A step takes what each hyperparameter is at some moment, a number or a schedule, and never fails."""
    p, g = np.zeros(3), np.ones(3)
    opt = fs.SGD(p)
    kinds: list[Any] = [1.0, lambda _: 2.0, 4.0, schedules.Constant(8.0)]
    done = threading.Event()
    sizes = set()

    def change() -> None:
        while not done.is_set():
            for lr in kinds:
                opt.lr = lr

    def step() -> None:
        try:
            for _ in range(20 * STEPS):
                before = p.copy()
                opt.step(g)
                sizes.update((before - p).tolist())
        finally:
            done.set()

    opt.lr = 1.0
    at_once([change, change, step])
    assert sizes <= {1.0, 2.0, 4.0, 8.0}
