# SPDX-License-Identifier: Apache-2.0
"""Train the tiny action network on the rendered robot arm until it obeys, and score it under true and shuffled actions.

    python benchmarks/action_obedience.py --num_episodes 2000 --max_steps 10000

Everything stays in memory, so that the machine needs no video codec. Scores are PSNR of the pictures against the rendered
next frame: one step ahead from a real frame, and rolled out, each picture following from the one before it.
"""

import argparse
import dataclasses
import importlib.util
import multiprocessing
import tempfile
from pathlib import Path

import fiddle as fdl
import numpy as np
import torch

from cosmos1.data.batches.ordered import OrderedDataModule
from cosmos1.data.formats.latent_sample import finish_sample
from cosmos1.data.geometry.actions import bridge_actions

SCALE = np.array([20.0] * 6 + [1.0])
NUM_HELD_OUT = 32


def render(job: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Frames ``[T, H, W, 3]`` and scaled actions ``[T - 1, 7]`` of one episode."""
    from cosmos1.data.demo_worlds.arm_drawing import ArmRenderer
    from cosmos1.data.demo_worlds.arm_world import render_episode, sample_episode

    index, num_frames, height, width = job
    episode = sample_episode(0, index, num_frames, "wander")
    facts = episode.annotation(str(index), "")
    actions = bridge_actions(np.array(facts["state"]), np.array(facts["continuous_gripper_state"]))
    return render_episode(episode, ArmRenderer(height, width)), (actions * SCALE).astype(np.float32)


@dataclasses.dataclass
class ArmPairs(OrderedDataModule):
    """Pairs of neighbouring frames; the last episodes are held out."""

    path: str = "rendered"
    num_episodes: int = 1000
    num_frames: int = 24
    height: int = 96
    width: int = 128

    def setup(self) -> None:
        jobs = [(i, self.num_frames, self.height, self.width) for i in range(self.num_episodes + NUM_HELD_OUT)]
        with multiprocessing.Pool() as pool:
            rendered = pool.map(render, jobs, chunksize=8)
        self.frames = np.stack([frames for frames, _ in rendered])
        self.actions = torch.tensor(np.stack([actions for _, actions in rendered]))
        self.latents = torch.stack([encode(frames) for frames in self.frames])
        self.sample_shape, self.tokenizer = [16, 2, self.height // 8, self.width // 8], "dct"
        steps = self.num_frames - 1
        self._begin(self.num_episodes * steps, NUM_HELD_OUT * steps, [self.num_episodes])

    def describe(self) -> list:
        return [f"data: {self.num_train_samples} pairs of {self.num_episodes} rendered episodes"]

    def _load_sample(self, training: bool, index: int, position: int) -> dict:
        steps = self.num_frames - 1
        episode, step = divmod(index + (0 if training else self.num_episodes * steps), steps)
        latent = self.latents[episode, step : step + 2].transpose(0, 1)
        info = {"fps": 5.0, "num_frames": 2}
        sample = finish_sample(latent, torch.zeros(1, 1024), torch.ones(1), info, position)
        return sample | {"action": self.actions[episode, step : step + 1]}


def encode(frames: np.ndarray) -> torch.Tensor:
    """Latents ``[T, 16, h, w]`` of frames ``[T, H, W, 3]``, each by itself."""
    from cosmos1.models.tokenizers.dct import DctTokenizer

    pixels = torch.tensor(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
    return DctTokenizer().encode(pixels[:, :, None])[:, :, 0]


def decode(latents: torch.Tensor) -> np.ndarray:
    from cosmos1.models.tokenizers.dct import DctTokenizer

    pixels = DctTokenizer().decode(latents.cpu().float()[:, :, None])[:, :, 0].clamp(-1, 1)
    return ((pixels + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def psnr(frames: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((frames.astype(np.float64) - truth) ** 2)))


class Score:
    """Callback: rolls out held-out episodes when training ends."""

    def __init__(self, num_episodes: int, num_steps: int):
        self.num_episodes, self.num_steps = num_episodes, num_steps

    def on_train_end(self, run) -> None:
        data, rows = run.data, []
        with run.model.evaluating():
            for number in range(self.num_episodes):
                episode, other = data.num_episodes + number, data.num_episodes + (number + 1) % NUM_HELD_OUT
                truth = data.frames[episode, 1 : self.num_steps + 1]
                row = {"repeat": psnr(data.frames[episode, : self.num_steps], truth)}
                row["tokenizer"] = psnr(decode(data.latents[episode, 1 : self.num_steps + 1]), truth)
                for name, actions in (("true", data.actions[episode]), ("shuffled", data.actions[other])):
                    row[f"one step, {name}"] = psnr(self._predict(run, episode, actions, feed_back=False), truth)
                    row[f"rolled out, {name}"] = psnr(self._predict(run, episode, actions, feed_back=True), truth)
                rows.append(row)
        for name in rows[0]:
            run.metrics.message(f"PSNR {name}: {np.mean([row[name] for row in rows]):.2f} dB")

    def _predict(self, run, episode: int, actions: torch.Tensor, feed_back: bool) -> np.ndarray:
        from cosmos1.models.diffusion.generation import GenerationSettings
        from cosmos1.training.sampling import generate_held_out

        settings, predicted = GenerationSettings(num_steps=8, guidance=0.0), []
        for step in range(self.num_steps):
            current = predicted[-1] if feed_back and predicted else run.data.latents[episode, step]
            latent = torch.stack([current.cpu().float(), torch.zeros_like(current.cpu().float())], dim=1)
            sample = finish_sample(latent, torch.zeros(1, 1024), torch.ones(1), {"fps": 5.0, "num_frames": 2}, 0)
            sample["action"] = actions[step : step + 1]
            batch = {name: value[None] for name, value in sample.items()}
            predicted.append(generate_held_out(run, batch, settings, 1)[0, :, 1])
        return decode(torch.stack(predicted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_episodes", type=int, default=1000)
    parser.add_argument("--max_steps", type=int, default=4000)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--size", type=int, nargs=2, default=[96, 128], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--num_scored", type=int, default=16, help="held-out episodes that are rolled out")
    options = parser.parse_args()
    path = Path(__file__).parents[1] / "recipes" / "diffusion" / "action_control.py"
    spec = importlib.util.spec_from_file_location("action_control", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arguments = fdl.build(module.cosmos_diffusion_tiny_video2world_action_ctrl_finetune()).keywords
    height, width = options.size
    arguments["data"] = ArmPairs(
        num_episodes=options.num_episodes,
        height=height,
        width=width,
        micro_batch_size=options.batch_size,
        global_batch_size=options.batch_size,
        num_workers=8,
    )
    arguments["optim"].config.lr, arguments["optim"].lr_scheduler.warmup_steps = 1e-3, 200
    arguments["optim"].ema_widths = []
    trainer = arguments["trainer"]
    trainer.max_steps, trainer.log_every_n_steps, trainer.val_check_interval = options.max_steps, 200, 1000
    trainer.callbacks = [Score(options.num_scored, 12)]
    with tempfile.TemporaryDirectory() as folder:
        arguments["log"].log_dir, arguments["log"].ckpt.every_n_train_steps = folder, 1_000_000
        arguments["log"].ckpt.save_last = False
        module.train(**arguments)


if __name__ == "__main__":
    main()
