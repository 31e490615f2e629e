"""torch's default dtype decides in what precision counts and other numbers of a parameter are kept."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import fusedstep.torch as ft  # noqa: E402


@pytest.mark.parametrize("double", [False, True])
def test_torchs_default_dtype_decides_on_counts_and_numbers(double: bool) -> None:
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
