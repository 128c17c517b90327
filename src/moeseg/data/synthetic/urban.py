"""The town: house fronts, pavements, parked cars, crossings with signals, people.

A style holds what stays the same in a drive; `_block` fills 80 m of street from it. Not here: what
the single things look like.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from .furniture import BLUE, bin_or_box, board, delineator, lamp_post, sign, traffic_light
from .ground import Arrow, Band, Dashes, Patch, Profile, Zone
from .mesh import Mesh, join, moved
from .plants import bush, tree
from .road import Road
from .scene import BLOCK, Block, Scene
from .structures import building, wall
from .traffic import MAKERS, Lane

CURB = 0.28
"""Width of a kerbstone in metres."""
CROSSING = 0.5
"""Where a crossing lies in its block, as a share of the block's length."""


@dataclass(frozen=True, slots=True)
class _Style:
    """What stays the same along one drive; widths in metres, per side."""

    seed: int
    lanes: int
    lane: float
    parking: float
    verge: float
    walk: float
    setback: float
    storeys: int
    gables: float
    cobbles: bool
    autumn: bool
    parked: float

    @property
    def half(self) -> float:
        """From the middle of the road to the parking strip."""
        return self.lanes * self.lane

    @property
    def curb(self) -> float:
        """From the middle of the road to the kerb."""
        return self.half + self.parking

    @property
    def front(self) -> float:
        """From the middle of the road to the house fronts."""
        return self.curb + CURB + self.verge + self.walk + self.setback


def scene(seed: int) -> Scene:
    """Draw a drive through town."""
    rng = np.random.default_rng([seed, 1])
    lanes = int(rng.choice([1, 2], p=[0.55, 0.45]))
    style = _Style(
        seed=seed,
        lanes=lanes,
        lane=float(rng.uniform(3.0, 3.5)),
        parking=float(rng.choice([0.0, 2.2], p=[0.35, 0.65])),
        verge=float(rng.choice([0.0, 1.8], p=[0.5, 0.5])),
        walk=float(rng.uniform(2.2, 4.5)),
        setback=float(rng.choice([0.0, 4.0], p=[0.65, 0.35])),
        storeys=int(rng.integers(3, 6)),
        gables=float(rng.uniform(0.1, 0.8)),
        cobbles=bool(lanes == 1 and rng.random() < 0.3),
        autumn=bool(rng.random() < 0.3),
        parked=float(rng.uniform(0.35, 0.85)),
    )
    ego_lane = int(rng.integers(lanes))
    speed = float(rng.uniform(7.0, 11.0))
    road = Road(
        amplitudes=(float(rng.uniform(0.0, 0.07)),),
        wavelengths=(float(rng.uniform(250, 450)),),
        phases=(float(rng.uniform(0, 6.28)),),
    )
    return Scene(
        road,
        _profile(style, solid=bool(rng.random() < 0.3)),
        _lanes(rng, style, ego_lane, speed),
        (ego_lane + 0.5) * style.lane,
        speed,
        "town",
        partial(_block, style),
    )


def _profile(style: _Style, *, solid: bool) -> Profile:
    ground = Zone.COBBLES if style.cobbles else Zone.ASPHALT
    curb = style.curb
    parts: list[Band | Dashes] = [Band(-style.half, style.half, ground)]
    spans = (
        (style.half, curb, Zone.PARKING),
        (curb, curb + CURB, Zone.CURB),
        (curb + CURB, curb + CURB + style.verge, Zone.GRASS),
        (curb + CURB + style.verge, style.front - style.setback, Zone.SIDEWALK),
    )
    for start, end, zone in spans:
        parts += [Band(start, end, zone), Band(-end, -start, zone)]
    if not style.cobbles:
        parts.append(Band(-0.08, 0.08, Zone.SOLID) if solid else Dashes(0.0, 0.14, 3.0, 9.0))
        for lane in range(1, style.lanes):
            parts += [Dashes(s * lane * style.lane, 0.14, 3.0, 9.0) for s in (-1, 1)]
    return parts


