"""Gradients that GradScaler has scaled, and gradients that the step clips."""

from __future__ import annotations




def scaled_step(scaler: Any, optimizer: Optimizer, t: int, *, bad: float | None = None) -> None:
    """A step with gradients as backward leaves them under the scaler."""
    parameters = all_parameters(optimizer)
    give(parameters, t)
    scale = scaler.scale(torch.ones(()))  # also what makes the scaler begin
    for p in parameters:
        p.grad = p.grad * scale.to(p.grad.dtype)
    if bad is not None:
        parameters[0].grad.view(-1)[1] = bad
    scaler.step(optimizer)
    scaler.update()


def scaler_of(scale: float = 2.0**10) -> Any:
    return torch.amp.GradScaler("cpu", init_scale=scale)


@each_class
def test_scaler_by_its_default_path(name: str) -> None:
    beside = Beside(name, dtype=FLOAT32)
    assert not getattr(beside.ours, "_step_supports_amp_scaling", False)
    scalers = [scaler_of(), scaler_of()]
    for t in range(5):
        for scaler, optimizer in zip(scalers, beside.all(), strict=True):
            scaled_step(scaler, optimizer, t, bad=torch.inf if t == 2 else None)
        beside.check(t)
    assert scalers[0].get_scale() == scalers[1].get_scale() == 2.0**9


def opting_in() -> list[Any]:
    return [pytest.param(name, {"unscale_in_step": True}, id=name) for name in RULES] + [
        pytest.param(name, {"fused": True}, id=f"{name}-fused") for name in WITH_FUSED
    ]


@pytest.mark.parametrize("bad", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize(("name", "options"), opting_in())
def test_scaler_with_unscaling_in_the_step(name: str, options: Options, bad: float) -> None:
    ours, theirs = new(name, several(), **options), reference(name, several())
    assert ours._step_supports_amp_scaling
    scaler = scaler_of()
    for t in range(5):
        if t == 2:
            with Unchanged(ours):
                scaled_step(scaler, ours, t, bad=bad)
            assert scaler.get_scale() == 2.0**9
            continue
        scale = scaler.get_scale()
        scaled_step(scaler, ours, t)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)
        for p, q in zip(all_parameters(ours), all_parameters(theirs), strict=True):
            assert torch.equal(p.grad, q.grad * scale)


@pytest.mark.parametrize(("name", "options"), opting_in())
def test_first_step_with_infinity_makes_nothing(name: str, options: Options) -> None:
    optimizer = new(name, several(), **options)
    parameters = [p.detach().clone() for p in all_parameters(optimizer)]
    scaled_step(scaler_of(), optimizer, 0, bad=torch.inf)
    for p, q in zip(all_parameters(optimizer), parameters, strict=True):
        assert same_bits(p, q)
        assert optimizer.state.get(p, {}).get("step", torch.zeros(())).item() == 0


@pytest.mark.parametrize(("name", "options"), opting_in())
def test_gradients_the_user_has_unscaled(name: str, options: Options) -> None:
    """Then the scaler sets grad_scale to None."""
    ours, theirs = new(name, several(), **options), reference(name, several())
    scaler = scaler_of()

    def step(t: int, bad: float | None) -> None:
        give(all_parameters(ours), t)
        scale = scaler.scale(torch.ones((), dtype=FLOAT64))
        for p in all_parameters(ours):
            p.grad *= scale
        if bad is not None:
            all_parameters(ours)[0].grad[0, 1] = bad
        scaler.unscale_(ours)
        scaler.step(ours)
        scaler.update()

    for t in range(2):
        step(t, None)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)
    with Unchanged(ours):
        step(2, torch.nan)


@pytest.mark.parametrize("scale", [1000.0, 3.0, 1 / 3])
@each_class
def test_any_scale(name: str, scale: float) -> None:
    ours, theirs = new(name, several(FLOAT32), unscale_in_step=True), reference(name, several(FLOAT32))
    scaler = scaler_of(scale)
    for t in range(3):
        scaled_step(scaler, ours, t)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@each_class
