# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself before its first step."""

from cosmos1.checkpoint.folders import RECIPE, Checkpoint
from cosmos1.parallel import device as devices
from cosmos1.training import adapters
from cosmos1.training.run_folder import changed_settings


def facts(run) -> list[str]:
    """Machine, network, data, optimizer and batch of a :class:`~cosmos1.training.loop.TrainingRun`, a line each."""
    data, trainer = run.data, run.trainer
    return [
        f"device: {devices.device_name()} x {run.world_size}; {trainer.strategy.describe(run.world_size)}; "
        f"{trainer.precision}",
        *_unexpected_world(run),
        *run.task.describe(),
        *data.describe(),
        *run.optim.describe(),
        *adapters.describe(run.lora, run.model),
        f"batch: {data.global_batch_size} samples per step = {run.dp_size} replicas x "
        f"{run.num_micro_batches} micro batches of {data.micro_batch_size}",
    ]


def _unexpected_world(run) -> list[str]:
    expected = run.trainer.num_nodes * run.trainer.devices
    if expected == run.world_size:
        return []
    return [f"note: the recipe is meant for {expected} processes (trainer.num_nodes x devices), {run.world_size} run"]


def resume_facts(run, checkpoint: Checkpoint) -> list[str]:
    """Where a run goes on, and what has changed since."""
    step, max_steps = run.progress.step, run.trainer.max_steps
    lines = [f"resumed {checkpoint.path} at step {step}"]
    if run.resume.restore_config is not None and run.resume.restore_config.path:
        lines.append("resume.restore_config.path is not used: this run has a checkpoint of its own")
    changed = changed_settings((checkpoint.path / RECIPE).read_text(), run.recipe_text)
    lines += [f"changed since that checkpoint: {line}" for line in changed]
    if step >= max_steps:
        lines.append(
            f"nothing to do: step {step} of trainer.max_steps={max_steps} is reached; raise it, or give another log.version "
            "for a new run"
        )
    return lines
