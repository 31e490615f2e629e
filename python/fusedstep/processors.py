"""The number of processors that this process may use."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

V1, V2 = "cpu", ""
"""The controllers of a control group, as /proc names them: of version 1, and of version 2, which has all."""


def processors() -> int:
    """The number of processors in the affinity mask, or the quota of the control group if that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cgroup_quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float | None:
    """The number of processors that the process's control groups grant; None if it is not limited.

    A group has no more than each group around it.
    """
    granted = (_granted(root, version, path) for version, path in _groups(own))
    return min((quota for quota in granted if quota is not None), default=None)


def _groups(own: str) -> Iterator[tuple[str, str]]:
    """The groups of the process, and all groups around them, each with its version.

    The roots are always among them: in a container they may be all that there is to see.
    """
    yield from ((V1, ""), (V2, ""))
    for line in _text(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == V2 or V1 in controllers.split(","):
            path = path.rstrip("/")
            while path:
                yield controllers and V1, path
                path = path.rpartition("/")[0]


def _granted(root: str, version: str, path: str) -> float | None:
    """The quota of one group; None if it has none."""
    if version == V2:
        words = _text(f"{root}{path}/cpu.max").split()
    else:
        folder = f"{root}/cpu{path}"
        words = [*_text(f"{folder}/cpu.cfs_quota_us").split(), *_text(f"{folder}/cpu.cfs_period_us").split()]
    if len(words) != 2 or words[0] in {"max", "-1"}:
        return None
    return int(words[0]) / int(words[1])


def _text(name: str) -> str:
    """The text of a file; none if it cannot be read."""
    try:
        with open(name) as file:  # noqa: PTH123  # importing pathlib would take longer than all of this
            return file.read()
    except OSError:
        return ""
