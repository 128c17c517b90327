"""Things that run along or across the road: buildings, bridges, rails, walls, banks.

Built straight in road coordinates (x = d, z = s, metres); `road.RoadView.bend` curves them. Long
things come in pieces, each a group of its own, so that painting from far to near is right.
"""

from __future__ import annotations

import numpy as np

from .mesh import Colour, Material, Mesh, Sketch, rectangle

CONCRETE: Colour = (0.52, 0.51, 0.48)
STEEL_RAIL: Colour = (0.55, 0.57, 0.58)
GRASS: Colour = (0.38, 0.45, 0.2)
WALLS: tuple[Colour, ...] = (
    (0.78, 0.72, 0.58), (0.8, 0.79, 0.74), (0.7, 0.5, 0.4), (0.62, 0.6, 0.56), (0.75, 0.62, 0.42),
    (0.55, 0.33, 0.26), (0.66, 0.68, 0.7), (0.83, 0.8, 0.66),
)  # fmt: skip
ROOFS: tuple[Colour, ...] = (
    (0.5, 0.22, 0.15),
    (0.42, 0.2, 0.15),
    (0.24, 0.22, 0.23),
    (0.36, 0.26, 0.2),
)
STOREY = 3.1
"""Height of a storey in metres."""


def building(
    rng: np.random.Generator, span: tuple[float, float, float, float], storeys: int, *, gable: bool
) -> Mesh:
    """Build a house on x0, x1, z0, z1 with windows on all walls, flat or with a ridge roof."""
    x0, x1, z0, z1 = span
    eaves = storeys * STOREY + 0.5
    wall = WALLS[int(rng.integers(len(WALLS)))]
    near = x0 if abs(x0) < abs(x1) else x1
    sketch = Sketch()
    sketch.thing((near, 0.0, z1))
    sketch.caster(rectangle(*span), 0.0, eaves + (1.5 if gable else 0.0))
    for sides, width in (("rear front", x1 - x0), ("left right", z1 - z0)):
        period = width / max(1, round(width / float(rng.uniform(2.3, 3.2))))
        sketch.frustum(
            span,
            span,
            (0.0, eaves),
            wall,
            "Buildings",
            Material.FACADE,
            (period, STOREY),
            sides=sides,
        )
    if not gable:
        trim = (wall[0] * 0.6, wall[1] * 0.6, wall[2] * 0.6)
        edge = (x0 - 0.2, x1 + 0.2, z0 - 0.2, z1 + 0.2)
        sketch.frustum(edge, edge, (eaves, eaves + 0.35), trim, "Buildings",
                       sides="rear front left right bottom")  # fmt: skip
        return sketch.mesh()
    ridge = eaves + (x1 - x0) * float(rng.uniform(0.3, 0.45))
    roof = ROOFS[int(rng.integers(len(ROOFS)))]
    middle = (x0 + x1) / 2
    for z in (z1, z0):
        ends = [(x0, eaves, z), (x1, eaves, z), (middle, ridge, z)]
        sketch.face(ends if z == z0 else ends[::-1], wall, "Buildings")
    a, b = z0 - 0.3, z1 + 0.3
    left, right, low = x0 - 0.4, x1 + 0.4, eaves - 0.25
    slopes = (
        [(left, low, b), (left, low, a), (middle, ridge, a), (middle, ridge, b)],
        [(right, low, a), (right, low, b), (middle, ridge, b), (middle, ridge, a)],
    )
    for slope in slopes:
        sketch.face(slope, roof, "Buildings", Material.ROOF, two_sided=True)
    return sketch.mesh()


