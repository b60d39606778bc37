# SPDX-License-Identifier: Apache-2.0
"""A small vectorised ray caster: a textured room, spheres and boxes, soft shadows on the floor.

World axes: x right, y up, z away from the viewer, in metres. Arrays of points and directions are (N, 3) float32.
It exists to make clips with exact ground truth on any machine, not to be a renderer of general scenes.
"""

from dataclasses import dataclass, field

import numpy as np

LIGHT_POSITION = np.array([-0.9, 2.9, -0.6], np.float32)
ROOM_HALF_WIDTH, ROOM_HEIGHT, ROOM_DEPTH = 2.1, 2.5, 3.2
AMBIENT = 0.42


@dataclass
class Camera:
    """A pinhole camera at `position` that looks at `target`; the field of view is vertical, in degrees."""

    position: np.ndarray
    target: np.ndarray
    field_of_view_degrees: float = 48.0

    def ray_directions(self, height: int, width: int) -> np.ndarray:
        """Return unit directions (height * width, 3), row by row from the upper left pixel centre."""
        forward = _unit(np.asarray(self.target, np.float32) - np.asarray(self.position, np.float32))
        right = _unit(np.cross(np.array([0, 1, 0], np.float32), forward))
        up = np.cross(forward, right)
        scale = np.tan(np.radians(self.field_of_view_degrees) / 2)
        rows = (1 - (np.arange(height, dtype=np.float32) + 0.5) / height * 2) * scale
        columns = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1) * scale * width / height
        directions = forward + rows[:, None, None] * up + columns[None, :, None] * right
        return _unit(directions.reshape(-1, 3)).astype(np.float32)


@dataclass
class Sphere:
    center: np.ndarray
    radius: float
    colour: np.ndarray
    spin: float = 0.0
    """Turn about the viewing axis in radians, seen as a light band on the ball."""

    def bounding_radius(self) -> float:
        return self.radius

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (N,), infinite where missed, and unit normals (N, 3)."""
        offset = origin - self.center
        half_b = directions @ offset
        discriminant = half_b**2 - (offset @ offset - self.radius**2)
        hit = discriminant > 0
        distance = np.where(hit, -half_b - np.sqrt(np.maximum(discriminant, 0)), np.inf).astype(np.float32)
        points = origin + directions * np.where(hit, distance, 0)[:, None]
        return distance, (points - self.center) / self.radius

    def albedo(self, normals: np.ndarray) -> np.ndarray:
        axis = np.array([-np.sin(self.spin), np.cos(self.spin), 0], np.float32)
        band = _smoothstep(0.20, 0.12, np.abs(normals @ axis))[:, None]
        return self.colour * (1 - band) + (0.35 * self.colour + 0.6) * band

    def shadow(self, points: np.ndarray) -> np.ndarray:
        """Return how much light is blocked (N,), 0..1, with a penumbra that widens with the height above the floor."""
        to_light = _unit(LIGHT_POSITION - points)
        offset = self.center - points
        along = np.einsum("nk,nk->n", offset, to_light)
        miss = np.linalg.norm(offset - along[:, None] * to_light, axis=1)
        softness = 0.06 + 0.22 * max(self.center[1] - self.radius, 0)
        return _smoothstep(self.radius + softness, self.radius - softness, miss) * (along > 0)


@dataclass
class Box:
    center: np.ndarray
    half_size: np.ndarray
    colour: np.ndarray
    yaw: float = 0.0
    """Turn about the vertical axis in radians."""

    def bounding_radius(self) -> float:
        return float(np.linalg.norm(self.half_size))

    def _rotation(self) -> np.ndarray:
        cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
        return np.array([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], np.float32)

    def intersect(self, origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return distances (N,), infinite where missed, and unit normals (N, 3)."""
        rotation = self._rotation()
        local_directions = directions @ rotation
        local_directions = np.where(np.abs(local_directions) < 1e-6, 1e-6, local_directions)
        local_origin = (origin - self.center) @ rotation
        near = (-np.sign(local_directions) * self.half_size - local_origin) / local_directions
        far = (np.sign(local_directions) * self.half_size - local_origin) / local_directions
        distance = near.max(axis=1)
        hit = (distance < far.min(axis=1)) & (distance > 0)
        axis = near.argmax(axis=1)
        normals = np.zeros_like(local_directions)
        rows = np.arange(len(axis))
        normals[rows, axis] = -np.sign(local_directions[rows, axis])
        return np.where(hit, distance, np.inf).astype(np.float32), normals @ rotation.T

    def albedo(self, normals: np.ndarray) -> np.ndarray:
        # A lighter lid makes the turn of the box visible at low resolution.
        return self.colour + (1 - self.colour) * 0.25 * np.maximum(normals[:, 1:2], 0)

    def shadow(self, points: np.ndarray) -> np.ndarray:
        """Return how much light is blocked (N,), 0..1."""
        to_light = _unit(LIGHT_POSITION - points)
        rise = np.maximum(self.center[1] - points[:, 1], 0)[:, None]
        at_center_height = points + to_light * rise / np.maximum(to_light[:, 1:2], 1e-3)
        local = np.abs((at_center_height - self.center) @ self._rotation())[:, [0, 2]]
        outside = np.linalg.norm(np.maximum(local - self.half_size[[0, 2]], 0), axis=1)
        return _smoothstep(0.16, 0.0, outside)


