"""Run examples of training in two processes, as torchrun would: ``torch_examples.py FOLDER EXAMPLE...``.

Each example saves its weights in the folder. All ranks fork from one process that has imported torch.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from pathlib import Path

import torch.distributed.fsdp  # noqa: F401
from torch.multiprocessing.spawn import start_processes

WORLD = 2


def run_as_rank(rank: int, port: int, example: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    sys.argv = [str(example), "--out", str(out)]
    sys.path.insert(0, str(example.parent))
    runpy.run_path(str(example), run_name="__main__")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("localhost", 0))
        port: int = server.getsockname()[1]
        return port


def main(folder: Path, examples: list[Path]) -> None:
    import torch.distributed.optim  # which warns, but not here  # noqa: F401

    start_method = "fork" if hasattr(os, "fork") else "spawn"
    for example in examples:
        out = folder / f"{example.stem}.pt"
        start_processes(run_as_rank, (free_port(), example, out), WORLD, start_method=start_method)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(example) for example in sys.argv[2:]])
