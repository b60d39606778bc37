# SPDX-License-Identifier: Apache-2.0
"""Videos from their first frames with an autoregressive network: the network, the tokenizer and the text encoder."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from cosmos1 import hub
from cosmos1.checkpoint import formats, networks
from cosmos1.data.geometry.letterbox import letterbox, letterbox_frames
from cosmos1.data.video import cover_and_crop, frames_to_tensor, resize_frames, tensor_to_frames
from cosmos1.errors import CheckpointError, ConfigError
from cosmos1.generation.action_control import windows
from cosmos1.generation.command import program_for
from cosmos1.generation.generator import open_network, recorded_settings
from cosmos1.models.autoregressive.config import GPTConfig, gpt_config
from cosmos1.models.autoregressive.generation import generate_tokens
from cosmos1.models.autoregressive.model import AutoregressiveModel
from cosmos1.models.autoregressive.sampling import SamplingSettings
from cosmos1.models.diffusion.config import DiTConfig
from cosmos1.models.tokenizers.cosmos_dv import HUB_NAMES
from cosmos1.models.tokenizers.discrete import build_discrete_tokenizer
from cosmos1.models.tokenizers.token_grid import clip_shape, latent_grid
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device, release_memory
from cosmos1.parallel.strategy import MegatronStrategy


def task_of_checkpoint(path: Path, height: int | None = None, width: int | None = None) -> AutoregressiveModel:
    """The network and tokenizer of a checkpoint: from the recorded recipe of one of this suite, from the shapes of any
    other weights, which go with the published tokenizer. Of the pictures of action control these tell no size; ``height``
    and ``width`` do.

    Raises:
        ConfigError: a network of another program, or a size that is needed and missing.
    """
    recorded = recorded_settings(path, "model")
    task = _task_of_record(path, recorded) if recorded else _task_of_weights(path)
    action = task.config.action
    if action is None or (task.single_frames and task.config.latent_shape[0] == action.num_actions + 1):
        return task
    if height is None or width is None:
        raise ConfigError(
            f"{path} is a network for action control that does not record the size of its pictures; give the --height and "
            "--width that it was trained with"
        )
    # What the recipes of action control set leaves no trace in the weights.
    task.single_frames, task.config.pad_to_multiple_of = True, 128
    grid = latent_grid(1, height, width, tuple(task.compression_factor))
    task.config.latent_shape = [action.num_actions + 1, *grid[1:]]
    return task


def _task_of_record(path: Path, recorded: dict) -> AutoregressiveModel:
    try:
        if "num_query_groups" not in recorded["config"]:
            raise _other_family(networks.config_from_record(DiTConfig, recorded["config"]))
        tokenizer = {name: recorded[name] for name in ("tokenizer", "tokenizer_path", "compression_factor")}
        config = networks.config_from_record(GPTConfig, recorded["config"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"the recipe.yaml of {path} does not say what network it is: {error}") from error
    return AutoregressiveModel(config=config, single_frames=recorded.get("single_frames", False), **tokenizer)


def _task_of_weights(path: Path) -> AutoregressiveModel:
    config = formats.open_weights(hub.locate(str(path))).config
    if not isinstance(config, GPTConfig):
        raise _other_family(config)
    return AutoregressiveModel(config=config)


def _other_family(config: DiTConfig) -> ConfigError:
    return ConfigError(f"the checkpoint holds a diffusion network; use {program_for(config)}")


def task_of_size(size: str) -> AutoregressiveModel:
    """An untrained network: what a run from scratch starts with."""
    return AutoregressiveModel(config=gpt_config(size), tokenizer="dct_fsq" if size.startswith("tiny") else "cosmos_dv")


def given_latents(task: AutoregressiveModel, num_frames: int) -> int:
    """Latent frames that ``num_frames`` given ones make; raises :class:`ConfigError` where they make none."""
    per_token, clip = (
        task.compression_factor[0],
        clip_shape(task.config.latent_shape, tuple(task.compression_factor))[0],
    )
    if (num_frames - 1) % per_token or num_frames >= clip:
        raise ConfigError(
            f"--num_input_frames {num_frames}: use 1 or 1 + a multiple of {per_token}, fewer than the {clip} frames of the clip"
        )
    return 1 + (num_frames - 1) // per_token


def _pictures(task: AutoregressiveModel, frames: np.ndarray, height: int, width: int) -> torch.Tensor:
    """Given frames as a clip ``[1, 3, T, height, width]``, brought to their size as the data of the task were."""
    if task.config.camera is not None:
        return frames_to_tensor(letterbox_frames(frames, letterbox(*frames.shape[1:3], height, width)))
    if task.config.views is not None or task.single_frames:
        return frames_to_tensor(resize_frames(frames, height, width))
    return cover_and_crop(frames, height, width)


class AutoregressiveGenerator:
    """Continues videos on the processes of torchrun, which share each layer (tensor parallelism)."""

    def __init__(self, task: AutoregressiveModel, checkpoint: Path | None, ema: int | None = None):
        strategy = MegatronStrategy(tensor_model_parallel_size=process_groups.world_size())
        self.task = task
        self.model, self.report = open_network(task, strategy, checkpoint, ema)
        frames, height, width = self.video_shape
        self.report += [*task.describe()[:2], f"videos: {frames} frames of {height} x {width}"]
        published = HUB_NAMES.get(tuple(task.compression_factor)) if task.tokenizer == "cosmos_dv" else None
        self.encoder_path = self.decoder_path = task.tokenizer_path or published

    @cached_property
    def _encoder(self):
        return self._tokenizer(encoder_path=self.encoder_path)

    @cached_property
    def _decoder(self):
        return self._tokenizer(decoder_path=self.decoder_path)

    def _tokenizer(self, **path: str | None):
        """The half whose path is given, built when it is first needed, for all videos."""
        return build_discrete_tokenizer(
            self.task.tokenizer, tuple(self.task.compression_factor), **path, device=device()
        )

    @property
    def video_shape(self) -> list[int]:
        """Frames, height and width in pixels of what is generated, of each view."""
        frames, *size = clip_shape(self.task.config.latent_shape, tuple(self.task.compression_factor))
        return [self.task.config.latent_shape[0] if self.task.single_frames else frames, *size]

    def given_tokens(self, views: list[np.ndarray]) -> torch.Tensor:
        """Tokens ``[1, t * V * h * w]`` of the given frames ``[1 + k r_t, H, W, 3]`` of each view."""
        tokens_Vthw = torch.stack([self._tokens_of_view(frames) for frames in views])
        release_memory()
        return tokens_Vthw.transpose(0, 1).flatten()[None].to(device())

    def _tokens_of_view(self, frames: np.ndarray) -> torch.Tensor:
        """Tokens ``[t, h, w]``. Frames are followed by their last one up to the length of the clip, which does not change
        their tokens."""
        num_frames, height, width = self.video_shape
        count = len(frames)
        if self.task.single_frames:
            return self._encoder.encode(_pictures(self.task, frames[-1:], height, width))[0]
        num_latents = given_latents(self.task, count)
        clip = _pictures(self.task, frames, height, width)
        clip = torch.cat([clip, clip[:, :, -1:].expand(-1, -1, num_frames - count, -1, -1)], dim=2)
        ids = self._encoder.encode(clip.to(device()))
        return ids[0, :num_latents]

    def generate(
        self,
        given_tokens: torch.Tensor,
        text: torch.Tensor | None,
        settings: SamplingSettings,
        cuda_graph: bool = True,
        progress=None,
        controls: dict[str, torch.Tensor] | None = None,
    ) -> tuple[np.ndarray, float]:
        """``(frames [T, H, W, 3] uint8, tokens per second)``; the frames include the given ones, as decoded.

        ``text`` is ``[1, 512, 1024]`` (for each of several views ``[1, V * 512, 1024]``), exactly for networks that read
        text. ``controls`` are the signals by batch key. Views are shown side by side.
        """
        tokens, rate = self._continue(given_tokens, text, settings, cuda_graph, progress, controls)
        return self.frames_of_tokens(tokens), rate

    def roll_out(
        self,
        start: np.ndarray,
        actions: torch.Tensor,
        settings: SamplingSettings,
        cuda_graph: bool = True,
        progress=None,
    ) -> tuple[np.ndarray, float]:
        """``(frames [N + 1, H, W, 3] uint8, tokens per second)`` of a start ``[1, H, W, 3]`` and actions ``[N, A]``.

        The last frame of a sample, as it was predicted, is the given one of the next; seeds count up.
        """
        num_actions = self.task.config.action.num_actions
        tokens = [self.given_tokens([start])]
        frame_size, rates = tokens[0].shape[1], []
        for number, (first, num_new) in enumerate(windows(len(actions) + 1, num_actions)):
            seeded = replace(settings, seed=settings.seed + number)
            controls = {"action": actions[None, first : first + num_actions]}
            clip, rate = self._continue(tokens[first], None, seeded, cuda_graph, progress, controls)
            tokens += clip.split(frame_size, dim=1)[-num_new:]
            rates.append(rate)
        return self.frames_of_tokens(torch.cat(tokens, dim=1)), sum(rates) / len(rates)

    def _continue(self, given, text, settings, cuda_graph, progress, controls) -> tuple[torch.Tensor, float]:
        text = None if text is None else text.to(device()).float()
        controls = {name: signal.to(device()) for name, signal in (controls or {}).items()}
        with self.model.evaluating():
            return generate_tokens(self.model.networks[0], given, text, settings, cuda_graph, progress, controls)

    def frames_of_tokens(self, tokens: torch.Tensor) -> np.ndarray:
        """Frames ``[T, H, W, 3]`` uint8 of all tokens ``[1, ...]``: one after another where each is a picture of its own."""
        config = self.task.config
        _, rows, columns = config.latent_shape
        clips = tokens.view(-1, config.num_views, rows, columns).transpose(0, 1)
        if self.task.single_frames:
            clips = clips.transpose(0, 1)
        videos = self._decoder.decode(clips)
        release_memory()
        return tensor_to_frames(torch.cat(videos.split(1), dim=2 if self.task.single_frames else 4))
