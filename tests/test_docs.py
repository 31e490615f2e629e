"""Every Python block of the documentation runs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.source
def test_the_rule_that_is_shown_is_the_rule() -> None:
    """The places that adding a rule touches, word by word."""
    page = (ROOT / "CONTRIBUTING.md").read_text()
    blocks = re.findall(r"^```(?:cpp|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    places = ["cpp/rules/moments.hpp", "cpp/rules.hpp", "python/fusedstep/update_rules/moments.py"]
    for block, place in zip(blocks, places, strict=True):
        assert block in (ROOT / place).read_text()


@pytest.mark.source
def test_python_blocks() -> None:
    """The blocks of the README share their names, as a reader's session would; torch's need torch."""
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        if "import torch" in block and find_spec("torch") is None:
            continue
        exec(compile(block, "README.md", "exec", dont_inherit=True), namespace)
