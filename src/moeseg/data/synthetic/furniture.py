"""Street furniture: lamps, signals, signs, gantries, posts, bins. Front faces look back (-z).

Dimensions are in metres, built around (0, 0, 0) on the ground. "Traffic signal" and "Traffic sign"
are what a driver can read; their backs and lamp heads are "Signal corpus" and "Irrelevant signs".
"""

from __future__ import annotations

import math

import numpy as np

from .camera import Array
from .mesh import Colour, Material, Mesh, Sketch, rectangle

GALVANISED: Colour = (0.48, 0.5, 0.51)
HOUSING: Colour = (0.06, 0.07, 0.07)
WHITE: Colour = (0.9, 0.9, 0.88)
RED: Colour = (0.72, 0.07, 0.08)
BLUE: Colour = (0.06, 0.2, 0.55)
YELLOW: Colour = (0.9, 0.7, 0.08)
GREY: Colour = (0.42, 0.43, 0.44)
LAMPS: tuple[tuple[Colour, Colour], ...] = (
    ((0.25, 0.03, 0.03), (1.0, 0.12, 0.08)),
    ((0.25, 0.17, 0.03), (1.0, 0.7, 0.1)),
    ((0.03, 0.2, 0.1), (0.15, 1.0, 0.55)),
)
"""Red, amber, green: dark and lit."""


def pole(sketch: Sketch, x: float, z: float, height: float, width: float) -> None:
    """Add an upright pole."""
    half = width / 2
    box = (x - half, x + half, z - half, z + half)
    sketch.frustum(box, box, (0.0, height), GALVANISED, "Poles", sides="rear front left right")


def _plate(centre: tuple[float, float, float], outline: Array, *, back: bool = False) -> Array:
    """Place an outline (N, 2) of x, y, anticlockwise from the front, as an upright polygon."""
    points = np.zeros((len(outline), 3)) + np.array(centre)
    points[:, :2] += outline
    return np.flip(points, axis=0) if back else points


def _regular(corners: int, radius: float, start: float) -> Array:
    turn = start + np.arange(corners) * (2 * math.pi / corners)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _quad(width: float, height: float) -> Array:
    x, y = width / 2, height / 2
    return np.array([(-x, -y), (x, -y), (x, y), (-x, y)])


def lamp_post(rng: np.random.Generator, reach: float) -> Mesh:
    """Build a street lamp whose arm reaches `reach` metres in x (negative: to the left)."""
    height = float(rng.uniform(6.5, 9.0))
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-0.08, 0.08, -0.08, 0.08), 0.0, height)
    pole(sketch, 0.0, 0.0, height, 0.17)
    x0, x1 = sorted((0.0, reach))
    arm, tip = (x0, x1, -0.05, 0.05), (reach - 0.35, reach + 0.35, -0.15, 0.15)
    sketch.frustum(arm, arm, (height - 0.1, height), GALVANISED, "Poles", sides="rear left right")
    sketch.frustum(tip, tip, (height - 0.16, height + 0.06), GREY, "Signal corpus",
                   sides="rear left right bottom")  # fmt: skip
    return sketch.mesh()


def _signal_head(sketch: Sketch, x: float, y: float, lit: int) -> None:
    """Add a three-lamp head around (x, y)."""
    box = (x - 0.18, x + 0.18, -0.28, -0.08)
    sides = sketch.frustum(
        box, box, (y - 0.5, y + 0.5), HOUSING, "Signal corpus", sides="front left right"
    )
    del sides
    sketch.face(_plate((x, y, -0.29), _quad(0.36, 1.0)), HOUSING, "Traffic signal")
    for lamp, (dark, bright) in enumerate(LAMPS):
        colour = bright if lamp == lit else dark
        centre = (x, y + 0.31 - 0.31 * lamp, -0.3)
        sketch.face(
            _plate(centre, _regular(10, 0.13, 0.1)),
            colour,
            "Traffic signal",
            glow=1.0 if lamp == lit else 0.0,
        )


def traffic_light(rng: np.random.Generator, reach: float) -> Mesh:
    """Build a signal pole; a mast arm of `reach` metres (signed) holds a second head."""
    lit = int(rng.choice([0, 2], p=[0.5, 0.5]))
    tall = 5.6 if reach else 3.4
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-0.1, 0.1, -0.1, 0.1), 0.0, tall)
    pole(sketch, 0.0, 0.0, tall, 0.18)
    _signal_head(sketch, 0.0, 2.7, lit)
    if reach:
        x0, x1 = sorted((0.0, reach))
        arm = (x0, x1, -0.07, 0.07)
        sketch.frustum(arm, arm, (tall - 0.15, tall), GALVANISED, "Poles",
                       sides="rear left right bottom")  # fmt: skip
        _signal_head(sketch, reach, tall - 0.2, lit)
    return sketch.mesh()


