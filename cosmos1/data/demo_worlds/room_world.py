# SPDX-License-Identifier: Apache-2.0
"""A ray caster for textured rooms seen by a pinhole camera at any pose, with exact depth.

World axes: x and y along the floor, z up, right-handed, in metres; the room's floor is z = 0, its middle x = y = 0.
Cameras follow data/geometry/cameras.py (OpenCV axes, camera to world). Everything is covered by patches of colour of
several sizes, so that every pose gives another picture and pictures can be matched with one another.
"""

from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np

from cosmos1.data.geometry.cameras import CameraPath

LIGHT = np.array([0.32, 0.22, 0.92])
NEAREST = 0.05  # metres; what is closer to the camera is not drawn
PATCH_OCTAVES = ((1.0, 0.55), (0.3, 0.2))  # sizes relative to the surface's patch size, and contrasts
ROOM_SHADES = (0.72, 0.9, 0.8, 1.0, 1.0, 0.85)
FLOOR, WALL, CEILING = (0.52, 0.47, 0.40), (0.55, 0.60, 0.62), (0.82, 0.82, 0.80)


@dataclass(frozen=True)
class Box:
    """A box that stands on the floor, turned by `yaw` radians about the vertical."""

    x: float
    y: float
    yaw: float
    half_size: Tuple[float, float, float]
    colour: Tuple[float, float, float]

    def local_axes(self) -> np.ndarray:
        """Rotation (3, 3) whose columns are the box's axes in the world."""
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])

    def center(self) -> np.ndarray:
        return np.array([self.x, self.y, self.half_size[2]])

    def corners(self) -> np.ndarray:
        """The eight corners (8, 3) in the world."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        return self.center() + (signs * self.half_size) @ self.local_axes().T


@dataclass(frozen=True)
class RoomWorld:
    """A closed room with boxes. `patch_size` is that of the largest colour patches, in metres."""

    half_width: float
    half_depth: float
    height: float
    patch_size: float
    boxes: List[Box]
    seed: int


def furnished_room(seed: int) -> RoomWorld:
    """A room of 8 x 8 x 3 m with eight boxes along its walls; the middle is free for the camera."""
    random = np.random.RandomState([seed % 2**32, 1])
    boxes = []
    for place in range(8):
        angle, distance = np.pi / 4 * (place + 0.5 + random.uniform(-0.25, 0.25)), random.uniform(2.7, 3.2)
        half = tuple(random.uniform([0.25, 0.25, 0.25], [0.5, 0.5, 0.75]))
        x, y = distance * np.cos(angle), distance * np.sin(angle)
        boxes.append(Box(x, y, random.uniform(0, np.pi), half, _bright(random)))
    return RoomWorld(4.0, 4.0, 3.0, 1.3, boxes, seed)


def pillared_hall(seed: int, clear_path_xy: np.ndarray, clearance: float = 4.0) -> RoomWorld:
    """A hall of 120 x 120 x 10 m full of pillars, with none nearer than `clearance` to the path (N, 2)."""
    random = np.random.RandomState([seed % 2**32, 2])
    boxes = []
    for x in np.arange(-52, 53, 13.0):
        for y in np.arange(-52, 53, 13.0):
            place = np.array([x, y]) + random.uniform(-3.5, 3.5, 2)
            half = tuple(random.uniform([0.8, 0.8, 1.2], [2.0, 2.0, 4.0]))
            box = Box(place[0], place[1], random.uniform(0, np.pi), half, _bright(random))
            if np.linalg.norm(clear_path_xy - place, axis=1).min() > clearance + np.hypot(*half[:2]):
                boxes.append(box)
    return RoomWorld(60.0, 60.0, 10.0, 4.0, boxes, seed)


def render_path(world: RoomWorld, cameras: CameraPath, supersampling: int = 2) -> np.ndarray:
    """Frames (F, H, W, 3) uint8 RGB of every camera of a path."""
    size = (cameras.height, cameras.width)
    views = zip(cameras.poses, cameras.intrinsics)
    return np.stack([render_view(world, *size, pose, numbers, supersampling)[0] for pose, numbers in views])


def render_view(
    world: RoomWorld, height: int, width: int, pose: np.ndarray, intrinsics: np.ndarray, supersampling: int = 2
) -> Tuple[np.ndarray, np.ndarray]:
    """Draw one picture.

    Args:
        pose: (4, 4) camera to world.
        intrinsics: fx, fy, cx, cy in pixels.

    Returns:
        The picture (H, W, 3) uint8 RGB, and the depth (H, W) float32 along the optical axis at the pixels' centres, in
        metres (with an even `supersampling`, the mean of the four samples around the centre).
    """
    caster = _Caster(pose, intrinsics * supersampling, height * supersampling, width * supersampling)
    caster.draw_room(world)
    for index, box in enumerate(world.boxes):
        caster.draw_box(box, world.seed + 101 * (index + 1), world.patch_size / 2)
    colour = caster.colour.reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
    middle = slice((supersampling - 1) // 2, supersampling // 2 + 1)
    depth = caster.depth.reshape(height, supersampling, width, supersampling)[:, middle, :, middle].mean(axis=(1, 3))
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8), depth.astype(np.float32)


@dataclass(frozen=True)
class _Surface:
    """How one face looks."""

    base: Tuple[float, float, float]
    shade: float
    patch_size: float
    seed: int


@dataclass(frozen=True)
class _Seen:
    """The pixels (N,) that see one face: 2 * axis, plus 1 on its far side; rays (N, 3) in the axes of the face."""

    rows: np.ndarray
    columns: np.ndarray
    rays: np.ndarray
    face: int


class _Caster:
    """The rays of one picture, what they have met so far, and its colour.

    Rays have length one along the optical axis, so that the ray parameter is the depth.
    """

    def __init__(self, pose: np.ndarray, intrinsics: np.ndarray, height: int, width: int):
        fx, fy, cx, cy = intrinsics
        self.pose, self.intrinsics = pose, intrinsics
        rays = np.empty((height, width, 3), np.float32)
        rays[..., 0] = (np.arange(width, dtype=np.float32) + 0.5 - cx) / fx
        rays[..., 1] = ((np.arange(height, dtype=np.float32) + 0.5 - cy) / fy)[:, None]
        rays[..., 2] = 1
        rays = rays @ pose[:3, :3].T.astype(np.float32)
        self.rays = np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
        self.depth = np.full((height, width), np.inf, np.float32)
        self.colour = np.zeros((height, width, 3), np.float32)

    def draw_room(self, world: RoomWorld) -> None:
        low = np.array([-world.half_width, -world.half_depth, 0], np.float32)
        high = np.array([world.half_width, world.half_depth, world.height], np.float32)
        origin = self.pose[:3, 3].astype(np.float32)
        per_axis = (np.where(self.rays > 0, high, low) - origin) / self.rays
        axis = per_axis.argmin(axis=-1)
        self.depth[:] = per_axis.min(axis=-1)
        positive = np.take_along_axis(self.rays, axis[..., None], axis=-1)[..., 0] > 0
        for face in range(6):
            rows, columns = np.nonzero((axis == face // 2) & (positive == bool(face % 2)))
            base = (WALL, WALL, WALL, WALL, FLOOR, CEILING)[face]
            seen = _Seen(rows, columns, self.rays[rows, columns], face)
            surface = _Surface(base, ROOM_SHADES[face], world.patch_size, world.seed)
            self._paint(seen, origin, surface)

    def draw_box(self, box: Box, seed: int, patch_size: float) -> None:
        region = self._region(box.corners())
        if region is None:
            return
        axes = box.local_axes().astype(np.float32)
        rays = self.rays[region] @ axes
        rays = np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
        origin = ((self.pose[:3, 3] - box.center()) @ axes).astype(np.float32)
        half = np.sign(rays) * np.array(box.half_size, np.float32)
        entries, exits = (-half - origin) / rays, ((half - origin) / rays).min(axis=-1)
        depth = entries.max(axis=-1)
        hit = (depth < exits) & (depth > NEAREST) & (depth < self.depth[region])
        self.depth[region][hit] = depth[hit]
        axis = entries.argmax(axis=-1)
        side = np.take_along_axis(rays, axis[..., None], axis=-1)[..., 0] < 0
        for face in range(6):
            rows, columns = np.nonzero(hit & (axis == face // 2) & (side == bool(face % 2)))
            seen = _Seen(rows + region[0].start, columns + region[1].start, rays[rows, columns], face)
            normal = axes[:, face // 2] * (1 if face % 2 else -1)
            shade = 0.78 + 0.3 * float(normal @ LIGHT)
            self._paint(seen, origin, _Surface(box.colour, shade, patch_size, seed))

    def _paint(self, seen: "_Seen", origin: np.ndarray, surface: "_Surface") -> None:
        """Colour the pixels that see one face; the contrast of patches smaller than a pixel fades."""
        axis = seen.face // 2
        depth = self.depth[seen.rows, seen.columns]
        uv = np.delete(origin + seen.rays * depth[:, None], axis, axis=1)
        slant = np.abs(seen.rays[:, axis]) / np.linalg.norm(seen.rays, axis=1)
        footprint = depth / self.intrinsics[0] / np.maximum(slant, 0.05)
        colour = np.ones((len(depth), 3), np.float32) * np.array(surface.base, np.float32)
        for octave, (size, contrast) in enumerate(PATCH_OCTAVES):
            cell = size * surface.patch_size
            fade = contrast * np.clip(1.5 - 1.5 * footprint / cell, 0, 1)
            tint = _patches(uv / cell, surface.seed * 12 + seen.face * 2 + octave) - 0.5
            colour += fade[:, None] * (0.45 * tint + 0.55 * tint[:, :1])
        self.colour[seen.rows, seen.columns] = colour * surface.shade

    def _region(self, corners: np.ndarray) -> Optional[Tuple[slice, slice]]:
        """Rows and columns of the picture that can see these corners' hull; None when it is out of sight."""
        points = (corners - self.pose[:3, 3]) @ self.pose[:3, :3]
        height, width = self.depth.shape
        if points[:, 2].max() <= NEAREST:
            return None
        if points[:, 2].min() <= NEAREST:
            return slice(0, height), slice(0, width)
        fx, fy, cx, cy = self.intrinsics
        columns = fx * points[:, 0] / points[:, 2] + cx
        rows = fy * points[:, 1] / points[:, 2] + cy
        region = (
            slice(max(int(rows.min()) - 1, 0), min(int(rows.max()) + 2, height)),
            slice(max(int(columns.min()) - 1, 0), min(int(columns.max()) + 2, width)),
        )
        return region if all(part.start < part.stop for part in region) else None


def _patches(uv: np.ndarray, seed: int) -> np.ndarray:
    """A colour (N, 3) in 0..1 for the unit cell that each (N, 2) lies in: a hash of the cell."""
    cells = np.floor(uv).astype(np.int64).astype(np.uint32)
    mixed = cells[:, 0] * np.uint32(0x9E3779B1) ^ cells[:, 1] * np.uint32(0x85EBCA77) ^ np.uint32(seed * 7919 % 2**32)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
    mixed ^= mixed >> np.uint32(15)
    return np.stack([(mixed >> np.uint32(shift)) & np.uint32(0xFF) for shift in (0, 8, 16)], axis=1) / np.float32(255)


def _bright(random: np.random.RandomState) -> Tuple[float, float, float]:
    """A saturated colour."""
    weights = random.permutation([0.2, 0.45, 0.85]) + random.uniform(-0.1, 0.1, 3)
    return tuple(float(value) for value in weights)
