"""What the compiler made: vector loops in every kernel, and nothing that another object could pick up."""

from __future__ import annotations

import inspect
import itertools
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import fusedstep as fs
from tests.helpers.internals import DECLARING, Kernel, _core

ROOT = Path(__file__).parents[2]
COMPILED = {"x86_64": ["x86_64", "x86_64_v3", "x86_64_v4"], "aarch64": ["aarch64"]}
KERNELS = "|".join(itertools.chain.from_iterable(COMPILED.values()))
OPERATION = r"(add|sub|mul|div|sqrt)"
SCALAR = dict.fromkeys(COMPILED["x86_64"], rf"\bv?{OPERATION}s{{letter}}\b") | {
    "aarch64": rf"\bf{OPERATION}\s+{{letter}}\d"
}
VECTOR = {
    "x86_64": rf"\b{OPERATION}p{{letter}}\b.*%xmm",
    "x86_64_v3": rf"\bv{OPERATION}p{{letter}}\b.*%ymm",
    "x86_64_v4": rf"\bv{OPERATION}p{{letter}}\b.*%zmm",
    "aarch64": rf"\bf{OPERATION}\s+v\d+\.\d{{letter}}",
}
SAME = {"sub": "add"}  # x - 0.5 may be compiled as x + -0.5
OWNERS = (*DECLARING, *fs.rules.values())


def kernels_of(owner: Any) -> list[Kernel]:
    """The kernels that a rule or module declares."""
    return [value for value in vars(owner).values() if isinstance(value, Kernel)]


FORMULAS = {
    sweep.name: sweep.update for owner in OWNERS for kernel in kernels_of(owner) for sweep in kernel.sweeps
}
MIXES = {
    ("float", "float", "float"),
    ("double", "double", "double"),
    ("BFloat16", "BFloat16", "BFloat16"),
    ("Float16", "Float16", "Float16"),
    ("float", "BFloat16", "float"),
    ("float", "Float16", "float"),
    ("BFloat16", "BFloat16", "float"),
    ("Float16", "Float16", "float"),
    ("float", "float", "BFloat16"),
}
"""What parameter, gradient and state are kept as where there is a loop for it."""
COUPLED = {("float", "float", "float"), ("double", "double", "double")}
"""The same with coupled decay."""

OF_C = {"_GLOBAL_OFFSET_TABLE_", "memcpy", "memset", "sqrt", "sqrtf"}
"""What a kernel may take from elsewhere: a compiler calls C's functions where it copies or fills memory."""

linux = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="needs objdump")


