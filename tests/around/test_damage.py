"""Checkpoints that are damaged, hostile, or no files at all: a clear error, and nothing has changed."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep.control import Checkpoint
from tests.helpers import saved
from tests.helpers.raw_files import Raw, write

st = pytest.importorskip("safetensors.numpy")


class Run:
    """An optimizer, a part of a user's own and a few figures, with a file of an earlier state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.w = {"w": np.arange(6.0).reshape(2, 3), ("b", 1): np.ones(4, np.float32), 2: np.zeros((0, 2))}
        self.opt = fs.AdamW(self.w, lr=fs.schedules.Plateau(0.1), ema=0.5)
        self.own: dict[str, Any] = {"x": np.arange(3), "y": np.arange(3) + 5, "n": 1}
        self.stopping = fs.control.EarlyStopping(self.w)
        self.rng = np.random.default_rng(1)
        parts: dict[str, Any] = {"opt": self.opt, "own": self, "stopping": self.stopping, "rng": self.rng}
        self.checkpoint = Checkpoint(path, **parts)
        self.advance()
        self.checkpoint.save(epoch=1, best=np.ones(2))
        self.then = self.state()
        self.advance()
        self.now = self.state()
        assert self.now != self.then

    def state_dict(self) -> Any:
        return self.own

    def load_state_dict(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise TypeError("own must be a mapping")
        self.own = state

    def advance(self) -> None:
        self.opt.step({name: np.ones_like(p) for name, p in self.w.items()})
        self.own = {**self.own, "x": self.own["x"] + 1, "n": self.own["n"] + 1}
        self.stopping.observe(1 / self.opt.t)
        self.rng.random()

    def state(self) -> str:
        """All of it, as text."""
        parts = [self.w, self.opt.state_dict(), self.own, self.stopping.state_dict()]
        return repr([*parts, self.rng.bit_generator.state])

    def error(self) -> str:
        """What loading says, in which case nothing has changed; nothing if it succeeds."""
        try:
            self.checkpoint.load()
        except (ValueError, TypeError) as error:
            message = str(error)
        else:
            return ""
        assert str(self.path) in message
        assert self.state() == self.now, message
        return message

    def assert_error(self, match: str = ".") -> str:
        """That loading is an error that says something."""
        message = self.error()
        assert re.search(match, message), message
        return message


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run.safetensors")


def test_the_run_does_go_back(run: Run) -> None:
    progress = run.checkpoint.load()
    assert progress is not None
    assert (progress["epoch"], progress["best"].tolist()) == (1, [1, 1])
    assert run.state() == run.then


def test_every_bit_of_every_tensor_is_checked(run: Run) -> None:
    """The error says which tensor, and what to do."""
    whole = run.path.read_bytes()
    raw = Raw.read(run.path)
    assert len(raw.tensors) > 10
    for name in raw.tensors:
        begin, end = (len(whole) - len(raw.data) + offset for offset in raw.span(name))
        for at in range(begin, end):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << (at % 8)
            run.path.write_bytes(damaged)
            message = run.assert_error(re.escape(repr(name)))
            assert "earlier copy" in message
            assert "delete it" in message


def test_all_before_the_data_is_checked(run: Run) -> None:
    """What is changed is an error, or means the same, such as another space; every seventh byte is tried."""
    whole = run.path.read_bytes()
    loaded = 0
    for at in range(0, len(whole) - len(Raw.read(run.path).data), 7):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        run.path.write_bytes(damaged)
        if not run.error():
            assert run.state() == run.then
            loaded += 1
            run.advance()
            assert run.state() == run.now
    assert loaded < 10


def test_tensors_that_have_changed_places_are_an_error(run: Run) -> None:
    raw = Raw.read(run.path)
    x, y = raw.header["own/x"], raw.header["own/y"]
    x["data_offsets"], y["data_offsets"] = y["data_offsets"], x["data_offsets"]
    raw.write(run.path)
    run.assert_error("'own/[xy]'")


@pytest.mark.parametrize("change", [{"dtype": "U64"}, {"dtype": "F64"}, {"shape": [3, 1]}, {"shape": [1, 3]}])
def test_another_dtype_or_shape_of_the_same_bytes_is_an_error(change: dict[str, Any], run: Run) -> None:
    raw = Raw.read(run.path)
    raw.header["own/x"].update(change)
    raw.write(run.path)
    run.assert_error("'own/x'")


def test_a_tensor_that_is_gone_is_an_error(run: Run) -> None:
    raw = Raw.read(run.path)
    last = max(raw.tensors, key=raw.span)
    raw.data = raw.data[: raw.span(last)[0]]
    del raw.header[last]
    raw.write(run.path)
    run.assert_error(re.escape(f"damaged: tensor {last!r} is missing"))


def test_a_changed_state_is_an_error(run: Run) -> None:
    raw = Raw.read(run.path)
    state = raw.state
    state["own"]["n"] = 9
    raw.metadata["state"] = json.dumps(state)
    raw.write(run.path)
    run.assert_error("state")


def test_the_checksums_are_as_documented(run: Run) -> None:
    raw = Raw.read(run.path)
    before = json.loads(raw.metadata["checksums"])
    raw.seal(raw.metadata["state"])
    assert json.loads(raw.metadata["checksums"]) == before
    assert len(before["tensors"]) == len(st.load_file(run.path)) == len(raw.tensors)


def test_bfloat16_has_checksums_too(tmp_path: Path) -> None:
    array = np.arange(4).astype(pytest.importorskip("ml_dtypes").bfloat16)
    checkpoint = Checkpoint(tmp_path / "run", a=array)
    checkpoint.save()
    assert checkpoint.load() == {}
    raw = Raw.read(tmp_path / "run")
    raw.data = raw.data[:-1] + b"\1"
    raw.write(tmp_path / "run")
    with pytest.raises(ValueError, match="'a'"):
        checkpoint.load()


@pytest.mark.parametrize(
    "checksums", [None, "", "{", "[]", "{}", "5", '{"state": 1}', '{"tensors": []}', "[" * 10**5]
)
def test_checksums_that_are_none_are_an_error(checksums: str | None, run: Run) -> None:
    raw = Raw.read(run.path)
    del raw.metadata["checksums"]
    if checksums is not None:
        raw.metadata["checksums"] = checksums
    raw.write(run.path)
    run.assert_error("damaged")


def test_files_of_version_0_1_0_have_no_checksums_and_load() -> None:
    raw = Raw.read(saved.file("Adam", 0))
    assert sorted(raw.metadata) == ["format", "state"]
    opt = saved.optimizer("Adam", saved.weights("Adam"))
    assert Checkpoint(saved.file("Adam", 0), optimizer=opt).load() == {}
    assert opt.t == saved.HALF


@pytest.mark.parametrize("format_", ["fusedstep 3", "fusedstep 20", "pt", ""])
def test_another_format_is_an_error_that_says_so(format_: str, run: Run) -> None:
    raw = Raw.read(run.path)
    raw.metadata["format"] = format_
    raw.write(run.path)
    run.assert_error(f"format is '{format_}'")


DEEP = 900


@pytest.mark.parametrize("levels", [DEEP, 10**5])
@pytest.mark.parametrize("around", ["list", "mapping", "tuple", "pairs", "array", "nan"])
def test_a_state_that_is_nested_too_deeply_is_an_error(around: str, levels: int, run: Run) -> None:
    before, after = {
        "list": ("[", "]"),
        "mapping": ('{"a": ', "}"),
        "tuple": ('{"$tuple": [', "]}"),
        "pairs": ('{"$pairs": [[1, ', "]]}"),
        "array": ('{"$array": ', "}"),
        "nan": ('{"$nan": ', "}"),
    }[around]
    raw = Raw.read(run.path)
    others = raw.metadata["state"][:-1]
    for text in (before * levels + "1" + after * levels, before * levels):
        for state in (text, f'{others}, "more": {text}}}'):
            raw.seal(state)
            raw.write(run.path)
            run.assert_error()


@pytest.mark.parametrize("levels", [DEEP, 10**5])
def test_a_header_that_is_nested_too_deeply_is_an_error(levels: int, run: Run) -> None:
    deep = "[" * levels + "]" * levels
    entry = f'{{"x": {{"dtype": "F32", "shape": [0], "data_offsets": [0, 0], "more": {deep}}}}}'
    for header in (deep, f'{{"__metadata__": {deep}}}', f'{{"__metadata__": {{"a": {deep}}}}}', entry):
        write(run.path, header.encode())
        run.assert_error()


def nested(levels: int, kind: str) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = {"list": [found], "mapping": {"a": found}, "tuple": (found,), "pairs": {1: found}}[kind]
    return found


@pytest.mark.parametrize("kind", ["list", "mapping", "tuple", "pairs"])
def test_what_is_nested_too_deeply_is_not_saved(kind: str, run: Run) -> None:
    """And what can be saved can be loaded."""
    before = run.path.read_bytes()
    for levels in (120, DEEP, 10**4):
        with pytest.raises(ValueError, match="nested"):
            run.checkpoint.save(deep=nested(levels, kind))
        run.own["deep"] = nested(levels, kind)
        with pytest.raises(ValueError, match="nested"):
            run.checkpoint.save()
        assert run.path.read_bytes() == before
    del run.own["deep"]
    run.checkpoint.save(deep=nested(90, kind))
    progress = run.checkpoint.load()
    assert progress is not None
    assert progress["deep"] == nested(90, kind)


def test_what_contains_itself_is_not_saved(run: Run) -> None:
    before = run.path.read_bytes()
    circle: list[Any] = []
    circle.append({"again": circle})
    with pytest.raises(ValueError, match="nested"):
        run.checkpoint.save(circle=circle)
    run.own["circle"] = circle
    with pytest.raises(ValueError, match="nested"):
        run.checkpoint.save()
    assert run.path.read_bytes() == before


def test_arrays_at_the_deepest_level_come_back(run: Run) -> None:
    for found, levels in (({"a": np.arange(2)}, 97), ((np.arange(2),), 97), ([float("nan")], 97)):
        deep: Any = found
        for _ in range(levels):
            deep = [deep]
        run.checkpoint.save(deep=deep)
        progress = run.checkpoint.load()
        assert progress is not None
        assert repr(progress["deep"]) == repr(deep)


def test_an_integer_of_too_many_digits_is_not_saved(run: Run) -> None:
    before = run.path.read_bytes()
    with pytest.raises(ValueError, match="digits"):
        run.checkpoint.save(large=1 << 20_000)
    assert run.path.read_bytes() == before


@pytest.mark.parametrize("name", ["\ud800", "a\udfff", "\0", "é\n", "😀"])
def test_any_text_can_be_the_name_of_an_array(name: str, run: Run) -> None:
    own = {"x": run.own["x"], "y": run.own["y"], "n": 1, name: np.arange(2)}
    run.own = own
    run.checkpoint.save(**{name: np.arange(3)}, text=name)
    progress = run.checkpoint.load()
    assert progress is not None
    assert (progress[name].tolist(), progress["text"]) == ([0, 1, 2], name)
    assert repr(run.own) == repr(own)


@pytest.mark.parametrize(
    "bits", ["7ff8000000000000", "fff8000000000000", "7ff8000000000123", "ffffffffffffffff"]
)
def test_nan_comes_back_with_its_bits(bits: str, run: Run) -> None:
    number = np.frombuffer(bytes.fromhex(bits), ">f8").astype(float).item()
    run.checkpoint.save(nan=number, of_numpy=np.float64(number), key={number: 1})
    progress = run.checkpoint.load()
    assert progress is not None
    (key,) = progress["key"]
    for found in (progress["nan"], progress["of_numpy"], key):
        assert np.float64(found).view(np.uint64) == int(bits, 16)


Change = Callable[[dict[str, Any]], Any]


def put(*path: Any, value: Any) -> Change:
    """What sets a value at a place of the state."""

    def change(state: dict[str, Any]) -> None:
        found: Any = state
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


GROUP = ("opt", "groups", 0)
NUMBERS = [10**400, -1, 1.5, float("nan"), float("inf"), "3", None, True, [], {}, {"$array": "own/x"}]
PLACES: list[tuple[Any, ...]] = [
    ("opt",),
    ("opt", "t"),
    ("opt", "rule"),
    ("opt", "row_steps"),
    ("opt", "groups"),
    GROUP,
    *((*GROUP, name) for name in ("params", "hyperparameters", "scalars", "schedules", "more")),
    *((*GROUP, "hyperparameters", name) for name in ("beta1", "amsgrad", "ema", "params", "more")),
    (*GROUP, "schedules", "lr"),
    (*GROUP, "schedules", "lr", "best"),
    (*GROUP, "schedules", "lr", "stalled"),
    (*GROUP, "scalars", "more"),
    ("own",),
    ("stopping",),
    ("stopping", "stalled"),
    ("rng",),
    ("rng", "state"),
    ("rng", "state", "state"),
    ("rng", "bit_generator"),
    ("rng", "has_uint32"),
    ("progress",),
    ("more",),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: "/".join(map(str, place)))
def test_a_state_of_the_wrong_kind_is_an_error_or_right(place: tuple[Any, ...], run: Run) -> None:
    """Right where any number would do, or nothing."""
    for value in NUMBERS:
        raw = Raw.read(run.path)
        state = raw.state
        put(*place, value=value)(state)
        raw.seal(state)
        whole = run.path.read_bytes()
        raw.write(run.path)
        assert run.error() or isinstance(value, float | int | None) or value == {}, value
        run.path.write_bytes(whole)
        run.checkpoint.load()
        assert run.state() == run.then
        run.advance()


REFUSED: dict[str, str] = {
    "two keys that are the same": '{"progress": {}, "progress": {"epoch": 2}}',
    "two numbers that are the same": '{"progress": {"$pairs": [[1, 2], [1, 3]]}}',
    "a list as a key": '{"progress": {"$pairs": [[[1], 2]]}}',
    "a key without a value": '{"progress": {"$pairs": [[1]]}}',
    "text as pairs": '{"progress": {"$pairs": "ab"}}',
    "text as a pair": '{"progress": {"$pairs": ["ab"]}}',
    "text as a tuple": '{"progress": {"t": {"$tuple": "ab"}}}',
    "a tensor that is not there": '{"progress": {"a": {"$array": "none"}}}',
    "a tensor without a name": '{"progress": {"a": {"$array": 5}}}',
    "a tensor in a list": '{"progress": {"a": {"$array": ["own/x"]}}}',
    "more than a tensor": '{"progress": {"a": {"$array": "own/x", "b": 1}}}',
    "something else": '{"progress": {"a": {"$more": 1}}}',
    "a number that is no NaN": '{"progress": {"a": {"$nan": "3ff0000000000000"}}}',
    "a short NaN": '{"progress": {"a": {"$nan": "7f"}}}',
    "a NaN in words": '{"progress": {"a": {"$nan": "not a number"}}}',
    "progress in a list": '{"progress": []}',
    "no progress": "{}",
    "a number of too many digits": '{"progress": {"n": ' + "1" * 5000 + "}}",
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("format_", ["fusedstep 1", "fusedstep 2"])
def test_what_cannot_have_been_saved_is_an_error(what: str, format_: str, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "run", x=np.zeros(2))
    checkpoint.save()
    raw = Raw.read(tmp_path / "run")
    state = (
        REFUSED[what][:-1] + ', "x": {"$array": "x"}}' if what != "no progress" else '{"x": {"$array": "x"}}'
    )
    raw.seal(state)
    raw.metadata["format"] = format_
    raw.write(tmp_path / "run")
    with pytest.raises(ValueError, match="run is no checkpoint"):
        checkpoint.load()


def test_a_tensor_that_is_named_twice_or_never_is_an_error(run: Run) -> None:
    raw = Raw.read(run.path)
    state = raw.state
    state["own"]["y"] = state["own"]["x"]
    raw.seal(state)
    raw.write(run.path)
    run.assert_error("'own/x'")
    state["own"]["y"] = 5
    state["own"]["x"] = 5
    raw.seal(state)
    raw.write(run.path)
    run.assert_error("'own/x'")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F4", "none", 5])
def test_a_dtype_that_numpy_lacks_is_an_error(dtype: Any, run: Run) -> None:
    raw = Raw.read(run.path)
    raw.header["more"] = {"dtype": dtype, "shape": [2], "data_offsets": [len(raw.data), len(raw.data) + 2]}
    raw.data += b"\0" * 2
    raw.seal(raw.state)
    raw.write(run.path)
    run.assert_error()


@pytest.mark.parametrize("shape", [[0] * 70, [0, 2**62, 2**62], [-1], [1.5], "ab", [2**70]])
def test_a_shape_that_numpy_lacks_is_an_error(shape: Any, run: Run) -> None:
    raw = Raw.read(run.path)
    raw.header["more"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(raw.data), len(raw.data)]}
    raw.seal(raw.state)
    raw.write(run.path)
    run.assert_error()


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, x=np.zeros(2))
    for do in (checkpoint.load, checkpoint.start):
        with pytest.raises(ValueError, match=re.escape(str(tmp_path))):
            do()
    with pytest.raises(OSError, match=r"."):
        checkpoint.save()
    assert not list(tmp_path.iterdir())
    assert [each for each in tmp_path.parent.iterdir() if each.name.endswith(".partial")] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="as POSIX has them")
