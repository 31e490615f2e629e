"""Checkpoints of all kinds of parts, damaged and forged: loading is a clear error, or the right state.

``python -m tests.fuzz.checkpoints``.
"""

from __future__ import annotations

import random
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

from fusedstep.control import Checkpoint
from tests.fuzz.common import main
from tests.fuzz.corruptions import DAMAGES, FORGERIES, HOSTILE
from tests.fuzz.parts import Run, plain
from tests.helpers import saved

LARGEST = 100 * max(map(len, HOSTILE))  # bytes of memory


def case(rng: random.Random) -> str | None:
    """One checkpoint with one damage; return what is wrong with how it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        return loaded(rng, Path(folder) / "run")


def loaded(rng: random.Random, path: Path) -> str | None:
    """Save, go on, damage the file, and load."""
    run = Run(str(rng.random()))
    run.advance(rng)
    checkpoint = run.checkpoint(path)
    checkpoint.save(**run.progress)
    then = run.state()
    run.advance(rng)
    now = run.state()
    what = rng.choice([*DAMAGES, *DAMAGES, *FORGERIES, *FORGERIES, untouched, of_0_1_0, folder, of_others])
    whole = path.read_bytes()
    what(rng, path)
    kind = what.__name__
    same = path.is_file() and path.read_bytes() == whole
    tracemalloc.start()
    try:
        progress = checkpoint.load()
    except (ValueError, TypeError) as error:
        if str(path) not in str(error):
            return f"{kind}: the error does not name the file: {error!r}"
        if same:
            return f"{kind}: the file is as it was written: {error}"
        return None if run.state() == now else f"{kind}: something has changed after {error}"
    finally:
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if largest > LARGEST:
            sys.exit(f"{kind}: loading took {largest} bytes")
    if what in FORGERIES:
        return again(checkpoint, run, progress, kind)
    right = run.state() == then and plain(progress) == plain(run.progress)
    return None if right else f"{kind}: it loads, but something else than was saved"


def again(checkpoint: Checkpoint, run: Run, progress: Any, kind: str) -> str | None:
    """What was loaded from a forged file, saved and loaded again, must be the same."""
    before = run.state()
    checkpoint.save(**progress)
    found = checkpoint.load()
    same = plain(found) == plain(progress) and run.state() == before
    run.use()
    return None if same else f"{kind}: what was loaded is not the same when it is saved and loaded again"


def untouched(rng: random.Random, path: Path) -> None:
    """The file as it was written."""


def of_0_1_0(rng: random.Random, path: Path) -> None:
    """A file of another run, which version 0.1.0 wrote."""
    path.write_bytes(saved.file(rng.choice(saved.RULES), rng.randrange(2)).read_bytes())


def folder(rng: random.Random, path: Path) -> None:
    """No file at all."""
    path.unlink()
    path.mkdir()


def of_others(rng: random.Random, path: Path) -> None:
    """The file of other parts."""
    other = Run(str(rng.random()))
    other.checkpoint(path).save(other=1)


if __name__ == "__main__":
    main(case, __doc__)
