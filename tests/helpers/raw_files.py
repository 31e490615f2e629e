"""The bytes of a safetensors file: its header and its data, to be changed and put together again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32


@dataclass
class Raw:
    """A file in its parts: 8 bytes with the length of the header, the header, and the data."""

    header: dict[str, Any]
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Raw:
        """Take a file apart."""
        whole = path.read_bytes()
        length = int.from_bytes(whole[:8], "little")
        return cls(json.loads(whole[8 : 8 + length]), whole[8 + length :])

    def write(self, path: Path) -> None:
        """Put it together again."""
        write(path, json.dumps(self.header).encode(), self.data)

    @property
    def metadata(self) -> dict[str, Any]:
        """What is text in the header."""
        found: dict[str, Any] = self.header["__metadata__"]
        return found

    @property
    def tensors(self) -> list[str]:
        """The names of the tensors."""
        return [name for name in self.header if name != "__metadata__"]

    @property
    def state(self) -> Any:
        """The state of a checkpoint, as its JSON has it."""
        return json.loads(self.metadata["state"])

    def span(self, name: str) -> tuple[int, int]:
        """Where in the data a tensor is."""
        begin, end = self.header[name]["data_offsets"]
        return begin, end

    def seal(self, state: Any) -> None:
        """Have another state, as JSON or as text that may be none, with the checksums for all there is."""
        text = state if isinstance(state, str) else json.dumps(state)
        tensors = {name: self.checksum(name) for name in self.tensors}
        checksums = {"state": f"{crc32(text.encode()):08x}", "tensors": tensors}
        self.metadata.update(state=text, checksums=json.dumps(checksums))

    def checksum(self, name: str) -> str:
        """The checksum of a tensor: of its dtype and shape, as NumPy writes them, and of its bytes."""
        entry, (begin, end) = self.header[name], self.span(name)
        kind = f"{DTYPES.get(entry['dtype'], entry['dtype'])} {entry['shape']}"
        return f"{crc32(kind.encode() + self.data[begin:end]):08x}"


DTYPES = {"BOOL": "bool", "BF16": "bfloat16", "C64": "complex64"}
DTYPES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
DTYPES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)}
DTYPES |= {f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)}
"""The dtypes of safetensors, by their names there."""


def write(path: Path, header: bytes, data: bytes = b"") -> None:
    """Write a file with any header."""
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
