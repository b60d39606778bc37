# SPDX-License-Identifier: Apache-2.0
"""Demo episodes of a robot arm in the Bridge layout, with exact states, actions and instructions.

The arm moves in a plane above the table: x, y and yaw change, as does the gripper; z, roll and pitch stay. An episode
either wanders (every step in a new direction, so that only the action tells what comes next) or follows its
instruction. A block that the gripper closes on is carried along.
"""

import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, List, Literal, Optional, Tuple

from cosmos1.data.geometry.actions import bridge_actions
from cosmos1.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.data.demo_worlds.arm_drawing import ArmRenderer, Block

HEIGHT_ABOVE_TABLE = 0.1
REACH_X, REACH_Y = (0.13, 0.37), (-0.22, 0.22)
LARGEST_YAW = 1.2
GRASP_DISTANCE = 0.05
BLOCK_SPACING = 0.10
WANDER_STEP, WANDER_TURN = 0.035, 0.6
CONTROL_RATE_HZ = 5.0


@dataclass(frozen=True)
class ArmEpisode:
    """One episode. `path` (T, 4) is x, y, yaw of the gripper and whether it is closed, 0 or 1; blocks as they start."""

    text: str
    path: "np.ndarray"
    blocks: "List[Block]"

    def states(self) -> "np.ndarray":
        """State rows (T, 7) as in a Bridge annotation; the gripper bit is 1 = open."""
        import numpy as np

        state = np.zeros((len(self.path), 7))
        state[:, :2], state[:, 2], state[:, 5] = self.path[:, :2], HEIGHT_ABOVE_TABLE, self.path[:, 2]
        state[:, 6] = 1.0 - self.path[:, 3]
        return state

    def annotation(self, name: str, video: str) -> dict:
        """The content of the episode's annotation file."""
        state = self.states()
        return {
            "task": "robot_trajectory_prediction",
            "texts": [self.text],
            "videos": [{"video_path": video}],
            "action": bridge_actions(state, state[:, 6]).tolist(),
            "state": state.tolist(),
            "continuous_gripper_state": self.path[:, 3].tolist(),
            "episode_id": name,
        }

    def state_file(self) -> "np.ndarray":
        """The array (T, 8) of state.npy: roll turned by pi, then gripper bit and opening."""
        import numpy as np

        state = self.states()
        state[:, 3] -= np.pi
        return np.concatenate([state, 1.0 - self.path[:, 3:]], axis=1)


