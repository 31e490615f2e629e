"""torch's own table of optimizer configurations, each run beside torch's class on the same gradients.

torch tests its optimizers with the entries of `torch.testing._internal.common_optimizers.optim_db`. Here
every entry of the eleven classes runs with every flag its class has, and at every step each element of the
parameters and of all state tensors is compared with that of torch's plain loop. The table's error cases,
sparse settings, schedulers and the loading of older checkpoints follow.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from typing import Any

import pytest

from tests.helpers.torch_rules import close

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which torch's table imports
table = pytest.importorskip("torch.testing._internal.common_optimizers")
ft = pytest.importorskip("fusedstep.torch")

Tensor = Any
Optimizer = Any
Options = dict[str, Any]

NAMES = [
    "SGD",
    "Adagrad",
    "RMSprop",
    "Adam",
    "AdamW",
    "RAdam",
    "NAdam",
    "Adamax",
    "Adadelta",
    "Rprop",
    "ASGD",
]
INFOS = {info.name: info for info in table.optim_db if info.name in NAMES}
REAL = [torch.float32, torch.float64]
COMPLEX = [torch.complex64, torch.complex128]
SIZES = [(), (0,), (1,), (3, 5), (4095,), (4096,), (4097,), (3 * 4096 + 7,)]
STEPS = 8  # RAdam's rectification begins in the sixth
WITHOUT_GRADIENT = (4, 3)  # the step and the parameter
CAST_WHEN_LOADED = {
    "eta",
    "mu",
    "mu_product",
}  # float32, but torch's load_state_dict casts them to the parameter's
FLAGS = ("foreach", "fused", "capturable", "differentiable")

# Relative and absolute. Gradients and state are at most a few tens, so the absolute part is some roundings.
DOUBLE, SINGLE = (1e-12, 1e-12), (5e-6, 3e-6)
# In torch a tensor lr, 1 - lr * weight_decay with it, NAdam's mu_product and ASGD's eta are float32 also
# where the parameter is float64: each step has a rounding of 6e-8 of the parameter or of the update.
SINGLE_SCALARS = (5e-7, 1e-8)


# RMSprop divides a gradient by its own root mean square, also one that weight decay has almost cancelled.
SINGLE_ENLARGED = (5e-5, 3e-5)


def tolerance(name: str, dtype: Any, options: Options) -> tuple[float, float]:
    if dtype in {torch.float32, torch.complex64}:
        return SINGLE_ENLARGED if name == "RMSprop" else SINGLE
    has_tensor = any(torch.is_tensor(value) for value in options.values())
    return SINGLE_SCALARS if name in {"NAdam", "ASGD"} or has_tensor else DOUBLE


def torch_class(name: str) -> Any:
    return getattr(torch.optim, name)


def loop(name: str, parameters: Any, options: Options) -> Optimizer:
    """torch's class as its plain loop; betas as floats, for with tensors it takes their powers in float32."""
    kept = {key: value for key, value in options.items() if key not in FLAGS}
    if "betas" in kept:
        kept["betas"] = tuple(float(beta) for beta in kept["betas"])
    return torch_class(name)(parameters, **kept, foreach=False)


@cache
def start(dtype: Any) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, dtype=dtype, generator=generator) for size in SIZES]


@cache
def gradients(dtype: Any) -> list[list[Tensor]]:
    """For each step and parameter; of varied size, and a few are zeros of either sign."""
    generator = torch.Generator().manual_seed(2)
    steps = []
    for t in range(STEPS):
        scale = (1.0, 0.3, 3.0, 0.01)[t % 4]
        tensors = [scale * torch.randn(size, dtype=dtype, generator=generator) for size in SIZES]
        for g in tensors:
            g.view(-1)[t::11] = 0.0 if t % 2 else -0.0
        steps.append(tensors)
    return steps


def parameters_of(dtype: Any) -> list[Tensor]:
    return [torch.nn.Parameter(p.clone()) for p in start(dtype)]


def give_gradients(parameters: list[Tensor], dtype: Any, t: int) -> None:
    for i, (p, g) in enumerate(zip(parameters, gradients(dtype)[t], strict=True)):
        p.grad = None if (t, i) == WITHOUT_GRADIENT else g.clone()


def assert_close(ours: Tensor, theirs: Tensor, tol: tuple[float, float], context: Any) -> None:
    assert ours.shape == theirs.shape, context
    ours, theirs = (torch.view_as_real(x) if x.is_complex() else x for x in (ours.detach(), theirs.detach()))
    # The state of a float64 parameter has float32 scalars.
    rtol, atol = max(tol, SINGLE) if theirs.dtype == torch.float32 else tol
    if not close(ours.to(theirs.dtype), theirs, rtol, atol):
        pytest.fail(f"{context}: off by {float((ours - theirs).abs().max())}")


