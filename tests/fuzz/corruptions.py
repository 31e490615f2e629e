"""What can become of a checkpoint's file: ``change(rng, path)`` for each kind of damage and malice.

Those in `DAMAGES` cannot be mistaken for another state. Those in `FORGERIES` may be one, with checksums that
are right or of version 0.1.0, which had none.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.raw_files import DTYPES, Raw, write

Change = Callable[[random.Random, Path], None]

HOSTILE: list[str] = [
    *("null", "true", "-1", "1.5", "1e999", "-1e999", "NaN", "Infinity", '"text"', '"\\ud800"', "[]", "{}"),
    *("1000000000", "1e308", "4294967296", "18446744073709551616", "9" * 400, "9" * 5000, "-" + "9" * 30),
    *("[[1]]", '{"a": 1}', '{"a": 1, "a": 2}', "{", "", '"' + "x" * 100_000 + '"'),
    *("[" * 200 + "]" * 200, "[" * 5000 + "]" * 5000, '{"a":' * 900 + "1" + "}" * 900, "[" * 100_000),
    *('{"$array": "none"}', '{"$array": 5}', '{"$array": {}}', '{"$array": "opt/t", "b": 1}', '{"$more": 1}'),
    *('{"$tuple": 5}', '{"$tuple": [[1]]}', '{"$pairs": [[1, 2], [1, 3]]}', '{"$pairs": [[[], 2]]}'),
    *('{"$pairs": ["ab"]}', '{"$nan": "fff8000000000000"}', '{"$nan": "0"}', '{"$nan": "zz"}'),
    *('{"$pairs": {}}', '{"$tuple": []}'),
]
"""Values in the place of others, as JSON or nearly so."""

SIZES = [0, 1, 7, 8, 100_000_000, 100_000_001, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def regions(path: Path) -> dict[str, tuple[int, int]]:
    """The length, the header, its metadata, the state within, the checksums, and the data; none is empty."""
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    found = {"length": (0, 8), "header": (8, end), "data": (end, len(whole))}
    for key in ("state", "checksums", "format"):
        if text := re.search(rf'"{key}":\s*"(([^"\\]|\\.)*)"'.encode(), whole):
            found[key] = text.span(1)
    return {name: (begin, stop) for name, (begin, stop) in found.items() if begin < stop}


def flip(rng: random.Random, path: Path) -> None:
    """A few bits, in one region."""
    whole = bytearray(path.read_bytes())
    begin, end = rng.choice(list(regions(path).values()))
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        whole[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    path.write_bytes(whole)


def overwrite(rng: random.Random, path: Path) -> None:
    """A run of bytes, by others of a disk."""
    whole = bytearray(path.read_bytes())
    begin, end = rng.choice(list(regions(path).values()))
    at, length = rng.randrange(begin, end), rng.choice([1, 4, 16, 512, 4096])
    length = min(length, len(whole) - at)
    whole[at : at + length] = rng.choice([bytes(length), b"\xff" * length, rng.randbytes(length)])
    path.write_bytes(whole)


def cut(rng: random.Random, path: Path) -> None:
    """The end, from any kind of place."""
    whole = path.read_bytes()
    ends = [end + shift for _, end in regions(path).values() for shift in (-1, 0, 1)]
    raw = Raw.read(path)
    ends += [len(whole) - len(raw.data) + raw.span(name)[0] for name in raw.tensors]
    path.write_bytes(whole[: rng.choice([rng.choice(ends), rng.randrange(len(whole))])])


def append(rng: random.Random, path: Path) -> None:
    """More bytes than there should be."""
    whole = path.read_bytes()
    path.write_bytes(whole + rng.choice([b"\0", b"\n", rng.randbytes(9), bytes(4096), whole]))


def shift(rng: random.Random, path: Path) -> None:
    """Bytes in the middle, gone or added."""
    whole = path.read_bytes()
    at, length = rng.randrange(len(whole)), rng.choice([1, 8, 64])
    path.write_bytes(rng.choice([whole[:at] + whole[at + length :], whole[:at] + bytes(length) + whole[at:]]))


def length(rng: random.Random, path: Path) -> None:
    """Another length of the header."""
    whole = path.read_bytes()
    size = rng.choice(
        [rng.choice(SIZES), int.from_bytes(whole[:8], "little") + rng.randrange(-9, 9), len(whole)]
    )
    path.write_bytes(max(0, size).to_bytes(8, "little") + whole[8:])


def swap(rng: random.Random, path: Path) -> None:
    """Two tensors in each other's place: all that the header says of them, or their places in the data."""
    raw = Raw.read(path)
    one, other = (raw.header[name] for name in rng.sample(raw.tensors, 2))
    keys = rng.choice(
        [["data_offsets"], ["data_offsets", "shape"], ["data_offsets", "shape", "dtype"], ["shape"]]
    )
    for key in keys:
        one[key], other[key] = other[key], one[key]
    raw.write(path)


