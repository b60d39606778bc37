# SPDX-License-Identifier: Apache-2.0
"""Draws a two-link robot arm with a gripper over a table, seen from above, and finds the gripper in a picture again.

Table axes are those of the robot's base: x away from the base (up in the picture), y to the left, in metres. The wrist
is a magenta disc and the fingers are cyan; nothing else has these colours, so a picture shows where the gripper is.
"""

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np

TABLE_WIDTH, TABLE_DEPTH = 0.64, 0.48
BASE = np.array([0.015, 0.0])
LINK_LENGTHS = (0.27, 0.27)
WRIST_RADIUS = 0.036
FINGER_START, FINGER_END, FINGER_RADIUS = 0.034, 0.100, 0.014
FINGER_GAP_CLOSED, FINGER_GAP_OPEN = 0.014, 0.034
BLOCK_HALF_SIDE = 0.028
SHADOW_OFFSET = np.array([-0.010, -0.014])
MAGENTA, CYAN = (0.60, 0.00, 0.56), (0.30, 1.00, 1.00)
SMALLEST_CHROMA = 0.12
TABLE_BRIGHTNESS = 0.55
SMALLEST_AREA = 1e-4  # square metres; the wrist covers 4.1e-3, the fingers 4.9e-3
COLOURS = {
    "red": (0.80, 0.11, 0.09),
    "green": (0.13, 0.56, 0.20),
    "blue": (0.12, 0.26, 0.78),
    "yellow": (0.90, 0.70, 0.10),
}


@dataclass(frozen=True)
class Block:
    """A coloured block: centre (x, y) in metres and its turn in radians."""

    colour: str
    center: Tuple[float, float]
    yaw: float


class TableView:
    """Maps between the table and pictures of one size; the whole table is in the picture, its near edge at the bottom."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width
        self.metres_per_pixel = max(TABLE_WIDTH / width, TABLE_DEPTH / height)

    def points(self, supersampling: int = 1) -> np.ndarray:
        """Table positions (H * s, W * s, 2) of the centres of pixels, or of their parts."""
        step = self.metres_per_pixel / supersampling
        rows, columns = np.arange(self.height * supersampling), np.arange(self.width * supersampling)
        x = (self.height * supersampling - rows - 0.5) * step
        y = (self.width * supersampling / 2 - columns - 0.5) * step
        return np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).astype(np.float32)


class ArmRenderer:
    """Draws pictures of one size. The empty table is drawn once."""

    def __init__(self, height: int, width: int, supersampling: int = 2):
        self.view, self.supersampling = TableView(height, width), supersampling
        self.points = self.view.points(supersampling)
        self.table = _table(self.points)

    def render(self, gripper: Sequence[float], opening: float, blocks: List[Block]) -> np.ndarray:
        """Picture (H, W, 3) uint8 RGB of the gripper at (x, y, yaw), opened 0..1, and the blocks."""
        picture = self.table.copy()
        for block in blocks:
            self._fill(picture, _square(block, BLOCK_HALF_SIDE), (0, 0, 0), 0.35, SHADOW_OFFSET * 0.6, 0.006)
        for block in blocks:
            self._fill(picture, _square(block, BLOCK_HALF_SIDE), np.array(COLOURS[block.colour]) * 0.8)
            self._fill(picture, _square(block, BLOCK_HALF_SIDE * 0.72), np.array(COLOURS[block.colour]))
        shapes = _arm_shapes(gripper, opening)
        for shape, _ in shapes:
            self._fill(picture, shape, (0, 0, 0), 0.12, SHADOW_OFFSET, 0.008)
        for shape, colour in shapes:
            self._fill(picture, shape, colour)
        samples = self.supersampling
        small = picture.reshape(self.view.height, samples, self.view.width, samples, 3).mean(axis=(1, 3))
        return np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)

    def _fill(self, picture, shape, colour, opacity=1.0, offset=None, softness=None) -> None:
        """Lay a colour over the inside of a shape, with a border `softness` metres wide; only its surroundings are drawn."""
        center, reach, distance = shape
        softness = softness or self.view.metres_per_pixel / self.supersampling
        center = center if offset is None else center + offset
        rows = np.flatnonzero(np.abs(self.points[:, 0, 0] - center[0]) < reach + softness)
        columns = np.flatnonzero(np.abs(self.points[0, :, 1] - center[1]) < reach + softness)
        if not len(rows) or not len(columns):
            return
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        inside = opacity * np.clip(0.5 - distance(self.points[window] - center) / softness, 0, 1)[..., None]
        picture[window] = picture[window] * (1 - inside) + np.asarray(colour, np.float32) * inside


def find_gripper(picture: np.ndarray) -> Optional[np.ndarray]:
    """Position and turn (x, y, yaw) of the gripper in a picture (H, W, 3) uint8; None where it cannot be seen.

    The wrist is the centre of all that is magenta; the turn points from there to the centre of all that is cyan.
    """
    points = TableView(*picture.shape[:2]).points()
    colours = picture.astype(np.float32) / 255
    red, green, blue = np.moveaxis(colours, -1, 0)
    # Compressed colour is coarse; brightness is fine. The wrist is darker than the table, the fingers are brighter.
    brightness = colours.mean(axis=-1) - TABLE_BRIGHTNESS
    wrist = _center(np.minimum(red, blue) - green, -brightness, points)
    fingers = _center(np.minimum(green, blue) - red, brightness, points)
    if wrist is None or fingers is None:
        return None
    heading = fingers - wrist
    return np.array([*wrist, np.arctan2(heading[1], heading[0])], np.float64)


def _center(chroma: np.ndarray, contrast: np.ndarray, points: np.ndarray) -> Optional[np.ndarray]:
    weight = np.clip(chroma - SMALLEST_CHROMA, 0, None) * np.clip(contrast, 0, None)
    area = (weight > 0).sum() * float(points[0, 0, 0] - points[1, 0, 0]) ** 2
    if area < SMALLEST_AREA:
        return None
    return (points * weight[..., None]).sum(axis=(0, 1)) / weight.sum()


def joint_positions(wrist: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Elbow and wrist (x, y) of the arm whose hand is at `wrist`, with the elbow to the right of the line to it."""
    first, second = LINK_LENGTHS
    offset = np.asarray(wrist, np.float64)[:2] - BASE
    distance = np.clip(np.linalg.norm(offset), 1e-6, first + second - 1e-6)
    angle = np.arctan2(offset[1], offset[0])
    bend = np.arccos(np.clip((first**2 + distance**2 - second**2) / (2 * first * distance), -1, 1))
    elbow = BASE + first * np.array([np.cos(angle - bend), np.sin(angle - bend)])
    return elbow, BASE + offset


