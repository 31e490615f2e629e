"""The average of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..formula.hyperparameters import NONNEGATIVE, checked_number

Predict: TypeAlias = Callable[..., Any]

COUNTS = "biu"
"""The kinds of dtypes that hold no fractions."""


class Ensemble:
    """Several models used as one, which predicts the mean of their predictions.

    Each of `models` is a function that returns an array of predictions, all of the same shape: for classes,
    probabilities rather than their logarithms. The models may differ in their first weights or
    hyperparameters, or be one model at several points of a run: ``functools.partial(predict, weights)``.
    `weights` says how much each model counts, default all alike. Hansen & Salamon 1990, doi:10.1109/34.58871.

    Raises TypeError or ValueError if there is no model, or unless each model has one weight of at least 0,
    not all of them 0. A call raises them, naming the model, for a prediction that is no array of numbers or
    has another shape.
    """

    def __init__(self, models: Sequence[Predict], weights: Sequence[float] | None = None) -> None:
        self.models = list(models)
        for i, model in enumerate(self.models):
            if not callable(model):
                raise TypeError(f"model {i} must be a function that predicts, got {model!r}")
        shares = [1.0] * len(self.models) if weights is None else list(weights)
        if len(shares) != len(self.models):
            raise ValueError(f"there are {len(shares)} weights for {len(self.models)} models")
        numbers = [checked_number(f"weight {i}", share, NONNEGATIVE) for i, share in enumerate(shares)]
        largest = max(numbers, default=0.0)
        if not largest > 0:
            raise ValueError("an ensemble needs at least one model with a weight above 0")
        total = sum(number / largest for number in numbers)
        self.weights = [number / largest / total for number in numbers]

    def __call__(self, *inputs: Any) -> np.ndarray[Any, Any]:
        """The mean of the models' predictions, computed in double precision and returned in their dtype."""
        predictions = [_prediction(i, model(*inputs)) for i, model in enumerate(self.models)]
        shape = predictions[0].shape
        for i, prediction in enumerate(predictions):
            if prediction.shape != shape:
                raise ValueError(f"model {i} predicts shape {prediction.shape}, the first one {shape}")
        dtype = np.result_type(*predictions)
        mean = sum(
            weight * prediction.astype(np.result_type(dtype, np.float64))
            for weight, prediction in zip(self.weights, predictions, strict=True)
            if weight
        )
        return np.asarray(mean, np.float64 if dtype.kind in COUNTS else dtype)


def _prediction(i: int, given: Any) -> np.ndarray[Any, Any]:
    """A model's prediction as an array; raise TypeError if it is no array of numbers."""
    try:
        found = np.asarray(given)
        np.result_type(found, np.float64)
    except (RuntimeError, TypeError, ValueError):  # RuntimeError: torch's, for a tensor that needs a gradient
        found = np.empty(0, object)
    if found.dtype.kind in "OSUMm":
        raise TypeError(f"model {i} must predict an array of numbers, got {given!r}")
    return found
