# SPDX-License-Identifier: Apache-2.0
"""The numbers that the diffusion recipes share. A recipe is a pure value: nothing is read, downloaded or allocated."""

from typing import Literal

import nemo_run as run

from cosmos1.data.modules.energon import EnergonDataModule
from cosmos1.data.modules.latent_folder import LatentFolderDataModule
from cosmos1.models.diffusion.config import SIZES, DiTConfig
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.parallel.strategy import DistributedDataParallelConfig, MegatronStrategy
from cosmos1.training.callbacks import SampleVideo
from cosmos1.training.config import (
    AutoResume,
    Checkpointing,
    Logger,
    LRScheduler,
    MegatronOptimizer,
    NewLayers,
    OptimizerConfig,
    RestoreConfig,
    Trainer,
)
from cosmos1.training.train import train


def diffusion_recipe(size: Literal["7b", "14b", "tiny"], video2world: bool) -> run.Partial:
    """General post-training of one network size.

    7B and 14B: learning rate 1e-6 without decay from released weights, 121 frames of 704 x 1280, one sample per GPU.
    tiny: from scratch, in fp32, with a learning rate and batch that suit minutes on a CPU.
    """
    tiny = size == "tiny"
    return run.Partial(
        train,
        model=run.Config(
            DiffusionModel,
            config=run.Config(
                DiTConfig,
                condition_mask=video2world,
                recompute_granularity=None if tiny else "selective",
                **SIZES[size],
            ),
            objective=run.Config(
                EDMObjective,
                p_mean=0.0,
                p_std=1.0,
                text_dropout=0.2,
                conditioning=run.Config(VideoConditioning, min_frames=0, max_frames=2),
            ),
            tokenizer="dct" if tiny else "cosmos_cv8x8x8",
        ),
        data=run.Config(
            LatentFolderDataModule,
            path="demo_output/latents" if tiny else "cached_dataset",
            micro_batch_size=4 if tiny else 1,
            global_batch_size=8,
            num_workers=1 if tiny else 4,
            require_conditioning_latent=False,
        ),
        trainer=run.Config(
            Trainer,
            max_steps=400 if tiny else 1000,
            devices=2 if tiny else 8,
            precision="fp32" if tiny else "bf16",
            strategy=run.Config(MegatronStrategy, fsdp=not tiny, ddp=run.Config(DistributedDataParallelConfig)),
            log_every_n_steps=10,
            val_check_interval=100,
            limit_val_batches=8,
            callbacks=[run.Config(SampleVideo, every_n_validations=2 if tiny else 5)],
        ),
        optim=run.Config(
            MegatronOptimizer,
            config=run.Config(OptimizerConfig, lr=2e-3 if tiny else 1e-6, weight_decay=0.0, clip_grad=1.0),
            lr_scheduler=run.Config(
                LRScheduler, policy="cosine" if tiny else "constant", warmup_steps=10 if tiny else 0
            ),
            ema_widths=[0.1] if tiny else [],
        ),
        log=run.Config(Logger, ckpt=run.Config(Checkpointing, every_n_train_steps=100 if tiny else 200)),
        resume=run.Config(AutoResume, restore_config=run.Config(RestoreConfig)),
    )


def with_data(recipe: run.Partial, size: str, module: type, path: str, **settings) -> None:
    """Feed ``recipe`` from another data module, in batches as before. The tiny sizes read ``demo_output/<path>``."""
    folder = "demo_output/" if size.startswith("tiny") else ""
    batch = {name: getattr(recipe.data, name) for name in ("micro_batch_size", "global_batch_size", "num_workers")}
    recipe.data = run.Config(module, path=folder + path, **batch | settings)


def with_new_layers(recipe: run.Partial, size: str, names: list[str], lr_multiplier: float) -> None:
    """``names`` begin the names of weights that the checkpoint of the base network may lack. In the full-size recipes they
    learn ``lr_multiplier`` times as fast as what is already trained. Each setting has a list of its own."""
    recipe.resume.restore_config.allow_missing = list(names)
    if not size.startswith("tiny"):
        recipe.optim.new_layers = run.Config(NewLayers, names=list(names), lr_multiplier=lr_multiplier)


def energon_shards() -> run.Config[EnergonDataModule]:
    """Data from shards (``data_prep/shard.py``) instead of a latent folder: ``data=energon_shards data.path=SHARDS``."""
    return run.Config(EnergonDataModule, path="shards", micro_batch_size=1, global_batch_size=8, num_workers=4)
