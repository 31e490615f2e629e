"""Another library may set how the processor rounds, and flush tiny numbers; steps give the same bits."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import takes_16_bits
from tests.helpers.exactly import assert_same
from tests.helpers.examples import all_gradients, few_shapes_of, grouped, parameters, snapshot

UPWARD = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}.get(platform.machine())
NEAREST = 0
LIBM = ctypes.util.find_library("m")

pytestmark = pytest.mark.skipif(UPWARD is None or LIBM is None, reason="fesetround is not found here")


@contextmanager
def rounding_upward() -> Iterator[None]:
    """Round towards infinity in this thread, as the C library's fesetround(FE_UPWARD) does."""
    libm = ctypes.CDLL(LIBM)
    assert libm.fesetround(UPWARD) == 0
    try:
        yield
        assert libm.fegetround() == UPWARD  # ours again after all that was called
    finally:
        libm.fesetround(NEAREST)


def trained(rule: str, backend: Any, mode: Callable[[], Any]) -> dict[str, Any]:
    """Some steps, with the mode around each of them."""
    p = parameters(few_shapes_of(rule), "of all types" if takes_16_bits(rule) else "float32")
    opt = grouped(rule, p, backend=backend, ema=0.5)
    for t in range(1, 4):
        grads = dict(enumerate(all_gradients(rule, t, p)))
        loss = 1 + 1 / t if opt.needs_loss else None
        with mode():
            opt.step(grads, loss=loss, clip_norm=0.9)
    return snapshot(opt, p)


@contextmanager
def as_it_is() -> Iterator[None]:
    yield


def test_the_mode_is_there() -> None:
    """Python's own sums differ in it, so that the other tests can fail."""
    with rounding_upward():
        upward = sum([1.0, 2.0**-60])
    assert upward > 1.0
    assert sum([1.0, 2.0**-60]) == 1.0


@pytest.mark.parametrize("rule", fs.rules)
def test_steps_round_to_nearest(rule: str, backend: Any) -> None:
    """Kernels, sums, coefficients and their conversion, whatever the caller's mode."""
    if rule == "Muon":
        pytest.skip("its products are NumPy's, whose threads have modes of their own")
    assert_same(trained(rule, backend, rounding_upward), trained(rule, backend, as_it_is))


def test_what_is_beside_steps_rounds_to_nearest() -> None:
    g = [np.random.default_rng(0).standard_normal(10_000).astype(np.float32) for _ in range(3)]
    scaled = [a.copy() for a in g]
    norm = fs.clip_grad_norm(scaled, 0.7)
    with rounding_upward():
        again = [a.copy() for a in g]
        assert fs.global_norm(g) == norm
        assert fs.clip_grad_norm(again, 0.7) == norm
    assert all(np.array_equal(a, b) for a, b in zip(again, scaled, strict=True))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("first", [True, False])
def test_no_thread_flushes_tiny_numbers(threads: int, first: bool) -> None:
    """Whether the mode was set before the threads were made, or after, or in the caller alone."""
    torch: Any = pytest.importorskip("torch")
    p = np.zeros(2**18, np.float32)
    tiny = np.full(2**18, 1e-39, np.float32)
    fs.set_num_threads(threads)
    opt = fs.EMAMomentum(p, lr=1.0)
    if not first:
        opt.step(tiny)
    torch.set_flush_denormal(True)
    try:
        for _ in range(4 - (not first)):
            opt.step(tiny)
    finally:
        torch.set_flush_denormal(False)
    expected = np.zeros(1, np.float32)
    small = fs.EMAMomentum(expected, lr=1.0)
    for _ in range(4):
        small.step(tiny[:1])
    assert expected[0] != 0
    assert (p.view(np.uint32) == expected.view(np.uint32)).all()


def test_threads_that_were_made_in_another_mode_round_to_nearest() -> None:
    """A thread begins with the mode of the one that makes it, here in a process that has no other yet."""
    code = f"""if True:
        import ctypes
        import numpy as np
        import fusedstep as fs

        libm = ctypes.CDLL({LIBM!r})
        rng = np.random.default_rng(0)
        g = rng.standard_normal(2**20).astype(np.float32)
        libm.fesetround({UPWARD})
        fs._core.scale([g], 0.5)  # makes the threads, and asks for no mode itself
        libm.fesetround({NEAREST})
        results = []
        for threads in (2, 1):
            fs.set_num_threads(threads)
            p = np.ones(2**20, np.float32)
            opt = fs.SGD(p, lr=0.3)
            for _ in range(20):
                opt.step(g)
            results.append(p)
        print(np.array_equal(*results))
    """
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"FUSEDSTEP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert ended.stdout.strip() == "True"
