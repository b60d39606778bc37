# SPDX-License-Identifier: Apache-2.0
"""Processes that start at once: forked from a server that has imported PyTorch and Megatron-core already.

A Python process needs five seconds of a core for those imports; the tests start about a hundred ranks.
"""

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.distributed.preloaded"])


class Rank(_CONTEXT.Process):
    """``python -m module arguments`` with output to a file; polled and killed like a :class:`subprocess.Popen`."""

    def __init__(self, module: str, arguments: list[str], environment: dict[str, str], log: Path):
        # The server keeps the environment in which the first rank is started.
        os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        super().__init__(target=_run_module, args=(module, arguments, environment, log))
        self.start()

    def poll(self) -> int | None:
        return self.exitcode

    @property
    def returncode(self) -> int | None:
        return self.exitcode

    def wait(self) -> None:
        self.join()


def _run_module(module: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")
