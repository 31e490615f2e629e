"""Arrays that the optimizer has, or was given before, changed in place between steps."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from tests.fuzz.arrays import SENTINEL, Array
from tests.fuzz.mistakes import Mistake
from tests.fuzz.subject import Subject
from tests.fuzz.wrong_gradients import all_state, good

Way: TypeAlias = Callable[[Array], AbstractContextManager[None]]

SAME_SIZE: dict[int, list[Any]] = {
    2: ["f2", ml_dtypes.bfloat16, "i2"],
    4: ["f4", "i4", ">f4"],
    8: ["f8", "i8", ">f8", "c8"],
}


@contextmanager
def changed(array: Array, name: str, value: Any) -> Iterator[None]:
    """An array of which one attribute is another; afterwards it is as before."""
    kept = getattr(array, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        setattr(array, name, value)
        try:
            yield
        finally:
            setattr(array, name, kept)


@contextmanager
def frozen(array: Array) -> Iterator[None]:
    """An array that is read-only."""
    array.setflags(write=False)
    try:
        yield
    finally:
        array.setflags(write=True)


@contextmanager
def resized(array: Array, shape: tuple[int, ...]) -> Iterator[None]:
    """An array of which the memory is another one, in its old shape again afterwards."""
    kept = array.copy()
    array.resize(shape, refcheck=False)
    others = [np.full(kept.shape, SENTINEL, kept.dtype) for _ in range(4)]  # where the array was, if may be
    try:
        yield
    finally:
        assert all((other == SENTINEL).all() for other in others), "memory of other arrays was written"
        array.resize(kept.shape, refcheck=False)
        array[...] = kept


def a_way(rng: random.Random, a: Array) -> tuple[str, Way]:
    """A way to change such an array that NumPy allows."""
    dtype = rng.choice([kind for kind in map(np.dtype, SAME_SIZE[a.itemsize]) if kind != a.dtype])
    ways: dict[str, Way] = {"read-only": frozen, f"dtype {dtype}": lambda a: changed(a, "dtype", dtype)}
    if a.size > 1 and a.strides == np.empty(a.shape, a.dtype).strides:  # or they would come back as others
        shape = rng.choice([(a.size, 1), (1, a.size), a.shape[::-1], (1, *a.shape)])
        if a.itemsize > 2:
            ways["dtype f2"] = lambda a: changed(a, "dtype", np.dtype("f2"))
        if shape != a.shape:
            ways[f"shape {shape}"] = lambda a: changed(a, "shape", shape)
        if (
            isinstance(a.base, np.ndarray) and a.base.dtype == a.dtype
        ):  # an array of its own could not be given its strides back
            ways["strides 0"] = lambda a: changed(a, "strides", (0,) * a.ndim)
        if a.ndim > 1 and len(set(a.shape)) == 1:
            ways["strides reversed"] = lambda a: changed(a, "strides", a.strides[::-1])
    return rng.choice(list(ways.items()))


def changed_parameter(rng: random.Random, subject: Subject) -> Mistake:
    """A parameter is not any more what it was when the optimizer was made."""
    name = rng.choice(list(subject.params))
    array = subject.params[name].array
    what, way = a_way(rng, array)
    return stepped(rng, subject, name, f"parameter {name!r}, {array.shape}", what, lambda: way(array))


def changed_state(rng: random.Random, subject: Subject) -> Mistake | None:
    """An array of the state, which the user can see, is not what it was; a step may do without it."""
    state = all_state(subject)
    if not state:
        return None
    (name, slot), array = rng.choice(list(state.items()))
    what, way = a_way(rng, array)
    mistake = stepped(
        rng, subject, name, f"state {slot!r} {array.shape} of {name!r}", what, lambda: way(array)
    )
    grads = mistake.given
    mistake.honest = lambda twin: twin.opt.step(
        twin.formed(dict(zip(twin.params, grads, strict=True))), loss=20.0
    )
    return mistake


def resized_array(rng: random.Random, subject: Subject) -> Mistake | None:
    """A parameter, or an array of the state, lies elsewhere in memory, and what was there is free."""
    arrays = {(name, None): p.array for name, p in subject.params.items()} | all_state(subject)
    owners = {place: a for place, a in arrays.items() if a.flags.owndata and a.size}
    if not owners:
        return None
    (name, slot), array = rng.choice(list(owners.items()))
    shapes = [(0,), (1,), (array.size + 1,), (10 * array.size,), (1 << 20,), (2, *array.shape)]
    shape = rng.choice([shape for shape in shapes if shape != array.shape])
    mistake = stepped(
        rng,
        subject,
        name,
        f"{slot or 'parameter'} of {name!r}",
        f"size {shape}",
        lambda: resized(array, shape),
    )
    mistake.last = True
    return mistake


def stepped(
    rng: random.Random,
    subject: Subject,
    name: Hashable,
    of: str,
    what: str,
    alteration: Callable[[], AbstractContextManager[None]],
) -> Mistake:
    """A step while an array of the parameter is changed."""
    grads: dict[Hashable, Any] = good(rng, subject)
    shape, dtype = grads[name].shape, grads[name].dtype
    if rng.random() < 0.3:
        grads = {key: g if key == name else None for key, g in grads.items()}

    fitting = rng.random() < 0.5  # the gradient has the shape that the parameter has by then

    def attempt() -> None:
        with alteration():
            p = subject.params[name].array
            fit = {name: np.ones(p.shape, dtype)} if fitting and p.shape != shape else {}
            subject.opt.step(subject.formed({**grads, **fit}), loss=20.0)

    return Mistake(f"{of} changed: {what}", attempt, (repr(name),), given=list(grads.values()))


def changed_gradient(rng: random.Random, subject: Subject) -> Mistake:
    """A gradient of an earlier step comes again, and is not what it was; it may still be one."""
    grads = good(rng, subject)
    copies = {key: g.copy()[...] for key, g in grads.items()}
    name = rng.choice(list(grads))
    what, way = a_way(rng, grads[name])

    def step(of: Subject, given: dict[Hashable, Array]) -> None:
        with np.errstate(all="ignore"):
            of.opt.step(of.formed(given), loss=20.0)

    def again(of: Subject, given: dict[Hashable, Array]) -> None:
        with way(given[name]):
            step(of, given)

    return Mistake(
        f"gradient {name!r} given again, changed: {what}",
        lambda: again(subject, grads),
        (f"gradient {name!r}",),
        honest=lambda twin: again(twin, copies),
        given=list(grads.values()),
        first=lambda of: step(of, grads if of is subject else copies),
    )


def changed_within(rng: random.Random, subject: Subject) -> Mistake:
    """A schedule changes a parameter, or a gradient, which may still be one, before the step reads it."""
    grads = good(rng, subject)
    copies = {key: g.copy() for key, g in grads.items()}
    name, of_gradient = rng.choice(list(grads)), rng.random() < 0.5
    array = grads[name] if of_gradient else subject.params[name].array
    what, way = a_way(rng, array)
    if array.flags.owndata and rng.random() < 0.5:
        size = rng.choice([size for size in (1, 1 << 20) if (size,) != array.shape])
        what, way = "resized", lambda a: resized(a, (size,))
    group = subject.opt.groups[rng.choice(subject.groups())]
    kept = group["lr"]

    def attempt() -> None:
        with ExitStack() as stack:

            def schedule(t: int) -> Any:
                stack.enter_context(way(array))
                return kept(t) if callable(kept) else kept

            group["lr"] = schedule
            stack.callback(group.__setitem__, "lr", kept)
            subject.opt.step(subject.formed(grads), loss=20.0)

    def honest(twin: Subject) -> None:
        with way(copies[name]) if of_gradient else nullcontext():
            twin.opt.step(twin.formed(copies), loss=20.0)

    return Mistake(
        f"{'gradient' if of_gradient else 'parameter'} {name!r} {array.shape} changed by a schedule: {what}",
        attempt,
        (repr(name),),
        errors=(TypeError, ValueError, RuntimeError),
        honest=honest,
        last=what == "resized" and not of_gradient,
    )
