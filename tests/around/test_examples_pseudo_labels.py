"""Pseudo-labels: the fraction of them, where they come from, and the books."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _needed() -> None:
    for module in ("matplotlib", "scipy", "sklearn", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)


@pytest.mark.source
def test_pseudo_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five seeds, and what is printed as a gain is the difference, whatever its sign."""
    import pseudo_labels

    result = pseudo_labels.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len(result.baseline) == len(result.pseudo) == 5
    assert np.array_equal(result.gain, result.pseudo - result.baseline)
    assert result.baseline.mean() > 0.8  # 0.89 was measured; chance is 0.1
    assert result.gain.mean() > -0.05  # 0.017 was measured, with a standard deviation of 0.015
    printed = capsys.readouterr().out
    rows = re.findall(r"^\d +(\S+)% +(\S+)% +(\S+)$", printed, re.MULTILINE)
    table = 100 * np.transpose([result.baseline, result.pseudo, result.gain])
    np.testing.assert_allclose(np.array(rows, float), table, atol=0.0501)
    mean, deviation = table[:, 2].mean(), table[:, 2].std(ddof=1)
    assert f"gain: {mean:+.1f} ± {deviation:.1f} points" in printed


@pytest.mark.source
def test_batches() -> None:
    """A batch has its fraction of unlabelled images, with labels of the teacher, and later of the network."""
    import pseudo_labels
    from digits_data import Examples
    from network import perceptron

    assert 1 / 4 <= pseudo_labels.PSEUDO / pseudo_labels.BATCH <= 1 / 3
    rng = np.random.default_rng(0)
    labelled = Examples(np.zeros((50, 4), np.float32), np.full(50, 7))
    unlabelled = rng.standard_normal((100, 4)).astype(np.float32)
    teacher, net = (perceptron(rng, (4, 8, 3)) for _ in range(2))
    batches = pseudo_labels.mixed(rng, labelled, unlabelled, teacher, net, every=2)
    for by in (teacher, teacher, net, net, net):
        x, y = next(batches)
        others = x.any(axis=1)
        assert len(y) == pseudo_labels.BATCH
        assert others.sum() == pseudo_labels.PSEUDO
        assert (y[~others] == 7).all()
        assert np.array_equal(y[others], by.predict(x[others]).argmax(axis=1))
