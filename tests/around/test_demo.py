"""The demo as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fusedstep as fs

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("tqdm")


def demo(directory: Path, epochs: int, **environment: str) -> str:
    """What it prints."""
    return subprocess.run(
        [sys.executable, "-m", "fusedstep.demo", "--epochs", str(epochs)],
        cwd=directory,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


def test_demo(tmp_path: Path) -> None:
    """A row for every rule: it learns, and both backends end in the same weights."""
    output = demo(tmp_path, 3)
    for rule in fs.rules:
        row = re.search(rf"^{rule} +(\S+) +(\S+)% .*x  (\w+)$", output, re.MULTILINE)
        assert row, output
        loss, accuracy, same = row.groups()
        assert float(loss) < 2.3  # chance is ln 10
        assert float(accuracy) > 30
        assert same == "yes"
    assert (tmp_path / "fusedstep-demo.png").read_bytes().startswith(b"\x89PNG")


def test_same_weights_everywhere(tmp_path: Path) -> None:
    """Instruction set and threads do not show in the hash of the trained weights."""
    hashes = set()
    for threads, isa in enumerate(fs.info()["isas"], start=1):
        output = demo(tmp_path, 1, FUSEDSTEP_ISA=isa, FUSEDSTEP_NUM_THREADS=str(threads))
        assert f"{isa}, {threads} threads" in output
        hashes.add(re.findall(r"sha256 (\w{64})", output)[0])
    assert len(hashes) == 1