def test_scale_and_flag_as_attributes(name: str) -> None:
    ours, theirs = new(name, several(), unscale_in_step=True), reference(name, several())
    train(ours, 0, 1)
    train(theirs, 0, 1)
    ours.grad_scale, ours.found_inf = torch.tensor(8.0), torch.tensor(0.0)
    give(all_parameters(ours), 1)
    for p in all_parameters(ours):
        p.grad *= 8
    ours.step()
    train(theirs, 1, 2)
    assert_alike(ours, theirs)
    ours.found_inf = torch.tensor(1.0)
    with Unchanged(ours):
        ours.step()
    del ours.grad_scale, ours.found_inf
    train(ours, 2, 3)
    train(theirs, 2, 3)
    assert_alike(ours, theirs)


@each_class
def test_scaler_with_float16_gradients(name: str) -> None:
    """Which the scaler's default path refuses."""
    p = parameter(50, dtype=FLOAT16)
    optimizer = new(name, [p], unscale_in_step=True, state_dtype=FLOAT32)
    scaler = scaler_of(4.0)
    for t in range(3):
        give([p], t)
        theirs = exactly(name, optimizer, p)
        scaled_step(scaler, optimizer, t)
        theirs.step()
        assert_close(p, all_parameters(theirs)[0], TOLERANCE[FLOAT16], t)


def clipped_step(theirs: Optimizer, limit: float, t: int, *without: int) -> float:
    give(all_parameters(theirs), t, *without)
    norm = torch.nn.utils.clip_grad_norm_(all_parameters(theirs), limit)
    theirs.step()
    return float(norm)


@pytest.mark.parametrize("limit", [0.5, 1e6])
@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64, torch.complex64], ids=str)
@each_class
def test_clip_norm(name: str, dtype: Any, limit: float) -> None:
    def groups() -> list[Options]:
        parameters = several(dtype)
        return [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.03}]

    ours, theirs = new(name, groups(), clip_norm=limit), reference(name, groups())
    for t, without in enumerate([(), (), (1,), ()]):
        give(all_parameters(ours), t, *without)
        before = [None if p.grad is None else p.grad.clone() for p in all_parameters(ours)]
        ours.step()
        norm = clipped_step(theirs, limit, t, *without)
        assert isinstance(ours.grad_norm, float)
        assert ours.grad_norm == pytest.approx(norm, rel=1e-12 if dtype == FLOAT64 else 1e-5)
        # torch rounds norm and factor to the gradient's type, and RMSprop's division enlarges that
        assert_alike(ours, theirs, t, wider=1 if dtype == FLOAT64 else 10)
        for p, g in zip(all_parameters(ours), before, strict=True):
            assert p.grad is None if g is None else same_bits(p.grad, g)


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_clip_norm_of_infinity(bad: float) -> None:
    ours, theirs = new("SGD", several(), clip_norm=0.5), reference("SGD", several())
    for optimizer in (ours, theirs):
        give(all_parameters(optimizer), 0)
        all_parameters(optimizer)[0].grad[0, 1] = bad
    ours.step()
    torch.nn.utils.clip_grad_norm_(all_parameters(theirs), 0.5)
    theirs.step()
    assert not torch.tensor(ours.grad_norm).isfinite()
    for p, q in zip(all_parameters(ours), all_parameters(theirs), strict=True):
        finite = q.isfinite()
        assert torch.equal(p.isfinite(), finite)
        assert_close(p[finite], q[finite], TOLERANCE[FLOAT64], bad)


@each_class
def test_clip_norm_of_unscaled_gradients(name: str) -> None:
    ours = new(name, several(), clip_norm=0.5, unscale_in_step=True)
    theirs = reference(name, several())
    scaler = scaler_of()
    for t in range(3):
        scaled_step(scaler, ours, t)
        norm = clipped_step(theirs, 0.5, t)
        assert ours.grad_norm == pytest.approx(norm, rel=1e-12)
        assert_alike(ours, theirs, t)


@each_class
def test_clip_norm_without_any_gradient(name: str) -> None:
    optimizer = new(name, several(), clip_norm=0.5)
    with Unchanged(optimizer):
        optimizer.step()
    assert optimizer.grad_norm == 0.0


@each_class
def test_a_model_trains_alike(name: str) -> None:
    def model() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(4, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)).double()

    first = model()
    second = copy.deepcopy(first)
    inputs, targets = random(64, 4, seed=1), random(64, 1, seed=2)
    losses: list[list[float]] = []
    for net, maker in ((first, new), (second, reference)):
        optimizer = maker(name, net.parameters())
        losses.append([])
        for _ in range(10):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(inputs), targets)
            loss.backward()
            optimizer.step()
            losses[-1].append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0][-1] < losses[0][0]
