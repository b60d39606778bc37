# SPDX-License-Identifier: Apache-2.0
"""Videos from prompts: the trained network, the tokenizer and the text encoder together.

Only the network stays on the device. The text encoder is loaded for all prompts at once and freed; the tokenizer is
loaded when frames are encoded or decoded and freed again.
"""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from cosmos1 import hub
from cosmos1.checkpoint import folders, formats
from cosmos1.data.video import frames_to_tensor, read_video, resize_frames, tensor_to_frames
from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.models.diffusion.config import DiTConfig, dit_config
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, generate_latent
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective
from cosmos1.models.tokenizers.text import build_text_encoder
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device, release_memory
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from cosmos1.training.schedule_runner import predict

TEMPORAL_FACTOR, SPATIAL_FACTOR = 8, 8


@dataclass
class VideoShape:
    """Size of a generated video in pixels and frames."""

    num_frames: int
    height: int
    width: int
    fps: float

    def latent_shape(self, channels: int) -> list[int]:
        """``[C, T, H, W]``; raises :class:`ConfigError` for sizes that no tokenizer makes."""
        if (self.num_frames - 1) % TEMPORAL_FACTOR or self.height % 16 or self.width % 16:
            nearest = (self.num_frames - 1) // TEMPORAL_FACTOR * TEMPORAL_FACTOR + 1
            raise ConfigError(
                f"--num_video_frames {self.num_frames} --height {self.height} --width {self.width}: frames must be 8k+1, "
                f"height and width multiples of 16; nearest are {nearest}, {self.height // 16 * 16}, {self.width // 16 * 16}"
            )
        frames = (self.num_frames - 1) // TEMPORAL_FACTOR + 1
        return [channels, frames, self.height // SPATIAL_FACTOR, self.width // SPATIAL_FACTOR]


def network_of_checkpoint(path: Path) -> DiffusionModel:
    """The network and tokenizer of a checkpoint: from the recorded recipe of one of this suite, from the shapes of any
    other weights, which go with the official tokenizer."""
    path = hub.locate(str(path))
    if formats.detect(path) != "dist":
        return DiffusionModel(config=formats.open_weights(path).config)
    checkpoint = folders.resolve(path)
    try:
        recorded = yaml.safe_load((checkpoint.context / "recipe.yaml").read_text())["model"]
        fields = {name: value for name, value in recorded["config"].items() if name != "_target_"}
        # Of the objective, sampling needs the scale of the latents alone.
        objective = EDMObjective(sigma_data=recorded.get("objective", {}).get("sigma_data", EDMObjective.sigma_data))
        model = DiffusionModel(DiTConfig(**fields), objective, tokenizer=recorded["tokenizer"])
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
        self.report: list[str] = []
        if checkpoint is not None:
            restore = RestoreConfig(path=str(checkpoint), ema=ema)
            self.report = load_weights(self.model, restore)

    def embed(self, prompts: list[str]) -> torch.Tensor:
        """Text embeddings ``[N, 512, 1024]`` on the CPU; the encoder is freed before this returns."""
        encoder = build_text_encoder("hashed" if self.task.tokenizer == "dct" else "t5", device=device())
        embeddings = encoder.encode(prompts)[0].cpu()
        del encoder
        release_memory()
        return embeddings

    def generate(
        self,
        text: torch.Tensor,
        negative_text: torch.Tensor | None,
        shape: VideoShape,
        settings: GenerationSettings,
        given_frames: np.ndarray | None = None,
        progress=None,
    ) -> np.ndarray:
        """One video ``[T, H, W, 3]`` uint8.

        ``text`` is ``[1, 512, 1024]``; without ``negative_text`` guidance leads away from no text. ``given_frames``
        (``[1 or 8k+1, H, W, 3]``) start a Video2World sample.
        """
        latent_shape = shape.latent_shape(self.task.config.latent_channels)
        self.task.validate_sample(self.model.strategy, latent_shape)
        given = self._given(given_frames, shape) if given_frames is not None else None
        with self.model.evaluating():
            latent = generate_latent(
                lambda sample: predict(self.model, sample),
                latent_shape,
                text.to(device()),
                negative_text.to(device()) if negative_text is not None else None,
                shape.fps,
                settings,
                self.task.objective.sigma_data,
                given,
                self.task.config.condition_mask,
                progress,
            )
        with self._tokenizer(shape.num_frames) as tokenizer:
            return tensor_to_frames(tokenizer.decode(latent))

    def generate_long(
        self, num_chunks: int, num_input_frames: int, settings: GenerationSettings, **arguments
    ) -> np.ndarray:
        """Chained Video2World samples: each starts with the last ``num_input_frames`` frames of the one before."""
        video = self.generate(settings=settings, **arguments)
        for _ in range(1, num_chunks):
            settings = GenerationSettings(settings.num_steps, settings.guidance, settings.sampler, settings.seed + 1)
            following = self.generate(settings=settings, **{**arguments, "given_frames": video[-num_input_frames:]})
            video = np.concatenate([video, following[num_input_frames:]])
        return video

    @contextmanager
    def _tokenizer(self, num_frames: int):
        yield build_video_tokenizer(self.task.tokenizer, self.task.tokenizer_path, num_frames, device())
        release_memory()

    def _given(self, frames: np.ndarray, shape: VideoShape) -> GivenFrames:
        """Encode the given frames followed by mid-grey up to the length of the video."""
        if not self.task.config.condition_mask:
            raise ConfigError("given frames need a Video2World network; this one is Text2World")
        if (len(frames) - 1) % TEMPORAL_FACTOR or len(frames) >= shape.num_frames:
            raise ConfigError(
                f"--num_input_frames {len(frames)}: use 1 or 9 (8k+1), fewer than --num_video_frames {shape.num_frames}"
            )
        video = torch.zeros(1, 3, shape.num_frames, shape.height, shape.width)
        video[:, :, : len(frames)] = frames_to_tensor(resize_frames(frames, shape.height, shape.width))
        with self._tokenizer(shape.num_frames) as tokenizer:
            latent = tokenizer.encode(video.to(device())).float() * self.task.objective.sigma_data
        return GivenFrames(latent, (len(frames) - 1) // TEMPORAL_FACTOR + 1)


def read_given_frames(path: str, count: int) -> np.ndarray:
    """The last ``count`` frames of a video, or an image as one frame."""
    if Path(path).suffix.lower() in (".png", ".jpg", ".jpeg", ".webp"):
        from PIL import Image

        try:
            return np.asarray(Image.open(path).convert("RGB"))[None]
        except OSError as error:
            raise ConfigError(f"--conditioned_image_or_video_path {path} cannot be read: {error}") from error
    frames = read_video(path)
    if len(frames) < count:
        raise ConfigError(f"{path} has {len(frames)} frames, --num_input_frames asks for {count}")
    return frames[-count:]
