# SPDX-License-Identifier: Apache-2.0
"""The samples that the run of a checkpoint held out, read by the data module that it recorded."""

import argparse
import importlib
import pkgutil
from pathlib import Path

import torch

from cosmos1.checkpoint.networks import config_from_record
from cosmos1.conditioning.settings import signals
from cosmos1.data import modules
from cosmos1.data.batches.data_module import DataModule
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.data.modules.token_clips import TokenClipsDataModule
from cosmos1.errors import CheckpointError, ConfigError, DataError
from cosmos1.generation.generator import recorded_settings
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.training.sampling import held_out_samples

Sample = dict[str, torch.Tensor]


def read_samples(options: argparse.Namespace, task: DiffusionModel | AutoregressiveModel) -> list[Sample]:
    """The first ``--num_samples`` held-out samples of the run, or of ``--data_path``, each a batch of one.

    Raises:
        ConfigError, DataError: they are unknown, or fewer than the two between which a control can be exchanged.
    """
    if options.num_samples < 2:
        raise ConfigError(f"--num_samples {options.num_samples}; give 2 or more, whose controls can be exchanged")
    data = _data_of(options, task)
    if options.data_path is not None:
        data.path = str(options.data_path)
        if hasattr(data, "validation_path"):
            data.validation_path = data.path
    data.num_workers, data.micro_batch_size = 0, 1
    data.setup()
    samples = list(held_out_samples(data, options.num_samples))
    if len(samples) < 2:
        folder = getattr(data, "validation_path", None) or data.path
        raise DataError(f"{folder}: {len(samples)} held-out samples, at least 2 are needed; {_remedy(data, options)}")
    return samples


def _remedy(data: DataModule, options: argparse.Namespace) -> str:
    if options.data_path is None:
        return "give --data_path, a folder of prepared samples that were not trained on"
    if hasattr(data, "validation_path"):
        return "prepare more of them"
    return f"of a folder for {type(data).__name__} only the part val counts; prepare it with more samples in that part"


def _data_of(options: argparse.Namespace, task: DiffusionModel | AutoregressiveModel) -> DataModule:
    """The data of the run that trained the network; for other weights, samples that text alone controls."""
    checkpoint = options.checkpoint.expanduser()
    recorded = recorded_settings(checkpoint, "data")
    if recorded:
        try:
            return config_from_record(_data_module(recorded["_target_"], checkpoint), recorded)
        except TypeError as error:
            raise CheckpointError(f"the recipe.yaml of {checkpoint} does not say what its data is: {error}") from error
    if options.data_path is None:
        raise ConfigError(
            f"{options.checkpoint} does not record its data; give --data_path, a folder of prepared samples"
        )
    if signals(task.config):
        raise ConfigError(
            f"{options.checkpoint} does not record which data goes with its control signals; give the folder of the run that "
            "trained it"
        )
    path = str(options.data_path)
    if isinstance(task, DiffusionModel):
        return LatentFolderDataModule(path)
    return TokenClipsDataModule(path, pad_to_multiple_of=task.config.pad_to_multiple_of)


def _data_module(target: str, checkpoint: Path) -> type:
    """The class by its name alone: its module may have moved since the checkpoint was written."""
    name = target.rpartition(".")[2]
    for entry in pkgutil.iter_modules(modules.__path__):
        found = getattr(importlib.import_module(f"{modules.__name__}.{entry.name}"), name, None)
        if found is not None:
            return found
    raise ConfigError(
        f"{checkpoint} was trained on {target}, which is no data module of this suite, so that its samples cannot be read; "
        "convert it (--to pt) and give prepared samples by --data_path, if text alone controls it"
    )
