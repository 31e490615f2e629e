"""Instruction sets, threads, fork, and what importing does."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.internals import _core, processors

ISAS = {"x86_64": ["x86-64", "x86-64-v3", "x86-64-v4"], "aarch64": ["aarch64"], "arm64": ["aarch64"]}


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("FUSEDSTEP_", "OMP_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def printed(code: str, **environment: str) -> str:
    result = run(f"import fusedstep as fs\n{code}", **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_info() -> None:
    info = fs.info()
    assert {"version", "isa", "isas", "num_threads"} <= info.keys()
    assert info["version"] == fs.__version__ == metadata.version("fusedstep")
    assert info["isas"] == ISAS.get(platform.machine(), info["isas"])[: len(info["isas"])]
    assert info["isa"] in info["isas"]
    assert info["num_threads"] == fs.get_num_threads() >= 1


@pytest.mark.parametrize("isa", fs.info()["isas"])
def test_isa_can_be_forced(isa: str) -> None:
    fs.use_isa(isa)
    assert fs.info()["isa"] == isa
    assert printed("print(fs.info()['isa'])", FUSEDSTEP_ISA=isa) == isa


def test_the_fastest_isa_is_the_default() -> None:
    assert printed("print(fs.info()['isa'])") == fs.info()["isas"][-1]


def test_unknown_isa() -> None:
    before = fs.info()["isa"]
    with pytest.raises(ValueError, match=r"unknown instruction set 'avx9000'; this build has "):
        fs.use_isa("avx9000")
    assert fs.info()["isa"] == before
    result = run("import fusedstep", FUSEDSTEP_ISA="avx9000")
    assert result.returncode != 0
    assert "FUSEDSTEP_ISA: unknown instruction set 'avx9000'" in result.stderr


def test_every_isa_has_every_kernel() -> None:
    kernels = []
    for isa in fs.info()["isas"]:
        fs.use_isa(isa)
        kernels.append(_core.kernels())
    assert all(table == kernels[0] for table in kernels)


def test_set_num_threads() -> None:
    fs.set_num_threads(3)
    assert fs.get_num_threads() == 3
    for wrong in (0, -1, 10**6):
        with pytest.raises(ValueError, match=r"number of threads must be from 1 to"):
            fs.set_num_threads(wrong)
    with pytest.raises(TypeError):
        fs.set_num_threads(2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"FUSEDSTEP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "5"}, 5),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"FUSEDSTEP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
    ],
)
def test_threads_from_the_environment(environment: dict[str, str], threads: int) -> None:
    assert printed("print(fs.get_num_threads())", **environment) == str(threads)


@pytest.mark.parametrize("value", ["0", "-2", "two", "1.5"])
def test_bad_threads_in_the_environment(value: str) -> None:
    result = run("import fusedstep", FUSEDSTEP_NUM_THREADS=value)
    assert result.returncode != 0
    assert f"FUSEDSTEP_NUM_THREADS must be a number from 1 to 1024, got {value!r}" in result.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_threads_follow_affinity() -> None:
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\nimport fusedstep\n"
    result = run(code + "print(fusedstep.get_num_threads())")
    assert result.stdout.strip() == "1", result.stderr


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
        # Nested groups: the least quota around the process counts.
        ({"own": "0::/a/b\n", "cpu.max": "max 100000\n", "a/b/cpu.max": "150000 100000\n"}, 1.5),
        ({"own": "0::/a/b\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "150000 100000\n"}, 0.5),
        ({"own": "0::/a/b\n", "a/cpu.max": "200000 100000\n", "c/cpu.max": "50000 100000\n"}, 2.0),
        (
            {
                "own": "4:memory:/m\n3:cpu,cpuacct:/a/b\n0::/\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
                "cpu/a/b/cpu.cfs_quota_us": "250000\n",
                "cpu/a/b/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
    ],
)
def test_cgroup_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors.cgroup_quota(str(tmp_path), str(tmp_path / "own")) == quota


FORK = """
import os, sys, numpy as np
fs.set_num_threads(2)
p, g = np.zeros(10**6), np.ones(10**6)
opt = fs.SGD(p, lr=1.0)
opt.step(g)
child = os.fork()
if child == 0:
    opt.step(g)
    fs.set_num_threads(2)
    opt.step(g)
    os._exit(0 if fs.get_num_threads() == 1 and (p == -3).all() else 1)
