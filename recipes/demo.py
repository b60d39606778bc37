# SPDX-License-Identifier: Apache-2.0
"""The whole way on a CPU in a few minutes: videos, latents, post-training with a resume, generation before and after.

    make demo                          # renders a small world
    RAW_DATA=folder make demo          # your own mp4s instead

Every step is an ordinary command of this suite and is printed as you would type it.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

FACTORY = "cosmos_diffusion_tiny_text2world_finetune"
NUM_FRAMES, PIXELS, FPS = 17, 96 * 128, 12
MAX_STEPS = 440
TRAINING_ENDS = 330
"""Seconds since the start by which it does, though a slow machine trains fewer steps: what follows takes up to half a minute."""


class Demo:
    """Runs the steps, each timed; the first failure ends the program with that step's status."""

    def __init__(self, output: Path, raw_data: str | None, max_steps: int | None):
        self.output, self.raw_data, self.max_steps = output, raw_data, max_steps or MAX_STEPS
        self.may_be_shorter = max_steps is None
        self.videos = Path(raw_data) if raw_data else output / "videos"
        self.height, self.width, self.num_steps_shown = 96, 128, 0
        self.started = time.monotonic()

    def step(self, title: str, *command) -> None:
        self.num_steps_shown += 1
        arguments = [str(part) for part in command]
        print(f"\n[{self.num_steps_shown}] {title}\n$ {shlex.join(arguments)}", flush=True)
        if arguments[0] == "torchrun":
            arguments[:1] = [sys.executable, "-m", "torch.distributed.run"]
        else:
            arguments[0] = sys.executable
        status = subprocess.run(arguments).returncode
        if status:
            print(f"error: this step ended with status {status}", file=sys.stderr)
            sys.exit(status)
        minutes, seconds = divmod(round(self.seconds), 60)
        print(f"    {minutes}:{seconds:02d} since the start", flush=True)

    def run(self) -> None:
        self.make_data()
        self.generate("before", "Generate a video with the untrained network")
        quarter, started = max(self.max_steps // 4, 1), self.seconds
        self.train("Post-train with tensor parallelism (TP=2) and sequence parallelism", quarter)
        steps = self.max_steps
        if self.may_be_shorter:
            steps = self.steps_in_time(quarter, (self.seconds - started) / quarter)
        self.train(f"Start again: it resumes the checkpoint of step {quarter}", steps)
        self.generate(
            "after", "Generate the same video with the trained network", "--checkpoint", self.run_folder, "--ema", 0
        )
        self.report()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def steps_in_time(self, done: int, seconds_per_step: float) -> int:
        """``max_steps``, or as many as a slow machine can do until ``TRAINING_ENDS``, which is said."""
        steps = done + int((TRAINING_ENDS - self.seconds) / seconds_per_step) // 10 * 10
        if steps >= self.max_steps:
            return self.max_steps
        steps = max(steps, done + 10)
        print(
            f"{seconds_per_step:.1f} s per step: {steps} steps instead of {self.max_steps}, so that six minutes are enough",
            flush=True,
        )
        return steps

    def make_data(self) -> None:
        size = ("--height", self.height, "--width", self.width)
        if self.raw_data:
            self.height, self.width = _size_like(self.videos)
            size = ("--height", self.height, "--width", self.width)
        else:
            world = ("--num_videos", 40, "--num_frames", NUM_FRAMES, "--fps", FPS, *size)
            self.step(
                "Render the demo world", "python", "data_prep/demo_world.py", "--output_path", self.videos, *world
            )
        options = (
            "--num_frames",
            NUM_FRAMES,
            "--num_chunks",
            8 if self.raw_data else 1,
            "--tokenizer",
            "dct",
            "--text_encoder",
            "hashed",
            *size,
        )
        paths = ("--dataset_path", self.videos, "--output_path", self.output / "latents")
        self.step("Prepare latents and text embeddings", "python", "data_prep/prepare_dataset.py", *paths, *options)

    def train(self, title: str, steps: int) -> None:
        overrides = [f"data.path={self.output / 'latents'}", f"log.log_dir={self.output / 'runs'}", "log.version=demo"]
        overrides += [f"trainer.max_steps={steps}", f"optim.lr_scheduler.decay_steps={self.max_steps}"]
        overrides += ["trainer.strategy.tensor_model_parallel_size=2", "trainer.strategy.sequence_parallel=true"]
        # Both processes share each sample, so that the batch need not be cut.
        overrides.append("data.micro_batch_size=8")
        recipe = ("recipes/diffusion/general.py", "--yes", "--factory", FACTORY)
        self.step(title, "torchrun", "--standalone", "--nproc_per_node=2", *recipe, *overrides)

    def generate(self, name: str, title: str, *network) -> None:
        what = (
            "--prompt",
            self.prompt,
            "--num_video_frames",
            NUM_FRAMES,
            "--height",
            self.height,
            "--width",
            self.width,
        )
        how = ("--num_steps", 20, "--guidance", 1, "--fps", FPS, "--seed", 1)
        save = ("--video_save_path", self.output / f"{name}.mp4")
        network = network or ("--model", "tiny")
        self.step(title, "python", "recipes/generate/text2world.py", *network, *what, *how, *save)

    @property
    def run_folder(self) -> Path:
        return self.output / "runs" / "default" / "demo"

    @property
    def example(self) -> Path:
        """The video that the generated ones are compared with."""
        return sorted(self.videos.glob("*.mp4"))[0]

    @property
    def prompt(self) -> str:
        caption = self.example.with_suffix(".txt")
        return caption.read_text().strip() if caption.exists() else "a video of sks."

    def report(self) -> None:
        from cosmos1.checkpoint.folders import complete_checkpoints
        from cosmos1.data.video import read_video, resize_frames
        from cosmos1.evaluation.contact_sheet import write_contact_sheet

        real = resize_frames(read_video(self.example)[:NUM_FRAMES], self.height, self.width)
        before, after = (read_video(self.output / f"{name}.mp4") for name in ("before", "after"))
        sheet = self.output / "contact_sheet.png"
        write_contact_sheet(sheet, {"real": real, "before": before, "after": after})
        print("\nDone.")
        for label, path in (
            ("loss plot", self.run_folder / "loss.png"),
            ("video before", self.output / "before.mp4"),
            ("video after", self.output / "after.mp4"),
            ("contact sheet", sheet),
            ("checkpoint", complete_checkpoints(self.run_folder / "checkpoints")[-1].path),
        ):
            print(f"{label:14s} {path}")


def _size_like(folder: Path) -> tuple[int, int]:
    """A small size with about the shape of the first video; an even number of token rows divides by TP=2."""
    from cosmos1.data.sources.clip_plan import list_mp4_files
    from cosmos1.data.video import probe_video

    info = probe_video(list_mp4_files(folder)[0])
    height = (PIXELS * info.height / info.width) ** 0.5
    return max(round(height / 32), 1) * 32, max(round(PIXELS / height / 16), 2) * 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_path", type=Path, default=Path("demo_output"), help="new or empty folder")
    parser.add_argument(
        "--raw_data", help="folder of mp4s (with captions NAME.txt beside them) instead of the demo world"
    )
    parser.add_argument(
        "--max_steps", type=int, help=f"of training; without it {MAX_STEPS}, or fewer on a slow machine"
    )
    options = parser.parse_args()
    if options.output_path.exists() and any(options.output_path.iterdir()):
        print(f"error: {options.output_path} is not empty; delete it or give another --output_path", file=sys.stderr)
        sys.exit(2)
    Demo(options.output_path, options.raw_data, options.max_steps).run()


if __name__ == "__main__":
    from cosmos1.errors import UserError

    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
