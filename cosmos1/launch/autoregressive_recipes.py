# SPDX-License-Identifier: Apache-2.0
"""The numbers that the autoregressive recipes share. A recipe is a pure value: nothing is read, downloaded or allocated."""

from copy import deepcopy
from typing import Literal

import nemo_run as run

from cosmos1.data.modules.indexed_tokens import IndexedTokensDataModule
from cosmos1.data.modules.token_clips import TokenClipsDataModule
from cosmos1.models.autoregressive.config import SIZES, GPTConfig
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.autoregressive.objective_config import NextTokenObjective
from cosmos1.parallel.strategy import DistributedDataParallelConfig, MegatronStrategy
from cosmos1.training.config import (
    AutoResume,
    Checkpointing,
    Logger,
    LRScheduler,
    MegatronOptimizer,
    OptimizerConfig,
    RestoreConfig,
    Trainer,
)
from cosmos1.training.train import train


def autoregressive_recipe(size: Literal["4b", "12b", "5b", "13b", "tiny", "tiny_video2world"]) -> run.Partial:
    """General post-training of one network size.

    4B to 13B: learning rate 5e-5 without decay from released weights, 33 frames of 640 x 1024 (12,800 tokens of the
    8 x 16 x 16 tokenizer), one clip per GPU. tiny: from scratch, in fp32, for minutes on a CPU.
    """
    tiny = size.startswith("tiny")
    video2world = size in ("5b", "13b", "tiny_video2world")
    folder = "video2world_tokens" if video2world else "tokens"
    return run.Partial(
        train,
        model=run.Config(
            AutoregressiveModel,
            config=run.Config(GPTConfig, recompute_granularity=None if tiny else "selective", **deepcopy(SIZES[size])),
            objective=run.Config(NextTokenObjective, num_unscored_frames=0, text_dropout=0.0),
            tokenizer="dct_fsq" if tiny else "cosmos_dv",
            compression_factor=[8, 16, 16],
        ),
        data=run.Config(
            TokenClipsDataModule if video2world else IndexedTokensDataModule,
            path=f"demo_output/{folder}" if tiny else folder,
            micro_batch_size=4 if tiny else 1,
            global_batch_size=8,
            num_workers=1 if tiny else 2,
        ),
        trainer=run.Config(
            Trainer,
            max_steps=200 if tiny else 100,
            devices=2 if tiny else 8,
            precision="fp32" if tiny else "bf16",
            strategy=run.Config(MegatronStrategy, fsdp=not tiny, ddp=run.Config(DistributedDataParallelConfig)),
            log_every_n_steps=10,
            val_check_interval=100 if tiny else 50,
            limit_val_batches=8,
        ),
        optim=run.Config(
            MegatronOptimizer,
            config=run.Config(OptimizerConfig, lr=2e-3 if tiny else 5e-5, weight_decay=0.01, clip_grad=1.0),
            lr_scheduler=run.Config(
                LRScheduler, policy="cosine" if tiny else "constant", warmup_steps=10 if tiny else 0
            ),
        ),
        log=run.Config(Logger, ckpt=run.Config(Checkpointing, every_n_train_steps=100)),
        resume=run.Config(AutoResume, restore_config=run.Config(RestoreConfig)),
    )


def tokenizer_recipe(size: Literal["4b", "12b", "tiny"]) -> run.Partial:
    """A base network on the tokens of another tokenizer: 4 x 8 x 8, of 17 frames of 320 x 512, again 12,800 tokens.

    No weight depends on the tokenizer's factors, so the network starts from the released one; it has to learn what the
    codes now mean, with a higher learning rate and larger batches. Other clips: set ``model.config.latent_shape`` to
    ``[1 + (frames - 1) / r_t, height / r_h, width / r_w]``.
    """
    recipe = autoregressive_recipe(size)
    recipe.model.compression_factor = [4, 8, 8]
    recipe.data.path += "_4x8x8"
    if size != "tiny":
        recipe.data.global_batch_size = 32
        recipe.trainer.max_steps = 300
        recipe.optim.config.lr = 1e-4
    return recipe
