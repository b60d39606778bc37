# SPDX-License-Identifier: Apache-2.0
"""One rank of a test run: trains one recipe after another, as the JSON file in argv says.

    RANK=0 WORLD_SIZE=2 python -m tests.distributed.worker jobs.json

The file holds ``{"store": path, "results": folder, "jobs": [job, ...]}``; a job is ``{"name", "set", ...}`` where
``set`` maps dotted settings, as on the command line, to values. The ranks meet through a file, so no port is needed.
A user error ends the job and is recorded where the job has ``may_fail``; everything else ends the process.
"""

import json
import os
import resource
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import List, Optional

import torch
import torch.distributed as dist

from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.errors import UserError
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective
from cosmos1.parallel import process_groups
from cosmos1.training.config import (
    AutoResume,
    Checkpointing,
    Logger,
    MegatronOptimizer,
    OptimizerConfig,
    RestoreConfig,
    Trainer,
)
from cosmos1.training.metrics import MetricsLogger
from cosmos1.training.train import train


@dataclass
class Unmarking:
    """A probe to put before the class of a task: its networks may lack marks that Megatron-core needs."""

    unmark: Optional[str] = None
    """Forget the ``sequence_parallel`` mark of parameters whose name contains this: gradients come out wrong."""

    def forward(self, network, sample):
        # In time, since marks are read after the backward pass; a network has no adapters yet when it is built.
        for name, parameter in network.named_parameters():
            if self.unmark and self.unmark in name:
                parameter.sequence_parallel = False
        return super().forward(network, sample)


@dataclass
class ProbedModel(Unmarking, DiffusionModel):
    """The diffusion task with probes that the library itself must not have."""

    nan_steps: List[int] = field(default_factory=list)
    """Micro batches (0-based) whose loss is NaN on rank 0."""
    record: bool = False
    """Keep what :meth:`prepare` drew."""

    def __post_init__(self):
        self.drawn, self.num_losses = [], 0

    def prepare(self, batch, *arguments):
        sample = super().prepare(batch, *arguments)
        if self.record:
            self.drawn.append(_digest(batch, sample))
        return sample

    def loss(self, network, sample, prediction):
        loss, sums = super().loss(network, sample, prediction)
        self.num_losses += 1
        spoilt = dist.get_rank() == 0 and self.num_losses - 1 in self.nan_steps
        return (loss * float("nan") if spoilt else loss), sums


def _digest(batch, sample) -> dict:
    noise = (sample.network_input - sample.clean) / sample.coefficients.sigma
    return {
        "positions": batch["sample_position"].tolist(),
        "sigma": sample.coefficients.sigma.flatten().tolist(),
        "noise": noise.double().sum(dim=(1, 2, 3, 4)).tolist(),
        "text_kept": (sample.text.abs().sum(dim=(1, 2)) > 0).tolist(),
        "num_given": None if sample.given is None else sample.given.flatten(1).sum(1).tolist(),
        "input": sample.network_input.double().sum(dim=(1, 2, 3, 4)).tolist(),
    }


class StopAt:
    """Asks one rank to stop after a step, as Slurm does."""

    def __init__(self, step: int, rank: int):
        self.step, self.rank = step, rank

    def on_step_end(self, run, values):
        if run.progress.step == self.step and dist.get_rank() == self.rank:
            os.kill(os.getpid(), signal.SIGTERM)


class StopWhileAgreeing:
    """Signals rank 0 while it waits for rank 1, which is late at the end of this step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, run, values):
        if run.progress.step == self.step and dist.get_rank() == 0:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        elif run.progress.step == self.step:
            time.sleep(1.0)


class FillDisk:
    """After a step no file of this process may grow beyond 20 kB: its part of a checkpoint does not fit."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, run, values):
        if run.progress.step == self.step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))


class OptimizerSteps:
    """Notes how many updates the optimizer has counted when training ends."""

    counts: Optional[List[int]] = None

    def on_train_end(self, run, *unused):
        from cosmos1.training.optimizer import torch_optimizer

        self.counts = sorted({int(state["step"]) for state in torch_optimizer(run.model.optimizer).state.values()})


def recipe() -> dict:
    """A network, data and schedule so small that a step takes a tenth of a second on one core."""
    config = DiTConfig(
        hidden_size=64,
        num_layers=4,
        num_attention_heads=4,
        adaln_lora_dim=16,
        max_frames=8,
        max_height=16,
        max_width=16,
    )
    return {
        "model": ProbedModel(config=config, objective=EDMObjective(), tokenizer="dct"),
        "data": LatentFolderDataModule(path="", micro_batch_size=2, global_batch_size=4, num_workers=0),
        "trainer": Trainer(precision="fp32", log_every_n_steps=1, val_check_interval=0),
        "optim": MegatronOptimizer(config=OptimizerConfig(lr=1e-2, adam_eps=1e-4, weight_decay=0.1)),
        "log": Logger(version="run", ckpt=Checkpointing(every_n_train_steps=1000, keep_last_k=-1)),
        "resume": AutoResume(restore_config=RestoreConfig()),
    }


def apply(arguments: dict, settings: dict) -> None:
    for path, value in settings.items():
        first, *parents, name = path.split(".")
        target = arguments[first]
        for parent in parents:
            target = getattr(target, parent)
        assert hasattr(target, name), path
        setattr(target, name, value)


def run(job: dict, make_recipe=recipe) -> dict:
    """Train one job; returns what this rank has to tell."""
    arguments, steps = make_recipe(), OptimizerSteps()
    apply(arguments, job["set"])
    arguments["trainer"].callbacks = [steps]
    if "stop_at" in job:
        arguments["trainer"].callbacks.append(StopAt(job["stop_at"], job.get("stop_rank", 0)))
    if "stop_while_agreeing_at" in job:
        arguments["trainer"].callbacks.append(StopWhileAgreeing(job["stop_while_agreeing_at"]))
    if "disk_full_at" in job:
        arguments["trainer"].callbacks.append(FillDisk(job["disk_full_at"]))
        arguments["trainer"].hang.factor = 0  # heartbeats lengthen the file in which these ranks meet
    try:
        train(**arguments)
    except UserError as error:
        if not job.get("may_fail"):
            raise
        process_groups.shutdown()  # a run that failed leaves its groups to the end of the process
        return {"error": type(error).__name__, "message": str(error)}
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {"drawn": arguments["model"].drawn, "optimizer_steps": steps.counts}


def main(run=run) -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    MetricsLogger.redraw = lambda self: None  # drawing takes as long as the training; it has tests of its own
    store = dist.FileStore(plan["store"], world_size)
    for job in plan["jobs"]:
        options = {"store": dist.PrefixStore(job["name"], store), "rank": rank, "world_size": world_size}
        dist.init_process_group("gloo", **options)
        result = run(job)
        Path(plan["results"], f"{job['name']}.{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