status = os.waitpid(child, 0)[1]
opt.step(g)
parallel = fs.get_num_threads() == 2
print(os.waitstatus_to_exitcode(status), parallel, (p == -2).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_forked_child_runs_serially() -> None:
    """The workers do not survive fork(); the child must not wait for them, nor the parent notice."""
    assert printed(FORK) == "0 True True"


def test_gil_is_released() -> None:
    """Another thread has turns in the middle half of a step."""
    fs.set_num_threads(1)
    p = np.zeros(20_000_000)
    opt = fs.Adam(p)
    gradient = p + 1
    times = []

    def step() -> None:
        times.append(time.perf_counter())
        opt.step(gradient)
        times.append(time.perf_counter())

    worker = threading.Thread(target=step)
    worker.start()
    turns = []
    while worker.is_alive():
        turns.append(time.perf_counter())
        time.sleep(0.001)
    start, end = times
    quarter = (end - start) / 4
    assert any(start + quarter < turn < end - quarter for turn in turns)


def test_threads_step_optimizers_of_their_own() -> None:
    """Many callers at once: each step is whole, whoever has the workers."""
    fs.set_num_threads(3)
    n, steps = 50_000, 40
    expected = np.ones(n)
    alone = fs.Adam(expected)
    for _ in range(steps):
        alone.step(np.ones(n))

    def train(p: np.ndarray[Any, Any]) -> None:
        optimizer = fs.Adam(p)
        for _ in range(steps):
            optimizer.step(np.ones(n))

    parameters = [np.ones(n) for _ in range(6)]
    callers = [threading.Thread(target=train, args=(p,)) for p in parameters]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
        assert not caller.is_alive()
    assert all(np.array_equal(p, expected) for p in parameters)


def test_number_of_threads_goes_up_and_down() -> None:
    p, q = np.ones(100_000), np.ones(100_000)
    fs.set_num_threads(1)
    serial, threaded = fs.Adam(p), fs.Adam(q)
    for threads in (2, 5, 1, 3, 8, 2):
        fs.set_num_threads(1)
        serial.step(np.ones_like(p))
        fs.set_num_threads(threads)
        threaded.step(np.ones_like(q))
    assert np.array_equal(p, q)


def test_one_step_at_a_time() -> None:
    """A second thread's step is refused while one runs."""
    running, go_on = threading.Event(), threading.Event()

    def lr(t: int) -> float:
        running.set()
        go_on.wait()
        return float(t)

    p = np.zeros(3)
    opt = fs.SGD(p, lr=lr)
    worker = threading.Thread(target=opt.step, args=(np.ones(3),))
    worker.start()
    running.wait()
    with pytest.raises(RuntimeError, match=r"this optimizer is in use: a step"):
        opt.step(np.ones(3))
    go_on.set()
    worker.join()
    opt.step(np.ones(3))
    assert (p == -3).all()


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no interval timer here")
def test_interrupted_step_is_a_whole_step() -> None:
    """An interrupt that comes while the kernels run is raised after all that belongs to the step is done."""
    fs.set_num_threads(1)
    n = 20_000_000
    room = np.zeros(20, np.float32)
    params = {"large": np.zeros(n, np.float32), "strided": room[::2]}
    control = {"large": np.zeros(n, np.float32), "strided": np.zeros(10, np.float32)}
    grads = {name: np.ones(p.size, np.float32) for name, p in params.items()}
    opt, other = fs.Nesterov(params), fs.Nesterov(control)
    opt.step(grads)

    def until_interrupted() -> None:
        while opt.t < 1000:
            opt.step(grads)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.005)
        with pytest.raises(KeyboardInterrupt):
            until_interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
    for _ in range(opt.t):
        other.step(grads)
    opt.step(grads)
    other.step(grads)
    assert opt.t == other.t > 1
    assert all(np.array_equal(params[name], control[name]) for name in params)
    assert opt.groups[0].scalars == other.groups[0].scalars


def test_importing_changes_no_floating_point_mode() -> None:
    assert printed("import numpy as np\nprint(np.float32(1e-38) / np.float32(1024) > 0)") == "True"


def test_importing_needs_numpy_alone() -> None:
    """No optional package is imported, and the package is typed."""
    optional = {"torch", "sklearn", "matplotlib", "tqdm", "scipy"}
    assert printed(f"import sys\nprint({optional} & set(sys.modules))") == "set()"
    assert (Path(fs.__file__).parent / "py.typed").exists()
    assert (Path(fs.__file__).parent / "_core.pyi").exists()


def test_more_than_2_31_elements() -> None:
    """In 16 bits, which take half the memory and time of 32."""
    n = 2**31 + 5
    if (
        "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", ())
        or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 5 * n
    ):
        pytest.skip("not enough free memory")
    places = [0, 1, 2**31 - 1, 2**31, n - 1]
    p, g = np.zeros(n, np.float16), np.zeros(n, np.float16)
    g[places] = 1
    fs.SGD(p, lr=0.5).step(g)
    assert (p[places] == -0.5).all()
    assert np.count_nonzero(p.view(np.int16)) == len(places)