def entry(rng: random.Random, path: Path) -> None:
    """Another dtype, shape or place of a tensor."""
    raw = Raw.read(path)
    found = raw.header[rng.choice(raw.tensors)]
    key = rng.choice(["dtype", "shape", "data_offsets"])
    found[key] = rng.choice(
        {
            "dtype": [*DTYPES, "F8_E4M3", "F4", "", 5],
            "shape": [
                [],
                [0],
                [-1],
                [2**62, 2**62],
                [0, 2**62, 2**62],
                [1] * 70,
                found["shape"][::-1],
                "ab",
                None,
            ],
            "data_offsets": [
                [0, 0],
                [0, rng.choice(SIZES)],
                [rng.choice(SIZES), rng.choice(SIZES)],
                [-1, 0],
                [],
            ],
        }[key]
    )
    raw.write(path)


def rename(rng: random.Random, path: Path) -> None:
    """A tensor by another name, one more, one less, or one twice."""
    raw = Raw.read(path)
    name = rng.choice(raw.tensors)
    how = rng.choice(["rename", "more", "less", "twice"])
    if how == "twice":
        text = json.dumps(raw.header)
        write(path, f"{text[:-1]}, {json.dumps(name)}: {json.dumps(raw.header[name])}}}".encode(), raw.data)
        return
    if how == "more":
        raw.header["more"] = {"dtype": "U8", "shape": [3], "data_offsets": [len(raw.data), len(raw.data) + 3]}
        raw.data += b"abc"
    else:
        found = raw.header.pop(name)
        if how == "rename":
            raw.header[rng.choice(["", "more", name + "/"])] = found
    raw.write(path)


def metadata(rng: random.Random, path: Path) -> None:
    """Texts of the header, gone or others, without the checksums for them."""
    raw = Raw.read(path)
    key = rng.choice(["state", "checksums", "format"])
    if rng.random() < 0.3:
        del raw.metadata[key]
    else:
        raw.metadata[key] = rng.choice([*HOSTILE, "fusedstep 3", 5, None, {"a": []}, "[" * 900 + "]" * 900])
    raw.write(path)


def header(rng: random.Random, path: Path) -> None:
    """Any JSON in the place of the header, or in that of the metadata."""
    text = rng.choice(HOSTILE)
    around = rng.choice(["%s", '{"__metadata__": %s}', '{"__metadata__": {"state": %s}}', '{"x": %s}'])
    write(path, (around % text).encode(), rng.randbytes(rng.randrange(9)))


def other_file(rng: random.Random, path: Path) -> None:
    """What is no checkpoint."""
    path.write_bytes(
        rng.choice(
            [b"", b"\0", bytes(8), bytes(4096), b"PK\3\4" + bytes(99), b"text\n" * 99, rng.randbytes(999)]
        )
    )


def other_kind(rng: random.Random, path: Path) -> None:
    """A file of arrays in another format, or of another program."""
    if rng.random() < 0.5:
        with path.open("wb") as file:
            np.savez(file, w=np.ones(3))
    else:
        names = {name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]} for name in ("w", "b")}
        write(path, json.dumps(rng.choice([names, {"__metadata__": {"format": "pt"}, **names}])).encode())


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the parts of a nested state are."""
    items = found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else ()
    return [path, *(place for key, item in items for place in places(item, (*path, key)))]


MARK = "the value that is to be another"


def forge(rng: random.Random, path: Path) -> None:
    """Another state: values in the place of others, keys gone, renamed or twice, or other checksums."""
    raw = Raw.read(path)
    state = raw.state
    for _ in range(rng.choice([1, 1, 2])):
        *way, last = rng.choice(places(state)[1:])
        holder = state
        for key in way:
            holder = holder[key]
        how = rng.choice(["hostile", "hostile", "gone", "renamed", "another"])
        if how == "hostile":
            holder[last] = MARK
        elif how == "gone" or isinstance(holder, list):
            del holder[last]
        elif how == "renamed":
            holder[rng.choice(["", "more", "params", "$array", "t"])] = holder.pop(last)
        else:
            holder["params"] = holder[last]
    text = json.dumps(state)
    while f'"{MARK}"' in text:
        text = text.replace(f'"{MARK}"', rng.choice(HOSTILE), 1)
    raw.seal(text)
    if rng.random() < 0.3:
        raw.metadata["format"] = "fusedstep 1"
        del raw.metadata["checksums"]
    raw.write(path)


def forge_tensor(rng: random.Random, path: Path) -> None:
    """Other numbers in the tensors, with the checksums for them."""
    raw = Raw.read(path)
    data = bytearray(raw.data)
    for _ in range(9):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    raw.data = bytes(data)
    raw.seal(raw.metadata["state"])
    raw.write(path)


DAMAGES: list[Change] = [
    *(flip, flip, flip, overwrite, cut, append, shift, length, swap),
    *(entry, rename, metadata, header, other_file, other_kind),
]
FORGERIES: list[Change] = [forge, forge, forge, forge_tensor]
