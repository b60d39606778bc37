# SPDX-License-Identifier: Apache-2.0
"""Render a small world, with exact truth for every task. The same options give the same data on every machine.

    python data_prep/demo_world.py --output_path demo_videos --num_videos 32 --num_frames 33 --height 96 --width 128

--world clips   000.mp4, 000.txt, ...: one room and one camera, four colours, five motions; little enough for a very
                small model to learn in minutes
--world arm     episodes of a robot arm in the Bridge layout, for action and instruction control
--world camera  000.zip, ...: a moving camera in a room, with poses, in the DL3DV layout; captions.json
--world rig     videos/<camera>/000.mp4, ..., captions/, trajectory/, rig.json: a car with several cameras
"""

import argparse
import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cosmos1.data.command_line import for_each, run_command
from cosmos1.data.demo_worlds.rendering import Box, Camera, Renderer, Scene, Sphere
from cosmos1.errors import ConfigError

COLOURS = {
    "red": (0.80, 0.11, 0.09),
    "green": (0.13, 0.56, 0.20),
    "blue": (0.12, 0.26, 0.78),
    "yellow": (0.90, 0.70, 0.10),
}
MOTIONS = ("ball bounces", "ball rolls", "box slides", "box turns", "ball jumps")
ROOM_CAMERA = Camera(position=np.array([0.0, 1.55, -3.3]), target=np.array([0.0, 0.62, 0.6]))
RADIUS = 0.36
SECONDS_ACROSS_ROOM = 2.0
HALF_TRACK = 1.45


@dataclass(frozen=True)
class Clip:
    """Everything that one clip depends on. Times are in seconds, lengths in metres."""

    colour: str
    motion: str
    direction: int
    """+1 moves to the right, -1 to the left."""
    phase: float
    """Where in its motion the object starts, 0..1."""
    depth: float

    def caption(self) -> str:
        side = "right" if self.direction > 0 else "left"
        start = "left" if self.direction > 0 else "right"
        words = {
            "ball bounces": f"ball bounces from the {start} to the {side}",
            "ball rolls": f"ball rolls from the {start} to the {side}",
            "box slides": f"box slides from the {start} to the {side}",
            "box turns": f"box turns to the {side} in the middle",
            "ball jumps": "ball jumps up and down in the middle",
        }
        return f"A {self.colour} {words[self.motion]} of a bright room with a wooden floor."

    def scene(self, seconds: float) -> Scene:
        """Return the objects at a time."""
        progress = seconds / SECONDS_ACROSS_ROOM
        # The object travels to one side and enters again, already out of sight, on the other.
        cycle = 2 * HALF_TRACK + 4 * RADIUS
        along = (0.35 * self.phase * cycle + progress * 2 * HALF_TRACK) % cycle
        x = self.direction * (along - cycle / 2)
        in_hop = (2 * self.phase + 1.5 * progress) % 1
        hop = 4 * in_hop * (1 - in_hop)
        colour = np.array(COLOURS[self.colour], np.float32)
        roll = -x / RADIUS
        if self.motion == "ball bounces":
            thing = Sphere(_point(x, RADIUS + 0.8 * hop, self.depth), RADIUS, colour, roll)
        elif self.motion == "ball rolls":
            thing = Sphere(_point(x, RADIUS, self.depth), RADIUS, colour, roll)
        elif self.motion == "ball jumps":
            thing = Sphere(_point(0, RADIUS + 1.0 * hop, self.depth), RADIUS, colour)
        else:
            slides = self.motion == "box slides"
            yaw = 0.5 if slides else self.direction * np.pi * (2 * self.phase + 0.8 * progress)
            center = _point(x if slides else 0, RADIUS, self.depth)
            thing = Box(center, np.full(3, RADIUS, np.float32), colour, yaw)
        return Scene([thing])


def sample_clip(seed: int, index: int) -> Clip:
    """Draw clip `index`. Colours and motions take turns, so that a few clips already show all of them."""
    random = np.random.RandomState([seed, index])
    motion = MOTIONS[index % len(MOTIONS)]
    colour = list(COLOURS)[index % len(COLOURS)]
    direction = 1 if random.rand() < 0.5 else -1
    return Clip(colour, motion, direction, phase=random.rand(), depth=random.uniform(-0.1, 0.3))


def render_clip(clip: Clip, renderer: Renderer, num_frames: int, fps: float) -> np.ndarray:
    """Return the frames (T, H, W, 3) uint8 RGB of a clip."""
    return np.stack([renderer.render(clip.scene(frame / fps), ROOM_CAMERA) for frame in range(num_frames)])


