# SPDX-License-Identifier: Apache-2.0
"""Action control: does the robot of a generated video move as it was told?

`generated/<episode>.mp4` starts at the episode's first frame and follows its actions. The frames are compared with the
real ones, the given first frame left out. In the demo world the gripper is found in the pictures, and the motion
achieved from frame to frame is compared with the one commanded.

Generation writes `<episode>.json` beside the video. Where it says that the network makes every n-th frame of an episode
("interval"), the video is compared with every n-th real frame, and with the motions between these.

With --shuffled, a folder of the same episodes generated with the actions of others, every score has a gap. Without it,
the achieved motion is compared with the actions of other episodes.
"""

import argparse
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List

from cosmos1.data.files import read_json
from cosmos1.data.geometry.actions import BRIDGE_ACTION_DIM, relative_motions
from cosmos1.data.sources.bridge import Episode, actions_between, check_frame_count, check_poses
from cosmos1.errors import ConfigError, DataError
from cosmos1.evaluation.command_gap import add_command_options, generated_videos, measure_commands
from cosmos1.evaluation.control_gap import ControlScore, Scores, compare_controls, report_controls

if TYPE_CHECKING:
    import numpy as np

    from cosmos1.models.tokenizers.protocol import VideoTokenizer

SCORES = (
    ControlScore("psnr", "PSNR of next frames", "dB", True),
    ControlScore("latent_l2", "latent L2 of next frames", "", False),
    ControlScore("position_error_mm", "commanded against achieved motion", "mm per step", False),
    ControlScore("relative_error", "the same, as a share of the commanded motion", "", False),
    ControlScore("turn_error_degrees", "commanded against achieved turn", "degrees per step", False),
    ControlScore("gripper_lost", "steps without a gripper in the picture", "share", False),
)


def frame_scores(tokenizer: "VideoTokenizer", generated: "np.ndarray", reference: "np.ndarray") -> Dict[str, float]:
    """PSNR in dB and latent L2 of frames (T, H, W, 3) uint8 against the real ones, the first frame left out.

    Frames are encoded one by one, as action control sees them.
    """
    from cosmos1.data.video import frames_to_tensor
    from cosmos1.evaluation.metrics import latent_distance, psnr

    pairs = [video[1:] for video in (generated, reference)]
    latents = [tokenizer.encode(frames_to_tensor(frames).permute(2, 1, 0, 3, 4)) for frames in pairs]
    return {"psnr": psnr(*pairs).value, "latent_l2": latent_distance(*latents)}


def motion_scores(generated: "np.ndarray", action: "np.ndarray") -> Dict[str, float]:
    """Errors of the motion achieved in frames (T, H, W, 3) uint8 of the arm world.

    `action` (T-1, 6 or more) are unscaled relative motions; x, y and yaw can be seen. Steps of which a frame shows no
    gripper are counted and left out of the errors.
    """
    import numpy as np

    from cosmos1.data.demo_worlds.arm_drawing import find_gripper

    poses = [find_gripper(frame) for frame in generated]
    errors, turns, commanded = [], [], []
    for before, after, command in zip(poses, poses[1:], action):
        if before is None or after is None:
            continue
        seen = np.zeros((2, 6))
        seen[:, [0, 1, 5]] = before, after
        achieved = relative_motions(seen)[0]
        errors.append(math.hypot(*(achieved[:2] - command[:2])))
        turns.append(abs(math.remainder(achieved[5] - command[5], 2 * math.pi)))
        commanded.append(math.hypot(*command[:2]))
    scores = {"gripper_lost": 1 - len(errors) / len(action)}
    if errors:
        scores["position_error_mm"] = 1000 * float(np.mean(errors))
        scores["turn_error_degrees"] = math.degrees(float(np.mean(turns)))
    if sum(commanded) > 0:
        scores["relative_error"] = sum(errors) / sum(commanded)
    return scores


def frame_interval(video: Path) -> int:
    """How many frames of an episode a step of a generated video takes, by the facts beside it; 1 without any.

    Raises DataError for facts that cannot be read or say something else than a whole number from 1 on.
    """
    path = video.with_suffix(".json")
    if not path.exists():
        return 1
    advice = "Generate the video again, or delete the file if every frame of the episode was followed."
    facts = read_json(path, advice)
    interval = facts.get("interval", 1) if isinstance(facts, dict) else None
    if type(interval) is not int or interval < 1:
        raise DataError(f"{path}: the interval between frames is {interval!r}, 1 or more is needed. {advice}")
    return interval


def commanded_motions(episode: Episode, frames: List[int]) -> "np.ndarray":
    """Unscaled relative motions (len(frames) - 1, 6 or more) between frames of an episode, in rising order.

    From one frame to the next they are the recorded actions. Raises DataError where frames are left out and the episode
    has no poses from which to compute the motion.
    """
    if frames == list(range(frames[0], frames[-1] + 1)):
        return actions_between(episode, frames, "json")
    check_poses(episode, "scaled")
    return relative_motions(episode.state[frames, :6])


