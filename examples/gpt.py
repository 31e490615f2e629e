"""Train a character-level GPT with torch's fastest AdamW and with fusedstep's, and compare loss and time.

    python examples/gpt.py [--steps 200] [--layers 4] [--width 256]

The text is Python's own help texts, which every CPython ships. Two models start from the same weights and
see the same batches; one is trained with ``clip_grad_norm_`` and ``torch.optim.AdamW(fused=True)``, the other
with ``fusedstep.torch.AdamW(clip_norm=1.0)``, which clips within the step. They take turns of ten steps, so
that other work on the machine slows both alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pydoc_data.topics import topics
from statistics import fmean
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import fusedstep
import fusedstep.torch as ft

CHARACTERS = 300_000
CONTEXT = 64
BATCH = 4
HEADS = 4
TURN = 10  # steps before the other model has its turn
ADAMW: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
CLIP = 1.0


class Block(nn.Module):
    """A transformer block: attention to earlier characters, then a perceptron for each character."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, dim=-1)
        )
        attended = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(attended.transpose(1, 2).flatten(2))
        x = x + self.down(gelu(self.up(self.norm2(x))))
        return x  # noqa: RET504


class GPT(nn.Module):
    """The model: it takes characters, and returns scores for the character that follows each of them."""

    def __init__(self, characters: int, layers: int, width: int) -> None:
        super().__init__()
        self.character, self.position = nn.Embedding(characters, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters)
        for embedding in (self.character, self.position):
            nn.init.normal_(embedding.weight, std=0.02)

    def forward(self, text: Tensor) -> Tensor:
        x = self.character(text) + self.position(torch.arange(text.shape[1]))
        scores: Tensor = self.head(self.norm(self.blocks(x)))
        return scores


@dataclass
class Run:
    """A model in training, with its losses and the time of its steps."""

    name: str
    model: nn.Module
    update: Callable[[], object]  # clips and steps
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    seconds_in_optimizer: float = 0.0

    def step(self, x: Tensor, y: Tensor) -> None:
        """Train on a batch."""
        start = perf_counter()
        self.model.zero_grad()
        loss = cross_entropy(self.model(x).flatten(0, 1), y.flatten())
        loss.backward()
        before = perf_counter()
        self.update()
        end = perf_counter()
        if self.losses:  # the first step is not timed, as it also makes the state
            self.seconds += end - start
            self.seconds_in_optimizer += end - before
        self.losses.append(loss.item())

    def __str__(self) -> str:
        return (
            f"{self.name:9} loss {self.losses[0]:.3f} -> {fmean(self.losses[-20:]):.3f}, "
            f"{self.seconds:.1f} s, of it {self.seconds_in_optimizer:.2f} s in the optimizer "
            f"({self.seconds_in_optimizer / self.seconds:.1%})"
        )


def batch(text: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """Return pieces of the text, and the same pieces moved on by one character."""
    generator = torch.Generator().manual_seed(step)
    starts = torch.randint(len(text) - CONTEXT, (BATCH, 1), generator=generator)
    at = starts + torch.arange(CONTEXT)
    return text[at], text[at + 1]


def main() -> None:
    """Train both models, and print their losses and times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    fusedstep.set_num_threads(torch.get_num_threads())

    characters = "\n".join(topics.values())[:CHARACTERS]
    number = {c: i for i, c in enumerate(sorted(set(characters)))}
    text = torch.tensor([number[c] for c in characters])

    torch.manual_seed(0)
    models = [GPT(len(number), options.layers, options.width) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    torch_adamw = torch.optim.AdamW(models[0].parameters(), **ADAMW, fused=True)
    ft_adamw = ft.AdamW(models[1].parameters(), **ADAMW, clip_norm=CLIP)

    def clip_and_step() -> None:
        nn.utils.clip_grad_norm_(models[0].parameters(), CLIP)
        torch_adamw.step()

    runs = [Run("torch", models[0], clip_and_step), Run("fusedstep", models[1], ft_adamw.step)]

    for start in range(0, options.steps, TURN):
        for run in runs:
            for step in range(start, min(start + TURN, options.steps)):
                run.step(*batch(text, step))

    size = sum(p.numel() for p in models[0].parameters())
    print(f"{size / 1e6:.2f} million parameters, {options.steps} steps, {torch.get_num_threads()} threads")
    for run in runs:
        print(run)


if __name__ == "__main__":
    main()
