"""A frozen feature extractor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _needed() -> None:
    for module in ("matplotlib", "safetensors", "scipy", "sklearn", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)


@pytest.mark.source
def test_features(tmp_path: Path) -> None:
    """Every learner has its accuracies, and learns from examples."""
    import features

    results = features.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert len(results) == 3
    for name, result in results.items():
        assert result.accuracy.shape == (len(features.EACH), 2)
        first, *_, last = result.accuracy.mean(axis=1)
        assert first < last, name
        assert last > 0.7, name  # 0.9 and more was measured; chance is 0.2
        assert result.seconds > 0


@pytest.mark.source
def test_frozen() -> None:
    """Stored and loaded, features are those computed, bit for bit; training on them leaves the extractor."""
    import digits_data
    import features
    from digits_data import Examples

    data = digits_data.load()
    hidden = features.extractor(features.five(data.train, 0), steps=5)
    before = {name: array.copy() for name, array in hidden.arrays.items()}
    few = features.five(data.train, 5)
    assert set(few.y) == set(range(5))
    loaded = features.stored(hidden, {"few": few.x})["few"]
    computed = hidden.forward(few.x)
    assert loaded.dtype == computed.dtype == np.float32
    assert loaded.tobytes() == computed.tobytes()
    assert loaded.shape == (len(few.x), features.SIZES[-2])
    examples = Examples(loaded, few.y)
    features.Learner(features.SIZES[1:], examples, examples).learn(seed=0, each=5, steps=5)
    assert hidden.arrays.keys() == before.keys()
    assert all(np.array_equal(hidden.arrays[name], array) for name, array in before.items())
    assert loaded.tobytes() == computed.tobytes()
