"""State is torch's, and checkpoints and copies of an optimizer go on as it does."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers.torch_options import OPTIONS
from tests.helpers.torch_rules import (
    BFLOAT16,
    COMPLEX,
    COMPLEX64,
    DROP_INS,
    FLOAT16,
    FLOAT32,
    FLOAT64,
    OWN,
    SHAPES,
    Optimizer,
    Options,
    Tensor,
    Unchanged,
    all_parameters,
    assert_alike,
    assert_same,
    copy_parameters,
    each_class,
    each_drop_in,
    each_narrow,
    fits,
    ft,
    give,
    new,
    parameter,
    same_bits,
    several,
    step,
    tensors_of,
    through_a_file,
    torch,
    torchs,
    train,
)

MANY: list[tuple[int, ...]] = [*SHAPES, (1, 9), (9, 1), (70, 67), (2, 2, 3, 4)]

duplicates = pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copied", "pickled"]
)


def uncounted(name: str) -> bool:
    """Whether torch's class, and so that of its name, does not count steps."""
    return name == "SGD"


def two_groups(name: str, parameters: list[Tensor]) -> list[Options]:
    """With options of their own; of Muon, one whose matrices step as AdamW."""
    own = {"matrices": False, "beta1": 0.5} if name == "Muon" else {}
    return [{"params": parameters[2:], "lr": 0.2}, {"params": parameters[:2], **own}]


# --- State ---


@each_class
def test_state_is_made_by_the_first_step(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)
    if name != "Adagrad":  # as in torch, whose Adagrad may have it before
        assert not optimizer.state
    train(optimizer, 0, 1)
    assert set(optimizer.state) == set(parameters)
    for p, state in optimizer.state.items():
        rows_and_columns = {p.shape[:-1], (*p.shape[:-1], 1), (*p.shape[:-2], 1, *p.shape[-1:])}
        for key, value in state.items():
            of_parts = name in {"Adafactor", "RowwiseAdagrad"} and p.dim() > 1
            assert value.shape in {p.shape, ()} | (rows_and_columns if of_parts else set()), key
        if not uncounted(name):
            assert state["step"].dtype == FLOAT32
            assert state["step"].shape == ()
            assert state["step"].item() == 1


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
@each_narrow
def test_state_dtype_is_that_of_the_state(name: str, dtype: Any) -> None:
    """Or, of bfloat16, that of the parameter."""
    asked = None if dtype == BFLOAT16 else dtype
    optimizer, other = (new(name, several(dtype), state_dtype=kept) for kept in (FLOAT32, asked))
    train(optimizer, 0, 2)
    train(other, 0, 2)
    for p, q in zip(all_parameters(optimizer), all_parameters(other), strict=True):
        wide = {key: value.dtype for key, value in optimizer.state[p].items() if value.dim() or key == "step"}
        if not p.dim():
            continue
        assert set(wide.values()) == {FLOAT32}
        kept = {value.dtype for value in other.state[q].values() if value.dim()}
        assert kept == {dtype} or (not (p.dim() and kept) and name in OWN)
        kept = {value.dtype for value in optimizer.state[p].values()}
        assert kept == {FLOAT32} or (name in OWN and kept == {FLOAT32, FLOAT64})


@pytest.mark.parametrize("own", [FLOAT32, None], ids=["asked", "not asked"])
@each_narrow
def test_loading_keeps_float32_state(name: str, own: Any) -> None:
    """Whether asked for it or not; torch would keep it as the parameter."""
    optimizer = new(name, several(BFLOAT16), state_dtype=FLOAT32)
    train(optimizer, 0, 3)
    loaded = new(name, several(BFLOAT16), state_dtype=own)
    copy_parameters(optimizer, loaded)
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same(tensors_of(loaded), tensors_of(optimizer))
    for each in (optimizer, loaded):
        train(each, 3, 5)
    found, expected = tensors_of(loaded), tensors_of(optimizer)
    assert {key: value.dtype for key, value in found.items()} == {k: v.dtype for k, v in expected.items()}
    if own is not None or name not in {"Adafactor", "RowwiseAdagrad"}:  # whose directions are as is asked
        assert_same(found, expected)


# --- Checkpoints ---


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, COMPLEX64], ids=str)
@pytest.mark.parametrize("from_torch", [False, True], ids=["from ours", "from torch"])
@each_drop_in
def test_checkpoints_are_torchs(name: str, from_torch: bool, dtype: Any) -> None:
    if dtype == COMPLEX64 and name not in COMPLEX:
        return
    options = [other for of, other in OPTIONS if of == name][-1]
    saving = (torchs if from_torch else new)(name, several(dtype, MANY), **options)
    uninterrupted = torchs(name, several(dtype, MANY), **options)
    for t in range(7):
        for optimizer in (saving, uninterrupted):
            give(all_parameters(optimizer), t, *([2, 4] if t == 0 else []))
            optimizer.step()
    continuing = (new if from_torch else torchs)(name, several(dtype, MANY), lr=123.0)
    copy_parameters(saving, continuing)
    saved = saving.state_dict()
    continuing.load_state_dict(through_a_file(saved))
    for key, value in saved["param_groups"][0].items():
        if key in continuing.param_groups[0] and key != "params":
            assert continuing.param_groups[0][key] == value
    if name not in {"NAdam", "ASGD"}:  # whose numbers are cast when loaded
        assert_same(tensors_of(continuing), tensors_of(saving))
    for t in range(7, 12):
        train(continuing, t, t + 1)
        train(uninterrupted, t, t + 1)
        if from_torch:
            assert_alike(continuing, uninterrupted, t)
        else:
            assert_alike(uninterrupted, continuing, t)


