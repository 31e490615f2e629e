"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from glob import escape
from pathlib import Path
from secrets import token_hex


def replace(path: Path, content: bytes) -> None:
    """Write `content` to the file `path`; at every moment, the old file or the new one is there.

    The content goes to a temporary file beside it, which is flushed to disk and renamed. Temporary files left
    by killed processes are removed first.
    """
    path = path.resolve()
    for left in path.parent.glob(f"{escape(path.name)}.*.partial"):
        left.unlink(missing_ok=True)
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # not every system can flush a directory to disk
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
