"""Whether optimizers of several libraries do the same, before they are timed."""

from __future__ import annotations

import numpy as np

from peer_libraries import Array, Library

# Gradients that were the same at every step would hide an error in a decay. There are eight steps because
# RAdam begins to rectify at the sixth.
FACTORS = [1.0, -0.5, 2.0, 0.25, -1.0, 1.5, 0.5, 1.0]


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Draw gradients for which it makes no difference whether eps is added before or after the root."""
    g = rng.standard_normal(shape, np.float32)
    return g + np.copysign(np.float32(0.1), g)


def check(
    ours: Library,
    peers: dict[str, Library],
    gradients: list[Array],
    what: str,
    tolerance: tuple[float, float],
) -> None:
    """Exit with an error unless a few steps lead to the same parameters; then give all the same gradients."""
    optimizers = ours, *peers.values()
    for factor in FACTORS:
        scaled = [g * g.dtype.type(factor) for g in gradients]
        for optimizer in optimizers:
            optimizer.give(scaled)
            optimizer.step()
    rtol, atol = tolerance
    for name, peer in peers.items():
        for mine, given in zip(ours.values(), peer.values(), strict=True):
            p, q = (np.asarray(values, np.float32) for values in (mine, given))
            if not np.allclose(p, q, rtol, atol):
                raise SystemExit(f"{what}: {name} differs by up to {np.abs(p - q).max():.3g}")
    for optimizer in optimizers:
        optimizer.give(gradients)
