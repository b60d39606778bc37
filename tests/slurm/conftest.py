# SPDX-License-Identifier: Apache-2.0
"""The cluster, the launcher and the recipe that the Slurm tests share."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cosmos1.training.metrics import read_metrics
from tests.distributed.conftest import latents  # noqa: F401
from tests.slurm.cluster import CannotStart, running_cluster

ROOT = Path(__file__).parents[2]
TINY = ["--factory", "cosmos_diffusion_tiny_text2world_finetune", "data.num_workers=0", "trainer.callbacks=[]"]
TINY += ["model.config.num_layers=1", "model.config.hidden_size=64", "optim.lr_scheduler.policy=constant"]
TINY += ["data.micro_batch_size=4", "data.global_batch_size=8", "trainer.log_every_n_steps=1", "optim.ema_widths=[]"]
TINY += ["trainer.val_check_interval=0", "log.ckpt.every_n_train_steps=100000"]


@pytest.fixture(scope="session")
def cluster():
    """A running cluster, or a skip that says why there is none."""
    try:
        with running_cluster() as folder:
            yield folder
    except CannotStart as error:
        pytest.skip(f"no Slurm cluster: {error}")


class Launcher:
    """``recipes/launch.py --executor slurm`` with the tiny recipe, and what its runs wrote."""

    def __init__(self, folder: Path, data: Path):
        self.home, self.log_dir, self.data = folder / "nemo", folder / "runs", data
        paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        self.environment = os.environ | paths | {"NEMORUN_HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def call(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "recipes/launch.py", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment | variables, capture_output=True, text=True, timeout=240
        )

    def launch(
        self, name: str, options: list[str], settings: list[str], **variables: str
    ) -> subprocess.CompletedProcess:
        options = ["--executor", "slurm", "--name", name, "--set", "partition=batch", *options]
        places = [f"data.path={self.data}", f"log.log_dir={self.log_dir}", f"log.name={name}", "log.version=run"]
        return self.call(*options, "--", "recipes/diffusion/general.py", *TINY, *places, *settings, **variables)

    def losses(self, name: str) -> dict[int, float]:
        path = self.log_dir / name / "run" / "metrics.jsonl"
        return {row["step"]: row["loss"] for row in read_metrics(path)} if path.exists() else {}

    def log(self, name: str) -> str:
        return self.call("logs", name).stdout

    def native_ids(self, launched: subprocess.CompletedProcess) -> list[str]:
        assert launched.returncode == 0, launched.stdout + launched.stderr
        return launched.stdout.split(" with slurm: ")[1].split("\n")[0].split(", ")


@pytest.fixture(scope="session")
def launcher(cluster, latents, tmp_path_factory):  # noqa: F811
    return Launcher(tmp_path_factory.mktemp("launch"), latents)


def wait_until(condition: Callable[[], object], limit_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)