def add_command(commands: argparse._SubParsersAction) -> None:
    """Add `action_following` to `python -m cosmos1.evaluation`."""
    p = commands.add_parser(
        "action_following",
        help="action control: how the robot of a video moves",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--generated", type=Path, required=True, help="folder of <episode>.mp4 that follow the true actions")
    p.add_argument("--shuffled", type=Path, help="folder of the same episodes, generated with the actions of others")
    p.add_argument("--dataset_path", type=Path, required=True, help="Bridge tree with the real videos and actions")
    p.add_argument("--split", choices=("train", "val", "test"), default="val")
    p.add_argument("--camera", type=int, default=0, help='place in the "videos" list of an annotation')
    p.add_argument("--action_dim", type=int, default=BRIDGE_ACTION_DIM, help="numbers per action")
    p.add_argument("--tokenizer", default="dct", help="for the latent L2: dct (no weights) or cosmos_cv8x8x8")
    p.add_argument("--tokenizer_dir", help="weight folder of the tokenizer")
    p.add_argument(
        "--contact_sheet", type=Path, help="with --shuffled: picture of the first episode, real, true, shuffled"
    )
    add_command_options(p)
    p.set_defaults(function=run)


def run(options: argparse.Namespace) -> Dict[str, Any]:
    """Measure all videos, print and write the result."""
    if options.contact_sheet and options.shuffled is None:
        raise ConfigError("--contact_sheet compares true and shuffled actions; give --shuffled as well.")
    evaluation = _ActionEvaluation(options)
    videos = generated_videos(options.generated)
    scores = [score for score in SCORES if evaluation.is_arm_world or score.name in ("psnr", "latent_l2")]
    if options.shuffled is None:
        return measure_commands(list(videos), evaluation.score_command, scores, options)
    others = generated_videos(options.shuffled)
    if set(videos) != set(others):
        raise DataError(
            f"--generated has {len(videos)} and --shuffled {len(others)} videos, not of the same episodes. Generate both "
            f"for the same episodes."
        )
    entries = [
        {"name": name, "true": evaluation.score(videos[name]), "shuffled": [evaluation.score(others[name])]}
        for name in videos
    ]
    results = compare_controls(scores, entries)
    report_controls(results, options.output)
    if options.contact_sheet:
        name = next(iter(videos))
        evaluation.write_contact_sheet(options.contact_sheet, videos[name], others[name])
    return results


class _ActionEvaluation:
    """Scores of videos against the episodes of a tree; each video is read once."""

    def __init__(self, options: argparse.Namespace):
        from cosmos1.data.sources.bridge import read_episodes
        from cosmos1.models.tokenizers.video import build_video_tokenizer
        from cosmos1.parallel.device import device

        self.options = options
        episodes, _ = read_episodes(options.dataset_path, options.split, options.action_dim)
        self.episodes = {episode.name: episode for episode in episodes}
        self.tokenizer = build_video_tokenizer(options.tokenizer, options.tokenizer_dir, 1, device())
        world = options.dataset_path / "world.json"
        self.is_arm_world = world.exists() and json.loads(world.read_text()).get("world") == "arm"
        self.frames = lru_cache(maxsize=4)(self._frames)

    def score(self, path: Path) -> Scores:
        """All scores of a video that claims to follow the actions of the episode that it is named after."""
        generated, reference = self.frames(path)
        return {**frame_scores(self.tokenizer, generated, reference), **self._motion(path, path.stem)}

    def score_command(self, video: str, command: str) -> Scores:
        """Scores under the actions of episode `command`; those of the pictures for its own episode only."""
        path = self.options.generated / f"{video}.mp4"
        return self.score(path) if video == command else self._motion(path, command)

    def write_contact_sheet(self, sheet: Path, true: Path, shuffled: Path) -> None:
        """The frames of one episode: real, and generated under its own and under other actions."""
        from cosmos1.evaluation.contact_sheet import write_contact_sheet

        generated, real = self.frames(true)
        write_contact_sheet(
            sheet, {"real": real, "true actions": generated, "shuffled actions": self.frames(shuffled)[0]}
        )
        print(sheet)

    def _motion(self, path: Path, command: str) -> Scores:
        if not self.is_arm_world:
            return {}
        generated, episode = self.frames(path)[0], self._episode(path, command)
        frames = self._followed(path, episode)[: len(generated)]
        return motion_scores(generated[: len(frames)], commanded_motions(episode, frames))

    def _followed(self, path: Path, episode: Episode) -> List[int]:
        """Frames of an episode that a video can show, the first one included; at least two."""
        interval = frame_interval(path)
        frames = list(range(0, episode.num_frames, interval))
        if len(frames) < 2:
            raise DataError(
                f"{path}: follows every {interval}. frame, but episode {episode.name} has {episode.num_frames}; at least "
                f"{interval + 1} are needed. Leave this episode out."
            )
        return frames

    def _episode(self, path: Path, name: str) -> Episode:
        if name not in self.episodes:
            raise DataError(
                f"{path}: the split {self.options.split} of {self.options.dataset_path} has no episode {name} (it has "
                f"{', '.join(list(self.episodes)[:5])}, ...). Name each video after its episode."
            )
        return self.episodes[name]

    def _frames(self, path: Path) -> "tuple[np.ndarray, np.ndarray]":
        """Generated frames, and the real ones that they stand for, stretched to their size.

        A shorter roll-out is compared as far as it goes.
        """
        from cosmos1.data.video import read_video, resize_frames

        episode, generated = self._episode(path, path.stem), read_video(path)
        followed = self._followed(path, episode)
        if not 2 <= len(generated) <= len(followed):
            raise DataError(
                f"{path}: {len(generated)} frames; episode {episode.name} allows 2 to {len(followed)}, its frames "
                f"{', '.join(map(str, followed[:3]))}{', ...' if len(followed) > 3 else ''}."
            )
        reference = read_video(episode.video(self.options.camera))
        check_frame_count(episode, self.options.camera, len(reference))
        reference = reference[followed[: len(generated)]]
        return generated, resize_frames(reference, *generated.shape[1:3])
