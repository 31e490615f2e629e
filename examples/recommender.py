"""Ratings predicted by embeddings of users and items; each step moves only the rows in its batch.

Matrix factorization with biases (Koren, Bell & Volinsky 2009, doi:10.1109/MC.2009.263) on generated ratings
``r = mean + b_u + b_i + <p_u, q_i> + noise``, of which a few per cent are known, mostly of popular items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator
from tqdm import tqdm

import example
import fusedstep as fs

Array = np.ndarray[Any, Any]

SEEDS = range(5)
NOISE = 0.5
FACTORS, WIDTH = 4, 8  # of the ratings, and of the model, which does not know FACTORS
BATCH = 512
LABELS = [("item_means", "C3", "item means"), ("model", "C0", "embeddings"), ("noise", "C2", "noise alone")]


@dataclass(frozen=True)
class Ratings:
    """Some ratings: the user, the item and the value of each, and the value without noise."""

    users: Array
    items: Array
    values: Array
    expected: Array

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, chosen: Array | slice) -> Ratings:
        return Ratings(self.users[chosen], self.items[chosen], self.values[chosen], self.expected[chosen])

    def rmse(self, predicted: Array) -> float:
        """Return the root mean square error of predictions."""
        return math.sqrt(np.mean((predicted - self.values) ** 2))


@dataclass(frozen=True)
class Result:
    """The results of a seed: test errors (`noise`: of the true ratings), and validation errors by epoch."""

    item_means: float
    model: float
    noise: float
    curve: list[float]

    @property
    def gain(self) -> float:
        """The fraction by which the model's test error is lower than that of the item means."""
        return 1 - self.model / self.item_means


def generated(rng: np.random.Generator, users: int, items: int, count: int) -> Ratings:
    """Generate ratings in random order, no pair twice; few users and items have most (Zipf's law)."""

    def drawn(size: int) -> Array:
        weights = rng.permutation(1 / np.arange(10, size + 10))
        return rng.choice(size, 2 * count, p=weights / weights.sum())

    u, i = np.unique(np.stack([drawn(users), drawn(items)]), axis=1)
    kept = rng.permutation(len(u))[:count]
    u, i = u[kept], i[kept]
    p, q = (rng.normal(0, 0.55, (size, FACTORS)) for size in (users, items))
    b_u, b_i = (rng.normal(0, 0.4, size) for size in (users, items))
    expected = 3.5 + b_u[u] + b_i[i] + (p[u] * q[i]).sum(axis=1)
    values = expected + rng.normal(0, NOISE, count)
    return Ratings(u, i, values.astype(np.float32), expected.astype(np.float32))


def item_means(train: Ratings, test: Ratings, items: int) -> Array:
    """Predict the mean rating of each item, or of all if it has none: the best guess without the user."""
    counts = np.bincount(train.items, minlength=items)
    sums = np.bincount(train.items, train.values, minlength=items)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), train.values.mean())
    return means[test.items]


class Model:
    """Tables of embeddings and biases, with a row for each user or item."""

    def __init__(self, rng: np.random.Generator, users: int, items: int, mean: float) -> None:
        self.mean = np.float32(mean)
        self.tables: dict[str, Array] = {
            "users": rng.normal(0, 0.1, (users, WIDTH)).astype(np.float32),
            "items": rng.normal(0, 0.1, (items, WIDTH)).astype(np.float32),
            "user_bias": np.zeros(users, np.float32),
            "item_bias": np.zeros(items, np.float32),
        }

    def predict(self, ratings: Ratings) -> Array:
        """Predict the ratings that the users in `ratings` give the items."""
        u, i = ratings.users, ratings.items
        biases = self.tables["user_bias"][u] + self.tables["item_bias"][i]
        products = (self.tables["users"][u] * self.tables["items"][i]).sum(axis=1)
        predicted: Array = self.mean + biases + products
        return predicted

    def step(self, opt: fs.Optimizer, batch: Ratings) -> None:
        """Step the rows in a batch, with the gradients of half the squared error of each rating."""
        u, i = batch.users, batch.items
        error = self.predict(batch) - batch.values
        d_users = error[:, None] * self.tables["items"][i]
        d_items = error[:, None] * self.tables["users"][u]
        opt.step_rows("users", u, d_users)  # the gradients of a user who occurs twice are summed
        opt.step_rows("items", i, d_items)
        opt.step_rows("user_bias", u, error)
        opt.step_rows("item_bias", i, error)


