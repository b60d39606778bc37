# SPDX-License-Identifier: Apache-2.0
"""One rank of a test run of the autoregressive family: :mod:`tests.distributed.worker` with another recipe.

RANK=0 WORLD_SIZE=2 python -m tests.distributed.gpt_worker jobs.json
"""

from dataclasses import dataclass
from functools import partial
from typing import Iterator, List, Optional

import torch

from cosmos1.data.batches.sampler import held_out_positions, micro_batch_positions
from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.parallel.randomness import named_generator
from cosmos1.training.config import (
    AutoResume,
    Checkpointing,
    Logger,
    MegatronOptimizer,
    OptimizerConfig,
    RestoreConfig,
    Trainer,
)
from tests.distributed import worker


@dataclass
class ProbedGPT(worker.Unmarking, AutoregressiveModel):
    """The autoregressive task with a probe that the library itself must not have."""

    def __post_init__(self):
        self.drawn = []


@dataclass
class CountingTokens:
    """Clips whose tokens count upwards, by steps and with mistakes of their own; the text tells the step."""

    video2world: bool = False
    path: str = ""
    micro_batch_size: int = 2
    global_batch_size: int = 4
    num_train_samples = 64
    num_validation_samples = 8
    num_views = 1
    tokenizer = None

    def setup(self) -> None:
        self.config = small_network(self.video2world)

    @property
    def sample_shape(self) -> List[int]:
        return self.config.latent_shape

    def describe(self) -> List[str]:
        return []

    def _batch(self, positions: List[int]) -> dict:
        config = self.config
        tokens, steps = [], []
        for position in positions:
            generator = named_generator(0, f"clip {position}")
            first, step = torch.randint(1, 9, (2,), generator=generator).tolist()
            clip = (first + step * torch.arange(config.num_video_tokens)) % config.vocab_size
            wrong = torch.rand(len(clip), generator=generator) < 0.1
            tokens.append(
                torch.where(wrong, torch.randint(0, config.vocab_size, clip.shape, generator=generator), clip)
            )
            steps.append(step)
        clips, length = torch.stack(tokens), config.sequence_length
        ids = torch.full((len(positions), length + 1), config.padding_token if self.video2world else 0)
        start = 1 if self.video2world else 0
        ids[:, 0] = config.begin_of_video
        ids[:, start : start + clips.shape[1]] = clips
        place = torch.arange(length)
        mask = place < config.num_video_tokens - (1 - start)
        batch = {
            "tokens": ids[:, :-1],
            "labels": ids[:, 1:],
            "loss_mask": mask.float().expand(len(positions), -1),
            "sample_position": torch.tensor(positions),
        }
        if self.video2world:
            text = torch.zeros(len(positions), 16, config.text_embedding_dim)
            text[:, :3] = torch.tensor(steps)[:, None, None] / 4
            batch["t5_text_embeddings"] = text
        return batch

    def train_batches(self, dp_rank: int, dp_size: int, consumed_samples: int) -> Iterator[dict]:
        sizes = (self.micro_batch_size, self.global_batch_size, dp_rank, dp_size)
        return map(self._batch, micro_batch_positions(consumed_samples, *sizes))

    def validation_batches(self, dp_rank: int, dp_size: int, num_batches: Optional[int] = None) -> Iterator[dict]:
        positions = held_out_positions(8, self.micro_batch_size, dp_rank, dp_size, num_batches)
        return (self._batch([10_000 + position for position in batch]) for batch in positions)

    def state_dict(self, consumed_samples: int) -> dict:
        return {"consumed_samples": consumed_samples}

    def load_state_dict(self, state: dict) -> None:
        pass

    def rank_state_dict(self) -> None:
        return None

    def close(self) -> None:
        pass


def small_network(video2world: bool) -> GPTConfig:
    return GPTConfig(
        video2world=video2world,
        hidden_size=48,
        num_layers=4,
        num_attention_heads=8,
        num_query_groups=4,
        head_dim=12,
        ffn_hidden_size=64,
        vocab_size=96,
        num_special_tokens=8,
        text_embedding_dim=24,
        latent_shape=[2, 4, 6],
        pad_to_multiple_of=8,
        yarn_scale=2.0,
    )


def recipe(video2world: bool) -> dict:
    """A network, data and schedule so small that a step takes less than a tenth of a second on one core."""
    return {
        "model": ProbedGPT(config=small_network(video2world), tokenizer="dct_fsq"),
        "data": CountingTokens(video2world),
        "trainer": Trainer(precision="fp32", log_every_n_steps=1, val_check_interval=0),
        "optim": MegatronOptimizer(config=OptimizerConfig(lr=1e-2, adam_eps=1e-4, weight_decay=0.1)),
        "log": Logger(version="run", ckpt=Checkpointing(every_n_train_steps=1000, keep_last_k=-1)),
        "resume": AutoResume(restore_config=RestoreConfig()),
    }


def run(job: dict) -> dict:
    return worker.run(job, partial(recipe, job["video2world"]))


if __name__ == "__main__":
    worker.main(run)
