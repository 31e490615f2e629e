"""The self-test: one hash everywhere, whatever is installed, which a difference in any rule changes."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fusedstep as fs
from fusedstep import selftest
from fusedstep.__main__ import main
from fusedstep.formula.coefficients import NO_PROLOGUE
from tests.helpers.internals import AVERAGES, _core

ALONE = """
import sys
for name in ("ml_dtypes", "torch", "scipy", "safetensors", "matplotlib", "tqdm"):
    sys.modules[name] = None  # an import is an error
from fusedstep.__main__ import main
sys.exit(main(["selftest"]))
"""


@pytest.mark.parametrize(("isa", "threads"), [(isa, 3 * i + 1) for i, isa in enumerate(fs.info()["isas"])])
def test_every_instruction_set(isa: str, threads: int, capsys: pytest.CaptureFixture[str]) -> None:
    fs.use_isa(isa)
    fs.set_num_threads(threads)
    assert main(["selftest"]) == 0
    title, *families, everything = capsys.readouterr().out.splitlines()
    assert isa in title
    assert len({re.fullmatch(r"(\w+) +[0-9a-f]{64}", line)[1] for line in families}) == len(families)  # type: ignore[index]
    assert re.fullmatch("[0-9a-f]{64}", everything)


def test_formulas_in_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is hashed is right: the formulas in NumPy, which no compiler has touched, give the same."""
    native = selftest.variants
    monkeypatch.setattr(
        selftest, "variants", lambda name: ({**options, "backend": "numpy"} for options in native(name))
    )
    assert selftest.digests() == selftest.known()


def test_only_numpy_is_needed() -> None:
    result = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_no_function_of_the_c_library_that_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots are exact everywhere; these are not."""

    def refuse(*_: float) -> float:
        raise AssertionError

    for name in ("pow", "exp", "log", "log2", "cos", "sin", "hypot"):
        monkeypatch.setattr(math, name, refuse)
        monkeypatch.setattr(np, {"pow": "power"}.get(name, name), refuse)
    assert selftest.digests() == selftest.known()


def test_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every format; the average goes with each of them."""
    stepped = set()
    original = _core.step_single

    def step_single(kernel: str, coefficients: Any, p: Any, g: Any, state: Any, average: Any) -> None:
        stepped.add((kernel, p.dtype.name, g.dtype.name, *{array.dtype.name for array in state}))
        original(kernel, coefficients, p, g, state, average)

    monkeypatch.setattr(_core, "step_single", step_single)
    selftest.digests()
    names = {kernel for kernel, *_ in stepped}
    assert names | {name for kernel in AVERAGES for name in kernel.names} == set(_core.kernels())
    for name in names:
        mixes = [mix for kernel, *mix in stepped if kernel == name]
        assert len(mixes) == (28 if _core.kernels()[name][0] else 10)


def test_each_matrix_product_has_one_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which a BLAS adds."""
    seen: list[Any] = []

    def step(self: fs.Optimizer, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        seen.extend(slots["buf"].copy() for slots in self.state.values() if "buf" in slots)
        return result

    original = fs.Muon.step
    monkeypatch.setattr(fs.Muon, "step", step)
    selftest.digest_of("Muon")
    assert len(seen) > 20
    for buf in seen:
        assert (np.count_nonzero(buf, axis=0) <= 1).all()
        assert (np.count_nonzero(buf, axis=1) <= 1).all()
        assert np.count_nonzero(buf) == min(buf.shape)


@pytest.mark.parametrize("name", fs.rules)
def test_a_bit_makes_a_difference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coefficient whose last bit is another changes the hash of the rule."""
    rule, original = fs.rules[name], fs.rules[name].coefficients

    def changed(h: Any, t: int) -> dict[str, float]:
        return {key: math.nextafter(float(np.float32(x)), 9) for key, x in original(h, t).items()}

    monkeypatch.setattr(rule, "coefficients", staticmethod(changed))
    assert selftest.digest_of(name) != selftest.known()[rule.__module__.rpartition(".")[2]][name]


def test_a_difference_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(selftest.EXACT, "RAdam", {"eps": 0.5})
    assert main(["selftest"]) == 1
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines() if line.endswith("differs in RAdam")] == ["adam"]
    assert "report" in err
    assert re.fullmatch("[0-9a-f]{64}", out.splitlines()[-1])


def test_a_single_array_must_fit() -> None:
    """The entry to the kernels that only the self-test has refuses what does not belong together."""
    p, g = np.zeros(5, np.float32), np.zeros(5, np.float32)
    sgd: Any = NO_PROLOGUE, dict.fromkeys(_core.kernels()["SGD"][1], 1.0), None, None
    wrong: list[tuple[Any, list[Any]]] = [
        (g[:4], []),
        (g.astype(np.float64), []),
        (np.zeros(10, np.float32)[::2], []),
        (g, [p]),
    ]
    for gradient, state in wrong:
        with pytest.raises(ValueError, match=r"arrays of equal size|another number of slots"):
            _core.step_single("SGD", sgd, p, gradient, state, None)
    with pytest.raises(ValueError, match="no kernel"):
        _core.step_single("Nobody", sgd, p, g, [], None)