def write_arm_world(
    folder: Path,
    num_episodes: int = 32,
    seed: int = 0,
    num_validation: Optional[int] = None,
    num_frames: int = 33,
    height: int = 96,
    width: int = 128,
    motion: Literal["wander", "instructed"] = "wander",
    num_processes: int = 1,
) -> None:
    """Write `num_episodes` training and `num_validation` held-out episodes (default: a tenth, at least two).

    The same arguments give the same files. Raises ConfigError for counts and sizes that cannot be, and when the folder
    holds something.
    """
    from cosmos1.data.command_line import for_each
    from cosmos1.data.files import write_json

    num_validation = max(num_episodes // 10, 2) if num_validation is None else num_validation
    if height % 16 or width % 16 or min(num_episodes, num_validation + 1, num_frames - 1, height, width) < 1:
        raise ConfigError(
            f"arm world: {num_episodes} + {num_validation} episodes of {num_frames} frames, {height} x {width}: sides must "
            f"be multiples of 16, and there must be an episode of at least 2 frames."
        )
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty. Give another --output_path, or delete the folder.")
    folder.mkdir(parents=True, exist_ok=True)
    options = {"num_episodes": num_episodes, "num_validation": num_validation, "seed": seed, "num_frames": num_frames}
    options |= {"height": height, "width": width, "motion": motion}
    numbers = range(num_episodes + num_validation)
    for_each(partial(_write_episode, folder, options), numbers, "episodes", num_processes)
    write_json(folder / "world.json", {"world": "arm", **options})


def _write_episode(folder: Path, options: dict, index: int) -> None:
    import numpy as np

    from cosmos1.data.demo_worlds.arm_drawing import ArmRenderer
    from cosmos1.data.files import write_bytes
    from cosmos1.data.video import write_video

    episode = sample_episode(options["seed"], index, options["num_frames"], options["motion"])
    split, name = "train" if index < options["num_episodes"] else "val", str(index)
    video = f"videos/{split}/{name}/rgb.mp4"
    renderer = ArmRenderer(options["height"], options["width"])
    write_video(folder / video, render_episode(episode, renderer), CONTROL_RATE_HZ)
    np.save((folder / video).with_name("state.npy"), episode.state_file())
    annotation = folder / "annotation" / split / f"{name}.json"
    annotation.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(annotation, json.dumps(episode.annotation(name, video)).encode())


def sample_episode(seed: int, index: int, num_frames: int, motion: str) -> ArmEpisode:
    """Draw episode `index`; colours take turns, so that a few episodes already name all of them."""
    import numpy as np

    from cosmos1.data.demo_worlds.arm_drawing import COLOURS

    random = np.random.RandomState([seed, index])
    blocks = _place_blocks(random)
    start = np.array([random.uniform(*REACH_X), random.uniform(*REACH_Y), random.uniform(-LARGEST_YAW, LARGEST_YAW)])
    if motion == "wander":
        return ArmEpisode("Move the arm freely over the table.", _wander(random, start, num_frames), blocks)
    colour = list(COLOURS)[index % len(COLOURS)]
    (target,) = (block for block in blocks if block.colour == colour)
    goal = np.array([*target.center, random.uniform(-0.6, 0.6)])
    if (index // len(COLOURS)) % 2 == 0:
        text = f"Move the arm to the {colour} block."
        return ArmEpisode(text, _path_through([start, goal], num_frames), blocks)
    side = "left" if random.rand() < 0.5 else "right"
    put = np.array([random.uniform(*REACH_X), REACH_Y[1] if side == "left" else REACH_Y[0], goal[2]])
    text = f"Carry the {colour} block to the {side} side of the table."
    return ArmEpisode(text, _path_through([start, goal, put], num_frames), blocks)


def _place_blocks(random: "np.random.RandomState") -> "List[Block]":
    """One block of each colour, at least BLOCK_SPACING apart."""
    from cosmos1.data.demo_worlds.arm_drawing import COLOURS, Block

    blocks: List[Block] = []
    while len(blocks) < len(COLOURS):
        center = (random.uniform(*REACH_X), random.uniform(*REACH_Y))
        if all(math.dist(center, block.center) >= BLOCK_SPACING for block in blocks):
            blocks.append(Block(list(COLOURS)[len(blocks)], center, random.uniform(-0.7, 0.7)))
    return blocks


def _wander(random: "np.random.RandomState", start: "np.ndarray", num_frames: int) -> "np.ndarray":
    """A walk (T, 4) of independent steps inside the arm's reach; the gripper changes at one step in six."""
    import numpy as np

    low = np.array([REACH_X[0], REACH_Y[0], -LARGEST_YAW])
    high = np.array([REACH_X[1], REACH_Y[1], LARGEST_YAW])
    rows = [np.array([*start, 0.0])]
    for _ in range(num_frames - 1):
        angle, length = random.uniform(0, 2 * np.pi), WANDER_STEP * random.uniform(0.4, 1.4)
        step = np.array([length * np.cos(angle), length * np.sin(angle), random.uniform(-WANDER_TURN, WANDER_TURN)])
        pose = rows[-1][:3] + step
        pose = np.where(pose > high, 2 * high - pose, np.where(pose < low, 2 * low - pose, pose))
        closed = rows[-1][3] if random.rand() > 1 / 6 else 1.0 - rows[-1][3]
        rows.append(np.array([*pose, closed]))
    return np.stack(rows)


def _path_through(points: "List[np.ndarray]", num_frames: int) -> "np.ndarray":
    """A path (T, 4) that rests, moves from point to point with soft starts and stops, and rests with the gripper closed.

    The gripper closes when the second point is reached.
    """
    import numpy as np

    # Segments end at equal shares of the time but for the last fifth, in which the arm stands still.
    time = np.minimum(np.linspace(0, 1, num_frames) / 0.8, 1) * (len(points) - 1)
    segment = np.minimum(time.astype(int), len(points) - 2)
    eased = (time - segment) ** 2 * (3 - 2 * (time - segment))
    stacked = np.stack(points)
    path = stacked[segment] + eased[:, None] * (stacked[segment + 1] - stacked[segment])
    return np.concatenate([path, (time >= 1)[:, None].astype(np.float64)], axis=1)


def render_episode(episode: ArmEpisode, renderer: "ArmRenderer") -> "np.ndarray":
    """Frames (T, H, W, 3) uint8 RGB; blocks follow the gripper while it holds them."""
    import numpy as np

    blocks, held, frames = list(episode.blocks), None, []
    for index, (x, y, yaw, closed) in enumerate(episode.path):
        if not closed:
            held = None
        elif index == 0 or not episode.path[index - 1][3]:
            held = _grasp(blocks, (x, y), yaw)
        if held is not None:
            number, offset, turn = held
            blocks[number] = _carried(blocks[number], (x, y), yaw, offset, turn)
        frames.append(renderer.render((x, y, yaw), 1.0 - closed, blocks))
    return np.stack(frames)


def _grasp(blocks: "List[Block]", wrist: Tuple[float, float], yaw: float) -> "Optional[tuple]":
    """Number of the nearest block within reach, with its place and turn as the gripper sees them."""
    distances = [math.dist(block.center, wrist) for block in blocks]
    number = distances.index(min(distances))
    if distances[number] > GRASP_DISTANCE:
        return None
    dx, dy = (a - b for a, b in zip(blocks[number].center, wrist))
    cosine, sine = math.cos(yaw), math.sin(yaw)
    return number, (cosine * dx + sine * dy, cosine * dy - sine * dx), blocks[number].yaw - yaw


def _carried(block: "Block", wrist: Tuple[float, float], yaw: float, offset: Tuple[float, float], turn: float):
    from cosmos1.data.demo_worlds.arm_drawing import Block

    cosine, sine = math.cos(yaw), math.sin(yaw)
    dx, dy = cosine * offset[0] - sine * offset[1], sine * offset[0] + cosine * offset[1]
    return Block(block.colour, (wrist[0] + dx, wrist[1] + dy), yaw + turn)
