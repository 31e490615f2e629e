"""torch's classes here have its arguments and its numbers."""

from __future__ import annotations




@each_class
def test_is_of_torchs_class(name: str) -> None:
    assert issubclass(getattr(ft, name), getattr(torch.optim, name))
    assert isinstance(new(name, several()), getattr(torch.optim, name))
    assert getattr(ft, name).__name__ == name


@each_class
def test_takes_torchs_arguments_first(name: str) -> None:
    theirs = list(inspect.signature(getattr(torch.optim, name)).parameters.values())
    ours = list(inspect.signature(getattr(ft, name)).parameters.values())

    def listed(arguments: list[inspect.Parameter]) -> list[tuple[str, Any, Any]]:
        return [(argument.name, argument.default, argument.kind) for argument in arguments]

    assert listed(ours[: len(theirs)]) == listed(theirs)
    extras = {**EXTRAS, **getattr(ft, name).extras}
    assert sorted(listed(ours[len(theirs) :])) == [
        (key, value, inspect.Parameter.KEYWORD_ONLY) for key, value in sorted(extras.items())
    ]


@each_class
def test_defaults_are_torchs(name: str) -> None:
    ours, theirs = (getattr(module, name)([parameter(2)]).defaults for module in (ft, torch.optim))
    assert {key: ours[key] for key in theirs} == theirs


@pytest.mark.parametrize("name", OWN_RULES)
def test_own_rule_under_a_cycle(name: str) -> None:
    p = parameter(5, dtype=FLOAT32)
    optimizer = getattr(ft, name)([p], lr=0.01)
    assert isinstance(optimizer, torch.optim.Optimizer)
    cycles = bool({"momentum", "betas"} & optimizer.defaults.keys())
    assert cycles or name == "RMSProp"
    made = [
        torch.optim.lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3, cycle_momentum=cycles),
        torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10, cycle_momentum=cycles),
    ]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    before = closure().item()
    for _ in range(6):
        optimizer.step(closure)
        for scheduler in made:
            scheduler.step()
    assert closure().item() < before



OPTIONS: list[tuple[str, Options]] = [
    ("SGD", {"momentum": 0.0}),
    ("SGD", {"nesterov": True}),
    ("SGD", {"dampening": 0.3, "maximize": True}),
    ("SGD", {"weight_decay": torch.tensor(0.25)}),
    ("Adagrad", {"initial_accumulator_value": 0.3, "eps": 0.1, "maximize": True}),
    ("RMSprop", {"momentum": 0.0, "eps": 0.1}),
    ("RMSprop", {"centered": False, "alpha": 0.5}),
    ("RMSprop", {"momentum": 0.0, "centered": False, "maximize": True}),
    ("Adam", {"amsgrad": False, "betas": (0.0, 0.0), "eps": 0.1}),
    ("Adam", {"amsgrad": True, "betas": (0.5, 0.6), "maximize": True}),
    ("Adam", {"decoupled_weight_decay": True}),
    ("AdamW", {"amsgrad": True, "maximize": True, "eps": 0.1}),
    ("RAdam", {"decoupled_weight_decay": True, "maximize": True}),
    ("RAdam", {"betas": (0.8, 0.6)}),  # rho_inf = 4: never rectified
    ("RAdam", {"betas": (0.8, 0.7), "eps": 0.1}),  # rho_inf = 5.67: rectified from some step on
    ("NAdam", {"decoupled_weight_decay": True, "momentum_decay": 0.1}),
    ("NAdam", {"maximize": True, "betas": (0.5, 0.6), "eps": 0.1}),
    ("Adamax", {"betas": (0.0, 0.5), "maximize": True}),
    ("Adamax", {"eps": 0.5}),
    ("Adadelta", {"rho": 0.5, "eps": 0.1, "maximize": True}),
    ("Rprop", {"step_sizes": (0.008, 0.015), "maximize": True}),
    ("Rprop", {"etas": (0.3, 2.0)}),
    ("ASGD", {"t0": 5, "alpha": 0.5, "maximize": True}),
]


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
def test_options_as_in_torch(name: str, options: Options, dtype: Any) -> None:
    Beside(name, dtype=dtype, **options).steps(0, 12)