@dataclass
class Scene:
    """Objects that stand in the room. Draw order does not matter: the nearest surface wins."""

    objects: list = field(default_factory=list)


class Renderer:
    """Draws scenes for one picture size. The empty room is kept while the camera does not move."""

    def __init__(self, height: int, width: int, supersampling: int = 2):
        self.height, self.width, self.supersampling = height, width, supersampling
        self._room_of_camera: tuple | None = None

    def render(self, scene: Scene, camera: Camera) -> np.ndarray:
        """Return the picture (height, width, 3) uint8 RGB."""
        origin, directions, distance, colour = self._room(camera)
        distance, colour = distance.copy(), colour.copy()
        for thing in scene.objects:
            self._darken_floor(thing, origin, directions, distance, colour)
        for thing in scene.objects:
            _draw(thing, origin, directions, distance, colour)
        samples = self.supersampling
        picture = colour.reshape(self.height, samples, self.width, samples, 3).mean(axis=(1, 3))
        return np.rint(np.clip(picture, 0, 1) ** (1 / 1.5) * 255).astype(np.uint8)

    def _room(self, camera: Camera) -> tuple:
        key = (tuple(camera.position), tuple(camera.target), camera.field_of_view_degrees)
        if self._room_of_camera is None or self._room_of_camera[0] != key:
            origin = np.asarray(camera.position, np.float32)
            samples = self.supersampling
            directions = camera.ray_directions(self.height * samples, self.width * samples)
            self._room_of_camera = (key, (origin, directions, *_cast_room(origin, directions)))
        return self._room_of_camera[1]

    def _darken_floor(self, thing, origin, directions, distance, colour) -> None:
        floor_distance = -origin[1] / np.minimum(directions[:, 1], -1e-4)
        floor = np.flatnonzero(np.abs(floor_distance - distance) < 1e-3)
        points = origin + directions[floor] * distance[floor, None]
        # Only the part of the floor that the shadow can reach is computed.
        reach = np.linalg.norm((points - thing.center)[:, [0, 2]], axis=1) < 3 * thing.bounding_radius() + 0.6
        floor, points = floor[reach], points[reach]
        away = np.linalg.norm((points - thing.center)[:, [0, 2]], axis=1)
        height_above_floor = thing.center[1] - thing.bounding_radius()
        contact = 0.35 * np.exp(-((away / (0.9 * thing.bounding_radius())) ** 2) - 4 * max(height_above_floor, 0))
        colour[floor] *= (1 - 0.62 * thing.shadow(points))[:, None] * (1 - contact)[:, None]


def _draw(thing, origin, directions, distance, colour) -> None:
    offset = thing.center - origin
    along = directions @ offset
    candidates = np.flatnonzero(offset @ offset - along**2 < thing.bounding_radius() ** 2 * 1.01)
    object_distance, normals = thing.intersect(origin, directions[candidates])
    visible = object_distance < distance[candidates]
    pixels, normals = candidates[visible], normals[visible]
    distance[pixels] = object_distance[visible]
    points = origin + directions[pixels] * distance[pixels, None]
    to_light = _unit(LIGHT_POSITION - points)
    diffuse = np.maximum(np.einsum("nk,nk->n", normals, to_light), 0)
    halfway = _unit(to_light - directions[pixels])
    highlight = 0.35 * np.maximum(np.einsum("nk,nk->n", normals, halfway), 0) ** 40
    # Light that comes back from the floor keeps the lower half from going black.
    bounce = 0.12 * np.maximum(-normals[:, 1], 0)
    shade = AMBIENT * (0.75 + 0.25 * normals[:, 1]) + 0.8 * diffuse + bounce
    colour[pixels] = thing.albedo(normals) * shade[:, None] + highlight[:, None]