def trained(seed: int, *, users: int, items: int, count: int, epochs: int) -> Result:
    """Generate ratings; train on 80 % until the error on the next 10 % no longer falls; test on the rest."""
    rng = np.random.default_rng(seed)
    ratings = generated(rng, users, items, count)
    first, last = count * 8 // 10, count * 9 // 10
    train, valid, test = ratings[:first], ratings[first:last], ratings[last:]
    model = Model(rng, users, items, train.values.mean())
    opt = fs.RowwiseAdagrad(model.tables, lr=0.1, l2=0.05)
    stopping = fs.control.EarlyStopping(opt, patience=3)
    curve: list[float] = []
    for _ in range(epochs):
        order = rng.permutation(len(train))
        for start in range(0, len(train), BATCH):
            model.step(opt, train[order[start : start + BATCH]])
        curve.append(valid.rmse(model.predict(valid)))
        if stopping.observe(curve[-1]):
            break
    stopping.restore()
    return Result(
        item_means=test.rmse(item_means(train, test, items)),
        model=test.rmse(model.predict(test)),
        noise=test.rmse(test.expected),
        curve=curve,
    )


def plot(results: list[Result], output: Path) -> None:
    """Draw the validation errors over the epochs, and beside them the test errors of each seed."""
    figure, (curves, tests) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharey=True)
    for seed, result in zip(SEEDS, results, strict=True):
        epochs = range(1, len(result.curve) + 1)
        curves.plot(epochs, result.curve, color="C0", alpha=0.6, label=None if seed else "embeddings")
    for name, color, label in LABELS:
        values = [getattr(result, name) for result in results]
        tests.plot(SEEDS, values, "o", color=color, label=label)
        if name != "model":
            curves.axhline(float(np.mean(values)), color=color, linestyle="--", label=f"{label} (test, mean)")
    curves.set(xlabel="epoch", ylabel="RMSE in units of the rating", title="validation, each seed")
    tests.set(xlabel="seed", title="test", xticks=list(SEEDS))
    curves.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (curves, tests):
        axes.legend()
        axes.grid(alpha=0.3)
    gain = np.mean([result.gain for result in results])
    figure.suptitle(f"Embeddings stepped by rows: {gain:.0%} lower error than the items' means")
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main(*, quick: bool, output: Path) -> list[Result]:
    """Train with each seed, and print and draw the errors."""
    size = (
        {"users": 500, "items": 250, "count": 12_000, "epochs": 12}
        if quick
        else {"users": 2000, "items": 1000, "count": 100_000, "epochs": 40}
    )
    results = [trained(seed, **size) for seed in tqdm(SEEDS, unit="seed")]
    print(f"{size['count']} ratings of {size['users']} users and {size['items']} items")
    print("test RMSE  item means  embeddings  noise alone   gain  epochs")
    for seed, r in zip(SEEDS, results, strict=True):
        print(
            f"seed {seed} {r.item_means:14.3f} {r.model:11.3f} {r.noise:12.3f} {r.gain:6.1%} {len(r.curve):7}"
        )
    gains = [r.gain for r in results]
    print(f"gain over the item means: {np.mean(gains):.1%}, standard deviation {np.std(gains, ddof=1):.1%}")
    plot(results, output)
    return results


if __name__ == "__main__":
    example.run(main, __doc__)
