"""Marks of processes, by which others can tell whether the owner of a file has ended."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import suppress
from pathlib import Path
from zlib import crc32

PATTERN = r"[0-9a-f]{8}-[0-9]+-[0-9]+"
"""What a mark looks like: the machine, the number of the process, and when it was started."""


def mark() -> str:
    """A word for this process, by which it can be told from those that get its number after it."""
    pid = os.getpid()
    return f"{_machine():08x}-{pid}-{_started(pid)}"


def has_ended(mark: str) -> bool:
    """Whether the process with this mark has surely ended; False for a process of another machine."""
    machine, pid, started = mark.split("-")
    if int(machine, 16) != _machine():
        return False
    try:
        found = _started(int(pid))
    except ProcessLookupError:
        return True
    return 0 not in (found, int(started)) and found != int(started)  # else its number is another's now


def _machine() -> int:
    """A number for the machine, or for the container whose processes have numbers of their own."""
    names = [platform.node()]
    for file in (Path("/etc/machine-id"), Path("/proc/self/ns/pid")):
        with suppress(OSError):  # other systems have none
            names.append(str(file.readlink()) if file.is_symlink() else file.read_text(encoding="utf-8"))
    return crc32("\n".join(names).encode(errors="replace"))


if sys.platform == "win32":
    import ctypes

    def _started(pid: int) -> int:
        """When a process was started, in the system's own unit, or 0 if the system does not say.

        Raises ProcessLookupError if there is no such process.
        """
        query, no_such_process, still_active = 0x1000, 87, 259  # as Windows has them
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.OpenProcess.restype = ctypes.c_void_p
        handle = ctypes.c_void_p(kernel.OpenProcess(query, False, pid))
        if not handle:
            if ctypes.get_last_error() == no_such_process:
                raise ProcessLookupError
            return 0
        code = ctypes.c_uint32(still_active)
        started, *others = ctypes.c_uint64(0), ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        kernel.GetExitCodeProcess(handle, ctypes.byref(code))
        kernel.GetProcessTimes(handle, ctypes.byref(started), *map(ctypes.byref, others))
        kernel.CloseHandle(handle)
        if code.value != still_active:
            raise ProcessLookupError
        return started.value

else:

    def _started(pid: int) -> int:
        """When a process was started, in the system's own unit, or 0 if the system does not say.

        Raises ProcessLookupError if there is no such process.
        """
        with suppress(PermissionError):  # it is another user's
            os.kill(pid, 0)
        with suppress(OSError, IndexError, ValueError):  # only Linux has such files
            after_name = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
            return int(after_name.split()[19])
        return 0
