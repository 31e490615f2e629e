"""State is torch's, and checkpoints and copies of an optimizer go on as it does."""

from __future__ import annotations




@each_class
def test_state_is_made_by_the_first_step(name: str) -> None:
    parameters = several()
    optimizer = new(name, parameters)
    if name != "Adagrad":  # as in torch, whose Adagrad may have it before
        assert not optimizer.state
    train(optimizer, 0, 1)
    assert list(optimizer.state) == parameters
    for p, state in optimizer.state.items():
        for key, value in state.items():
            assert value.shape in {p.shape, ()}, key
        if name != "SGD":
            assert state["step"].dtype == FLOAT32
            assert state["step"].shape == ()
            assert state["step"].item() == 1


def through_a_file(state_dict: Options, path: Path) -> Options:
    torch.save(state_dict, path / "checkpoint")
    loaded: Options = torch.load(path / "checkpoint", weights_only=True)
    return loaded


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@pytest.mark.parametrize("maker", [new, reference], ids=["from ours", "from torch"])
@each_class
def test_checkpoints_are_torchs(
    name: str, maker: Callable[..., Optimizer], dtype: Any, tmp_path: Path
) -> None:
    first = several(dtype)
    saving = maker(name, first)
    train(saving, 0, 7)
    checkpoint = through_a_file(saving.state_dict(), tmp_path)
    taker = reference if maker is new else new
    continuing = taker(name, [torch.nn.Parameter(p.detach().clone()) for p in first], lr=123.0)
    continuing.load_state_dict(checkpoint)
    uninterrupted = reference(name, several(dtype))
    train(uninterrupted, 0, 7)
    for t in range(7, 12):
        train(continuing, t, t + 1)
        train(uninterrupted, t, t + 1)
        assert_alike(continuing, uninterrupted, t)


@each_class
def test_state_dict_has_torchs_keys(name: str) -> None:
    ours, theirs = new(name, several()), reference(name, several())
    train(ours, 0, 1)
    train(theirs, 0, 1)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert mine.keys() == other.keys()
    assert mine["state"].keys() == other["state"].keys()
    assert other["param_groups"][0].keys() <= mine["param_groups"][0].keys()
    assert mine["param_groups"][0]["params"] == other["param_groups"][0]["params"]


@each_class
def test_loading_a_checkpoint_of_torch_keeps_the_extras(name: str) -> None:
    theirs = reference(name, [parameter(5, dtype=BFLOAT16)])
    train(theirs, 0, 2)
    p = parameter(5, dtype=BFLOAT16)
    ours = new(name, [p], clip_norm=0.5, state_dtype=FLOAT32, unscale_in_step=True)
    ours.load_state_dict(theirs.state_dict())
    assert_extras_hold(ours)


@each_class
def test_other_groups_are_refused(name: str) -> None:
    saved = new(name, several()).state_dict()
    optimizer = new(name, several()[:2])
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)
    optimizer.add_param_group({"params": several()[2:]})
    with pytest.raises(ValueError, match="parameter group"):
        optimizer.load_state_dict(saved)


def assert_extras_hold(optimizer: Optimizer) -> None:
    """clip_norm=0.5, state_dtype=float32 and unscale_in_step, seen in what a step does."""
    assert optimizer._step_supports_amp_scaling
    added = parameter(5, seed=5, dtype=BFLOAT16)
    optimizer.add_param_group({"params": [added]})
    give(all_parameters(optimizer), 3)
    norm = float(torch.cat([p.grad.flatten().double() for p in all_parameters(optimizer)]).norm())
    optimizer.step()
    assert optimizer.grad_norm == pytest.approx(norm, rel=1e-5)
    assert {value.dtype for value in optimizer.state[added].values()} == {FLOAT32}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_class
def test_copies_keep_the_extras(name: str, duplicate: Callable[[Any], Any]) -> None:
    p = parameter(5, dtype=BFLOAT16)
    optimizer = new(name, [p], clip_norm=0.5, state_dtype=FLOAT32, unscale_in_step=True)
    assert_extras_hold(duplicate(optimizer))
    train(optimizer, 0, 2)
    assert_extras_hold(duplicate(optimizer))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
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
    mine, other = tensors_of(optimizer), tensors_of(copied)
    assert mine.keys() == other.keys()
    assert all(same_bits(mine[key], other[key]) for key in mine)


@each_class
def test_prints_like_torchs(name: str) -> None:
    text = repr(new(name, several()))
    assert text.startswith(f"{name} (")
    assert all(
        line in text for line in repr(reference(name, several())).splitlines() if "foreach" not in line
    )

