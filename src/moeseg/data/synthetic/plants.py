"""Trees, bushes and hedges as flat, ragged silhouettes that face back along the road (-z).

Dimensions are in metres. Trunks belong to "Nature object", as in A2D2. Not here: the leaf texture
(`materials`).
"""

from __future__ import annotations

import math

import numpy as np

from .mesh import Colour, Material, Mesh, Sketch, rectangle

NATURE = "Nature object"
BARK: Colour = (0.23, 0.18, 0.13)
SUMMER: tuple[Colour, ...] = ((0.33, 0.46, 0.17), (0.4, 0.52, 0.21), (0.28, 0.4, 0.18))
AUTUMN: tuple[Colour, ...] = (
    (0.68, 0.42, 0.14), (0.58, 0.5, 0.18), (0.6, 0.3, 0.13), (0.4, 0.43, 0.17),
)  # fmt: skip
CONIFER: Colour = (0.16, 0.26, 0.15)


def _shade(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _blob(
    sketch: Sketch,
    rng: np.random.Generator,
    centre: tuple[float, float, float],
    radii: tuple[float, float],
    colour: Colour,
) -> None:
    """Add a ragged ellipse with radii (x, y)."""
    corners = 28
    turn = np.arange(corners) * (2 * math.pi / corners)
    rough = rng.uniform(0.78, 1.12, corners)
    ring = np.zeros((corners, 3)) + np.array(centre)
    ring[:, 0] += radii[0] * rough * np.cos(turn)
    ring[:, 1] += radii[1] * rough * np.sin(turn)
    ring[:, 1] = np.maximum(ring[:, 1], 0.0)
    sketch.face(ring, colour, NATURE, Material.FOLIAGE, (max(radii), 0.0), two_sided=True)


def _trunk(sketch: Sketch, width: float, height: float) -> None:
    half = width / 2
    sketch.frustum(
        (-half, half, -half, half),
        (-half * 0.6, half * 0.6, -half * 0.6, half * 0.6),
        (0.0, height),
        BARK,
        NATURE,
        sides="rear front left right",
    )


def tree(rng: np.random.Generator, *, autumn: bool, slim: bool = False) -> Mesh:
    """Build a broad-leaved tree, or a poplar if `slim`."""
    palette = AUTUMN if autumn else SUMMER
    leaf = palette[int(rng.integers(len(palette)))]
    height = float(rng.uniform(9.0, 15.0) if slim else rng.uniform(5.5, 10.0))
    wide = float(height * (rng.uniform(0.1, 0.14) if slim else rng.uniform(0.24, 0.33)))
    tall = height * (0.44 if slim else 0.34)
    middle = height - tall
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(
        rectangle(-wide * 0.7, wide * 0.7, -wide * 0.7, wide * 0.7), middle - tall, height
    )
    _trunk(sketch, height * 0.035, middle)
    _blob(sketch, rng, (0.0, middle, 0.05), (wide, tall), _shade(leaf, 0.62))
    for part in range(3 if slim else 5):
        x = 0.0 if slim else float(rng.uniform(-0.55, 0.55)) * wide
        share = (part + 0.5) / (3 if slim else 5) * 2 - 1  # from the crown's foot to its top
        size = float(rng.uniform(0.42, 0.6))
        at = (x, middle + share * tall * 0.55, -0.02 * part)
        _blob(sketch, rng, at, (wide * size, tall * size * 0.8), _shade(leaf, 0.85 + 0.25 * share))
    return sketch.mesh()


def conifer(rng: np.random.Generator) -> Mesh:
    """Build a spruce: two ragged, pointed silhouettes, one behind the other."""
    height = float(rng.uniform(9.0, 17.0))
    wide = height * float(rng.uniform(0.14, 0.2))
    colour = _shade(CONIFER, float(rng.uniform(0.8, 1.35)))
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-wide * 0.5, wide * 0.5, -wide * 0.5, wide * 0.5), 0.0, height)
    for scale, shade in ((1.0, 0.7), (0.72, 1.15)):
        tiers = 6
        right = []
        for tier in range(tiers):
            y = 0.6 + (height - 0.6) * tier / tiers
            reach = wide * scale * (1 - tier / tiers) * float(rng.uniform(0.85, 1.15))
            right += [(reach, y), (reach * 0.55, y + 0.9 * (height - 0.6) / tiers)]
        left = [(-x, y) for x, y in reversed(right)]
        outline = [*right, (0.0, height), *left]
        points = [(x, y, 0.02 - 0.03 * scale) for x, y in outline]
        sketch.face(
            points, _shade(colour, shade), NATURE, Material.FOLIAGE, (wide, 0.0), two_sided=True
        )
    return sketch.mesh()


def bush(rng: np.random.Generator, *, autumn: bool) -> Mesh:
    """Build a bush of two or three blobs."""
    palette = AUTUMN if autumn else SUMMER
    leaf = palette[int(rng.integers(len(palette)))]
    height = float(rng.uniform(0.9, 2.6))
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 0.0))
    sketch.caster(rectangle(-height * 0.6, height * 0.6, -0.5, 0.5), 0.0, height * 0.8)
    for share in (0.7, 1.0):
        x = float(rng.uniform(-0.3, 0.3)) * height
        _blob(
            sketch,
            rng,
            (x, height * 0.4 * share, -0.02 * share),
            (height * (1.1 - 0.4 * share), height * (0.75 - 0.2 * share)),
            _shade(leaf, share),
        )
    return sketch.mesh()
