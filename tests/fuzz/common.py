"""What fuzzers share: the seed, how long they run, and what they say."""

from __future__ import annotations

import argparse
import random
import secrets
import sys
import time
import traceback
from collections.abc import Callable
from itertools import count


def main(case: Callable[[random.Random], str | None], description: str) -> None:
    """Run one case after another, each with random numbers of its own, until one fails.

    A case fails if it raises, or returns text that says why. Then the text, and how to run the case again
    alone, are printed, and the program exits with 1.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="a fresh one by default")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to run, 20 by default")
    parser.add_argument("--cases", type=int, help="how many cases to run, whatever time they take")
    parser.add_argument("--only", type=int, help="the number of one case, to run it alone")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    end = time.monotonic() + options.seconds
    done = 0
    for i in count() if options.only is None else [options.only]:
        over = time.monotonic() >= end if options.cases is None else done >= options.cases
        if over and options.only is None:
            break
        try:
            failure = case(random.Random(f"{options.seed}/{i}"))
        except Exception:  # noqa: BLE001  # each is a failure, which is reported
            failure = traceback.format_exc()
        if failure:
            module = getattr(sys.modules["__main__"].__spec__, "name", sys.argv[0])
            print(f"{failure}\nagain: python -m {module} --seed {options.seed} --only {i}")
            sys.exit(1)
        done += 1
    print(f"{done} cases")