def sign(rng: np.random.Generator, *, backwards: bool = False) -> Mesh:
    """Build a traffic sign on a pole; `backwards` shows its grey back."""
    height = float(rng.uniform(2.2, 2.7))
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    pole(sketch, 0.0, 0.0, height + 0.3, 0.08)
    kind = int(rng.integers(5))
    outlines = (
        (_regular(14, 0.38, 0.1), RED, _regular(14, 0.28, 0.1), WHITE),  # speed limit
        (
            _regular(3, 0.52, -math.pi / 6 + math.pi * 2 / 3),
            RED,
            _regular(3, 0.33, math.pi / 2),
            WHITE,
        ),
        (_regular(4, 0.45, 0.0), WHITE, _regular(4, 0.36, 0.0), YELLOW),  # priority road
        (_quad(0.62, 0.62), BLUE, _quad(0.3, 0.4), WHITE),
        (_regular(14, 0.38, 0.1), BLUE, _quad(0.12, 0.45), WHITE),
    )
    outline, rim, inner, fill = outlines[kind]
    if backwards:
        sketch.face(_plate((0.0, height, -0.06), outline), GREY, "Irrelevant signs")
        return sketch.mesh()
    sketch.face(_plate((0.0, height, 0.06), outline, back=True), GREY, "Irrelevant signs")
    sketch.face(_plate((0.0, height, -0.06), outline), rim, "Traffic sign")
    sketch.face(_plate((0.0, height, -0.07), inner), fill, "Traffic sign")
    return sketch.mesh()


def board(rng: np.random.Generator, *, width: float, colour: Colour) -> Mesh:
    """Build a direction board on two posts."""
    height = width * float(rng.uniform(0.45, 0.7))
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-width / 2, width / 2, -0.1, 0.1), 1.6, 1.6 + height)
    for x in (-width * 0.3, width * 0.3):
        pole(sketch, x, 0.05, 1.6 + height, 0.12)
    centre = (0.0, 1.6 + height / 2, -0.05)
    sketch.face(
        _plate(centre, _quad(width, height)), colour, "Traffic sign", Material.SIGN, (width, height)
    )
    return sketch.mesh()


def gantry(rng: np.random.Generator, left: float, right: float) -> Mesh:
    """Build a sign bridge with posts at x = `left` and `right`."""
    sketch = Sketch()
    sketch.thing(((left + right) / 2, 5.0, 0.0))
    sketch.caster(rectangle(left, right, -0.3, 0.3), 5.2, 8.0)
    for x in (left, right):
        pole(sketch, x, 0.3, 8.2, 0.4)
    for y in (6.6, 7.6):
        beam = (left, right, 0.15, 0.45)
        sketch.frustum(beam, beam, (y, y + 0.22), GALVANISED, "Poles", sides="rear bottom")
    for x in np.arange(left, right, 1.6):
        brace = [(x, 6.6, 0.14), (x + 0.15, 6.6, 0.14), (x + 1.55, 7.7, 0.14), (x + 1.4, 7.7, 0.14)]
        sketch.face(brace, GALVANISED, "Poles")
    electronic = bool(rng.random() < 0.35)
    panels = int(rng.integers(2, 4))
    width = (right - left) / panels * 0.78
    for index in range(panels):
        x = left + (index + 0.5) * (right - left) / panels
        if electronic:
            sketch.face(_plate((x, 6.9, -0.1), _quad(1.9, 1.9)), HOUSING, "Electronic traffic")
            ring = _plate((x, 6.9, -0.12), _regular(14, 0.75, 0.1))
            sketch.face(ring, (0.9, 0.15, 0.1), "Electronic traffic", glow=0.9)
            inner = _plate((x, 6.9, -0.14), _regular(14, 0.58, 0.1))
            sketch.face(inner, HOUSING, "Electronic traffic")
            digit = _plate((x, 6.9, -0.16), _quad(0.5, 0.5))
            sketch.face(digit, WHITE, "Electronic traffic", glow=0.9)
        else:
            tall = min(width * float(rng.uniform(0.55, 0.85)), 3.2)
            face = _plate((x, 7.1, -0.1), _quad(width, tall))
            sketch.face(face, BLUE, "Traffic sign", Material.SIGN, (width, tall))
    return sketch.mesh()


def delineator() -> Mesh:
    """Build a white roadside post with its black band and reflector."""
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    foot = (-0.06, 0.06, -0.05, 0.05)
    sides = sketch.frustum(foot, foot, (0.0, 1.0), WHITE, "Traffic guide obj.",
                           sides="rear front left right")  # fmt: skip
    sketch.decal(sides["rear"], (0.0, 1.0, 0.65, 0.9), HOUSING, "Traffic guide obj.")
    return sketch.mesh()


def bin_or_box(rng: np.random.Generator) -> Mesh:
    """Build a waste bin or a carton left on the pavement ("Obstacles / trash")."""
    height, half = float(rng.uniform(0.5, 1.1)), float(rng.uniform(0.25, 0.4))
    colours: tuple[Colour, ...] = ((0.15, 0.3, 0.18), (0.2, 0.2, 0.22), (0.5, 0.38, 0.24), BLUE)
    box = (-half, half, -half, half)
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(*box), 0.0, height)
    body = sketch.frustum(
        box, box, (0.0, height), colours[int(rng.integers(4))], "Obstacles / trash"
    )
    sketch.decal(body["rear"], (0.0, 1.0, 0.82, 0.9), HOUSING, "Obstacles / trash")
    return sketch.mesh()
