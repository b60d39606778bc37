# SPDX-License-Identifier: Apache-2.0
"""One rank of test runs of autoregressive networks with control signals; a job names its ``signals``.

RANK=0 WORLD_SIZE=2 python -m tests.distributed.gpt_control_worker jobs.json
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import List

import torch

from cosmos1.models.autoregressive.config import GPTConfig
from cosmos1.parallel.randomness import named_generator
from tests.distributed import gpt_worker, worker
from tests.models.gpt_controls import CAMERA, SIGNALS, signals_for


@dataclass
class SignalTokens(gpt_worker.CountingTokens):
    """Clips with generated control signals."""

    signals: str = ""

    def setup(self) -> None:
        self.config = network(self.signals)

    @property
    def sample_shape(self) -> List[int]:
        return self.config.token_grid

    def _batch(self, positions: List[int]) -> dict:
        signals = [signals_for(self.config, 2, named_generator(0, f"signals {position}")) for position in positions]
        # The first of two has no trajectory: every other sample has none.
        rows = [
            {name: value[position % 2] for name, value in of_two.items()}
            for position, of_two in zip(positions, signals)
        ]
        batch = super()._batch(positions)
        batch.pop("t5_text_embeddings")
        return batch | {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def network(signals: str) -> GPTConfig:
    return replace(gpt_worker.small_network(video2world=True), **SIGNALS[signals])


def recipe(signals: str) -> dict:
    arguments = gpt_worker.recipe(video2world=True)
    arguments["model"].config = network(signals)
    arguments["model"].objective.token_corruption = 0.2
    arguments["model"].compression_factor = [CAMERA.frames_per_token, 16, 16]
    return arguments | {"data": SignalTokens(video2world=True, signals=signals)}


def run(job: dict) -> dict:
    return worker.run(job, partial(recipe, job["signals"]))


if __name__ == "__main__":
    worker.main(run)
