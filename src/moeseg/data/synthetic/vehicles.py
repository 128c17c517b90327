"""Cars, vans and trucks, built around (0, 0, 0) on the ground with the front towards +z.

Dimensions are in metres. Not here: where they drive (`traffic`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .camera import Array
from .mesh import Colour, Material, Mesh, Sketch, rectangle

RUBBER: Colour = (0.05, 0.05, 0.055)
HUB: Colour = (0.55, 0.56, 0.58)
GLASS: Colour = (0.13, 0.16, 0.19)
TRIM: Colour = (0.09, 0.09, 0.1)
TAIL_LAMP: Colour = (0.72, 0.06, 0.05)
HEAD_LAMP: Colour = (0.93, 0.93, 0.86)
PLATE: Colour = (0.88, 0.88, 0.84)

PAINTS: tuple[Colour, ...] = (
    (0.12, 0.12, 0.14), (0.12, 0.12, 0.14), (0.8, 0.81, 0.82), (0.8, 0.81, 0.82), (0.5, 0.52, 0.54),
    (0.5, 0.52, 0.54), (0.3, 0.32, 0.35), (0.1, 0.16, 0.36), (0.5, 0.07, 0.08), (0.16, 0.3, 0.5),
    (0.34, 0.28, 0.2), (0.13, 0.26, 0.2),
)  # fmt: skip
LOAD_PAINTS: tuple[Colour, ...] = (
    (0.85, 0.85, 0.83), (0.85, 0.85, 0.83), (0.12, 0.3, 0.55), (0.62, 0.13, 0.12),
    (0.75, 0.6, 0.15), (0.2, 0.42, 0.3), (0.45, 0.47, 0.5),
)  # fmt: skip


class _Cabin(NamedTuple):
    """Side view of a car: sizes in m, cabin corners as shares of the length from its middle."""

    length: float
    width: float
    height: float
    rear_base: float
    rear_top: float
    front_top: float
    front_base: float


_CARS = (
    _Cabin(4.1, 1.76, 1.48, -0.485, -0.38, 0.07, 0.25),  # hatchback
    _Cabin(4.7, 1.82, 1.44, -0.36, -0.19, 0.05, 0.23),  # saloon
    _Cabin(4.7, 1.82, 1.47, -0.49, -0.42, 0.06, 0.24),  # estate
    _Cabin(4.6, 1.88, 1.68, -0.485, -0.41, 0.09, 0.25),  # sports utility vehicle
)


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _axle(sketch: Sketch, label: str, z: float, half: float, radius: float, tyre: float) -> None:
    """Add the two wheels at `z`: discs with hubs, and the treads as seen from behind or ahead."""
    for side in (-1, 1):
        inner, outer = sorted((side * (half - tyre), side * half))
        sketch.frustum(
            (inner, outer, z - radius * 0.75, z + radius * 0.75),
            (inner, outer, z - radius, z + radius),
            (0.0, radius),
            RUBBER,
            label,
            sides="rear front",
        )
        sketch.disc((side * (half + 0.01), radius, z), radius, side, RUBBER, label)
        sketch.disc((side * (half + 0.02), radius, z), radius * 0.58, side, HUB, label)


def car(rng: np.random.Generator) -> Mesh:
    """Build one of four kinds of passenger cars."""
    shape = _CARS[int(rng.integers(len(_CARS)))]
    paint = _pick(rng, PAINTS)
    length, half = shape.length, shape.width / 2
    waist, belt, nose = 0.56, 0.62 * shape.height, 0.52 * shape.height
    back, front = -length / 2, length / 2
    sketch = Sketch()
    sketch.thing((0.0, 0.5, 0.0))
    sketch.caster(rectangle(-half, half, back, front), 0.0, shape.height * 0.9)
    lower = sketch.frustum(
        (-half + 0.05, half - 0.05, back + 0.06, front - 0.06),
        (-half, half, back, front),
        (0.3, waist),
        paint,
        "Car",
        sides="rear front left right",
    )
    upper = sketch.frustum(
        (-half, half, back, front),
        (-half + 0.06, half - 0.06, back + 0.08, front - 0.12),
        (waist, belt, nose),
        paint,
        "Car",
    )
    for z in (-0.3 * length, 0.3 * length):
        _axle(sketch, "Car", z, half - 0.01, 0.32, 0.2)
    cabin = sketch.frustum(
        (-half + 0.08, half - 0.08, shape.rear_base * length, shape.front_base * length),
        (-half + 0.25, half - 0.25, shape.rear_top * length, shape.front_top * length),
        (belt - 0.05, shape.height),
        paint,
        "Car",
    )
    for side in ("rear", "front"):
        sketch.decal(cabin[side], (0.07, 0.93, 0.15, 0.88), GLASS, "Car", Material.GLASS)
        sketch.decal(lower[side], (0.04, 0.96, 0.0, 0.35), TRIM, "Car")
    for side in ("left", "right"):
        for span in ((0.1, 0.48, 0.15, 0.88), (0.53, 0.9, 0.15, 0.88)):
            sketch.decal(cabin[side], span, GLASS, "Car", Material.GLASS)
    for u in (0.02, 0.78):
        sketch.decal(upper["rear"], (u, u + 0.2, 0.2, 0.85), TAIL_LAMP, "Car", glow=0.25)
        sketch.decal(upper["front"], (u, u + 0.2, 0.15, 0.7), HEAD_LAMP, "Car", glow=0.5)
    sketch.decal(upper["front"], (0.28, 0.72, 0.0, 0.6), TRIM, "Car")
    sketch.decal(lower["rear"], (0.36, 0.64, 0.5, 0.9), PLATE, "Car")
    sketch.decal(lower["front"], (0.37, 0.63, 0.2, 0.6), PLATE, "Car")
    return sketch.mesh()


def van(rng: np.random.Generator) -> Mesh:
    """Build a delivery van; A2D2 counts it among the trucks."""
    paint = _pick(rng, LOAD_PAINTS)
    half, back, front, roof = 1.0, -2.9, 2.9, 2.5
    sketch = Sketch()
    sketch.thing((0.0, 0.5, 0.0))
    sketch.caster(rectangle(-half, half, back, front), 0.0, roof)
    lower = sketch.frustum(
        (-half, half, back, front), (-half, half, back, front), (0.3, 1.15), paint, "Truck"
    )
    for z in (-1.8, 1.9):
        _axle(sketch, "Truck", z, half - 0.01, 0.36, 0.22)
    upper = sketch.frustum(
        (-half, half, back, front - 0.6),
        (-half + 0.12, half - 0.12, back + 0.05, front - 1.6),
        (1.15, roof),
        paint,
        "Truck",
    )
    sketch.decal(upper["front"], (0.06, 0.94, 0.08, 0.7), GLASS, "Truck", Material.GLASS)
    for span in ((0.08, 0.48, 0.3, 0.8), (0.52, 0.92, 0.3, 0.8)):
        sketch.decal(upper["rear"], span, GLASS, "Truck", Material.GLASS)
    sketch.decal(upper["left"], (0.02, 0.2, 0.15, 0.7), GLASS, "Truck", Material.GLASS)
    sketch.decal(upper["right"], (0.8, 0.98, 0.15, 0.7), GLASS, "Truck", Material.GLASS)
    for u in (0.01, 0.9):
        sketch.decal(lower["rear"], (u, u + 0.09, 0.35, 0.95), TAIL_LAMP, "Truck", glow=0.25)
        sketch.decal(lower["front"], (u, u + 0.09, 0.45, 0.85), HEAD_LAMP, "Truck", glow=0.5)
    sketch.decal(lower["front"], (0.2, 0.8, 0.35, 0.8), TRIM, "Truck")
    for side in ("rear", "front"):
        sketch.decal(lower[side], (0.0, 1.0, 0.0, 0.18), TRIM, "Truck")
    return sketch.mesh()


def truck(rng: np.random.Generator) -> Mesh:
    """Build a truck: box on the frame, or a tractor unit with a 13 m trailer."""
    articulated = bool(rng.random() < 0.65)
    length = 13.0 if articulated else 7.0
    half, floor, roof = 1.27, 1.15, float(rng.uniform(3.6, 4.0))
    back, front = -length / 2 - 1.2, length / 2 - 1.2
    load = _pick(rng, LOAD_PAINTS)
    tarpaulin = bool(rng.random() < 0.6)
    sketch = Sketch()
    sketch.thing((0.0, 1.0, front + 1.6))
    sketch.caster(rectangle(-half, half, back, front + 2.5), 0.0, roof)
    _cab(sketch, _pick(rng, (*PAINTS, *LOAD_PAINTS)), half - 0.03, front + 0.35)

    sketch.group((0.0, 1.0, (back + front) / 2))
    frame = sketch.frustum(
        (-half + 0.15, half - 0.15, back + 0.1, front),
        (-half + 0.15, half - 0.15, back + 0.1, front),
        (0.5, floor),
        TRIM,
        "Truck",
        sides="rear left right",
    )
    for z in (back + 1.8, back + 3.1, back + 4.4) if articulated else (back + 1.8,):
        _axle(sketch, "Truck", z, half - 0.02, 0.5, 0.55)
    box = sketch.frustum(
        (-half, half, back, front),
        (-half, half, back, front),
        (floor, roof),
        load,
        "Truck",
        Material.PLEATED if tarpaulin else Material.PLAIN,
        (0.6, 1.0),
        sides="left right front",
    )
    box["rear"] = sketch.frustum(
        (-half, half, back, front), (-half, half, back, front), (floor, roof), load, "Truck",
        sides="rear",
    )["rear"]  # fmt: skip
    _doors(sketch, box["rear"], frame["rear"], load)
    return sketch.mesh()


def _doors(sketch: Sketch, box: Array, frame: Array, load: Colour) -> None:
    """Draw a truck's rear: door gap, frame, bolts, lamps and number plate."""
    dark = (load[0] * 0.55, load[1] * 0.55, load[2] * 0.55)
    spans = (
        (0.0, 0.03, 0.0, 1.0), (0.97, 1.0, 0.0, 1.0), (0.0, 1.0, 0.96, 1.0), (0.0, 1.0, 0.0, 0.03),
        (0.49, 0.51, 0.0, 1.0), (0.3, 0.32, 0.05, 0.95), (0.68, 0.7, 0.05, 0.95),
    )  # fmt: skip
    for span in spans:
        sketch.decal(box, span, dark, "Truck")
    for u in (0.0, 0.82):
        sketch.decal(frame, (u, u + 0.18, 0.5, 0.85), TAIL_LAMP, "Truck", glow=0.25)
    sketch.decal(frame, (0.38, 0.62, 0.45, 0.75), PLATE, "Truck")


