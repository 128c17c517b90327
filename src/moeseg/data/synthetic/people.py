"""Pedestrians, bicycles and motorcycles, around (0, 0, 0) on the ground, heading towards +z.

Dimensions are in metres. Not here: where they walk and ride (`traffic`).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from .mesh import Colour, Mesh, Sketch, rectangle

SKIN: tuple[Colour, ...] = ((0.78, 0.58, 0.46), (0.62, 0.44, 0.33), (0.4, 0.27, 0.2))
CLOTHES: tuple[Colour, ...] = (
    (0.13, 0.14, 0.18), (0.2, 0.25, 0.4), (0.5, 0.12, 0.12), (0.72, 0.7, 0.65), (0.25, 0.35, 0.25),
    (0.75, 0.6, 0.2), (0.35, 0.22, 0.16),
)  # fmt: skip
TROUSERS: tuple[Colour, ...] = ((0.12, 0.14, 0.22), (0.08, 0.08, 0.09), (0.35, 0.32, 0.27))
HAIR: Colour = (0.14, 0.1, 0.08)
HELMETS: tuple[Colour, ...] = (
    (0.85, 0.85, 0.85),
    (0.75, 0.12, 0.1),
    (0.1, 0.1, 0.12),
    (0.15, 0.35, 0.7),
)
STEEL: Colour = (0.16, 0.16, 0.17)


def _draw(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _limb(
    sketch: Sketch,
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    width: float,
    colour: Colour,
    label: str,
) -> None:
    """Add a square rod from `start` (lower) to `end` (upper)."""
    (x0, y0, z0), (x1, y1, z1), r = start, end, width / 2
    sketch.frustum(
        (x0 - r, x0 + r, z0 - r, z0 + r),
        (x1 - r, x1 + r, z1 - r, z1 + r),
        (y0, y1),
        colour,
        label,
        sides="rear front left right",
    )


def _upper_body(
    sketch: Sketch,
    rng: np.random.Generator,
    hip: float,
    tall: float,
    lean: float,
    label: str,
    hair: Colour = HAIR,
) -> None:
    """Add torso, arms, neck and head over a hip at height `hip`; `lean` moves the shoulders."""
    coat, skin = _draw(rng, CLOTHES), _draw(rng, SKIN)
    shoulder = tall - 0.32
    arm = (coat[0] * 0.85, coat[1] * 0.85, coat[2] * 0.85)
    for side in (-1, 1):
        swing = float(rng.uniform(-0.12, 0.12)) + lean * 1.3
        hand = (side * 0.27, hip + 0.02, swing)
        _limb(sketch, hand, (side * 0.23, shoulder - 0.02, lean), 0.11, arm, label)
    sketch.frustum(
        (-0.16, 0.16, -0.11, 0.11),
        (-0.22, 0.22, lean - 0.12, lean + 0.12),
        (hip - 0.08, shoulder),
        coat,
        label,
    )
    _limb(sketch, (0.0, shoulder, lean), (0.0, tall - 0.2, lean), 0.12, skin, label)
    turn = np.arange(10) * (2 * math.pi / 10)
    for axis in (0, 2):
        ring = np.zeros((10, 3)) + np.array([0.0, tall - 0.12, lean])
        ring[:, axis] += 0.105 * np.cos(turn)
        ring[:, 1] += 0.135 * np.sin(turn)
        sketch.face(ring, skin, label, two_sided=True)
        top = ring[np.sin(turn) > -0.4]
        sketch.face(top + np.array([0.0, 0.015, -0.01]), hair, label, two_sided=True)


def pedestrian(rng: np.random.Generator) -> Mesh:
    """Build a walking person."""
    tall = float(rng.uniform(1.58, 1.9))
    hip, stride = tall * 0.5, float(rng.uniform(0.05, 0.3))
    cloth = _draw(rng, TROUSERS)
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-0.22, 0.22, -0.25, 0.25), 0.0, tall)
    for side, step in ((-1, stride), (1, -stride)):
        foot = (side * 0.11, 0.0, step)
        sketch.frustum(
            (foot[0] - 0.06, foot[0] + 0.06, step - 0.1, step + 0.16),
            (foot[0] - 0.05, foot[0] + 0.05, step - 0.1, step + 0.06),
            (0.0, 0.1),
            HAIR,
            "Pedestrian",
        )
        _limb(sketch, foot, (side * 0.08, hip, 0.0), 0.15, cloth, "Pedestrian")
    _upper_body(sketch, rng, hip, tall, 0.02, "Pedestrian")
    return sketch.mesh()


def _wheel(sketch: Sketch, z: float, radius: float, rim: float, label: str) -> None:
    """Add a wheel in the y-z plane as a ring of quads, with a tread seen from behind."""
    turn = np.linspace(0.0, 2 * math.pi, 13)
    for a, b in pairwise(turn):
        ring = [
            (0.0, radius + r * math.sin(t), z + r * math.cos(t))
            for r, t in ((radius, a), (radius, b), (radius - rim, b), (radius - rim, a))
        ]
        sketch.face(ring, STEEL, label, two_sided=True)
    half = rim / 2
    sketch.face(
        [(-half, 0.0, z), (half, 0.0, z), (half, 2 * radius, z), (-half, 2 * radius, z)],
        STEEL,
        label,
        two_sided=True,
    )


def bicycle(rng: np.random.Generator, *, ridden: bool = True) -> Mesh:
    """Build a bicycle; A2D2 labels the rider with it."""
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-0.2, 0.2, -0.85, 0.85), 0.0, 1.6 if ridden else 0.9)
    for z in (-0.52, 0.52):
        sketch.group((0.0, 0.0, z * 1.2))
        _wheel(sketch, z, 0.34, 0.07, "Bicycle")
    sketch.group((0.0, 0.0, 0.0))
    paint = _draw(rng, CLOTHES)
    for start, end in (
        ((0.0, 0.34, -0.52), (0.0, 0.82, -0.22)),
        ((0.0, 0.3, 0.0), (0.0, 0.9, -0.2)),
        ((0.0, 0.3, 0.0), (0.0, 0.78, 0.36)),
        ((0.0, 0.34, 0.52), (0.0, 1.0, 0.34)),
        ((0.0, 0.72, -0.2), (0.0, 0.8, 0.36)),
    ):
        _limb(sketch, start, end, 0.06, paint, "Bicycle")
    sketch.frustum(
        (-0.28, 0.28, 0.3, 0.36), (-0.28, 0.28, 0.3, 0.36), (0.98, 1.03), STEEL, "Bicycle"
    )
    sketch.frustum(
        (-0.09, 0.09, -0.34, -0.06), (-0.09, 0.09, -0.36, -0.04), (0.88, 0.95), STEEL, "Bicycle"
    )
    if ridden:
        cloth = _draw(rng, TROUSERS)
        for side, knee in ((-1, 0.6), (1, 0.42)):
            _limb(sketch, (side * 0.13, knee - 0.4, 0.02), (side * 0.2, knee, 0.16), 0.12, cloth,
                  "Bicycle")  # fmt: skip
            _limb(sketch, (side * 0.2, knee, 0.16), (side * 0.1, 0.98, -0.18), 0.16, cloth,
                  "Bicycle")  # fmt: skip
        _upper_body(sketch, rng, 1.0, 1.72, 0.16, "Bicycle", hair=_draw(rng, HELMETS))
    return sketch.mesh()


def motorcycle(rng: np.random.Generator) -> Mesh:
    """Build a ridden motorcycle or scooter ("Small vehicles")."""
    label = "Small vehicles"
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-0.35, 0.35, -1.0, 1.0), 0.0, 1.5)
    for z in (-0.68, 0.7):
        sketch.group((0.0, 0.0, z * 1.2))
        _wheel(sketch, z, 0.31, 0.16, label)
    sketch.group((0.0, 0.0, 0.0))
    body = sketch.frustum(
        (-0.16, 0.16, -0.7, 0.45), (-0.2, 0.2, -0.95, 0.5), (0.35, 0.85), _draw(rng, CLOTHES), label
    )
    sketch.decal(body["rear"], (0.2, 0.8, 0.5, 0.9), (0.75, 0.06, 0.05), label, glow=0.3)
    sketch.frustum((-0.36, 0.36, 0.4, 0.48), (-0.36, 0.36, 0.4, 0.48), (0.95, 1.05), STEEL, label)
    cloth = _draw(rng, TROUSERS)
    for side in (-1, 1):
        _limb(sketch, (side * 0.24, 0.3, 0.1), (side * 0.14, 0.86, -0.2), 0.18, cloth, label)
    _upper_body(sketch, rng, 0.85, 1.6, 0.12, label, hair=_draw(rng, HELMETS))
    return sketch.mesh()
