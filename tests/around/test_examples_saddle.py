"""The example that leaves saddles."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.source
def test_from_saddle_to_saddle(tmp_path: Path) -> None:
    """What is found at each point is what the principal components say."""
    for module in ("matplotlib", "scipy", "sklearn", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)
    import saddle

    result = saddle.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    units = 3
    *saddles, last = result.visits
    assert 1 <= len(saddles) <= units
    assert all(visit.point.kind == "saddle" for visit in saddles)
    assert (last.point.kind, last.point.degenerate) == ("minimum", True)
    losses = [result.variances[i:].sum() / 2 for i in range(units + 1)]
    assert saddles[0].loss == pytest.approx(losses[0])
    assert last.loss == pytest.approx(losses[-1], rel=1e-3)
    for visit in saddles:
        learned = min(range(units), key=lambda i: abs(losses[i] - visit.loss))
        assert visit.loss == pytest.approx(losses[learned], rel=1e-3)
        assert visit.point.lowest == pytest.approx(-result.variances[learned], rel=1e-2)
    for name, best in result.best.items():
        end = losses[0] if name.endswith("from 0") else losses[-1]
        assert best[-1] == pytest.approx(end, rel=1e-2), name