def _lanes(
    rng: np.random.Generator, style: _Style, ego_lane: int, speed: float
) -> tuple[Lane, ...]:
    kinds = (("car", 0.78), ("van", 0.1), ("truck", 0.04), ("motorcycle", 0.08))
    lanes = []
    for lane in range(style.lanes):
        d = (lane + 0.5) * style.lane
        own = lane == ego_lane
        pace = speed + float(rng.uniform(0, 0.8)) if own else speed + float(rng.uniform(-3, 3))
        lanes.append(Lane(d, pace, float(rng.uniform(18, 34)), 0.5, kinds, own))
        lanes.append(Lane(-d, -float(rng.uniform(6, 12)), float(rng.uniform(18, 40)), 0.55, kinds))
    walk = style.curb + CURB + style.verge
    for side in (-1, 1):
        for share, pace in ((0.25, 1.3), (0.7, -1.4)):
            d = side * (walk + share * style.walk + 0.3)
            lanes.append(Lane(d, pace, float(rng.uniform(8, 20)), 0.6, (("pedestrian", 1.0),)))
    lanes.append(Lane(style.half - 0.45, 4.5, 24.0, 0.5, (("bicycle", 1.0),)))
    lanes.append(Lane(-style.half + 0.45, -4.5, 30.0, 0.5, (("bicycle", 1.0),)))
    return tuple(lanes)


def _block(style: _Style, k: int) -> Block:
    rng = np.random.default_rng([style.seed, 3, k + 4096])
    z0 = k * BLOCK
    crossing = bool(rng.random() < 0.62)
    half = float(rng.uniform(3.5, 6.0))
    middle = z0 + CROSSING * BLOCK
    parts: list[Mesh] = []
    spans = ((z0, middle - half), (middle + half, z0 + BLOCK)) if crossing else ((z0, z0 + BLOCK),)
    for start, end in spans:
        for side in (-1, 1):
            inset = 3.0 if crossing else 0.0
            parts += _fronts(style, rng, side, start, end)
            parts += _kerbside(style, rng, side, start + inset, end - inset)
    patches: list[Patch | Arrow] = []
    if crossing:
        patches = _crossing_ground(style, rng, middle, half)
        parts += _crossing_things(style, rng, middle, half)
    elif rng.random() < 0.35 and not style.cobbles:
        patches.append(Patch(middle, middle + 4.0, -style.half, style.half, Zone.ZEBRA))
        parts.append(moved(sign(rng), style.curb + 0.7, middle))
        if rng.random() < 0.5:
            for s in (middle - 4.5, middle + 4.3):
                patches.append(Patch(s - 0.2, s + 4.4, -0.95, 0.95, Zone.CURB))
                patches.append(Patch(s, s + 4.2, -0.75, 0.75, Zone.ISLAND))
                parts.append(moved(delineator(), 0.0, s + 1.0))
    return Block(join(parts), tuple(patches))


def _fronts(
    style: _Style, rng: np.random.Generator, side: int, start: float, end: float
) -> list[Mesh]:
    """Fill one side from `start` to `end` (s in metres) with houses and a few gaps of green."""
    parts: list[Mesh] = []
    z = start + 2.5
    while z < end - 7.0:
        width = min(float(rng.uniform(9.0, 19.0)), end - 2.0 - z)
        gap = rng.random() < 0.16
        if gap:
            for at in np.arange(z + 1.5, z + width, 3.5):
                plant = (tree if rng.random() < 0.6 else bush)(rng, autumn=style.autumn)
                x = style.front + float(rng.uniform(2.5, 8.0))
                parts.append(moved(plant, side * x, float(at)))
        else:
            storeys = max(2, style.storeys + int(rng.integers(-1, 2)))
            near, far = style.front, style.front + float(rng.uniform(9, 12))
            span = (min(side * near, side * far), max(side * near, side * far), z, z + width)
            gable = bool(rng.random() < style.gables)
            parts.append(building(rng, span, storeys, gable=gable))
        z += width + float(rng.choice([0.0, 0.0, 3.0]))
    if style.setback and end - start > 12:
        x = side * (style.front - style.setback + 0.3)
        green = rng.random() < 0.6
        colour = (0.2, 0.29, 0.12) if green else (0.6, 0.57, 0.52)
        label, panel = ("Nature object", (0.8, 0.0)) if green else ("Grid structure", (0.6, 1.2))
        parts.append(wall(x, start + 3, end - 3, 1.1, 0.4 * side, colour, label, panel))
    return parts