def _point(x: float, y: float, z: float) -> np.ndarray:
    return np.array([x, y, z], np.float32)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_path", type=Path, required=True, help="empty or new folder for the clips")
    parser.add_argument("--world", choices=tuple(WORLDS), default="clips", help="what is rendered (see above)")
    parser.add_argument("--num_videos", type=int, default=32)
    parser.add_argument("--num_frames", type=int, default=33, help="frames per clip, 8k+1 suits the video tokenizers")
    parser.add_argument("--height", type=int, default=96, help="pixels, a multiple of 16")
    parser.add_argument("--width", type=int, default=128, help="pixels, a multiple of 16")
    parser.add_argument("--fps", type=float, default=24.0, help="frames per second")
    parser.add_argument(
        "--motion", choices=("wander", "instructed"), default="wander", help="arm: steps at random, or as the text says"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--first_clip",
        type=int,
        default=0,
        help="number of the first clip; others than those trained on test a network",
    )
    parser.add_argument("--num_processes", type=int, default=1, help="render in so many processes")
    parser.add_argument("--rig", default="six_cameras", help="for --world rig: a rig file, or the preset six_cameras")
    return parser


def write_clips(arguments: argparse.Namespace) -> None:
    numbers = range(arguments.first_clip, arguments.first_clip + arguments.num_videos)
    for_each(partial(_write_clip, arguments), numbers, "clips", arguments.num_processes)


def _write_clip(arguments: argparse.Namespace, index: int) -> None:
    from cosmos1.data.video import write_video

    clip, name = sample_clip(arguments.seed, index), f"{index:03d}"
    (arguments.output_path / f"{name}.txt").write_text(clip.caption() + "\n")
    renderer = Renderer(arguments.height, arguments.width)
    frames = render_clip(clip, renderer, arguments.num_frames, arguments.fps)
    write_video(arguments.output_path / f"{name}.mp4", frames, arguments.fps)


def write_arm(arguments: argparse.Namespace) -> None:
    from cosmos1.data.demo_worlds.arm_world import write_arm_world

    if arguments.first_clip:
        raise ConfigError("--first_clip: the arm world writes held-out episodes by itself, as split val; leave it out.")
    options = {name: getattr(arguments, name) for name in ("num_frames", "height", "width", "motion", "num_processes")}
    write_arm_world(arguments.output_path, arguments.num_videos, arguments.seed, **options)
    print(f"{arguments.num_videos} training episodes of {arguments.num_frames} frames in {arguments.output_path}")


def write_camera(arguments: argparse.Namespace) -> None:
    from cosmos1.data.demo_worlds.posed_worlds import write_camera_world

    write_camera_world(arguments.output_path, _clips(arguments), arguments.num_processes)


def write_rig(arguments: argparse.Namespace) -> None:
    from cosmos1.data.demo_worlds.posed_worlds import write_rig_world
    from cosmos1.data.geometry.rigs import load_rig

    write_rig_world(arguments.output_path, _clips(arguments), load_rig(arguments.rig), arguments.num_processes)


def _clips(arguments: argparse.Namespace):
    from cosmos1.data.demo_worlds.posed_worlds import Clips

    size = (arguments.num_videos, arguments.num_frames, arguments.height, arguments.width)
    return Clips(*size, arguments.fps, arguments.seed, arguments.first_clip)


WORLDS = {"clips": write_clips, "arm": write_arm, "camera": write_camera, "rig": write_rig}


def main(arguments: argparse.Namespace) -> None:
    counts = (arguments.num_videos, arguments.num_frames, arguments.num_processes, arguments.first_clip + 1)
    if arguments.height % 16 or arguments.width % 16 or min(counts) < 1:
        raise ConfigError(
            f"--height {arguments.height} --width {arguments.width} --num_videos {arguments.num_videos} --num_frames "
            f"{arguments.num_frames} --num_processes {arguments.num_processes} --first_clip {arguments.first_clip}: sides must "
            "be multiples of 16, counts at least 1, and the first clip at least 0."
        )
    folder = arguments.output_path
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Give another --output_path, or delete the folder.")
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    WORLDS[arguments.world](arguments)
    if arguments.world == "arm":
        return  # it keeps a record of its own
    options = {key: value for key, value in vars(arguments).items() if key not in ("output_path", "num_processes")}
    (folder / "world.json").write_text(json.dumps(options, indent=2) + "\n")
    print(
        f"{arguments.num_videos} clips of {arguments.num_frames} frames, {arguments.height} x {arguments.width}, in "
        f"{folder} ({time.monotonic() - started:.1f} s)"
    )


if __name__ == "__main__":
    run_command(build_parser(), main)
