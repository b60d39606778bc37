# SPDX-License-Identifier: Apache-2.0
"""What a network for action control was trained on: kept in every checkpoint, so that generation does the same."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, List

from cosmos1.data.actions import ACTION_CONVENTIONS

STATE_KEY, NOT_RECORDED = "action_frames", "not recorded"


@dataclass(frozen=True)
class ActionFrames:
    """Frames of `height` x `width` pixels at `fps`, every `interval`-th of an episode, and the actions between them.

    `convention` is a name of cosmos1.data.actions.ACTION_CONVENTIONS, or NOT_RECORDED. With `from_first` motions are
    seen from the first frame of a window.
    """

    convention: str
    height: int
    width: int
    fps: float
    interval: int = 1
    from_first: bool = False

    def describe(self) -> List[str]:
        """Return one line per fact for the log."""
        rule = ACTION_CONVENTIONS.get(self.convention)
        meaning = f": {rule.meaning}" if rule else ""
        seen = "; seen from the first frame" if self.from_first else ""
        return [
            f"frames: {self.height} x {self.width}, {self.fps:g} per second, every {self.interval}. of an episode",
            f'actions: convention "{self.convention}"{meaning}{seen}',
        ]


def with_frames(state: Dict[str, Any], frames: ActionFrames) -> Dict[str, Any]:
    """The state of a data module, and the frames that it feeds."""
    return {**state, STATE_KEY: asdict(frames)}
