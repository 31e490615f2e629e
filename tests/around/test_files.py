"""Files that are replaced as a whole: by several at once, after a kill, and with the permissions they had."""

from __future__ import annotations

import functools
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusedstep.control import Checkpoint, files, owner

pytest.importorskip("safetensors")

posix = pytest.mark.skipif(os.name != "posix", reason="permissions as POSIX has them")
linux = pytest.mark.skipif(sys.platform != "linux", reason="where a process is known by its start")

SAVE = """
import sys
from pathlib import Path
from fusedstep.control import files
path, times = Path(sys.argv[1]), int(sys.argv[2])
for i in range(times):
    files.replace(path, b"another" * 20_000)
"""

MARK = "from fusedstep.control import owner; print(owner.mark(), flush=True)"


def save_elsewhere(path: Path, times: int = 1) -> subprocess.Popen[bytes]:
    """A process that replaces a file."""
    return subprocess.Popen([sys.executable, "-c", SAVE, str(path), str(times)])


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@pytest.fixture
def before_flush(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], Any]], None]]:
    """What has something done once, when the next content is written and not yet on the disk."""
    waiting: list[Callable[[], Any]] = []
    real = os.fsync

    def flush(descriptor: int) -> None:
        while waiting:
            waiting.pop()()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    yield waiting.append
    assert not waiting


@pytest.mark.parametrize("other", ["run", "run.ema", "r", "run.partial"])
def test_a_save_leaves_what_another_is_writing(other: str, tmp_path: Path, before_flush: Any) -> None:
    """Another thread, say."""
    before_flush(lambda: files.replace(tmp_path / other, b"second"))
    files.replace(tmp_path / "run", b"first")
    assert (tmp_path / "run").read_bytes() == b"first"
    assert names(tmp_path) == sorted({"run", other})
    before_flush(lambda: files.replace(tmp_path / "run", b"second"))
    files.replace(tmp_path / other, b"first")
    assert (tmp_path / other).read_bytes() == b"first"
    assert names(tmp_path) == sorted({"run", other})


@pytest.mark.parametrize("other", ["run", "run.ema"])
def test_a_save_leaves_what_another_process_is_writing(other: str, tmp_path: Path, before_flush: Any) -> None:
    before_flush(lambda: save_elsewhere(tmp_path / other).wait())
    files.replace(tmp_path / "run", b"first")
    assert (tmp_path / "run").read_bytes() == b"first"
    assert names(tmp_path) == sorted({"run", other})


