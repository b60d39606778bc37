# SPDX-License-Identifier: Apache-2.0
"""Videos from prompts: the trained network, the tokenizer and the text encoder together."""

from pathlib import Path

import numpy as np
import torch
import yaml

from cosmos1.checkpoint import folders
from cosmos1.data.video import frames_to_tensor, read_video, resize_frames, tensor_to_frames
from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.models.diffusion.config import DiTConfig, dit_config
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, generate_latent
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.tokenizers.text import build_text_encoder
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from cosmos1.training.schedule_runner import predict


def network_of_checkpoint(path: Path) -> DiffusionModel:
    """The network and tokenizer that a checkpoint of this suite was trained with, from its recorded recipe."""
    checkpoint = folders.resolve(path)
    try:
        recorded = yaml.safe_load((checkpoint.context / "recipe.yaml").read_text())["model"]
        fields = {name: value for name, value in recorded["config"].items() if name != "_target_"}
        model = DiffusionModel(config=DiTConfig(**fields), tokenizer=recorded["tokenizer"])
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{checkpoint.context / 'recipe.yaml'} does not say what network it is: {error}"
        ) from error
    model.tokenizer_path = recorded.get("tokenizer_path")
    # Recomputation saves memory in the backward pass, of which there is none.
    model.config.recompute_granularity = None
    return model


def network_of_size(size: str, video2world: bool) -> DiffusionModel:
    """An untrained network: what a run from scratch starts with."""
    return DiffusionModel(dit_config(size, video2world), tokenizer="dct" if size == "tiny" else "cosmos_cv8x8x8")


class VideoGenerator:
    """Generates videos on the processes of torchrun; ``strategy`` may split the network (TP) and the tokens (CP)."""

    def __init__(
        self, task: DiffusionModel, strategy: MegatronStrategy, checkpoint: Path | None, ema: int | None = None
    ):
        task.validate(strategy, process_groups.world_size())
        process_groups.initialize(strategy)
        self.task = task
        precision = "bf16" if device().type == "cuda" else "fp32"
        self.model = ParallelModel(task, strategy, precision, seed=1234, trainable=False)
        self.report = []
        if checkpoint is not None:
            restore = RestoreConfig(path=str(checkpoint), ema=ema)
            self.report = load_weights(self.model, folders.resolve(checkpoint), restore)

    def generate(
        self,
        prompt: str,
        negative_prompt: str,
        num_frames: int,
        height: int,
        width: int,
        fps: float,
        settings: GenerationSettings,
        given_frames: np.ndarray | None = None,
        progress=None,
    ) -> np.ndarray:
        """``[T, H, W, 3]`` uint8. ``given_frames`` (same layout, 1 or 8k+1 frames) start a Video2World sample."""
        tokenizer = build_video_tokenizer(self.task.tokenizer, self.task.tokenizer_path, num_frames, device())
        encoder = build_text_encoder("hashed" if self.task.tokenizer == "dct" else "t5", device=device())
        text, negative = (encoder.encode([p])[0].to(device()) for p in (prompt, negative_prompt))
        frames = (num_frames - 1) // tokenizer.temporal_factor + 1
        shape = [
            self.task.config.latent_channels,
            frames,
            height // tokenizer.spatial_factor,
            width // tokenizer.spatial_factor,
        ]
        if (num_frames - 1) % tokenizer.temporal_factor or height % 16 or width % 16:
            raise ConfigError(
                f"--num_video_frames {num_frames} --height {height} --width {width}: frames must be 8k+1, height and width "
                f"multiples of 16; nearest are {(num_frames - 1) // 8 * 8 + 1}, {height // 16 * 16}, {width // 16 * 16}"
            )
        self.task.validate_sample(self.model.strategy, shape)
        given = self._given(tokenizer, given_frames, num_frames, height, width)
        with self.model.evaluating():
            latent = generate_latent(
                lambda sample: predict(self.model, sample),
                shape,
                text,
                negative if negative_prompt else None,
                fps,
                settings,
                self.task.objective.sigma_data,
                given,
                self.task.config.condition_mask,
                progress,
            )
        return tensor_to_frames(tokenizer.decode(latent))

    def _given(
        self, tokenizer, frames: np.ndarray | None, num_frames: int, height: int, width: int
    ) -> GivenFrames | None:
        """Encode the given frames followed by mid-grey up to the length of the video."""
        if frames is None:
            return None
        if not self.task.config.condition_mask:
            raise ConfigError("given frames need a Video2World network; this one is Text2World")
        if (len(frames) - 1) % tokenizer.temporal_factor or len(frames) >= num_frames:
            raise ConfigError(
                f"--num_input_frames {len(frames)}: use 1 or 9 (8k+1), fewer than the {num_frames} generated"
            )
        video = torch.zeros(1, 3, num_frames, height, width)
        video[:, :, : len(frames)] = frames_to_tensor(resize_frames(frames, height, width))
        latent = tokenizer.encode(video.to(device())).float() * self.task.objective.sigma_data
        return GivenFrames(latent, (len(frames) - 1) // tokenizer.temporal_factor + 1)


def read_given_frames(path: str, count: int) -> np.ndarray:
    """The last ``count`` frames of a video, or an image as one frame."""
    if Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        from PIL import Image

        return np.asarray(Image.open(path).convert("RGB"))[None]
    frames = read_video(path)
    if len(frames) < count:
        raise ConfigError(f"{path} has {len(frames)} frames, --num_input_frames asks for {count}")
    return frames[-count:]
