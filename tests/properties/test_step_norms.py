"""The norms that a step returns: of gradients, updates and weights, as NumPy has them from copies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from tests.helpers.choices import FEW, KERNELS, id_of, takes_16_bits
from tests.helpers.engines import BACKENDS, DTYPES, ENGINES, normal, with_gaps
from tests.helpers.exactly import same_bits
from tests.helpers.internals import _core
from tests.helpers.sums import lanes_by_halves, rough

Array = np.ndarray[Any, Any]

SIZES = [1, 31, 32, 33, 257, _core.tile - 1, _core.tile, _core.tile + 1, 2 * _core.tile + 40, 0]


def norm(*arrays: Any) -> float:
    """The 2-norm of all, without rounding on the way."""
    return math.sqrt(math.fsum(float(x) ** 2 for a in arrays for x in np.asarray(a, np.float64).ravel()))


def close(x: float) -> Any:
    return pytest.approx(x, rel=1e-13, abs=0)


def norms_of(opt: Any, g: Any, **options: Any) -> fs.StepNorms:
    norms: fs.StepNorms = opt.step(g, norms=True, **options).norms
    return norms


def stepped(opt: Any, p: dict[Any, Array], g: dict[Any, Any], **options: Any) -> fs.StepResult:
    """A step whose norms are those of what can be seen of it."""
    before = {name: a.astype(np.float64) for name, a in p.items()}
    given = {name: 0.0 if each is None else each.astype(np.float64) for name, each in g.items()}
    loss = {"loss": 1.5} if opt.needs_loss else {}
    result: fs.StepResult = opt.step(g, norms=True, **loss, **options)
    assert result.norms is not None
    update = {name: p[name].astype(np.float64) - before[name] for name in p}
    scale = abs(options.get("scale", 1.0))
    for name, found in result.norms.by_tensor.items():
        assert found.gradient == close(scale * norm(given[name]))
        assert found.update == close(norm(update[name]))
        assert found.weight == close(norm(before[name]))
    assert result.norms.gradient == close(scale * norm(*given.values()))
    assert result.norms.update == close(norm(*update.values()))
    assert result.norms.weight == close(norm(*before.values()))
    return result


@pytest.mark.parametrize("options", [{}, {"ema": 0.5}, {"l2": 0.1, "weight_decay": 0.1}], ids=id_of)
@pytest.mark.parametrize(("rule", "own"), KERNELS, ids=id_of)
def test_every_kernel(rule: str, own: dict[str, Any], options: dict[str, Any]) -> None:
    """They are right, the same from both backends, and the step is that without them."""
    shapes = {"vector": (300,), "matrix": (9, 5), "none": (3,)}
    results, ends = [], []
    backend: Any
    for backend, plain in [("native", False), ("numpy", False), ("native", True)]:
        p = {name: normal(1, s, np.float32) for name, s in shapes.items()}
        opt: Any = fs.rules[rule](p, **own, **options, backend=backend)
        for t in range(2):
            g = {name: None if name == "none" else normal(t + 2, s, np.float32) for name, s in shapes.items()}
            if plain:
                opt.step(g, scale=-0.5, **({"loss": 1.5} if opt.needs_loss else {}))
            else:
                results.append(stepped(opt, p, g, scale=-0.5))
        ends.append(b"".join(a.tobytes() for a in p.values()))
    assert results[:2] == results[2:]
    assert len(set(ends)) == 1


@pytest.mark.parametrize("kind", DTYPES)
def test_the_order_of_the_sums(kind: str) -> None:
    """Of each tensor by itself, whatever runs the step and wherever the tensor stands."""
    sizes = dict(enumerate(SIZES))
    start = {i: rough(i, n, DTYPES[kind]) for i, n in sizes.items()}
    g = {i: rough(i + 50, n, DTYPES[kind]) for i, n in sizes.items()}
    seen = []
    for engine, isa, threads in ENGINES:
        for names in (list(sizes), list(sizes)[::-1]):
            fs.use_isa(isa)
            fs.set_num_threads(threads)
            p = {i: start[i].copy() for i in names}
            seen.append(norms_of(fs.Adam(p, lr=0.5, backend=engine), {i: g[i] for i in names}))
    assert all(norms == seen[0] for norms in seen)
    for i in sizes:
        update = p[i].astype(np.float64) - start[i].astype(np.float64)
        expected = [math.sqrt(lanes_by_halves([x * x for x in a.tolist()])) for a in (g[i], update, start[i])]
        assert list(seen[0].by_tensor[i]) == expected
        assert fs.global_norm(g[i]) == seen[0].by_tensor[i].gradient


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", [rule for rule in FEW if takes_16_bits(rule)])
def test_formats_and_layouts(rule: str, backend: Any) -> None:
    p = {name: normal(1, (20, 7), dtype) for name, dtype in DTYPES.items()}
    p |= {"gaps": with_gaps(normal(2, (9, 5))), "F": np.asfortranarray(normal(3, (9, 5)))}
    p |= {"gaps that rest": with_gaps(normal(4, (5,), np.float16)), "one": np.array(3.0)}
    opt = fs.rules[rule](p, backend=backend)
    for t in range(2):
        g: dict[str, Any] = {name: normal(t + 9, a.shape, a.dtype) for name, a in p.items()}
        g["float32"] = g["float32"].astype(np.float16)
        g["gaps that rest"] = None
        stepped(opt, p, g, clip_value=0.5)
        p["gaps that rest"] += np.float16(1)  # what it is now is what counts


@pytest.mark.parametrize("x", [1e300, 1e160, 1e-160, 5e-324, 1.0])
def test_squares_out_of_range(x: float) -> None:
    """Alone, and beside others; in float64, which alone has such numbers."""
    for others in ([], [1e-300], [1.0], [1e300]):
        start = np.array([3 * x, 0.0, 4 * x, *others])
        seen = []
        for backend in ("native", "numpy"):
            p = {"a": start.copy(), "b": np.array(others)}
            opt = fs.rules["SGD"](p, lr=1.0, backend=backend)
            g = {"a": np.array([4 * x, -3 * x, 0.0, *[0.0] * len(others)]), "b": np.zeros(len(others))}
            seen.append(norms_of(opt, g))
            moved = p["a"] - start
            a = seen[-1].by_tensor["a"]
            for found, of in [(a.gradient, g["a"]), (a.update, moved), (a.weight, start)]:
                assert found == pytest.approx(math.hypot(*of), rel=1e-14, abs=0)
            assert seen[-1].weight == pytest.approx(math.hypot(*start, *others), rel=1e-14, abs=0)
        assert seen[0] == seen[1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", DTYPES)
def test_what_is_not_finite(kind: str, backend: Any) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        p = {name: np.ones(40, DTYPES[kind]) for name in ("a", "b")}
        g = {name: np.zeros(40, DTYPES[kind]) for name in p}
        g["a"][33] = bad
        norms = norms_of(fs.SGD(p, lr=1.0, backend=backend), g)
        assert norms.by_tensor["b"] == (0.0, 0.0, math.sqrt(40))
        assert norms.by_tensor["a"].weight == math.sqrt(40)
        for found in (norms, norms.by_tensor["a"]):
            assert same_bits(np.array([found.gradient, found.update]), np.full(2, abs(bad)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["Adam", "RowwiseAdagrad"])
def test_rows(rule: str, backend: Any) -> None:
    """The gradient and the update of the rows that are touched; the weights of the whole table."""
    gaps = np.full((8, 2 * _core.tile + 6), 0.5)[:, : 2 * _core.tile + 3]
    p = {"table": normal(1, (50, 3), np.float32), "w": normal(2, (6,), np.float32), "gaps": gaps}
    opt = fs.rules[rule](p, ema=0.5, backend=backend)
    values, wide = normal(3, (4, 3), np.float32), normal(4, (2, 2 * _core.tile + 3))
    before = {name: a.astype(np.float64) for name, a in p.items()}
    norms = norms_of(opt, {"table": fs.Rows([7, 2, 7, 9], values), "w": None, "gaps": fs.Rows([5, 0], wide)})
    summed = [values[1], values[0] + values[2], values[3]]
    for name, g in [("table", summed), ("w", []), ("gaps", [wide])]:
        update = p[name] - before[name]
        assert list(norms.by_tensor[name]) == list(map(close, (norm(*g), norm(update), norm(before[name]))))
        assert np.count_nonzero(update.any(-1)) == {"table": 3, "w": 0, "gaps": 2}[name]


@pytest.mark.parametrize("backend", BACKENDS)
def test_options(backend: Any) -> None:
    """grad_norm is what it is without them; gradients are summed before they are set to 0."""
    p, g = np.array([3.0, 4.0]), np.array([6.0, 8.0])
    opt: Any = fs.SGD(p, lr=0.5, backend=backend)
    assert opt.step(g, norms=False) == opt.step(g) == fs.StepResult(None, skipped=False, norms=None)
    p[...] = 3.0, 4.0
    result = opt.step(g, scale=-0.5, clip_norm=2.5 + 5e-7, zero_grad=True, norms=True)
    assert result.grad_norm == 5.0
    assert result.norms is not None
    assert result.norms.by_tensor == (5.0, close(1.25), 5.0)
    assert result.norms[:3] == result.norms.by_tensor
    assert g.tolist() == [0.0, 0.0]
    g[0] = np.nan
    assert opt.step(g, skip_nonfinite=True, norms=True).norms is None
    for bad in (1, None, "yes"):
        with pytest.raises(TypeError, match="norms"):
            opt.step(g, norms=bad)