@pytest.mark.parametrize(
    ("dtype", "state_dtype"),
    [
        (FLOAT32, None),
        (FLOAT32, FLOAT32),
        (FLOAT32, BFLOAT16),
        (BFLOAT16, None),
        (BFLOAT16, FLOAT32),
        (BFLOAT16, BFLOAT16),
    ],
    ids=str,
)
@each_class
def test_a_run_goes_on_from_a_checkpoint(name: str, dtype: Any, state_dtype: Any) -> None:
    """To the bit, into an optimizer that had other options and had gone another way, and not only once."""
    if not fits(name, dtype, state_dtype):
        return
    p, q = several(dtype, MANY), several(dtype, MANY)
    ours = new(name, two_groups(name, p), state_dtype=state_dtype)
    other = new(name, [{"params": q[2:]}, {"params": q[:2]}], lr=0.3, state_dtype=state_dtype)
    give(all_parameters(ours), 0, 2, 4)
    step(ours)
    train(ours, 1, 3)
    train(other, 7, 9)
    copy_parameters(ours, other)
    other.load_state_dict(through_a_file(ours.state_dict()))
    found, saved = tensors_of(other), tensors_of(ours)
    assert_same(found, saved)
    assert not any(found[key] is value for key, value in saved.items())
    for optimizer in (ours, other):
        train(optimizer, 3, 6)
    assert_same(tensors_of(other), tensors_of(ours))


@each_drop_in
def test_state_dict_has_torchs_keys(name: str) -> None:
    ours, theirs = new(name, several()), getattr(torch.optim, name)
    if name == "Muon":
        p = [parameter(3, 4)]
        ours = new(name, [parameter(3, 4)])
        other_optimizer = theirs(p)
    else:
        other_optimizer = torchs(name, several())
    train(ours, 0, 1)
    train(other_optimizer, 0, 1)
    mine, other = ours.state_dict(), other_optimizer.state_dict()
    assert mine.keys() == other.keys()
    assert mine["state"].keys() == other["state"].keys()
    for i, state in other["state"].items():
        assert state.keys() <= mine["state"][i].keys()
    assert other["param_groups"][0].keys() <= mine["param_groups"][0].keys()
    assert mine["param_groups"][0]["params"] == other["param_groups"][0]["params"]


@each_class
def test_other_groups_are_refused(name: str) -> None:
    saved = new(name, several()).state_dict()
    optimizer = new(name, several()[:2])
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": several()[2:]})
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)


# --- The extras ---


def assert_extras_hold(optimizer: Optimizer) -> None:
    """clip_norm=0.5, state_dtype=float32 and unscale_in_step, seen in what a step does."""
    assert optimizer._step_supports_amp_scaling
    assert (optimizer.clip_norm, optimizer.state_dtype) == (0.5, FLOAT32)
    added = [parameter(5, seed=5, dtype=BFLOAT16), parameter(3, 4, seed=6, dtype=BFLOAT16)]
    optimizer.add_param_group({"params": added})
    give(all_parameters(optimizer), 3)
    norm = float(torch.cat([p.grad.flatten().double() for p in all_parameters(optimizer)]).norm())
    step(optimizer)
    assert optimizer.grad_norm == pytest.approx(norm, rel=1e-5)
    for p in added:
        assert {value.dtype for value in optimizer.state[p].values() if value.dim()} <= {FLOAT32}


def with_extras(name: str) -> Optimizer:
    p = [parameter(5, dtype=BFLOAT16), parameter(4, 3, dtype=BFLOAT16)]
    return new(name, p, clip_norm=0.5, state_dtype=FLOAT32, unscale_in_step=True)


@each_drop_in
def test_loading_a_checkpoint_of_torch_keeps_the_extras(name: str) -> None:
    ours = with_extras(name)
    theirs = torchs(name, [parameter(*p.shape, dtype=BFLOAT16) for p in all_parameters(ours)])
    train(theirs, 0, 2)
    ours.load_state_dict(theirs.state_dict())
    assert_extras_hold(ours)


@duplicates
@each_narrow
def test_copies_keep_the_extras(name: str, duplicate: Callable[[Any], Any]) -> None:
    optimizer = with_extras(name)
    assert_extras_hold(duplicate(optimizer))
    train(optimizer, 0, 2)
    assert_extras_hold(duplicate(optimizer))


