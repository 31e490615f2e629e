"""Steps among what the process and the system do: forks, signals, affinity, the interpreter's end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's own calls")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def run(code: str) -> str:
    """Run a program with two threads for a step; return what it printed."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env=os.environ | {"FUSEDSTEP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    return ended.stdout.strip()


@pytest.mark.parametrize("call", ["opt.step(g)", "fs.global_norm(g)", "fs.clip_grad_norm(g, 1e9)"])
def test_the_interpreter_may_end_while_a_daemon_thread_steps(call: str) -> None:
    """Python ends such a thread when it asks for the GIL; that must not abort the process."""
    code = f"""
    import threading, time
    import numpy as np
    import fusedstep as fs

    g = np.ones(30_000, np.float32)
    opt = fs.SGD(np.ones(30_000, np.float32), lr=0.0)

    def work():
        while True:
            {call}

    threading.Thread(target=work, daemon=True).start()
    time.sleep(0.05)
    print("end")
    """
    for _ in range(3):
        assert run(code) == "end"


@forks
def test_a_fork_during_a_step_leaves_a_whole_step_and_a_free_optimizer() -> None:
    """The child has no thread that would end the step, whose memory it has as after the pass."""
    code = """
    import os, threading
    import numpy as np
    import fusedstep as fs

    p, g = np.zeros(2_000_000, np.float32), np.ones(2_000_000, np.float32)
    opt = fs.SGD(p, lr=1.0)
    threading.Thread(target=lambda: [opt.step(g) for _ in range(40)]).start()
    codes = []
    for _ in range(20):
        child = os.fork()
        if child == 0:
            whole = bool((p == p[0]).all())  # not a part of a pass
            counted = opt.t == -p[0]
            opt.step(g)
            os._exit(not (whole and counted and bool((p == p[0]).all())))
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(sum(codes))
    """
    assert run(code) == "0"


@on_linux
def test_threads_of_the_pool_take_no_signals() -> None:
    """A thread that waits for a signal of the process gets it, since the pool's threads block all."""
    code = """
    import os, signal, threading
    import numpy as np
    import fusedstep as fs

    wanted = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}
    opt = fs.SGD(np.ones(100_000, np.float32))
    opt.step(np.ones(100_000, np.float32))  # makes the pool, with no signal blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    for number in wanted:
        os.kill(os.getpid(), number)
        print(signal.sigtimedwait(wanted, 10).si_signo == number)
    """
    assert set(run(code).split()) == {"True"}


@on_linux
@pytest.mark.skipif(not shutil.which("taskset"), reason="no taskset")
def test_what_taskset_says_of_sleeping_threads_holds() -> None:
    """Who wakes them moves them off its own processor for a moment, and overrules nobody."""
    code = """
    import os, subprocess, time
    import numpy as np
    import fusedstep as fs

    opt, g = fs.SGD(np.ones(1_000_000, np.float32)), np.ones(1_000_000, np.float32)
    wrong = 0
    for cpu in sorted(os.sched_getaffinity(0))[:2]:
        opt.step(g)
        time.sleep(0.1)  # the threads sleep
        command = ["taskset", "-a", "-p", "-c", str(cpu), str(os.getpid())]
        subprocess.run(command, check=True, capture_output=True)
        for _ in range(3):
            opt.step(g)
            time.sleep(0.05)
        opt.step(g)
        for thread in os.listdir("/proc/self/task"):
            wrong += os.sched_getaffinity(int(thread)) != {cpu}
    print(wrong)
    """
    assert run(code) == "0"


@on_linux
def test_sleeping_threads_have_their_processors_again() -> None:
    code = """
    import os, time
    import numpy as np
    import fusedstep as fs

    opt, g = fs.SGD(np.ones(1_000_000, np.float32)), np.ones(1_000_000, np.float32)
    allowed = os.sched_getaffinity(0)
    found = False
    for _ in range(50):
        opt.step(g)
        masks = [os.sched_getaffinity(int(thread)) for thread in os.listdir("/proc/self/task")]
        found = found or all(mask == allowed for mask in masks)
        time.sleep(0.02)
    print(found)
    """
    assert run(code) == "True"
