"""The recommender: embeddings of which only rows are stepped predict better than item means."""

from __future__ import annotations

from pathlib import Path

import pytest

for package in ("matplotlib", "threadpoolctl", "tqdm"):
    pytest.importorskip(package)

GAIN = 0.1
"""By how much the test error must be lower: half of what is seen on average."""


@pytest.mark.source
def test_recommender(tmp_path: Path) -> None:
    import recommender

    figure = tmp_path / "figure.png"
    results = recommender.main(quick=True, output=figure)
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert len(results) == 5
    for result in results:
        assert result.model < (1 - GAIN) * result.item_means
        assert result.model > result.noise > 0
