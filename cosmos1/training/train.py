# SPDX-License-Identifier: Apache-2.0
"""The entry point of every recipe. Heavy imports happen inside, so that ``--help`` and ``--dryrun`` stay quick."""

from typing import Any, Optional

from cosmos1.training.config import AutoResume, Logger, MegatronOptimizer, Trainer
from cosmos1.training.lora import LoRA


def train(
    model: Any,
    data: Any,
    trainer: Trainer,
    optim: MegatronOptimizer,
    log: Logger,
    resume: Optional[AutoResume] = None,
    model_transform: Optional[LoRA] = None,
) -> None:
    """Post-train ``model`` on ``data`` on the processes that torchrun (or Slurm) started: all of its weights, or with a
    ``model_transform`` low-rank adapters of them.

    Raises:
        ConfigError: settings that disagree, before anything is allocated, or ranks that see different data.
        DataError: data that cannot be used.
        CheckpointError: a checkpoint that is missing, damaged or of another network.
    """
    from cosmos1.parallel import process_groups
    from cosmos1.parallel.strategy import micro_batches_per_step

    model.validate(trainer.strategy, process_groups.world_size())
    trainer.validate()
    optim.validate()
    if model_transform is not None:
        model_transform.validate(model)
    log.ckpt.validate()
    strategy = trainer.strategy
    micro_batches_per_step(data, strategy, strategy.data_parallel_size(process_groups.world_size()))
    data.setup()
    _check_views(model, data)
    model.validate_sample(strategy, data.sample_shape, data.num_views)
    _check_tokenizer(model, data)

    process_groups.initialize(trainer.strategy, trainer.seed)
    _check_same_data(data)
    from cosmos1.training.loop import TrainingRun

    try:
        TrainingRun(model, data, trainer, optim, log, resume or AutoResume(), model_transform).fit()
    finally:
        data.close()
    # Not after a failure: the other ranks may wait in a collective, and the message must come out first.
    process_groups.shutdown()


def _check_same_data(data: Any) -> None:
    """Raise ConfigError on every rank when they found different samples: each has looked for itself."""
    import torch.distributed as dist

    from cosmos1.errors import ConfigError

    here = data.num_train_samples, data.num_validation_samples, data.state_dict(0)
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, here)
    other = next((rank for rank, there in enumerate(found) if there != found[0]), None)
    if other is not None:
        seen = [
            f"rank {rank} has {training} for training and {held_out} held out, fingerprint {state.get('fingerprint')}"
            for rank, (training, held_out, state) in ((0, found[0]), (other, found[other]))
        ]
        raise ConfigError(
            f"the ranks do not see the same samples in data.path={data.path}: {'; '.join(seen)}; data must not change while a "
            "run starts, and be the same on all machines: wait until its preparation has ended, then start again"
        )


def _check_views(model: Any, data: Any) -> None:
    """Raise ConfigError when the data has more views than the network has embeddings for."""
    from cosmos1.errors import ConfigError

    names, views = getattr(data, "view_names", []), model.config.views
    if names and views is None:
        raise ConfigError(
            f"{data.path} has samples of {len(names)} views, this network knows none; use a multi-view recipe"
        )
    if names and len(names) > views.num_views:
        raise ConfigError(
            f"{data.path} has {len(names)} views ({', '.join(names)}), this network is built for {views.num_views}; set "
            f"model.config.views.num_views={len(names)}, or name fewer in data.cameras"
        )


def _check_tokenizer(model: Any, data: Any) -> None:
    """Raise DataError when the data says that it was made with another tokenizer than the model's."""
    from cosmos1.errors import DataError

    if data.tokenizer not in (None, model.tokenizer):
        raise DataError(
            f"{data.path} was prepared with the tokenizer {data.tokenizer}, this recipe has model.tokenizer={model.tokenizer}; "
            f"prepare the data again, or set model.tokenizer={data.tokenizer}"
        )
    compression = getattr(data, "compression", None)
    if compression is not None and list(compression) != model.compression_factor:
        raise DataError(
            f"{data.path} was prepared with the compression factor {list(compression)}, this recipe has "
            f"model.compression_factor={model.compression_factor}; prepare the data again, or set "
            f"model.compression_factor={list(compression)}"
        )
