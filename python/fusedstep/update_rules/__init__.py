"""Every rule: a class with its hyperparameters, what depends on the step, and its formula."""

from __future__ import annotations

from ..optimizer import Optimizer
from . import adagrad, adam, dual, matrix, moments, norms, schedule_free, sgd, sign

rules: dict[str, type[Optimizer]] = {
    name: value
    for family in (sgd, adagrad, adam, moments, sign, dual, schedule_free, norms, matrix)
    for name, value in vars(family).items()
    if name in family.__all__
}
"""Every rule's class by its name, easiest first."""