@pytest.fixture(scope="module")
def functions() -> dict[str, str]:
    """The code of every function in the installed module, by its name and types."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    blocks = (block.partition("\n") for block in text.split("\n\n"))
    return {title.replace("(anonymous namespace)::", ""): code for title, _, code in blocks}


@pytest.fixture(scope="module")
def disassembly(functions: dict[str, str]) -> dict[tuple[str, ...], str]:
    """The code of each kernel, by instruction set, prologue, rule and mix."""
    kernel = r"run<{0}(\w+), {0}(\w+), (?:{0})?(\w+)(?: const)?, (?:{0})?(\w+)(?:, (?:{0})?(\w+))?"
    found = matching(functions, kernel)
    rules = itertools.product(COMPILED[platform.machine()], ("Decoupled", "Coupled"), _core.kernels().items())
    assert found.keys() == {
        (isa, prologue, rule, p, g, *([s] if slots else []))
        for isa, prologue, (rule, (slots, _)) in rules
        for p, g, s in MIXES
        if prologue == "Decoupled" or (p, g, s) in COUPLED
    }
    averaged = matching(functions, r"run_averaged<{0}(\w+)")
    stepping = [rule for rule in _core.kernels() if not rule.endswith("Direction")]  # of the parameter
    assert averaged.keys() == set(itertools.product(COMPILED[platform.machine()], stepping))
    summed = matching(functions, r"run_summed<{0}(\w+)")
    assert summed.keys() == averaged.keys()
    for key, code in matching(functions, r"sweep_and_sum<{0}Decoupled<float>, {0}(\w+)").items():
        summed[key] += code  # a compiler may leave it a function of its own
    return (
        found
        | {(isa, "Averaged", rule, "float"): code for (isa, rule), code in averaged.items()}
        | {(isa, "Summed", rule, "float"): code for (isa, rule), code in summed.items()}
    )


def matching(functions: dict[str, str], pattern: str) -> dict[tuple[str, ...], str]:
    """The code whose names match, by the instruction set and what else was found in the name.

    A compiler may split a part of a function off, whose name has that of the whole in it.
    """
    space = r"fusedstep::\w+::"
    name = re.compile(r"fusedstep::(\w+)::" + pattern.format(space))
    found: dict[tuple[str, ...], str] = {}
    for title, code in functions.items():
        if match := name.search(title):
            key = tuple(filter(None, match.groups()))
            found[key] = found.get(key, "") + code
    return found


@linux
def test_every_kernel_is_vectorized(disassembly: dict[tuple[str, ...], str]) -> None:
    """Each kind of arithmetic that a kernel does one element at a time, it also does a vector at a time."""
    for key, code in disassembly.items():
        isa, prologue, rule, *mix = key
        letter = "d" if "double" in mix else "s"
        of_vectors = VECTOR[isa]
        if (
            prologue == "Summed"
        ):  # in double: beside the widest vectors of them, those of floats are half as wide
            of_vectors = of_vectors.replace("%ymm", "%[xy]mm").replace("%zmm", "%[yz]mm")
        scalar, vector = (
            {SAME.get(name, name) for name in re.findall(pattern.format(letter=letter), code)}
            for pattern in (SCALAR[isa], of_vectors)
        )
        formula = inspect.getsource(FORMULAS[rule])
        assert "mul" in vector, key
        assert "add" in vector or not re.search(" [+-] ", formula), key
        assert "sqrt" in vector or "np.sqrt" not in formula, key
        assert scalar <= vector, key


@linux
def test_every_measure_is_vectorized(functions: dict[str, str]) -> None:
    """Sums are added a vector at a time, in double precision."""
    found = matching(functions, r"run_measure<{0}(\w+), {0}(\w+), (\w+)")
    measured = [rule for owner in OWNERS for rule in kernels_of(owner) if rule.measures]
    assert found.keys() == set(
        itertools.product(
            COMPILED[platform.machine()],
            ("Decoupled", "Coupled"),
            (rule.name for rule in measured),
            ("float", "double"),
        )
    )
    for key, code in found.items():
        assert re.search(VECTOR[key[0]].format(letter="d").replace(OPERATION, "add"), code), key


@linux
def test_no_fused_multiply_add(functions: dict[str, str]) -> None:
    """A contracted a·b + c rounds once instead of twice: other bits. Nothing in kernels.cpp is."""
    compiled = [title for title in functions if re.search(rf"fusedstep::({KERNELS})::", title)]
    assert len(compiled) > 500 * len(COMPILED[platform.machine()])
    for title in compiled:
        assert not re.search(r"\bvfn?m(add|sub)|\bfn?m(add|sub)\b|\bfml[as]\b", functions[title]), title


@linux
def test_brings_no_other_threads() -> None:
    """Not linked to an OpenMP runtime: torch and NumPy's BLAS have theirs, which it would wait for."""
    headers = subprocess.run(
        ["objdump", "-p", str(_core.__file__)], capture_output=True, text=True, check=True
    ).stdout
    needed = re.findall(r"NEEDED\s+(\S+)", headers)
    assert any(name.startswith("libc.") for name in needed)
    assert not [name for name in needed if "omp" in name]


@pytest.mark.source
@linux
def test_kernel_objects_export_one_symbol() -> None:
    """No weak symbol: the linker could take one compiled for a newer processor for all."""
    objects = sorted((ROOT / "build").glob("*/CMakeFiles/kernels_*.dir/cpp/kernels/kernels.cpp.o"))
    assert len(objects) >= len(_core.isas())
    for path in objects:
        lines = subprocess.run(
            ["nm", str(path)], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        symbols = [line.split()[-2:] for line in lines]
        exported = [name for kind, name in symbols if kind.isupper() and kind != "U"]
        isa = path.parts[-4].removeprefix("kernels_").removesuffix(".dir")
        assert exported == [f"_ZN9fusedstep{len(isa)}{isa}5tableE"]
        assert not [name for kind, name in symbols if kind in "wWvVu"]
        assert {name for kind, name in symbols if kind == "U"} <= OF_C
