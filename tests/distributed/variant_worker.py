# SPDX-License-Identifier: Apache-2.0
"""One rank of test runs with control signals; the plan is that of :mod:`tests.distributed.worker`.

A job also names its ``signals``, a key of ``SIGNALS``.
"""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List

import torch
import torch.distributed as dist

from cosmos1.conditioning.settings import (
    ActionConditioning,
    CameraConditioning,
    TrajectoryConditioning,
    ViewConditioning,
)
from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.models.diffusion.objective_config import VideoConditioning
from cosmos1.parallel.randomness import named_generator
from cosmos1.training.metrics import MetricsLogger
from cosmos1.training.train import train
from tests.distributed.worker import apply, recipe

# Three views of two frames of 4 x 4 tokens: two ranks share the tokens of the second view.
NUM_VIEWS, FRAMES, HEIGHT, WIDTH = 3, 2, 8, 8

_ACTION = {"action": ActionConditioning(action_dim=3, num_actions=2)}
_CAMERA = {"camera": CameraConditioning()}
_VIEWS = {"views": ViewConditioning(num_views=NUM_VIEWS, view_dim=3)}
_SHARED_TEXT = {"views": ViewConditioning(num_views=NUM_VIEWS, view_dim=3, shared_text=True)}
_FIXED = {"learnable_positions": False, "sinusoidal_positions": True}
SIGNALS = {
    "action": {"condition_mask": True, **_ACTION},
    "camera": {"condition_mask": True, **_CAMERA},
    "views": {**_VIEWS, **_FIXED},
    "views_shared_text": {**_SHARED_TEXT, **_FIXED},
    # Another video tokenizer: positions advance by half a step.
    "tokenizer": {"temporal_factor": 4},
    "trajectory": {"condition_mask": True, **_VIEWS, "trajectory": TrajectoryConditioning(5)},
    "all": {"condition_mask": True, **_ACTION, **_CAMERA, **_VIEWS, "trajectory": TrajectoryConditioning(5)},
}


@dataclass
class SignalSamples(OrderedDataModule):
    """Generated samples whose latents depend on their control signals."""

    num_views: int = 1
    signals: List[str] = field(default_factory=list)
    num_texts: int = 1
    video_tokenizer: str = "dct"

    def setup(self) -> None:
        self.sample_shape, self.tokenizer = [16, self.num_views * FRAMES, HEIGHT, WIDTH], self.video_tokenizer
        self._begin(16, 4, "generated")

    def describe(self) -> List[str]:
        return ["data: generated"]

    def _load_sample(self, training: bool, index: int, position: int) -> Dict[str, Any]:
        generator = named_generator(int(training), f"sample {index}")
        frames = self.num_views * FRAMES
        action = torch.randn(2, 3, generator=generator)
        text = torch.zeros(self.num_texts, 16, 1024)
        text[:, :3] = torch.randn(self.num_texts, 3, 1024, generator=generator)
        signals = {
            "action": action,
            "plucker_embeddings": torch.randn(frames, 6, HEIGHT, WIDTH, generator=generator),
            "view_indices": torch.randperm(self.num_views, generator=generator),
            "frame_repeat": torch.randint(0, 20, (self.num_views,), generator=generator).float(),
            "trajectory": torch.randn(192, generator=generator),
        }
        return {
            "video": torch.randn(*self.sample_shape, generator=generator) + action.mean(),
            "t5_text_embeddings": text.flatten(0, 1),
            "fps": torch.tensor(24.0),
            "padding_mask": torch.zeros(1, HEIGHT, WIDTH),
            "sample_position": torch.tensor(position),
            **{name: signals[name] for name in self.signals},
        }


def arguments_of(job: dict) -> dict:
    arguments = recipe()
    model = arguments["model"]
    for name, value in SIGNALS[job["signals"]].items():
        setattr(model.config, name, value)
    model.objective.conditioning = VideoConditioning(min_frames=0, max_frames=1)
    model.tokenizer = "dct" if model.config.temporal_factor == 8 else "dct4x8x8"
    views = model.config.views
    num_views = NUM_VIEWS if views is not None else 1
    arguments["data"] = SignalSamples(
        path="generated",
        micro_batch_size=2,
        global_batch_size=4,
        num_workers=0,
        num_views=num_views,
        signals=model.config.controls + (["frame_repeat"] if views is not None else []),
        num_texts=1 if views is not None and views.shared_text else num_views,
        video_tokenizer=model.tokenizer,
    )
    apply(arguments, job["set"])
    return arguments


def main() -> None:
    plan = json.loads(Path(sys.argv[1]).read_text())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    MetricsLogger.redraw = lambda self: None
    store = dist.FileStore(plan["store"], world_size)
    for job in plan["jobs"]:
        options = {"store": dist.PrefixStore(job["name"], store), "rank": rank, "world_size": world_size}
        dist.init_process_group("gloo", **options)
        train(**arguments_of(job))


if __name__ == "__main__":
    main()
