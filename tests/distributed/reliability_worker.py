# SPDX-License-Identifier: Apache-2.0
"""One rank of the runs of :mod:`tests.distributed.test_reliability`: a recipe with faults built in, by step."""

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List, Optional

import torch.distributed as dist

from cosmos1.checkpoint import store
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import UserError
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.parallel import process_groups
from cosmos1.training import save_attempts
from cosmos1.training.train import train
from tests.distributed import worker


@dataclass
class LoudModel(DiffusionModel):
    """Multiplies the gradient of given steps by a thousand."""

    loud_steps: List[int] = field(default_factory=list)

    def __post_init__(self):
        self.step = 0

    def loss(self, network, sample, prediction):
        loss, sums = super().loss(network, sample, prediction)
        return (loss * 1000 if self.step in self.loud_steps else loss), sums


@dataclass
class SlowData(LatentFolderDataModule):
    """Lets rank 1 wait so many seconds for the data of given steps."""

    seconds: Dict[int, float] = field(default_factory=dict)

    def train_batches(self, *arguments):
        for step, batch in enumerate(super().train_batches(*arguments), start=1):
            if dist.get_rank() == 1:
                stall(self.seconds.get(step, 0.0))
            yield batch


def stall(seconds: float) -> None:
    time.sleep(seconds)


class Faults:
    """A folder that is away for some steps, a slow callback of rank 0, and the step count for :class:`LoudModel`."""

    def __init__(self, job: dict):
        self.away: Optional[List[int]] = job.get("away")
        self.slow_callback: Dict[str, float] = job.get("slow_callback", {})
        self.grad_norms: List[float] = []

    def on_train_start(self, run):
        run.task.step = run.progress.step + 1

    def on_step_end(self, run, values):
        run.task.step = run.progress.step + 1
        self.grad_norms.append(values["grad_norm"])
        if dist.get_rank() == 0:
            self._move(run.folder / "checkpoints", run.progress.step)
            stall(self.slow_callback.get(str(run.progress.step), 0.0))

    def _move(self, folder: Path, step: int) -> None:
        """After the first of the two steps a file has the folder's name, after the second the folder is back."""
        hidden = folder.with_name("hidden")
        if self.away and step == self.away[0]:
            folder.rename(hidden)
            folder.touch()
        if self.away and step == self.away[1]:
            folder.unlink()
            hidden.rename(folder)


@contextmanager
def first_write(seconds: float = 0.0, fails: bool = False):
    """The first checkpoint takes so much longer to write, and then is not written by rank 1."""
    write, calls = store._write, []

    def slow(pending, buckets):
        calls.append(pending)
        if len(calls) > 1:
            return write(pending, buckets)
        stall(seconds)
        if fails and dist.get_rank() == 1:
            pending.failures.append(OSError("Stale file handle"))
        else:
            write(pending, buckets)

    store._write = slow
    try:
        yield
    finally:
        store._write = write


def run(job: dict) -> dict:
    arguments, faults, steps = worker.recipe(), Faults(job), worker.OptimizerSteps()
    config, data = arguments["model"].config, arguments["data"]
    arguments["model"] = LoudModel(config=config, objective=arguments["model"].objective, tokenizer="dct")
    sizes = {"micro_batch_size": data.micro_batch_size, "global_batch_size": data.global_batch_size}
    seconds = {int(step): value for step, value in job.get("slow_data", {}).items()}
    arguments["data"] = SlowData(path="", num_workers=0, seconds=seconds, **sizes)
    worker.apply(arguments, job["set"] | (job.get("set_on_rank_1", {}) if dist.get_rank() == 1 else {}))
    arguments["trainer"].callbacks = [faults, steps]
    if "stop_at" in job:
        arguments["trainer"].callbacks.append(worker.StopAt(job["stop_at"], 0))
    save_attempts.RETRY_AFTER_S = job.get("retry_after_s", 0.0)
    try:
        with first_write(**job.get("first_write", {})):
            train(**arguments)
    except UserError as error:
        if not job.get("may_fail"):
            raise
        process_groups.shutdown()
        return {"error": type(error).__name__, "message": str(error)}
    return {"optimizer_steps": steps.counts, "grad_norms": json.dumps(faults.grad_norms)}


if __name__ == "__main__":
    worker.main(run)