def test_what_is_no_file_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, on which one would wait, and what has no end."""
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for path in ("pipe", "socket", "/dev/zero"):
            with pytest.raises(ValueError, match=path):
                Checkpoint(path, x=np.zeros(2)).load()


@pytest.mark.parametrize(
    "position", [-1, -(10**9), 625, 10**8, 10**9, 10**12, 10**400, "1", None, [], {}, 0.5]
)
@pytest.mark.parametrize("kind", ["MT19937", "Philox"])
def test_a_position_outside_of_a_generators_block_is_an_error(
    kind: str, position: Any, tmp_path: Path
) -> None:
    """NumPy would read whatever is there in memory, or end the process."""
    rng = np.random.Generator(getattr(np.random, kind)(1))
    rng.random(3)
    checkpoint = Checkpoint(tmp_path / "run", rng=rng)
    checkpoint.save()
    raw = Raw.read(tmp_path / "run")
    state = raw.state
    holder, name = (state["rng"]["state"], "pos") if kind == "MT19937" else (state["rng"], "buffer_pos")
    assert name in holder
    holder[name] = position
    raw.seal(state)
    raw.write(tmp_path / "run")
    before = repr(rng.bit_generator.state)
    with pytest.raises((ValueError, TypeError), match="rng"):
        checkpoint.load()
    assert repr(rng.bit_generator.state) == before


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
@pytest.mark.parametrize("state", [None, 5, "x", [], {}, {"state": 5}, {"state": {}}, {"state": []}])
def test_a_state_that_is_no_generators_is_an_error(kind: str, state: Any, tmp_path: Path) -> None:
    rng = np.random.Generator(getattr(np.random, kind)(1))
    before = repr(rng.bit_generator.state)
    checkpoint = Checkpoint(tmp_path / "run", rng=rng)
    checkpoint.save()
    raw = Raw.read(tmp_path / "run")
    raw.header = {"__metadata__": raw.metadata}
    raw.data = b""
    found = {"bit_generator": kind, **state} if isinstance(state, dict) else state
    raw.seal({"rng": found, "progress": {}})
    raw.write(tmp_path / "run")
    with pytest.raises((ValueError, TypeError), match="rng"):
        checkpoint.load()
    assert repr(rng.bit_generator.state) == before