def bridge(rng: np.random.Generator, z: float, piers: tuple[float, ...], reach: float) -> Mesh:
    """Build a bridge over the road at s = z, from x = -`reach` to `reach`, on piers at x."""
    low, deck, depth = float(rng.uniform(5.0, 5.6)), float(rng.uniform(1.1, 1.6)), 10.0
    grey = float(rng.uniform(0.8, 1.15))
    colour = (CONCRETE[0] * grey, CONCRETE[1] * grey, CONCRETE[2] * grey)
    sketch = Sketch()
    sketch.thing((0.0, 0.0, z + depth / 2))
    sketch.caster(rectangle(-reach, reach, z, z + depth), low, low + deck)
    for x in piers:
        sketch.group((x, 0.0, z + depth / 2))
        box = (x - 0.5, x + 0.5, z + 1, z + depth - 1)
        sketch.frustum(box, box, (0.0, low), colour, "Buildings", sides="rear front left right")
    for x in np.arange(-reach, reach, 10.0):
        sketch.group((x + 5.0, 0.0, z + 0.5))
        box = (x, x + 10.0, z, z + depth)
        part = sketch.frustum(box, box, (low, low + deck), colour, "Buildings", Material.PANELS,
                              (10.0, 4.0), sides="rear front bottom")  # fmt: skip
        sketch.decal(part["rear"], (0.0, 1.0, 0.85, 1.0), CONCRETE, "Buildings")
        top = low + deck
        rail = [(x, top, z), (x + 10, top, z), (x + 10, top + 1.0, z), (x, top + 1.0, z)]
        sketch.face(rail, STEEL_RAIL, "Grid structure", Material.PANELS, (0.5, 1.0), two_sided=True)
    return sketch.mesh()


def guard_rail(x: float, z0: float, z1: float) -> Mesh:
    """Build a steel guard rail at d = x."""
    sketch = Sketch()
    sketch.thing((x, 0.0, z0))
    for z in np.arange(z0, z1, 4.0):
        sketch.group((x, 0.0, z + 2.0))
        post = (x - 0.06, x + 0.06, z, z + 0.1)
        sketch.frustum(post, post, (0.0, 0.7), STEEL_RAIL, "Sidebars", sides="rear left right")
        band = [(x, 0.42, z + 4), (x, 0.42, z), (x, 0.76, z), (x, 0.76, z + 4)]
        sketch.face(band, STEEL_RAIL, "Sidebars", Material.RAIL, two_sided=True)
    return sketch.mesh()


def wall(
    x: float,
    z0: float,
    z1: float,
    height: float,
    thickness: float,
    colour: Colour,
    label: str,
    panel: tuple[float, float],
) -> Mesh:
    """Build a wall, fence, hedge or barrier along d = x..x + `thickness`, panels (w, h) metres."""
    material = Material.FOLIAGE if label == "Nature object" else Material.PANELS
    sketch = Sketch()
    sketch.thing((x, 0.0, z0))
    step = min(8.0, z1 - z0)
    for z in np.arange(z0, z1 - 0.5, step):
        sketch.group((x, 0.0, z + step / 2))
        end = min(z + step, z1)
        box = (x, x + thickness, z, end)
        sketch.caster(rectangle(*box), 0.0, height)
        sketch.frustum(box, box, (0.0, height), colour, label, material, panel)
    return sketch.mesh()


def bank(
    foot: float, top: float, z0: float, z1: float, height: tuple[float, float], colour: Colour
) -> Mesh:
    """Build a grass slope from d = `foot` up to d = `top`; heights at z0 and z1 in metres."""
    sketch = Sketch()
    sketch.thing((top, 0.0, z0))
    pieces = np.linspace(z0, z1, 9)
    rise = np.linspace(height[0], height[1], 9)
    for a, b, ya, yb in zip(pieces[:-1], pieces[1:], rise[:-1], rise[1:], strict=True):
        sketch.group((top, 0.0, b))
        quad = [(foot, 0.0, b), (foot, 0.0, a), (top, ya, a), (top, yb, b)]
        sketch.face(quad, colour, "Nature object", Material.FOLIAGE, (0.5, 0.0), two_sided=True)
    return sketch.mesh()
