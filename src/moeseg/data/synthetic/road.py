"""The road's course and the mapping between road coordinates and what a camera sees.

Road coordinates: s metres along the road, d metres to the right of its reference line. Scenery is
built straight (x = d, z = s) and bent here into the level frame of a camera. Not here: lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .camera import Array

BEHIND = 60.0
"""Metres of road known behind the camera."""
AHEAD = 520.0
"""Metres of road known ahead; beyond it the road runs straight on."""
STEP = 2.0
"""Metres between the points of the tabulated centre line."""


@dataclass(frozen=True, slots=True)
class Road:
    """A road whose heading is a sum of sine waves of s.

    Attributes:
        amplitudes: in radians; their sum stays under 0.6 so that no view turns by a right angle.
        wavelengths: in metres.
        phases: in radians.
    """

    amplitudes: tuple[float, ...]
    wavelengths: tuple[float, ...]
    phases: tuple[float, ...]

    def heading(self, s: Array) -> Array:
        """Return the heading in radians at s (any shape); positive is to the right."""
        waves = zip(self.amplitudes, self.wavelengths, self.phases, strict=True)
        total = np.zeros_like(s)
        for amplitude, wavelength, phase in waves:
            total = total + amplitude * np.sin(2 * np.pi * s / wavelength + phase)
        return total

    def view(self, s: float, d: float, yaw: float = 0.0) -> RoadView:
        """Look along the road from (s, d), turned by `yaw` radians off its heading."""
        here = float(self.heading(np.array(s))) + yaw
        ahead = np.arange(0.0, AHEAD + STEP, STEP)
        along = np.concatenate([-ahead[1 : int(BEHIND / STEP) + 1][::-1], ahead]) + s
        heading = self.heading(along) - here
        middle = self.heading(along[:-1] + STEP / 2) - here  # midpoint rule
        x = np.concatenate([[0.0], np.cumsum(np.sin(middle) * STEP)])
        z = np.concatenate([[0.0], np.cumsum(np.cos(middle) * STEP)])
        start = int(BEHIND / STEP)
        x = x - x[start] - d * np.cos(heading[start])
        z = z - z[start] + d * np.sin(heading[start])
        return RoadView(along, x, z, heading, here)


@dataclass(frozen=True, slots=True)
class RoadView:
    """The centre line as one camera sees it, in its level frame.

    Attributes:
        s: (N,) metres along the road, rising.
        x: (N,) metres to the right of the camera.
        z: (N,) metres ahead of it, rising.
        heading: (N,) radians against the camera's.
        bearing: the camera's own heading in radians.
    """

    s: Array
    x: Array
    z: Array
    heading: Array
    bearing: float

    def bend(self, points: Array) -> Array:
        """Map straight scenery (..., 3) with x = d, y, z = s into the level frame."""
        s, d = points[..., 2], points[..., 0]
        beyond = s - np.clip(s, self.s[0], self.s[-1])
        heading = np.interp(s, self.s, self.heading)
        sin, cos = np.sin(heading), np.cos(heading)
        x = np.interp(s, self.s, self.x) + d * cos + beyond * sin
        z = np.interp(s, self.s, self.z) - d * sin + beyond * cos
        return np.stack([x, points[..., 1], z], axis=-1)

    def locate(self, x: Array, z: Array) -> tuple[Array, Array]:
        """Map ground points to (s, d); z is (H, 1), constant in a row, and x is (H, W).

        First order in the heading: exact on a straight road, some centimetres off in a bend.
        """
        heading = np.interp(z, self.z, self.heading)
        offset = x - np.interp(z, self.z, self.x)
        s = np.interp(z, self.z, self.s) + np.maximum(z - self.z[-1], 0.0)
        return s + offset * np.sin(heading), offset * np.cos(heading)