def _cast_room(origin: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distance (N,) to and colour (N, 3) of the floor, ceiling and walls around the origin."""
    low = np.array([-ROOM_HALF_WIDTH, 0, -6], np.float32)
    high = np.array([ROOM_HALF_WIDTH, ROOM_HEIGHT, ROOM_DEPTH], np.float32)
    safe = np.where(np.abs(directions) < 1e-6, 1e-6, directions)
    per_axis = (np.where(safe > 0, high, low) - origin) / safe
    axis = per_axis.argmin(axis=1)
    distance = per_axis.min(axis=1).astype(np.float32)
    points = origin + directions * distance[:, None]
    upward = directions[:, 1] > 0
    colour = np.where((axis == 1)[:, None], np.where(upward[:, None], 0.85, _floor(points)), _wall(points, axis))
    normals = np.zeros_like(points)
    rows = np.arange(len(axis))
    normals[rows, axis] = -np.sign(safe[rows, axis])
    to_light = LIGHT_POSITION - points
    falloff = 1 / (1 + 0.055 * (to_light**2).sum(axis=1))
    diffuse = np.maximum(np.einsum("nk,nk->n", normals, _unit(to_light)), 0)
    edge = _distance_to_corner(points, axis, low, high)
    corner_shade = 1 - 0.35 * np.exp(-edge / 0.22)
    return distance, (colour * ((AMBIENT + 0.75 * diffuse) * (0.35 + falloff) * corner_shade)[:, None]).astype(
        np.float32
    )


def _floor(points: np.ndarray) -> np.ndarray:
    """Wooden planks that run away from the viewer, each with its own tone and a dark joint."""
    across = points[:, 0] / 0.42 + 100
    plank = np.floor(across)
    along = points[:, 2] / 1.7 + 0.37 * plank
    tone = 0.5 + 0.5 * np.sin(plank * 12.9898 + np.floor(along) * 78.233)
    grain = 0.03 * np.sin(28 * across + 3 * np.sin(2.5 * points[:, 2] + plank))
    joint = np.maximum(
        _smoothstep(0.06, 0.0, np.minimum(across - plank, plank + 1 - across)),
        _smoothstep(0.02, 0.0, np.minimum(along % 1, 1 - along % 1)),
    )
    wood = np.array([0.56, 0.37, 0.21], np.float32) + (tone * 0.16 - 0.05 + grain)[:, None] * np.array([1, 0.85, 0.6])
    return wood * (1 - 0.45 * joint)[:, None]


def _wall(points: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Painted walls with a skirting board; the far wall carries one framed picture."""
    side = (axis == 0)[:, None]
    wall = np.where(side, np.array([0.52, 0.62, 0.64]), np.array([0.66, 0.70, 0.66])).astype(np.float32)
    skirting = _smoothstep(0.17, 0.14, points[:, 1])[:, None]
    wall = wall * (1 - skirting) + 0.82 * skirting
    inside = np.maximum(np.abs(points[:, 0] - 0.75) / 0.62, np.abs(points[:, 1] - 1.55) / 0.42)
    far = axis == 2
    hills = 1.5 + 0.12 * np.sin(4.2 * points[:, 0])
    sky = np.where((points[:, 1] > hills)[:, None], np.array([0.62, 0.78, 0.90]), np.array([0.34, 0.52, 0.36]))
    wall = np.where((far & (inside < 1.0))[:, None], np.array([0.30, 0.22, 0.17]), wall)
    return np.where((far & (inside < 0.86))[:, None], sky, wall)


def _distance_to_corner(points, axis, low, high) -> np.ndarray:
    """Distance in metres from a wall point to the nearest edge of the room; the edges are drawn darker."""
    gap = np.minimum(np.abs(points - low), np.abs(points - high))
    gap[np.arange(len(axis)), axis] = np.inf
    return gap.min(axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _smoothstep(start: float, end: float, values: np.ndarray) -> np.ndarray:
    t = np.clip((values - start) / (end - start), 0, 1)
    return t * t * (3 - 2 * t)