@each_class
def test_long_run(name: str) -> None:
    p, q = parameter(7), parameter(7)
    ours, theirs = new(name, [p]), reference(name, [q])
    for _ in range(50):
        train(ours, 0, 10)
        train(theirs, 0, 10)
    # 500 steps, each with a rounding of its own
    wide = 500 * torch.finfo(FLOAT32 if name in SCALARS_IN_STATE else FLOAT64).eps
    assert_close(p, q, (wide, wide), name)


@each_class
def test_groups_have_their_own_options(name: str) -> None:
    options = [{"lr": 0.02}, {"lr": 0.3, "maximize": True}]

    def groups() -> list[Options]:
        return [{"params": several()[:2], **options[0]}, {"params": several()[2:], **options[1]}]

    ours, theirs = new(name, groups()), reference(name, groups())
    for t in range(5):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@pytest.mark.parametrize("flag", ["foreach", "fused", "capturable"])
@each_class
def test_flags_change_nothing(name: str, flag: str) -> None:
    if flag not in inspect.signature(getattr(torch.optim, name)).parameters:
        with pytest.raises(TypeError, match=flag):
            new(name, several(), **{flag: True})
        return
    ours, theirs = new(name, several(), **{flag: True}), reference(name, several())
    for t in range(4):
        train(ours, t, t + 1)
        train(theirs, t, t + 1)
        assert_alike(ours, theirs, t)


@each_class
def test_plain_tensors_as_parameters(name: str) -> None:
    p, q = (random(6, seed=1).requires_grad_() for _ in range(2))
    ours, theirs = new(name, [p]), reference(name, [q])
    train(ours, 0, 3)
    train(theirs, 0, 3)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@each_class
def test_complex_parameters(name: str, dtype: Any) -> None:
    Beside(name, dtype=dtype).steps(0, 6)


@pytest.mark.parametrize("dtype", [FLOAT64, FLOAT32, BFLOAT16, FLOAT16], ids=str)
@each_class
def test_zero_lr_and_gradient_keep_every_bit(name: str, dtype: Any) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    values = [0.0, -0.0, tiny, -tiny, tiny / 2, -tiny / 4, torch.inf, -torch.inf, 1.5, -3.0, torch.nan]
    start = torch.tensor(values, dtype=FLOAT64).to(dtype).repeat(20)
    p = torch.nn.Parameter(start.clone())
    optimizer = getattr(ft, name)([p], **plain(name, lr=0.0))
    for _ in range(3):
        p.grad = torch.zeros_like(start)  # -0.0 - 0.0 * -0.0 is 0.0, so not that of the other sign
        optimizer.step()
    real = ~start.isnan()
    assert torch.equal(p.isnan(), ~real)
    assert same_bits(p.detach()[real], start[real])


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT64], ids=str)
@each_class
def test_special_gradients(name: str, dtype: Any) -> None:
    # torch's sign of NaN is 0, so its Rprop ignores NaN: see the next test
    nan = 2.0 if name == "Rprop" else torch.nan
    special = torch.tensor([nan, torch.inf, -torch.inf, 1e15, -1e15, 1e-30, 0.0, 1.0], dtype=dtype)
    p, q = parameter(99, dtype=dtype), parameter(99, dtype=dtype)
    ours, theirs = new(name, [p]), reference(name, [q])
    for t in range(4):
        g = random(99, seed=t, dtype=dtype)
        if t == 1:
            g[:80] = special.repeat(10)
        p.grad, q.grad = g, g.clone()
        ours.step()
        theirs.step()
        mine = tensors_of(ours)
        for key, value in tensors_of(theirs).items():
            finite = value.isfinite()  # where not, whether infinite or NaN is a matter of the order of terms
            assert torch.equal(mine[key].isfinite(), finite), (key, t)
            assert_close(mine[key][finite], value[finite], tolerance_of(name, dtype), (key, t))


