"""A training run that saves a checkpoint after every step, to be killed and started again by a test."""

from __future__ import annotations

import json
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import fusedstep as fs


def train(folder: Path, steps: int, pipe: Connection, *, save: bool) -> None:
    """Fit a network of two layers to a fixed data set, from the checkpoint in the folder if there is one.

    It tells from which step it goes on, and each step that it has saved. At the last step it writes final.npz
    and final.json.
    """
    data = np.random.default_rng(0)
    x = data.standard_normal((256, 32)).astype(np.float32)
    y = np.sin(x @ data.standard_normal((32, 1))).astype(np.float32)
    start = np.random.default_rng(1)
    w = {
        "first": (start.standard_normal((32, 128)) / 6).astype(np.float32),
        ("second", 1): (start.standard_normal((128, 1)) / 12).astype(np.float32),
        2: np.zeros((), np.float32),
    }
    plateau = fs.schedules.Plateau(0.01, factor=0.5, patience=1, minimum=1e-4)
    optimizer = fs.AdamW(w, lr=fs.schedules.Warmup(plateau, 40), ema=0.99)
    rng = np.random.default_rng(2)
    stopping, mean = fs.control.EarlyStopping(w, patience=10**6), fs.averaging.Mean(w)
    record = fs.control.Record(folder / "record.jsonl")
    total = np.zeros(())  # of the losses since the last epoch
    ballast = np.zeros(1 << 18, np.float32)  # so that writing takes as long as training does
    checkpoint = fs.control.Checkpoint(
        folder / "run.safetensors",
        optimizer=optimizer,
        rng=rng,
        stopping=stopping,
        mean=mean,
        record=record,
        total=total,
        ballast=ballast,
    )
    progress = checkpoint.start(step=0)
    pipe.send(progress["step"])
    for step in range(progress["step"], steps):
        batch = rng.integers(0, len(x), 16)
        hidden = np.tanh(x[batch] @ w["first"])
        error = hidden @ w["second", 1] + w[2] - y[batch]
        loss = float(np.mean(np.square(error)))
        slope = 2 * error / np.float32(len(batch))
        back = (slope @ w["second", 1].T) * (1 - np.square(hidden))
        grads = {"first": x[batch].T @ back, ("second", 1): hidden.T @ slope, 2: np.sum(slope)}
        record.step(optimizer, {name: np.asarray(g) for name, g in grads.items()}, loss=loss, clip_norm=1.0)
        total += loss
        if (step + 1) % 20 == 0:
            plateau.observe(float(total))
            stopping.observe(float(total))
            mean.update()
            record.write(t=step + 1, epoch=float(total))
            total[...] = 0
            ballast += 1
        if save:
            checkpoint.save(step=step + 1)
            pipe.send(step + 1)
    final: dict[str, Any] = {f"weight {name}": a for name, a in w.items()}
    final |= {f"ema {name}": optimizer.state[name]["ema"] for name in w}
    final |= {f"mean {name}": a for name, a in mean.averages.items()}
    final = {name: a.copy() for name, a in final.items()}
    stopping.restore()
    np.savez(folder / "final.npz", **final | {f"best {name}": a for name, a in w.items()})
    told = [optimizer.t, plateau.state_dict(), stopping.best, stopping.stalled, mean.updates]
    told += [float(total), float(ballast.min()), float(ballast.max())]
    (folder / "final.json").write_text(json.dumps([rng.bit_generator.state, told]), encoding="utf-8")
