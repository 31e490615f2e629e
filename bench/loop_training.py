"""Training as bench/loop.py times it: each step gets the gradients of a backward pass that has just ended."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import fusedstep as fs
import measure
from peer_libraries import library

NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "MLP 64-128-10": ((64, 128, 10), 32),
    "MLP 784-512-512-10": ((784, 512, 512, 10), 64),
    "50 layers of 100": ((100,) * 51, 16),
    "500 layers of 30": ((30,) * 501, 4),
}
"""The widths of each network's layers, and the size of a batch."""

TRAINED = ["fusedstep.torch", "torch fused"]
LR = 1e-5  # so small that no network gets to where its gradients vanish


class Network:
    """A network of linear layers with tanh in between, and a batch: the same whenever it is made."""

    def __init__(self, torch: Any, name: str) -> None:
        widths, batch = NETWORKS[name]
        torch.manual_seed(0)
        layers: list[Any] = []
        for inputs, outputs in itertools.pairwise(widths):
            layer = torch.nn.Linear(inputs, outputs)
            torch.nn.init.orthogonal_(layer.weight)  # so gradients reach the first of many layers
            torch.nn.init.zeros_(layer.bias)
            layers += [layer, torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.inputs = torch.randn(batch, widths[0])
        self.classes = torch.randint(widths[-1], (batch,))
        self.loss = torch.nn.functional.cross_entropy

    def differentiate(self) -> None:
        """Free the gradients, and make new ones in a forward and a backward pass."""
        self.model.zero_grad(set_to_none=True)
        self.loss(self.model(self.inputs), self.classes).backward()

    def parameters(self) -> list[Any]:
        """Return the parameters."""
        return list(self.model.parameters())


def train(name: str, rounds: int) -> dict[str, list[float]]:
    """Train two copies of the network in turns; return the deciles of the seconds of their optimizers."""
    torch = library("torch")
    torch.set_num_threads(fs.get_num_threads())
    ours, theirs = networks = Network(torch, name), Network(torch, name)
    steps = [
        importlib.import_module("fusedstep.torch").AdamW(ours.parameters(), lr=LR).step,
        torch.optim.AdamW(theirs.parameters(), lr=LR, fused=True).step,
    ]
    for network, step in zip(networks, steps, strict=True):
        network.differentiate()
        step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        if not torch.allclose(p, q, rtol=1e-6, atol=LR / 100):
            raise SystemExit(f"{name}: parameters differ by up to {(p - q).abs().max():.3g}")
    turns = zip(TRAINED, networks, steps, strict=True)
    return measure.right_after(
        {contestant: (network.differentiate, step) for contestant, network, step in turns}, rounds
    )