def test_processes_and_threads_that_save_one_path_all_succeed(tmp_path: Path) -> None:
    path, failed = tmp_path / "run", []

    def save(number: int) -> None:
        try:
            checkpoint = Checkpoint(path, a=np.full(1 << 12, number))
            for _ in range(30):
                checkpoint.save(number=number)
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=save, args=(number,)) for number in range(3)]
    processes = [save_elsewhere(tmp_path / name, 30) for name in ("run", "run.ema")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if os.name == "posix":  # elsewhere a file cannot be replaced while another replaces it
        assert [process.wait() for process in processes] == [0, 0]
        assert not failed
    assert names(tmp_path) == ["run", "run.ema"]
    Checkpoint(path, a=np.zeros(1 << 12, int)).save(number=4)
    found = np.zeros(1 << 12, int)
    assert Checkpoint(path, a=found).load() == {"number": 4}


@functools.cache
def ended() -> str:
    """The mark of a process that has ended."""
    return subprocess.check_output([sys.executable, "-c", MARK], text=True).strip()


def left_by(mark: str, path: Path) -> Path:
    """A file that a process left."""
    left = path.with_name(f"{path.name}.{mark}-0123abcd.partial")
    left.write_bytes(b"torn")
    return left


def test_what_a_process_left_that_has_ended_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    left_by(ended(), path)
    files.replace(path, b"whole")
    assert names(tmp_path) == ["run"]
    assert path.read_bytes() == b"whole"


def test_the_name_of_a_partial_file_is_that_which_is_recognized(tmp_path: Path, before_flush: Any) -> None:
    """Or nothing would ever be removed."""
    found: list[str] = []
    before_flush(lambda: found.extend(names(tmp_path)))
    files.replace(tmp_path / "run", b"whole")
    (name,) = found
    left = left_by(owner.mark(), tmp_path / "run").name
    assert re.sub("-[0-9a-f]{8}.partial", "", name) == re.sub("-[0-9a-f]{8}.partial", "", left)
    assert str(os.getpid()) in name.split("-")


def other_machine(mark: str) -> str:
    machine, rest = mark.split("-", 1)
    return f"{int(machine, 16) ^ 1:08x}-{rest}"


def test_what_may_still_be_written_stays(tmp_path: Path) -> None:
    """By a process that runs, on another machine, or of a name that says nothing of a process."""
    path = tmp_path / "run"
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from fusedstep.control import owner; print(owner.mark(), flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stdin
        runs = process.stdout.readline().strip()
        of_process = left_by(runs, path).name
        left = {of_process, *(left_by(mark, path).name for mark in (owner.mark(), other_machine(ended())))}
        for name in (
            "run.partial",
            "run.0123abcd.partial",
            "run.keep",
            f"run.{ended()}.partial",
            f"run.{ended()}-0123abcd.partial.old",
        ):
            (tmp_path / name).touch()
            left.add(name)
        left.add(left_by(ended(), tmp_path / "run.ema").name)  # this is for those who save run.ema
        files.replace(path, b"whole")
        assert set(names(tmp_path)) == left | {"run"}
        process.stdin.close()
        process.wait()
        files.replace(path, b"whole")
        assert set(names(tmp_path)) == left - {of_process} | {"run"}


@linux
def test_a_number_that_another_process_has_now_is_not_taken_for_the_owner() -> None:
    machine, pid, started = owner.mark().split("-")
    assert int(started) > 0
    assert not owner.has_ended(owner.mark())
    assert owner.has_ended(f"{machine}-{pid}-{int(started) - 1}")
    assert not owner.has_ended(f"{machine}-{pid}-0")  # by a system that did not say when


@posix
def test_a_process_of_another_user_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert not owner.has_ended(owner.mark())


def test_a_process_has_a_mark_of_its_own() -> None:
    assert ended() != owner.mark() == owner.mark()
    assert [owner.has_ended(mark) for mark in (ended(), owner.mark())] == [True, False]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o400, 0o777])
def test_the_partial_file_has_the_permissions_of_the_file(
    mode: int, tmp_path: Path, before_flush: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    path.touch()
    path.chmod(mode)
    seen: list[int] = []
    real = os.open

    def look() -> None:
        (partial,) = (each for each in tmp_path.iterdir() if each != path)
        seen.append(stat.S_IMODE(partial.stat().st_mode))

    def watched(*arguments: Any) -> int:
        descriptor = real(*arguments)
        if path.read_bytes() == b"":
            look()
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    before_flush(look)
    files.replace(path, b"secret")
    created, written = seen
    assert created & ~mode == 0
    assert written == mode
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"secret"


@posix
def test_a_new_file_has_the_permissions_of_any_from_the_beginning(tmp_path: Path, before_flush: Any) -> None:
    (tmp_path / "plain").touch()
    seen: list[int] = []
    before_flush(lambda: seen.extend(each.stat().st_mode for each in tmp_path.iterdir()))
    files.replace(tmp_path / "run", b"whole")
    assert len(seen) == 2
    assert set(seen) == {(tmp_path / "plain").stat().st_mode} == {(tmp_path / "run").stat().st_mode}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may give files away")
def test_the_file_keeps_its_group(tmp_path: Path, before_flush: Any) -> None:
    """Whom the permissions of the group are for."""
    path = tmp_path / "run"
    path.touch()
    os.chown(path, -1, 12)
    path.chmod(0o640)
    seen: list[int] = []
    before_flush(lambda: seen.extend(each.stat().st_gid for each in tmp_path.iterdir()))
    files.replace(path, b"whole")
    assert seen == [12, 12]
    assert path.stat().st_gid == 12


@posix
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "run", tmp_path / "link"
    link.symlink_to(target)
    for content in (b"first", b"second"):
        files.replace(link, content)
        assert link.is_symlink()
        assert target.read_bytes() == content
    assert names(tmp_path / "there") == ["run"]
    link.unlink()
    link.symlink_to("link")  # to itself, so that there is no file to replace
    files.replace(link, b"third")
    assert link.read_bytes() == b"third"


def test_what_cannot_be_replaced_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    before = names(tmp_path)
    for name in ("folder", "file/below", "none/below"):
        with pytest.raises(OSError, match=r"."):
            files.replace(tmp_path / name, b"whole")
        assert names(tmp_path) == before
