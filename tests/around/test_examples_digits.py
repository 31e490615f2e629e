"""The digits classifier of the examples, and its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

for module in ("sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(module)

pytestmark = pytest.mark.source


def test_digits(tmp_path: Path) -> None:
    import digits

    result = digits.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert result.training[-1] < result.training[0] / 2
    assert result.restored == pytest.approx(min(result.validation), rel=1e-4)
    assert result.accuracy > 0.9  # 97 % where it was written


def test_it_stops_early_and_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a validation loss that grows from the third epoch on, the weights are those of the third."""
    import digits
    import digits_data
    from network import perceptron

    data = digits_data.load()
    rng = np.random.default_rng(0)
    net = perceptron(rng, (64, 16, 10))
    seen = []

    def loss(*_validation: object) -> float:
        seen.append({name: array.copy() for name, array in net.arrays.items()})
        return float(abs(len(seen) - 3))

    monkeypatch.setattr(net, "loss", loss)
    training, validation = digits.train(net, data, rng, epochs=50)
    assert len(training) == len(validation) == 3 + 12
    for name, array in net.arrays.items():
        np.testing.assert_array_equal(array, seen[2][name])
        assert not np.array_equal(array, seen[-1][name])


def test_the_parts_of_the_data_are_disjoint_and_have_every_class() -> None:
    import digits_data

    data = digits_data.load()
    assert [len(part.y) for part in data] == [1077, 360, 360]
    for x, y in data:
        assert (x.shape, x.dtype) == ((len(y), 64), np.float32)
        assert (x.min(), x.max()) == (0, 1)
        assert np.bincount(y).min() > 0.09 * len(y)
    images = [{row.tobytes() for row in part.x} for part in data]
    assert len(set.union(*images)) == sum(map(len, images))
    for part, again in zip(data, digits_data.load(), strict=True):
        np.testing.assert_array_equal(part.x, again.x)


@pytest.mark.parametrize(("count", "sizes"), [(10, {5}), (11, {3, 4}), (3, {3})])
def test_batches_have_every_example_once(count: int, sizes: set[int]) -> None:
    import digits_data

    batches = digits_data.batches(np.random.default_rng(0), count, 5)
    assert {len(batch) for batch in batches} == sizes
    assert sorted(np.concatenate(batches)) == list(range(count))
