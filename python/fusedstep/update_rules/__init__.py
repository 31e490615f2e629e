"""All rules: each is a class with its hyperparameters, its coefficients and its formula."""

from __future__ import annotations

from ..engine.optimizer import Optimizer
from . import adagrad, adam, distance, dual, matrix, moments, norms, schedule_free, sgd, sign

rules: dict[str, type[Optimizer]] = {
    name: value
    for family in (sgd, adagrad, adam, moments, sign, dual, schedule_free, norms, distance, matrix)
    for name, value in vars(family).items()
    if name in family.__all__
}
"""The class of every rule by its name, simplest first."""
