# SPDX-License-Identifier: Apache-2.0
"""Calls of ``recipes/launch.py`` as a shell makes them, and several dry runs in one process."""

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPE = ["--", "recipes/diffusion/general.py", "--factory", "cosmos_diffusion_7b_text2world_finetune"]
RECIPE += ["data.path=/data/cached", "trainer.num_nodes=8", "log.version=run"]
SECRETS = {"HF_TOKEN": "hf_sentinel0123456789", "WANDB_API_KEY": "wandb_sentinel0123456789"}


def environment(home: Path, **variables: str) -> dict[str, str]:
    """Of a shell that has exported secrets; NeMo-Run's home is ``home``."""
    paths = {"NEMORUN_HOME": str(home), "PYTHONPATH": str(ROOT), "HOME": str(home), "OMP_NUM_THREADS": "1"}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {name: os.environ[name] for name in ("LANG", "LC_ALL") if name in os.environ} | {
        "PATH": path, **paths, **SECRETS, **variables
    }  # fmt: skip


def call(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "recipes/launch.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment(home, **variables), capture_output=True, text=True, timeout=120
    )


def call_many(home: Path, calls: dict[str, list[str]]) -> dict[str, dict]:
    """The same for several calls, in one process that imports NeMo-Run once: status and output by name."""
    command = [sys.executable, "-m", "tests.launch.launching"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(home), input=json.dumps(calls), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def launch_module():
    spec = importlib.util.spec_from_file_location("launch", ROOT / "recipes" / "launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main = launch_module().main
    answers = {}
    for name, arguments in json.load(sys.stdin).items():
        output, errors = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            status = main(arguments)
        answers[name] = {"status": status, "output": output.getvalue(), "errors": errors.getvalue()}
    json.dump(answers, sys.stdout)
