"""float16 is too narrow for squares of gradients: the state of rules that keep some is float32 by default."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fusedstep as fs

F16 = np.float16
KEEPING_SQUARES = [
    *(
        "Adagrad",
        "RMSProp",
        "Adadelta",
        "Adam",
        "AdamW",
        "NAdam",
        "NAdamW",
        "RAdam",
        "Eve",
        "AdaBelief",
        "Yogi",
    ),
    *("AdEMAMix", "ADOPT", "Adan", "LaProp", "QHAdam", "MADGRAD", "Ftrl", "LAMB", "StableAdamW", "Adafactor"),
    *("ScheduleFreeAdamW", "RowwiseAdagrad"),
]
OTHERS = ["Momentum", "EMAMomentum", "Nesterov", "SGDM", "ASGD", "Adamax", "Lion", "Signum", "Rprop", "LARS"]


def test_small_gradients_do_not_blow_up(backend: Any) -> None:
    """Squares of 1e-3 are 0 in float16, where their mean would be too."""
    w = np.ones(4, F16)
    opt = fs.AdamW(w, backend=backend)
    opt.step(np.full(4, 1e-3, F16))
    opt.step(np.zeros(4, F16))
    # 1 - 1e-3 - 1e-3·(0.09e-3/0.19) / √(0.999e-9/1.999e-3), in decimals: 0.99833
    assert w == pytest.approx(0.9983, abs=2 * 2.0**-11)
    wide = np.ones(4, np.float32)
    again = fs.AdamW(wide, backend=backend)
    narrow, fresh = np.ones(4, F16), np.ones(4, F16)
    opt = fs.AdamW(narrow, backend=backend)
    for g in [1e-3] * 10 + [0.0] * 10:
        opt.step(np.full(4, g, F16))
        again.step(np.full(4, F16(g), np.float32))
    assert np.abs(narrow - wide).max() < 20 * 2.0**-11
    assert (narrow != fresh).all()


def test_large_gradients_do_not_freeze_for_good(backend: Any) -> None:
    """The square of 300 is infinite in float16, and so would Adagrad's sum be for ever."""
    w = np.ones(2, F16)
    opt = fs.Adagrad(w, lr=0.1, backend=backend)
    opt.step(np.full(2, 300, F16))
    before = w.copy()
    for _ in range(20):
        opt.step(np.full(2, 300, F16))
    assert (w < before).all()


@pytest.mark.parametrize("rule", KEEPING_SQUARES)
def test_state_of_rules_that_keep_squares(rule: str) -> None:
    shape = (3, 4)
    opt = fs.rules[rule]({"w": np.ones(shape, F16), "v": np.ones(shape, np.float32)})
    dtypes = {array.dtype for slots in opt.state.values() for array in slots.values()}
    assert dtypes == {np.dtype(np.float32)}
    narrow = fs.rules[rule]({"w": np.ones(shape, F16)}, state_dtype="float16")  # who asks for it has it
    assert {array.dtype for array in narrow.state["w"].values()} == {np.dtype(F16)}


@pytest.mark.parametrize("rule", OTHERS)
def test_state_of_other_rules(rule: str) -> None:
    opt = fs.rules[rule]({"w": np.ones((3, 4), F16)})
    assert {array.dtype for array in opt.state["w"].values()} == {np.dtype(F16)}


@pytest.mark.parametrize(
    "name", ["Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Adadelta", "Adafactor"]
)
def test_torch_has_the_same_default(name: str) -> None:
    torch: Any = pytest.importorskip("torch")
    ft: Any = pytest.importorskip("fusedstep.torch")
    p = torch.nn.Parameter(torch.ones(3, 4, dtype=torch.float16))
    opt = getattr(ft, name)([p])
    p.grad = torch.full_like(p, 1e-3)
    opt.step()
    kept = {value.dtype for value in opt.state[p].values() if value.ndim}
    assert kept == {torch.float32}
    theirs = getattr(torch.optim, name)([p], foreach=False)
    theirs.step()
    opt.load_state_dict(theirs.state_dict())  # torch's own, in float16
    opt.step()
    assert {value.dtype for value in opt.state[p].values() if value.ndim} == {torch.float16}
    theirs.load_state_dict(opt.state_dict())
    theirs.step()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_prodigy_says_that_16_bits_are_too_few(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    with pytest.raises(TypeError, match=f"'w' has dtype {dtype}.*keep it in float32"):
        fs.Prodigy({"w": np.ones(3, kind)})
    assert fs.Prodigy(np.ones(3, np.float32), state_dtype=kind).state["m"].dtype == kind


@pytest.mark.parametrize("double", [False, True])
def test_torchs_default_dtype_decides_on_counts_and_numbers(double: bool) -> None:
    torch: Any = pytest.importorskip("torch")
    ft: Any = pytest.importorskip("fusedstep.torch")
    wanted = torch.float64 if double else torch.float32
    before = torch.get_default_dtype()
    torch.set_default_dtype(wanted)
    try:
        for name in ("NAdam", "ASGD", "AdamW"):
            p, q = (torch.nn.Parameter(torch.ones(3, dtype=torch.float32)) for _ in range(2))
            ours, theirs = getattr(ft, name)([p]), getattr(torch.optim, name)([q], foreach=False)
            for each, optimizer in ((p, ours), (q, theirs)):
                each.grad = torch.ones_like(each)
                optimizer.step()
            dtypes = [{k: v.dtype for k, v in opt.state[x].items()} for x, opt in ((p, ours), (q, theirs))]
            assert dtypes[0] == dtypes[1]
            assert dtypes[0]["step"] == wanted
    finally:
        torch.set_default_dtype(before)