def assert_alike(ours: Optimizer, theirs: Optimizer, tol: tuple[float, float], context: Any) -> None:
    """Every parameter and every state tensor, under the same names."""
    for group, other in zip(ours.param_groups, theirs.param_groups, strict=True):
        for i, (p, q) in enumerate(zip(group["params"], other["params"], strict=True)):
            assert_close(p, q, tol, ("parameter", i, context))
            state, expected = ours.state.get(p, {}), theirs.state.get(q, {})
            assert state.keys() == expected.keys(), (i, context)
            for key, value in expected.items():
                assert state[key].dtype == value.dtype or key in CAST_WHEN_LOADED, (key, i, context)
                assert_close(state[key], value, tol, (key, i, context))


def entries(name: str) -> list[Any]:
    """The class's configurations, plain and with each flag; foreach and capturable torch lists for CUDA."""
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        flagged = table._get_optim_inputs_including_global_cliquey_kwargs(device, None, INFOS[name])
        for entry in INFOS[name].optim_inputs_func(device=device) + flagged:
            given = {k: v for k, v in entry.kwargs.items() if k not in FLAGS or v}
            found.setdefault(repr(sorted(given.items(), key=lambda item: item[0])), entry)
    return list(found.values())


def plain_entries(name: str) -> list[Any]:
    return list(INFOS[name].optim_inputs_func(device="cpu"))


def cases(*, with_flag: tuple[str, ...] = (), without: tuple[str, ...] = ()) -> list[Any]:
    return [
        pytest.param(name, entry.kwargs, id=f"{name}-{entry.desc}")
        for name in NAMES
        for entry in entries(name)
        if all(entry.kwargs.get(flag) for flag in with_flag)
        and not any(entry.kwargs.get(flag) for flag in without)
    ]


PLAIN = [
    pytest.param(name, entry.kwargs, id=f"{name}-{entry.desc}")
    for name in NAMES
    for entry in plain_entries(name)
]


def foreach_refuses_tensor(options: Options) -> bool:
    lr = options.get("lr")
    return bool(options.get("foreach")) and torch.is_tensor(lr) and not options.get("capturable")


def run_beside(name: str, dtype: Any, options: Options) -> None:
    mine, reference = parameters_of(dtype), parameters_of(dtype)
    ours = getattr(ft, name)(mine, **deepcopy(options))
    theirs = loop(name, reference, deepcopy(options))
    for t in range(STEPS):
        give_gradients(mine, dtype, t)
        give_gradients(reference, dtype, t)
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, tolerance(name, dtype, options), t)


def test_table_has_each_class() -> None:
    assert sorted(INFOS) == sorted(NAMES)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("name", "options"), cases(without=("differentiable",)))
def test_steps_like_torch(name: str, options: Options, dtype: Any) -> None:
    if foreach_refuses_tensor(options):
        options = {**options, "foreach": None}  # what the table's error cases are about
    run_beside(name, dtype, options)


# torch's fused classes refuse complex numbers
@pytest.mark.parametrize(
    ("name", "options", "dtype"),
    [
        pytest.param(*case.values, dtype, id=f"{case.id}-{dtype}")
        for dtype, chosen in zip(
            COMPLEX, (cases(without=("differentiable", "fused", "foreach")), PLAIN), strict=True
        )
        for case in chosen
    ],
)
def test_complex_steps_like_torch(name: str, options: Options, dtype: Any) -> None:
    assert INFOS[name].supports_complex
    run_beside(name, dtype, options)


@pytest.mark.parametrize(("name", "options"), cases(with_flag=("differentiable",)))
def test_differentiable_is_refused(name: str, options: Options) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match="differentiable"):
        getattr(ft, name)([p], **deepcopy(options)).step()
    assert torch.equal(p.detach(), torch.ones(3))


@pytest.mark.parametrize("other", ["foreach", "differentiable"])
@pytest.mark.parametrize("name", [name for name in NAMES if "fused" in INFOS[name].supported_impls])
def test_fused_excludes_other_flags(name: str, other: str) -> None:
    p = torch.nn.Parameter(torch.ones(3))
    with pytest.raises((RuntimeError, ValueError), match=other):
        getattr(ft, name)([p], fused=True, **{other: True})


def error_cases() -> list[Any]:
    return [
        pytest.param(name, i, id=f"{name}-{case.optimizer_error_input.desc}")
        for name in NAMES
        for i, case in enumerate(INFOS[name].optim_error_inputs_func(device="cpu", dtype=torch.float32))
    ]


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("name", "index"), error_cases())
def test_errors_are_torchs(name: str, index: int, dtype: Any) -> None:
    case = INFOS[name].optim_error_inputs_func(device="cpu", dtype=dtype)[index]
    parameters, options = case.optimizer_error_input.params, case.optimizer_error_input.kwargs
    assert case.error_on is table.OptimizerErrorEnum.CONSTRUCTION_ERROR
    if parameters is None:
        parameters = [torch.nn.Parameter(torch.ones(2, dtype=dtype))]
    expected = pytest.warns if issubclass(case.error_type, Warning) else pytest.raises
    for optimizer in (torch_class(name), getattr(ft, name)):
        with expected(case.error_type, match=case.error_regex):
            optimizer(parameters, **options)


SCHEDULED = [
    pytest.param(name, constructors, id=f"{name}-{i}")
    for name in NAMES
    for i, constructors in enumerate(INFOS[name].scheduler_inputs)
]


