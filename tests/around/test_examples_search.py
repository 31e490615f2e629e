"""The hyperparameter search of the examples."""

from __future__ import annotations

import warnings
from math import log10
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

for module in ("optuna", "sklearn", "matplotlib", "tqdm"):
    pytest.importorskip(module)

if TYPE_CHECKING:
    from search import Found, Stage, Values

pytestmark = pytest.mark.source


def found(best: float, lr: tuple[float, float], seed: int = 0) -> list[Found]:
    """Three stages on an objective that is best where lr and l2 are this."""
    from search import Stage, search

    def objective(values: Values, _stage: Stage) -> float:
        return -sum((log10(value) - log10(best)) ** 2 for value in values.values())

    return search(objective, {"lr": lr, "l2": (best / 1e3, best * 1e3)}, [Stage(32, 1, 1)] * 3, seed)


def test_search(tmp_path: Path) -> None:
    import search

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the best l")  # where it finds the best is not the same everywhere
        result = search.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    first, last = result.stages[0], result.stages[-1]
    assert 1e-3 < first.trials[0].params["lr"] < 10
    accuracies = [trial.value or 0.0 for trial in first.trials]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[-1] + 0.3
    assert (last.trials[0].value or 0.0) > 0.8
    assert result.accuracy > 0.8  # 96 % where it was written


def test_each_stage_narrows_around_the_best() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stages = found(1e-2, (1e-6, 10))
    widths = [log10(high / low) for low, high in (stage.ranges["lr"] for stage in stages)]
    assert widths[0] == pytest.approx(7)
    assert widths[2] < widths[1] < 0.7 * widths[0]
    for stage in stages:
        low, high = stage.ranges["lr"]
        assert low < 1e-2 < high
        assert all(low <= trial.params["lr"] <= high for trial in stage.trials)
    assert stages[2].trials[0].params["lr"] == pytest.approx(1e-2, rel=0.5)


@pytest.mark.parametrize(("lr", "end"), [((1e-6, 1e-3), 1), ((1.0, 1e3), 0)], ids=["high", "low"])
def test_a_best_value_at_the_edge_warns_and_moves_the_range(lr: tuple[float, float], end: int) -> None:
    """The best learning rate, 0.03, is out of the first range."""
    with pytest.warns(UserWarning, match=r"the best lr lies at the edge of the range searched") as caught:
        stages = found(0.03, lr)
    assert f"{lr[0]:.2g} to {lr[1]:.2g}" in str(caught[0].message)
    assert "the best l2" not in str(caught[0].message)
    low, high = stages[1].ranges["lr"]
    assert log10(high / low) == pytest.approx(3)
    assert (low * high) ** 0.5 == pytest.approx(stages[0].trials[0].params["lr"])
    assert low < lr[end] < high
    assert abs(log10(stages[2].trials[0].params["lr"] / 0.03)) < 0.5


def test_all_powers_of_ten_are_equally_likely() -> None:
    from search import Stage, search

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (stage,) = search(lambda _values, _stage: 0.0, {"lr": (1e-6, 10)}, [Stage(700, 1, 1)])
    exponents = [int(log10(trial.params["lr"]) // 1) for trial in stage.trials]
    counts = [exponents.count(exponent) for exponent in range(-6, 1)]
    assert sum(counts) == 700
    assert 60 < min(counts) <= max(counts) < 140  # 100, give or take four standard deviations


def test_it_is_reproducible_from_the_seed() -> None:
    def trials(seed: int) -> list[list[dict[str, float]]]:
        return [[trial.params for trial in stage.trials] for stage in found(1e-2, (1e-6, 10), seed)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert trials(0) == trials(0) != trials(1)


def test_training_again_gives_the_same_network() -> None:
    import digits_data
    from search import Stage, train

    data = digits_data.load()
    stage = Stage(1, 1, 100)
    one, other = (train(data, {"lr": 0.1, "l2": 1e-3}, stage).predict(data.test.x) for _ in range(2))
    assert (one == other).all()
