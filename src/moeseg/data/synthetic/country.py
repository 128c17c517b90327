"""The ambiguous roads: edge of town and country road, with fields, trees and a few houses.

A style holds what stays the same in a drive; `_block` fills 80 m of road from it. Not here: what
the single things look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from .furniture import YELLOW, board, delineator, lamp_post, sign
from .ground import Arrow, Band, Dashes, Patch, Profile, Zone
from .mesh import Mesh, join, moved
from .plants import bush, conifer, tree
from .road import Road
from .scene import BLOCK, Block, Scene
from .structures import GRASS, bank, building, guard_rail, wall
from .traffic import Lane


@dataclass(frozen=True, slots=True)
class _Style:
    """What stays the same along one drive; widths in metres."""

    seed: int
    lane: float
    houses: float
    walk: bool
    edge_lines: bool
    avenue: float
    autumn: bool
    conifers: float

    @property
    def edge(self) -> float:
        """From the middle of the road to the end of the asphalt."""
        return self.lane + (0.35 if self.edge_lines else 0.0)


def scene(seed: int) -> Scene:
    """Draw a drive over land or along the edge of a town."""
    rng = np.random.default_rng([seed, 1])
    houses = float(rng.choice([0.05, 0.35, 0.65]))
    style = _Style(
        seed=seed,
        lane=float(rng.uniform(2.9, 3.5)),
        houses=houses,
        walk=bool(houses > 0.3 and rng.random() < 0.8),
        edge_lines=bool(rng.random() < 0.6),
        avenue=float(rng.choice([0.0, 0.6])),
        autumn=bool(rng.random() < 0.35),
        conifers=float(rng.uniform(0.0, 0.5)),
    )
    speed = float(rng.uniform(11, 20))
    road = Road(
        amplitudes=(float(rng.uniform(0.05, 0.25)), float(rng.uniform(0.0, 0.08))),
        wavelengths=(float(rng.uniform(400, 700)), float(rng.uniform(200, 320))),
        phases=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
    )
    kinds = (("car", 0.74), ("van", 0.1), ("truck", 0.12), ("motorcycle", 0.04))
    lanes = [
        Lane(style.lane / 2, speed + 0.6, float(rng.uniform(40, 80)), 0.45, kinds, ego=True),
        Lane(-style.lane / 2, -float(rng.uniform(12, 20)), float(rng.uniform(35, 70)), 0.6, kinds),
        Lane(style.lane - 0.4, 5.0, 90.0, 0.4, (("bicycle", 1.0),)),
    ]
    if style.walk:
        walkers = (("pedestrian", 0.85), ("bicycle", 0.15))
        lanes.append(Lane(style.edge + 1.4, 1.2, 30.0, 0.5, walkers))
    return Scene(
        road, _profile(style), tuple(lanes), style.lane / 2, speed, "hills", partial(_block, style)
    )


def _profile(style: _Style) -> Profile:
    edge = style.edge
    parts: list[Band | Dashes] = [
        Band(-400.0, -16.0, Zone.FIELD),
        Band(18.0, 400.0, Zone.FIELD),
        Band(-edge, edge, Zone.ASPHALT),
        Dashes(0.0, 0.13, 4.0, 12.0),
    ]
    if style.edge_lines:
        at = style.lane
        parts += [Band(at, at + 0.14, Zone.SOLID), Band(-at - 0.14, -at, Zone.SOLID)]
    if style.walk:
        parts += [Band(edge, edge + 0.25, Zone.CURB), Band(edge + 0.25, edge + 2.4, Zone.SIDEWALK)]
    return parts


def _block(style: _Style, k: int) -> Block:
    rng = np.random.default_rng([style.seed, 3, k + 4096])
    z0, z1 = k * BLOCK, (k + 1) * BLOCK
    parts: list[Mesh] = []
    patches: list[Patch | Arrow] = []
    for side in (-1, 1):
        for start in (z0, z0 + BLOCK / 2):
            if rng.random() < style.houses:
                parts += _plot(style, rng, side, start)
                if rng.random() < 0.5:
                    low, high = sorted((side * (style.edge + 0.2), side * (style.edge + 8.0)))
                    zone = Zone.PARKING if rng.random() < 0.7 else Zone.COBBLES
                    patches.append(Patch(start + 30, start + 36, low, high, zone))
            else:
                parts += _green(style, rng, side, start)
    post = style.edge + (2.9 if style.walk else 0.9)
    if not style.walk:
        parts += [moved(delineator(), d, z) for d in (-post, post) for z in (z0 + 15, z0 + 55)]
    if rng.random() < 0.5:
        parts.append(moved(sign(rng), post + 0.3, z0 + float(rng.uniform(0, 70))))
    if rng.random() < 0.3:
        parts.append(moved(sign(rng, backwards=True), -post - 0.3, z0 + float(rng.uniform(0, 70))))
    if rng.random() < 0.09:
        parts.append(moved(board(rng, width=1.9, colour=YELLOW), post + 1.2, z0 + 42))
    if style.houses > 0.3:
        parts.append(moved(lamp_post(rng, -1.5), post + 0.2, z0 + 20))
    if rng.random() < 0.15:
        parts.append(guard_rail(post + 0.2, z0, z1))
    return Block(join(parts), tuple(patches))


def _plot(style: _Style, rng: np.random.Generator, side: int, start: float) -> list[Mesh]:
    """Build a house with its garden on half a block."""
    near = style.edge + float(rng.uniform(7, 12))
    far = near + float(rng.uniform(8, 11))
    z = start + float(rng.uniform(6, 12))
    span = (
        min(side * near, side * far),
        max(side * near, side * far),
        z,
        z + float(rng.uniform(9, 15)),
    )
    parts = [building(rng, span, int(rng.integers(1, 4)), gable=bool(rng.random() < 0.85))]
    x = side * (style.edge + 3.6)
    if rng.random() < 0.7:
        green = rng.random() < 0.5
        colour = (0.19, 0.27, 0.11) if green else (0.45, 0.35, 0.25)
        label = "Nature object" if green else "Grid structure"
        height = 1.5 if green else 1.1
        panel = (0.7, 0.0) if green else (0.4, 1.1)
        parts.append(wall(x, start + 2, start + 28, height, 0.5 * side, colour, label, panel))
    for at in rng.uniform(start, start + 36, 3):
        plant = (tree if rng.random() < 0.6 else bush)(rng, autumn=style.autumn)
        parts.append(moved(plant, side * float(rng.uniform(near - 2, far + 6)), float(at)))
    return parts


def _green(style: _Style, rng: np.random.Generator, side: int, start: float) -> list[Mesh]:
    """Grow an avenue, a wood's edge, a slope or single bushes on half a block."""
    parts: list[Mesh] = []
    if style.avenue:
        for z in np.arange(start + 5, start + 40, 13.0):
            parts.append(moved(tree(rng, autumn=style.autumn), side * (style.edge + 4.5), float(z)))
    kind = rng.random()
    if kind < 0.3:
        for z in rng.uniform(start, start + 40, 16):
            wood = conifer(rng) if rng.random() < style.conifers else tree(rng, autumn=style.autumn)
            parts.append(moved(wood, side * float(rng.uniform(12, 24)), float(z)))
    elif kind < 0.5:
        foot = style.edge + 5.0
        heights = (0.2, 0.2 + float(rng.uniform(0, 1.0)))
        parts.append(bank(side * foot, side * (foot + 7), start, start + 40, heights, GRASS))
    for z in rng.uniform(start, start + 40, 4):
        plant = bush(rng, autumn=style.autumn)
        parts.append(moved(plant, side * float(rng.uniform(8, 30)), float(z)))
    return parts
