"""What all fuzzers share: random cases, one after another, in a process that is watched from another one.

The watched process may crash or hang. Then the number of the case is still known, and the case can be
repeated alone, in the debugger if need be.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

Case = Callable[[random.Random], "str | None"]

PATIENCE = 30  # seconds that a case may take
MEMORY = 8 << 30  # bytes that all cases may take


def main(case: Case, description: str) -> None:
    """Try `case` with one random generator after another, as the command line says; exit with 1 at a failure.

    A case fails if it returns what went wrong, raises an exception, crashes, or does not end.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", default=str(random.SystemRandom().getrandbits(32)), help="default: fresh")
    parser.add_argument("--seconds", type=float, help="how long to go on; 20 if --cases is not given either")
    parser.add_argument("--cases", type=int, help="how many cases to try")
    parser.add_argument("--only", type=int, metavar="I", help="repeat this case alone")
    parser.add_argument("--progress", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.seconds is None:
        args.seconds = 20.0 if args.cases is None else math.inf
    if args.only is not None:
        limit_memory()
        sys.exit(not tried(case, args.seed, args.only))
    if args.progress is not None:
        sys.exit(not all_tried(case, args))
    say(f"{module()}: seed {args.seed}")
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        progress.write_text("0")
        arguments = [*sys.orig_argv[1:], "--seed", args.seed, "--progress", str(progress)]
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # its threads wait long for each other
        watched = subprocess.run([sys.executable, *arguments], env=environment, check=False)
        reached = int(progress.read_text())
    if watched.returncode:
        command = f"{Path(sys.executable).name} -m {module()} --seed {args.seed} --only {reached}"
        how = ending(watched.returncode)
        say(f"{module()}: case {reached} failed, {how}; to repeat it alone:\n  {command}")
        sys.exit(1)
    say(f"{module()}: {reached} cases, no failure")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def module() -> str:
    """The name by which the running program was started."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else sys.argv[0]


def ending(status: int) -> str:
    """In words, how a process ended."""
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"


def all_tried(case: Case, args: argparse.Namespace) -> bool:
    """Whether all cases go well until time or their number is over; the file tells how many did."""
    limit_memory()
    end = time.monotonic() + args.seconds
    i = 0
    while i != args.cases and time.monotonic() < end:
        if not tried(case, args.seed, i):
            return False
        i += 1
        args.progress.write_text(str(i))
    return True


def limit_memory() -> None:
    """Have what asks for endless memory fail before other processes do."""
    if sys.platform != "win32":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def tried(case: Case, seed: str, i: int) -> bool:
    """Whether case `i` goes well; print what does not. Warnings are errors, and a hang ends the process."""
    faulthandler.enable()
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrong = case(random.Random(f"{seed}/{i}"))
    except Exception:  # noqa: BLE001
        wrong = traceback.format_exc()
    finally:
        faulthandler.cancel_dump_traceback_later()
    if wrong is not None:
        say(wrong)
    return wrong is None