def _kerbside(
    style: _Style, rng: np.random.Generator, side: int, start: float, end: float
) -> list[Mesh]:
    """Park cars and set up lamps, trees, signs, bins and bicycles along one kerb."""
    parts: list[Mesh] = []
    if style.parking:
        for z in np.arange(start + 3.0, end - 3.0, 5.8):
            if rng.random() < style.parked:
                kind = "car" if rng.random() < 0.9 else "van"
                yaw = 0.0 if side > 0 else math.pi
                d = side * (style.half + 1.15)
                parts.append(moved(MAKERS[kind](rng), d, float(z), yaw))
    edge = style.curb + CURB + 0.45
    for z in np.arange(start + 4.0, end, 26.0):
        parts.append(moved(lamp_post(rng, -side * 1.8), side * edge, float(z)))
    if style.verge or rng.random() < 0.3:
        for z in np.arange(start + 9.0, end, 13.0):
            if rng.random() < 0.7:
                plant = tree(rng, autumn=style.autumn)
                parts.append(moved(plant, side * (edge + 0.4), float(z)))
    for z in rng.uniform(start, end, 3):
        d = side * (edge + 0.2)
        choice = rng.random()
        if choice < 0.3:
            parts.append(moved(sign(rng, backwards=side < 0), d, float(z)))
        elif choice < 0.6:
            parts.append(moved(bin_or_box(rng), d + side * (style.walk - 0.8), float(z)))
        else:
            yaw = float(rng.choice([0.2, 1.4]))
            bike = MAKERS["parked bicycle"](rng)
            parts.append(moved(bike, d + side * (style.walk - 1.2), float(z), yaw))
    return parts


def _crossing_ground(
    style: _Style, rng: np.random.Generator, middle: float, half: float
) -> list[Patch | Arrow]:
    """Lay out a side street of width 2 `half` over s = `middle`."""
    ground = Zone.COBBLES if style.cobbles else Zone.ASPHALT
    near, far = middle - half, middle + half
    sides = ((-90.0, -style.curb), (style.curb, 90.0))
    walks = [Patch(s, s + 2.5, *side, Zone.SIDEWALK) for s in (near - 2.5, far) for side in sides]
    patches: list[Patch | Arrow] = [*walks, Patch(near, far, -90.0, 90.0, ground)]
    patches += [Patch(s, s + CURB, *side, Zone.CURB) for s in (near - CURB, far) for side in sides]
    patches.append(Patch(near - 9.0, near, -style.half, style.half, ground))
    patches.append(Patch(far, far + 5.0, -style.half, style.half, ground))
    if not style.cobbles:
        patches.append(Patch(near - 6.2, near - 5.8, 0.1, style.half, Zone.SOLID))
    if rng.random() < 0.7:
        for s in (near - 5.0, far + 1.2):
            patches.append(Patch(s, s + 3.6, -style.half, style.half, Zone.ZEBRA))
    if not style.cobbles:
        for lane in range(style.lanes):
            turn = int(rng.integers(-1, 2)) if style.lanes == 1 else (-1, 1)[lane]
            turn = turn if rng.random() < 0.6 else 0
            for s in (near - 8.0, near - 20.0):
                patches.append(Arrow(s, (lane + 0.5) * style.lane, turn))
    return patches


def _crossing_things(
    style: _Style, rng: np.random.Generator, middle: float, half: float
) -> list[Mesh]:
    """Set up signals or signs, people who cross, and cars that wait in the side street."""
    near, far = middle - half, middle + half
    edge = style.curb + 0.8
    parts: list[Mesh] = []
    if rng.random() < 0.7:
        arm = -(style.parking + 0.8 + 0.5 * style.lane) if rng.random() < 0.6 else 0.0
        parts.append(moved(traffic_light(rng, arm), edge, near - 5.5))
        parts.append(moved(traffic_light(rng, 0.0), -edge, near - 5.5))
        parts.append(moved(traffic_light(rng, -arm), -edge, far + 5.5, math.pi))
        parts.append(moved(traffic_light(rng, 0.0), edge, far + 1.0))
    else:
        parts.append(moved(sign(rng), edge, near - 6.0))
    if rng.random() < 0.4:
        parts.append(moved(board(rng, width=1.8, colour=BLUE), edge + 1.0, far + 1.5))
    for s in (near - 3.2, far + 3.0):
        for d in rng.uniform(-style.curb, style.curb, int(rng.integers(0, 4))):
            yaw = float(rng.choice([-1, 1])) * math.pi / 2
            parts.append(moved(MAKERS["pedestrian"](rng), float(d), s, yaw))
    for side in (-1, 1):
        for queue in range(int(rng.integers(0, 3))):
            d = side * (style.curb + 4.5 + 6.5 * queue)
            lane = middle - side * half * 0.45
            parts.append(moved(MAKERS["car"](rng), d, lane, -side * math.pi / 2))
    if rng.random() < 0.35:
        rider = MAKERS["bicycle"](rng)
        parts.append(moved(rider, float(rng.uniform(-5, 5)), near + 1.0, math.pi / 2))
    return parts
