"""Every code block of the documentation runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(page.stem for page in (ROOT / "docs/examples").glob("*.md") if page.stem != "index")
PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.source
def test_the_rule_that_is_shown_is_the_rule() -> None:
    """The places that adding a rule touches, word by word."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:cpp|python)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    places = [
        "cpp/kernels/rules/moments.hpp",
        "cpp/kernels/rules.hpp",
        "python/fusedstep/update_rules/moments.py",
    ]
    for block, place in zip(blocks, places, strict=True):
        assert block in (ROOT / place).read_text(encoding="utf-8")


@pytest.mark.source
def test_links_of_the_readme() -> None:
    """They are absolute, since package indexes show the page too, and lead to files that there are."""
    import blocks

    prose = blocks.FENCE.sub("", (ROOT / "README.md").read_text(encoding="utf-8"))
    targets = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", prose, re.MULTILINE))
    assert set(re.findall(r"\]\[([^\]]+)\]", prose)) == set(targets)
    home = r"https://(?:github\.com/fusedstep/fusedstep/blob|raw\.githubusercontent\.com/fusedstep/fusedstep)/main/"
    for target in targets.values():
        place = re.fullmatch(home + r"([^#]+)(?:#.+)?", target)
        assert place
        assert (ROOT / place[1]).is_file()
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", prose))


@pytest.mark.source
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, tmp_path: Path) -> None:
    """The blocks of a page run, and draw the figures that it shows."""
    import blocks

    for module in ("matplotlib", "ml_dtypes", "safetensors", "scipy"):
        pytest.importorskip(module)
    count = blocks.run(ROOT / page, tmp_path)
    shown = re.findall(r"!\[[^\]]+\]\(figures/([\w.-]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert set(shown) == {file.name for file in tmp_path.glob("*.png")}
    # All else is the two commands of the README, which .ci/run runs, and what is for Sphinx.
    languages = [language for language, _ in blocks.of(ROOT / page)]
    rest = [language for language in languages if not language.startswith("{")]
    assert sorted(rest) == ["python"] * count + ["sh"] * (2 if page == "README.md" else 0)


@pytest.mark.source
@pytest.mark.parametrize("name", EXAMPLES)
def test_page_of_an_example(name: str) -> None:
    """It has the command, the source, and the figure; the example has a test; the index knows the page."""
    import blocks

    page = ROOT / f"docs/examples/{name}.md"
    text = page.read_text(encoding="utf-8")
    assert ("sh", f"python examples/{name}.py\n") in blocks.of(page)
    assert f"{{literalinclude}} ../../examples/{name}.py" in text
    assert re.findall(r"!\[[^\]]+\]\(([\w.-]+)\)", text) == [f"{name}.png"]
    for file in (f"examples/{name}.py", f"docs/examples/{name}.png", f"tests/around/test_examples_{name}.py"):
        assert (ROOT / file).is_file()
    index = (ROOT / "docs/examples/index.md").read_text(encoding="utf-8")
    assert f"]({name}.md)" in index
    assert f"\n{name}\n" in index
