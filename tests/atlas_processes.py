"""Several processes of a distributed run, on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_processes(script: str, arguments: list[str], folder: Path, n: int = 2) -> list[str]:
    """Run a script in ``n`` processes, as torchrun would; the last line that each prints."""
    file, tests = folder / "script.py", Path(__file__).parent
    file.write_text(script)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent / "src")]),
        "WORLD_SIZE": str(n),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, str(file), *arguments],
            env={**common, "RANK": str(i), "LOCAL_RANK": str(i), "NODE_RANK": "0"},
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(n)
    ]
    try:
        results = [p.communicate(timeout=240) for p in processes]
    finally:
        for p in processes:
            p.kill()
    errors = [e for p, (_, e) in zip(processes, results, strict=True) if p.returncode]
    assert not errors, "\n\n".join(errors)
    return [out.strip().splitlines()[-1] for out, _ in results]
