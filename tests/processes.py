"""Commands run as two processes that share the work."""

import pathlib
import socket
import subprocess
from collections.abc import Callable, Sequence


def run_two(
    command: Sequence[str],
    root: pathlib.Path,
    *,
    seconds: float,
    meanwhile: Callable[[list[subprocess.Popen[str]]], None] = lambda _: None,
) -> tuple[list[int], list[str]]:
    """Exit status and output of processes 0 and 1 of a command, on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = [*command, f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    processes = [
        subprocess.Popen(
            [*common, f"--process_id={index}"],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    try:
        meanwhile(processes)
        texts = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], texts
