"""How the documentation is built: ``python -m sphinx -W --keep-going docs build/docs``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FIGURES = HERE / "figures"
sys.path.insert(0, str(HERE))

import blocks  # noqa: E402  # beside this file
import fusedstep as fs  # noqa: E402  # the installed one

project = "fusedstep"
copyright = "the fusedstep authors"  # noqa: A001  # Sphinx's name for it
version = release = fs.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["figures"]
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
python_maximum_signature_line_length = 100
html_theme = "furo"
html_title = f"fusedstep {version}"

# What a rule says to the machinery, and its users need not know.
METHODS = {"adapt", "advance", "choose_kernel", "choose_matrix_kernel", "coefficients", "initial", "update"}
FACTS = {"copies", "measures_groups", "needs_loss", "numbers", "scalars", "steps_rows", "takes"}


def _skip(_app: Any, kind: str, name: str, _member: Any, skip: bool, _options: Any) -> bool:
    return skip or (kind == "class" and name in METHODS | FACTS)


def setup(app: Any) -> None:
    """Run the examples of all pages, which draw their figures."""
    app.connect("autodoc-skip-member", _skip)
    shutil.rmtree(FIGURES, ignore_errors=True)
    FIGURES.mkdir()
    for page in sorted(HERE.glob("*.md")):
        blocks.run(page, FIGURES)
