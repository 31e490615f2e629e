"""Every Python block of the documentation runs."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.source
@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_python_blocks(name: str) -> None:
    """The blocks of a page share their names, as a reader's session would; torch's need torch."""
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks or name != "README.md"
    for block in blocks:
        if "import torch" in block and find_spec("torch") is None:
            continue
        exec(compile(block, name, "exec", dont_inherit=True), namespace)
