# SPDX-License-Identifier: Apache-2.0
"""Videos from prompts: the trained network, the tokenizer and the text encoder together.

Only the network stays on the device. The text encoder is loaded for all prompts at once and freed; the tokenizer is
loaded when frames are encoded or decoded and freed again.
"""

from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml

from cosmos1 import hub
from cosmos1.checkpoint import folders, formats, networks
from cosmos1.conditioning.controls import num_views
from cosmos1.data.video import frames_to_tensor, resize_frames, tensor_to_frames
from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.diffusion.config import DiTConfig, dit_config
from cosmos1.models.diffusion.generation import GenerationSettings, GivenFrames, Prompt, generate_latent
from cosmos1.models.diffusion.model import DiffusionModel
from cosmos1.models.diffusion.objective_config import EDMObjective, VideoConditioning
from cosmos1.models.tokenizers.text import build_text_encoder
from cosmos1.models.tokenizers.video import build_video_tokenizer, is_weight_free
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device, release_memory
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.training.config import RestoreConfig
from cosmos1.training.parallel_model import ParallelModel
from cosmos1.training.run_state import load_weights
from cosmos1.training.sampling import predictor


@dataclass
class VideoShape:
    """Size of a generated video in pixels and frames."""

    num_frames: int
    height: int
    width: int
    fps: float

    def latent_shape(self, config: DiTConfig) -> list[int]:
        """``[C, T, H, W]`` of the latents of a network; raises :class:`ConfigError` for sizes that give none."""
        time, space = config.temporal_factor, config.spatial_factor
        patch = space * config.patch_spatial
        if (self.num_frames - 1) % time or self.height % patch or self.width % patch:
            nearest = (
                (self.num_frames - 1) // time * time + 1,
                *(max(n // patch, 1) * patch for n in (self.height, self.width)),
            )
            raise ConfigError(
                f"--num_video_frames {self.num_frames} --height {self.height} --width {self.width}: frames must be "
                f"{time}k+1, height and width multiples of {patch}; nearest are {', '.join(map(str, nearest))}"
            )
        frames = (self.num_frames - 1) // time + 1
        return [config.latent_channels, frames, self.height // space, self.width // space]


def network_of_checkpoint(path: Path) -> DiffusionModel:
    """The network and tokenizer of a checkpoint: from the recorded recipe of one of this suite, from the shapes of any
    other weights, which go with the official tokenizer."""
    path = hub.locate(str(path))
    if formats.detect(path) != "dist":
        weights = formats.open_weights(path)
        if not isinstance(weights.config, DiTConfig):
            raise _autoregressive(path)
        return DiffusionModel(weights.config, _objective())
    recorded = recorded_settings(path, "model")
    if "num_query_groups" in recorded.get("config", {}):
        raise _autoregressive(path)
    try:
        config = networks.config_from_record(DiTConfig, recorded["config"])
        objective = _objective(recorded.get("objective", {}).get("sigma_data", EDMObjective.sigma_data))
        model = DiffusionModel(config, objective, tokenizer=recorded["tokenizer"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the recipe.yaml of {path} does not say what network it is: {error}") from error
    model.tokenizer_path = recorded.get("tokenizer_path")
    model.single_frames = recorded.get("single_frames", False)
    # Recomputation saves memory in the backward pass, of which there is none.
    model.config.recompute_granularity = None
    return model


def _autoregressive(path: Path) -> ConfigError:
    return ConfigError(f"{path} holds an autoregressive network; use recipes/generate/autoregressive.py")


def recorded_settings(path: Path, section: str) -> dict:
    """The ``model`` or ``data`` settings of the run that wrote a checkpoint of this suite; empty for other weights."""
    path = hub.locate(str(path))
    if formats.detect(path) != "dist":
        return {}
    recipe = folders.resolve(path).context / "recipe.yaml"
    try:
        return yaml.safe_load(recipe.read_text()).get(section) or {}
    except (OSError, AttributeError, yaml.YAMLError) as error:
        raise CheckpointError(f"{recipe} cannot be read as the recipe of a run: {error}") from error


def network_of_size(size: str, video2world: bool) -> DiffusionModel:
    """An untrained network: what a run from scratch starts with."""
    config = dit_config(size, video2world)
    return DiffusionModel(config, _objective(), tokenizer="dct" if size == "tiny" else "cosmos_cv8x8x8")


def _objective(sigma_data: float = EDMObjective.sigma_data) -> EDMObjective:
    """What sampling needs to know of the objective: the scale of the latents. Any number of frames may be given."""
    return EDMObjective(sigma_data=sigma_data, conditioning=VideoConditioning(min_frames=0, max_frames=0))


def embed_prompts(prompts: list[str], encoder_name: str) -> torch.Tensor:
    """Text embeddings ``[N, 512, 1024]`` on the CPU, the same on all ranks. The main rank alone loads the encoder, and frees
    it before this returns."""

    def encode() -> torch.Tensor:
        return build_text_encoder(encoder_name, device=device()).encode(prompts)[0].cpu()

    embeddings = process_groups.on_main_rank(encode)
    release_memory()
    return embeddings


def open_network(
    task: DiffusionModel | AutoregressiveModel, strategy: MegatronStrategy, checkpoint: Path | None, ema: int | None
) -> tuple[ParallelModel, list[str]]:
    """The network on the processes of torchrun, and what was loaded. Without a checkpoint the weights are untrained.

    Raises:
        ConfigError, CheckpointError: for a layout or weights that do not fit.
    """
    task.validate(strategy, process_groups.world_size())
    process_groups.initialize(strategy)
    precision = "bf16" if device().type == "cuda" else "fp32"
    model = ParallelModel(task, strategy, precision, seed=1234, trainable=False)
    if checkpoint is None:
        return model, []
    return model, load_weights(model, RestoreConfig(path=str(checkpoint), ema=ema))


class VideoGenerator:
    """Generates videos on the processes of torchrun; ``strategy`` may split the network (TP) and the tokens (CP)."""

    def __init__(
        self, task: DiffusionModel, strategy: MegatronStrategy, checkpoint: Path | None, ema: int | None = None
    ):
        self.task = task
        self.model, self.report = open_network(task, strategy, checkpoint, ema)

    def embed(self, prompts: list[str]) -> torch.Tensor:
        """Text embeddings ``[N, 512, 1024]`` of :func:`embed_prompts`. An empty prompt is no text, zeros, as training has it
        where it drops the text."""
        embeddings = embed_prompts(prompts, "hashed" if is_weight_free(self.task.tokenizer) else "t5")
        embeddings[[not prompt for prompt in prompts]] = 0
        return embeddings

    def generate(
        self,
        prompt: Prompt,
        shape: VideoShape,
        settings: GenerationSettings,
        given_frames: np.ndarray | None = None,
        progress=None,
    ) -> np.ndarray:
        """One video ``[T, H, W, 3]`` uint8. ``given_frames`` (``[1 or 8k+1, H, W, 3]``) start a Video2World sample."""
        if given_frames is not None:
            count = given_latents(self.task.config, len(given_frames), shape)
            prompt = replace(prompt, given=GivenFrames(self.encode_start(given_frames, shape), count))
        latent = self.sample_latent(shape.latent_shape(self.task.config), prompt, settings, progress)
        return self.decode(latent, shape.num_frames)

    def sample_latent(
        self, latent_shape: list[int], prompt: Prompt, settings: GenerationSettings, progress=None
    ) -> torch.Tensor:
        """One latent ``[1, C, T, H, W]`` as the tokenizer decodes it; ``latent_shape`` is ``[C, T, H, W]``. With V views they
        follow each other on T."""
        self.task.validate_sample(self.model.strategy, latent_shape, num_views(prompt.controls))
        with self.model.evaluating():
            return generate_latent(predictor(self.model), latent_shape, prompt.to(device()), settings, progress)

    def decode(self, latent: torch.Tensor, num_frames: int) -> np.ndarray:
        """Frames ``[T, H, W, 3]`` uint8 of a latent ``[1, C, T, H, W]``."""
        with self._tokenizer(num_frames) as tokenizer:
            return tensor_to_frames(tokenizer.decode(latent))

    def generate_long(
        self, num_chunks: int, num_input_frames: int, settings: GenerationSettings, given_frames: np.ndarray, **others
    ) -> np.ndarray:
        """Chained Video2World samples: each starts with the last ``num_input_frames`` frames of the one before. The
        ``others`` are arguments of :meth:`generate`."""
        video = self.generate(settings=settings, given_frames=given_frames, **others)
        for _ in range(1, num_chunks):
            settings = replace(settings, seed=settings.seed + 1)
            following = self.generate(settings=settings, given_frames=video[-num_input_frames:], **others)
            video = np.concatenate([video, following[num_input_frames:]])
        return video

    @contextmanager
    def _tokenizer(self, num_frames: int):
        yield build_video_tokenizer(self.task.tokenizer, self.task.tokenizer_path, num_frames, device())
        release_memory()

    def encode_start(self, frames: np.ndarray, shape: VideoShape) -> torch.Tensor:
        """Latent ``[1, C, T, H, W]`` (times ``sigma_data``) of frames ``[N, H, W, 3]``, followed by mid-grey up to the
        length of the video."""
        video = torch.zeros(1, 3, shape.num_frames, shape.height, shape.width)
        video[:, :, : len(frames)] = frames_to_tensor(resize_frames(frames, shape.height, shape.width))
        with self._tokenizer(shape.num_frames) as tokenizer:
            return tokenizer.encode(video.to(device())).float() * self.task.objective.sigma_data


def given_latents(config: DiTConfig, num_frames: int, shape: VideoShape) -> int:
    """Latent frames that ``num_frames`` given ones make; raises :class:`ConfigError` where they make none."""
    if not config.condition_mask:
        raise ConfigError("given frames need a Video2World network; this one is Text2World")
    factor = config.temporal_factor
    if (num_frames - 1) % factor or num_frames >= shape.num_frames:
        raise ConfigError(
            f"--num_input_frames {num_frames}: use 1 or 9 ({factor}k+1), fewer than --num_video_frames {shape.num_frames}"
        )
    return (num_frames - 1) // factor + 1
