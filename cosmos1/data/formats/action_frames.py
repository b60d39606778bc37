# SPDX-License-Identifier: Apache-2.0
"""What a network for action control was trained on: kept in every checkpoint, so that generation does the same."""

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Optional

from cosmos1.data.geometry.actions import ACTION_CONVENTIONS

BRIDGE_CONTROL_RATE_HZ = 5.0
STATE_KEY, NOT_RECORDED = "action_frames", "not recorded"


@dataclass(frozen=True)
class ActionFrames:
    """Frames of `height` x `width` pixels at `fps`, every `interval`-th of an episode, and the actions between them.

    `convention` is a name of geometry.actions.ACTION_CONVENTIONS, or NOT_RECORDED. With `from_first` motions are
    seen from the first frame of a window. Where the actions were recorded as they are, and not computed from poses,
    recorded action * action_scale + action_offset is what the network sees, number by number; None: not recorded.
    """

    convention: str
    height: int
    width: int
    fps: float
    interval: int = 1
    from_first: bool = False
    action_scale: Optional[List[float]] = None
    action_offset: Optional[List[float]] = None

    def describe(self) -> List[str]:
        """Return one line per fact for the log."""
        rule = ACTION_CONVENTIONS.get(self.convention)
        meaning = f": {rule.meaning}" if rule else ""
        seen = "; seen from the first frame" if self.from_first else ""
        lines = [
            f"frames: {self.height} x {self.width}, {self.fps:g} per second, every {self.interval}. of an episode",
            f'actions: convention "{self.convention}"{meaning}{seen}',
        ]
        if self.action_offset is not None:
            lines.append(f"actions: recorded action * {self.action_scale} + {self.action_offset}")
        return lines


def normalization_of(facts: Dict[str, Any]) -> Dict[str, Any]:
    """What a dataset.json says of how recorded actions were normalised, as fields of :class:`ActionFrames`."""
    if "action_offset" not in facts:
        return {}
    return {name: facts.get(name) for name in ("action_scale", "action_offset")}


def with_frames(state: Dict[str, Any], frames: ActionFrames) -> Dict[str, Any]:
    """The state of a data module, and the frames that it feeds."""
    return {**state, STATE_KEY: asdict(frames)}
