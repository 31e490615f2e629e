"""What the compiler made: vector loops in every kernel, and nothing that another object could pick up."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from fusedstep import _core

ROOT = Path(__file__).parents[1]
REGISTERS = {"x86_64": "xmm", "x86_64_v3": "ymm", "x86_64_v4": "ymm"}
NUMBERS = {"float": "s", "double": "d"}

linux = pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="needs objdump")


@pytest.fixture(scope="module")
def disassembly() -> dict[tuple[str, ...], str]:
    """The code of each kernel in the installed module, by instruction set, prologue, rule and number type."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", str(_core.__file__)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    space = r"fusedstep::\w+::\(anonymous namespace\)::"
    name = re.compile(rf"fusedstep::(\w+)::\(anonymous namespace\)::run<{space}(\w+), {space}(\w+), (\w+)")
    functions = {}
    for block in text.split("\n\n"):
        if match := name.search(block.partition("\n")[0]):
            functions[match.groups()] = block
    return functions


@linux
def test_every_kernel_is_vectorized(disassembly: dict[tuple[str, ...], str]) -> None:
    """Each kind of arithmetic that a kernel does one element at a time, it also does a vector at a time."""
    isas = {isa.replace("-", "_") for isa in _core.isas()} & REGISTERS.keys()
    if not isas:
        pytest.skip("x86-64 only")
    for isa in isas:
        for rule in _core.kernels():
            for prologue in ("Decoupled", "Coupled"):
                for number, suffix in NUMBERS.items():
                    code = disassembly[isa, prologue, rule, number]
                    scalar = set(re.findall(rf"\bv?(add|sub|mul|div|sqrt)s{suffix}\b", code))
                    vector = Counter(
                        re.findall(rf"\bv?(add|sub|mul|div|sqrt)p{suffix}\b.*%{REGISTERS[isa]}", code)
                    )
                    assert {"mul", "sub"} <= scalar | vector.keys()
                    assert scalar <= vector.keys(), (isa, rule, prologue, number)
                    assert ("sqrt" in vector) == (rule not in {"SGD", "Momentum", "EMAMomentum", "Nesterov"})


@linux
def test_no_fused_multiply_add(disassembly: dict[tuple[str, ...], str]) -> None:
    """A contracted a·b + c rounds once instead of twice: other bits."""
    for key, code in disassembly.items():
        assert not re.search(r"\bvf[n]?m(add|sub)", code), key


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
