"""The demo as a user runs it."""

from __future__ import annotations

import hashlib
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

from threadpoolctl import threadpool_limits

from fusedstep import demo

ISAS = fs.info()["isas"]


def trained(epochs: int) -> str:
    """The hash of the native weights of every rule, trained in this process."""
    data = demo.digits()
    with threadpool_limits(1):
        runs = [demo.train(data, rule, "native", epochs, lambda: None) for rule in fs.rules]
    return hashlib.sha256(b"".join(run.weights for run in runs)).hexdigest()


def test_demo(tmp_path: Path) -> None:
    """A row for every rule: it learns, and both backends end in the same weights, as they do here."""
    output = subprocess.run(
        [sys.executable, "-m", "fusedstep.demo", "--epochs", "3"],
        cwd=tmp_path,
        env=os.environ | {"FUSEDSTEP_ISA": ISAS[0], "FUSEDSTEP_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    for rule in fs.rules:
        row = re.search(rf"^{rule} +(\S+) +(\S+)% .*x  (\w+)$", output, re.MULTILINE)
        assert row, output
        loss, accuracy, same = row.groups()
        assert float(loss) < 2.3  # chance is ln 10
        assert float(accuracy) > 30
        assert same == "yes"
    assert f"{ISAS[0]}, 3 threads" in output
    assert re.findall(r"sha256 (\w{64})", output) == [trained(3)]
    assert (tmp_path / "fusedstep-demo.png").read_bytes().startswith(b"\x89PNG")


def test_same_weights_everywhere() -> None:
    """Instruction set and threads do not show in the hash of the trained weights."""
    hashes = set()
    for threads, isa in enumerate(ISAS, start=1):
        fs.use_isa(isa)
        fs.set_num_threads(threads)
        hashes.add(trained(3))
    assert len(hashes) == 1
