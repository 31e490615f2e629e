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

import pytest

import fusedstep as fs
from fusedstep import _core, average
from fusedstep.kernel import Kernel

ROOT = Path(__file__).parents[1]
COMPILED = {"x86_64": ["x86_64", "x86_64_v3", "x86_64_v4"], "aarch64": ["aarch64"]}
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
FORMULAS = {
    kernel.name: kernel.update
    for owner in (average, *fs.rules.values())
    for kernel in vars(owner).values()
    if isinstance(kernel, Kernel)
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

linux = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="needs objdump")


@pytest.fixture(scope="module")
def disassembly() -> dict[tuple[str, ...], str]:
    """The code of each kernel in the installed module, by instruction set, prologue, rule and mix."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    space = r"fusedstep::\w+::\(anonymous namespace\)::"
    kernel = rf"{space}(\w+), {space}(\w+)" + 3 * rf", (?:{space})?(\w+)"
    name = re.compile(rf"fusedstep::(\w+)::\(anonymous namespace\)::run<{kernel}")
    functions = {}
    for block in text.split("\n\n"):
        if match := name.search(block.partition("\n")[0]):
            functions[match.groups()] = block
    rules = itertools.product(COMPILED[platform.machine()], ("Decoupled", "Coupled"), _core.kernels().items())
    assert functions.keys() == {
        (isa, prologue, rule, p, g, s if slots else p)
        for isa, prologue, (rule, (slots, _)) in rules
        for p, g, s in MIXES
    }
    return functions


@linux
def test_every_kernel_is_vectorized(disassembly: dict[tuple[str, ...], str]) -> None:
    """Each kind of arithmetic that a kernel does one element at a time, it also does a vector at a time."""
    for key, code in disassembly.items():
        isa, _prologue, rule, *mix = key
        letter = "d" if "double" in mix else "s"
        scalar, vector = (
            {SAME.get(name, name) for name in re.findall(pattern[isa].format(letter=letter), code)}
            for pattern in (SCALAR, VECTOR)
        )
        assert {"mul", "add"} <= vector, key
        assert scalar <= vector, key
        assert ("sqrt" in vector) == ("np.sqrt" in inspect.getsource(FORMULAS[rule])), key


@linux
def test_no_fused_multiply_add(disassembly: dict[tuple[str, ...], str]) -> None:
    """A contracted a·b + c rounds once instead of twice: other bits."""
    for key, code in disassembly.items():
        assert not re.search(r"\bvfn?m(add|sub)|\bfn?m(add|sub)\b|\bfml[as]\b", code), key


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
    objects = sorted((ROOT / "build").glob("*/CMakeFiles/kernels_*.dir/cpp/kernels.cpp.o"))
    assert len(objects) >= len(_core.isas())
    for path in objects:
        lines = subprocess.run(
            ["nm", str(path)], capture_output=True, text=True, check=True
        ).stdout.splitlines()
        symbols = [line.split()[-2:] for line in lines]
        exported = [name for kind, name in symbols if kind.isupper() and kind != "U"]
        isa = path.parts[-3].removeprefix("kernels_").removesuffix(".dir")
        assert exported == [f"_ZN9fusedstep{len(isa)}{isa}5tableE"]
        assert not [name for kind, name in symbols if kind in "wWvVu"]
        assert {name for kind, name in symbols if kind == "U"} <= {"_GLOBAL_OFFSET_TABLE_", "sqrt", "sqrtf"}
