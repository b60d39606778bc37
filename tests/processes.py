# SPDX-License-Identifier: Apache-2.0
"""Processes that start at once: forked from a server that has imported PyTorch and Megatron-core already.

A Python process needs five seconds of a core for those imports; the tests start some two hundred.
"""

import faulthandler
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


class Process(_CONTEXT.Process):
    """``python program arguments``, or ``python -m program arguments``; polled and killed like a ``subprocess.Popen``."""

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str], stdout: Path, stderr: Path):
        # The server keeps the environment in which the first process is started.
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        for path in (stdout, stderr):
            path.touch()  # may be read before the process has begun
        super().__init__(target=_run, args=(program, arguments, environment, stdout, stderr))
        self.start()

    def poll(self) -> int | None:
        return self.exitcode

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> None:
        self.join(timeout)


def _run(program: str, arguments: list[str], environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    multiprocessing.set_start_method("fork", force=True)  # as in a process of its own: data workers depend on it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    faulthandler.enable()
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__")


def run(*command, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess:
    """Run ``python *command`` in the repository (``-m`` before a module, as on the command line) to its end."""
    words = [str(word) for word in command if word != "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "INCLUDE_WORKSPACE_FILE": "false"}
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = Process(words[0], words[1:], environment, stdout, stderr)
        process.wait(timeout)
        if process.poll() is None:
            process.kill()
            process.wait()
        done = subprocess.CompletedProcess(words, process.returncode, stdout.read_text(), stderr.read_text())
    if check:
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done
