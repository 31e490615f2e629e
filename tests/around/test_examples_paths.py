"""The paths of all rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fusedstep as fs


@pytest.mark.source
def test_paths(tmp_path: Path) -> None:
    """Every rule has its path on both surfaces, that of the best learning rate, and goes down."""
    for module in ("matplotlib", "threadpoolctl", "tqdm"):
        pytest.importorskip(module)
    import paths

    trails = paths.main(quick=True, output=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert list(trails) == list(fs.rules)
    for name, surface in paths.SURFACES.items():
        for rule, found in trails.items():
            trail = found[name]
            assert np.array_equal(trail.points[0], surface.start)
            assert np.array_equal(trail.losses, surface.loss(*trail.points.T))
            assert trail.losses[-1] < trail.losses[0], rule
            other = paths.walk(rule, trail.lr / 10, surface, surface.steps // 3)
            assert other is None or other.losses.mean() >= trail.losses.mean()
        for twin in ("AdamW", "Muon"):  # without weight decay, and of a vector
            assert np.array_equal(trails[twin][name].points, trails["Adam"][name].points)
    left = {rule: found["saddle"].left_saddle for rule, found in trails.items()}
    assert left["SignSGD"] is None
    assert sum(step is not None for step in left.values()) >= 10


@pytest.mark.source
def test_surfaces() -> None:
    """Gradients are those of the losses, which are 0 at (1, 1), and the saddle is one."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("threadpoolctl")
    import paths

    h = 1e-6
    for surface in paths.SURFACES.values():
        assert surface.loss(1.0, 1.0) == 0
        for point in np.random.default_rng(0).uniform(-2, 2, (10, 2)):
            differences = [
                (surface.loss(*(point + h * axis)) - surface.loss(*(point - h * axis))) / (2 * h)
                for axis in np.eye(2)
            ]
            np.testing.assert_allclose(surface.gradient(*point), differences, rtol=1e-5, atol=1e-5)
    saddle = paths.SURFACES["saddle"]
    assert saddle.gradient(0.0, 0.0) == (0, 0)
    assert saddle.loss(0.1, 0.1) < saddle.loss(0.0, 0.0) == 2 * paths.HALFWAY < saddle.loss(0.1, -0.1)
