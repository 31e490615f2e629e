"""The Python blocks of a page, run one after another, as a reader's session would."""

from __future__ import annotations

import os
import re
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def of(page: Path) -> list[tuple[str, str]]:
    """Every block of a page: its language, and what is in it."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def run(page: Path, directory: Path) -> int:
    """Run the page's Python blocks in `directory`, where they write their files; return how many there are.

    Those that import torch are left out where there is none.
    """
    namespace: dict[str, Any] = {}
    found = [block for language, block in of(page) if language == "python"]
    before = Path.cwd()
    os.chdir(directory)
    try:
        with redirect_stdout(StringIO()):
            for block in found:
                if "import torch" in block and find_spec("torch") is None:
                    continue
                exec(compile(block, page.name, "exec", dont_inherit=True), namespace)
    finally:
        os.chdir(before)
    return len(found)
