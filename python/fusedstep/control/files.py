"""Files that are replaced as a whole or not at all."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from stat import S_IMODE

from . import owner

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


def replace(path: Path, content: bytes) -> None:
    """Write `content` to the file `path`; at every moment, the old file or the new one is there.

    The content goes to a partial file beside it, which has the permissions of the old file from the
    beginning, is flushed to disk, and renamed. Its name says which process writes it. Partial files of
    processes that have ended are removed first.
    """
    path = Path(os.path.realpath(path))
    _remove_abandoned(path)
    old = path.stat() if path.exists() else None
    partial = path.with_name(f"{path.name}.{owner.mark()}-{token_hex(4)}.partial")
    try:
        with os.fdopen(os.open(partial, NEW, old.st_mode & 0o600 if old else 0o666), "wb") as file:
            if old and os.name == "posix":
                with suppress(PermissionError):  # the group can be one that this user is not in
                    os.fchown(file.fileno(), -1, old.st_gid)
                os.fchmod(file.fileno(), S_IMODE(old.st_mode))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
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


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that have ended left of the file `path`."""
    name = re.compile(rf"{re.escape(path.name)}\.({owner.PATTERN})-[0-9a-f]{{8}}\.partial")
    with suppress(OSError):  # what cannot be listed or removed stays
        for found in path.parent.iterdir():
            match = name.fullmatch(found.name)
            if match and owner.has_ended(match[1]):
                found.unlink(missing_ok=True)