def schedule(optimizer: Optimizer, constructors: list[Any]) -> list[Any]:
    return [constructor(optimizer) for constructor in constructors]


def advance(schedulers: list[Any]) -> None:
    """One epoch without any progress, which is what ReduceLROnPlateau waits for."""
    for scheduler in schedulers:
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(1.0)
        else:
            scheduler.step()


@pytest.mark.parametrize(("name", "constructors"), SCHEDULED)
def test_schedulers_of_the_table(name: str, constructors: list[Any]) -> None:
    dtype = torch.float64
    mine, reference = (torch.nn.Parameter(start(dtype)[3].clone()) for _ in range(2))
    ours = getattr(ft, name)([mine], lr=0.1)
    theirs = loop(name, [reference], {"lr": 0.1})
    schedulers, others = schedule(ours, constructors), schedule(theirs, constructors)
    for t in range(25):  # ReduceLROnPlateau waits for ten, StepLR steps at the tenth
        mine.grad, reference.grad = (gradients(dtype)[t % STEPS][3].clone() for _ in range(2))
        ours.step()
        theirs.step()
        advance(schedulers)
        advance(others)
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
        assert_alike(ours, theirs, tolerance(name, dtype, {}), t)
    assert theirs.param_groups[0]["lr"] != 0.1


def sparse_gradient(kind: str, t: int, dtype: Any) -> Tensor:
    """For a parameter of 6 by 4."""
    generator = torch.Generator().manual_seed(t)
    if kind == "empty":
        return torch.sparse_coo_tensor(
            torch.zeros(2, 0, dtype=torch.int64), torch.zeros(0, dtype=dtype), (6, 4)
        )
    if kind == "rows":  # as of an embedding, with a row that comes twice
        indices = torch.tensor([[4, t % 6, 4]])
        values = torch.randn(3, 4, dtype=dtype, generator=generator)
    else:
        indices = torch.tensor([[0, t % 6, 5, 0], [1, 2, 3, 1]])
        values = torch.randn(4, dtype=dtype, generator=generator)
    g = torch.sparse_coo_tensor(indices, values, (6, 4))
    return g.coalesce() if kind == "coalesced" else g


SPARSE = [name for name in NAMES if INFOS[name].supports_sparse]


def test_sparse_classes_of_the_table() -> None:
    assert sorted(SPARSE) == ["Adagrad", "SGD"]


@pytest.fixture
def _checked_sparse_tensors() -> Iterator[None]:
    """torch warns where neither this nor its opposite has been asked for."""
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        yield


@pytest.mark.usefixtures("_checked_sparse_tensors")
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("kind", ["coalesced", "repeated", "rows", "empty"])
@pytest.mark.parametrize("name", SPARSE)
def test_sparse_settings_of_the_table(name: str, kind: str, maximize: bool, dtype: Any) -> None:
    options, constructors = INFOS[name].metadata_for_sparse
    options = {**options, "maximize": maximize}
    first = torch.randn(6, 4, dtype=dtype, generator=torch.Generator().manual_seed(3))
    mine, reference = (torch.nn.Parameter(first.clone()) for _ in range(2))
    ours, theirs = getattr(ft, name)([mine], **options), loop(name, [reference], options)
    schedulers, others = schedule(ours, constructors), schedule(theirs, constructors)
    for t in range(STEPS):
        for p in (mine, reference):
            p.grad = torch.ones_like(p) if t == 5 else sparse_gradient(kind, t, dtype)  # a dense one between
        ours.step()
        theirs.step()
        advance(schedulers)
        advance(others)
        assert_alike(ours, theirs, tolerance(name, dtype, {}), t)


@pytest.mark.parametrize(
    ("name", "options", "number"),
    [
        *(pytest.param(*case.values, float, id=case.id) for case in PLAIN),
        *(pytest.param(name, {}, torch.tensor, id=f"{name}-tensor") for name in NAMES),
    ],
)
def test_older_checkpoints_load(name: str, options: Options, number: Any) -> None:
    """Without the options its class got later, and with the count of steps as a number, or as now."""
    dtype = torch.float64
    mine, reference = parameters_of(dtype), parameters_of(dtype)
    theirs = loop(name, reference, deepcopy(options))
    for t in range(3):
        give_gradients(reference, dtype, t)
        theirs.step()
    checkpoint = deepcopy(theirs.state_dict())
    for group in checkpoint["param_groups"]:
        for flag in INFOS[name].not_og_supported_flags:
            group.pop(flag, None)
    for state in checkpoint["state"].values():
        if "step" in state:
            state["step"] = number(float(state["step"]))
    ours = getattr(ft, name)(mine, **deepcopy(options))
    with torch.no_grad():
        for p, q in zip(mine, reference, strict=True):
            p.copy_(q)
    ours.load_state_dict(deepcopy(checkpoint))
    theirs.load_state_dict(deepcopy(checkpoint))
    for t in range(3, 7):
        give_gradients(mine, dtype, t)
        give_gradients(reference, dtype, t)
        ours.step()
        theirs.step()
        assert_alike(ours, theirs, tolerance(name, dtype, options), t)
