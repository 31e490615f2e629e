"""What can be wrong with a state that has arrays, by the names a and b, and a count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Change = Callable[[dict[str, Any]], None]


def bad_states(arrays: str, count: str) -> dict[str, Change]:
    """Changes to a state with ``{"a": …, "b": …}`` as `arrays`, where b is float64 of shape (1, 3)."""

    def set_to(key: str, value: Any) -> Change:
        return lambda s: s.update({key: value})

    def in_arrays(change: Change) -> Change:
        return lambda s: change(s[arrays])

    return {
        "nothing": lambda s: s.clear(),
        "no arrays": lambda s: s.pop(arrays),
        "no count": lambda s: s.pop(count),
        "too much": set_to("extra", 1),
        "a negative count": set_to(count, -1),
        "half a count": set_to(count, 1.5),
        "a count of NaN": set_to(count, math.nan),
        "too large a count": set_to(count, 10**400),
        "a count in words": set_to(count, "3"),
        "a count of None": set_to(count, None),
        "arrays None": set_to(arrays, None),
        "arrays in a list": lambda s: s.update({arrays: list(s[arrays].values())}),
        "missing array": in_arrays(lambda a: a.pop("b")),
        "another array": in_arrays(lambda a: a.update(c=np.zeros(2))),
        "renamed array": in_arrays(lambda a: a.update(c=a.pop("b"))),
        "shape": in_arrays(lambda a: a.update(b=np.zeros(1))),
        "transposed": in_arrays(lambda a: a.update(b=np.zeros((3, 1)))),
        "float32": in_arrays(lambda a: a.update(b=np.zeros((1, 3), np.float32))),
        "integers": in_arrays(lambda a: a.update(b=np.zeros((1, 3), np.int64))),
        "other byte order": in_arrays(
            lambda a: a.update(b=np.zeros((1, 3), np.dtype(np.float64).newbyteorder()))
        ),
        "a list": in_arrays(lambda a: a.update(b=[[0.0, 0.0, 0.0]])),
        "None": in_arrays(lambda a: a.update(b=None)),
    }