def _arm_shapes(gripper: Sequence[float], opening: float) -> list:
    wrist, yaw = np.array(gripper[:2]), gripper[2]
    elbow, _ = joint_positions(wrist)
    ahead, aside = np.array([np.cos(yaw), np.sin(yaw)]), np.array([-np.sin(yaw), np.cos(yaw)])
    gap = FINGER_GAP_CLOSED + opening * (FINGER_GAP_OPEN - FINGER_GAP_CLOSED)
    steel, dark = (0.80, 0.81, 0.83), (0.28, 0.29, 0.31)
    fingers = [
        (_capsule(wrist + FINGER_START * ahead + side, wrist + FINGER_END * ahead + side, FINGER_RADIUS), CYAN)
        for side in (gap * aside, -gap * aside)
    ]
    return [
        (_capsule(BASE, BASE, 0.042), dark),
        (_capsule(BASE, elbow, 0.022), steel),
        (_capsule(elbow, wrist, 0.018), steel),
        (_capsule(elbow, elbow, 0.018), dark),
        *fingers,
        (_capsule(wrist, wrist, WRIST_RADIUS), MAGENTA),
    ]


def _capsule(start: np.ndarray, end: np.ndarray, radius: float) -> tuple:
    """Centre, reach and signed distance (of points seen from the centre) of a thick line with round ends."""
    center, half = (start + end) / 2, (end - start) / 2
    squared = max(float(half @ half), 1e-12)

    def distance(points: np.ndarray) -> np.ndarray:
        along = np.clip(points @ half / squared, -1, 1)
        return np.linalg.norm(points - along[..., None] * half, axis=-1) - radius

    return center, float(np.abs(half).max()) + radius, distance


def _square(block: Block, half_side: float) -> tuple:
    axes = np.array([[np.cos(block.yaw), -np.sin(block.yaw)], [np.sin(block.yaw), np.cos(block.yaw)]])

    def distance(points: np.ndarray) -> np.ndarray:
        return np.abs(points @ axes).max(axis=-1) - half_side

    return np.array(block.center), half_side * 1.5, distance


def _table(points: np.ndarray) -> np.ndarray:
    """Planks that run across the table, each with its own tone, under a lamp above the middle."""
    x, y = points[..., 0], points[..., 1]
    plank = np.floor(x / 0.08)
    tone = 0.06 * np.sin(plank * 12.9898) + 0.02 * np.sin(90 * y + 7 * plank + 3 * np.sin(25 * y))
    joint = np.exp(-(((x / 0.08 - np.rint(x / 0.08)) / 0.03) ** 2))
    lamp = 1.06 - 0.9 * ((x - 0.24) ** 2 + y**2)
    wood = np.array([0.62, 0.52, 0.41], np.float32) + tone[..., None] * np.array([1, 0.9, 0.7], np.float32)
    return (wood * (lamp * (1 - 0.2 * joint))[..., None]).astype(np.float32)
