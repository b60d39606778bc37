# SPDX-License-Identifier: Apache-2.0
"""A ray caster for textured rooms seen by a pinhole camera at any pose, with exact depth.

World axes: x and y along the floor, z up, right-handed, in metres; the room's floor is z = 0, its middle x = y = 0.
Cameras follow data/geometry/cameras.py (OpenCV axes, camera to world). Everything is covered by patches of colour of
several sizes, so that every pose gives another picture and pictures can be matched with one another.
"""

from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

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
    caster.meet_room(world)
    for index, box in enumerate(world.boxes):
        caster.meet_box(box, world.seed + 101 * (index + 1), world.patch_size / 2)
    colour = caster.colours().reshape(height, supersampling, width, supersampling, 3).mean(axis=(1, 3))
    middle = slice((supersampling - 1) // 2, supersampling // 2 + 1)
    depth = caster.depth.reshape(height, supersampling, width, supersampling)[:, middle, :, middle].mean(axis=(1, 3))
    return np.rint(np.clip(colour, 0, 1) * 255).astype(np.uint8), depth.astype(np.float32)


@dataclass(frozen=True)
class _Thing:
    """The room or a box: six faces, 2 * axis and plus 1 on its far side."""

    origin: np.ndarray
    """Of the rays, in the axes of the thing."""
    bases: Sequence[Tuple[float, float, float]]
    shades: Sequence[float]
    patch_size: float
    seed: int


class _Caster:
    """The rays of one picture, and what they have met so far. Colours come last, so that each pixel gets one.

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
        self.local_rays = self.rays.copy()
        """Of each pixel in the axes of what it sees."""
        self.depth = np.full((height, width), np.inf, np.float32)
        self.surface = np.zeros((height, width), np.int64)
        """What each pixel sees: 6 * thing + face."""
        self.things: List[_Thing] = []

    def meet_room(self, world: RoomWorld) -> None:
        low = np.array([-world.half_width, -world.half_depth, 0], np.float32)
        high = np.array([world.half_width, world.half_depth, world.height], np.float32)
        origin = self.pose[:3, 3].astype(np.float32)
        depth, axis = _first((np.where(self.rays > 0, high, low) - origin) / self.rays)
        self.depth[:] = depth
        self.surface[:] = 2 * axis + (_component(self.rays, axis) > 0)
        bases = (WALL, WALL, WALL, WALL, FLOOR, CEILING)
        self.things.append(_Thing(origin, bases, ROOM_SHADES, world.patch_size, world.seed))

    def meet_box(self, box: Box, seed: int, patch_size: float) -> None:
        region = self._region(box.corners())
        if region is None:
            return
        axes = box.local_axes().astype(np.float32)
        rays = self.rays[region] @ axes
        rays = np.where(np.abs(rays) < 1e-7, np.float32(1e-7), rays)
        origin = ((self.pose[:3, 3] - box.center()) @ axes).astype(np.float32)
        half = np.sign(rays) * np.array(box.half_size, np.float32)
        nearer, axis = _first((half + origin) / rays)
        depth, exits = -nearer, _first((half - origin) / rays)[0]
        hit = (depth < exits) & (depth > NEAREST) & (depth < self.depth[region])
        self.depth[region][hit] = depth[hit]
        self.local_rays[region][hit] = rays[hit]
        face = 6 * len(self.things) + 2 * axis + (_component(rays, axis) < 0)
        self.surface[region][hit] = face[hit]
        normals = [axes[:, face // 2] * (1 if face % 2 else -1) for face in range(6)]
        shades = [0.78 + 0.3 * float(normal @ LIGHT) for normal in normals]
        self.things.append(_Thing(origin, [box.colour] * 6, shades, patch_size, seed))

    def colours(self) -> np.ndarray:
        """The picture (H, W, 3) in about 0..1; the contrast of patches smaller than a pixel fades."""
        surface, depth = self.surface.reshape(-1), self.depth.reshape(-1)
        thing, axis, rays = surface // 6, surface % 6 // 2, self.local_rays.reshape(-1, 3)
        points = np.stack([each.origin for each in self.things])[thing] + rays * depth[:, None]
        uv = np.stack(
            [np.where(axis == 0, points[:, 1], points[:, 0]), np.where(axis == 2, points[:, 1], points[:, 2])]
        )
        slant = np.abs(_component(rays, axis)) / np.sqrt((rays**2).sum(axis=1))
        footprint = depth / self.intrinsics[0] / np.maximum(slant, 0.05)
        patch_sizes = np.array([each.patch_size for each in self.things])
        seeds = np.array([12 * each.seed % 2**32 for each in self.things])[thing] + surface % 6 * 2
        colour = np.concatenate([np.array(each.bases, np.float32) for each in self.things])[surface]
        for octave, (size, contrast) in enumerate(PATCH_OCTAVES):
            cell = (size * patch_sizes).astype(np.float32)[thing]
            fade = contrast * np.clip(1.5 - 1.5 * footprint / cell, 0, 1)
            tint = _patches(uv / cell, seeds + octave) - np.float32(0.5)
            colour += (fade * (0.45 * tint + 0.55 * tint[0])).T
        colour *= np.concatenate([each.shades for each in self.things]).astype(np.float32)[surface, None]
        return colour.reshape(*self.depth.shape, 3)

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


def _first(depths: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """The smallest of three depths (..., 3), and which it is; numpy's own reductions are slow on so short an axis."""
    x, y, z = np.moveaxis(depths, -1, 0)
    nearest = np.minimum(x, y)
    return np.minimum(nearest, z), np.where(z < nearest, 2, np.where(y < x, 1, 0))


def _component(vectors: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """The component (...) of each vector (..., 3) that ``axis`` (...) names."""
    return np.take_along_axis(vectors, axis[..., None], axis=-1)[..., 0]


def _patches(uv: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """A colour (3, N) in 0..1 for the unit cell that each (2, N) lies in: a hash of the cell and its seed (N,)."""
    u, v = np.floor(uv).astype(np.int64).astype(np.uint32)
    mixed = u * np.uint32(0x9E3779B1) ^ v * np.uint32(0x85EBCA77) ^ (seeds * 7919).astype(np.uint32)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(0x2C1B3C6D)
    mixed = (mixed ^ (mixed >> np.uint32(12))) * np.uint32(0x297A2D39)
    mixed ^= mixed >> np.uint32(15)
    return np.stack([(mixed >> np.uint32(shift)) & np.uint32(0xFF) for shift in (0, 8, 16)]) / np.float32(255)


def _bright(random: np.random.RandomState) -> Tuple[float, float, float]:
    """A saturated colour."""
    weights = random.permutation([0.2, 0.45, 0.85]) + random.uniform(-0.1, 0.1, 3)
    return tuple(float(value) for value in weights)