# --- Copies ---


@pytest.mark.parametrize(("dtype", "state_dtype"), [(FLOAT32, None), (BFLOAT16, FLOAT32)], ids=str)
@duplicates
@each_class
def test_copies_go_on(name: str, duplicate: Callable[[Any], Any], dtype: Any, state_dtype: Any) -> None:
    if not fits(name, dtype):
        return
    ours = new(name, two_groups(name, several(dtype, MANY)), clip_norm=1.0, state_dtype=state_dtype)
    train(ours, 0, 2)
    other = duplicate(ours)
    for p, q in zip(all_parameters(ours), all_parameters(other), strict=True):
        assert p is not q
        assert not p.numel() or p.data_ptr() != q.data_ptr()
    with Unchanged(ours):
        train(other, 2, 4)
    train(ours, 2, 4)
    assert_same(tensors_of(other), tensors_of(ours))
    assert other.grad_norm == ours.grad_norm


@duplicates
@each_class
def test_copies_with_the_model_go_on(name: str, duplicate: Callable[[Any], Any]) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()
    optimizer = new(name, model.parameters())
    train(optimizer, 0, 3)
    twin, copied = duplicate((model, optimizer))
    assert all(p is q for p, q in zip(twin.parameters(), all_parameters(copied), strict=True))
    with Unchanged(optimizer):
        train(copied, 3, 6)
    train(optimizer, 3, 6)
    assert_same(tensors_of(copied), tensors_of(optimizer))


@each_class
def test_no_room_is_saved(name: str) -> None:
    """The room that steps need is no state: neither saved nor copied."""
    p = parameter(300, 300, dtype=FLOAT32)
    optimizer = new(name, [p])
    train(optimizer, 0, 2)
    kept = sum(value.nbytes for value in optimizer.state[p].values())
    saved = optimizer.state_dict()["state"]
    assert (saved[0].keys() if saved else set()) == optimizer.state.get(p, {}).keys()
    assert len(pickle.dumps(optimizer.state_dict())) < kept + 8000
    assert len(pickle.dumps(optimizer)) < kept + 2.5 * p.nbytes  # the parameter, and its gradient


@each_class
def test_prints_like_torchs(name: str) -> None:
    text = repr(new(name, several()))
    assert text.startswith(f"{name} (")
    if name in DROP_INS:
        lines = repr(torchs(name, several())).splitlines()[1:]
        assert all(line in text for line in lines if "foreach" not in line)
    else:
        assert all(f"    {key}: " in text for key in ("lr", "weight_decay", "maximize"))


# --- What drop-ins have beside torch's options ---

EXTRA = [
    *((name, "cautious", True) for name in ("Adam", "AdamW")),
    ("NAdam", "amsgrad", True),
    ("Muon", "matrices", False),
    ("Muon", "beta1", 0.5),
    ("Muon", "beta2", 0.5),
]


def test_every_extra_is_here() -> None:
    extras = {(name, key) for name in DROP_INS for key in getattr(ft, name).extras}
    assert {(name, key) for name, key, _ in EXTRA} == extras


@pytest.mark.parametrize(("name", "extra", "value"), EXTRA)
def test_a_checkpoint_of_torch_leaves_what_it_does_not_say(name: str, extra: str, value: Any) -> None:
    """What torch's class does not know stays as it was given here."""
    theirs = torchs(name, several()) if name != "Muon" else torch.optim.Muon([parameter(3, 4)])
    train(theirs, 0, 2)
    saved = theirs.state_dict()
    for group in saved["param_groups"]:
        group.pop(extra, None)
    ours = new(name, [parameter(*p.shape) for p in all_parameters(theirs)], **{extra: value})
    ours.load_state_dict(through_a_file(saved))
    train(ours, 2, 3)
    assert ours.param_groups[0][extra] is value


@pytest.mark.parametrize(("name", "extra", "value"), EXTRA)
def test_torch_loads_what_it_does_not_know(name: str, extra: str, value: Any) -> None:
    ours = new(name, [parameter(3, 4)], **{extra: value})
    theirs = getattr(torch.optim, name)([parameter(3, 4)])
    train(ours, 0, 2)
    theirs.load_state_dict(through_a_file(ours.state_dict()))
    if value is not False:  # then the state is AdamW's
        train(theirs, 2, 3)


@pytest.mark.parametrize(("name", "extra", "value"), EXTRA)
def test_extras_are_saved(name: str, extra: str, value: Any) -> None:
    ours, other = new(name, several(FLOAT32), **{extra: value}), new(name, several(FLOAT32))
    other.load_state_dict(through_a_file(ours.state_dict()))
    for optimizer in (other, copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert optimizer.param_groups[0][extra] == value
    plain = new(name, several(FLOAT32))
    for optimizer in (ours, other, plain):
        train(optimizer, 0, 4)
    assert_same(tensors_of(other), tensors_of(ours))
    assert not all(same_bits(p, q) for p, q in zip(all_parameters(ours), all_parameters(plain), strict=True))
