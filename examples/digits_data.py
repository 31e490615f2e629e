"""Handwritten digits of 8 × 8 pixels, split into three parts, and mini-batches of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Array = np.ndarray[Any, Any]


class Examples(NamedTuple):
    """Images, one in each row, float32 in [0, 1], and their labels."""

    x: Array
    y: Array


class Digits(NamedTuple):
    """Three fifths of the digits for training, a fifth for validation, and a fifth for the test."""

    train: Examples
    validation: Examples
    test: Examples


def load() -> Digits:
    """Return the 1797 digits of scikit-learn, split so that each part has its share of every class."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    x, test_x, y, test_y = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    x, validation_x, y, validation_y = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    return Digits(Examples(x, y), Examples(validation_x, validation_y), Examples(test_x, test_y))


def batches(rng: np.random.Generator, count: int, size: int) -> list[Array]:
    """Return the indices of one epoch's mini-batches, in random order, about `size` in each."""
    return np.array_split(rng.permutation(count), -(-count // size))