def _cab(sketch: Sketch, paint: Colour, half: float, back: float) -> None:
    """Add a cab-over-engine cab whose rear wall stands at z = `back`."""
    front = back + 2.15
    _axle(sketch, "Truck", front - 1.3, half, 0.5, 0.35)
    lower = sketch.frustum(
        (-half, half, back, front), (-half, half, back, front), (0.4, 1.5), paint, "Truck"
    )
    upper = sketch.frustum(
        (-half, half, back, front),
        (-half + 0.1, half - 0.1, back, front - 0.35),
        (1.5, 3.3),
        paint,
        "Truck",
    )
    sketch.decal(upper["front"], (0.05, 0.95, 0.1, 0.65), GLASS, "Truck", Material.GLASS)
    sketch.decal(upper["left"], (0.1, 0.5, 0.1, 0.6), GLASS, "Truck", Material.GLASS)
    sketch.decal(upper["right"], (0.5, 0.9, 0.1, 0.6), GLASS, "Truck", Material.GLASS)
    sketch.decal(lower["front"], (0.15, 0.85, 0.3, 0.9), TRIM, "Truck")
    sketch.decal(lower["front"], (0.0, 1.0, 0.0, 0.22), TRIM, "Truck")
    for u in (0.02, 0.83):
        sketch.decal(lower["front"], (u, u + 0.15, 0.05, 0.2), HEAD_LAMP, "Truck", glow=0.6)
