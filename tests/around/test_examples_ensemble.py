"""Several networks against their ensemble."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest


@pytest.mark.source
def test_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five seeds of five different members; what is printed are their mean, the best, and the difference."""
    for module in ("matplotlib", "scipy", "sklearn", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)
    import ensemble

    result = ensemble.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert result.members.shape == (5, ensemble.MEMBERS)
    assert (np.ptp(result.members, axis=1) > 0).all()
    assert np.array_equal(result.gain, result.ensemble - result.members.mean(axis=1))
    assert result.members.mean() > 0.7
    assert result.gain.mean() > 0.015  # 0.036 was measured, with a standard deviation of 0.006
    printed = capsys.readouterr().out
    rows = re.findall(r"^\d +(\S+)% +(\S+)% +(\S+)% +(\S+)$", printed, re.MULTILINE)
    table = [result.members.mean(axis=1), result.members.max(axis=1), result.ensemble, result.gain]
    np.testing.assert_allclose(np.array(rows, float), 100 * np.transpose(table), atol=0.0501)
