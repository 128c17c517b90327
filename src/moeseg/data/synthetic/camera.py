"""The pinhole camera over the ground plane: projection, its inverse, and clipping.

Points live in the *level frame*: x right, y up from the ground, z forward, in metres, origin on the
ground below the lens. Pixels are (u, v), the first pixel's centre at (0.5, 0.5). Not here:
where the camera stands in the world (`road`), what it sees (`scene`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

NEAR = 0.4
"""Distance of the near plane from the lens in metres."""


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera without roll, looking forward.

    Attributes:
        size: (H, W) of the picture in pixels.
        focal: focal length in pixels, the same in u and v.
        height: of the lens over the ground in metres.
        pitch: in radians, positive looks up.
    """

    size: tuple[int, int]
    focal: float
    height: float
    pitch: float

    def scaled(self, factor: int) -> Camera:
        """Return the same view with `factor` times as many pixels a side."""
        size = (self.size[0] * factor, self.size[1] * factor)
        return replace(self, size=size, focal=self.focal * factor)

    @property
    def horizon(self) -> float:
        """Row (v, may be fractional) at which the ground plane vanishes."""
        return self.size[0] / 2 + self.focal * math.tan(self.pitch)

    def to_lens(self, points: Array) -> Array:
        """Turn level points (N, 3) into the lens frame: x right, y up, z along the optical axis."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        y = points[:, 1] - self.height
        z = points[:, 2]
        return np.stack([points[:, 0], cos * y - sin * z, sin * y + cos * z], axis=1)

    def pixels(self, lens_points: Array) -> Array:
        """Project points of the lens frame (N, 3) with z > 0 to pixels (N, 2)."""
        scale = self.focal / lens_points[:, 2]
        u = self.size[1] / 2 + lens_points[:, 0] * scale
        v = self.size[0] / 2 - lens_points[:, 1] * scale
        return np.stack([u, v], axis=1)

    def project(self, points: Array) -> Array:
        """Project level points (N, 3) in front of the lens to pixels (N, 2)."""
        return self.pixels(self.to_lens(points))

    def slopes(self, u: Array, v: Array) -> tuple[Array, Array, Array]:
        """Return the ray through pixels (u, v) as level x, y, z per metre of optical depth."""
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        down = (v - self.size[0] / 2) / self.focal
        return (u - self.size[1] / 2) / self.focal, sin - cos * down, cos + sin * down

    def ground(self, u: Array, v: Array) -> tuple[Array, Array]:
        """Return level (x, z) in metres where the rays through pixels below the horizon land."""
        x, y, z = self.slopes(u, v)
        depth = self.height / -y
        return x * depth, z * depth


def clip_near(polygon: Array) -> Array:
    """Cut away what lies before the near plane.

    Args:
        polygon: (N, 3) corners in the lens frame.

    Returns:
        (M, 3) corners, all with z >= `NEAR`; M may be 0.
    """
    kept: list[Array] = []
    for here, there in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        inside = here[2] >= NEAR
        if inside:
            kept.append(here)
        if inside != (there[2] >= NEAR):
            share = (NEAR - here[2]) / (there[2] - here[2])
            crossing = here + share * (there - here)
            crossing[2] = NEAR
            kept.append(crossing)
    return np.array(kept) if kept else np.empty((0, 3))