def test_rprop_passes_nan_on() -> None:
    p = parameter(3, dtype=FLOAT32)
    p.grad = torch.tensor([1.0, torch.nan, 1.0])
    ft.Rprop([p]).step()
    assert p.isnan().tolist() == [False, True, False]



MIXED = [
    (BFLOAT16, BFLOAT16, None),
    (FLOAT16, FLOAT16, None),
    (BFLOAT16, BFLOAT16, FLOAT32),
    (FLOAT16, FLOAT16, FLOAT32),
    (BFLOAT16, FLOAT32, None),
    (BFLOAT16, FLOAT32, FLOAT32),
    (FLOAT16, FLOAT32, None),
    (FLOAT32, BFLOAT16, None),
    (FLOAT32, FLOAT16, None),
    (FLOAT32, FLOAT64, None),
    (FLOAT64, FLOAT32, None),
]


def of_type(shape: int, dtype: Any, gradient: Any) -> Tensor:
    p = parameter(shape, dtype=dtype)
    if gradient != dtype:
        p.grad_dtype = gradient
    return p


def exactly(name: str, optimizer: Optimizer, p: Tensor) -> Optimizer:
    """torch's optimizer in float64 with the same parameter, gradient and state."""
    q = torch.nn.Parameter(p.detach().to(FLOAT64, copy=True))
    q.grad = p.grad.double()
    theirs = reference(name, [q])
    for key, value in optimizer.state.get(p, {}).items():
        if torch.is_tensor(value):
            theirs.state[q][key] = value.to(FLOAT32 if key == "step" else FLOAT64, copy=True)
    return theirs


@pytest.mark.parametrize(("dtype", "gradient", "state_dtype"), MIXED, ids=str)
@each_class
def test_types_are_rounded_once(name: str, dtype: Any, gradient: Any, state_dtype: Any) -> None:
    p = of_type(4097, dtype, gradient)
    optimizer = new(name, [p], state_dtype=state_dtype)
    for t in range(8):
        p.grad = random(4097, seed=t, dtype=gradient)
        theirs = exactly(name, optimizer, p)
        optimizer.step()
        theirs.step()
        assert p.dtype == dtype
        assert p.grad.dtype == gradient
        mine = tensors_of(optimizer)
        for key, value in tensors_of(theirs).items():
            single = mine[key].dtype == FLOAT64 and gradient == FLOAT32
            tol = TOLERANCE[FLOAT32 if single else mine[key].dtype]
            assert_close(mine[key], value, tol, (key, t))


@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16], ids=str)
@each_class
def test_state_dtype_is_that_of_the_state(name: str, dtype: Any) -> None:
    p, q = parameter(9, dtype=dtype), parameter(9, dtype=dtype)
    optimizer, other = new(name, [p], state_dtype=FLOAT32), new(name, [q])
    train(optimizer, 0, 2)
    train(other, 0, 2)
    assert {value.dtype for value in optimizer.state[p].values()} == {FLOAT32}
    assert {value.dtype for value in other.state[q].values() if value.dim()} == {dtype}


@each_class
def test_loading_keeps_float32_state(name: str) -> None:
    p = parameter(50, dtype=BFLOAT16)
    optimizer = new(name, [p], state_dtype=FLOAT32)
    train(optimizer, 0, 3)
    saved = copy.deepcopy(optimizer.state_dict())
    for options in ({"state_dtype": FLOAT32}, {}):
        q = torch.nn.Parameter(p.detach().clone())
        loaded = new(name, [q], **options)
        loaded.load_state_dict(copy.deepcopy(saved))
        for key, value in optimizer.state[p].items():
            assert same_bits(loaded.state[q][key], value), key
        run_on = copy.deepcopy((optimizer, loaded))
        for each in run_on:
            train(each, 3, 5)
        first, second = (tensors_of(each) for each in run_on)
        assert first.keys() == second.keys()
        assert all(same_bits(first[key], second[key]) for key in first)

