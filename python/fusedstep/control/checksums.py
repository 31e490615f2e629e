"""Checksums of a checkpoint, by which damage is seen before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zlib import crc32

import numpy as np

from ..arrays.memory import Array


def checksums(text: str, arrays: Mapping[str, Array]) -> dict[str, Any]:
    """The CRC-32 of a text, and of each array: of its dtype and shape as text, then of its bytes."""
    return {"state": _of_text(text), "tensors": {name: _of_array(array) for name, array in arrays.items()}}


def check(saved: Any, text: str, arrays: Mapping[str, Array]) -> None:
    """Raise ValueError, naming what is damaged, unless `saved` is what `checksums` returned for the same."""
    match saved:
        case {"state": str(of_text), "tensors": dict(of_arrays)}:
            if of_text != _of_text(text):
                raise ValueError("its state is not as it was written")
            for name, array in arrays.items():
                if of_arrays.get(name) != _of_array(array):
                    raise ValueError(f"tensor {name!r} is not as it was written")
            for name in of_arrays:
                if name not in arrays:
                    raise ValueError(f"tensor {name!r} is missing")
        case _:
            raise ValueError("its checksums are not as they were written")


def _of_text(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


def _of_array(array: Array) -> str:
    kind = crc32(f"{array.dtype.name} {list(array.shape)}".encode())
    return f"{crc32(array.reshape(-1).view(np.uint8).data, kind):08x}"
