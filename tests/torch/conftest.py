"""What the tests of torch's side share."""

from __future__ import annotations

import pytest

import fusedstep as fs


@pytest.fixture(autouse=True)
def _threads(_restored_runtime: None) -> None:
    """One: further ones wait for work by spinning, on the core that another process of tests needs."""
    fs.set_num_threads(1)
