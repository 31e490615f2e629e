"""Checkpoints that version 0.1.0 wrote load, and the run goes on to the bits to which 0.1.0 went."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fusedstep.control import Checkpoint
from tests.helpers import saved


def run(rule: str, half: int) -> tuple[Any, dict[str, Any]]:
    """The run as it stands in a file."""
    params = saved.weights(rule)
    opt = saved.optimizer(rule, params)
    Checkpoint(saved.file(rule, half), optimizer=opt).load()
    return opt, params


def compare(result: Any, expected: Any, *, exact: bool) -> None:
    """Equal to the bit, or to the rounding of matrix products."""
    assert result.dtype == expected.dtype
    assert result.shape == expected.shape
    if exact:
        assert result.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", saved.RULES)
def test_a_run_goes_on(rule: str) -> None:
    (opt, params), (other, expected) = run(rule, 0), run(rule, 1)
    saved.go_on(opt, params)
    assert opt.t == other.t == 2 * saved.HALF
    assert opt.row_steps == other.row_steps == ({"w": 2} if rule in saved.BY_ROWS else {})
    assert [dict(a["scalars"]) for a in opt.state_dict()["groups"]] == [
        dict(b["scalars"]) for b in other.state_dict()["groups"]
    ]
    for name, p in params.items():
        if name == "h" and rule in saved.WIDENED:
            continue
        exact = saved.PRODUCTS.get(rule) != name
        compare(p, expected[name], exact=exact)
        assert opt.state[name].keys() == other.state[name].keys()
        for slot in opt.state[name]:
            compare(opt.state[name][slot], other.state[name][slot], exact=exact)


@pytest.mark.parametrize("rule", saved.WIDENED)
def test_state_in_float16_becomes_float32(rule: str) -> None:
    """The numbers are the same, and the weights go nearly where they went."""
    (opt, params), (_, expected) = run(rule, 0), run(rule, 1)
    for slot, array in opt.state["h"].items():
        assert array.dtype == (np.float16 if slot == "ema" else np.float32)
        assert np.array_equal(array.astype(np.float16), array)
    saved.go_on(opt, params)
    np.testing.assert_allclose(params["h"], expected["h"], rtol=0, atol=4e-3)


@pytest.mark.parametrize("rule", saved.WIDENED)
def test_state_in_float16_goes_on_where_it_is_asked_for(rule: str) -> None:
    """To the same bits."""
    (opt, params), (other, expected) = run(rule, 0), run(rule, 1)
    of_h = opt.state_dict()
    of_h["groups"][0]["params"] = ["h"]
    of_h["row_steps"] = {}
    of_h["state"] = {"h": {slot: a.astype(np.float16) for slot, a in of_h["state"]["h"].items()}}
    h = {"h": params["h"]}
    alone = saved.optimizer(rule, h, state_dtype="float16")
    alone.load_state_dict(of_h)
    saved.go_on(alone, h)
    compare(h["h"], expected["h"], exact=True)
    for slot, array in alone.state["h"].items():
        compare(array, other.state["h"][slot].astype(np.float16), exact=True)


@pytest.mark.parametrize("rule", saved.RULES)
def test_a_run_goes_on_in_torch(rule: str, torch: Any) -> None:
    ft = pytest.importorskip("fusedstep.torch")
    found = [torch.load(saved.torch_file(rule, half), weights_only=True) for half in (0, 1)]
    params = {name: torch.nn.Parameter(p) for name, p in found[0]["weights"].items()}
    opt = saved.torch_optimizer(ft, rule, params)
    opt.load_state_dict(found[0]["optimizer"])
    saved.go_on_in_torch(torch, opt, params, 1)
    states = opt.state_dict()["state"], found[1]["optimizer"]["state"]
    for i, (name, p) in enumerate(params.items()):
        exact = saved.PRODUCTS.get(rule) != name
        pairs = [(p.detach(), found[1]["weights"][name])]
        assert states[0][i].keys() == states[1][i].keys()
        pairs += [(states[0][i][key], states[1][i][key]) for key in states[0][i]]
        for result, expected in pairs:
            assert result.dtype == expected.dtype
            compare(result.double().numpy(), expected.double().numpy(), exact=exact)
