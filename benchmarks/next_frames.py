# SPDX-License-Identifier: Apache-2.0
"""How near a network for action control comes to each real next frame of a Bridge tree, from the real frame before it.

    python benchmarks/next_frames.py --checkpoint nemo_experiments/default/VERSION --dataset_path bridge --split train

PSNR against the real frames, stretched to the size of training: of the frames generated under their own actions and under
those of another step of the episode, of the frame before (as it is and after the tokenizer), and of the real frame after
the tokenizer. Means over episodes.
"""

import argparse
import statistics
from collections.abc import Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch

from cosmos1.data.modules.bridge_pixels import BridgePixelsDataModule
from cosmos1.data.video import tensor_to_frames
from cosmos1.errors import ConfigError
from cosmos1.evaluation.metrics import psnr
from cosmos1.generation.action_control import frames_of_checkpoint
from cosmos1.generation.generator import VideoGenerator, network_of_checkpoint
from cosmos1.models.diffusion.generation import GenerationSettings
from cosmos1.models.diffusion.pixels import latents_to_pixels
from cosmos1.models.tokenizers.video import build_video_tokenizer
from cosmos1.parallel import process_groups
from cosmos1.parallel.device import device
from cosmos1.parallel.strategy import MegatronStrategy
from cosmos1.progress import Progress
from cosmos1.training.sampling import generate_held_out

ROWS = ("own action", "action of another step", "tokenizer alone", "frame before, decoded", "frame before, as it is")


def open_pairs(options: argparse.Namespace) -> BridgePixelsDataModule:
    """The split's pairs of neighbouring frames in their order, as training sees them, one in a batch."""
    frames = frames_of_checkpoint(options.checkpoint)
    if frames is None:
        raise ConfigError(f"--checkpoint {options.checkpoint} does not record the frames that it was trained on")
    data = BridgePixelsDataModule(
        str(options.dataset_path),
        split=options.split,
        validation_split=None,
        sequence_interval=frames.interval,
        video_size=[frames.height, frames.width],
        action_convention=frames.convention,
        fps=frames.fps,
        num_text_tokens=1,
        shuffle=False,
        num_workers=0,
        micro_batch_size=1,
    )
    data.setup()
    return data


def pairs_by_episode(data: BridgePixelsDataModule) -> Iterator[list[dict]]:
    """The pairs of one episode after the other, read when they are asked for."""
    numbered = zip(data.window_episodes(), data.train_batches(0, 1, 0))
    for _, pairs in groupby(numbered, key=itemgetter(0)):
        yield [pair for _, pair in pairs]


def score_episode(generator: VideoGenerator, pairs: list[dict], settings: GenerationSettings) -> list[float]:
    """PSNR of ``ROWS`` over the next frames of one episode."""
    task = generator.task
    tokenizer = build_video_tokenizer(task.tokenizer, task.tokenizer_path, 1, device())
    made = {name: [] for name in ("truth", *ROWS)}
    for number, pair in enumerate(pairs):
        pair = task.with_latents(pair, device())
        other = pair | {"action": pairs[(number + len(pairs) // 2) % len(pairs)]["action"]}
        made["truth"].append(tensor_to_frames(pair["pixels"])[1])
        made["frame before, as it is"].append(tensor_to_frames(pair["pixels"])[0])
        latents = [generate_held_out(generator, each, settings, 1)[:, :, 1:] for each in (pair, other)]
        latents += [pair["video"][:, :, 1:].float(), pair["video"][:, :, :1].float()]
        for name, latent in zip(ROWS, latents):
            made[name].append(tensor_to_frames(latents_to_pixels(tokenizer, latent, 1))[0])
    truth = np.stack(made["truth"])
    return [psnr(np.stack(made[name]), truth).value for name in ROWS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run of action control with pairs of frames")
    parser.add_argument("--ema", type=int, help="use this EMA copy")
    parser.add_argument("--dataset_path", type=Path, required=True, help="Bridge tree")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--sampler", choices=("res", "euler"), default="euler")
    parser.add_argument("--num_steps", type=int, default=2)
    parser.add_argument("--num_episodes", type=int, help="only the first ones")
    options = parser.parse_args()
    data = open_pairs(options)
    num_episodes = len(set(data.window_episodes()))
    num_episodes = min(num_episodes, options.num_episodes or num_episodes)
    task = network_of_checkpoint(options.checkpoint)
    generator = VideoGenerator(task, MegatronStrategy(), options.checkpoint, options.ema)
    settings = GenerationSettings(options.num_steps, guidance=0.0, sampler=options.sampler)
    progress, scores, num_frames = Progress(num_episodes, "episodes"), [], 0
    with generator.model.evaluating():
        for pairs in islice(pairs_by_episode(data), num_episodes):
            num_frames += len(pairs)
            scores.append(score_episode(generator, pairs, settings))
            progress.advance()
    print(f"{num_frames} next frames of {num_episodes} episodes of {options.split}")
    for name, values in zip(ROWS, zip(*scores)):
        print(f"{name:24} {statistics.fmean(values):6.2f} dB")
    process_groups.shutdown()


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
